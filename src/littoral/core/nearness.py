"""How far a world is from the source's, by what the source's network sees of it at its last BatchNorm.

There the distance follows how often the source is right, which the layer that tells worlds apart does not see
(docs/adr/0034). The unit is the distance of the bundle's own probe frames, which are of the source's world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.core.recall import MOST_CHANNELS, fingerprint_distance, mix_fingerprints

_PROBE_PARTS = 4
_MOST_FRAMES = 64.0
"""What was seen before weighs no more than so many frames: not every shift is seen where worlds are told apart."""
_DOUBT_FRAMES = 16.0
"""A world that was seen on so few frames is near up to twice as far, on more less so: what serves where little is known
yet is the source."""
_OVER_FACTOR = 1.5
"""A batch that alone is so many times as far as what is near on so few frames is of another world."""
_FAR_FEW = 2
"""So many such batches in a row, where they are of few classes."""
_LEAST_UNIT = 1e-4
"""A probe that looks exactly like the statistics of training says nothing of what is far."""


def source_fingerprint(source: Tensors, layer: NormLayer) -> FloatArray:
    """The fingerprint of the source's world at a layer, of the statistics that its network was trained with."""
    mean, var = source[layer.mean][:MOST_CHANNELS], source[layer.var][:MOST_CHANNELS]
    return np.concatenate([mean, var]).astype(np.float32)


def last_layer(layers: Sequence[NormLayer]) -> NormLayer | None:
    """The BatchNorm that distances are taken at; None where there is none."""
    return next((layer for layer in reversed(layers) if layer.kind == "batch"), None)


def parts_of(probe: Frame) -> list[Frame]:
    """Equal parts of a bundle's probe, for `SourceWorld.of_probe`; the last few frames may be left out."""
    even = len(probe) // _PROBE_PARTS * _PROBE_PARTS
    return np.split(probe[:even], _PROBE_PARTS) if even else [probe]


@dataclass(frozen=True, kw_only=True)
class SourceWorld:
    """What is usual at the last BatchNorm in the source's own world."""

    layer: NormLayer
    fingerprint: FloatArray
    unit: float
    """The distance of very many frames of the source's world; above 0."""
    chance: float
    """What one frame would be further away by chance alone; of N frames an N-th."""

    @classmethod
    def of_probe(cls, source: Tensors, layer: NormLayer, parts: Sequence[FloatArray], num_frames: int) -> Self:
        """From fingerprints of equal parts of the probe's frames, ``num_frames`` in each.

        What the parts are further away than they are together is chance.
        """
        centre, whole = source_fingerprint(source, layer), parts[0]
        for count, part in enumerate(parts[1:], start=2):
            whole = mix_fingerprints(whole, part, np.float32(1 / count))
        together = fingerprint_distance(whole, centre, eps=layer.eps)
        apart = float(np.mean([fingerprint_distance(part, centre, eps=layer.eps) for part in parts]))
        # A fingerprint of N frames is chance / N further away, that of K parts of N together chance / (K N).
        chance = max(apart - together, 0.0) * num_frames / max(1 - 1 / len(parts), 0.5)
        unit = max(together - chance / (num_frames * len(parts)), together / _PROBE_PARTS, _LEAST_UNIT)
        return cls(layer=layer, fingerprint=centre, unit=unit, chance=chance)

    def distance(self, seen: FloatArray, num_frames: float) -> float:
        """Of the world of a fingerprint of so many frames, in units and without what chance adds; not below 0."""
        away = fingerprint_distance(seen, self.fingerprint, eps=self.layer.eps)
        return max(away - self.chance / num_frames, 0.0) / self.unit


def own_share(distance: float, half_trust_distance: float) -> float:
    """The share of the device's own statistics in a world so far from the source's: from 0 to 1, a half at
    ``half_trust_distance``; 1 whatever the distance where that is 0.

    Source: Schneider et al., *Improving robustness against common corruptions by covariate shift adaptation*, NeurIPS
    2020, mix the two by how many frames there are. Departure: by how far the world is, since more frames do not make
    statistics that the network was not trained with better ones.
    """
    return distance / (distance + half_trust_distance) if half_trust_distance > 0 else 1.0


class Nearness:
    """The distance of the world that a device is in.

    Args:
        near_distance: Up to here a world that was seen on many frames is near, in units; 0: none is.
        half_trust_distance: See `own_share`.
    """

    def __init__(self, source: SourceWorld, *, near_distance: float, half_trust_distance: float) -> None:
        self._source, self._near_distance, self._half_trust_distance = source, near_distance, half_trust_distance
        self._seen: FloatArray | None = None
        self._frames, self._num_far = 0.0, 0
        self.distance: float | None = None
        """In units; None before the first batch."""
        self.near = False
        """Whether the source's network is at home here. Any thread may read it."""

    def take(self, seen: FloatArray, num_frames: int, *, afresh: bool) -> bool:
        """A batch's fingerprint at the last layer; ``afresh``: the first of another world.

        Returns:
            Whether it ended what was near, as a batch of another world.
        Raises:
            ValueError: a value is not finite; nothing was taken.
        """
        if not np.isfinite(seen).all():
            raise ValueError(f"the last layer's fingerprint of {num_frames} frames is not finite; it is not used")
        over = self.near and self._is_over(seen, num_frames)
        self._num_far = 0
        if afresh or over or self._seen is None:
            self._seen, self._frames = seen, float(num_frames)
        else:
            share = np.float32(num_frames / (num_frames + self._frames))
            self._seen = mix_fingerprints(self._seen, seen, share)
            self._frames = min(self._frames + num_frames, _MOST_FRAMES)
        self.distance = self._source.distance(self._seen, self._frames)
        self.near = self._near_distance > 0 and self.distance <= self._bound(self._frames)
        return over

    def take_few(self, seen: FloatArray, num_frames: int) -> None:
        """A batch of few classes, which stands for no world: two in a row that are far end what is near.

        A network that is lost in a world says few classes of it, too. The distance stays what it was until a batch of
        more classes comes.
        """
        self._num_far = self._num_far + 1 if self.near and self._is_over(seen, num_frames) else 0
        if self._num_far >= _FAR_FEW:
            self._seen, self.near = None, False

    def forget(self) -> None:
        """Of this world nothing is known."""
        self._seen, self.distance, self.near, self._num_far = None, None, False, 0

    def _is_over(self, seen: FloatArray, num_frames: int) -> bool:
        return self._source.distance(seen, num_frames) > _OVER_FACTOR * self._bound(num_frames)

    def _bound(self, num_frames: float) -> float:
        """How far a world that was seen on so many frames may be and is near."""
        return self._near_distance * (1 + min(_DOUBT_FRAMES / num_frames, 1))

    @property
    def own_share(self) -> float:
        """Of the device's own statistics beside the source's; all before the first batch."""
        return 1.0 if self.distance is None else own_share(self.distance, self._half_trust_distance)
