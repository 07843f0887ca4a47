"""A bounded number of pooled features: some to fit heads from, some held back to judge them by.

`FeatureMemory` is a reservoir by class: within a class each frame that came is kept with equal chance; when all is
full, the largest class gives way. `HeldBack` keeps the newest. Features are float16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import FloatArray, Mask

HALF_MAX = float(np.finfo(np.float16).max)
_SPREAD = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def draw(seed: int, number: int, below: int) -> int:
    """The ``number``-th draw of a seed, 0 to ``below - 1``: SplitMix64, which has no state to be saved.

    Source: Steele, Lea and Flood, OOPSLA 2014.
    """
    z = (seed + (number + 1) * _SPREAD) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) * below) >> 64


class FeatureMemory:
    """A reservoir of features, balanced by class.

    Attributes:
        size: How many are kept; the first ``size`` rows of each array count.
        seen_K: How many of each class came.
        num_draws: The position in the seed's draws.
    """

    def __init__(self, capacity: int, num_features: int, num_classes: int, *, seed: int) -> None:
        if capacity < 1:
            raise ValueError(f"a memory holds at least 1 feature, got {capacity}")
        self.seed, self.size, self.num_draws = seed, 0, 0
        self.features = np.zeros((capacity, num_features), dtype=np.float16)
        self.targets = np.zeros((capacity, num_classes), dtype=np.float16)
        self.weights = np.zeros(capacity, dtype=np.float32)
        self.labels = np.zeros(capacity, dtype=np.uint16)
        self.days = np.zeros(capacity, dtype=np.int32)
        self.seen_K = np.zeros(num_classes, dtype=np.int64)

    def __len__(self) -> int:
        return self.size

    def add(self, features_D: FloatArray, target_K: NDArray[np.floating], weight: float, *, day: int) -> None:
        """Offer a frame; its class is the likeliest of its target."""
        label = int(target_K.argmax())
        self.seen_K[label] += 1
        place = self._place(label)
        if place is None:
            return
        self.features[place], self.targets[place] = features_D, target_K
        self.weights[place], self.labels[place], self.days[place] = weight, label, day

    def remove_days(self, first: int, last: int) -> None:
        """Forget the frames of these days. Those that had given way to them do not come back."""
        stays = np.ones(len(self.days), dtype=np.bool_)
        stays[: self.size] = (self.days[: self.size] < first) | (self.days[: self.size] > last)
        stays[self.size :] = False
        count = int(stays.sum())
        for array in (self.features, self.targets, self.weights, self.labels, self.days):
            array[:count] = array[stays]
            array[count:] = 0
        self.size = count

    def _place(self, label: int) -> int | None:
        if self.size < len(self.labels):
            self.size += 1
            return self.size - 1
        counts = np.bincount(self.labels, minlength=len(self.seen_K))
        largest = label if counts[label] == counts.max() else int(counts.argmax())
        places = np.flatnonzero(self.labels == largest)
        if largest == label and self._draw(int(self.seen_K[label])) >= len(places):
            return None
        return int(places[self._draw(len(places))])

    def _draw(self, below: int) -> int:
        self.num_draws += 1
        return draw(self.seed, self.num_draws, below)


class HeldBack:
    """The newest frames on which no head was fitted, with what was the best known answer.

    A frame without a label does not push out one with a label while these are at most half of all: labels are rare, and
    they alone can say that a head is better than the deep exit.

    Attributes:
        labelled: The answer is a label and not the deep exit's.
        next: Where the next one goes.
    """

    def __init__(self, capacity: int, num_features: int) -> None:
        if capacity < 1:
            raise ValueError(f"at least 1 frame is held back, got {capacity}")
        self.size = self.next = 0
        self.features = np.zeros((capacity, num_features), dtype=np.float16)
        self.answers = np.zeros(capacity, dtype=np.uint16)
        self.labelled: Mask = np.zeros(capacity, dtype=np.bool_)
        self.days = np.zeros(capacity, dtype=np.int32)

    def __len__(self) -> int:
        return self.size

    def add(self, features_D: FloatArray, answer: int, *, labelled: bool, day: int) -> None:
        """Keep a frame; the oldest gives way."""
        i = self.next
        if not labelled and 2 * int(self.labelled.sum()) <= len(self.labelled):
            while self.labelled[i]:
                i = (i + 1) % len(self.labelled)
        self.features[i], self.answers[i], self.labelled[i], self.days[i] = features_D, answer, labelled, day
        self.next = (i + 1) % len(self.answers)
        self.size = min(self.size + 1, len(self.answers))

    def remove_days(self, first: int, last: int) -> None:
        """Forget the frames of these days."""
        order = (np.arange(self.size) + (self.next if self.size == len(self.answers) else 0)) % len(self.answers)
        order = order[(self.days[order] < first) | (self.days[order] > last)]
        for array in (self.features, self.answers, self.labelled, self.days):
            kept = array[order]
            array[: len(order)] = kept
            array[len(order) :] = 0
        self.size, self.next = len(order), len(order) % len(self.answers)


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """How pooled features move from one affine version to another, feature by feature."""

    scale_D: FloatArray
    shift_D: FloatArray

    def __call__(self, features: NDArray[np.floating]) -> FloatArray:
        """The features ``(..., D)`` as the new version would give them."""
        moved: FloatArray = np.clip(features * self.scale_D + self.shift_D, -HALF_MAX, HALF_MAX).astype(np.float32)
        return moved


_ALIKE = 0.7
"""From this correlation on a feature says the same under two versions."""


def fit_feature_map(old_ND: FloatArray, new_ND: FloatArray, *, prior_frames: float = 4.0) -> FeatureMap:
    """The map between the features of the same frames under two versions, for each feature.

    Where the two say the same (a correlation of 0.7 or more) means and deviations are matched, so that there and back
    is where it was: versions come and go with worlds, and least squares would draw what is kept towards the mean each
    time. Where they do not, it is by least squares.

    Args:
        prior_frames: So many frames speak for a scale of 1.
    """
    if old_ND.shape != new_ND.shape or old_ND.ndim != 2 or len(old_ND) == 0:
        raise ValueError(f"expected the features of the same frames, got {old_ND.shape} and {new_ND.shape}")
    old, new = old_ND.astype(np.float64), new_ND.astype(np.float64)
    old_mean, new_mean = old.mean(axis=0), new.mean(axis=0)
    var = ((old - old_mean) ** 2).mean(axis=0)
    together = ((old - old_mean) * (new - new_mean)).mean(axis=0)
    share = prior_frames / len(old)
    prior = share * np.maximum(var, 1e-12)
    scale = (together + prior) / (var + prior + 1e-30)
    new_var = ((new - new_mean) ** 2).mean(axis=0)
    alike = (together > 0) & (together**2 >= _ALIKE**2 * var * new_var) & (var > 1e-12)
    ratio = np.divide(new_var, var, out=np.ones_like(var), where=alike)
    scale = np.where(alike, ratio ** (0.5 / (1 + share)), scale)
    return FeatureMap(
        scale_D=scale.astype(np.float32),
        shift_D=(new_mean - scale * old_mean).astype(np.float32),
    )
