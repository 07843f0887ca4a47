"""A device's counters, as `Device.status` gives them and as they go over the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from littoral.edge.follow import is_near
from littoral.edge.outbox import Counters
from littoral.wire.messages import Status

if TYPE_CHECKING:
    from littoral.edge.exits import ExitRuntime
    from littoral.edge.maintenance import Maintenance
    from littoral.edge.offload import Offloading


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
    measured_frames: int
    """Frames that the statistics graph ran on; it or the fingerprint graph ran on as many with the source's values."""
    looked_frames: int
    """Frames that the statistics graph ran on with the source's values, to see how near the source the world is."""
    near_source: bool
    """The world is so near that the source's values serve."""
    statistics_resets: int
    swaps: int
    versions_installed: int
    versions_rejected: int
    versions_reverted: int
    scene: int
    """The number of the world that the device is in; 0 before the first statistics."""
    recalls: int
    """Remembered versions that were put into service again."""
    sample_bytes: int
    """Of the samples chosen within the byte budget, on the wire, whether sent yet or not."""
    budget_bytes: int
    """What the byte budget has at the moment; below 0 after a scene opened."""
    duplicates: int
    """Frames not chosen because they look like one that was."""
    over_budget: int
    """Frames not chosen for want of budget alone."""
    bytes_up: int
    bytes_down: int
    offloaded: int
    """Frames that the cloud answered in time."""
    degraded: int
    """Frames that the device answered although the cloud was to."""
    frames_by_exit: list[int]
    """Frames that each exit answered, the earliest first, then those of the network's classifier; [] without exits."""
    shadow_runs: int
    """Frames that chance took through the whole network while frames could leave early."""
    exit_state: str
    """``checking`` while no frame leaves early, ``serving``; "" without exits."""
    personal_heads: int
    """Exits whose personal head serves."""
    rechecks: int
    """How often it was found out anew whether frames may leave early."""
    exit_alarms: int
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
    m: Maintenance, *, frames: int, selected: int, overflowed: int, offloading: Offloading | None
) -> DeviceStatus:
    """All of them, as of now.

    Args:
        selected, overflowed: Frames chosen as published, and those of them that found no room.
        offloading: Of a device that has the cloud asked for every frame.
    """
    outbox, link, exits, routing, labels = m.outbox, m.link, m.exits, m.routing, m.labels
    routed = None if routing is None else routing.counters
    asks = offloading if routed is None else routed
    chooser = m.chooser
    selector = None if chooser is None else chooser.selector
    counters = outbox.counters if outbox else Counters(accepted=0, acked=0, queued=0, dropped=0)
    return DeviceStatus(
        version=m.model.version,
        cloud=m.cloud,
        link_error=link.last_error if link else None,
        storage_error=outbox.last_error if outbox else None,
        frames=frames,
        selected=selected if selector is None else selector.num_kept,
        accepted=counters.accepted + overflowed,
        acked=counters.acked,
        queued=counters.queued,
        dropped=counters.dropped + overflowed,
        measured_frames=m.follower.measured_frames if m.follower else 0,
        looked_frames=m.follower.looked_frames if m.follower else 0,
        near_source=is_near(m.follower),
        statistics_resets=m.follower.resets if m.follower else 0,
        swaps=m.swaps,
        versions_installed=m.outcomes["installed"],
        versions_rejected=m.outcomes["rejected"],
        versions_reverted=m.outcomes["reverted"],
        scene=m.scenes.number,
        recalls=m.outcomes["recalled"],
        sample_bytes=selector.budget.spent_bytes if selector else 0,
        budget_bytes=int(selector.budget.level_bytes) if selector else 0,
        duplicates=selector.num_duplicates if selector else 0,
        over_budget=selector.num_over_budget if selector else 0,
        bytes_up=link.bytes_up if link else 0,
        bytes_down=link.bytes_down if link else 0,
        offloaded=asks.offloaded if asks else 0,
        degraded=asks.degraded if asks else 0,
        pictures=asks.pictures if asks else 0,
        frames_by_exit=list(exits.frames_by_exit) if exits else [],
        shadow_runs=exits.control.num_shadow if exits else 0,
        exit_state=exits.state if exits else "",
        personal_heads=exits.num_personal if exits else 0,
        rechecks=exits.control.num_rechecks if exits else 0,
        exit_alarms=exits.control.num_alarms if exits else 0,
        finished=routed.finished if routed else 0,
        hedged=routed.hedged if routed else 0,
        labels=routed.labels if routed else 0,
        audits=routed.audits if routed else 0,
        pings=routed.pings if routed else 0,
        payload_bytes=routing.requests.payload_bytes if routing else 0,
        refits=routing.learning.num_refits if routing else 0,
        sample_labels=labels.num_taught if labels else 0,
        sample_labels_unused=labels.num_unused if labels else 0,
        sample_labels_refused=labels.num_refused + labels.num_flooded if labels else 0,
    )
