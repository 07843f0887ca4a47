"""What is each way of answering a frame worth, from here on? Error curves by confidence, and backward induction.

A frame passes points 0 to P. At point 0 nothing has run; at point p the segments up to exit p - 1 have, and its answer
is in hand; at point P the whole network has. At each point the frame is answered with what is in hand, goes on to the
next point, or is offloaded by one of W ways. All is counted in one currency, the *loss*: a wrong answer costs 1, a
millisecond, a byte and a millijoule cost what `Prices` says. Backwards from P:

    V_p(b) = min( wrong_p(b), step_p + E[V_{p+1} | b], min over ways of way_w + wrong_w(b) )

with b the bin of the confidence at point p. How often each is wrong in a bin, and to which bin of the next point frames
go, is counted on calibration frames.

Axes: N frames, P points with an answer (exits, then the whole network), W ways, B bins.
Source: the recursion is the usual one of optimal stopping; curves by bins in place of calibrated probabilities as in
PCEE (2024).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s

_NARROWING, _FEWEST = 2.0, 8.0
"""The k-th of B bins ends at the quantile (k / B) to this power, as long as the first one has so many frames: what
tells frames apart is at the unsure end, and most frames are sure."""
_BISECTIONS, _STEEPEST = 60, 400.0
_WAY_FRAMES = 100.0
"""So many frames of what a way differs by everywhere are added to what it differs by in a bin."""
_GAIN_FRAMES = 1_000.0
"""So many frames of what the switcher predicts are added to what an offload gains in a bin: a percent or two decides,
and a bin of a hundred frames tells that from nothing by luck alone."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What things cost in wrong answers."""

    ms: float = 0.0005
    """Of a millisecond until the answer: 20 ms are worth a percent."""
    byte: float = 1e-6
    """Of a byte uplink: ten kilobytes are worth a percent."""
    millijoule: float = 0.0
    """Of the device's energy."""

    def __post_init__(self) -> None:
        if not all(0 <= price < math.inf for price in (self.ms, self.byte, self.millijoule)):
            raise ValueError(f"prices are finite and not below 0, got {self}")


@dataclass(frozen=True, kw_only=True)
class ErrorCurves:
    """How often each answer is wrong, by the confidence at each point.

    Attributes:
        edges: Per point the B - 1 inner edges of its bins, in scores, ``(P, B - 1)``, rising.
        sure: The mean confidence in each bin, ``(P, B)``; 0 in one without frames.
        local: The share of wrong answers in hand, ``(P, B)``.
        cloud: That of each way, by the bin at each point, ``(W, P, B)``.
        cloud_mean: That of each way over all frames, ``(W,)``.
        first: The shares of the bins at the first exit, ``(B,)``.
        onward: Where frames of a bin are at the next point, ``(P - 1, B, B)``; rows sum to 1. `fit_curves` tilts them.
    """

    edges: Float64s
    sure: Float64s
    local: Float64s
    cloud: Float64s
    cloud_mean: Float64s
    first: Float64s
    onward: Float64s

    def __post_init__(self) -> None:
        points, bins = self.local.shape
        ways = len(self.cloud_mean)
        wanted = ((points, bins - 1), (points, bins), (ways, points, bins), (bins,), (points - 1, bins, bins))
        came = (self.edges.shape, self.sure.shape, self.cloud.shape, self.first.shape, self.onward.shape)
        if came != wanted:
            raise ValueError(f"error curves of shapes {came} came, expected {wanted}")
        if not all(((shares >= 0) & (shares <= 1)).all() for shares in (self.local, self.cloud, self.cloud_mean)):
            raise ValueError("an error curve leaves [0, 1]")

        object.__setattr__(self, "_edges", self.edges.tolist())  # for `bin_of`: one frame at a time

    _edges: ClassVar[list[list[float]]]

    @property
    def num_points(self) -> int:
        return len(self.local)

    def bin_of(self, exit_index: int, score: float) -> int:
        """The bin of a score at an exit (or at the whole network); the least sure one for what is no number."""
        return 0 if math.isnan(score) else bisect_right(self._edges[exit_index], score)


def fit_curves(
    confidences_NP: Float64s,
    local_wrong_NP: NDArray[np.floating],
    cloud_wrong_NW: NDArray[np.floating],
    *,
    scores_NP: Float64s | None = None,
    gains_NP: Float64s | None = None,
    num_bins: int = 20,
    prior_frames: float = 4.0,
) -> ErrorCurves:
    """Count the curves, on frames on which nothing was fitted.

    Ways differ by less than bins of few frames do by luck, and a router takes whichever was lucky, at any number of
    bytes. So no error may rise with the score, the cloud's neither: what is easy here is not harder there. And a way's
    error is that of all ways and what it differs by, as far as that is beyond chance; where little is counted of it, in
    the measure of how often the ways are wrong there: on frames that all get right a better network gains nothing. With
    ``gains_NP`` what an offload gains in a bin is drawn towards what was predicted: of many bins that gain nothing some
    look as if they did.

    A chain from bin to bin forgets where a frame came from: one that was sure at an exit is right more often than
    others of the bin that it comes to. Going on would look worse than it is, and frames would leave too early. So the
    shares in ``onward`` are tilted, by as little as can be, until the whole network's error that the chain expects of
    each bin is the one that was counted there.

    Args:
        local_wrong_NP: 1 where an exit's answer (last: the whole network's) is wrong. Without labels: is not the
            cloud's.
        cloud_wrong_NW: The same of the answer that each way brings.
        scores_NP: What the bins are of: higher where the device needs the cloud less (`littoral.core.switcher`); by
            default the confidences.
        gains_NP: By how much an offload makes a right answer likelier, as predicted by a switcher that has not seen the
            frame; None: nobody predicts.
        num_bins: Narrower at the unsure end; fewer where confidences are equal.
        prior_frames: So many frames of the point's mean are added to each bin, so that no bin promises perfection.
    Raises:
        ValueError: shapes that do not fit, too few frames for the bins, or a confidence that is not finite.
    """
    n, points = confidences_NP.shape
    ways = cloud_wrong_NW.shape[1]
    if local_wrong_NP.shape != (n, points) or len(cloud_wrong_NW) != n or n < num_bins or num_bins < 2:
        raise ValueError(
            f"expected (N, P), (N, P) and (N, W) of at least {max(num_bins, 2)} frames, got {confidences_NP.shape}, "
            f"{local_wrong_NP.shape} and {cloud_wrong_NW.shape}"
        )
    if not np.isfinite(confidences_NP).all():
        raise ValueError("a confidence is not finite; fit the curves without such frames")
    scores = confidences_NP if scores_NP is None else scores_NP
    if scores.shape != (n, points) or not np.isfinite(scores).all():
        raise ValueError(f"scores are finite and of shape {(n, points)}, got {scores.shape}")
    if gains_NP is not None and (gains_NP.shape != (n, points) or not np.isfinite(gains_NP).all()):
        raise ValueError(f"predicted gains are finite and of shape {(n, points)}, got {gains_NP.shape}")
    edges = np.quantile(scores, _shares(num_bins, n)[1:-1], axis=0).T
    bins = np.stack([np.searchsorted(edges[p], scores[:, p], side="right") for p in range(points)], axis=1)
    member_PBN = bins.T[:, None, :] == np.arange(num_bins)[None, :, None]
    counts_PB = member_PBN.sum(axis=2)

    def rates(wrong_N: NDArray[np.floating], p: int) -> Float64s:
        shrunk = (member_PBN[p] @ wrong_N + prior_frames * wrong_N.mean()) / (counts_PB[p] + prior_frames)
        return np.clip(_never_rises(shrunk, counts_PB[p]), 0, 1)

    local = np.stack([rates(local_wrong_NP[:, p], p) for p in range(points)])
    pooled_N = cloud_wrong_NW.mean(axis=1) if ways else np.zeros(n)
    cloud, cloud_mean = np.zeros((ways, points, num_bins)), np.zeros(ways)
    for w in range(ways):
        differs_N = cloud_wrong_NW[:, w] - pooled_N
        differs = _beyond_chance(float(differs_N.mean()), float(differs_N.var()) / n)
        cloud_mean[w] = min(max(float(pooled_N.mean()) + differs, 0.0), 1.0)
        for p in range(points):
            pooled_B = rates(pooled_N, p)
            differs_B = differs * pooled_B / max(float(pooled_N.mean()), 1e-9)
            by_bin = (member_PBN[p] @ differs_N + _WAY_FRAMES * differs_B) / (counts_PB[p] + _WAY_FRAMES)
            cloud[w, p] = np.clip(_never_rises(pooled_B + by_bin, counts_PB[p]), 0, 1)
            if gains_NP is not None:
                predicted = member_PBN[p] @ gains_NP[:, p] / np.maximum(counts_PB[p], 1) - differs_B
                counted = local[p] - cloud[w, p]
                gain = (counts_PB[p] * counted + _GAIN_FRAMES * predicted) / (counts_PB[p] + _GAIN_FRAMES)
                cloud[w, p] = np.clip(_never_rises(local[p] - gain, counts_PB[p]), 0, 1)
    onward = np.zeros((points - 1, num_bins, num_bins))
    for p in range(points - 1):
        moved = member_PBN[p].astype(np.float64) @ member_PBN[p + 1].T.astype(np.float64)
        moved += prior_frames * counts_PB[p + 1] / n
        onward[p] = moved / moved.sum(axis=1, keepdims=True)
    deep_B = local[-1]
    for p in reversed(range(points - 1)):
        onward[p] = _tilted(onward[p], deep_B, rates(local_wrong_NP[:, -1], p))
        deep_B = onward[p] @ deep_B
    sure = (member_PBN @ confidences_NP.T[:, :, None])[:, :, 0] / np.maximum(counts_PB, 1)
    return ErrorCurves(
        edges=edges,
        sure=sure,
        local=local,
        cloud=cloud,
        cloud_mean=cloud_mean,
        first=counts_PB[0] / n,
        onward=onward,
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What each point is worth under the prices and times that it was made for.

    Attributes:
        onward: The loss to be expected of going on, at points 0 to P - 1 by bin: ``(P, B)``; the bins of point 0 are
            all alike.
        offload: That of each way at points 0 to P, without the time that it takes to come there: ``(W, P + 1, B)``;
            infinite where the way starts later or is shut.
    """

    onward: Float64s
    offload: Float64s


def make_plan(
    curves: ErrorCurves,
    *,
    step_losses: Sequence[float],
    way_losses: Sequence[float],
    way_points: Sequence[int],
    thresholds: Sequence[float],
    exit_extra: float = 0.0,
) -> Plan:
    """Backward induction.

    Args:
        step_losses: The loss, by prices, of getting from each point to the next; P of them.
        way_losses: That of an offload without its error; infinite for a way that is shut.
        way_points: The first point at which each way's input is there.
        thresholds: Of each early exit: below it a frame may not be answered there, whatever the curves say.
        exit_extra: Added to the errors of early exits, as while the world has just changed.
    """
    points, bins = curves.local.shape
    ways = len(way_losses)
    if len(step_losses) != points or len(way_points) != ways or ways != len(curves.cloud):
        raise ValueError(
            f"{len(step_losses)} steps, {ways} ways and {len(way_points)} points of ways; expected {points} steps and "
            f"{len(curves.cloud)} ways"
        )
    if len(thresholds) != points - 1:
        raise ValueError(f"{len(thresholds)} thresholds are for {len(thresholds) + 1} answers, there are {points}")
    limits = np.array([*thresholds, -math.inf])
    offload = np.full((ways, points + 1, bins), math.inf)
    for w, (loss, point) in enumerate(zip(way_losses, way_points, strict=True)):
        if math.isfinite(loss):
            offload[w, 1:] = loss + curves.cloud[w]
            offload[w, 0] = loss + curves.cloud_mean[w]
            offload[w, :point] = math.inf
    best_offload = offload.min(axis=0) if ways else np.full((points + 1, bins), math.inf)
    extra = np.array([exit_extra] * (points - 1) + [0.0])
    answer = np.where(curves.sure >= limits[:, None], np.minimum(curves.local + extra[:, None], 1), math.inf)
    onward = np.empty((points, bins))
    value_B = np.minimum(answer[-1], best_offload[points])
    for p in range(points - 1, 0, -1):
        onward[p] = step_losses[p] + curves.onward[p - 1] @ value_B
        value_B = np.minimum(np.minimum(answer[p - 1], onward[p]), best_offload[p])
    onward[0] = step_losses[0] + curves.first @ value_B
    return Plan(onward=onward, offload=offload)


def _shares(num_bins: int, num_frames: int) -> Float64s:
    """The edges of the bins as shares of the frames, from 0 to 1."""
    power = math.log(max(num_frames / _FEWEST, num_bins)) / math.log(num_bins)
    shares: Float64s = np.linspace(0, 1, num_bins + 1) ** min(power, _NARROWING)
    return shares


def _tilted(moved_BB: Float64s, values_B: Float64s, wanted_B: Float64s) -> Float64s:
    """Rows of shares whose means of ``values_B`` are ``wanted_B``, or as near as they can be, nearest to what they were
    (exponential tilting: least relative entropy)."""
    above_B = values_B - values_B.mean()
    low_B, high_B = np.full(len(moved_BB), -_STEEPEST), np.full(len(moved_BB), _STEEPEST)
    tilted = moved_BB
    for _ in range(_BISECTIONS):
        steep_B = (low_B + high_B) / 2
        weights = moved_BB * np.exp(steep_B[:, None] * above_B)
        tilted = weights / weights.sum(axis=1, keepdims=True)
        less = tilted @ values_B < wanted_B
        low_B, high_B = np.where(less, steep_B, low_B), np.where(less, high_B, steep_B)
    return tilted


def _beyond_chance(difference: float, variance: float) -> float:
    """A mean difference, drawn towards 0 by its own variance (the positive part of James and Stein's estimate)."""
    return difference * max(0.0, 1 - variance / difference**2) if difference else 0.0


def _never_rises(rates_B: Float64s, counts_B: NDArray[np.integer]) -> Float64s:
    """Pool neighbours until a surer bin is never wrong more often (pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []
    for rate, count in zip(rates_B.tolist(), counts_B.tolist(), strict=True):
        weight, size = max(float(count), 1e-9), 1
        while blocks and blocks[-1][0] < rate:
            before, its, number = blocks.pop()
            rate = (before * its + rate * weight) / (its + weight)
            weight, size = weight + its, size + number
        blocks.append((rate, weight, size))
    return np.concatenate([np.full(size, rate) for rate, _, size in blocks])
