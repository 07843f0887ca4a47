"""A shipped head in another world: its features are brought back to where the source's lie, one by one.

A stem was trained on the source's features. In another world a device adapts what comes before the stem and not the
stem, so each feature lies a little elsewhere, and is spread otherwise. Mean and spread of each feature over some frames
of this world, against those of the source in the same mixture of classes, undo that much; no label is needed. What
comes out is a head like any other: it costs nothing more to run.

Axes: N frames, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s, FloatArray, Indices
from littoral.core.calibration_ring import as_half
from littoral.core.exits import fit_temperature
from littoral.core.heads import LinearHead, SourceMoments

_LEAST_SPREAD = 1e-4
"""Of the mean spread: a feature that hardly moves says nothing, and would be blown up."""
_MOST_STRETCH = 4.0


@dataclass(frozen=True, kw_only=True)
class SourceLevels:
    """Where the source's classes lie, feature by feature.

    Attributes:
        means_KD: float16; of each class.
        variance_D: float32; within classes, pooled.
    """

    means_KD: NDArray[np.float16]
    variance_D: FloatArray

    @classmethod
    def of(cls, moments: SourceMoments) -> SourceLevels:
        """What of the source's moments is needed here: a fortieth."""
        variance = np.ascontiguousarray(moments.covariance_DD.diagonal())
        return cls(means_KD=as_half(moments.means_KD), variance_D=variance)

    def mixed(self, shares_K: Float64s) -> tuple[Float64s, Float64s]:
        """Mean and spread of each feature in a mixture of the classes."""
        means = self.means_KD.astype(np.float64)
        mean_D = shares_K @ means
        return mean_D, np.sqrt(self.variance_D + shares_K @ (means - mean_D) ** 2)


class FeatureSums:
    """Mean and spread of each feature over frames, and how many of each class there were."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        self.counts_K = np.zeros(num_classes)
        self._sums_D, self._squares_D = np.zeros(num_features), np.zeros(num_features)

    def add(self, features_D: NDArray[np.floating], answer: int) -> None:
        """Take in a frame, with what the network said of it."""
        wide = features_D.astype(np.float64)
        self.counts_K[answer] += 1
        self._sums_D += wide
        self._squares_D += wide * wide

    @property
    def num_frames(self) -> int:
        return int(self.counts_K.sum())

    def mean_and_spread(self) -> tuple[Float64s, Float64s]:
        """Of each feature, ``(D,)`` each."""
        mean = self._sums_D / self.num_frames
        return mean, np.sqrt(np.maximum(self._squares_D / self.num_frames - mean * mean, 0))


def levelled(
    head: LinearHead,
    source: SourceLevels,
    counts_K: Float64s,
    mean_D: Float64s,
    spread_D: Float64s,
    *,
    prior_frames: float = 16.0,
) -> LinearHead:
    """The head that says of a feature here what the given one says of it at the source.

    Args:
        head: As shipped.
        counts_K: How many frames of each class were seen, by the network's own answers.
        mean_D, spread_D: Of each feature over these frames.
        prior_frames: So many frames speak for features that lie where the source's do.
    Raises:
        ValueError: no frame, or shapes that do not fit.
    """
    num_frames = float(counts_K.sum())
    if num_frames < 1 or mean_D.shape != (head.num_features,) or spread_D.shape != mean_D.shape:
        raise ValueError(f"expected {head.num_features} means and spreads of 1 frame or more, got {mean_D.shape}")
    wanted_mean, wanted_spread = source.mixed(counts_K / num_frames)
    keep = num_frames / (num_frames + prior_frames)
    mean = wanted_mean + keep * (mean_D - wanted_mean)
    spread = wanted_spread + keep * (spread_D - wanted_spread)
    least = _LEAST_SPREAD * max(float(wanted_spread.mean()), 1e-12)
    stretch = np.clip(wanted_spread / np.maximum(spread, least), 1 / _MOST_STRETCH, _MOST_STRETCH)
    weights = head.weights_KD.astype(np.float64)
    bias = head.bias_K + weights @ (wanted_mean - stretch * mean)
    return LinearHead(weights_KD=(weights * stretch).astype(np.float32), bias_K=bias.astype(np.float32))


def cooled(logits_NK: NDArray[np.floating], answers_N: Indices, temperature: float) -> float:
    """The temperature of an exit in another world, where it may be as sure as at the source and wrong more often.

    One threshold is for all exits. An exit that is sure of nearly all frames, some of them wrongly, would keep it above
    what any frame reaches.

    Args:
        logits_NK: Of the exit, on frames that certify nothing.
        answers_N: What the whole network says of them.
        temperature: As shipped, for frames like the source's; it is never lowered: that these few show no error does
            not say that there are none.
    """
    if not np.isfinite(logits_NK).all() or not len(logits_NK):
        return temperature
    return max(temperature, fit_temperature(logits_NK, answers_N))
