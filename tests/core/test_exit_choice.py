"""Which exits are kept: those that pay for what they cost every frame."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.core.arrays import Float64s
from littoral.core.exit_choice import choose_exits, kept_exits, path_of
from littoral.core.exits import OFF, ExitCosts

N = 200


def frames(*right: float) -> tuple[Float64s, Float64s]:
    """Early exits that are sure of so large a share of the frames and right on these, and of no others."""
    rng = np.random.default_rng(1)
    ease = rng.random(N)
    sure = np.stack([np.where(ease < share, 0.99, 0.3) for share in right] + [np.ones(N)], axis=1)
    losses = np.stack([(ease >= share).astype(float) for share in right] + [np.zeros(N)], axis=1)
    return sure, losses


def costs(head: int) -> ExitCosts:
    return ExitCosts(segment_macs=(100, 100, 800), head_macs=(head, head, 1))


def test_an_exit_that_answers_hardly_a_frame_is_dropped_and_kept_when_it_costs_nothing() -> None:
    sure, losses = frames(0.02, 0.6)
    assert kept_exits(sure, losses, costs(50), max_risk=0.02) == (False, True)
    assert kept_exits(sure, losses, costs(0), max_risk=0.02) == (True, True)


def test_where_nothing_reaches_the_risk_all_are_kept() -> None:
    sure, losses = frames(0.5, 0.6)
    losses[:, :2] = 1
    assert kept_exits(sure, losses, costs(1), max_risk=0.0) == (True, True)


def test_a_choice_for_a_world_keeps_the_last_early_exit_unless_nothing_is_saved_with_it() -> None:
    """The first exit alone is the cheapest by a little; the last one decides how many leave."""
    sure, losses = frames(0.5, 0.9)
    end_is_cheap = ExitCosts(segment_macs=(100, 800, 10), head_macs=(1, 11, 1))
    assert kept_exits(sure, losses, end_is_cheap, max_risk=0.02) == (True, False)
    found = choose_exits(sure, losses, end_is_cheap, max_risk=0.02)
    assert found is not None
    assert found.kept == (True, True)
    assert found.compute_share < 1
    dear = ExitCosts(segment_macs=(100, 800, 10), head_macs=(1, 2000, 1))
    other = choose_exits(sure, losses, dear, max_risk=0.02)
    assert other is not None
    assert other.kept == (True, False)
    assert choose_exits(sure, np.ones_like(losses), costs(1), max_risk=0.02) is None


def test_exits_that_were_dropped_are_off_all_along_the_path() -> None:
    path = path_of((False, True))
    assert (path[:, 0] == OFF).all()
    assert np.isfinite(path[1:, 1]).all()


def test_too_many_exits_for_a_choice_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 8 early exits, got 9"):
        kept_exits(np.ones((5, 10)), np.zeros((5, 10)), costs(1), max_risk=0.0)
    with pytest.raises(ValueError, match="1 to 8 early exits, got 9"):
        choose_exits(np.ones((5, 10)), np.zeros((5, 10)), costs(1), max_risk=0.0)
