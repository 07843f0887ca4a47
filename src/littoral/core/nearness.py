"""How far a world is from the source's, by what the source's network sees of it at its last BatchNorm.

There the distance follows how often the source is right, which the layer that tells worlds apart does not see
(docs/adr/0034). That layer sees classes even more than worlds. So a batch is held against what the source's frames look
like *of the classes that this network answers for it* (docs/adr/0035): a street full of cars is not another world.

The unit is the distance of a single frame of the source's world, which is chance alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray
from littoral.core.recall import MOST_CHANNELS, fingerprint_distance, mix_fingerprints

MEAN, MEAN_SQUARE, NUM_FRAMES, CHANCE = "mean", "mean_square", "num_frames", "chance"
"""The tensors of `SourceWorld.tensors`."""
SCORES = "statistics/scores"
"""The output of a classifier's statistics graph that says what the network answers."""
_MOST_FRAMES = 64.0
"""What was seen before weighs no more than so many frames: not every shift is seen where worlds are told apart."""
_DOUBT_FRAMES = 8.0
"""A world that was seen on so few frames is near up to twice as far, on more less so: what serves where little is known
yet is the source."""
_OVER_FACTOR = 1.5
"""A batch that alone is so many times as far as what is near on so few frames is of another world."""
_FAR_FEW = 2
"""So many such batches in a row, where they are of few classes."""
_BACK = 2
"""So many batches in a row that alone are near are the source's world, whatever was before."""
_LEAVE_FACTOR = 1.25
"""What is near stays so up to so many times the bound: versions should not come and go with every few batches."""
_LEAST_CHANCE = 1e-4
"""Source frames that are all alike say nothing of what is far, nor does one frame: then nothing is near."""
_PRIOR_FRAMES = 8.0
"""So many frames speak for the variance of all classes against that of a class's own."""
_LEAST_PART = 8
"""Frames that chance is measured on together at least: the distance of fewer is not a share of one frame's."""

_Part = tuple[FloatArray, int]
"""The fingerprint of some frames, and how many they are."""


def last_layer(layers: Sequence[NormLayer]) -> NormLayer | None:
    """The BatchNorm that distances are taken at; None where there is none."""
    return next((layer for layer in reversed(layers) if layer.kind == "batch"), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceWorld:
    """What the source's frames look like at the last BatchNorm, class by class. C channels, K classes.

    A task whose frames have no class has one row, K = 1, for all frames.
    """

    layer: NormLayer
    mean_KC: FloatArray
    mean_square_KC: FloatArray
    num_frames_K: FloatArray
    """How many frames each row was measured on; at least 1."""
    chance: float
    """How far one frame is from its class by chance alone, as `fingerprint_distance` counts; of N frames an N-th."""

    @classmethod
    def measured(cls, layer: NormLayer, parts: Mapping[int, Sequence[_Part]], num_classes: int) -> Self:
        """From fingerprints of parts of the source's frames.

        Args:
            layer: The last BatchNorm.
            parts: For each class that was answered: the fingerprint ``(2C,)`` of each part of its frames, and how many
                frames are in it. What parts are apart is chance, so a class with one part tells nothing of that.
            num_classes: 1 where frames have no class. A class without frames is taken for all of them together, as if
                it had been seen on one.
        Raises:
            ValueError: there is no frame.
        """
        sums = {label: _summed(of_class) for label, of_class in parts.items() if of_class}
        if not sums:
            raise ValueError("no source frame was measured, so nothing is known of the source's world")
        total = np.sum([values for values, _ in sums.values()], axis=0)
        count = sum(num for _, num in sums.values())
        unseen = total / count, 1  # little is known of it
        rows = [sums.get(label, unseen) for label in range(num_classes)]
        mean, square = np.split(np.array([values / num for values, num in rows]), 2, axis=1)
        counts = np.array([num for _, num in rows], dtype=np.float32)
        # The variance of a few frames is drawn towards that of all classes.
        var, given = square - mean * mean, np.array([num if k in sums else 0 for k, (_, num) in enumerate(rows)])
        pooled = (given @ var) / given.sum()
        var = (counts[:, None] * var + _PRIOR_FRAMES * pooled) / (counts[:, None] + _PRIOR_FRAMES)
        world = cls(
            layer=layer,
            mean_KC=mean.astype(np.float32),
            mean_square_KC=(var + mean * mean).astype(np.float32),
            num_frames_K=counts,
            chance=_LEAST_CHANCE,
        )
        away, expected = 0.0, 0.0
        for group in _grouped(parts):
            total, num = _summed([part for _, part in group])
            of_group, square = np.split((total / num).astype(np.float32), 2)
            seen = np.concatenate([of_group, np.maximum(square - of_group * of_group, 0)])
            shares = world.shares(np.repeat([label for label, _ in group], [part[1] for _, part in group]))
            away += fingerprint_distance(seen, world._usual(shares), eps=layer.eps)
            # Frames are nearer to rows that they have a part in.
            expected += 1 / num - float((shares**2 / world.num_frames_K).sum())
        return replace(world, chance=max(away / expected if expected > 1e-6 else 0.0, _LEAST_CHANCE))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], layer: NormLayer, num_classes: int) -> Self:
        """The inverse of `tensors`.

        Raises:
            ValueError: a tensor is missing, is not of this layer or these classes, or holds a value that cannot be.
        """
        channels = min(layer.num_channels, MOST_CHANNELS)
        expected = {
            MEAN: (num_classes, channels),
            MEAN_SQUARE: (num_classes, channels),
            NUM_FRAMES: (num_classes,),
            CHANCE: (),
        }
        came = {name: value.shape for name, value in tensors.items()}
        if came != expected:
            raise ValueError(f"the source's world has tensors {came}, expected {expected}")
        for name, value in tensors.items():
            least = -np.inf if name == MEAN else 0
            if value.dtype != np.float32 or not np.isfinite(value).all() or (value < least).any():
                raise ValueError(f"{name} of the source's world is to be finite float32 of at least {least}")
        if tensors[CHANCE] == 0 or (tensors[NUM_FRAMES] < 1).any():
            raise ValueError("of the source's world chance is to be above 0 and num_frames at least 1")
        mean, square, count = (np.asarray(tensors[n], np.float32) for n in (MEAN, MEAN_SQUARE, NUM_FRAMES))
        chance = float(np.asarray(tensors[CHANCE]))
        return cls(layer=layer, mean_KC=mean, mean_square_KC=square, num_frames_K=count, chance=chance)

    def tensors(self) -> dict[str, FloatArray]:
        """For the bundle: float32 ``mean`` and ``mean_square`` (K, C), ``num_frames`` (K,) and ``chance``."""
        chance = np.array(self.chance, dtype=np.float32)
        return {MEAN: self.mean_KC, MEAN_SQUARE: self.mean_square_KC, NUM_FRAMES: self.num_frames_K, CHANCE: chance}

    def shares(self, labels: Sequence[int] | NDArray[np.integer]) -> FloatArray:
        """The share of each row in frames that were answered so, ``(K,)``."""
        rows = len(self.num_frames_K)
        counts = np.bincount(labels, minlength=rows) if rows > 1 else np.array([len(labels)])
        return (counts / max(len(labels), 1)).astype(np.float32)

    def distance(self, seen: FloatArray, shares_K: FloatArray, num_frames: float) -> float:
        """Of the world of a fingerprint of so many frames of these classes, in units and without what chance adds; not
        below 0."""
        away = fingerprint_distance(seen, self._usual(shares_K), eps=self.layer.eps)
        by_chance = 1 / num_frames + float((shares_K**2 / self.num_frames_K).sum())
        return max(away / self.chance - by_chance, 0.0)

    def _usual(self, shares_K: FloatArray) -> FloatArray:
        mean, square = shares_K @ self.mean_KC, shares_K @ self.mean_square_KC
        return np.concatenate([mean, np.maximum(square - mean * mean, 0)])


def _summed(parts: Sequence[_Part]) -> tuple[NDArray[np.float64], int]:
    """Sums over all frames of their means and mean squares, and how many frames there are."""
    total = np.zeros(len(parts[0][0]))
    for seen, num in parts:
        mean, var = np.split(seen.astype(np.float64), 2)
        total += num * np.concatenate([mean, var + mean * mean])
    return total, sum(num for _, num in parts)


def _grouped(parts: Mapping[int, Sequence[_Part]]) -> Iterator[list[tuple[int, _Part]]]:
    """Parts, those of too few frames together with others, of other classes first; what is left at the end is left out
    unless there is nothing else."""
    turns = sorted((turn, label) for label, of_class in parts.items() for turn in range(len(of_class)))
    group: list[tuple[int, _Part]] = []
    for turn, label in turns:
        group.append((label, parts[label][turn]))
        if sum(num for _, (_, num) in group) >= _LEAST_PART or len(group) == len(turns):
            yield group
            group = []


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
        near: What is taken for true before the first batch.
    """

    def __init__(
        self, source: SourceWorld, *, near_distance: float, half_trust_distance: float, near: bool = False
    ) -> None:
        self._source, self._near_distance, self._half_trust_distance = source, near_distance, half_trust_distance
        self._seen: tuple[FloatArray, FloatArray] | None = None
        self._frames, self._variance, self._num_far, self._num_back = 0.0, 0.0, 0, 0
        self.distance: float | None = None
        """In units; None before the first batch."""
        self.near = near
        """Whether the source's network is at home here. Any thread may read it."""

    @property
    def known(self) -> bool:
        """Whether the world was seen on as many frames as count, and the last batch was like it."""
        return self._frames >= _MOST_FRAMES and not self._num_back

    @property
    def layer(self) -> NormLayer:
        """The BatchNorm that it looks at."""
        return self._source.layer

    def take(
        self, seen: FloatArray, labels: Sequence[int] | NDArray[np.int64], *, afresh: bool, few: bool = False
    ) -> bool:
        """A batch's fingerprint at the last layer.

        Args:
            labels: What the source's network answers for each of its frames: what serves may be wrong.
            afresh: It is the first of another world.
            few: It is of few classes, and may be one thing seen sixteen times: then it is far though the world is not,
                and only two such batches in a row end what is near.
        Returns:
            Whether it ended what was near, as a batch of another world.
        Raises:
            ValueError: a value is not finite; nothing was taken.
        """
        num_frames = len(labels)
        if not np.isfinite(seen).all():
            raise ValueError(f"the last layer's fingerprint of {num_frames} frames is not finite; it is not used")
        shares = self._source.shares(labels)
        alone = self._source.distance(seen, shares, num_frames)
        far = self.near and num_frames >= _LEAST_PART and alone > _OVER_FACTOR * self._bound(num_frames)
        self._num_far = self._num_far + 1 if far else 0
        if far and few and not afresh and self._num_far < _FAR_FEW and self._seen is not None:
            return False
        looks_back = not self.near and self._near_distance > 0 and alone <= self._near_distance
        self._num_back = self._num_back + 1 if looks_back else 0
        back = self._num_back >= _BACK
        stays = self.near and not (far or afresh)
        if far or back or afresh or self._seen is None:
            self._seen, self._frames, self._variance = (seen, shares), float(num_frames), 1 / num_frames
        else:
            part = num_frames / (num_frames + self._frames)
            before, shares_before = self._seen
            self._seen = mix_fingerprints(before, seen, np.float32(part)), (1 - part) * shares_before + part * shares
            self._frames = min(self._frames + num_frames, _MOST_FRAMES)
            self._variance = (1 - part) ** 2 * self._variance + part**2 / num_frames
        self.distance = self._source.distance(*self._seen, 1 / self._variance)
        bound = self._bound(self._frames) * (_LEAVE_FACTOR if stays else 1)
        self.near = self._near_distance > 0 and self.distance <= bound
        return far and not few

    def _bound(self, num_frames: float) -> float:
        """How far a world that was seen on so many frames may be and is near."""
        return self._near_distance * (1 + min(_DOUBT_FRAMES / num_frames, 1))

    @property
    def own_share(self) -> float:
        """Of the device's own statistics beside the source's; all before the first batch."""
        return 1.0 if self.distance is None else own_share(self.distance, self._half_trust_distance)
