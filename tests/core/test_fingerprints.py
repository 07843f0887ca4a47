"""Fingerprints: which layer they are of, how they are made of moments, and how far two of them are apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray
from littoral.core.recall import (
    MEAN_SQUARE_SUFFIX,
    MEAN_SUFFIX,
    fingerprint_distance,
    fingerprint_layer,
    fingerprint_of_moments,
)

CHANNELS = 8
EPS = 1e-5


def layer(name: str, kind: str = "batch") -> NormLayer:
    return NormLayer(name=name, kind=kind, num_channels=CHANNELS, eps=EPS)  # type: ignore[arg-type]


def world(mean: float, var: float) -> FloatArray:
    return np.concatenate([np.full(CHANNELS, mean), np.full(CHANNELS, var)]).astype(np.float32)


def distance(a: FloatArray, b: FloatArray) -> float:
    return fingerprint_distance(a, b, eps=EPS)


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 0), (3, 1), (5, 1), (6, 2), (19, 6), (20, 6), (52, 17)])
def test_the_layer_is_the_batch_norm_at_a_third_of_the_depth(count: int, expected: int) -> None:
    assert fingerprint_layer([layer(str(i)) for i in range(count)]) == layer(str(expected))


def test_only_batch_norms_count_and_without_any_there_is_no_fingerprint() -> None:
    group = layer("g", "group")
    assert fingerprint_layer([group, group, layer("a"), group, layer("b"), layer("c")]) == layer("b")
    assert fingerprint_layer([group]) is None
    assert fingerprint_layer([]) is None


def test_a_fingerprint_is_the_means_and_then_the_variances_of_what_the_layer_sees() -> None:
    x_NC = np.random.default_rng(0).normal(2, 3, (500, CHANNELS)).astype(np.float32)
    moments = {"a" + MEAN_SUFFIX: x_NC.mean(0), "a" + MEAN_SQUARE_SUFFIX: (x_NC**2).mean(0)}
    found = fingerprint_of_moments({**moments, "b" + MEAN_SUFFIX: x_NC[0]}, layer("a"))
    assert (found.shape, found.dtype) == ((2 * CHANNELS,), np.float32)
    np.testing.assert_allclose(found, np.concatenate([x_NC.mean(0), x_NC.var(0)]), rtol=1e-3)


def test_rounding_never_makes_a_variance_of_a_fingerprint_negative() -> None:
    mean = np.full(CHANNELS, 1000.1, np.float32)
    moments = {"a" + MEAN_SUFFIX: mean, "a" + MEAN_SQUARE_SUFFIX: mean * mean * np.float32(1 - 1e-6)}
    assert (fingerprint_of_moments(moments, layer("a"))[CHANNELS:] >= 0).all()


@given(st.floats(-5, 5), st.floats(0, 9), st.floats(-5, 5), st.floats(0, 9))
def test_distance_is_symmetric_not_negative_bounded_and_0_for_equals(m: float, v: float, n: float, w: float) -> None:
    one, other = world(m, v), world(n, w)
    assert distance(one, one) == pytest.approx(0, abs=1e-6)
    assert distance(one, other) == pytest.approx(distance(other, one), rel=1e-6, abs=1e-6)
    assert -1e-6 <= distance(one, other) <= 10


def test_distance_by_hand() -> None:
    # Half of ((2 + 1) / 1 + (1 + 1) / 2), less 1, with eps beside it.
    assert distance(world(0, 1), world(1, 2)) == pytest.approx(1.0, rel=1e-4)


def test_no_channel_counts_for_more_than_10() -> None:
    one = world(0, 1)
    other = one.copy()
    other[0] = 100
    assert distance(one, other) == pytest.approx(10 / CHANNELS)
