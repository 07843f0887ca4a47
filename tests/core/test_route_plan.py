"""Curves and backward induction, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from littoral.core.route_plan import ErrorCurves, fit_curves, make_plan

# One exit and the whole network, two bins each, one way. Half of the frames are unsure (bin 0) at the exit; of these
# half are unsure at the end; the others stay sure.
BY_HAND = ErrorCurves(
    edges=np.array([[0.5], [0.5]]),
    sure=np.array([[0.25, 0.75], [0.25, 0.75]]),
    local=np.array([[0.6, 0.1], [0.4, 0.02]]),
    cloud=np.array([[[0.1, 0.0], [0.15, 0.01]]]),
    cloud_mean=np.array([0.05]),
    first=np.array([0.5, 0.5]),
    onward=np.array([[[0.5, 0.5], [0.0, 1.0]]]),
)


def test_backward_induction_is_what_the_hand_gets() -> None:
    plan = make_plan(BY_HAND, step_losses=(0.01, 0.02), way_losses=(0.2,), way_points=(1,), thresholds=(0.7,))
    # At the end: min(0.4, 0.2 + 0.15) = 0.35 and min(0.02, 0.21) = 0.02.
    assert plan.onward[1] == pytest.approx([0.02 + (0.35 + 0.02) / 2, 0.02 + 0.02])
    assert plan.offload[0, 1] == pytest.approx([0.3, 0.2])
    # At the exit: unsure min(-, 0.205, 0.3) and sure min(0.1, 0.04, 0.2).
    assert plan.onward[0] == pytest.approx([0.01 + (0.205 + 0.04) / 2] * 2)
    assert (plan.offload[0, 0] == math.inf).all()


def test_a_way_that_is_shut_and_an_exit_that_is_off_are_not_counted_on() -> None:
    plan = make_plan(BY_HAND, step_losses=(0.01, 0.02), way_losses=(math.inf,), way_points=(1,), thresholds=(math.inf,))
    assert plan.onward[1] == pytest.approx([0.02 + (0.4 + 0.02) / 2, 0.04])
    assert (plan.offload == math.inf).all()


def test_distrust_makes_an_early_exit_worth_less_and_the_whole_network_not() -> None:
    shared = {"step_losses": (0, 0.2), "way_losses": (math.inf,), "way_points": (1,), "thresholds": (0.7,)}
    calm, wary = make_plan(BY_HAND, **shared), make_plan(BY_HAND, **shared, exit_extra=0.9)
    assert wary.onward[1] == pytest.approx([0.2 + (0.4 + 0.02) / 2, 0.2 + 0.02])
    assert wary.onward[1] == pytest.approx(calm.onward[1])
    # A sure frame would leave at the exit for 0.1; distrusted it goes on for 0.22.
    assert calm.onward[0] == pytest.approx([(0.41 + 0.1) / 2] * 2)
    assert wary.onward[0] == pytest.approx([(0.41 + 0.22) / 2] * 2)


def test_fitted_curves_find_the_rates_they_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random((20_000, 2))
    wrong = (rng.random((20_000, 2)) < 1 - sure).astype(float)
    cloud = (rng.random((20_000, 1)) < 0.1).astype(float)
    curves = fit_curves(sure, wrong, cloud, num_bins=5)
    # Bins end at a 25th, 4, 9 and 16 of the confidences, which are drawn evenly.
    assert curves.edges[0] == pytest.approx([0.04, 0.16, 0.36, 0.64], abs=0.01)
    assert curves.local[0] == pytest.approx([0.98, 0.9, 0.74, 0.5, 0.18], abs=0.03)
    assert curves.cloud[0, 1] == pytest.approx([0.1] * 5, abs=0.03)
    assert curves.onward.sum(axis=2) == pytest.approx(1)
    assert [curves.bin_of(0, value) for value in (0.01, 0.2, 0.99, math.nan)] == [0, 2, 4, 0]


def test_a_gain_that_was_predicted_keeps_bins_from_gaining_by_luck() -> None:
    """An offload gains two percent in the hardest twentieth and nothing elsewhere; curves of 3,000 frames each."""
    lucky = {True: 0.0, False: 0.0}
    for seed in range(20):
        rng = np.random.default_rng([seed, 5])
        ease = rng.random(3_000)
        gains = np.where(ease < 0.05, 0.02, 0.0)
        wrong = (rng.random(3_000) < 0.3 * (1 - ease)).astype(float)
        cloud = (rng.random(3_000) < 0.3 * (1 - ease) - gains).astype(float)
        for predicts in lucky:
            curves = fit_curves(
                ease[:, None], wrong[:, None], cloud[:, None], gains_NP=gains[:, None] if predicts else None
            )
            lucky[predicts] += float((curves.local[0, 6:] - curves.cloud[0, 0, 6:]).max()) / 20
    assert lucky[False] > 0.015  # the best of what gains nothing
    assert lucky[True] < lucky[False] / 2


def test_predicted_gains_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="predicted gains are finite"):
        fit_curves(np.ones((50, 1)), np.zeros((50, 1)), np.zeros((50, 1)), gains_NP=np.zeros((50, 2)))


def test_few_frames_make_bins_of_one_size_so_that_none_is_nearly_empty() -> None:
    sure = np.linspace(0, 1, 64)[:, None]
    curves = fit_curves(sure, np.zeros((64, 1)), np.zeros((64, 0)), num_bins=8)
    assert curves.edges[0] == pytest.approx(np.arange(1, 8) / 8, abs=0.02)


def test_going_on_is_worth_what_was_counted_and_not_what_a_chain_of_bins_would_forget() -> None:
    """Half of the frames are easy and never wrong. The exit tells which, the whole network's confidence does not."""
    rng = np.random.default_rng(2)
    easy = np.arange(8000) % 2 == 0
    sure = np.stack([np.where(easy, 0.9, 0.3) + 0.05 * rng.random(8000), rng.random(8000)], axis=1)
    wrong = np.stack([np.where(easy, 0.0, 1.0), np.where(easy, 0.0, rng.random(8000) < 0.4 * (1 - sure[:, 1]))], axis=1)
    curves = fit_curves(sure, wrong, np.zeros((8000, 0)), num_bins=4, prior_frames=1.0)
    plan = make_plan(curves, step_losses=(0, 0), way_losses=(), way_points=(), thresholds=(math.inf,))
    easy_bin, hard_bin = curves.bin_of(0, 0.95), curves.bin_of(0, 0.3)
    assert plan.onward[1, hard_bin] == pytest.approx(0.2, abs=0.03)
    forgetful = float(curves.local[1] @ np.diff([0, 1 / 16, 4 / 16, 9 / 16, 1]))  # what all frames get
    assert forgetful == pytest.approx(0.1, abs=0.02)
    assert plan.onward[1, easy_bin] < 0.6 * forgetful


def test_a_surer_bin_is_never_wrong_more_often_and_no_bin_is_perfect() -> None:
    rng = np.random.default_rng(1)
    curves = fit_curves(rng.random((60, 1)), (rng.random((60, 1)) < 0.3).astype(float), np.zeros((60, 1)), num_bins=10)
    assert (np.diff(curves.local[0]) <= 1e-12).all()
    assert curves.local.min() > 0


def test_ways_that_differ_by_luck_are_taken_to_be_alike_and_those_that_differ_are_not() -> None:
    apart, lucky = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        sure = rng.random((800, 1))
        draws = rng.random((800, 3))
        curves = fit_curves(sure, np.zeros((800, 1)), (draws < np.array([0.05, 0.05, 0.2])).astype(float))
        lucky.append(np.ptp(curves.cloud[:2, 0], axis=0).max())
        apart.append(curves.cloud[2, 0].mean() - curves.cloud[0, 0].mean())
    by_bins_alone = 0.05  # the deviation of a mean of 40 frames, twice, is more than that
    assert np.median(lucky) < by_bins_alone / 2
    assert np.mean(apart) == pytest.approx(0.15, abs=0.02)


def test_equal_confidences_leave_bins_empty_and_curves_finite() -> None:
    curves = fit_curves(np.ones((50, 2)), np.zeros((50, 2)), np.zeros((50, 1)))
    assert np.isfinite(curves.local).all()
    assert np.isfinite(curves.onward).all()


def test_bins_may_be_of_another_score_than_the_confidence() -> None:
    rng = np.random.default_rng(2)
    sure = rng.random((400, 1))
    curves = fit_curves(sure, (sure > 0.5).astype(float), np.zeros((400, 1)), scores_NP=1 - sure, num_bins=4)
    assert curves.local[0, 0] > 0.9
    assert curves.local[0, -1] < 0.1
    assert curves.sure[0, 0] > curves.sure[0, -1]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 20 frames"):
        fit_curves(np.ones((5, 1)), np.ones((5, 1)), np.ones((5, 1)))
    with pytest.raises(ValueError, match="not finite"):
        fit_curves(np.full((20, 1), np.nan), np.ones((20, 1)), np.ones((20, 1)))
    with pytest.raises(ValueError, match="thresholds are for"):
        make_plan(BY_HAND, step_losses=(0, 0), way_losses=(0.1,), way_points=(1,), thresholds=())


def test_a_better_way_is_thought_to_gain_where_the_ways_are_wrong_and_not_where_all_are_right() -> None:
    """The unsure bin has too few frames to count it: what is counted everywhere is told apart by how hard it is."""
    rng = np.random.default_rng(3)
    n = 3_000
    hard = np.linspace(1, 0, n) ** 3
    sure, device = (1 - hard)[:, None], (rng.random((n, 1)) < 0.6 * hard[:, None]).astype(float)
    cloud = np.stack([rng.random(n) < 0.5 * hard, rng.random(n) < 0.25 * hard], axis=1).astype(float)
    gains = (0.6 * hard - 0.375 * hard)[:, None]
    curves = fit_curves(sure, device, cloud, gains_NP=gains, num_bins=20)
    better_B = curves.cloud[0, 0] - curves.cloud[1, 0]
    assert better_B[0] == pytest.approx(0.25, abs=0.08), "a quarter, of the hardest frames"
    assert abs(better_B[-1]) < 0.02
    assert curves.cloud_mean[0] - curves.cloud_mean[1] == pytest.approx(0.0625, abs=0.02), "of all of them"
