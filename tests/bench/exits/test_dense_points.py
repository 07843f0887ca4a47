"""Points of a segmentation exit: what is saved, what is lost, how a point is chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from littoral.bench.exits.dense_points import (
    DenseSeen,
    certified_over_halves,
    cheapest_within,
    chosen_elsewhere,
    curve_of,
    over_halves,
    path_of,
    point_of,
    whole_of,
)
from littoral.core.exits import OFF, ExitCosts

COSTS = ExitCosts(segment_macs=(40, 60), head_macs=(10, 0))


def seen_of(exit_errors: list[float], sure: list[float], pixels: int = 100) -> DenseSeen:
    """Frames of two classes, half of each; the whole network is right, the exit errs on so many pixels of each."""
    half = pixels // 2
    confusions = np.zeros((len(sure), 2, 2, 2), np.int64)
    for i, error in enumerate(exit_errors):
        wrong = round(error * half)
        confusions[i, 0] = [[half - wrong, wrong], [wrong, half - wrong]]
        confusions[i, 1] = [[half, 0], [0, half]]
    errors = np.stack([np.array(exit_errors), np.zeros(len(sure))], axis=1)
    return DenseSeen(
        confusions_NEKK=confusions,
        errors_NE=errors,
        disagreement_NE=errors,
        sure={"mean": np.stack([np.array(sure), np.ones(len(sure))], axis=1)},
    )


def test_a_point_counts_the_exits_own_work_also_for_frames_that_go_on() -> None:
    seen = seen_of([0.0, 0.5], [0.9, 0.2])
    point = point_of(seen, "mean", [0.5], COSTS)
    assert point.exit_rates == (0.5, 0.5)
    assert point.macs == pytest.approx((50 + 110) / 2)
    assert point.miou == pytest.approx(100)
    assert whole_of(seen, "mean", COSTS).macs == 100


def test_mean_iou_is_of_all_frames_together_and_not_a_mean_over_frames() -> None:
    seen = seen_of([0.0, 0.5], [0.9, 0.8])
    point = point_of(seen, "mean", [0.0], COSTS)
    assert point.miou == pytest.approx(100 * 75 / 125)
    assert point.pixel_accuracy == pytest.approx(75)
    assert point.ratio == pytest.approx(2.0)


def test_the_cheapest_point_is_taken_within_the_points_that_may_be_lost_and_none_beyond() -> None:
    seen = seen_of([0.0] * 9 + [0.4], [0.9] * 9 + [0.1])
    points = curve_of(seen, "mean", path_of(seen.sure["mean"]), COSTS)
    best = cheapest_within(points, whole=100.0, lost=1.0)
    assert best is not None
    assert best.exit_rates == (0.9, 0.1)
    all_leave = cheapest_within(points, whole=100.0, lost=20.0)
    assert all_leave is not None
    assert all_leave.exit_rates == (1.0, 0.0)
    assert cheapest_within(points, whole=102.0, lost=1.0) is None


def test_a_path_begins_with_all_off_and_ends_with_everything_leaving() -> None:
    sure = seen_of([0.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.4]).sure["mean"]
    path = path_of(sure)
    assert path[0, 0] == OFF
    assert path[-1, 0] == 0
    assert (np.diff(path[1:, 0]) < 0).all()


def test_a_threshold_that_was_chosen_elsewhere_may_lose_more_than_was_allowed() -> None:
    easy = seen_of([0.0] * 10, [0.6] * 10)
    hard = seen_of([0.3] * 10, [0.6] * 10)
    point = chosen_elsewhere(easy, hard, "mean", COSTS)
    assert point.exit_rates == (1.0, 0.0)
    assert point.miou < 99
    careful = chosen_elsewhere(hard, easy, "mean", COSTS)
    assert careful.thresholds == (math.inf,)
    assert careful.ratio == 1.0


def test_nothing_is_certified_for_an_exit_that_errs_and_all_for_one_that_does_not() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.2, 0.9, 120).tolist()
    good, bad = seen_of([0.0] * 120, sure), seen_of([0.5] * 120, sure)
    path = path_of(good.sure["mean"])
    answers = {}
    for name, seen in (("good", good), ("bad", bad)):
        answers[name] = certified_over_halves(
            seen,
            "mean",
            path,
            COSTS,
            losses_NE=seen.errors_NE - seen.errors_NE[:, -1:],
            level=0.1,
            largest=1.0,
            splits=10,
        )
    assert answers["good"]["macs_ratio"] == pytest.approx(2.0)
    assert answers["good"]["violations"] == 0
    assert answers["bad"]["macs_ratio"] < 1.05
    assert answers["bad"]["points_lost_mean"] < 20  # of 67 points, were every frame to leave


def test_small_losses_can_only_be_certified_where_a_frames_loss_is_bounded_by_little() -> None:
    rng = np.random.default_rng(0)
    seen = seen_of(rng.choice([0.0, 0.02], 120).tolist(), rng.uniform(0.2, 0.9, 120).tolist())
    path = path_of(seen.sure["mean"])
    made = [
        certified_over_halves(
            seen, "mean", path, COSTS, losses_NE=seen.errors_NE, level=0.03, largest=largest, splits=5
        )
        for largest in (0.2, 1.0)
    ]
    assert made[0]["certified"] == 1.0
    assert made[0]["violations"] == 0.0
    assert made[1]["certified"] == 0.0


def test_choosing_on_a_half_reports_what_the_other_half_lost() -> None:
    same = over_halves(seen_of([0.0] * 20, [0.5] * 20), "mean", COSTS, splits=5)
    assert same["points_lost_mean"] == 0
    assert same["macs_ratio"] == pytest.approx(2.0)
    rng = np.random.default_rng(1)
    errors = np.where(rng.random(40) < 0.1, 0.4, 0.0)
    mixed = over_halves(seen_of(errors.tolist(), rng.uniform(0.4, 0.6, 40).tolist()), "mean", COSTS, splits=20)
    assert mixed["points_lost_p90"] > 0
    assert 0 < mixed["more_than_allowed"] < 1
