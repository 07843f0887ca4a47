"""What the lessons of a world say of its exits: where its features lie, how sure an exit may be, and which exits pay.

Lessons are frames that certify nothing (`littoral.edge.exit_calibration`), so whatever is fitted to them may be
certified on the ring. Nothing here keeps a promise; what is chosen badly is only slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from littoral.core.calibration_ring import CalibrationRing
from littoral.core.exit_choice import MOST_EXITS, Choice, choose_exits
from littoral.core.exit_control import disagreements
from littoral.core.exit_policy import ExitPolicy, ServedExit
from littoral.core.exits import disagreement_losses
from littoral.core.head_levels import FeatureSums, SourceLevels, cooled, levelled
from littoral.core.risk import best_in_hindsight, shared_path
from littoral.edge.exit_parts import ExitParts

MIN_LESSONS = 32
Change = Callable[[int, ServedExit], ServedExit]


class Fitted(NamedTuple):
    """A policy as the lessons have it.

    Attributes:
        kept: The exits to use; None: the lessons say nothing of these.
    """

    policy: ExitPolicy
    kept: tuple[bool, ...] | None = None


class Fitting:
    """Fits shipped heads to a world.

    Args:
        sources: Of each exit.
        any_sure: See `littoral.core.exit_control.certify`.
    """

    def __init__(self, parts: ExitParts, sources: Sequence[SourceLevels], *, any_sure: bool) -> None:
        self._parts, self._sources, self._any_sure = parts, tuple(sources), any_sure

    def fitted(self, policy: ExitPolicy, lessons: CalibrationRing | None, *, max_risk: float) -> Fitted:
        """Of the shipped heads as they are, levelled, with the temperatures of this world, and both: those with which
        the lessons leave with least work. A personal head stays as it is.

        Args:
            max_risk: The share of lost answers that the certificate will allow, on as many frames as it has.
        """
        if lessons is None or len(lessons) < MIN_LESSONS:
            return Fitted(policy)
        best, found = policy, self._choice(policy, lessons, max_risk)
        flat = self._levelled(policy, lessons)
        for other in (flat, self._cooled(policy, lessons), self._cooled(flat, lessons)):
            choice = self._choice(other, lessons, max_risk)
            if found is None or (choice is not None and choice.compute_share < found.compute_share):
                best, found = other, choice
        return Fitted(best, found.kept if found is not None and policy.num_early <= MOST_EXITS else None)

    def _levelled(self, policy: ExitPolicy, lessons: CalibrationRing) -> ExitPolicy:
        sums = FeatureSums(self._parts.num_features, self._parts.num_classes)
        for frame in lessons.frames():
            sums.add(frame.features, frame.shipped)
        mean, spread = sums.mean_and_spread()

        def level(i: int, each: ServedExit) -> ServedExit:
            where = self._parts.all[i].columns
            head = levelled(each.head, self._sources[i], sums.counts_K, mean[where], spread[where])
            return replace(each, head=head)

        return self._changed(policy, level)

    def _cooled(self, policy: ExitPolicy, lessons: CalibrationRing) -> ExitPolicy:
        answers = np.array([frame.shipped for frame in lessons.frames()], dtype=np.intp)

        def cool(i: int, each: ServedExit) -> ServedExit:
            where = self._parts.all[i].columns
            features = np.empty((len(answers), each.head.num_features), dtype=np.float16)
            for row, frame in enumerate(lessons.frames()):  # no more than one frame in memory beside these
                features[row] = frame.features[where]
            return replace(each, temperature=cooled(each.head.logits(features), answers, each.temperature))

        return self._changed(policy, cool)

    def _changed(self, policy: ExitPolicy, change: Change) -> ExitPolicy:
        stays = [each.personal or placed.is_deep for each, placed in zip(policy.exits, self._parts.all, strict=True)]
        exits = (each if stays[i] else change(i, each) for i, each in enumerate(policy.exits))
        return replace(policy, exits=tuple(exits))

    def _choice(self, policy: ExitPolicy, lessons: CalibrationRing, max_risk: float) -> Choice | None:
        """The exits with the least mean work at which the lessons lose no more, with hindsight."""
        scores, costs = lessons.scores(policy), self._parts.costs
        if policy.num_early <= MOST_EXITS:
            losses = disagreement_losses(scores.answers_NE)
            return choose_exits(scores.confidences_NE, losses, costs, max_risk=max_risk, any_sure=self._any_sure)
        confidences, losses = disagreements(scores, any_sure=self._any_sure)
        found = best_in_hindsight(shared_path(confidences.shape[1]), confidences, losses, costs, max_risk=max_risk)
        return None if found is None else Choice((True,) * policy.num_early, found.compute_share)
