"""Which frames are worth their bytes: neither settled nor hopeless, and unlike what was sent before.

Three criteria, each a pure function, and `Selector`, which holds their state. All entropies are in nats, and thresholds
are fractions of ln K, so that one setting serves 10 classes and 1000.

Source: Chen et al., ICLR 2024 (CEMA), criteria 1 and 2; Niu et al., ICML 2022 (EATA), the diversity criterion.
Departures: the diversity margin grows for few classes (a confident answer against a uniform mean has a cosine of
1 / sqrt(K), so the published 0.05 keeps almost nothing at K = 10), and the mean answer moves by a share per *frame*,
not per batch, so that batch 1 and batch 64 select alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from littoral.core.arrays import FloatArray, Mask

PLAIN_FLOATS = 64
"""Up to so many classes plain floats are faster than arrays."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_EMA_KEEP = 0.9
_EMA_FRAMES = 64.0
"""The published mean answer keeps 0.9 of itself per batch of 64."""


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """What is worth sending. Fractions are of ln K."""

    entropy_max_fraction: float = 0.4
    """Upper threshold at the start; above it the answer is hopeless (0.4 in EATA and CEMA)."""
    entropy_min_fraction: float = 0.02
    """Lower threshold; below it there is nothing to learn (0.02 in CEMA). 0 leaves the criterion out."""
    entropy_max_factor: float = 1.0
    """CEMA's lambda on the dynamic upper threshold."""
    warm_up_frames: int | None = 200
    """Frames after which the upper threshold follows the mean entropy; None keeps it still."""
    diversity_margin: float | None = None
    """Largest cosine with the mean answer; None is `default_diversity_margin`."""

    def __post_init__(self) -> None:
        if not 0 <= self.entropy_min_fraction < self.entropy_max_fraction <= 1:
            raise ValueError(
                "0 <= entropy_min_fraction < entropy_max_fraction <= 1 must hold, got "
                f"{self.entropy_min_fraction} and {self.entropy_max_fraction}"
            )


def default_diversity_margin(num_classes: int) -> float:
    """``max(0.05, 1.25 / sqrt(K))``: the published 0.05 for 1000 classes, 0.4 for 10."""
    return max(0.05, 1.25 / math.sqrt(num_classes))


def softmax(logits_BK: FloatArray) -> FloatArray:
    """Probabilities ``(B, K)`` of finite scores ``(B, K)``."""
    shifted = logits_BK - logits_BK.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: FloatArray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def entropy(probabilities_BK: FloatArray) -> FloatArray:
    """Predictive entropy in nats, ``(B,)``. A probability of exactly 0 adds nothing."""
    p = probabilities_BK
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    nats: FloatArray = np.maximum(-terms.sum(axis=-1), 0).astype(np.float32)
    return nats


def judge_one(logits_K: FloatArray) -> tuple[int, float, float]:
    """Label, its probability and the entropy in nats of one answer: `softmax` and `entropy` for the hot path.

    Right after a network has run, its data has driven NumPy's code out of the processor's caches, and each kind of call
    costs 5 to 20 microseconds on a small machine. Up to 64 classes plain floats take half the time.

    Returns:
        The first of the highest scores, its probability, and the entropy; NaN for both where a score is not finite.
    """
    if len(logits_K) > PLAIN_FLOATS:
        label = int(logits_K.argmax())
        top = float(logits_K[label])
        lowest = float(logits_K.min())
        if not (math.isfinite(top) and math.isfinite(lowest)):
            return label, math.nan, math.nan
        if top - lowest > _FLOAT32_MAX:  # float32 does not hold the difference, and 0 times infinity is no number
            logits_K = logits_K.astype(np.float64)
        shifted = logits_K - logits_K.dtype.type(top)
        exponentials = np.exp(shifted)
        total = float(np.add.reduce(exponentials))
        return label, 1.0 / total, max(math.log(total) - float(exponentials.dot(shifted)) / total, 0.0)
    return judge_scores(logits_K.tolist())


def judge_scores(scores: Sequence[float]) -> tuple[int, float, float]:
    """`judge_one` of plain floats."""
    top = max(scores)
    if not math.isfinite(sum(scores)):
        return int(np.argmax(scores)), math.nan, math.nan
    total = weighted = 0.0
    for score in scores:
        away = score - top
        exponential = math.exp(away)
        total += exponential
        weighted += exponential * away
    return scores.index(top), 1.0 / total, max(math.log(total) - weighted / total, 0.0)


def within_entropy_bounds(entropy_B: FloatArray, *, entropy_min: float, entropy_max: float) -> Mask:
    """Keep the frames that are neither settled nor hopeless.

    Args:
        entropy_B: Entropies in nats, ``(B,)``.
        entropy_min: Lower threshold in nats; 0 keeps all that are below the upper one.
        entropy_max: Upper threshold in nats.
    Returns:
        bool ``(B,)``, True where ``entropy_min < entropy < entropy_max``; strict on both sides, but a lower threshold
        of 0 keeps an entropy of 0.
    Raises:
        ValueError: ``0 <= entropy_min < entropy_max`` does not hold.
    """
    if not 0 <= entropy_min < entropy_max:
        raise ValueError(f"0 <= entropy_min < entropy_max must hold, got {entropy_min} and {entropy_max} nats")
    above = (entropy_B > entropy_min) | (entropy_min == 0)
    kept: Mask = above & (entropy_B < entropy_max)
    return kept


def is_diverse(probabilities_BK: FloatArray, mean_K: FloatArray, *, margin: float) -> Mask:
    """Keep the answers that point elsewhere than the mean answer of what was kept before.

    Returns:
        bool ``(B,)``, True where ``|cos(p, mean)| < margin``.
    """
    norms = np.linalg.norm(probabilities_BK, axis=-1) * np.linalg.norm(mean_K)
    cosine = np.abs(probabilities_BK @ mean_K) / np.maximum(norms, 1e-12)
    kept: Mask = cosine < margin
    return kept


def dynamic_entropy_max(
    initial_nats: float,
    *,
    mean_entropy: float,
    warm_up_entropy: float,
    factor: float,
    entropy_min: float,
    ceiling: float,
) -> float:
    """The upper threshold as the stream's mean entropy moves: ``factor * initial * mean / mean at warm-up``.

    CEMA's Eq. 2 in its telescoped form, which equals the recursive one at factor 1 and does not blow up at others.
    Held within ``(entropy_min, ceiling]``, all in nats.
    """
    if warm_up_entropy <= 0:
        return initial_nats
    moved = factor * initial_nats * mean_entropy / warm_up_entropy
    return min(max(moved, math.nextafter(entropy_min, math.inf)), ceiling)


@dataclass
class Selector:
    """The state behind the criteria: the mean answer of what was kept, and the stream's mean entropy."""

    num_classes: int
    config: SelectionConfig = field(default_factory=SelectionConfig)

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"selection needs at least 2 classes, got {self.num_classes}")
        top = math.log(self.num_classes)
        self._ceiling = top
        self._initial_max = self.config.entropy_max_fraction * top
        self.entropy_min = self.config.entropy_min_fraction * top
        self.entropy_max = self._initial_max
        margin = self.config.diversity_margin
        self.margin = default_diversity_margin(self.num_classes) if margin is None else margin
        self.mean_answer: FloatArray | None = None
        self.num_kept = 0
        self.num_seen = 0
        self._entropy_sum = 0.0
        self._warm_up_entropy: float | None = None

    def select(self, probabilities_BK: FloatArray, entropy_B: FloatArray) -> Mask:
        """Which of a batch of answers are worth sending; then move the thresholds.

        Args:
            probabilities_BK: ``(B, K)``.
            entropy_B: Their entropies in nats, ``(B,)``.
        Returns:
            bool ``(B,)``.
        """
        kept = within_entropy_bounds(entropy_B, entropy_min=self.entropy_min, entropy_max=self.entropy_max)
        if self.mean_answer is not None and kept.any():
            kept &= is_diverse(probabilities_BK, self.mean_answer, margin=self.margin)
        count = int(kept.sum())
        if count:
            self._move_mean(probabilities_BK[kept].mean(axis=0), count)
        self._move_threshold(float(entropy_B.sum()), len(entropy_B))
        return kept

    def select_one(self, logits_K: FloatArray, entropy_nats: float) -> bool:
        """`select` for a single answer, given by its scores: most frames are settled by their entropy alone."""
        kept = (entropy_nats > self.entropy_min or self.entropy_min == 0) and entropy_nats < self.entropy_max
        if kept:
            p = softmax(logits_K)
            if (mean := self.mean_answer) is not None:
                cosine = float(p @ mean) / math.sqrt(max(float(p @ p) * float(mean @ mean), 1e-24))
                kept = cosine < self.margin
            if kept:
                self._move_mean(p, 1)
        self._move_threshold(entropy_nats, 1)
        return kept

    def _move_mean(self, mean_K: FloatArray, count: int) -> None:
        self.num_kept += count
        if self.mean_answer is None:
            self.mean_answer = np.array(mean_K, dtype=np.float32)
            return
        # A plain mean at first: one early answer must not weigh as much as the hundred after it.
        share = np.float32(max(count / self.num_kept, 1 - _EMA_KEEP ** (count / _EMA_FRAMES)))
        self.mean_answer = (1 - share) * self.mean_answer + share * mean_K

    def _move_threshold(self, entropy_sum: float, count: int) -> None:
        warm_up = self.config.warm_up_frames
        self.num_seen += count
        self._entropy_sum += entropy_sum
        if warm_up is None or self.num_seen < warm_up:
            return
        mean = self._entropy_sum / self.num_seen
        if self._warm_up_entropy is None:
            self._warm_up_entropy = mean
        self.entropy_max = dynamic_entropy_max(
            self._initial_max,
            mean_entropy=mean,
            warm_up_entropy=self._warm_up_entropy,
            factor=self.config.entropy_max_factor,
            entropy_min=self.entropy_min,
            ceiling=self._ceiling,
        )
