"""Distances between rate curves, against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the bench needs its extra")

from littoral.bench.split.curves import Curve, accuracy_at, bytes_at, delta_accuracy, delta_rate

STRAIGHT = Curve(num_bytes=(10.0, 100.0, 1000.0), accuracy=(70.0, 80.0, 90.0))
"""Ten points for each factor of ten: PCHIP through points on a line is the line."""


def test_a_curve_that_is_ten_points_higher_is_ten_points_higher() -> None:
    higher = Curve(num_bytes=STRAIGHT.num_bytes, accuracy=(80.0, 90.0, 100.0))
    assert delta_accuracy(higher, STRAIGHT) == pytest.approx(10.0)
    assert delta_accuracy(STRAIGHT, higher) == pytest.approx(-10.0)


def test_half_the_bytes_everywhere_is_minus_a_half_and_its_inverse_plus_one() -> None:
    half = Curve(num_bytes=(5.0, 50.0, 500.0), accuracy=STRAIGHT.accuracy)
    assert delta_rate(half, STRAIGHT) == pytest.approx(-0.5)
    assert delta_rate(STRAIGHT, half) == pytest.approx(1.0)
    assert delta_accuracy(half, STRAIGHT) == pytest.approx(10 * math.log10(2))


def test_only_the_common_range_counts() -> None:
    # From 100 to 1000 bytes the second lies 2 points higher; below, where the first has nothing, it does what it likes.
    first = Curve(num_bytes=(100.0, 1000.0), accuracy=(80.0, 90.0))
    second = Curve(num_bytes=(100.0, 1000.0, 10_000.0), accuracy=(82.0, 92.0, 102.0))
    assert delta_accuracy(second, first) == pytest.approx(2.0)


def test_the_mean_is_over_the_logarithm_of_the_bytes() -> None:
    # A line from +0 at 10 bytes to +4 at 1000: +2 over the logarithm, about +3.1 over the bytes.
    first = Curve(num_bytes=(10.0, 1000.0), accuracy=(70.0, 90.0))
    second = Curve(num_bytes=(10.0, 1000.0), accuracy=(70.0, 94.0))
    assert delta_accuracy(second, first) == pytest.approx(2.0)


def test_between_points_the_cubic_does_not_overshoot() -> None:
    # A step: a cubic through all four points would leave 0..10 between them.
    steps = Curve(num_bytes=(1.0, 10.0, 100.0, 1000.0), accuracy=(0.0, 0.1, 9.9, 10.0))
    floor = Curve(num_bytes=(1.0, 10.0), accuracy=(0.0, 1e-9))
    assert 0 < (delta_accuracy(steps, floor) or 0) < 0.1


def test_curves_that_share_nothing_have_no_distance() -> None:
    far = Curve(num_bytes=(1e4, 1e5), accuracy=(95.0, 96.0))
    assert delta_accuracy(far, STRAIGHT) is None
    assert delta_rate(far, STRAIGHT) is None
    assert delta_rate(Curve(num_bytes=(50.0,), accuracy=(80.0,)), STRAIGHT) is None


def test_the_bytes_of_an_accuracy_lie_on_the_logarithm() -> None:
    assert bytes_at(STRAIGHT, 75.0) == pytest.approx(math.sqrt(1000))
    assert bytes_at(STRAIGHT, 90.0) == pytest.approx(1000.0)
    assert bytes_at(STRAIGHT, 69.9) is None
    assert bytes_at(STRAIGHT, 90.1) is None


def test_more_bytes_than_the_last_point_reach_what_it_reaches() -> None:
    assert accuracy_at(STRAIGHT, math.sqrt(1000)) == pytest.approx(75.0)
    assert accuracy_at(STRAIGHT, 1e6) == 90.0
    assert accuracy_at(STRAIGHT, 9.0) is None
    with pytest.raises(ValueError, match="sends nothing"):
        accuracy_at(STRAIGHT, 0.0)


def test_a_point_that_costs_more_and_is_no_better_is_left_out() -> None:
    measured = [(300.0, 88.0), (100.0, 80.0), (200.0, 79.0), (300.0, 85.0), (400.0, 88.0)]
    assert Curve.of(measured) == Curve(num_bytes=(100.0, 300.0), accuracy=(80.0, 88.0))


@pytest.mark.parametrize("points", [[], [(0.0, 50.0)]], ids=["none", "no bytes"])
def test_points_that_make_no_curve_are_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="a curve has bytes above 0"):
        Curve.of(points)


def test_the_cubic_is_the_one_of_scipy_at_a_place_worked_by_hand() -> None:
    # Slopes of the two pieces 1 and 3 (per unit of log): PCHIP's slope at the middle point is their harmonic mean 1.5,
    # at the ends (3*1-3)/2 = 0 and (3*3-1)/2 = 4. The mean over the first piece of the cubic Hermite is
    # (y0 + y1) / 2 + h (d0 - d1) / 12 = 0.5 - 1.5 / 12.
    curve = Curve(num_bytes=tuple(np.exp([0.0, 1.0, 2.0])), accuracy=(0.0, 1.0, 4.0))
    flat = Curve(num_bytes=tuple(np.exp([0.0, 1.0])), accuracy=(0.0, 1e-12))
    assert delta_accuracy(curve, flat) == pytest.approx(0.5 - 1.5 / 12, abs=1e-5)
