"""Which exit does a frame leave at, how sure was it there, and what did that save?

A network with E exits answers up to E times; exit 0 is the earliest, the deepest one always answers. A frame leaves at
the first exit whose confidence reaches that exit's threshold. Confidences lie in [0, 1] whatever they are made of, so
that 0 lets every frame leave; `OFF` lets none. Thresholds that promise something are made in `littoral.core.risk`.

Axes: N frames, E exits, K classes, L steps of a path of thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s, Indices
from littoral.core.heads import softmax64

Score = Literal["top1", "margin", "entropy"]
OFF = math.inf
"""The threshold of an exit at which no frame leaves. 1 is not that: a saturated softmax reaches it."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
_BISECTIONS = 60


def confidence(logits: NDArray[np.floating], *, score: Score = "top1", temperature: float = 1.0) -> Float64s:
    """How sure an exit is, 0 to 1.

    Args:
        logits: Scores before softmax, ``(..., K)`` with K at least 2.
        score: ``top1`` the highest probability; ``margin`` its lead over the second; ``entropy`` is ``1 - H / ln K``.
        temperature: Logits are divided by it.
    Returns:
        float64 ``(...)``. NaN where a logit is not finite: that reaches no threshold, so the frame goes on.
    Raises:
        ValueError: an unknown score, fewer than two classes, or a temperature that is not positive.
    """
    num_classes = logits.shape[-1]
    if num_classes < 2:
        raise ValueError(f"confidence needs at least 2 classes, got {num_classes}")
    _positive("temperature", temperature)
    with np.errstate(invalid="ignore", over="ignore"):
        p = softmax64(logits.astype(np.float64) / temperature)
    if score == "top1":
        values = p.max(axis=-1)
    elif score == "margin":
        two = np.partition(p, num_classes - 2, axis=-1)[..., -2:]
        values = two[..., 1] - two[..., 0]
    elif score == "entropy":
        nats = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=-1)
        values = 1 - nats / math.log(num_classes)
    else:
        raise ValueError(f"score is 'top1', 'margin' or 'entropy', got {score!r}")
    finite = np.isfinite(logits).all(axis=-1)
    sure: Float64s = np.where(finite, np.clip(values, 0, 1), np.nan)
    return sure


def fit_temperature(
    logits_NK: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    *,
    lowest: float = MIN_TEMPERATURE,
    highest: float = MAX_TEMPERATURE,
) -> float:
    """The temperature at which held-out frames are most likely.

    The likelihood is concave in ``1 / temperature``, so halving the interval by the sign of its slope finds the one
    maximum. Where there is none within the bounds (every answer right, or no better than chance) it is a bound; where
    the likelihood does not depend on the temperature (equal logits) it is 1, held within the bounds.

    Args:
        logits_NK: Finite scores of one exit, on frames on which nothing was fitted.
        labels_N: The labels; without any, the deepest exit's answers.
    Raises:
        ValueError: no frame, a logit that is not finite, a label outside ``[0, K)``, or bounds in the wrong order.
    Source: Guo et al., ICML 2017. It moves no answer and no order within an exit; it makes exits comparable.
    """
    if not 0 < lowest <= highest < math.inf:
        raise ValueError(f"0 < lowest <= highest must hold, got {lowest} and {highest}")
    if logits_NK.ndim != 2 or len(logits_NK) == 0 or labels_N.shape != (len(logits_NK),):
        raise ValueError(
            f"expected logits (N, K) and labels (N,) of at least 1 frame, got {logits_NK.shape} and {labels_N.shape}"
        )
    if not np.isfinite(logits_NK).all():
        raise ValueError("a logit is not finite; leave such frames out of the calibration")
    if labels_N.min() < 0 or labels_N.max() >= logits_NK.shape[1]:
        raise ValueError(
            f"labels lie between {labels_N.min()} and {labels_N.max()}, expected 0 to {logits_NK.shape[1]}"
        )
    z = logits_NK.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    of_label = z[np.arange(len(z)), labels_N]

    def slope(sharpness: float) -> float:  # of the mean negative log-likelihood; never falls
        return float(((softmax64(z * sharpness) * z).sum(axis=1) - of_label).mean())

    low, high = 1 / highest, 1 / lowest
    if not z.any():
        return min(max(1.0, lowest), highest)
    if slope(low) >= 0:
        return highest
    if slope(high) <= 0:
        return lowest
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return min(max(1 / math.sqrt(low * high), lowest), highest)


def leaves(sure: float, threshold: float) -> bool:
    """Whether one frame leaves at an exit of this threshold; never with a confidence that is not a number."""
    return sure >= threshold


def exit_of_frame(confidences_E: Sequence[float], thresholds: Sequence[float]) -> int:
    """The exit at which one frame leaves, of E; the deepest has no threshold and its confidence is not looked at."""
    if len(confidences_E) != len(thresholds) + 1:
        raise ValueError(f"{len(thresholds)} thresholds are for {len(thresholds) + 1} exits, got {len(confidences_E)}")
    pairs = zip(confidences_E, thresholds, strict=False)
    return next((i for i, (sure, threshold) in enumerate(pairs) if leaves(sure, threshold)), len(thresholds))


def exit_indices(confidences_NE: Float64s, thresholds: Sequence[float]) -> Indices:
    """`exit_of_frame` for many frames: ``(N,)``.

    Raises:
        ValueError: the number of thresholds is not one less than the number of exits, or one is NaN.
    """
    limits = np.asarray(thresholds, dtype=np.float64)
    if confidences_NE.ndim != 2 or limits.shape != (confidences_NE.shape[1] - 1,):
        raise ValueError(
            f"expected (N, E) confidences and E - 1 thresholds, got {confidences_NE.shape}, {limits.shape}"
        )
    if np.isnan(limits).any():
        raise ValueError("a threshold is not a number; an exit that is switched off has the threshold infinity")
    fires = np.ones(confidences_NE.shape, dtype=np.bool_)
    np.greater_equal(confidences_NE[:, :-1], limits, out=fires[:, :-1])
    leaving: Indices = fires.argmax(axis=1)
    return leaving


def patience_exits(answers_NE: NDArray[np.integer], patience: int) -> Indices:
    """Where frames leave by patience: at the first exit that gives its predecessor's answer the ``patience``-th time in
    a row, the deepest at the latest. A baseline without a promise.

    Source: Zhou et al., NeurIPS 2020 (PABEE).
    """
    if patience < 1:
        raise ValueError(f"patience is at least 1 agreement, got {patience}")
    num_frames, num_exits = answers_NE.shape
    leaving = np.full(num_frames, num_exits - 1, dtype=np.intp)
    in_a_row = np.zeros(num_frames, dtype=np.intp)
    for i in range(1, num_exits):
        in_a_row = np.where(answers_NE[:, i] == answers_NE[:, i - 1], in_a_row + 1, 0)
        leaving = np.where((in_a_row >= patience) & (leaving == num_exits - 1), i, leaving)
    return leaving


def error_losses(answers_NE: NDArray[np.integer], labels_N: NDArray[np.integer]) -> Float64s:
    """1 where an exit's answer is not the label, else 0: ``(N, E)``."""
    losses: Float64s = (answers_NE != labels_N[:, None]).astype(np.float64)
    return losses


def disagreement_losses(answers_NE: NDArray[np.integer]) -> Float64s:
    """1 where an exit's answer is not the deepest exit's, else 0: ``(N, E)``. Needs no label."""
    losses: Float64s = (answers_NE != answers_NE[:, -1:]).astype(np.float64)
    return losses


def excess_losses(
    answers_NE: NDArray[np.integer], labels_N: NDArray[np.integer], shipped_N: NDArray[np.integer]
) -> Float64s:
    """An exit's error minus the shipped model's, -1, 0 or 1: ``(N, E)``. A mean of 0 is "no worse than shipped"."""
    losses: Float64s = error_losses(answers_NE, labels_N) - (shipped_N != labels_N).astype(np.float64)[:, None]
    return losses


@dataclass(frozen=True, kw_only=True)
class ExitCosts:
    """What leaving at each exit costs, in multiply-accumulates.

    Attributes:
        segment_macs: Of the segment before each exit, E of them.
        head_macs: Of each exit's own classifier, E of them.
    """

    segment_macs: tuple[int, ...]
    head_macs: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.segment_macs or len(self.segment_macs) != len(self.head_macs):
            raise ValueError(
                f"{len(self.segment_macs)} segments and {len(self.head_macs)} heads; expected one for each exit"
            )
        if min(self.segment_macs) < 0 or min(self.head_macs) < 0 or self.full_macs < 1:
            raise ValueError("multiply-accumulates are not negative, and those of the whole network at least 1")

    @property
    def full_macs(self) -> int:
        """Of the network without early exits."""
        return sum(self.segment_macs) + self.head_macs[-1]

    def leaving(self, thresholds: Sequence[float]) -> Float64s:
        """Of a frame that leaves at each exit ``(E,)``: all segments so far, and the heads that are not `OFF`."""
        if len(thresholds) != len(self.segment_macs) - 1:
            raise ValueError(f"expected {len(self.segment_macs) - 1} thresholds, got {len(thresholds)}")
        used = [*(threshold != OFF for threshold in thresholds), True]
        heads = [macs if on else 0 for macs, on in zip(self.head_macs, used, strict=True)]
        return np.cumsum(np.add(self.segment_macs, heads)).astype(np.float64)


def compute_share(exit_index_N: Indices, costs: ExitCosts, thresholds: Sequence[float]) -> float:
    """The mean cost of these frames over that of the network without exits. It may exceed 1: heads cost something."""
    if len(exit_index_N) == 0:
        raise ValueError("no frame: there is no mean cost")
    return float(costs.leaving(thresholds)[exit_index_N].mean()) / costs.full_macs


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is positive and finite, got {value}")
