"""Thresholds that keep a risk: the promise holds over many calibrations, and without the test it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.exits import OFF, ExitCosts, exit_indices
from littoral.core.risk import (
    Certified,
    Hindsight,
    NotCertified,
    RiskAlarm,
    Test,
    best_in_hindsight,
    betting_p_value,
    binomial_p_value,
    control_expected_risk,
    delta_of_recalibration,
    errors_allowed,
    hoeffding_bentkus_p_value,
    learn_then_test,
    losses_along,
    p_value,
    searched_path,
    shared_path,
)

COSTS = ExitCosts(segment_macs=(100,) * 4, head_macs=(1,) * 4)
PATH = shared_path(4, list(np.linspace(0.96, 0.4, 24)))
CALIBRATIONS = 200
DELTA = 0.1


def pool(num_frames: int = 8_000) -> tuple[np.ndarray, np.ndarray]:
    """Confidences and losses of four exits; an exit is wrong about as often as it is unsure, the deepest never."""
    rng = np.random.default_rng(8)
    hard = rng.random((num_frames, 1)) ** 2
    sure = 1 - hard * rng.random((num_frames, 4)) * np.array([1.0, 0.9, 0.8, 0.5])
    wrong = (rng.random((num_frames, 4)) < (1 - sure) * np.array([1.2, 1.1, 1.0, 0.0])).astype(float)
    return sure, wrong


SURE, WRONG = pool()
TRUE_RISK = losses_along(PATH, SURE, WRONG).mean(axis=1)


def calibrations(num_frames: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, len(SURE), num_frames) for _ in range(CALIBRATIONS)]


@pytest.mark.parametrize("test", ["binomial", "hoeffding-bentkus"])
def test_the_true_risk_exceeds_the_level_in_no_more_than_the_stated_share_of_calibrations(test: Test) -> None:
    level = 0.05
    certified = []
    for chosen in calibrations(300, seed=1):
        choice = learn_then_test(PATH, SURE[chosen], WRONG[chosen], level=level, delta=DELTA, test=test)
        assert isinstance(choice, Certified)
        certified.append(TRUE_RISK[choice.step] > level)
    assert np.mean(certified) <= DELTA


def test_without_the_guarantee_the_level_is_overstepped_far_more_often() -> None:
    level = 0.05
    over = []
    for chosen in calibrations(300, seed=1)[:100]:
        choice = best_in_hindsight(PATH, SURE[chosen], WRONG[chosen], COSTS, max_risk=level)
        assert isinstance(choice, Hindsight)
        over.append(TRUE_RISK[choice.step] > level)
    assert np.mean(over) > 3 * DELTA


def test_no_worse_than_shipped_holds_at_a_level_of_zero_and_does_not_when_the_mean_is_believed() -> None:
    """Losses of -1, 0 and 1: exits that are a little better than the shipped model when sure, worse when not."""
    rng = np.random.default_rng(2)
    shipped_wrong = (rng.random(len(SURE)) < 0.12).astype(float)
    excess = WRONG - shipped_wrong[:, None]
    true_risk = losses_along(PATH, SURE, excess).mean(axis=1)
    tested, believed = [], []
    path, true_risk = PATH[::3], true_risk[::3]
    for chosen in calibrations(300, seed=3):
        choice = learn_then_test(path, SURE[chosen], excess[chosen], level=0.0, delta=DELTA, test="betting")
        tested.append(isinstance(choice, Certified) and true_risk[choice.step] > 0)
        steps = np.flatnonzero(losses_along(path, SURE[chosen], excess[chosen]).mean(axis=1) <= 0)
        believed.append(len(steps) > 0 and true_risk[steps[-1]] > 0)
    assert np.mean(tested) <= DELTA
    assert np.mean(believed) > 3 * DELTA


def test_conformal_risk_control_keeps_the_expected_loss_and_the_plain_mean_does_not() -> None:
    level, controlled, plain = 0.05, [], []
    for chosen in calibrations(60, seed=4)[:60]:
        choice = control_expected_risk(PATH, SURE[chosen], WRONG[chosen], level=level)
        controlled.append(TRUE_RISK[choice.step] if isinstance(choice, Certified) else 0.0)
        believed = best_in_hindsight(PATH, SURE[chosen], WRONG[chosen], COSTS, max_risk=level)
        assert believed is not None
        plain.append(TRUE_RISK[believed.step])
    assert np.mean(controlled) <= level < np.mean(plain)


def test_a_searched_path_certified_on_other_frames_keeps_the_level_and_on_its_own_frames_it_need_not() -> None:
    level = 0.05
    certified, believed = [], []
    for chosen in calibrations(600, seed=5)[:14]:
        path = searched_path(SURE[chosen[:100]], WRONG[chosen[:100]], COSTS, num_candidates=10)
        choice = learn_then_test(path, SURE[chosen[100:]], WRONG[chosen[100:]], level=level, delta=DELTA)
        found = best_in_hindsight(path, SURE[chosen[:100]], WRONG[chosen[:100]], COSTS, max_risk=level)
        assert found is not None
        for thresholds, over in ((choice.thresholds, certified), (found.thresholds, believed)):
            leaving = exit_indices(SURE, thresholds)
            over.append(WRONG[np.arange(len(SURE)), leaving].mean() > level)
    assert np.mean(certified) <= DELTA
    assert np.mean(believed) > 3 * DELTA


def test_a_searched_path_begins_with_all_exits_off_and_only_ever_lowers_a_threshold() -> None:
    path = searched_path(SURE[:300], WRONG[:300], COSTS)
    assert (path[0] == OFF).all()
    assert (path[1:] <= path[:-1]).all()


@pytest.mark.parametrize(
    ("level", "num_frames", "allowed"),
    [(0.01, 229, None), (0.01, 230, 0), (0.02, 500, 5), (0.05, 200, 5), (0.05, 1000, 40), (0.1, 2000, 182)],
)
def test_how_many_errors_are_allowed_is_as_in_the_published_table(level: float, num_frames: int, allowed: int) -> None:
    assert errors_allowed(num_frames, level, 0.1) == allowed


@given(n=st.integers(1, 60), share=st.floats(0, 1), level=st.floats(0.01, 0.9))
@settings(max_examples=30, deadline=None)
def test_the_binomial_tail_is_the_sum_of_its_terms_and_the_other_bounds_are_no_smaller_than_honest(
    n: int, share: float, level: float
) -> None:
    k = round(share * n)
    exact = math.fsum(math.comb(n, i) * level**i * (1 - level) ** (n - i) for i in range(k + 1))
    assert binomial_p_value(k, n, level) == pytest.approx(exact, rel=1e-9)
    losses = np.array([1.0] * k + [0.0] * (n - k))
    assert hoeffding_bentkus_p_value(losses, level) >= min(exact, 1) - 1e-9


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_bet_never_loses_more_than_it_has_and_zero_losses_win(seed: int) -> None:
    losses = np.random.default_rng(seed).integers(-1, 2, 200).astype(float)
    assert 0 < betting_p_value(losses, 0.0) <= 1
    assert betting_p_value(np.zeros(200), 0.05) < 0.1 < betting_p_value(np.ones(200), 0.05)


def test_the_step_before_the_first_that_fails_is_taken_and_none_after_it_even_if_it_would_pass() -> None:
    path = shared_path(2, [0.9, 0.8, 0.7, 0.6])
    sure = np.repeat([0.95, 0.85, 0.75, 0.65], 50)[:, None] * np.ones((1, 2))
    wrong = np.zeros((200, 2))
    wrong[50:100, 0] = 1  # the second step fails
    choice = learn_then_test(path, sure, wrong, level=0.2, delta=0.1)
    assert isinstance(choice, Certified)
    assert (choice.step, choice.thresholds, choice.empirical_risk) == (1, (0.9,), 0)


def test_too_few_frames_promise_nothing_and_leave_all_exits_off() -> None:
    for choice in (
        learn_then_test(PATH, SURE[:20], np.zeros((20, 4)), level=0.01),
        control_expected_risk(PATH, SURE[:20], np.zeros((20, 4)), level=0.01),
    ):
        assert isinstance(choice, NotCertified)
        assert choice.thresholds == (OFF,) * 3
        assert "20 frames" in choice.why


def test_a_risk_that_even_the_whole_network_exceeds_is_not_promised() -> None:
    assert isinstance(learn_then_test(PATH, SURE[:500], np.ones((500, 4)), level=0.1), NotCertified)


def test_what_was_best_in_hindsight_is_of_another_type_than_what_is_certified() -> None:
    found = best_in_hindsight(PATH, SURE, WRONG, COSTS, max_risk=0.05)
    assert isinstance(found, Hindsight)
    assert not isinstance(found, Certified)
    assert not hasattr(found, "delta")
    assert best_in_hindsight(PATH, SURE, WRONG + 1, COSTS, max_risk=0.05) is None


def test_losses_that_a_test_does_not_allow_are_refused() -> None:
    for losses, test in (
        (np.array([0.5]), "binomial"),
        (np.array([-1.0]), "hoeffding-bentkus"),
        (np.array([2.0]), "betting"),
    ):
        with pytest.raises(ValueError, match="losses"):
            p_value(losses, 0.1, test=test)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite"):
        learn_then_test(PATH, np.full((5, 4), np.nan), np.zeros((5, 4)), level=0.1)
    with pytest.raises(ValueError, match="losses from 0 to 1"):
        control_expected_risk(PATH, SURE[:5], -np.ones((5, 4)), level=0.1)


def test_all_recalibrations_together_spend_no_more_than_delta() -> None:
    assert sum(delta_of_recalibration(0.1, number) for number in range(1, 5000)) < 0.1


def rings_at(risk: float, *, seed: int, num_audits: int = 400, good_before: int = 0) -> int | None:
    rng = np.random.default_rng(seed)
    alarm = RiskAlarm(level=0.05, delta=0.1)
    risks = [0.02] * good_before + [risk] * num_audits
    return next((i for i, r in enumerate(risks) if alarm.add(float(rng.random() < r))), None)


def test_the_alarm_seldom_rings_at_the_level_and_soon_above_it_even_after_a_long_good_time() -> None:
    false = [rings_at(0.05, seed=seed) is not None for seed in range(60)]
    assert np.mean(false) <= 0.1
    late = [rings_at(0.3, seed=seed, good_before=500) for seed in range(12)]
    assert all(at is not None and at < 500 + 120 for at in late)


def test_an_alarm_that_rang_stays_on() -> None:
    alarm = RiskAlarm(level=0.05, delta=0.1)
    assert any(alarm.add(1.0) for _ in range(10))
    assert all(alarm.add(0.0) for _ in range(100))
