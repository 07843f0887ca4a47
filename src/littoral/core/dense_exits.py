"""How sure is an exit of a whole frame, when it answers for every pixel?

One number per frame, 0 to 1, made of the confidences of its pixels (`littoral.core.exits.confidence`); with it a frame
leaves or goes on as in classification. And what leaving cost, per frame, for thresholds with a promise.

Axes: B batch, N frames, E exits (the last is the whole network), K classes, H height, W width.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s
from littoral.core.exits import Score, confidence
from littoral.core.metrics import LabelMap

Over = Literal["mean", "quantile", "sure_share"]


def dense_confidence(
    scores_BKHW: NDArray[np.floating],
    *,
    over: Over = "mean",
    score: Score = "top1",
    temperature: float = 1.0,
    quantile: float = 0.1,
    sure: float = 0.9,
) -> Float64s:
    """How sure an exit is of each frame, 0 to 1.

    Args:
        scores_BKHW: Before softmax, at whatever size the exit has them.
        over: ``mean`` of the pixels; their lower ``quantile``; ``sure_share``, of pixels of a confidence of at least
            ``sure``.
        score: Of a pixel.
        temperature: Scores are divided by it.
    Returns:
        float64 ``(B,)``. NaN where a score is not finite: that reaches no threshold, so the frame goes on.
    Raises:
        ValueError: not four axes or no pixel, an unknown word, or a quantile or ``sure`` outside [0, 1].
    """
    if scores_BKHW.ndim != 4 or 0 in scores_BKHW.shape[2:]:
        raise ValueError(f"expected scores (B, K, H, W) with at least a pixel, got {scores_BKHW.shape}")
    if not (0 <= quantile <= 1 and 0 <= sure <= 1):
        raise ValueError(f"quantile and sure lie within [0, 1], got {quantile} and {sure}")
    pixels = confidence(np.moveaxis(scores_BKHW, 1, -1), score=score, temperature=temperature)
    flat_BP = pixels.reshape(len(pixels), -1)
    finite_B = np.isfinite(flat_BP).all(axis=1)
    if over == "mean":
        values = flat_BP.mean(axis=1)
    elif over == "quantile":
        values = np.quantile(flat_BP, quantile, axis=1)
    elif over == "sure_share":
        values = (flat_BP >= sure).mean(axis=1)
    else:
        raise ValueError(f"over is 'mean', 'quantile' or 'sure_share', got {over!r}")
    sure_B: Float64s = np.where(finite_B, values, np.nan)
    return sure_B


def pixel_disagreement(answer: LabelMap, whole: LabelMap) -> float:
    """The share of pixels to which an exit gives another class than the whole network. Needs no label.

    Raises:
        ValueError: the two are not of one size.
    """
    _same_size(answer, whole)
    return float((answer != whole).mean())


def pixel_error(answer: LabelMap, truth: LabelMap, *, ignored_label: int = 255) -> float:
    """The share of wrong pixels among those with a truth; 0 where no pixel has one.

    Raises:
        ValueError: the two are not of one size.
    """
    _same_size(answer, truth)
    known = truth != ignored_label
    return float((answer[known] != truth[known]).mean()) if known.any() else 0.0


def _same_size(one: LabelMap, other: LabelMap) -> None:
    if one.shape != other.shape or one.size == 0:
        raise ValueError(f"label maps of one size and at least a pixel are expected, got {one.shape} and {other.shape}")
