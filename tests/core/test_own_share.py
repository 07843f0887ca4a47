"""How much of what serves is the device's own statistics: little where the world is like the source's, more further."""

from __future__ import annotations

import math

import numpy as np
import pytest

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray, Tensors
from littoral.core.drift import StatisticsConfig, StatisticsEstimate
from littoral.core.nearness import Nearness, SourceWorld, own_share
from littoral.core.recall import MEAN_SQUARE_SUFFIX, MEAN_SUFFIX, fingerprint_distance, fingerprint_of_moments

CHANNELS, BATCH, PIXELS, THRESHOLD = 8, 16, 16, 0.05
LAYER = NormLayer(name="a", kind="batch", num_channels=CHANNELS, eps=1e-5)
LABELS = np.zeros(16, np.int64)
SOURCE = {"a.running_mean": np.zeros(CHANNELS, np.float32), "a.running_var": np.ones(CHANNELS, np.float32)}


def moments(x_NC: FloatArray) -> dict[str, FloatArray]:
    return {"a" + MEAN_SUFFIX: x_NC.mean(0), "a" + MEAN_SQUARE_SUFFIX: (x_NC**2).mean(0)}


def usual() -> FloatArray:
    """What the layer sees of the source's world."""
    return np.concatenate([SOURCE["a.running_mean"], SOURCE["a.running_var"]])


def world() -> SourceWorld:
    """Frames without classes, in units of a thousandth, so that chance is next to nothing."""
    mean, var = SOURCE["a.running_mean"], SOURCE["a.running_var"]
    many = np.array([1e9], np.float32)
    return SourceWorld(layer=LAYER, mean_KC=mean[None], mean_square_KC=var[None], num_frames_K=many, chance=1e-3)


def looking(factor: float) -> Nearness | None:
    """The share is a half at a distance of ``factor`` thresholds."""
    return Nearness(world(), near_distance=0.0, half_trust_distance=factor * THRESHOLD / 1e-3) if factor else None


def after(shift: float, batches: int, *, seed: int = 0, factor: float = 18.0) -> tuple[StatisticsEstimate, FloatArray]:
    """The estimate after batches of a world ``shift`` away from the source's, and its activations all together."""
    estimate = StatisticsEstimate(
        layers=[LAYER],
        source=SOURCE,
        drift_threshold=THRESHOLD,
        config=StatisticsConfig(source_frames=1e-6, drift_factor=1e9),
        nearness=looking(factor),
    )
    rng = np.random.default_rng(seed)
    parts = [rng.normal(shift, 1.0, (BATCH * PIXELS, CHANNELS)).astype(np.float32) for _ in range(batches)]
    for x in parts:
        seen = fingerprint_of_moments(moments(x), LAYER)
        estimate.update(
            lambda values, alpha, x=x: moments(x), BATCH, seen=seen, deep=(seen, LABELS), mixed=lambda: True
        )
    return estimate, np.concatenate(parts)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_what_serves_is_the_mixture_of_the_source_and_all_that_was_seen(shift: float) -> None:
    estimate, x = after(shift, 4)
    seen = fingerprint_of_moments(moments(x), LAYER)
    share = own_share(fingerprint_distance(seen, usual(), eps=LAYER.eps), 18.0 * THRESHOLD)
    mean, square = share * x.mean(0), (1 - share) + share * (x**2).mean(0)
    served = estimate.served(mixed=True)
    np.testing.assert_allclose(served["a.running_mean"], mean, rtol=1e-3)
    np.testing.assert_allclose(served["a.running_var"], square - mean**2, rtol=1e-3)
    np.testing.assert_allclose(estimate.served(mixed=False)["a.running_mean"], x.mean(0), rtol=1e-3)


@pytest.mark.parametrize("factor", [18.0, 0.0], ids=["by-distance", "own-alone"])
def test_in_the_sources_own_world_the_chance_of_few_frames_does_not_serve(factor: float) -> None:
    """The control: without the share the statistics of a batch stray as far as chance takes them."""
    strayed = [
        np.abs(after(0.0, 1, seed=s, factor=factor)[0].served(mixed=True)["a.running_mean"]).max() for s in range(20)
    ]
    own = [np.abs(after(0.0, 1, seed=s, factor=0.0)[0].served(mixed=True)["a.running_mean"]).max() for s in range(20)]
    assert (max(strayed) < 0.1 * max(own)) == (factor > 0)


def test_a_far_world_is_served_by_its_own_statistics() -> None:
    estimate, _ = after(4.0, 4)
    assert estimate.served(mixed=True)["a.running_mean"].mean() > 0.8 * 4.0


def test_a_layer_is_measured_under_what_will_serve_before_it() -> None:
    """What the graph normalises with, the batch at its weight among the others, is what serves afterwards."""
    estimate, _ = after(1.0, 2)
    x = np.random.default_rng(9).normal(1.0, 1.0, (BATCH * PIXELS, CHANNELS)).astype(np.float32)
    used: list[tuple[FloatArray, FloatArray]] = []

    def measure(values: Tensors, alpha: float) -> Tensors:
        mean = (1 - alpha) * values["a.running_mean"] + alpha * x.mean(0)
        square = (1 - alpha) * (values["a.running_var"] + values["a.running_mean"] ** 2) + alpha * (x**2).mean(0)
        used.append((mean, square - mean**2))
        return moments(x)

    seen = fingerprint_of_moments(moments(x), LAYER)
    estimate.update(measure, BATCH, seen=seen, deep=(seen, LABELS), mixed=lambda: True)
    served = estimate.served(mixed=True)
    np.testing.assert_allclose(used[0][0], served["a.running_mean"], rtol=1e-4)
    np.testing.assert_allclose(used[0][1], served["a.running_var"], rtol=1e-4)


def test_a_version_is_served_by_the_devices_own_measured_anew() -> None:
    estimate, _ = after(0.5, 6)
    x = np.random.default_rng(9).normal(2.0, 1.0, (BATCH * PIXELS, CHANNELS)).astype(np.float32)
    estimate.update(lambda values, alpha: moments(x), BATCH, mixed=lambda: False)
    np.testing.assert_allclose(estimate.served(mixed=False)["a.running_mean"], x.mean(0), rtol=1e-3)


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "nothing-kept"])
def test_where_another_rule_serves_what_is_kept_of_the_world_counts_too(keeps: bool) -> None:
    """Not the batch alone: with nothing kept the statistics are those of 16 frames, and stray."""
    estimate, old = after(1.0, 6)
    x = np.random.default_rng(9).normal(1.0, 1.0, (BATCH * PIXELS, CHANNELS)).astype(np.float32)
    kept = (lambda values, alpha: moments(old)), 6 * BATCH
    estimate.update(lambda v, alpha: moments(x), BATCH, mixed=lambda: False, kept=lambda: kept if keeps else None)
    everything = np.concatenate([old, x]).mean(0)
    served = estimate.served(mixed=False)["a.running_mean"]
    np.testing.assert_allclose(served, everything if keeps else x.mean(0), rtol=1e-4)
    assert not np.allclose(everything, x.mean(0), rtol=1e-2)


def test_what_is_kept_of_another_world_is_not_measured() -> None:
    """A batch that is far alone ends what was near: the frames before it are not of its world."""
    estimate, _ = after(0.0, 6)
    estimate.nearness = near = Nearness(world(), near_distance=200.0, half_trust_distance=1000.0)
    x = np.random.default_rng(9).normal(4.0, 1.0, (BATCH * PIXELS, CHANNELS)).astype(np.float32)
    near.take(usual(), LABELS, afresh=False)
    assert estimate.near

    def kept() -> None:
        raise AssertionError("asked for frames of the world before")

    deep = fingerprint_of_moments(moments(x), LAYER)
    estimate.update(lambda v, alpha: moments(x), BATCH, deep=(deep, LABELS), mixed=lambda: estimate.near, kept=kept)
    assert estimate.afresh
    np.testing.assert_allclose(estimate.served(mixed=False)["a.running_mean"], x.mean(0), rtol=1e-3)


def test_the_batch_in_which_the_world_changed_says_nothing_of_how_far_it_is() -> None:
    """It may hold frames of both; the one after it counts alone."""
    rng = np.random.default_rng(3)
    estimate, _ = after(0.0, 4)
    estimate.config = StatisticsConfig(source_frames=1e-6, drift_factor=3.5)
    looked = []
    for shift in (4.0, 4.3, 4.3):
        x = rng.normal(shift, 1.0, (BATCH * PIXELS, CHANNELS)).astype(np.float32)
        seen = fingerprint_of_moments(moments(x), LAYER)
        estimate.update(lambda v, alpha, x=x: moments(x), BATCH, seen=seen, look=lambda *_: False, deep=(seen, LABELS))
        assert estimate.nearness is not None
        looked.append((estimate.resets, estimate.nearness.distance, world().distance(seen, np.ones(1), BATCH)))
    (_, first, alone), (resets, second, second_alone), _ = looked
    assert resets >= 1
    assert first == pytest.approx(alone)
    assert second == pytest.approx(second_alone), "not mixed with the batch of both"


@pytest.mark.parametrize("name", ["half_trust_factor", "near_factor"])
@pytest.mark.parametrize("factor", [-1.0, math.inf, math.nan])
def test_a_factor_that_cannot_be_is_refused(name: str, factor: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is finite and not negative"):
        StatisticsConfig(**{name: factor})
