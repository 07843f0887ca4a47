"""Which exits are worth having? A stem and a head cost something for every frame that passes them.

Of all subsets of the early exits the one is kept that costs least at a risk, on frames that certify nothing afterwards.
What comes out is a path for `littoral.core.risk`: one threshold for the exits that are kept, the others off.

Source: the choice of classifiers in Laskaridis et al. 2020 (HAPI) and Leontiadis et al. 2021; by exhaustion here.
"""

from __future__ import annotations

import itertools

import numpy as np

from littoral.core.exits import OFF, ExitCosts, Float64s, compute_share, exit_indices
from littoral.core.risk import shared_path

MOST_EXITS = 8
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
    num_early = confidences_NE.shape[1] - 1
    if not 1 <= num_early <= MOST_EXITS:
        raise ValueError(f"a choice is made of 1 to {MOST_EXITS} early exits, got {num_early}")
    path = shared_path(num_early + 1)[1:]
    steps = path[:: max(1, len(path) // _SEARCHED)]
    rows, best = np.arange(len(losses_NE)), 1.0
    kept: tuple[bool, ...] = (True,) * num_early
    for subset in itertools.product((True, False), repeat=num_early):
        for step in steps if any(subset) else ():
            thresholds = [float(limit) if on else OFF for limit, on in zip(step, subset, strict=True)]
            leaving = exit_indices(confidences_NE, thresholds)
            share = compute_share(leaving, costs, thresholds)
            if share < best and losses_NE[rows, leaving].mean() <= max_risk:
                best, kept = share, subset
    return kept


def path_of(kept: tuple[bool, ...]) -> Float64s:
    """`littoral.core.risk.shared_path` for the exits that are kept; the others are off throughout."""
    path = shared_path(len(kept) + 1)
    path[:, ~np.array(kept)] = OFF
    return path
