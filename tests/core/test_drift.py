"""Statistics that follow the device's frames: exact moments, no alarm in the domain, a fast start after a shift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray, Tensors
from littoral.core.drift import (
    Look,
    Measure,
    StatisticsConfig,
    StatisticsEstimate,
    batch_norm_layers,
    blend,
    from_moments,
)
from littoral.core.recall import MEAN_SQUARE_SUFFIX, MEAN_SUFFIX, fingerprint_of_moments

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


def print_of(x_NC: FloatArray) -> FloatArray:
    """What the fingerprint graph says of them."""
    return fingerprint_of_moments(moments(x_NC), LAYERS[0])


def step(estimate: StatisticsEstimate, x_NC: FloatArray, look: Look | None = None) -> bool:
    """One batch, as a device takes it."""
    return estimate.update(always(x_NC), len(x_NC) // PIXELS, seen=print_of(x_NC), look=look)


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


# The estimate.


def test_it_starts_at_the_sources_statistics() -> None:
    assert all((fresh().values[name] == value).all() for name, value in statistics(0, 1).items())


def test_each_batch_weighs_by_its_share_of_all_frames_that_count() -> None:
    """Source worth 4 frames, two batches of 32: the estimate is the statistics of all of it together."""
    rng = np.random.default_rng(0)
    estimate, batches = fresh(), [activations(rng, 0.1), activations(rng, 0.1)]
    weights = []
    for x in batches:
        weights.append(BATCH / (BATCH + estimate.weight_frames))
        assert not step(estimate, x)
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
        step(estimate, activations(rng, 0.0))
    assert estimate.weight_frames == 128
    assert (BATCH / (BATCH + estimate.weight_frames)) == pytest.approx(0.2)
    for i in range(40):  # a drift too slow for an alarm
        step(estimate, activations(rng, 0.02 * i))
    assert estimate.resets == 0
    assert estimate.values["a.running_mean"].mean() == pytest.approx(0.02 * 39, abs=0.15)


def test_frames_of_the_domain_never_raise_an_alarm() -> None:
    estimate, rng = fresh(), np.random.default_rng(0)
    assert not any(step(estimate, activations(rng, 0.0)) for _ in range(200))
    assert estimate.resets == 0
    np.testing.assert_allclose(estimate.values["a.running_mean"], 0, atol=0.05)


@pytest.mark.parametrize("guarded", [True, False], ids=["with-reset", "without-reset"])
def test_a_shift_is_found_at_once_and_the_new_world_counts_for_nearly_all(guarded: bool) -> None:
    config = StatisticsConfig(drift_factor=2.5 if guarded else float("inf"))
    estimate, rng = fresh(config), np.random.default_rng(0)
    for _ in range(20):
        step(estimate, activations(rng, 0.0))
    drifts = [step(estimate, activations(rng, 3.0)) for _ in range(2)]
    mean = float(estimate.values["a.running_mean"].mean())
    if guarded:
        assert drifts == [True, False]
        assert estimate.resets == 1
        assert mean == pytest.approx(3.0 * 64 / 68, abs=0.05)
    else:
        assert mean < 1.2, "without the reset the old world must still weigh, or this tests nothing"


@pytest.mark.parametrize("shifted", [True, False])
def test_a_batch_is_measured_once_and_at_a_shift_as_the_first_after_the_source(shifted: bool) -> None:
    estimate, given = fresh(), []
    x = activations(np.random.default_rng(0), 5.0 if shifted else 0.2)

    def measure(values: Tensors, alpha: float) -> Tensors:
        given.append((float(values["a.running_mean"].mean()), alpha))
        return moments(x)

    step(estimate, activations(np.random.default_rng(1), 0.2))
    assert estimate.update(measure, BATCH, seen=print_of(x)) == shifted
    ((mean, alpha),) = given
    assert alpha == pytest.approx(32 / 36 if shifted else 32 / 68)
    assert mean == 0.0 if shifted else mean > 0.1


def test_drift_is_told_by_the_fingerprint_alone_whatever_was_measured() -> None:
    """What is measured depends on values and statistics, which change in one world; the fingerprint does not."""
    rng = np.random.default_rng(0)
    still, shifted = print_of(activations(rng, 0.0)), print_of(activations(rng, 5.0))
    estimate = fresh()
    for measured in (0.0, 5.0, -5.0, 5.0):
        assert not estimate.update(always(activations(rng, measured)), BATCH, seen=still)
    assert estimate.update(always(activations(rng, 5.0)), BATCH, seen=shifted)
    blind = fresh()
    assert not any(blind.update(always(activations(rng, shift)), BATCH) for shift in (0.0, 5.0)), "none, no drift"
    assert blind.fingerprint is None


def test_a_shift_is_found_by_two_neighbours_and_not_by_how_far_the_world_has_gone() -> None:
    """Steps of 0.4 are 3.2 thresholds apart, steps of 0.5 are 5.0: between them lies the factor of 3.5."""
    for width, found in ((0.4, 0), (0.5, 4)):
        estimate, rng = fresh(), np.random.default_rng(0)
        for i in range(5):
            step(estimate, activations(rng, width * i))
        assert estimate.resets == found


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shift", [0.0, 5.0], ids=["first-measure", "measure-at-a-shift"])
@pytest.mark.parametrize("where", ["moments", "fingerprint"])
def test_what_is_not_finite_changes_nothing(bad: float, shift: float, where: str) -> None:
    estimate, rng = fresh(), np.random.default_rng(0)
    step(estimate, activations(rng, 0.0))
    before, weight = {k: v.copy() for k, v in estimate.values.items()}, estimate.weight_frames
    x = activations(rng, shift)
    found, seen = moments(x), print_of(x)
    if where == "moments":
        found["b" + MEAN_SUFFIX] = found["b" + MEAN_SUFFIX] * np.float32(bad)
    else:
        seen[-1] = bad
    told = {"moments": r"b.batch_mean of the last 32 frames is not finite", "fingerprint": "fingerprint of the last 32"}
    with pytest.raises(ValueError, match=told[where]):
        estimate.update(lambda values, alpha: found, BATCH, seen=seen)
    assert (estimate.weight_frames, estimate.resets) == (weight, 0)
    assert all((estimate.values[name] == value).all() for name, value in before.items())
    assert step(estimate, activations(rng, shift)) == (shift > 0), "the next batch is held against the last good one"


@pytest.mark.parametrize(("source", "most"), [(0.0, 128.0), (-1.0, 128.0), (129.0, 128.0)])
def test_weights_that_cannot_be_are_refused(source: float, most: float) -> None:
    with pytest.raises(ValueError, match="0 < source_frames <= max_frames must hold"):
        StatisticsConfig(source_frames=source, max_frames=most)


# The fingerprint that is shown, and frames of a memory in place of the newest.


def test_the_fingerprint_is_of_the_frames_since_the_drift_alone_and_is_shown_with_the_next_batch() -> None:
    estimate, rng = fresh(), np.random.default_rng(0)
    story: list[tuple[str, float]] = []

    def look(values: FloatArray, drifted: bool) -> bool:
        story.append(("drift" if drifted else "look", float(values[:CHANNELS].mean())))
        return False

    def measure(x_NC: FloatArray) -> Measure:
        def measured(statistics: Tensors, alpha: float) -> Tensors:
            story.append(("measure", float(x_NC.mean())))
            return moments(x_NC)

        return measured

    for shift in (0.0, 0.0, 3.0, 3.0):
        x = activations(rng, shift)
        estimate.update(measure(x), BATCH, seen=print_of(x), look=look)
    assert [what for what, _ in story] == [
        *("look", "measure", "look", "measure"),
        *("measure", "drift", "measure"),
    ]
    shown = [value for what, value in story if what != "measure"]
    assert shown == pytest.approx([0.0, 0.0, 3.0], abs=0.02), "no share of the source or of the old world"
    assert estimate.fingerprint is not None
    assert estimate.values["a.running_mean"].mean() < 2.95, "the estimate has one"


def test_a_world_that_is_a_mixture_does_not_start_afresh_for_ever() -> None:
    """Batches of two worlds in random turns; after as many neighbours as are remembered, a third is drift still."""
    estimate, fixed, rng = fresh(), fresh(), np.random.default_rng(0)
    for shift in rng.choice([0.0, 1.0], 100):
        x = activations(rng, shift)
        step(estimate, x)
        fixed._apart.clear()
        step(fixed, x)
    assert estimate.resets <= 16
    assert fixed.resets > 30, "by the bundle's threshold alone"
    before = estimate.resets
    assert step(estimate, activations(rng, 8.0))
    assert estimate.resets == before + 1


@pytest.mark.parametrize(("batches", "all_found"), [(3, False), (4, True), (6, True)])
def test_worlds_of_four_batches_and_more_are_told_apart_for_ever(batches: int, all_found: bool) -> None:
    """What changes faster is a mixture."""
    estimate, rng = fresh(), np.random.default_rng(0)
    for turn in range(30):
        for _ in range(batches):
            step(estimate, activations(rng, 3.0 * (turn % 2)))
    assert (estimate.resets == 29) == all_found


def test_a_batch_of_two_worlds_opens_none_of_its_own() -> None:
    estimate, rng = fresh(), np.random.default_rng(0)
    told: list[tuple[float, bool]] = []

    def look(values: FloatArray, drifted: bool) -> bool:
        told.append((round(float(values[:CHANNELS].mean()), 1), drifted))
        return False

    for shift in (0.0, 0.0, 1.5, 3.0, 3.0, 3.0):  # the third holds frames of both
        x = activations(rng, shift)
        estimate.update(always(x), BATCH, seen=print_of(x), look=look)
    assert estimate.resets == 2
    assert told == [(0.0, False), (0.0, False), (3.0, True), (3.0, False)]


def test_a_change_is_known_before_the_batch_is_taken_and_lasts_until_the_new_world_is_told() -> None:
    estimate, rng = fresh(), np.random.default_rng(0)
    assert not estimate.changing(None)
    changing, drifts = [], []
    for shift in (0.0, 0.0, 1.5, 3.0, 3.0, 3.0):  # the third holds frames of both
        x = activations(rng, shift)
        changing.append(estimate.changing(print_of(x)))
        drifts.append(step(estimate, x))
    assert drifts == [False, False, True, True, False, False]
    assert changing == [False, False, True, True, True, False]


@pytest.mark.parametrize("recalls", [True, False])
def test_the_estimate_starts_afresh_with_recalled_values(recalls: bool) -> None:
    """What was measured under other affine values is no statistic of these."""
    estimate, rng = fresh(), np.random.default_rng(0)
    for shift in (0.0, 3.0, 3.0):
        x = activations(rng, shift)
        estimate.update(always(x), BATCH, seen=print_of(x), look=lambda values, drifted: drifted and recalls)
    source = StatisticsConfig().source_frames
    assert estimate.weight_frames == source + (1 if recalls else 2) * BATCH


def test_it_starts_afresh_with_recalled_values_though_the_batch_cannot_be_measured() -> None:
    estimate, rng = fresh(), np.random.default_rng(0)
    for shift in (0.0, 3.0):
        step(estimate, activations(rng, shift))
    x = activations(rng, 3.0)
    bad = {name: value * np.float32(np.nan) for name, value in moments(x).items()}
    with pytest.raises(ValueError, match="not finite"):
        estimate.update(lambda values, alpha: bad, BATCH, seen=print_of(x), look=lambda values, drifted: True)
    assert estimate.weight_frames == StatisticsConfig().source_frames
    assert all((estimate.values[name] == estimate.source[name]).all() for name in estimate.values)


def test_a_network_without_batch_norm_shows_no_fingerprint() -> None:
    estimate = StatisticsEstimate(layers=[LAYERS[1]], source={}, drift_threshold=THRESHOLD)
    estimate.update(lambda values, alpha: {}, BATCH, look=lambda values, drifted: pytest.fail("shown"))
    assert estimate.fingerprint is None


def test_what_is_measured_makes_the_estimate_and_the_newest_frames_fingerprint_tells_drift() -> None:
    """As a device with a balanced memory does it: the frames that are measured are not the newest ones."""
    estimate, control, rng = fresh(), fresh(), np.random.default_rng(0)
    for _ in range(10):
        newest = print_of(activations(rng, 0.3))
        assert not estimate.update(always(activations(rng, 0.0)), BATCH, seen=newest)
        step(control, activations(rng, 0.3))
    assert estimate.values["a.running_mean"].mean() == pytest.approx(0.0, abs=0.03)
    assert control.values["a.running_mean"].mean() > 0.25, "the newest alone would make it theirs"
    assert estimate.update(always(activations(rng, 0.0)), BATCH, seen=print_of(activations(rng, 5.0)))


def test_a_memory_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_frames is at least 1, got 0"):
        StatisticsConfig(memory_frames=0)
