"""What a set of heads does with a user's frames: answers, confidences, and what follows for any thresholds.

Two ways of choosing thresholds stand apart in every table: with *hindsight*, from the very test frames that they are
judged by (what "at the same accuracy" means in papers), and *certified*, from calibration frames that nothing was
fitted on, at a risk that was named before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.bench.exits.seen import Labels, Part
from littoral.core.arrays import Float64s
from littoral.core.exit_choice import kept_exits, path_of
from littoral.core.exits import (
    ExitCosts,
    compute_share,
    confidence,
    disagreement_losses,
    error_losses,
    excess_losses,
    exit_indices,
    fit_temperature,
    patience_exits,
)
from littoral.core.heads import LinearHead
from littoral.core.risk import Certified, NotCertified, learn_then_test

DELTA, DELTA_OVER_SHIPPED = 0.1, 0.02
"""Of the promise without labels, and of "errs no more often than the shipped network": as `ControlConfig` has them."""
SEARCH_SHARE = 0.2
"""Of the calibration frames: on these temperatures are found and exits chosen, on the others thresholds certified."""
CHOICE_RISK = 0.05


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Frames as heads answer them; the last column is the deepest exit's.

    Attributes:
        confidences_NE, answers_NE: ``(N, E)``.
    """

    confidences_NE: Float64s
    answers_NE: Labels
    labels_N: Labels
    shipped_N: Labels

    def right(self, exits_N: NDArray[np.intp]) -> float:
        """Percent right where frame i leaves at ``exits_N[i]``."""
        return 100 * float((self.answers_NE[np.arange(len(exits_N)), exits_N] == self.labels_N).mean())

    @property
    def shipped_right(self) -> float:
        """Percent of the shipped network."""
        return 100 * float((self.shipped_N == self.labels_N).mean())

    @property
    def exits_right(self) -> list[float]:
        """Percent of each exit alone."""
        shares = (self.answers_NE == self.labels_N[:, None]).mean(axis=0)
        return [100 * float(share) for share in shares]

    def losses(self, kind: str) -> Float64s:
        """``disagreement`` with the deepest exit, ``error``, or ``excess`` over the shipped network's error."""
        if kind == "disagreement":
            return disagreement_losses(self.answers_NE)
        if kind == "error":
            return error_losses(self.answers_NE, self.labels_N)
        return excess_losses(self.answers_NE, self.labels_N, self.shipped_N)


def score(heads: Sequence[LinearHead], part: Part, temperatures: Sequence[float]) -> Scored:
    """What these heads, one for each exit, make of some frames."""
    logits = [head.logits(features) for head, features in zip(heads, part.features, strict=True)]
    sure = [confidence(found, temperature=t) for found, t in zip(logits, temperatures, strict=True)]
    return Scored(
        confidences_NE=np.stack(sure, axis=1),
        answers_NE=np.stack([found.argmax(axis=1) for found in logits], axis=1).astype(np.int64),
        labels_N=part.labels_N,
        shipped_N=part.shipped_N,
    )


def split_calibration(calibration: Part) -> tuple[Part, Part]:
    """The frames on which temperatures are found, and those that certify thresholds."""
    cut = round(SEARCH_SHARE * len(calibration))
    return calibration.take(slice(0, cut)), calibration.take(slice(cut, None))


def temperatures_of(heads: Sequence[LinearHead], search: Part, *, labelled: bool) -> tuple[float, ...]:
    """By exit, fitted on these frames: to their labels, or to what the deepest head says."""
    wanted = search.labels_N if labelled else heads[-1].logits(search.features[-1]).argmax(axis=1)
    pairs = zip(heads, search.features, strict=True)
    return tuple(fit_temperature(head.logits(features), wanted) for head, features in pairs)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Heads, their temperatures, and a path of thresholds that no test frame decided.

    Attributes:
        path_LE: From all exits off to the fastest.
    """

    heads: tuple[LinearHead, ...]
    temperatures: tuple[float, ...]
    path_LE: Float64s
    costs: ExitCosts


def make_policy(heads: tuple[LinearHead, ...], search: Part, costs: ExitCosts, *, labelled: bool) -> Policy:
    """Temperatures, the exits that are worth their cost, and one threshold for these: on frames that certify nothing.

    A threshold of its own for each exit (`littoral.core.risk.searched_path`), found on as many frames, was worse on
    users of another seed: with labels the whole network's accuracy took 44 % of its work and not 39 %.

    Args:
        labelled: These frames have labels: exits are chosen for the shipped network's accuracy, and without them for a
            disagreement of `CHOICE_RISK` with full depth.
    """
    temperatures = temperatures_of(heads, search, labelled=labelled)
    scored = score(heads, search, temperatures)
    losses = scored.losses("excess" if labelled else "disagreement")
    kept = kept_exits(scored.confidences_NE, losses, costs, max_risk=0.0 if labelled else CHOICE_RISK)
    return Policy(heads=heads, temperatures=temperatures, path_LE=path_of(kept), costs=costs)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What thresholds do on test frames.

    Attributes:
        right: Percent.
        compute: The mean cost as a share of the whole network's.
        thresholds: One for each exit but the deepest.
        disagreement, excess: Mean losses on the test frames: the true risk, as well as they tell it.
    """

    right: float
    compute: float
    thresholds: tuple[float, ...]
    disagreement: float
    excess: float


def outcome(policy: Policy, scored: Scored, thresholds: Sequence[float]) -> Outcome:
    """Of these thresholds."""
    leaving = exit_indices(scored.confidences_NE, thresholds)
    rows = np.arange(len(leaving))
    return Outcome(
        right=scored.right(leaving),
        compute=compute_share(leaving, policy.costs, thresholds),
        thresholds=tuple(float(threshold) for threshold in thresholds),
        disagreement=float(scored.losses("disagreement")[rows, leaving].mean()),
        excess=float(scored.losses("excess")[rows, leaving].mean()),
    )


def outcomes_of(policy: Policy, scored: Scored) -> list[Outcome]:
    """Of every step of the path."""
    return [outcome(policy, scored, step) for step in policy.path_LE]


def equal_accuracy(outcomes: Sequence[Outcome], wanted: float) -> Outcome | None:
    """With hindsight: the cheapest step that is right on at least so many percent; None where none is."""
    return min((found for found in outcomes if found.right >= wanted), key=lambda found: found.compute, default=None)


def within_budget(outcomes: Sequence[Outcome], share: float) -> Outcome:
    """The most careful step that costs at most this share of the whole network; the fastest where none does."""
    return next((found for found in outcomes if found.compute <= share), outcomes[-1])


def certified(
    policy: Policy, calibration: Scored, scored: Scored, *, loss: str, level: float, delta: float | None = None
) -> tuple[Outcome, Certified | NotCertified]:
    """The fastest step that calibration frames certify, and what it does on the test frames."""
    found = certify(policy.path_LE, calibration, loss=loss, level=level, delta=delta)
    return outcome(policy, scored, found.thresholds), found


def certify(
    path_LE: Float64s, calibration: Scored, *, loss: str, level: float, delta: float | None = None
) -> Certified | NotCertified:
    """Learn then test: exactly for disagreement, by betting for the excess over the shipped network."""
    if delta is None:
        delta = DELTA_OVER_SHIPPED if loss == "excess" else DELTA
    return learn_then_test(
        path_LE,
        calibration.confidences_NE,
        calibration.losses(loss),
        level=level,
        delta=delta,
        test="betting" if loss == "excess" else "binomial",
    )


def patience(policy: Policy, scored: Scored, num_agreements: int) -> Outcome:
    """What leaving by patience does: every head that is passed is run."""
    leaving = patience_exits(scored.answers_NE, num_agreements)
    rows = np.arange(len(leaving))
    thresholds = (0.0,) * (len(policy.heads) - 1)
    return Outcome(
        right=scored.right(leaving),
        compute=compute_share(leaving, policy.costs, thresholds),
        thresholds=thresholds,
        disagreement=float(scored.losses("disagreement")[rows, leaving].mean()),
        excess=float(scored.losses("excess")[rows, leaving].mean()),
    )
