"""The affine values of normalisation layers: compare, code into a few bytes, keep within bounds.

A normalisation layer of C channels has gamma ``(C,)`` and beta ``(C,)``; BatchNorm also has mean ``(C,)`` and variance
``(C,)``. Tensors are named as in the torch state dict: ``<layer>.weight``, ``.bias``, ``.running_mean``,
``.running_var``.

A version on the wire is a *quantised delta to the source values* of the bundle, never to the version before it: any
version can be installed on any device of the bundle, whatever it missed in between.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from littoral.core.arrays import FloatArray, Tensors

NormKind = Literal["batch", "group", "layer"]

DELTA_MAGIC = b"LAD2"
_HEADER = struct.Struct("<4sII")  # magic, number of tensors, crc32 of all that follows
_LEVELS = 63  # 7 bits, symmetric
_MAX_STEP = 1e30  # so that 63 steps are still a float32


@dataclass(frozen=True, kw_only=True)
class NormLayer:
    """One normalisation layer: its name in the state dict, its kind, its channels and its epsilon."""

    name: str
    kind: NormKind
    num_channels: int
    eps: float

    @property
    def gamma(self) -> str:
        return f"{self.name}.weight"

    @property
    def beta(self) -> str:
        return f"{self.name}.bias"

    @property
    def mean(self) -> str:
        return f"{self.name}.running_mean"

    @property
    def var(self) -> str:
        return f"{self.name}.running_var"


def affine_names(layers: Iterable[NormLayer]) -> list[str]:
    """The names of the adaptable tensors, in the order in which they are coded: gamma, beta of each layer in turn."""
    return [name for layer in layers for name in (layer.gamma, layer.beta)]


def diff(new: Tensors, base: Tensors, layers: Sequence[NormLayer]) -> dict[str, FloatArray]:
    """``new - base`` for every affine tensor of the layers.

    Raises:
        ValueError: a tensor is missing or has another shape.
    """
    return {name: _of(new, name, base) - base[name] for name in affine_names(layers)}


def apply_delta(base: Tensors, delta: Tensors, layers: Sequence[NormLayer]) -> dict[str, FloatArray]:
    """``base + delta`` for every affine tensor of the layers; the inverse of `diff`."""
    return {name: base[name] + _of(delta, name, base) for name in affine_names(layers)}


def _of(tensors: Tensors, name: str, like: Tensors) -> FloatArray:
    if name not in tensors:
        raise ValueError(f"tensor {name!r} is missing; give gamma and beta of every normalisation layer")
    if tensors[name].shape != like[name].shape:
        raise ValueError(f"tensor {name!r} has shape {tensors[name].shape}, the bundle's has {like[name].shape}")
    return tensors[name]


def encode_delta(delta: Tensors, layers: Sequence[NormLayer]) -> bytes:
    """Code a delta with 7 bits per value and one float32 step per tensor.

    The length depends on the layers alone (`delta_bytes`), so a receiver knows it before it reads. The error of a value
    is at most half a step, and a step is the tensor's largest magnitude / 63.

    Raises:
        ValueError: a tensor is missing, of another size, or not finite.
    """
    body = bytearray()
    for layer in layers:
        for name in (layer.gamma, layer.beta):
            values = np.asarray(delta[name], dtype=np.float32)
            if values.shape != (layer.num_channels,):
                raise ValueError(f"delta of {name!r} has shape {values.shape}, expected ({layer.num_channels},)")
            if not np.isfinite(values).all():
                raise ValueError(f"delta of {name!r} is not finite; a version must not be made from a diverged step")
            step = np.float32(np.abs(values).max(initial=0.0) / _LEVELS)
            symbols = np.rint(values / step) if step > 0 else np.zeros_like(values)
            body += struct.pack("<f", step)
            body += _pack(np.clip(symbols, -_LEVELS, _LEVELS))
    return _HEADER.pack(DELTA_MAGIC, 2 * len(layers), zlib.crc32(body)) + bytes(body)


def delta_bytes(layers: Sequence[NormLayer]) -> int:
    """The exact length in bytes of any coded delta for these layers."""
    return _HEADER.size + sum(2 * (4 + _packed_bytes(layer.num_channels)) for layer in layers)


def _packed_bytes(count: int) -> int:
    return (7 * count + 7) // 8


def _pack(symbols: FloatArray) -> bytes:
    """Whole numbers within 63 of 0 as 7 bits each, the highest first; the last byte is filled with zeros."""
    bits = np.unpackbits((symbols + _LEVELS).astype(np.uint8)[:, None], axis=1)
    return np.packbits(bits[:, 1:]).tobytes()


def _unpack(data: bytes, count: int) -> FloatArray:
    """The inverse of `_pack`.

    Raises:
        ValueError: a number that no coder writes, or a last byte that is not filled with zeros.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    symbols = np.packbits(np.pad(bits[: 7 * count].reshape(count, 7), ((0, 0), (1, 0))), axis=1)[:, 0]
    if bits[7 * count :].any() or (symbols > 2 * _LEVELS).any():
        raise ValueError("the coded delta holds a value that no coder writes")
    return symbols.astype(np.float32) - _LEVELS


def decode_delta(data: bytes, layers: Sequence[NormLayer]) -> dict[str, FloatArray]:
    """The inverse of `encode_delta`.

    Raises:
        ValueError: wrong length, magic, count or checksum, a step that is negative or not finite, or a value that no
            coder writes. Nothing is decoded from damaged bytes.
    """
    expected = delta_bytes(layers)
    if len(data) != expected:
        raise ValueError(f"a coded delta for this bundle has {expected} bytes, got {len(data)}")
    magic, num_tensors, crc = _HEADER.unpack_from(data)
    if magic != DELTA_MAGIC or num_tensors != 2 * len(layers):
        raise ValueError(f"not a coded delta for this bundle: magic {magic!r}, {num_tensors} tensors")
    if zlib.crc32(data[_HEADER.size :]) != crc:
        raise ValueError("the coded delta's checksum does not match; it was damaged on the way")
    out: dict[str, FloatArray] = {}
    at = _HEADER.size
    for layer in layers:
        for name in (layer.gamma, layer.beta):
            (step,) = struct.unpack_from("<f", data, at)
            if not 0 <= step <= _MAX_STEP:
                raise ValueError(f"the step of {name!r} is {step}; it must be within 0 and {_MAX_STEP:g}")
            end = at + 4 + _packed_bytes(layer.num_channels)
            out[name] = _unpack(data[at + 4 : end], layer.num_channels) * np.float32(step)
            at = end
    return out


def violations(values: Tensors, base: Tensors, max_delta: Mapping[str, float]) -> list[str]:
    """Which tensors leave the envelope, each with a sentence that says by how much.

    Args:
        values: The affine values to check.
        base: The source values.
        max_delta: Per tensor name the largest allowed ``|values - base|``. A tensor not named here must not change.
    Returns:
        One sentence per offending tensor; empty when all is within bounds and finite.
    """
    found = []
    for name in sorted(values):
        if name not in base or values[name].shape != base[name].shape:
            found.append(f"{name!r} is not an affine tensor of this bundle or has another shape")
            continue
        if not np.isfinite(values[name]).all():
            found.append(f"{name!r} is not finite")
            continue
        change, bound = float(np.abs(values[name] - base[name]).max(initial=0.0)), float(max_delta.get(name, 0.0))
        # Values at the bound may lie beyond it by the rounding of ``base + delta`` in float32.
        slack = 1e-6 * (bound + float(np.abs(base[name]).max(initial=0.0))) if bound > 0 else 0.0
        if change > bound + slack:
            found.append(f"{name!r} moves by {change:.4g}, the envelope allows {bound:.4g}")
    return found


def clip_to_envelope(values: Tensors, base: Tensors, max_delta: Mapping[str, float]) -> dict[str, FloatArray]:
    """Project affine values onto the envelope around the source values."""
    return {
        name: base[name]
        + np.clip(value - base[name], -max_delta.get(name, 0.0), max_delta.get(name, 0.0)).astype(np.float32)
        for name, value in values.items()
    }
