"""A price is taken where its router is surely near enough to a picture: by half a point, its own error taken off."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.bench.routing.choose import NEAR, _surely_near


@pytest.mark.parametrize(("points", "near"), [(0.0, True), (0.4, True), (0.9, False), (2.0, False), (4.5, False)])
def test_half_a_point_less_is_near_enough_to_a_picture_and_a_point_is_not(points: float, near: bool) -> None:
    frames = 100_000
    wanted = np.ones(frames, np.bool_)
    right = wanted.copy()
    right[: round(points * frames / 100)] = False
    assert _surely_near(right, wanted) == near
    assert NEAR == 0.005


def test_what_is_near_only_within_its_own_error_is_not_surely_near() -> None:
    wanted, right = np.ones(1_000, np.bool_), np.ones(1_000, np.bool_)
    right[:4] = False  # 0.4 points, give or take 0.2
    assert not _surely_near(right, wanted)
