"""Statistics that follow the device's frames: exact moments, no alarm in the domain, a fast start after a shift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray, Tensors
from littoral.core.drift import (
    MEAN_SQUARE_SUFFIX,
    MEAN_SUFFIX,
    Measure,
    StatisticsConfig,
    StatisticsEstimate,
    batch_norm_layers,
    blend,
    distance,
    from_moments,
)

CHANNELS = 8
LAYERS = [
    NormLayer(name="a", kind="batch", num_channels=CHANNELS, eps=1e-5),
    NormLayer(name="g", kind="group", num_channels=CHANNELS, eps=1e-5),
    NormLayer(name="b", kind="batch", num_channels=CHANNELS, eps=1e-5),
]
BATCH = 32
THRESHOLD = 0.05
PIXELS = 64
"""Per frame: a channel's mean is over as many."""


def moments(x_NC: FloatArray) -> dict[str, FloatArray]:
    """What the statistics graph says of activations ``(frames * pixels, channels)``, the same for both layers."""
    mean, square = x_NC.mean(0).astype(np.float32), (x_NC**2).mean(0).astype(np.float32)
    return {n + s: v for n in ("a", "b") for s, v in ((MEAN_SUFFIX, mean), (MEAN_SQUARE_SUFFIX, square))}


def statistics(mean: float, var: float) -> dict[str, FloatArray]:
    return {
        f"{n}.{what}": np.full(CHANNELS, value, np.float32)
        for n in ("a", "b")
        for what, value in (("running_mean", mean), ("running_var", var))
    }


def activations(rng: np.random.Generator, shift: float, frames: int = BATCH) -> FloatArray:
    return rng.normal(shift, 1.0, size=(frames * PIXELS, CHANNELS)).astype(np.float32)


def always(x_NC: FloatArray) -> Measure:
    return lambda statistics, alpha: moments(x_NC)


def fresh(config: StatisticsConfig | None = None) -> StatisticsEstimate:
    return StatisticsEstimate(
        layers=LAYERS, source=statistics(0, 1), drift_threshold=THRESHOLD, config=config or StatisticsConfig()
    )


# Moments and mixtures.


def test_only_batch_norm_has_statistics() -> None:
    assert [layer.name for layer in batch_norm_layers(LAYERS)] == ["a", "b"]


def test_statistics_of_moments_are_mean_and_variance() -> None:
    x = activations(np.random.default_rng(0), 2.0)
    found = from_moments(moments(x), LAYERS)
    np.testing.assert_allclose(found["a.running_mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["b.running_var"], x.var(0), rtol=1e-3)


def test_rounding_never_makes_a_variance_negative() -> None:
    mean = np.full(CHANNELS, 1000.1, np.float32)
    found = from_moments(
        {n + s: v for n in "ab" for s, v in ((MEAN_SUFFIX, mean), (MEAN_SQUARE_SUFFIX, mean * mean * (1 - 1e-6)))},
        LAYERS,
    )
    assert (found["a.running_var"] >= 0).all()


@given(st.integers(1, 50), st.integers(1, 50), st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_blend_is_the_statistics_of_both_together(m: int, n: int, first: float, second: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = activations(rng, first, m), activations(rng, second, n)
    mixed = blend(from_moments(moments(x), LAYERS), from_moments(moments(y), LAYERS), n / (m + n), LAYERS)
    both = np.concatenate([x, y]).astype(np.float64)
    np.testing.assert_allclose(mixed["a.running_mean"], both.mean(0), atol=1e-4)
    np.testing.assert_allclose(mixed["a.running_var"], both.var(0), rtol=1e-3)


@pytest.mark.parametrize(("alpha", "which"), [(0.0, 0), (1.0, 1)])
def test_a_blend_at_its_ends_is_one_of_the_two(alpha: float, which: int) -> None:
    ends = (statistics(1, 2), statistics(-1, 3))
    for name, value in blend(*ends, alpha, LAYERS).items():
        np.testing.assert_allclose(value, ends[which][name], rtol=1e-6)


# Distance.


@given(st.floats(-5, 5), st.floats(0, 9), st.floats(-5, 5), st.floats(0, 9))
def test_distance_is_symmetric_not_negative_bounded_and_0_for_equals(m: float, v: float, n: float, w: float) -> None:
    one, other = statistics(m, v), statistics(n, w)
    assert distance(one, one, LAYERS) == pytest.approx(0, abs=1e-6)
    assert distance(one, other, LAYERS) == pytest.approx(distance(other, one, LAYERS), rel=1e-6, abs=1e-6)
    assert -1e-6 <= distance(one, other, LAYERS) <= 10


def test_distance_by_hand() -> None:
    # Half of ((2 + 1) / 1 + (1 + 1) / 2), less 1, with eps beside it.
    assert distance(statistics(0, 1), statistics(1, 2), LAYERS) == pytest.approx(1.0, rel=1e-4)


def test_only_the_first_half_of_the_layers_tell_the_domain() -> None:
    late = {**statistics(0, 1), "b.running_mean": np.full(CHANNELS, 9, np.float32)}
    early = {**statistics(0, 1), "a.running_mean": np.full(CHANNELS, 9, np.float32)}
    assert distance(statistics(0, 1), late, LAYERS) == pytest.approx(0, abs=1e-6)
    assert distance(statistics(0, 1), early, LAYERS) == 10


def test_a_network_without_batch_norm_never_drifts() -> None:
    assert distance({}, {}, [LAYERS[1]]) == 0.0


# The estimate.


def test_it_starts_at_the_sources_statistics() -> None:
    assert all((fresh().values[name] == value).all() for name, value in statistics(0, 1).items())


def test_each_batch_weighs_by_its_share_of_all_frames_that_count() -> None:
    """Source worth 4 frames, two batches of 32: the estimate is the statistics of all of it together."""
    rng = np.random.default_rng(0)
    estimate, batches = fresh(), [activations(rng, 0.1), activations(rng, 0.1)]
    weights = []
    for x in batches:
        weights.append(estimate.alpha(BATCH))
        assert not estimate.update(always(x), BATCH)
    assert weights == pytest.approx([32 / 36, 32 / 68])
    together = np.concatenate(batches).astype(np.float64)
    mean = 64 / 68 * together.mean(0)
    square = 4 / 68 + 64 / 68 * (together**2).mean(0)
    np.testing.assert_allclose(estimate.values["a.running_mean"], mean, atol=1e-5)
    np.testing.assert_allclose(estimate.values["a.running_var"], square - mean**2, rtol=1e-4)


def test_the_graph_is_given_the_estimate_and_the_batchs_weight() -> None:
    seen: list[tuple[Tensors, float]] = []
    estimate = fresh()
    x = activations(np.random.default_rng(0), 0.0)

    def measure(values: Tensors, alpha: float) -> Tensors:
        seen.append((values, alpha))
        return moments(x)

    before = estimate.values
    estimate.update(measure, BATCH)
    assert seen == [(before, pytest.approx(32 / 36))]


def test_the_estimate_keeps_moving_however_long_the_stream() -> None:
    config = StatisticsConfig(max_frames=128)
    estimate, rng = fresh(config), np.random.default_rng(0)
    for _ in range(20):
        estimate.update(always(activations(rng, 0.0)), BATCH)
    assert estimate.weight_frames == 128
    assert estimate.alpha(BATCH) == pytest.approx(0.2)
    for i in range(40):  # a drift too slow for an alarm
        estimate.update(always(activations(rng, 0.02 * i)), BATCH)
    assert estimate.resets == 0
    assert estimate.values["a.running_mean"].mean() == pytest.approx(0.02 * 39, abs=0.15)


def test_frames_of_the_domain_never_raise_an_alarm() -> None:
    estimate, rng = fresh(), np.random.default_rng(0)
    assert not any(estimate.update(always(activations(rng, 0.0)), BATCH) for _ in range(200))
    assert estimate.resets == 0
    np.testing.assert_allclose(estimate.values["a.running_mean"], 0, atol=0.05)


@pytest.mark.parametrize("guarded", [True, False], ids=["with-reset", "without-reset"])
def test_a_shift_is_found_at_once_and_the_new_world_counts_for_nearly_all(guarded: bool) -> None:
    config = StatisticsConfig(drift_factor=6.0 if guarded else float("inf"))
    estimate, rng = fresh(config), np.random.default_rng(0)
    for _ in range(20):
        estimate.update(always(activations(rng, 0.0)), BATCH)
    drifts = [estimate.update(always(activations(rng, 3.0)), BATCH) for _ in range(2)]
    mean = float(estimate.values["a.running_mean"].mean())
    if guarded:
        assert drifts == [True, False]
        assert estimate.resets == 1
        assert mean == pytest.approx(3.0 * 64 / 68, abs=0.05)
    else:
        assert mean < 1.2, "without the reset the old world must still weigh, or this tests nothing"


def test_at_a_shift_the_batch_is_measured_again_as_the_first_after_the_source() -> None:
    estimate, seen = fresh(), []
    x = activations(np.random.default_rng(0), 5.0)

    def measure(values: Tensors, alpha: float) -> Tensors:
        seen.append((float(values["a.running_mean"].mean()), alpha))
        return moments(x)

    estimate.update(always(activations(np.random.default_rng(1), 0.2)), BATCH)
    assert estimate.update(measure, BATCH)
    assert [alpha for _, alpha in seen] == pytest.approx([32 / 68, 32 / 36])
    assert seen[0][0] > 0.1
    assert seen[1][0] == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("call", [1, 2], ids=["first-measure", "measure-at-a-shift"])
def test_moments_that_are_not_finite_change_nothing(bad: float, call: int) -> None:
    estimate, rng = fresh(), np.random.default_rng(0)
    estimate.update(always(activations(rng, 0.0)), BATCH)
    before, weight = {k: v.copy() for k, v in estimate.values.items()}, estimate.weight_frames
    calls = 0

    def measure(values: Tensors, alpha: float) -> Tensors:
        nonlocal calls
        calls += 1
        found = moments(activations(rng, 5.0))
        if calls == call:
            found["b" + MEAN_SUFFIX] = found["b" + MEAN_SUFFIX] * np.float32(bad)
        return found

    with pytest.raises(ValueError, match=r"b.batch_mean of the last 32 frames is not finite"):
        estimate.update(measure, BATCH)
    assert (estimate.weight_frames, estimate.resets) == (weight, 0)
    assert all((estimate.values[name] == value).all() for name, value in before.items())


@pytest.mark.parametrize(("source", "most"), [(0.0, 128.0), (-1.0, 128.0), (129.0, 128.0)])
def test_weights_that_cannot_be_are_refused(source: float, most: float) -> None:
    with pytest.raises(ValueError, match="0 < source_frames <= max_frames must hold"):
        StatisticsConfig(source_frames=source, max_frames=most)


# The fingerprint, and a balanced memory in place of the newest frames.


def test_the_fingerprint_is_of_the_frames_since_the_drift_alone_and_is_shown_before_the_second_measure() -> None:
    estimate, rng = fresh(), np.random.default_rng(0)
    story: list[tuple[str, float]] = []

    def look(values: FloatArray, drifted: bool) -> None:
        story.append(("drift" if drifted else "look", float(values[:CHANNELS].mean())))

    def measure(x_NC: FloatArray) -> Measure:
        def measured(statistics: Tensors, alpha: float) -> Tensors:
            story.append(("measure", float(x_NC.mean())))
            return moments(x_NC)

        return measured

    for shift in (0.0, 0.0, 3.0, 3.0):
        estimate.update(measure(activations(rng, shift)), BATCH, look=look)
    assert [what for what, _ in story] == [
        *("measure", "look", "measure", "look"),
        *("measure", "drift", "measure", "measure", "look"),
    ]
    shown = [value for what, value in story if what != "measure"]
    assert shown == pytest.approx([0.0, 0.0, 3.0, 3.0], abs=0.02), "no share of the source or of the old world"
    assert estimate.fingerprint is not None
    assert estimate.values["a.running_mean"].mean() < 2.95, "the estimate has one"


def test_a_network_without_batch_norm_shows_no_fingerprint() -> None:
    estimate = StatisticsEstimate(layers=[LAYERS[1]], source={}, drift_threshold=THRESHOLD)
    estimate.update(lambda values, alpha: {}, BATCH, look=lambda values, drifted: pytest.fail("shown"))
    assert estimate.fingerprint is None


def test_balanced_frames_make_the_estimate_and_the_newest_tell_drift() -> None:
    estimate, rng = fresh(), np.random.default_rng(0)
    calls: list[str] = []

    def balanced(statistics: Tensors, alpha: float) -> Tensors:
        calls.append("balanced")
        return moments(activations(rng, 0.0))

    def newest(shift: float) -> Measure:
        def measured(statistics: Tensors, alpha: float) -> Tensors:
            calls.append("newest")
            return moments(activations(rng, shift))

        return measured

    for _ in range(10):
        assert not estimate.update(newest(0.3), BATCH, balanced=balanced)
    assert calls == ["newest", "balanced"] * 10
    assert estimate.values["a.running_mean"].mean() == pytest.approx(0.0, abs=0.03)
    control = fresh()
    for _ in range(10):
        control.update(newest(0.3), BATCH)
    assert control.values["a.running_mean"].mean() > 0.25, "the newest alone would make it theirs"
    calls.clear()
    assert estimate.update(newest(5.0), BATCH, balanced=balanced)
    assert calls == ["newest", "balanced"]


def test_a_memory_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_frames is at least 1, got 0"):
        StatisticsConfig(memory_frames=0)
