"""Affine values: a delta is small and exact to half a step, damage is refused."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from littoral.core.affine import (
    DELTA_MAGIC,
    NormLayer,
    affine_names,
    apply_delta,
    clip_to_envelope,
    decode_delta,
    delta_bytes,
    diff,
    encode_delta,
    violations,
)
from littoral.core.arrays import FloatArray

HEADER_BYTES = 12


def table(*channels: int) -> list[NormLayer]:
    return [NormLayer(name=f"bn{i}", kind="batch", num_channels=c, eps=1e-5) for i, c in enumerate(channels)]


LAYERS = table(3, 5)
RESNET20 = table(*[16] * 7, *[32] * 6, *[64] * 6)
RESNET18 = table(64, *[64] * 4, *[128] * 5, *[256] * 5, *[512] * 5)


def values(layers: Sequence[NormLayer], scale: float = 1.0, seed: int = 0) -> dict[str, FloatArray]:
    rng = np.random.default_rng(seed)
    return {
        name: (scale * rng.normal(size=layer.num_channels)).astype(np.float32)
        for layer in layers
        for name in (layer.gamma, layer.beta)
    }


def tensors(limit: float = 1e3) -> st.SearchStrategy[dict[str, FloatArray]]:
    def of(channels: int) -> st.SearchStrategy[FloatArray]:
        number = st.floats(-limit, limit, width=32, allow_subnormal=False)
        return npst.arrays(np.float32, channels, elements=number)

    return st.fixed_dictionaries({n: of(layer.num_channels) for layer in LAYERS for n in (layer.gamma, layer.beta)})


# The delta.


def test_the_names_are_in_the_order_of_the_layers_gamma_first() -> None:
    assert affine_names(LAYERS) == ["bn0.weight", "bn0.bias", "bn1.weight", "bn1.bias"]


@given(tensors(), tensors())
@settings(max_examples=40, deadline=None)
def test_applying_a_difference_gives_the_new_values_back(
    new: dict[str, FloatArray], base: dict[str, FloatArray]
) -> None:
    back = apply_delta(base, diff(new, base, LAYERS), LAYERS)
    for name in affine_names(LAYERS):
        np.testing.assert_allclose(back[name], new[name], atol=1e-3)


@given(tensors())
@settings(max_examples=40, deadline=None)
def test_decoding_errs_by_at_most_half_a_step_and_zero_stays_zero(delta: dict[str, FloatArray]) -> None:
    data = encode_delta(delta, LAYERS)
    decoded = decode_delta(data, LAYERS)
    assert len(data) == delta_bytes(LAYERS)
    assert list(decoded) == affine_names(LAYERS)
    for name, value in delta.items():
        step = float(np.abs(value).max()) / 63
        assert np.abs(decoded[name].astype(np.float64) - value).max() <= step / 2 * (1 + 1e-4)
        assert (decoded[name][value == 0] == 0).all()


@given(tensors())
@settings(max_examples=40, deadline=None)
def test_what_was_decoded_codes_to_the_same_values_again(delta: dict[str, FloatArray]) -> None:
    once = decode_delta(encode_delta(delta, LAYERS), LAYERS)
    twice = decode_delta(encode_delta(once, LAYERS), LAYERS)
    for name in once:
        np.testing.assert_allclose(twice[name], once[name], rtol=1e-5)


@pytest.mark.parametrize(
    ("layers", "num_values", "limit"),
    [(RESNET20, 1_376, 2 * 1024), (RESNET18, 9_600, 10 * 1024)],
    ids=["resnet20-2KB", "resnet18-10KB"],
)
def test_a_version_of_a_known_network_is_this_small(layers: list[NormLayer], num_values: int, limit: int) -> None:
    delta = values(layers)
    data = encode_delta(delta, layers)
    assert sum(value.size for value in delta.values()) == num_values
    packed = sum(-(-7 * value.size // 8) for value in delta.values())
    assert len(data) == delta_bytes(layers) == HEADER_BYTES + packed + 4 * 2 * len(layers)
    assert len(data) <= limit


def test_no_change_costs_the_same_and_changes_nothing() -> None:
    nothing = {name: np.zeros_like(value) for name, value in values(LAYERS).items()}
    data = encode_delta(nothing, LAYERS)
    assert len(data) == delta_bytes(LAYERS)
    for value in apply_delta(values(LAYERS), decode_delta(data, LAYERS), LAYERS).values():
        assert value.dtype == np.float32
    base = values(LAYERS)
    applied = apply_delta(base, decode_delta(data, LAYERS), LAYERS)
    assert all((applied[name] == base[name]).all() for name in base)


# Damage.


def test_every_truncation_is_refused() -> None:
    data = encode_delta(values(LAYERS), LAYERS)
    for length in range(len(data)):
        with pytest.raises(ValueError, match=f"has {len(data)} bytes, got {length}"):
            decode_delta(data[:length], LAYERS)
    with pytest.raises(ValueError, match="bytes, got"):
        decode_delta(data + b"\0", LAYERS)


def test_every_flipped_bit_is_refused() -> None:
    data = encode_delta(values(LAYERS), LAYERS)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"checksum|not a coded delta"):
            decode_delta(bytes(flipped), LAYERS)


@given(st.binary(max_size=100) | st.binary(min_size=44, max_size=44))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="coded delta"):
        decode_delta(data, LAYERS)


@pytest.mark.parametrize("step", [math.nan, math.inf, -1.0, 3e38], ids=["nan", "infinite", "negative", "huge"])
def test_a_step_that_cannot_be_is_refused_though_the_checksum_is_right(step: float) -> None:
    body = bytearray(encode_delta(values(LAYERS), LAYERS)[HEADER_BYTES:])
    struct.pack_into("<f", body, 0, step)
    data = struct.pack("<4sII", DELTA_MAGIC, 4, zlib.crc32(body)) + body
    with pytest.raises(ValueError, match="must be within 0 and"):
        decode_delta(data, LAYERS)


@pytest.mark.parametrize("forged", ["a symbol of 127", "bits behind the last symbol"])
def test_what_no_coder_writes_is_refused_though_the_checksum_is_right(forged: str) -> None:
    body = bytearray(encode_delta(values(LAYERS), LAYERS)[HEADER_BYTES:])
    first, last = 4, 4 + (7 * LAYERS[0].num_channels + 7) // 8 - 1
    if forged == "a symbol of 127":
        body[first] |= 0b11111110
    else:
        body[last] |= 1
    data = struct.pack("<4sII", DELTA_MAGIC, 4, zlib.crc32(body)) + body
    with pytest.raises(ValueError, match="no coder writes"):
        decode_delta(data, LAYERS)


def test_the_bytes_of_a_delta_are_these() -> None:
    """Worked by hand: steps of 1 and of 0; 63 + 63, 63 - 63 and 63 + 1 are 1111110 0000000 1000000."""
    layers = table(3)
    delta = {
        layers[0].gamma: np.array([63.0, -63.0, 1.0], np.float32),
        layers[0].beta: np.zeros(3, np.float32),  # 0111111 three times
    }
    body = bytes.fromhex("0000803f fc0200 00000000 7efdf8")
    assert encode_delta(delta, layers) == struct.pack("<4sII", b"LAD2", 2, zlib.crc32(body)) + body


def test_a_delta_for_other_layers_is_refused() -> None:
    data = encode_delta(values(LAYERS), LAYERS)
    with pytest.raises(ValueError, match="for this bundle has"):
        decode_delta(data, RESNET20)
    as_long = table(1, 1, 2)  # as many bytes, other tensors
    assert delta_bytes(as_long) == delta_bytes(LAYERS)
    with pytest.raises(ValueError, match="not a coded delta for this bundle"):
        decode_delta(data, as_long)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_delta_that_is_not_finite_is_never_coded(bad: float) -> None:
    delta = values(LAYERS)
    delta["bn1.bias"][2] = bad
    with pytest.raises(ValueError, match=r"'bn1.bias' is not finite"):
        encode_delta(delta, LAYERS)


@pytest.mark.parametrize("work", [diff, apply_delta], ids=["diff", "apply"])
def test_a_missing_or_misshapen_tensor_is_named(work: Callable[..., object]) -> None:
    base, other = values(LAYERS), values(LAYERS)
    other["bn0.weight"] = other["bn0.weight"][:2]
    args = (other, base) if work is diff else (base, other)
    with pytest.raises(ValueError, match=r"'bn0.weight' has shape \(2,\), the bundle's has \(3,\)"):
        work(*args, LAYERS)
    del other["bn0.weight"]
    with pytest.raises(ValueError, match=r"'bn0.weight' is missing"):
        work(*args, LAYERS)


def test_a_delta_of_another_size_is_not_coded() -> None:
    delta = values(LAYERS)
    delta["bn0.bias"] = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"shape \(4,\), expected \(3,\)"):
        encode_delta(delta, LAYERS)


# The envelope.


def test_within_the_envelope_nothing_is_found_and_clipping_changes_nothing() -> None:
    base = values(LAYERS)
    bounds = dict.fromkeys(base, 0.5)
    near = {name: value + np.float32(0.4) for name, value in base.items()}
    assert violations(near, base, bounds) == []
    for name, value in clip_to_envelope(near, base, bounds).items():
        np.testing.assert_allclose(value, near[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda v: {**v, "bn0.bias": v["bn0.bias"] + 1}, "moves by 1, the envelope allows 0.5"),
        (lambda v: {**v, "bn0.bias": v["bn0.bias"] * np.float32("nan")}, "'bn0.bias' is not finite"),
        (lambda v: {**v, "bn0.bias": v["bn0.bias"][:1]}, "or has another shape"),
        (lambda v: {**v, "fc.weight": v["bn0.bias"]}, "'fc.weight' is not an affine tensor"),
    ],
    ids=["too-far", "nan", "shape", "unknown"],
)
def test_each_way_out_of_the_envelope_is_found(
    spoil: Callable[[dict[str, FloatArray]], dict[str, FloatArray]], told: str
) -> None:
    base = values(LAYERS)
    found = violations(spoil(base), base, dict.fromkeys(base, 0.5))
    assert len(found) == 1
    assert told in found[0]


def test_a_tensor_without_a_bound_must_not_move_at_all() -> None:
    base = {name: value * 1000 for name, value in values(LAYERS).items()}
    bounds = dict.fromkeys(base, 0.5)
    del bounds["bn1.weight"]
    moved = {**base, "bn1.weight": np.nextafter(base["bn1.weight"], np.float32(np.inf))}
    assert len(violations(moved, base, bounds)) == 1
    assert violations(base, base, bounds) == []
    assert (clip_to_envelope(moved, base, bounds)["bn1.weight"] == base["bn1.weight"]).all()


@given(tensors(), tensors(), st.floats(1e-3, 10))
@settings(max_examples=60, deadline=None)
def test_clipped_values_ship_and_arrive_within_the_envelope(
    new: dict[str, FloatArray], base: dict[str, FloatArray], bound: float
) -> None:
    """Rounding must not make a device refuse what the cloud has drawn back to the bound, or the gate hold it."""
    bounds = dict.fromkeys(base, bound)
    inside = clip_to_envelope(new, base, bounds)
    arrived = apply_delta(base, decode_delta(encode_delta(diff(inside, base, LAYERS), LAYERS), LAYERS), LAYERS)
    assert violations(inside, base, bounds) == []
    assert violations(arrived, base, bounds) == []
    beyond = {name: value + np.float32(1.01 * bound + 0.01) for name, value in base.items()}
    assert len(violations(beyond, base, bounds)) == len(base)
