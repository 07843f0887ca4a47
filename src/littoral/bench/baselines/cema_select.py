"""What the published system uploads: the three filters in their order, in both forms.

Source: Chen et al., ICLR 2024 (CEMA), Alg. 1 and Eq. 2, and chenyaofo/CEMA ``cema.py``; the diversity filter is EATA's.
It differs from `littoral.core.selection.Selector`, which we ship, in that the mean answer moves per batch and the upper
threshold follows either order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from littoral.core.arrays import FloatArray, Mask
from littoral.core.selection import (
    default_diversity_margin,
    dynamic_entropy_max,
    entropy,
    is_diverse,
    softmax,
    within_entropy_bounds,
)

_KEEP = 0.9


@dataclass(frozen=True, kw_only=True)
class SelectionSettings:
    """Which filters. Entropy thresholds are fractions of ln K. Defaults are the shipped configuration's."""

    entropy_max_fraction: float = 0.4
    entropy_min_fraction: float = 0.0
    """0 leaves the lower threshold out, as shipped; 0.02 in the paper."""
    follow_entropy: bool = False
    """Whether the upper threshold follows the mean entropy (the paper) or stays (as shipped)."""
    entropy_max_factor: float = 1.0
    """The paper's lambda; telescoped, so that it does not compound."""
    warm_up_frames: int = 64
    """The mean entropy of the first so many frames, whole batches, is what later means are held against."""
    update_first: bool = False
    """The code moves the threshold before it filters a batch with it; Alg. 1 afterwards."""
    diversity: bool = True
    diversity_margin: float | None = None
    """None is max(0.05, 1.25 / sqrt(K)): the published 0.05 at 1000 classes keeps nothing at 10."""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What became of a batch: which frames go up, and every frame's entropy in nats."""

    mask: Mask
    entropy_nats: FloatArray


class PublishedSelector:
    """The state of one device's filters."""

    def __init__(self, num_classes: int, settings: SelectionSettings) -> None:
        top = math.log(num_classes)
        self.settings, self._top = settings, top
        self.initial_max = self.entropy_max = settings.entropy_max_fraction * top
        self.entropy_min = settings.entropy_min_fraction * top
        margin = settings.diversity_margin
        self.margin = default_diversity_margin(num_classes) if margin is None else margin
        self.mean_answer: FloatArray | None = None
        self._entropy_sum, self._num_seen = 0.0, 0
        self._warm_up_entropy: float | None = None

    def select(self, logits_BK: FloatArray) -> Selected:
        """Filter a batch of answers ``(B, K)`` by entropy, then by diversity, and move the filters."""
        answers_BK = softmax(logits_BK)
        entropy_B = entropy(answers_BK)
        if self.settings.update_first:
            self._follow(entropy_B)
        mask = within_entropy_bounds(entropy_B, entropy_min=self.entropy_min, entropy_max=self.entropy_max)
        if self.settings.diversity:
            mask = self._diverse(answers_BK, mask)
        if not self.settings.update_first:
            self._follow(entropy_B)
        return Selected(mask=mask, entropy_nats=entropy_B)

    def _diverse(self, answers_BK: FloatArray, mask: Mask) -> Mask:
        """The first batch with survivors passes whole and makes the mean answer; what is kept later moves it."""
        if not mask.any():
            return mask
        if self.mean_answer is None:
            self.mean_answer = answers_BK[mask].mean(axis=0)
            return mask
        mask = mask & is_diverse(answers_BK, self.mean_answer, margin=self.margin)
        if mask.any():
            kept = answers_BK[mask].mean(axis=0)
            self.mean_answer = np.float32(_KEEP) * self.mean_answer + np.float32(1 - _KEEP) * kept
        return mask

    def _follow(self, entropy_B: FloatArray) -> None:
        self._entropy_sum += float(entropy_B.sum())
        self._num_seen += len(entropy_B)
        if not self.settings.follow_entropy or self._num_seen < self.settings.warm_up_frames:
            return
        mean = self._entropy_sum / self._num_seen
        if self._warm_up_entropy is None:
            self._warm_up_entropy = mean
        self.entropy_max = dynamic_entropy_max(
            self.initial_max,
            mean_entropy=mean,
            warm_up_entropy=self._warm_up_entropy,
            factor=self.settings.entropy_max_factor,
            entropy_min=self.entropy_min,
            ceiling=self._top,
        )
