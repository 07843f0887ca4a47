"""Domains remembered by a fingerprint: which world is this, and have we been here before?

A *fingerprint* is what one BatchNorm layer of the *source's* network sees of a world: per channel the mean, then the
variance, float32 ``(2C,)``, of its first 64 channels at most. It depends on the frames alone and not on any adapted
value or statistic, and it takes 4 C bytes on the wire. A *scene* is a stretch of one device's stream within one world;
a *domain* is a set of scenes, of whatever devices, whose fingerprints lie within a radius.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray, Tensors

MEAN_SUFFIX = ".batch_mean"
MEAN_SQUARE_SUFFIX = ".batch_mean_square"
_CAP_PER_CHANNEL = 10.0
_WIRE_DTYPE = np.dtype("<f2")
_WIRE_MAX = float(np.finfo(np.float16).max)
MOST_CHANNELS = 64
"""Of a fingerprint: a wider layer tells no more, and a version carries the fingerprint in its manifest."""
NO_DOMAIN = 0
"""The domain of a device that has no fingerprint: a network without BatchNorm, or statistics switched off."""


def fingerprint_layer(layers: Sequence[NormLayer]) -> NormLayer | None:
    """The layer that fingerprints are of: the BatchNorm at a third of the depth; None where there is none.

    The first layer cannot tell one blur from another; the last ones see classes more than worlds (docs/log.md).
    """
    batch = [layer for layer in layers if layer.kind == "batch"]
    return batch[len(batch) // 3] if batch else None


def fingerprint_of_moments(moments: Tensors, layer: NormLayer) -> FloatArray:
    """The fingerprint ``(2C,)`` of the moments that the fingerprint graph gives for a batch of frames."""
    mean = moments[layer.name + MEAN_SUFFIX]
    var = np.maximum(moments[layer.name + MEAN_SQUARE_SUFFIX] - mean * mean, 0)
    return np.concatenate([mean[:MOST_CHANNELS], var[:MOST_CHANNELS]]).astype(np.float32)


def encode_fingerprint(values: FloatArray) -> bytes:
    """Little-endian float16, 4 bytes a channel; values beyond float16 are clipped."""
    return np.clip(values, -_WIRE_MAX, _WIRE_MAX).astype(_WIRE_DTYPE).tobytes()


def decode_fingerprint(data: bytes, layer: NormLayer) -> FloatArray:
    """The inverse of `encode_fingerprint`.

    Raises:
        ValueError: another length, a value that is not finite, or a variance below 0.
    """
    num_channels = min(layer.num_channels, MOST_CHANNELS)
    expected = 4 * num_channels
    if len(data) != expected:
        raise ValueError(f"a fingerprint of this bundle has {expected} bytes, got {len(data)}")
    values = np.frombuffer(data, dtype=_WIRE_DTYPE).astype(np.float32)
    if not np.isfinite(values).all() or (values[num_channels:] < 0).any():
        raise ValueError("a fingerprint holds finite means and variances that are not negative")
    return values


def mix_fingerprints(a: FloatArray, b: FloatArray, share: np.float32) -> FloatArray:
    """The fingerprint of a mixture of ``1 - share`` parts of ``a`` and ``share`` parts of ``b``, by moments."""
    half = len(a) // 2
    mean = (1 - share) * a[:half] + share * b[:half]
    square = (1 - share) * (a[half:] + a[:half] ** 2) + share * (b[half:] + b[:half] ** 2)
    return np.concatenate([mean, np.maximum(square - mean * mean, 0)]).astype(np.float32)


def fingerprint_distance(a: FloatArray, b: FloatArray, *, eps: float) -> float:
    """Symmetric Gaussian divergence of two fingerprints, mean over channels.

    Returns:
        At least 0; 0 when equal; at most 10, since no channel counts for more.
    """
    half = len(a) // 2
    var_a, var_b = a[half:] + eps, b[half:] + eps
    square = (a[:half] - b[:half]) ** 2
    per_channel = 0.5 * ((var_a + square) / var_b + (var_b + square) / var_a) - 1.0
    return float(np.minimum(per_channel, _CAP_PER_CHANNEL).mean())


@dataclass(kw_only=True)
class Domain:
    """A domain's number, its centre, and how many scenes made it."""

    number: int
    centre: FloatArray
    num_scenes: int = 1


@dataclass
class DomainIndex:
    """The domains that are known, nearest first when asked; bounded, the least visited gives way.

    Args:
        eps: Of the fingerprint's layer.
        radius: Two fingerprints closer than this are of one domain.
    """

    eps: float
    radius: float
    capacity: int = 64
    domains: list[Domain] = field(default_factory=list)

    def nearest(self, values: FloatArray) -> tuple[Domain, float] | None:
        """The nearest domain and its distance, whatever it is; None when nothing is known."""
        if not self.domains:
            return None
        distances = [fingerprint_distance(values, domain.centre, eps=self.eps) for domain in self.domains]
        best = int(np.argmin(distances))
        return self.domains[best], distances[best]

    def find(self, values: FloatArray) -> Domain | None:
        """The nearest domain within the radius."""
        found = self.nearest(values)
        return found[0] if found is not None and found[1] < self.radius else None

    def assign(self, values: FloatArray) -> Domain:
        """The domain of a new scene: a known one, whose centre moves towards it, or a new one."""
        known = self.find(values)
        if known is not None:
            known.num_scenes += 1
            known.centre = known.centre + (values - known.centre) / np.float32(known.num_scenes)
            return known
        number = max((domain.number for domain in self.domains), default=NO_DOMAIN) + 1
        if len(self.domains) >= self.capacity:
            self.domains.remove(min(self.domains, key=lambda domain: (domain.num_scenes, domain.number)))
        made = Domain(number=number, centre=values)
        self.domains.append(made)
        return made
