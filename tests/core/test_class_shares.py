"""A user's class shares, from a classifier that was trained on others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.class_prior import ClassShares, PriorConfig, corrected, fit_class_shares, prior_ratio

K = 5
SOURCE = np.full(K, 1 / K)
CONFIG = PriorConfig(floor=0.01)
TRUE = np.array([0.6, 0.3, 0.1, 0.0, 0.0])


def answers(num_frames: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and exact posteriors under the source's shares: one noisy measurement of the class."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, size=num_frames, p=TRUE)
    seen = 2.0 * np.eye(K)[labels] + rng.normal(size=(num_frames, K))
    likelihood = np.exp(2.0 * seen)
    return labels, likelihood / likelihood.sum(axis=1, keepdims=True)


def test_the_shares_are_found_all_at_once_and_frame_by_frame() -> None:
    labels, p = answers(1500)
    true = np.bincount(labels, minlength=K) / len(labels)
    assert np.abs(fit_class_shares(p, SOURCE, CONFIG) - true).max() < 0.04
    running = ClassShares.start(SOURCE, CONFIG)
    for row in p:
        running.add(row)
    assert np.abs(running.shares_K - true).max() < 0.08
    assert np.abs(p.mean(axis=0) - true).max() > 0.08  # the plain mean of the answers is no estimate


def test_corrected_answers_are_right_more_often() -> None:
    labels, p = answers(1500)
    ratio = prior_ratio(fit_class_shares(p, SOURCE, CONFIG), SOURCE, CONFIG)
    right = [(answer.argmax(axis=1) == labels).mean() for answer in (corrected(p, ratio), p)]
    assert right[0] > right[1] + 0.03


def test_labels_move_the_shares_too() -> None:
    running = ClassShares.start(SOURCE, CONFIG)
    for _ in range(200):
        running.add_label(2)
    assert running.shares_K[2] > 0.9


def test_the_floor_keeps_a_class_answerable_and_without_it_none_comes_back() -> None:
    _, p = answers(800)
    surprise = np.array([0.01, 0.01, 0.01, 0.01, 0.96])
    found = {}
    for floor in (0.1, 1e-12):
        config = PriorConfig(floor=floor, most_ratio=1e12)
        found[floor] = corrected(surprise, prior_ratio(fit_class_shares(p, SOURCE, config), SOURCE, config))[4]
    assert found[0.1] > 0.5
    assert found[1e-12] < 0.1


@given(seed=st.integers(0, 1000), most=st.floats(1, 50), floor=st.floats(0.001, 1))
@settings(max_examples=30, deadline=None)
def test_no_answer_is_moved_beyond_the_bound_and_shares_stay_shares(seed: int, most: float, floor: float) -> None:
    rng = np.random.default_rng(seed)
    config = PriorConfig(floor=floor, most_ratio=most)
    running = ClassShares.start(rng.dirichlet(np.ones(K)) * 0.9 + 0.02, config)
    for p in rng.dirichlet(np.full(K, 0.05), size=20):
        running.add(p)
    ratio = running.ratio()
    assert ((ratio >= 1 / most - 1e-12) & (ratio <= most + 1e-12)).all()
    assert running.shares_K.min() >= 0
    assert running.shares_K.sum() == pytest.approx(1)


def test_source_shares_that_are_none_and_no_frame_are_refused() -> None:
    for wrong in (np.array([0.5, 0.6]), np.array([1.0, 0.0])):
        with pytest.raises(ValueError, match="class shares"):
            ClassShares.start(wrong, CONFIG)
    with pytest.raises(ValueError, match="no frame"):
        fit_class_shares(np.zeros((0, K)), SOURCE, CONFIG)
    with pytest.raises(ValueError, match="floor"):
        PriorConfig(floor=0)
