"""Which exits are worth having? A stem and a head cost something for every frame that passes them.

Of all subsets of the early exits the one is kept that costs least at a risk, on frames that certify nothing afterwards.
The others are off all along a path for `littoral.core.risk` (`path_of`, `kept_only`).
A device chooses anew in each world (`choose_exits`), and keeps the last early exit there.

Source: the choice of classifiers in Laskaridis et al. 2020 (HAPI) and Leontiadis et al. 2021; by exhaustion here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from littoral.core.arrays import Float64s
from littoral.core.exits import OFF, ExitCosts, compute_share, exit_indices
from littoral.core.risk import shared_path

MOST_EXITS = 8
NOT_SURE = -1.0
"""Of an exit at which a frame must not leave."""
_SEARCHED = 20
"""Thresholds that are tried for each subset."""


def kept_exits(confidences_NE: Float64s, losses_NE: Float64s, costs: ExitCosts, *, max_risk: float) -> tuple[bool, ...]:
    """Which early exits to keep: those with which the mean cost is least where the mean loss is at most ``max_risk``.

    Args:
        confidences_NE, losses_NE: ``(N, E)``, of frames that certify nothing afterwards; temperatures applied.
        max_risk: A mean loss; where no subset with any exit reaches it, or none saves anything, all exits are kept.
    Returns:
        One for each early exit, ``E - 1``.
    Raises:
        ValueError: more than `MOST_EXITS` early exits: there would be too many subsets.
    """
    found = _cheapest(confidences_NE, losses_NE, costs, max_risk, (True, False))
    return found.kept if found is not None and found.compute_share < 1 else (True,) * (confidences_NE.shape[1] - 1)


class Choice(NamedTuple):
    """Which early exits to keep, and what they cost with the best threshold in hindsight, over the whole network."""

    kept: tuple[bool, ...]
    compute_share: float


def choose_exits(
    confidences_NE: Float64s, losses_NE: Float64s, costs: ExitCosts, *, max_risk: float, any_sure: bool = False
) -> Choice | None:
    """The cheapest subset with the last early exit; where none such saves anything, the cheapest of all.

    A hundred frames do not tell apart subsets that differ by a few hundredths of the work. Among these the last early
    exit decides how many frames leave at all: it knows most, and its head costs least beside what it saves.

    Args:
        confidences_NE, losses_NE, max_risk: As for `kept_exits`.
        any_sure: Frames may leave at any exit that is sure: of those that are kept the worst counts (`worst_first`).
    Returns:
        None where no subset reaches the risk.
    Raises:
        ValueError: as `kept_exits`.
    """
    found = _cheapest(confidences_NE, losses_NE, costs, max_risk, (True,), any_sure=any_sure)
    if found is not None and found.compute_share < 1:
        return found
    other = _cheapest(confidences_NE, losses_NE, costs, max_risk, (False,), any_sure=any_sure)
    pair = [each for each in (found, other) if each is not None]
    return min(pair, key=lambda each: each.compute_share) if pair else None


def _cheapest(
    confidences_NE: Float64s,
    losses_NE: Float64s,
    costs: ExitCosts,
    max_risk: float,
    last: tuple[bool, ...],
    *,
    any_sure: bool = False,
) -> Choice | None:
    """Of the subsets, the largest first, whose last early exit is one of ``last``; the empty one is not among them."""
    num_early = confidences_NE.shape[1] - 1
    if not 1 <= num_early <= MOST_EXITS:
        raise ValueError(f"a choice is made of 1 to {MOST_EXITS} early exits, got {num_early}")
    path = shared_path(confidences_NE.shape[1])[1:]
    steps = path[:: max(1, len(path) // _SEARCHED)].copy()
    del path
    rows = np.arange(len(losses_NE))
    best: Choice | None = None
    for subset in itertools.product((True, False), repeat=num_early):  # one at a time: memory is short on a device
        if subset[-1] not in last or not any(subset):
            continue
        sure_NE, wrong_NE = kept_only(confidences_NE, subset), losses_NE
        judged_NE = sure_NE
        if any_sure:
            judged_NE, wrong_NE = worst_first(sure_NE, losses_NE)
        for step in steps:
            thresholds = [float(limit) if on else OFF for limit, on in zip(step, subset, strict=True)]
            share = compute_share(exit_indices(sure_NE, thresholds), costs, thresholds)
            if best is not None and share >= best.compute_share:
                continue
            if wrong_NE[rows, exit_indices(judged_NE, step.tolist())].mean() <= max_risk:
                best = Choice(subset, share)
    return best


def kept_only(confidences_NE: Float64s, kept: Sequence[bool]) -> Float64s:
    """Confidences with which no frame leaves at the other early exits, at any threshold."""
    return np.where([*kept, True], confidences_NE, NOT_SURE)


def worst_first(confidences_NE: Float64s, losses_NE: Float64s) -> tuple[Float64s, Float64s]:
    """The early exits of each frame in the order of their losses, the largest first, for whoever may leave at any exit
    that is sure, or at none.

    With one threshold for all exits, the first that is sure is then the worst of those that are, and nothing is worse
    than that: whichever of them is chosen, by whatever rule, the loss is not larger. An exit's loss counts as at least
    that of the end, which may be chosen too. Raising thresholds can only lower it.

    Returns:
        Confidences and losses, the last column the end's.
    """
    early_NE = np.maximum(losses_NE[:, :-1], losses_NE[:, -1:])
    order = np.argsort(-early_NE, axis=1, kind="stable")
    confidences, losses = confidences_NE.copy(), losses_NE.copy()
    confidences[:, :-1] = np.take_along_axis(confidences_NE[:, :-1], order, axis=1)
    losses[:, :-1] = np.take_along_axis(early_NE, order, axis=1)
    return confidences, losses


def path_of(kept: tuple[bool, ...]) -> Float64s:
    """`littoral.core.risk.shared_path` for the exits that are kept; the others are off throughout."""
    path = shared_path(len(kept) + 1)
    path[:, ~np.array(kept)] = OFF
    return path
