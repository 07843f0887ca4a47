"""Exits: how sure, where to leave, what it saves."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.exits import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    OFF,
    ExitCosts,
    Score,
    compute_share,
    confidence,
    disagreement_losses,
    error_losses,
    excess_losses,
    exit_indices,
    exit_of_frame,
    fit_temperature,
    patience_exits,
)

SCORES = get_args(Score)
COSTS = ExitCosts(segment_macs=(100, 200, 300), head_macs=(10, 10, 10))


@pytest.mark.parametrize("score", SCORES)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.05, 20))
@settings(max_examples=20, deadline=None)
def test_confidence_lies_between_equal_logits_and_one_that_beats_all(
    score: Score, seed: int, temperature: float
) -> None:
    logits = np.random.default_rng(seed).normal(size=(8, 5)) * 4
    sure = confidence(logits, score=score, temperature=temperature)
    lowest = confidence(np.zeros(5), score=score)
    assert ((sure >= lowest - 1e-12) & (sure <= 1)).all()
    assert confidence(np.array([1000.0, 0, 0, 0, 0]), score=score) == pytest.approx(1)
    np.testing.assert_allclose(sure, confidence(logits + 7, score=score, temperature=temperature), atol=1e-9)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_frame_whose_logits_are_not_finite_is_never_taken_for_an_easy_one(score: Score, bad: float) -> None:
    sure = confidence(np.array([[1.0, bad, 0.0]]), score=score)
    assert np.isnan(sure).all()
    assert exit_of_frame([float(sure[0]), 0.1], [0.0]) == 1
    assert exit_indices(np.array([[sure[0], 0.1]]), [0.0]).tolist() == [1]


def test_fewer_than_two_classes_an_unknown_score_and_a_cold_temperature_are_refused() -> None:
    for wrong in ({"logits": np.zeros((3, 1))}, {"score": "luck"}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=r"at least 2|score is|positive"):
            confidence(**{"logits": np.zeros((3, 4)), **wrong})  # type: ignore[arg-type]


def labels_drawn_at(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    p = np.exp(logits / temperature)
    p /= p.sum(axis=1, keepdims=True)
    return (p.cumsum(axis=1) > rng.random((len(p), 1))).argmax(axis=1)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_with_which_labels_were_drawn_is_found(true: float) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(4000, 6)) * 2
    assert fit_temperature(logits, labels_drawn_at(logits, true, rng)) == pytest.approx(true, rel=0.08)


def test_the_fitted_temperature_is_the_best_of_a_grid() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(200, 4)) * 5
    labels = labels_drawn_at(logits, 2.5, rng)

    def loss(temperature: float) -> float:
        z = logits / temperature
        return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(200), labels]).mean())

    best = fit_temperature(logits, labels)
    assert all(loss(best) <= loss(other) + 1e-12 for other in np.geomspace(0.06, 19, 200))


def test_without_a_maximum_within_the_bounds_the_temperature_is_a_bound_and_equal_logits_have_none() -> None:
    logits = np.eye(3)[[0, 1, 2, 0]] * 4
    assert fit_temperature(logits, np.array([0, 1, 2, 0])) == MIN_TEMPERATURE
    assert fit_temperature(logits, np.array([1, 2, 0, 1])) == MAX_TEMPERATURE
    assert fit_temperature(np.full((4, 3), 7.0), np.array([0, 1, 2, 0])) == 1.0
    assert fit_temperature(logits * 1e30, np.array([0, 1, 2, 1])) == MAX_TEMPERATURE


def test_a_temperature_cannot_be_fitted_to_nothing_to_nan_or_to_classes_that_do_not_exist() -> None:
    for logits, labels in (
        (np.zeros((0, 3)), np.zeros(0, dtype=int)),
        (np.array([[np.nan, 0.0]]), np.array([0])),
        (np.zeros((2, 3)), np.array([0, 3])),
    ):
        with pytest.raises(ValueError, match=r"at least 1 frame|not finite|labels lie"):
            fit_temperature(logits, labels)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_one_frame_and_many_leave_by_the_same_rule_and_lower_thresholds_never_make_it_later(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sure = rng.random((20, 4))
    thresholds = rng.random(3)
    leaving = exit_indices(sure, thresholds)
    assert leaving.tolist() == [exit_of_frame(row, thresholds) for row in sure]
    assert (exit_indices(sure, thresholds - 0.1) <= leaving).all()


def test_an_exit_that_is_off_lets_nobody_leave_where_a_threshold_of_one_does() -> None:
    saturated = np.ones((5, 3))
    assert (exit_indices(saturated, [OFF, OFF]) == 2).all()
    assert (exit_indices(saturated, [1.0, OFF]) == 0).all()


def test_thresholds_that_do_not_fit_or_are_no_numbers_are_refused() -> None:
    for thresholds in ([0.5], [0.5, math.nan]):
        with pytest.raises(ValueError, match=r"thresholds|not a number"):
            exit_indices(np.zeros((2, 3)), thresholds)
    with pytest.raises(ValueError, match="thresholds are for"):
        exit_of_frame([0.1, 0.2], [0.5, 0.5])


def test_patience_leaves_when_exits_have_agreed_often_enough_in_a_row() -> None:
    answers = np.array([[1, 1, 1, 1], [1, 2, 2, 2], [1, 2, 1, 1], [3, 1, 2, 0]])
    assert patience_exits(answers, 1).tolist() == [1, 2, 3, 3]
    assert patience_exits(answers, 2).tolist() == [2, 3, 3, 3]
    with pytest.raises(ValueError, match="patience"):
        patience_exits(answers, 0)


def test_losses_count_errors_disagreements_and_errors_that_the_shipped_model_did_not_make() -> None:
    answers = np.array([[0, 1], [2, 2], [1, 0]])
    labels, shipped = np.array([1, 2, 1]), np.array([0, 2, 2])
    assert error_losses(answers, labels).tolist() == [[1, 0], [0, 0], [0, 1]]
    assert disagreement_losses(answers).tolist() == [[1, 0], [0, 0], [1, 0]]
    assert excess_losses(answers, labels, shipped).tolist() == [[0, -1], [0, 0], [-1, 0]]


def test_compute_counts_segments_and_heads_up_to_the_exit_and_no_head_that_is_off() -> None:
    assert COSTS.full_macs == 610
    assert COSTS.leaving([0.5, 0.5]).tolist() == [110, 320, 630]
    assert COSTS.leaving([OFF, 0.5]).tolist() == [100, 310, 620]
    assert compute_share(np.array([0, 2]), COSTS, [0.5, 0.5]) == pytest.approx((110 + 630) / 2 / 610)
    assert compute_share(np.array([2, 2]), COSTS, [OFF, OFF]) == 1
