"""Linear heads: the ways to fit one agree with their definitions, and their costs are counted."""

from __future__ import annotations

import numpy as np
import pytest
from head_cases import MEANS, MOMENTS, SHIPPED, D, K, user
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.head_costs import (
    closed_form_macs,
    full_fine_tuning_macs,
    observe_macs,
    published_exits_macs,
    recursive_macs,
    sgd_head_macs,
    solve_macs,
)
from littoral.core.heads import (
    LinearHead,
    RecursiveRidge,
    fit_sgd,
    lda_matrix,
    ridge_matrix,
    softmax64,
    solve_in_place,
    with_one,
)

FRAMES = user(120, seed=4)
X = with_one(FRAMES.features)
T = np.eye(K)[FRAMES.labels]


@given(size=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_solving_in_place_gives_what_numpy_gives(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(size, size))
    matrix, right = a @ a.T + np.eye(size), rng.normal(size=(size, 3))
    expected = np.linalg.solve(matrix, right)
    solve_in_place(matrix, right)
    np.testing.assert_allclose(right, expected, atol=1e-9)


def test_sums_that_are_not_positive_definite_are_refused() -> None:
    for bad in (np.array([[1.0, 2.0], [2.0, 1.0]]), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="not positive definite"):
            solve_in_place(bad.copy(), np.ones((2, 1)))


def test_ridge_solves_its_equations_and_without_frames_is_the_shipped_head() -> None:
    weights = np.random.default_rng(0).uniform(0.2, 5, len(X))
    gram, targets = (X * weights[:, None]).T @ X, (X * weights[:, None]).T @ T
    frames, shipped = float(weights.sum()), SHIPPED.matrix()
    found = ridge_matrix(gram.copy(), targets.copy(), shipped, frames=frames, prior_frames=7.0)
    strength = np.append(np.full(D, 7 * np.trace(gram[:-1, :-1]) / frames / D), 7.0)[:, None]
    slope = gram @ found - targets + strength * (found - shipped)
    assert np.abs(slope).max() < 1e-8
    nothing = ridge_matrix(np.zeros((D + 1, D + 1)), np.zeros((D + 1, K)), shipped, frames=0.0, prior_frames=7.0)
    np.testing.assert_allclose(nothing, shipped, atol=1e-12)


def test_frame_by_frame_the_ridge_is_the_same_as_all_at_once() -> None:
    strength = np.full(D + 1, 3.0)
    weights = np.random.default_rng(0).uniform(0.2, 5, len(X))
    recursive = RecursiveRidge.start(SHIPPED, strength_A=strength)
    for x, t, w in zip(FRAMES.features, T, weights, strict=True):
        recursive.add(x, t, w)
    gram, targets = (X * weights[:, None]).T @ X, (X * weights[:, None]).T @ T
    whole = np.linalg.solve(gram + np.diag(strength), targets + strength[:, None] * SHIPPED.matrix())
    np.testing.assert_allclose(recursive.matrix_AK, whole, atol=1e-9)


def test_what_is_forgotten_is_bounded_while_nothing_fades_and_not_when_it_does() -> None:
    """The pull of the shipped head in a direction that no frame has: it stays, or fades with the frames."""
    away = []
    for keep in (1.0, 0.9):
        head = RecursiveRidge.start(SHIPPED, strength_A=np.full(D + 1, 5.0), keep=keep)
        for _ in range(100):
            head.add(np.zeros(D), np.zeros(K))
        away.append(float(np.diag(head.inverse_AA)[:-1].max()) * 5)
    assert away[0] == pytest.approx(1)
    assert away[1] > 1000
    with pytest.raises(ValueError, match="keep lies"):
        RecursiveRidge.start(SHIPPED, strength_A=np.ones(D + 1), keep=0)


def test_lda_without_frames_is_that_of_the_sources_moments_and_with_many_that_of_the_users() -> None:
    log_prior = np.log(np.full(K, 1 / K))
    options = {"mean_frames": 10.0, "covariance_frames": 300.0, "shrinkage": 0.0, "log_prior_K": log_prior}
    empty = lda_matrix(np.zeros((D + 1, D + 1)), np.zeros((D + 1, K)), MOMENTS, **options)  # type: ignore[arg-type]
    np.testing.assert_allclose(empty[:-1], MEANS.T, atol=1e-6)
    many = 1e6
    gram, answers = many * X.T @ X, many * X.T @ T
    full = lda_matrix(gram, answers, MOMENTS, **options)  # type: ignore[arg-type]
    means = np.stack([FRAMES.features[FRAMES.labels == k].mean(axis=0) for k in range(K)]).astype(np.float64)
    centred = FRAMES.features - means[FRAMES.labels]
    expected = np.linalg.solve(centred.T @ centred / len(X), means.T)
    np.testing.assert_allclose(full[:-1], expected, atol=1e-3)


def loss(head: LinearHead) -> float:
    return float(-np.log(softmax64(head.logits(FRAMES.features))[np.arange(len(X)), FRAMES.labels]).mean())


def test_sgd_lowers_its_loss_is_the_same_for_a_seed_and_is_held_back_by_recall() -> None:
    ones = np.ones(len(X))
    first, again, other = (fit_sgd(SHIPPED, FRAMES.features, T, ones, seed=seed) for seed in (1, 1, 2))
    assert loss(first) < loss(SHIPPED) - 0.1
    assert first.digest() == again.digest() != other.digest()
    held = fit_sgd(SHIPPED, FRAMES.features, T, ones, seed=1, recall=20.0)
    moved = [np.abs(head.matrix() - SHIPPED.matrix()).max() for head in (held, first)]
    assert moved[0] < moved[1] / 2


def test_a_head_survives_its_matrix_and_its_digest_sees_every_value() -> None:
    back = LinearHead.of_matrix(SHIPPED.matrix())
    assert back.digest() == SHIPPED.digest()
    other = LinearHead(weights_KD=SHIPPED.weights_KD, bias_K=np.nextafter(SHIPPED.bias_K, np.float32(9)))
    assert other.digest() != SHIPPED.digest()


@pytest.mark.parametrize(
    ("weights", "bias"),
    [
        (np.zeros((1, 4), np.float32), np.zeros(1, np.float32)),
        (np.zeros((3, 4), np.float32), np.zeros(4, np.float32)),
        (np.zeros((3, 4)), np.zeros(3)),
        (np.full((3, 4), np.inf, np.float32), np.zeros(3, np.float32)),
        (np.zeros((3, 2000), np.float32), np.zeros(3, np.float32)),
    ],
    ids=["one class", "shapes", "float64", "not finite", "too wide"],
)
def test_values_that_make_no_head_are_refused(weights: np.ndarray, bias: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"head|expected weights"):
        LinearHead(weights_KD=weights, bias_K=bias)


def test_costs_are_counted_as_the_work_is_done() -> None:
    assert observe_macs(64, 10) == 65 * 66 // 2 + 65 * 10 + 640
    assert closed_form_macs(64, 10, num_frames=3, num_fits=2) == 3 * observe_macs(64, 10) + 2 * solve_macs(64, 10)
    assert recursive_macs(64, 10, num_frames=1) > observe_macs(64, 10)
    fine = full_fine_tuning_macs(40_550_000, num_frames=1000, num_epochs=5)
    assert fine == 608_250_000_000
    published = published_exits_macs(40_550_000, int(0.12 * 40_550_000), num_frames=1000, num_epochs=5)
    assert fine / published == pytest.approx(2.2, abs=0.05)
    assert sgd_head_macs(64, 10, num_frames=1000, num_epochs=5) == 3 * 650 * 5000
    assert fine / closed_form_macs(64, 10, num_frames=1000, num_fits=20) > 50
