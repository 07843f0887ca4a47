"""Early exits on a device: segments that are run only when they are needed, and heads that follow their user.

`ExitRuntime.answer` runs in the thread that answers. It reads one reference to the policy in force, tosses the coin,
runs one segment after another, and hands over what the background thread may want to know. All else is that thread's:
the calibration ring, learning, certifying, and putting a new policy in force by one assignment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from littoral.bundle import Bundle
from littoral.bundle.exits import ExitHeads
from littoral.core.arrays import FloatArray, Frame
from littoral.core.calibration_ring import CalibrationRing
from littoral.core.exit_control import ExitControl, Purpose, early_loss
from littoral.core.exit_policy import ExitPolicy
from littoral.core.head_levels import SourceLevels
from littoral.core.risk import Certified
from littoral.edge.answer import Found
from littoral.edge.exit_calibration import Calibration
from littoral.edge.exit_config import ExitConfig
from littoral.edge.exit_files import PendingFrames
from littoral.edge.exit_parts import ExitParts
from littoral.edge.exit_queue import ExitQueue, Handed
from littoral.edge.exit_state import open_kept, policy_of, take_heads_along
from littoral.edge.past_exits import Wanted, run_past_exits
from littoral.edge.recent import RecentFrames, SeenFrame
from littoral.edge.session import Model, SessionConfig
from littoral.edge.versions import Files

log = logging.getLogger("littoral.edge.exits")


class ExitRuntime:
    """The exits of one device. `answer` is for one thread at a time, `feedback` for any.

    Args:
        model: In service now.
        state_dir: Where what is learned lives; without it nothing is.
        later: Runs a task in the background thread.
        files: The disk; tests put power cuts between its steps.
        routed: A router decides, and may leave at any exit that is sure (docs/adr/0022): the worst of them counts.
    Raises:
        ValueError: the bundle has no exits.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: ExitConfig,
        *,
        model: Model,
        session: SessionConfig,
        state_dir: Path | None,
        later: Callable[[Callable[[], None]], None],
        files: Files | None = None,
        routed: bool = False,
    ) -> None:
        specs = bundle.manifest.exits
        if not specs:
            raise ValueError(
                f"bundle {bundle.manifest.name!r} has no exits; build it with exits, or leave DeviceConfig.exits out"
            )
        heads = ExitHeads.open(bundle)
        self.config, self.shipped = config, replace(heads, moments=())  # they are larger than all else together
        self.parts = parts = ExitParts(bundle, self.shipped, session)
        self._path = parts.path(model)
        self.on_world: Callable[[bool], None] = lambda changed: None
        """Told that the alarm rang, or else that thresholds were certified; in either thread."""
        self.control = ExitControl(config.control, seed=config.seed)
        self.recent = RecentFrames(parts.sizes, parts.num_classes)
        self.frames_by_exit = [0] * (len(specs) + 1)
        self._num_classes, self._routed = parts.num_classes, routed
        self.queue, self._later = ExitQueue(self.take, later), later
        self._alarmed, self._not_before_s = False, 0.0
        self._here: FloatArray | None = None  # the fingerprint of the world at hand, in the background thread
        self._seems_back = False
        self._swap = threading.Lock()  # taken to put a policy in force, by the thread that answers only in an alarm
        levels = [SourceLevels.of(moments) for moments in heads.moments]  # all exits' lie in memory, once
        self.kept = kept = open_kept(state_dir, config, heads, levels, parts, model, files)
        self._pending, self._personal = kept.pending, kept.personal
        self.calibration = Calibration(config.control, parts, levels, model=model, slots=kept.slots, any_sure=routed)
        self.calibrates = False  # the newest frame is one of those that calibrate: nothing may be fitted to it
        policy = self._policy(model.version)
        start = self.shipped.thresholds[: policy.num_early]
        self.policy = policy.serving(start) if config.start_with_shipped else policy  # read it once for each frame

    # -- in the thread that answers ------------------------------------------------------------------------------------

    def answer(self, model: Model, frame: Frame, frame_id: int) -> Found:
        """Answer a frame with as much of the network as it needs.

        Args:
            model: Read once for this frame.
            frame: uint8 ``(H, W, C)``.
            frame_id: Counts the frames of this run from 1.
        """
        policy, recent = self.policy, self.recent
        if (path := self._path).model is not model:
            path = self._path = self.parts.path(model)
        wanted = self._wanted(policy, model)
        self.queue.begins(frame_id)
        recent.begin(frame_id)
        found, logits, num_seen, unheard = run_past_exits(self.parts, path, policy, wanted, frame)
        if not found.is_finite:
            return found
        self.frames_by_exit[found.exit_index] += 1
        recent.put(frame_id, num_seen, path.features)
        recent.end(frame_id, model.version, num_seen, logits)
        has_all = num_seen == len(self.parts.all)
        is_whole = logits is not None
        if is_whole and (wanted.later or (has_all and (wanted.features or not policy.checking))):
            leaves, loss = early_loss(unheard, policy, found.label) if unheard else (False, None)
            pixels = self.calibration.pixels_for(wanted.purpose, frame)
            self.hand_over(policy, frame_id, wanted.purpose, leaves=leaves, loss=loss, pixels=pixels)
        return found

    def _wanted(self, policy: ExitPolicy, model: Model) -> Wanted:
        purpose, fits = self.control.purpose(checking=policy.checking), policy.affine_version == model.version
        self.calibrates = purpose is Purpose.RING and self.calibration.runs_again
        return Wanted.of(purpose, fits=fits, checking=policy.checking, calibrates=self.calibrates)

    def hand_over(
        self,
        policy: ExitPolicy,
        frame_id: int,
        purpose: Purpose,
        *,
        leaves: bool,
        loss: float | None,
        pixels: bytes,
        seen: SeenFrame | None = None,
    ) -> None:
        """A frame ran to its end: audit it if the coin picked it, and pass it on.

        Args:
            policy: That it was looked at with.
            leaves: It would have left early but for the coin, or has.
            loss: See `early_loss`; None where nothing is audited.
            pixels: As `Calibration.pixels_for` wants them.
            seen: Where it is not among the newest frames.
        """
        checking = policy.checking
        if loss is not None and self.control.audit(loss):
            self._alarm(policy)
            return
        if not pixels and purpose is not Purpose.RING and (self._pending is None or self._pending.is_full):
            return
        stands_for = self.control.stands_for(purpose, leaves_early=leaves, checking=checking)
        self.queue.put(Handed(frame_id, purpose, stands_for, pixels, seen))

    def _alarm(self, policy: ExitPolicy) -> None:
        """Exits are off from the next frame on."""
        with self._swap:
            self._alarmed, self.policy = True, policy.off()
        self.on_world(True)
        self._later(lambda: self.recheck("the alarm"))

    # -- in any thread -------------------------------------------------------------------------------------------------

    @property
    def ring(self) -> CalibrationRing:
        """The frames that calibrate."""
        return self.calibration.ring

    @property
    def early(self) -> int:
        """Frames that left before the network's end."""
        return sum(self.frames_by_exit[: self.policy.num_early])

    @property
    def state(self) -> str:
        """``checking`` or ``serving``."""
        return "checking" if self.policy.checking else "serving"

    @property
    def num_personal(self) -> int:
        """Personal heads that serve."""
        return sum(each.personal for each in self.policy.exits)

    def feedback(self, frame_id: int, label: int) -> bool:
        """What the user says of one of the newest frames; False where it is none of these."""
        if not 0 <= label < self._num_classes:
            raise ValueError(f"the label is {label}, expected 0 to {self._num_classes - 1}")
        if (frame := self.recent.get(frame_id)) is None:
            return False
        self._later(lambda: self._label(frame.with_label(label)))
        return True

    # -- in the background thread --------------------------------------------------------------------------------------

    def recheck(self, why: str, of: FloatArray | None = None) -> None:
        """Find out anew whether frames may leave early: exits off, the ring empty.

        Args:
            of: The fingerprint of a world that was left, for the day when it is back; None: what is in the ring is
                worth nothing any more.
        """
        if not self.control.recheck():
            self._alarmed = False
            return
        log.info("exits are checked anew: %s", why)
        with self._swap:  # before the disk can fail
            self._alarmed, self.policy = False, self._policy(self.policy.affine_version)
        self.queue.clear()
        self.calibration.leave(of)

    def world_changed(self, of: FloatArray | None = None) -> None:
        """The world is another one, and which is not known yet.

        Args:
            of: The fingerprint of the one that was left; by default what `world_is` told last.
        """
        left, self._here = self._here if of is None else of, None
        self.recheck("the world changed", left)

    def world_is(self, fingerprint: FloatArray) -> None:
        """The fingerprint of the world at hand. If it seemed to change and is the one of before, nothing is lost."""
        is_new, self._here = self._here is None, fingerprint
        self._seems_back = is_new and self.policy.checking and self.calibration.worlds.left_last is not None
        if self._seems_back:
            self._later(self.take)

    def prepare(self, new: Model, *, same_world: bool = True, left: FloatArray | None = None) -> Callable[[], None]:
        """Another network is about to serve; what comes back is to be called once it does.

        Where its affine version is another, heads follow, and the ring's frames are run through it to say which
        thresholds it may serve with; what cannot be certified so is checked anew.

        Args:
            same_world: The ring's frames are like those to come.
            left: Else the fingerprint of the world that they are of.
        """
        calibration, old = self.calibration, self.calibration.model
        calibration.model = new
        if old.version == new.version:
            return lambda: None
        take_heads_along(self.kept, self.parts, old, new)
        policy, stays = self._policy(new.version), same_world and calibration.runs_again
        policy = calibration.follow(policy, self.policy, self.control, stays=stays)

        def put_in_force() -> None:
            with self._swap:
                self.policy = policy.off() if self._alarmed else policy
            if not stays:
                self.recheck(f"version {new.version}", left)

        return put_in_force

    def forget_day(self, day: int) -> bool:
        """Take back all that came on a day; whether there was anything.

        Raises:
            StorageError: the disk does not take it; the next start goes on with what had begun.
        """
        self._drain()
        found = self.calibration.remove_day(day)
        found = self.kept.remove_day(day) or found
        if self._personal is not None:
            try:
                found = self._personal.forget(day, today=self.config.today()) or found
            finally:
                self._refresh(must=True)
        return found

    def close(self) -> None:
        """Close the files; what waits in them is gone."""
        self.kept.close()

    def take(self) -> None:
        """Take what the thread that answers has handed over; certify and learn when it is time."""
        self._drain()
        back, self._seems_back = self._seems_back, False
        if back and self.policy.checking:
            self._try(at_once=True)
        if self.policy.checking and self.control.due(returns=self.calibration.knows(self._here)):
            self.control.tried()
            self._try()
        if self._pending is not None and self._pending.is_full and time.monotonic() >= self._not_before_s:
            self._learn(self._pending)

    def _drain(self) -> None:
        for handed in self.queue.drain():
            frame = self.recent.get(handed.frame_id) if handed.seen is None else handed.seen
            if frame is None or frame.logits_K is None or not np.isfinite(frame.features).all():
                continue
            if frame.version != self.policy.affine_version and not handed.pixels:
                continue
            is_ring, day = handed.purpose is Purpose.RING, self.config.today()
            if is_ring or handed.pixels:
                self.calibration.keep(frame, day, handed.pixels, is_ring=is_ring)
            if is_ring:
                self.control.keep()
            elif self._pending is not None and frame.version == self.policy.affine_version:
                self._pending.add(replace(frame, day=day, stands_for=handed.stands_for))

    def teach(self, frame: SeenFrame) -> bool:
        """What the user or the cloud says of a frame; whether heads will learn from it.

        The cloud's word weighs as the network's does, and the ring hears nothing of it.
        """
        self._drain()  # the frame itself comes first
        in_ring = frame.frame_id in self.ring if frame.by_cloud else self.ring.label(frame.frame_id, frame.label)
        return not in_ring and self.kept.teach(frame, self.config.today())

    def _label(self, frame: SeenFrame) -> None:
        self.teach(frame)

    def _try(self, *, at_once: bool = False) -> None:
        """Put thresholds in force if they can be certified."""
        policy = self._policy(self.policy.affine_version)
        tried = self.calibration.attempt(policy, self.control.num_fresh, self._here, at_once=at_once)
        if tried is None:
            return
        if not isinstance(found := tried.found, Certified):
            log.info("exits stay off: %s", found.why)
            return
        self.control.enter_serving(found, tried.scores, any_sure=self._routed)
        self._publish(tried.serving)
        self.on_world(False)
        log.info("exits are in force: %s, risk %.4f, %d", found.procedure, found.empirical_risk, found.num_frames)

    def _learn(self, pending: PendingFrames) -> None:
        assert self._personal is not None
        began = time.monotonic()
        try:
            self._personal.learn(pending)
        finally:
            pending.clear()
        self._refresh()
        spent = time.monotonic() - began
        self._not_before_s = began + spent / self.config.learning_share

    def _refresh(self, *, must: bool = False) -> None:
        """Put the heads that serve now in force, certified with them.

        Args:
            must: The policy in force may not stay; without a certificate exits are checked anew.
        """
        before = self.policy
        policy = self._policy(before.affine_version)
        if before.checking or not self.config.control.recheck:
            self._publish(policy if before.checking else policy.with_shipped_of(before).serving(before.thresholds))
            return
        lost = any(old.personal and not new.personal for old, new in zip(before.exits, policy.exits, strict=True))
        tried = self.calibration.certify(policy)
        if isinstance(tried.found, Certified):
            self._publish(tried.serving)
        elif must or lost:
            self.recheck("a head is no longer what it was")

    def _publish(self, policy: ExitPolicy) -> None:
        with self._swap:
            if not self._alarmed:
                self.policy = policy

    def _policy(self, version: int) -> ExitPolicy:
        """The heads that serve, with every exit off."""
        return policy_of(self.shipped, self._personal, version, has_deep=self.parts.all[-1].is_deep)
