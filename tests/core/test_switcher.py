"""The switcher: calibrated at build, unbiased in the field, biased without its importance weights."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.core.switcher import (
    NUM_FEATURES,
    ShippedSwitcher,
    Switcher,
    SwitcherConfig,
    all_switch_features,
    fit_logistic,
    fit_switcher,
    switch_features,
)
from littoral.errors import SwitcherStateError


def world(n: int, seed: int, *, steep: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features at one point, whether the device is right (the surer the likelier), and the cloud (nearly always)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 1, NUM_FEATURES))
    right = (rng.random(n) < 1 / (1 + np.exp(-1 - steep * x[:, 0, 0]))).astype(float)
    cloud = (rng.random(n) < 0.95).astype(float)
    return x, right, cloud


X, RIGHT, CLOUD = world(2000, 1)
SHIPPED = fit_switcher(X, RIGHT[:, None], CLOUD)


def test_logistic_regression_finds_the_coefficients_and_its_slope_is_zero() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((4000, 2)), np.ones((4000, 1))], axis=1)
    truth = np.array([1.5, -1.0, 0.5])
    y = (rng.random(4000) < 1 / (1 + np.exp(-x @ truth))).astype(float)
    beta, _ = fit_logistic(x, y, np.ones(4000), mean_F=np.zeros(3), precision_FF=1e-3 * np.eye(3))
    assert beta == pytest.approx(truth, abs=0.15)
    assert np.abs(x.T @ (1 / (1 + np.exp(-x @ beta)) - y) + 1e-3 * beta).max() < 1e-3


def test_frames_that_are_told_apart_without_error_do_not_make_it_diverge() -> None:
    x = np.array([[-1.0, 1], [1.0, 1]])
    beta, _ = fit_logistic(x, np.array([0.0, 1.0]), 1e6 * np.ones(2), mean_F=np.zeros(2), precision_FF=np.eye(2))
    assert np.isfinite(beta).all()
    assert beta[0] > 3


def test_what_it_says_on_new_frames_is_how_often_it_happens() -> None:
    switcher = Switcher(SHIPPED)
    x, right, cloud = world(4000, 2)
    said = np.array([switcher.chances(0, features) for features in x[:, 0]])
    helped = (1 - right) * cloud
    assert said[:, 0].mean() == pytest.approx(helped.mean(), abs=0.03)
    top = said[:, 0] > np.quantile(said[:, 0], 0.8)
    assert said[top, 0].mean() == pytest.approx(helped[top].mean(), abs=0.04)
    assert said[:, 1].mean() == pytest.approx((right * (1 - cloud)).mean(), abs=0.02)
    assert switcher.scores(x)[5, 0] == pytest.approx(1 - switcher.gain(0, x[5, 0]))


def refitted_mistake(*, importance: bool) -> float:
    """A world in which the device has grown worse, surely or not; the router asks for unsure frames, and a few others.

    Returns how far the refitted switcher is from the truth on frames that are sure, of which few are asked for.
    """
    config = SwitcherConfig(capacity=1500, prior_frames=20.0, importance=importance)
    switcher = Switcher(fit_switcher(X, RIGHT[:, None], CLOUD, config=config), config)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((9000, NUM_FEATURES))
    # No line through the log-odds: sure frames are right, unsure ones wrong, with a step between them.
    truth = np.where(x[:, 0] > 0, 0.05, 0.7)
    helped = rng.random(9000) < truth
    share = np.where(x[:, 0] < -0.5, 1.0, 0.05)
    for i in np.flatnonzero(rng.random(9000) < share)[-1500:]:
        switcher.observe(0, x[i], device_right=not helped[i], cloud_right=True, propensity=float(share[i]))
    switcher.refit()
    said = np.array([switcher.chances(0, features)[0] for features in x[:1500]])
    return abs(float(said.mean() - truth[:1500].mean()))


def test_refitted_from_what_was_asked_for_it_says_what_holds_for_all_frames() -> None:
    assert refitted_mistake(importance=True) < 0.05


def test_without_importance_weights_it_is_biased_to_what_was_asked_for() -> None:
    assert refitted_mistake(importance=False) > 2 * refitted_mistake(importance=True)


def test_without_labels_it_learns_how_often_they_differ_and_keeps_who_is_right_then() -> None:
    switcher = Switcher(SHIPPED)
    features = np.zeros(NUM_FEATURES)
    helps, harms = switcher.chances(0, features)
    for i in range(400):
        switcher.observe_unlabelled(0, features, agrees=i % 2 == 0, propensity=1.0)
    switcher.refit()
    now_helps, now_harms = switcher.chances(0, features)
    assert now_helps + now_harms > 1.3 * (helps + harms)
    assert now_helps / now_harms == pytest.approx(helps / harms, rel=0.35)


def test_its_memory_is_bounded_and_its_state_comes_back_to_the_bit() -> None:
    switcher = Switcher(SHIPPED, SwitcherConfig(capacity=50))
    for i in range(120):
        switcher.observe(0, X[i, 0], device_right=bool(RIGHT[i]), cloud_right=bool(CLOUD[i]), propensity=0.5)
    switcher.refit()
    data = switcher.to_bytes()
    assert switcher.size == 50
    assert len(data) == 58 + 80 * 1 + 23 * 50 + 32  # docs/reference/switcher-state.md
    again = Switcher.from_bytes(data, shipped=SHIPPED, config=SwitcherConfig(capacity=50))
    assert again.to_bytes() == data
    again.observe(0, X[0, 0], device_right=True, cloud_right=True, propensity=1.0)
    assert again.next == switcher.next + 1


def test_a_damaged_or_foreign_state_is_refused() -> None:
    data = Switcher(SHIPPED).to_bytes()
    for place in range(0, len(data), 7):
        with pytest.raises(SwitcherStateError):
            Switcher.from_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], shipped=SHIPPED)
    with pytest.raises(SwitcherStateError, match="cut"):
        Switcher.from_bytes(data[:20], shipped=SHIPPED)
    other = ShippedSwitcher(coefficients=SHIPPED.coefficients + 1, precision=SHIPPED.precision)
    with pytest.raises(SwitcherStateError, match="another bundle") as refused:
        Switcher.from_bytes(data, shipped=other)
    assert refused.value.code == "other-switcher"


def test_features_are_finite_for_answers_as_sure_as_can_be() -> None:
    features = switch_features(np.array([1.0, 0.0, 0.0]), answers=[0, 2])
    assert features == pytest.approx([6.0, 1.0, 0.0, 0.5])
    assert switch_features(np.full(4, 0.25)) == pytest.approx([-np.log(3), 0.0, 1.0, 0.5])


def test_features_of_many_frames_are_those_of_each() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), (7, 3))
    answers = probabilities.argmax(axis=2)
    for i, points in enumerate(all_switch_features(probabilities)):
        for p, features in enumerate(points):
            assert features == pytest.approx(switch_features(probabilities[i, p], answers[i, :p].tolist()))


def test_what_cannot_be_learned_from_is_refused() -> None:
    switcher = Switcher(SHIPPED)
    with pytest.raises(ValueError, match="chance"):
        switcher.observe(0, X[0, 0], device_right=True, cloud_right=True, propensity=0.0)
    with pytest.raises(ValueError, match="finite"):
        switcher.observe(0, np.full(NUM_FEATURES, np.nan), device_right=True, cloud_right=True, propensity=1.0)
    assert switcher.gain(0, np.full(NUM_FEATURES, np.nan)) == 0.0


def test_exits_that_were_not_asked_are_taken_to_agree_as_likely_as_the_answer_is_right() -> None:
    sure, unsure = np.array([0.9, 0.06, 0.04]), np.array([0.4, 0.35, 0.25])
    assert switch_features(sure, unasked=2)[3] == pytest.approx(0.9)
    assert switch_features(unsure, unasked=2)[3] == pytest.approx(0.4)
    assert switch_features(sure, [1], unasked=1)[3] == pytest.approx(0.45)
    assert switch_features(sure)[3] == 0.5, "at the first exit there is nothing to agree with"
