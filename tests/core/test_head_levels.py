"""A shipped head is levelled to another world by the mean and spread of its features, whatever classes come."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.core.head_levels import FeatureSums, SourceLevels, cooled, levelled
from littoral.core.heads import LinearHead, SourceMoments

K, D = 4, 6
_RNG = np.random.default_rng(5)
MEANS = (_RNG.normal(size=(K, D)) * 1.5).astype(np.float32)
HEAD = LinearHead(weights_KD=MEANS, bias_K=(-0.5 * (MEANS**2).sum(axis=1)).astype(np.float32))
SOURCE = SourceLevels.of(SourceMoments(means_KD=MEANS, covariance_DD=np.eye(D, dtype=np.float32)))
SCALE, SHIFT = _RNG.uniform(0.4, 2.0, D), _RNG.normal(size=D) * 4


def world(num_frames: int, shares: tuple[float, ...], *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features at the source, the same elsewhere, and classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, num_frames, p=shares)
    features = MEANS[labels] + rng.normal(size=(num_frames, D))
    return features, features * SCALE + SHIFT, labels


def level(moved: np.ndarray, labels: np.ndarray, source: SourceLevels = SOURCE) -> LinearHead:
    sums = FeatureSums(D, K)
    for row, label in zip(moved, labels, strict=True):
        sums.add(row, int(label))
    return levelled(HEAD, source, sums.counts_K, *sums.mean_and_spread())


@pytest.mark.parametrize("shares", [(0.25,) * 4, (0.7, 0.2, 0.1, 0.0)], ids=["as-at-the-source", "other-classes"])
def test_features_that_lie_elsewhere_are_brought_back_and_without_it_are_misread(shares: tuple[float, ...]) -> None:
    head = level(*world(256, shares, seed=1)[1:])
    features, moved, labels = world(2_000, shares, seed=2)
    there, shipped, back = (
        float((one.logits(x).argmax(axis=1) == labels).mean())
        for one, x in ((HEAD, features), (HEAD, moved), (head, moved))
    )
    assert back > there - 0.03
    assert shipped < there - 0.1, "the control: the head as shipped"


def test_a_mixture_that_is_taken_for_the_sources_misleads() -> None:
    """Why classes are counted: a user who shows one of them mostly has other features, and not because of a shift."""
    shares = (0.94, 0.02, 0.02, 0.02)
    features, _, labels = world(256, shares, seed=3)
    counted = level(features, labels)
    uncounted = level(features, np.arange(len(labels)) % K)
    test, _, right = world(2_000, (0.25,) * 4, seed=4)
    scores = [float((one.logits(test).argmax(axis=1) == right).mean()) for one in (HEAD, counted, uncounted)]
    assert scores[1] > scores[0] - 0.05
    assert scores[2] < scores[0] - 0.1, "the control"


def test_few_frames_move_a_head_little_and_a_feature_that_stands_still_is_not_blown_up() -> None:
    _, moved, labels = world(2, (0.25,) * 4, seed=5)
    few, many = level(moved, labels), level(*world(512, (0.25,) * 4, seed=6)[1:])
    assert np.abs(few.weights_KD - MEANS).mean() < np.abs(many.weights_KD - MEANS).mean()
    still = np.repeat(moved[:1], 512, axis=0)
    assert np.isfinite(level(still, labels[:1].repeat(512)).weights_KD).all()


def test_nothing_is_levelled_by_no_frame() -> None:
    with pytest.raises(ValueError, match="1 frame or more"):
        levelled(HEAD, SOURCE, np.zeros(K), np.zeros(D), np.ones(D))


def test_an_exit_that_is_sure_and_wrong_is_cooled_and_one_that_shows_no_error_is_left_alone() -> None:
    """Of 100 frames that it is sure of to a millionth, ten are wrong."""
    logits = np.zeros((100, K))
    logits[:, 0] = 14.0
    answers = np.zeros(100, dtype=np.intp)
    assert cooled(logits, answers, 1.0) == 1.0
    answers[:10] = 1
    warm = cooled(logits, answers, 1.0)
    sure = 1 / (1 + (K - 1) * np.exp(-14.0 / warm))
    assert sure == pytest.approx(0.9, abs=0.01)
    assert cooled(logits, answers, 50.0) == 50.0, "never hotter"
    logits[3, 1] = np.inf
    assert cooled(logits, answers, 1.0) == 1.0
