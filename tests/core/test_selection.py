"""Entropies, thresholds and the choice of frames: from 2 classes to 1000, one by one and in batches."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from littoral.core.arrays import FloatArray
from littoral.core.selection import (
    SelectionConfig,
    Selector,
    default_diversity_margin,
    dynamic_entropy_max,
    entropy,
    is_diverse,
    judge_one,
    softmax,
    within_entropy_bounds,
)

CLASS_COUNTS = (2, 10, 100, 1000)


def logits(min_classes: int = 2, max_classes: int = 1000) -> st.SearchStrategy[FloatArray]:
    return st.tuples(st.integers(1, 4), st.integers(min_classes, max_classes)).flatmap(
        lambda shape: npst.arrays(np.float32, shape, elements=st.floats(-100, 100, width=32))
    )


def answers(num_classes: int, count: int, *, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """A stream of answers of very different certainty: probabilities ``(N, K)`` and entropies ``(N,)``."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(count, num_classes)).astype(np.float32)
    sharpness = rng.uniform(0, 3, size=(count, 1)) * math.log(num_classes)
    scores[np.arange(count), rng.integers(num_classes, size=count)] += (sharpness[:, 0] + 2).astype(np.float32)
    probabilities = softmax(scores)
    return probabilities, entropy(probabilities)


def select_in_batches(selector: Selector, stream: tuple[FloatArray, FloatArray], size: int) -> np.ndarray:
    probabilities, nats = stream
    return np.concatenate(
        [selector.select(probabilities[i : i + size], nats[i : i + size]) for i in range(0, len(nats), size)]
    )


# Entropy.


@pytest.mark.parametrize("num_classes", [10, 100])
def test_scores_as_far_apart_as_float32_allows_are_a_certain_answer_and_not_a_broken_one(num_classes: int) -> None:
    """A cloud may send such scores; taken for NaN they would revert the device's own version."""
    scores = np.full(num_classes, np.finfo(np.float32).min)
    scores[3] = np.finfo(np.float32).max
    assert judge_one(scores) == (3, 1.0, 0.0)


@pytest.mark.parametrize("num_classes", CLASS_COUNTS)
def test_a_certain_answer_has_no_entropy_and_a_blank_one_ln_k(num_classes: int) -> None:
    certain = np.eye(num_classes, dtype=np.float32)[:1]
    blank = np.full((1, num_classes), 1 / num_classes, dtype=np.float32)
    assert entropy(certain)[0] == 0.0
    assert entropy(blank)[0] == pytest.approx(math.log(num_classes), rel=1e-5)


def test_an_exact_zero_adds_nothing() -> None:
    assert entropy(np.array([[0.5, 0.5, 0.0]], dtype=np.float32))[0] == pytest.approx(math.log(2), rel=1e-6)


@given(logits())
@settings(max_examples=60, deadline=None)
def test_entropy_lies_between_0_and_ln_k_and_agrees_with_float64(scores: FloatArray) -> None:
    nats = entropy(softmax(scores))
    wide = scores.astype(np.float64)
    log_p = wide - wide.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    expected = -(np.exp(log_p) * log_p).sum(1)
    assert nats.dtype == np.float32
    assert (nats >= 0).all()
    assert (nats <= math.log(scores.shape[1]) * (1 + 1e-5)).all()
    np.testing.assert_allclose(nats, expected, atol=2e-5 * math.log(scores.shape[1]) + 1e-6)


@given(logits(), st.floats(-50, 50, width=32))
@settings(max_examples=40, deadline=None)
def test_softmax_does_not_care_for_a_shift_and_adds_up_to_1(scores: FloatArray, shift: float) -> None:
    probabilities = softmax(scores)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(softmax(scores + np.float32(shift)), probabilities, atol=1e-4)


# Bounds.


@pytest.mark.parametrize(
    ("nats", "low", "kept"),
    [(0.5, 0.5, False), (1.0, 0.5, False), (0.75, 0.5, True), (0.0, 0.0, True), (1.0, 0.0, False), (1.5, 0.0, False)],
    ids=["at-lower", "at-upper", "between", "zero-is-off", "upper-with-off", "above"],
)
def test_bounds_are_strict_and_a_lower_bound_of_0_is_off(nats: float, low: float, kept: bool) -> None:
    mask = within_entropy_bounds(np.array([nats], dtype=np.float32), entropy_min=low, entropy_max=1.0)
    assert mask.tolist() == [kept]


@given(
    npst.arrays(np.float32, 20, elements=st.floats(0, 7, width=32)),
    st.floats(0, 3, width=32),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_what_is_kept_lies_strictly_between_the_bounds(nats: FloatArray, low: float, above: float) -> None:
    high = float(np.float32(low + above))  # entropies are float32, and so is the comparison
    kept = within_entropy_bounds(nats, entropy_min=low, entropy_max=high)
    for value, keep in zip(nats.tolist(), kept.tolist(), strict=True):
        assert keep == ((value > low or low == 0) and value < high)


def test_not_a_number_is_never_kept() -> None:
    nan = np.array([np.nan], dtype=np.float32)
    assert not within_entropy_bounds(nan, entropy_min=0.0, entropy_max=2.0).any()


@pytest.mark.parametrize(("low", "high"), [(-0.1, 1.0), (1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_bounds_that_leave_nothing_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="entropy_min < entropy_max must hold"):
        within_entropy_bounds(np.zeros(1, np.float32), entropy_min=low, entropy_max=high)


@pytest.mark.parametrize(
    ("low", "high"), [(-0.01, 0.4), (0.4, 0.4), (0.5, 0.4), (0.02, 1.01)], ids=["negative", "equal", "crossed", "over"]
)
def test_fractions_that_leave_nothing_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="must hold, got"):
        SelectionConfig(entropy_min_fraction=low, entropy_max_fraction=high)


def test_one_class_is_nothing_to_choose_among() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        Selector(1)


@pytest.mark.parametrize("num_classes", CLASS_COUNTS)
def test_thresholds_are_fractions_of_ln_k(num_classes: int) -> None:
    selector = Selector(num_classes)
    assert selector.entropy_max == pytest.approx(0.4 * math.log(num_classes))
    assert selector.entropy_min == pytest.approx(0.02 * math.log(num_classes))


# Diversity.


@pytest.mark.parametrize(("num_classes", "margin"), [(2, 0.884), (10, 0.395), (100, 0.125), (625, 0.05), (1000, 0.05)])
def test_the_margin_grows_for_few_classes_and_is_the_published_one_for_a_thousand(
    num_classes: int, margin: float
) -> None:
    assert default_diversity_margin(num_classes) == pytest.approx(margin, abs=5e-4)


def test_an_answer_along_the_mean_is_not_diverse_and_one_across_it_is() -> None:
    mean = np.array([1, 0, 0], dtype=np.float32)
    answers = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    assert is_diverse(answers, mean, margin=0.5).tolist() == [False, True]


@pytest.mark.parametrize("num_classes", [10, 100, 1000])
def test_a_confident_answer_against_an_even_mean_passes_the_default_margin(num_classes: int) -> None:
    even = np.full(num_classes, 1 / num_classes, dtype=np.float32)
    confident = np.eye(num_classes, dtype=np.float32)[:1]
    assert is_diverse(confident, even, margin=default_diversity_margin(num_classes)).all()
    # The published margin, at 10 and 100 classes, keeps none of them.
    assert is_diverse(confident, even, margin=0.05).all() == (num_classes == 1000)


def test_the_same_answer_over_and_over_is_sent_once_and_again_with_the_criterion_off() -> None:
    same = softmax(np.array([[3.0, 1.0, 0, 0, 0, 0, 0, 0, 0, 0]], dtype=np.float32))
    nats = entropy(same)
    wide = SelectionConfig(entropy_max_fraction=1.0, entropy_min_fraction=0.0, warm_up_frames=None)
    guarded = Selector(10, wide)
    assert [bool(guarded.select(same, nats)[0]) for _ in range(5)] == [True] + 4 * [False]
    off = Selector(10, SelectionConfig(**{**vars(wide), "diversity_margin": 1.1}))
    assert all(off.select(same, nats)[0] for _ in range(5))


def scores(probabilities: np.ndarray) -> np.ndarray:
    """Finite scores whose softmax is this."""
    return np.log(np.maximum(probabilities, 1e-30)).astype(np.float32)


# One answer, for the hot path.


@given(st.integers(2, 1000), st.integers(0, 2**32 - 1), st.floats(0.01, 30))
def test_judging_one_answer_is_softmax_and_entropy(num_classes: int, seed: int, spread: float) -> None:
    logits = (np.random.default_rng(seed).normal(size=num_classes) * spread).astype(np.float32)
    probabilities = softmax(logits[None].astype(np.float64))
    label, confidence, nats = judge_one(logits)
    assert label == int(logits.argmax())
    assert confidence == pytest.approx(float(probabilities.max()), rel=1e-5)
    assert nats == pytest.approx(float(entropy(probabilities)[0]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("num_classes", [10, 64, 65, 1000])
def test_scores_that_are_not_finite_are_judged_as_nan(num_classes: int, bad: float) -> None:
    logits = np.zeros(num_classes, dtype=np.float32)
    logits[num_classes // 2] = bad
    _, confidence, nats = judge_one(logits)
    assert math.isnan(nats)
    assert math.isnan(confidence)


# The dynamic threshold.


def test_the_dynamic_threshold_is_the_telescoped_one() -> None:
    """By hand: 10 classes, E0 = 0.4 ln 10, four frames of warm-up at a mean of 0.5 nats."""
    config = SelectionConfig(warm_up_frames=4, entropy_max_factor=0.5, entropy_min_fraction=0.0, diversity_margin=1.1)
    selector = Selector(10, config)
    initial = 0.4 * math.log(10)
    p = np.full(10, 0.1, dtype=np.float32)
    trace = []
    for nats in (0.2, 0.8, 0.4, 0.6, 1.0, 0.1, 0.1):
        selector.select_one(scores(p), nats)
        trace.append(selector.entropy_max)
    means = (2.0 / 4, 3.0 / 5, 3.1 / 6, 3.2 / 7)
    expected = [initial] * 3 + [0.5 * initial * mean / 0.5 for mean in means]
    assert trace == pytest.approx(expected, rel=1e-6)


def test_without_warm_up_the_threshold_stays() -> None:
    selector = Selector(10, SelectionConfig(warm_up_frames=None))
    for nats in (0.1, 2.0, 2.0, 2.0):
        selector.select_one(scores(np.full(10, 0.1)), nats)
    assert selector.entropy_max == pytest.approx(0.4 * math.log(10))


@given(st.floats(0, 7), st.floats(0, 7), st.floats(0.01, 100), st.integers(2, 1000))
def test_the_dynamic_threshold_never_leaves_its_range(
    mean: float, warm_up: float, factor: float, num_classes: int
) -> None:
    top = math.log(num_classes)
    moved = dynamic_entropy_max(
        0.4 * top, mean_entropy=mean, warm_up_entropy=warm_up, factor=factor, entropy_min=0.02 * top, ceiling=top
    )
    assert 0.02 * top < moved <= top


@given(st.lists(st.floats(0.01, 6), min_size=2, max_size=60))
def test_a_selector_never_ends_up_with_crossed_thresholds(stream: list[float]) -> None:
    selector = Selector(1000, SelectionConfig(warm_up_frames=1, entropy_max_factor=0.6))
    p = np.full(1000, 1e-3, dtype=np.float32)
    for nats in stream:
        selector.select_one(scores(p), nats)
        assert selector.entropy_min < selector.entropy_max <= math.log(1000)


# One by one and in batches.


@pytest.mark.parametrize("num_classes", CLASS_COUNTS)
def test_one_answer_at_a_time_is_a_batch_of_one(num_classes: int) -> None:
    stream = answers(num_classes, 400)
    by_batch, by_one = Selector(num_classes), Selector(num_classes)
    batched = select_in_batches(by_batch, stream, 1)
    single = [by_one.select_one(scores(p), float(nats)) for p, nats in zip(*stream, strict=True)]
    assert batched.tolist() == single
    assert by_one.num_kept == by_batch.num_kept == sum(single)
    assert by_one.entropy_max == pytest.approx(by_batch.entropy_max, rel=1e-6)


@pytest.mark.parametrize("num_classes", [10, 100, 1000])
def test_batch_1_and_batch_64_select_the_same_share(num_classes: int) -> None:
    stream = answers(num_classes, 6400, seed=1)
    shares = {size: float(select_in_batches(Selector(num_classes), stream, size).mean()) for size in (1, 8, 64)}
    assert 0.02 < shares[1] < 0.98, "the stream should be a hard choice"
    assert max(shares.values()) - min(shares.values()) < 0.02, shares


@pytest.mark.parametrize("num_classes", [10, 100, 1000])
def test_one_setting_serves_few_classes_and_many(num_classes: int) -> None:
    """With the published margin of 0.05 next to nothing is kept at 10 classes."""
    stream = answers(num_classes, 2000, seed=2)
    ours = select_in_batches(Selector(num_classes), stream, 1).mean()
    published = select_in_batches(Selector(num_classes, SelectionConfig(diversity_margin=0.05)), stream, 1).mean()
    assert ours > 0.05
    if num_classes == 10:
        assert published < 0.2 * ours


def test_equal_streams_are_chosen_from_alike() -> None:
    stream = answers(10, 500, seed=3)
    first, second = (select_in_batches(Selector(10), stream, 16) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_a_batch_with_nothing_to_send_leaves_the_mean_answer() -> None:
    selector = Selector(10)
    certain = np.eye(10, dtype=np.float32)
    assert not selector.select(certain, entropy(certain)).any()
    assert selector.mean_answer is None
    assert (selector.num_seen, selector.num_kept) == (10, 0)


def test_an_early_answer_weighs_no_more_than_those_after_it() -> None:
    config = SelectionConfig(entropy_min_fraction=0.0, entropy_max_fraction=1.0, diversity_margin=1.1)
    selector = Selector(4, config)
    rows = np.eye(4, dtype=np.float32)
    for row in rows:
        selector.select_one(scores(row), 0.5)
    assert selector.mean_answer is not None
    np.testing.assert_allclose(selector.mean_answer, rows.mean(0), atol=1e-6)


def test_the_margin_is_monotonous_in_the_number_of_classes() -> None:
    margins = [default_diversity_margin(k) for k in range(2, 1001)]
    assert all(a >= b for a, b in pairwise(margins))
