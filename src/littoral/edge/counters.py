"""A device's counters, as `Device.status` gives them and as they go over the wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from littoral.edge.follow import is_near
from littoral.edge.outbox import Counters
from littoral.wire.messages import Receipt, Status

if TYPE_CHECKING:
    from littoral.core.product import ProductSelector
    from littoral.edge.exits import ExitRuntime
    from littoral.edge.maintenance import Maintenance
    from littoral.edge.offload import Offloading
    from littoral.edge.route import Routing
    from littoral.edge.teacher_labels import TeacherLabels


class DeviceStatus(NamedTuple):
    """The device's counters. ``accepted = acked + queued + dropped`` holds for samples, receipts and scenes."""

    version: int
    cloud: str
    link_error: str | None
    storage_error: str | None
    frames: int
    selected: int
    accepted: int
    acked: int
    queued: int
    dropped: int
    """Dropped by the outbox, or before it because the background thread could not keep up."""
    measured_frames: int = 0
    """Frames that the statistics graph ran on; it or the fingerprint graph ran on as many with the source's values."""
    looked_frames: int = 0
    """Frames that the statistics graph ran on with the source's values, to see how near the source the world is."""
    near_source: bool = False
    """The world is so near that the source's values serve."""
    statistics_resets: int = 0
    swaps: int = 0
    versions_installed: int = 0
    versions_rejected: int = 0
    versions_reverted: int = 0
    last_refusal: str = ""
    """Which version was rejected or taken back last, and why; "" where none was in this run."""
    scene: int = 0
    """The number of the world that the device is in; 0 before the first statistics."""
    recalls: int = 0
    """Remembered versions that were put into service again."""
    sample_bytes: int = 0
    """Of the samples chosen within the byte budget, on the wire, whether sent yet or not."""
    budget_bytes: int = 0
    """What the byte budget has at the moment; below 0 after a scene opened."""
    duplicates: int = 0
    """Frames not chosen because they look like one that was."""
    over_budget: int = 0
    """Frames not chosen for want of budget alone."""
    bytes_up: int = 0
    bytes_down: int = 0
    offloaded: int = 0
    """Frames that the cloud answered in time."""
    degraded: int = 0
    """Frames that the device answered although the cloud was to."""
    frames_by_exit: tuple[int, ...] = ()
    """Frames that each exit answered, the earliest first, then those of the network's classifier; () without exits."""
    exit_audits: int = 0
    """Frames that chance took through the whole network while frames could leave early."""
    exit_state: str = ""
    """``checking`` while no frame leaves early, ``serving``; "" without exits."""
    personal_heads: int = 0
    """Exits whose personal head serves."""
    rechecks: int = 0
    """How often it was found out anew whether frames may leave early."""
    exit_alarms: int = 0
    """How often the watched risk was above what was promised."""
    finished: int = 0
    """Of a router, as the next ones: frames that the device answered after the whole network."""
    hedged: int = 0
    """Frames with which the device went on while the cloud was asked."""
    labels: int = 0
    """Answers of the cloud that came as labels only: late, or asked for behind an answer."""
    audits: int = 0
    """Frames answered here that chance had the cloud asked for too."""
    pings: int = 0
    """Frames answered here for which the cloud was asked to see how the link is."""
    payload_bytes: int = 0
    """Of all requests to the cloud."""
    refits: int = 0
    """How often the switcher was fitted anew, in all runs."""
    sample_labels: int = 0
    """Of a device with exits: answers of the teacher to uploaded samples that the heads learn from."""
    sample_labels_unused: int = 0
    """Those that taught no head: to a sample that is not known or not any more, to one answered before, or of a frame
    on which the user's or the cloud's word was heard already."""
    sample_labels_refused: int = 0
    """Messages of such answers that were none, or too many at a time; nothing of them counted."""
    pictures: int = 0
    """Of the frames that the cloud answered those that it answered from a picture."""


class Outcomes(Counter[str]):
    """How many versions became what in this run."""

    last_refusal = ""
    """Which version was rejected or taken back last, and why."""

    def note(self, receipt: Receipt) -> None:
        """Count a version, and keep why it does not serve."""
        self[receipt.outcome] += 1
        if receipt.outcome in ("rejected", "reverted"):
            why = ": ".join(filter(None, (receipt.code, receipt.reason)))
            self.last_refusal = f"version {receipt.version} {receipt.outcome}: {why}"

    def note_start(self, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """Keep what the start gave as reasons; the cloud is told nothing of versions that are taken back there."""
        for version, why in after.items():
            if before.get(version) != why:
                self.last_refusal = f"version {version} taken back: {why}"


@dataclass
class RouteCounters:
    """Frames and requests so far.

    Attributes:
        finished: Frames that the device answered after the whole network.
        offloaded: Frames that the cloud answered in time.
        pictures: Of these, those that it answered from a picture.
        degraded: Frames for which the cloud would have been asked and could not be, or did not answer in time, and
            those that had no time for the right answer.
        hedged: Frames with which the device went on while the cloud was asked.
        audits, pings: Requests behind an answer.
        answered: Requests that the cloud answered, in time or as a label.
    """

    finished: int = 0
    offloaded: int = 0
    pictures: int = 0
    degraded: int = 0
    hedged: int = 0
    audits: int = 0
    pings: int = 0
    answered: int = 0

    @property
    def labels(self) -> int:
        """Answers of the cloud that came as labels only."""
        return self.answered - self.offloaded


def wire_status(status: DeviceStatus, exits: ExitRuntime | None) -> Status:
    """What of it the cloud is told."""
    return Status(
        version=status.version,
        frames=status.frames,
        selected=status.selected,
        queued=status.queued,
        dropped=status.dropped,
        statistics_resets=status.statistics_resets,
        offloaded=status.offloaded,
        degraded=status.degraded,
        early=exits.early if exits is not None else 0,
        exit_state=status.exit_state,
        finished=status.finished,
        hedged=status.hedged,
        labels=status.labels,
        asked=status.audits + status.pings,
        payload_bytes=status.payload_bytes,
        pictures=status.pictures,
        near_source=status.near_source,
    )


def read_counters(
    maintenance: Maintenance, *, frames: int, selected: int, overflowed: int, offloading: Offloading | None
) -> DeviceStatus:
    """All of them, as of now.

    Args:
        selected, overflowed: Frames chosen as published, and those of them that found no room.
        offloading: Of a device that has the cloud asked for every frame.
    """
    link, outbox, follower, routing = maintenance.link, maintenance.outbox, maintenance.follower, maintenance.routing
    counters = outbox.counters if outbox else Counters(accepted=0, acked=0, queued=0, dropped=0)
    status = DeviceStatus(
        version=maintenance.model.version,
        cloud=maintenance.cloud,
        link_error=link.last_error if link else None,
        storage_error=outbox.last_error if outbox else None,
        frames=frames,
        selected=selected,
        accepted=counters.accepted + overflowed,
        acked=counters.acked,
        queued=counters.queued,
        dropped=counters.dropped + overflowed,
        swaps=maintenance.swaps,
        versions_installed=maintenance.outcomes["installed"],
        versions_rejected=maintenance.outcomes["rejected"],
        versions_reverted=maintenance.outcomes["reverted"],
        last_refusal=maintenance.outcomes.last_refusal,
        scene=maintenance.scenes.number,
        recalls=maintenance.outcomes["recalled"],
    )
    if link is not None:
        status = status._replace(bytes_up=link.bytes_up, bytes_down=link.bytes_down)
    if follower is not None:
        status = status._replace(
            measured_frames=follower.measured_frames,
            looked_frames=follower.looked_frames,
            near_source=is_near(follower),
            statistics_resets=follower.resets,
        )
    if maintenance.chooser is not None:
        status = _with_selector(status, maintenance.chooser.selector)
    if maintenance.exits is not None:
        status = _with_exits(status, maintenance.exits)
    if maintenance.labels is not None:
        status = _with_labels(status, maintenance.labels)
    if (asks := offloading if routing is None else routing.counters) is not None:
        status = status._replace(offloaded=asks.offloaded, degraded=asks.degraded, pictures=asks.pictures)
    return status if routing is None else _with_routing(status, routing)


def _with_selector(status: DeviceStatus, selector: ProductSelector) -> DeviceStatus:
    return status._replace(
        selected=selector.num_kept,
        sample_bytes=selector.budget.spent_bytes,
        budget_bytes=int(selector.budget.level_bytes),
        duplicates=selector.num_duplicates,
        over_budget=selector.num_over_budget,
    )


def _with_exits(status: DeviceStatus, exits: ExitRuntime) -> DeviceStatus:
    return status._replace(
        frames_by_exit=tuple(exits.frames_by_exit),
        exit_audits=exits.control.num_audits,
        exit_state=exits.state,
        personal_heads=exits.num_personal,
        rechecks=exits.control.num_rechecks,
        exit_alarms=exits.control.num_alarms,
    )


def _with_labels(status: DeviceStatus, labels: TeacherLabels) -> DeviceStatus:
    return status._replace(
        sample_labels=labels.num_taught,
        sample_labels_unused=labels.num_unused,
        sample_labels_refused=labels.num_refused + labels.num_flooded,
    )


def _with_routing(status: DeviceStatus, routing: Routing) -> DeviceStatus:
    counters = routing.counters
    return status._replace(
        finished=counters.finished,
        hedged=counters.hedged,
        labels=counters.labels,
        audits=counters.audits,
        pings=counters.pings,
        payload_bytes=routing.requests.payload_bytes,
        refits=routing.learning.num_refits,
    )
