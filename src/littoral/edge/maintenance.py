"""Everything that a device does beside answering, in one background thread.

The hot path hands over frames and events through a queue and two buffers; this thread measures statistics, codes chosen
frames for the outbox, takes new versions through the updater, and puts a new model into service by one assignment.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from littoral.bundle import Bundle, RouteTables
from littoral.bundle.images import encode_image
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.core.product import ProductConfig, ProductSelector
from littoral.edge.background import FewWaiting, LastOne, Task, result_of
from littoral.edge.candidate import Candidate, probe
from littoral.edge.choose import Chooser, Waiting
from littoral.edge.counters import Outcomes, wire_status
from littoral.edge.entropies import Entropies
from littoral.edge.exit_config import ExitConfig
from littoral.edge.exits import ExitRuntime
from littoral.edge.follow import Follower, is_near, serves_own, tell_near
from littoral.edge.link import CloudLink
from littoral.edge.outbox import Outbox
from littoral.edge.route import Routing
from littoral.edge.route_open import open_routing
from littoral.edge.scenes import Scenes
from littoral.edge.session import Model, release_memory
from littoral.edge.teacher_labels import TeacherLabels
from littoral.edge.updater import Updater
from littoral.edge.versions import VersionStore
from littoral.errors import LittoralError
from littoral.wire.messages import Receipt, Sample

if TYPE_CHECKING:
    from littoral.edge.counters import DeviceStatus
    from littoral.edge.device_config import DeviceConfig

log = logging.getLogger(__name__)

_NICENESS, _MOST_VERSIONS = 10, 8
"""Versions wait for the background thread; a cloud has no reason to send a second before it heard of the first."""
T = TypeVar("T")


class Maintenance:
    """The background thread and what it owns. ``model`` is the model in service: read it once per frame."""

    def __init__(
        self,
        bundle: Bundle,
        config: DeviceConfig,
        *,
        state_dir: Path | None,
        link: CloudLink | None,
        status: Callable[[], DeviceStatus],
    ) -> None:
        self.bundle, self.config, self.link = bundle, config, link
        self.task = bundle.manifest.make_task()
        self.uplink = link is not None
        self.outbox: Outbox | None = None
        self.updater: Updater[Candidate] | None = None
        self.outcomes = Outcomes()
        self.swaps = 0
        self._state_dir, self._status = state_dir, status
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._versions = FewWaiting("versions", self._tasks.put, _MOST_VERSIONS)
        self._thread = threading.Thread(target=self._work, name="littoral-maintenance", daemon=True)
        self._ending = LastOne({"thread", "link"}, self._close_parts)
        self.waiting = Waiting(config.max_waiting_bytes)
        self.chooser: Chooser | None = None
        if isinstance(config.selection, ProductConfig) and bundle.manifest.adapts:
            selector = ProductSelector(bundle.manifest.num_classes, bundle.manifest.input.shape, config.selection)
            self.chooser = Chooser(selector, self.waiting, put=self._put_sample, later=self._tasks.put)

        self.exits: ExitRuntime | None = None
        self.labels: TeacherLabels | None = None
        self.routing: Routing | None = None
        with self.closing_on_error():
            self.model = self._open(state_dir)
        self.entropies = Entropies(self.model.version, own=serves_own(self.follower))

        self._stride, shape = config.statistics_stride_frames, bundle.manifest.input.shape
        self._filling, self._resting = np.empty((2, config.statistics_batch_frames, *shape), np.uint8)
        self._labels: list[int] = []
        self._filled = self._seen = 0
        self._left: FloatArray | None = None
        self._measuring = self._looking = False  # looking: what comes into service is for another world

    def _open(self, state_dir: Path | None) -> Model:
        """Open the state folder; the model that is to serve by what lies in it."""
        bundle, config = self.bundle, self.config
        version, affine = 0, dict(bundle.source_affine)
        if state_dir is not None:
            self.outbox = Outbox(state_dir / "outbox.sqlite", capacity_bytes=config.outbox_capacity_bytes)
            if self.chooser is not None:
                self.outbox.keep_budget(self.chooser.selector.budget)
        self.scenes = Scenes(bundle, config.recall, outbox=self.outbox)
        if state_dir is not None:
            self.updater = Updater(
                bundle,
                VersionStore(state_dir),
                build=self._build,
                probe=functools.partial(probe, bundle),
                install=self._install,
                fits=self.scenes.fits,
                config=config.updater,
            )
            before = self.updater.state.disk.reasons
            version, affine = self.updater.boot()
            self.outcomes.note_start(before, self.updater.state.disk.reasons)
        self._affine: Tensors = affine
        self._version = version
        self.follower: Follower | None = None
        if bundle.manifest.statistics is not None and config.adapt_statistics:
            near = self.updater is not None and self.updater.state.disk.waits
            self.follower = Follower(bundle, config, affine=lambda: self._affine, near=near)
        tell_near(self.follower, self.updater)
        return self._model(affine, version)

    @property
    def cloud(self) -> str:
        """``connected``, ``away`` or ``none``."""
        if self.link is None:
            return "none"
        return "connected" if self.link.connected else "away"

    # -- called by the hot path: must not block ------------------------------------------------------------------------

    def saw(self, frame: Frame, label: int, entropy_nats: float | None) -> None:
        """Take note of a frame; every so many, hand a full buffer to the background thread.

        Args:
            entropy_nats: Of the network's own answer; None where the cloud or an early exit answered: how sure that is
                says nothing of the version in service.
        """
        if entropy_nats is not None:
            self.entropies.add(entropy_nats)
        self._seen += 1
        if self._seen % self._stride:
            return
        self._filling[self._filled] = frame
        self._labels.append(label)
        self._filled += 1
        if self._filled < len(self._filling):
            return
        self._filled = 0
        labels, self._labels = self._labels, []
        if self._measuring:
            return  # the thread is still busy with the last buffer: measure the next one instead
        self._measuring = True
        batch, self._filling, self._resting = self._filling, self._resting, self._filling
        told = self.entropies.take()
        self._tasks.put(lambda: self._measure(batch, labels, *self.entropies.charged(told)))

    def offer(self, frame: Frame, frame_id: int, label: int, entropy_nats: float, version: int) -> bool:
        """Hand over a chosen frame for the outbox; False when too many are waiting already."""
        if not self.waiting.has_room(frame):
            return False
        kept = self.waiting.keep(frame)
        self._tasks.put(lambda: self._put_chosen(kept, frame_id, label, entropy_nats, version))
        return True

    def not_finite(self, version: int) -> None:
        """An answer of ``version`` was not finite: let the updater judge it, if it still serves by then."""
        self._tasks.put(lambda: self._observe(math.nan) if self.model.version == version else None)

    # -- life ----------------------------------------------------------------------------------------------------------

    def open_exits(self, config: ExitConfig, *, routed: bool = False) -> ExitRuntime:
        """The bundle's exits, before `start`.

        Raises:
            ValueError: the bundle has none.
        """
        model, folder, session, later = self.model, self._state_dir, self.config.session, self._tasks.put
        self.exits = ExitRuntime(
            self.bundle, config, model=model, session=session, state_dir=folder, later=later, routed=routed
        )
        self.exits.calibration.is_near = self.scenes.are_near
        self.labels = TeacherLabels(self.exits, later=later)
        return self.exits

    def open_routing(self, tables: RouteTables) -> Routing:
        """What the device routes with, after its exits and before `start`."""
        self.routing = open_routing(self, tables, state_dir=self._state_dir, later=self._tasks.put)
        return self.routing

    def start(self) -> None:
        """Start the thread, then the link."""
        self._thread.start()
        if self.link is None or self.outbox is None or self.updater is None or self._state_dir is None:
            return
        updater = self.updater
        self.link.start(
            bundle_digest=self.bundle.digest,
            state_dir=self._state_dir,
            outbox=self.outbox,
            highest_version=lambda: updater.highest_version,
            on_envelope=lambda envelope: self._tasks.put(lambda: updater.set_envelope(envelope)),
            on_version=lambda signed: self._versions.put(lambda: self._put_receipt(updater.receive(signed))),
            status=lambda: wire_status(self._status(), self.exits),
            on_labels=self.labels.came if self.labels is not None and self.labels.takes else None,
        )

    def rebuild(self) -> None:
        """Put a fresh session of the same values into service."""
        self._tasks.put(lambda: self._serve(self._affine, self._version))

    def settle(self, timeout_s: float) -> bool:
        """Wait until all tasks handed over so far are done."""
        done = threading.Event()
        if self.exits is not None:
            self._tasks.put(self.exits.take)
        if self.routing is not None:
            self._tasks.put(self.routing.learning.take)
        self._tasks.put(done.set)
        return done.wait(timeout_s)

    def call(self, work: Callable[[], T], timeout_s: float) -> T:
        """What ``work`` gives in the background thread, after all tasks so far.

        Raises:
            ValueError: the device is closed; else as `result_of`.
        """
        if not self._thread.is_alive():
            raise ValueError("the device is closed; open it again")
        return result_of(work, self._tasks.put, timeout_s)

    @contextlib.contextmanager
    def closing_on_error(self) -> Iterator[None]:
        """Where no device comes of it, the state folder is free again."""
        try:
            yield
        except BaseException:
            self.stop(0.0)
            raise

    def stop(self, flush_s: float) -> None:
        """Finish the tasks, give the link ``flush_s`` seconds to empty the outbox, and close.

        A task that takes longer goes on; what the exits and the router have learned is kept once it has ended.
        """
        deadline = time.monotonic() + flush_s
        if self._thread.is_alive():
            self._tasks.put(None)
            self._thread.join(max(flush_s, 1.0))
        elif self._thread.ident is not None:
            return
        else:
            self._ending.done("thread")
        if self.link is not None:
            self.link.stop(max(deadline - time.monotonic(), 0.0))
        if self.outbox is not None:
            self.outbox.close()
        self._ending.done("link")

    def _close_parts(self) -> None:
        for part in (self.routing, self.exits):
            if part is not None:
                part.close()

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # answers come first; only Linux has a niceness per thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except LittoralError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("background work failed; the device goes on answering")
        self._ending.done("thread")

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def _put_chosen(self, frame: Frame, frame_id: int, label: int, entropy_nats: float, version: int) -> None:
        self.waiting.release(frame)
        self._put_sample(frame, frame_id, label, entropy_nats, version, value=entropy_nats)

    def _put_sample(
        self, frame: Frame, frame_id: int, label: int, entropy_nats: float, version: int, *, value: float
    ) -> int | None:
        """Put a sample into the outbox; its bytes on the wire, or None if it was dropped at once."""
        coding, image = encode_image(frame, self.config.uplink_coding)
        sample = Sample(
            frame_id=frame_id,
            version=version,
            predicted=label,
            entropy_nats=entropy_nats,
            coding=coding,
            image=image,
            scene=self.scenes.number,
        )
        assert self.outbox is not None
        num_bytes = self.outbox.put(sample, value=value)
        if num_bytes is not None and self.labels is not None:
            # A task of its own: what goes wrong there is none of the sample's.
            self._tasks.put(functools.partial(self.labels.sent, image, frame_id, frame))
        self._wake()
        return num_bytes

    def _put_receipt(self, receipt: Receipt | None) -> None:
        if receipt is None or self.outbox is None:
            return
        self.outcomes.note(receipt)
        self.outbox.put(receipt, value=math.inf)
        self._wake()

    def _wake(self) -> None:
        if self.link is not None:
            self.link.wake()

    def _observe(self, mean_entropy: float, num_frames: int = 1) -> None:
        if self.updater is not None and num_frames and not is_near(self.follower):
            self._put_receipt(self.updater.observe(mean_entropy, frames=num_frames))

    def _measure(self, batch: Frame, labels: list[int], mean_entropy: float, num_frames: int) -> None:
        follower = self.follower
        try:
            if follower is None:
                self._observe(mean_entropy, num_frames)
                return
            seen = follower.fingerprint(batch)
            if not follower.changing(seen):  # how unsure it is in a new world says nothing of an old world's version
                self._observe(mean_entropy, num_frames)
            if follower.follow(batch, labels, seen, self._look):
                self._changed_world()
            self._serve(self._affine, self._version)
        finally:
            self._measuring = False
            tell_near(follower, self.updater)

    def _look(self, fingerprint: FloatArray, drifted: bool) -> bool:
        served, first, tell = self._affine, self.scenes.number == 0, self._put_receipt
        left = self._left = self.scenes.reference
        if drifted and self.exits is not None:  # before a version comes that is for this world
            self.exits.world_is(fingerprint)
        self._looking = not drifted  # exits' frames are of this world alone where it was new with the batch before
        try:
            opened = self.scenes.look(fingerprint, drifted=drifted, updater=self.updater, tell=tell, uplink=self.uplink)
        finally:
            self._looking = False
        if opened:
            if self.chooser is not None:
                self.chooser.enter(self.scenes.number)
            self._wake()
        if opened and not first and not drifted:
            self._changed_world(left)
        if not drifted and self.exits is not None:
            self.exits.world_is(fingerprint)
        return self._affine is not served

    def _changed_world(self, left: FloatArray | None = None) -> None:
        if self.routing is not None:
            self.routing.world(True)
        if self.exits is not None:
            self.exits.world_changed(left)

    # -- models --------------------------------------------------------------------------------------------------------

    def _model(self, affine: Tensors, version: int) -> Model:
        if is_near(self.follower):
            affine, version = self.bundle.source_affine, 0
        statistics = self.follower.values(affine) if self.follower is not None else {}
        return Model(self.bundle, {**affine, **statistics}, version=version, config=self.config.session)

    def _serve(self, affine: Tensors, version: int) -> None:
        self._put_into_service(self._model(affine, version), affine, version)

    def _build(self, affine: dict[str, FloatArray]) -> Candidate:
        live, probed = self._model(affine, 0), Model(self.bundle, affine, config=self.config.session)
        return Candidate(affine=affine, live=live, probed=probed)

    def _install(self, candidate: Candidate, version: int) -> None:
        candidate.live.version = 0 if is_near(self.follower) else version
        self._put_into_service(candidate.live, candidate.affine, version)

    def _put_into_service(self, model: Model, affine: Tensors, version: int) -> None:
        same, left = not self._looking, self._left if self._looking else None
        then = [] if self.exits is None else [self.exits.prepare(model, same_world=same, left=left)]
        self.model, self._affine, self._version = model, affine, version
        self.entropies.serve(model.version, own=serves_own(self.follower))
        self.swaps += 1
        for task in (*then, release_memory):
            task()
