"""The frames that say what exits are worth in this world, and what is certified with them. For the background thread.

Two rings hold the newest frames that chance chose. Nothing is ever fitted to those of the *ring*: they certify. The
*lessons* say where this world's features lie, so that shipped heads can be levelled (`littoral.core.head_levels`).
Where frames' pixels are kept, both outlive a change of the network: the frames are run again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from littoral.core.arrays import Frame
from littoral.core.calibration_ring import CalibrationRing, RingFrame, RingScores, Slots
from littoral.core.exit_choice import MOST_EXITS, Choice, choose_exits
from littoral.core.exit_control import ControlConfig, ExitControl, Purpose, certify, disagreements
from littoral.core.exit_policy import ExitPolicy
from littoral.core.exits import disagreement_losses
from littoral.core.head_levels import FeatureSums, SourceLevels, cooled, levelled
from littoral.core.risk import Certified, NotCertified, best_in_hindsight, shared_path
from littoral.edge.exit_stages import ExitStages
from littoral.edge.recent import SeenFrame
from littoral.edge.session import Model

log = logging.getLogger("littoral.edge.exits")

LESSONS = 128
"""Frames by which shipped heads are levelled."""
MIN_LESSONS = 32


class RingSlots(NamedTuple):
    """Where a ring's records and pixels lie; None: in memory, and no pixels."""

    records: Slots | None = None
    pixels: Slots | None = None


class Tried(NamedTuple):
    """A policy that a certificate was tried for, and what came of it."""

    policy: ExitPolicy
    found: Certified | NotCertified
    scores: RingScores

    @property
    def serving(self) -> ExitPolicy:
        """With the thresholds that were found in force."""
        return self.policy.serving(self.found.thresholds)


class Calibration:
    """The two rings of a device.

    Args:
        levels: Of the source at each exit; none: shipped heads stay as they are.
        model: In service now.
        rings: Where the frames lie that calibrate, and the lessons.
        any_sure: See `littoral.core.exit_control.certify`.
    """

    def __init__(
        self,
        config: ControlConfig,
        parts: ExitStages,
        levels: Sequence[SourceLevels],
        *,
        model: Model,
        rings: tuple[RingSlots, RingSlots],
        any_sure: bool,
    ) -> None:
        self.config, self.model, (ring, lessons) = config, model, rings
        self.ring = CalibrationRing(config.ring_frames, parts.sizes, slots=ring.records, pixels=ring.pixels)
        self._lessons: CalibrationRing | None = None
        self._sources = tuple(levels)
        if self._sources and self.ring.runs_again:
            self._lessons = CalibrationRing(LESSONS, parts.sizes, slots=lessons.records, pixels=lessons.pixels)
        self._parts, self._any_sure = parts, any_sure
        self._num_classes = parts.num_classes

    @property
    def runs_again(self) -> bool:
        """Frames' pixels are kept: a certificate is of the network as it is, whatever came since they were seen."""
        return self.ring.runs_again

    def pixels_for(self, purpose: Purpose, frame: Frame) -> bytes:
        """What of a frame is to be handed over with it; empty where it need not be run again."""
        if purpose is Purpose.NOTHING or not self.runs_again or (purpose is Purpose.HEADS and self._lessons is None):
            return b""
        return frame.tobytes()

    def keep(self, frame: SeenFrame, day: int, pixels: bytes, *, is_ring: bool) -> None:
        """Keep a frame that chance chose, with its pixels if they are wanted."""
        ring = self.ring if is_ring else self._lessons
        if ring is None or frame.logits_K is None:
            return
        kept = RingFrame(
            frame_id=frame.frame_id,
            affine_version=frame.version,
            day=day,
            shipped=int(frame.logits_K.argmax()),
            features=frame.features,
        )
        ring.add(kept, pixels)

    def clear(self) -> None:
        """The world is another one."""
        for ring in self._rings():
            ring.clear()

    def remove_day(self, day: int) -> bool:
        """Forget the frames of a day; whether there were any."""
        return sum(ring.remove_day(day) for ring in self._rings()) > 0

    def certify(self, policy: ExitPolicy, *, share_of_delta: float = 1.0) -> Tried:
        """Thresholds for these heads, the shipped among them levelled where that does better on the lessons.

        The lessons also say which exits pay in this world: the others stay off.

        The frames are run again through the network that serves, or is about to: versions came and statistics went on
        since they were kept.
        """
        model = self.model
        for ring in self._rings() if self.runs_again else []:
            ring.run_again(model.version, lambda pixels: self._parts.run_again(model, pixels))
        policy, kept = self._fitted(policy)
        scores = self.ring.scores(policy)
        found = certify(
            scores,
            self.config,
            share_of_delta=share_of_delta,
            costs=self._parts.costs,
            any_sure=self._any_sure,
            kept=kept,
        )
        return Tried(policy, found, scores)

    def follow(self, policy: ExitPolicy, before: ExitPolicy, control: ExitControl, *, stays: bool) -> ExitPolicy:
        """The policy with which another affine version is to serve, as far as the ring's frames certify it.

        A ring that certified nothing is asked again with each version: another network has a promise of its own.

        Args:
            policy: The version's heads, every exit off.
            before: In force up to now.
            stays: The ring's frames can be run again, and are like those to come.
        """
        if not self.config.recheck:
            return policy if before.checking else policy.with_shipped_of(before).serving(before.thresholds)
        if not stays or (before.checking and len(self.ring) < self.config.min_calibration):
            return policy
        tried = self.certify(policy, share_of_delta=1 / len(self.config.looks) if before.checking else 1.0)
        if isinstance(tried.found, Certified):
            control.serve_on(tried.found, tried.scores, any_sure=self._any_sure)
            return tried.serving
        if not before.checking:
            control.recheck(kept=len(self.ring))
            log.info("exits are off with version %d: %s", policy.affine_version, tried.found.why)
        return policy

    def _rings(self) -> list[CalibrationRing]:
        return [ring for ring in (self.ring, self._lessons) if ring is not None]

    def _fitted(self, policy: ExitPolicy) -> tuple[ExitPolicy, tuple[bool, ...] | None]:
        """The policy, levelled where the lessons say so, and the exits to use; None: they say nothing of these."""
        lessons = self._lessons
        if lessons is None or len(lessons) < MIN_LESSONS:
            return policy, None
        policy, other = self._cooled(policy, lessons), self._cooled(self._levelled(policy, lessons), lessons)
        before, after = self._choice(policy, lessons), self._choice(other, lessons)
        if before is None or (after is not None and after.compute_share < before.compute_share):
            policy, before = other, after
        chooses = before is not None and policy.num_early <= MOST_EXITS
        return policy, before.kept if before is not None and chooses else None

    def _levelled(self, policy: ExitPolicy, lessons: CalibrationRing) -> ExitPolicy:
        sums = FeatureSums(self._parts.num_features, self._num_classes)
        for frame in lessons.frames():
            sums.add(frame.features, frame.shipped)
        mean, spread = sums.mean_and_spread()
        exits = list(policy.exits)
        for i, stage in enumerate(self._parts.all):
            if exits[i].personal or stage.is_deep:
                continue
            where = stage.columns
            head = levelled(exits[i].head, self._sources[i], sums.counts_K, mean[where], spread[where])
            exits[i] = replace(exits[i], head=head)
        return replace(policy, exits=tuple(exits))

    def _cooled(self, policy: ExitPolicy, lessons: CalibrationRing) -> ExitPolicy:
        """With the temperatures of this world."""
        exits = list(policy.exits)
        for i, stage in enumerate(self._parts.all):
            if exits[i].personal or stage.is_deep:
                continue
            seen = [(frame.features[stage.columns], frame.shipped) for frame in lessons.frames()]
            logits = exits[i].head.logits(np.stack([features for features, _ in seen]))
            answers = np.array([shipped for _, shipped in seen], dtype=np.intp)
            exits[i] = replace(exits[i], temperature=cooled(logits, answers, exits[i].temperature))
        return replace(policy, exits=tuple(exits))

    def _choice(self, policy: ExitPolicy, lessons: CalibrationRing) -> Choice | None:
        """The exits with the least mean work at which the lessons keep the promise, with hindsight."""
        scores, costs, max_risk = lessons.scores(policy), self._parts.costs, self.config.risk
        if policy.num_early <= MOST_EXITS:
            losses = disagreement_losses(scores.answers_NE)
            return choose_exits(scores.confidences_NE, losses, costs, max_risk=max_risk, any_sure=self._any_sure)
        confidences, losses = disagreements(scores, any_sure=self._any_sure)
        found = best_in_hindsight(shared_path(confidences.shape[1]), confidences, losses, costs, max_risk=max_risk)
        return None if found is None else Choice((True,) * policy.num_early, found.compute_share)
