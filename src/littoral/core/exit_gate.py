"""Is this frame like anything the user ever showed? An exit that learned from one user should not answer for others.

A personal head is sure of itself also where it never learned anything: a class that its user never showed. A gate
keeps it from answering there.

There are two. `ExitGate` measures how far features lie from the nearest class that was shown, in units of how
far the user's own frames spread (Mahalanobis distance). `StrangerGate` asks how likely the shipped head holds a class
that was never shown. Each lets an exit answer only within what the user's held-back frames need; where the deep exit's
gate is shut the shipped network answers.

Source: Lee et al., NeurIPS 2018 (distance to class means under one covariance). Departures: the bundle's moments are
the prior of both, so that a few frames suffice; classes that were hardly shown are left out; the limit is a quantile of
held-back frames and so keeps its promise whatever the distances are.

Axes: N frames, D features, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s, FloatArray, Mask
from littoral.core.heads import LinearHead, SourceMoments, softmax64
from littoral.core.unseen import shown_classes


@dataclass(frozen=True, kw_only=True)
class ExitGate:
    """What an exit may answer for.

    Attributes:
        whitening_DD: Distances are Euclidean after it, float32.
        means_KD: Whitened, of the classes that count, float32.
        limit: The largest distance, squared, at which the exit answers; infinity for a gate that is open.
    """

    whitening_DD: FloatArray
    means_KD: FloatArray
    limit: float

    def distances(self, features: NDArray[np.floating]) -> Float64s:
        """Squared, to the nearest class: ``(...)`` of features ``(..., D)``. Infinity where one is not finite."""
        white = features.astype(np.float32, copy=False) @ self.whitening_DD
        gaps = white[..., None, :] - self.means_KD
        with np.errstate(invalid="ignore", over="ignore"):
            nearest = (gaps.astype(np.float64) ** 2).sum(axis=-1).min(axis=-1)
        squared: Float64s = np.where(np.isfinite(nearest), nearest, math.inf)
        return squared

    def lets(self, features: NDArray[np.floating]) -> Mask:
        """Whether the exit may answer for these: ``(...)``."""
        within: Mask = self.distances(features) <= self.limit
        return within

    def __call__(self, features_D: NDArray[np.floating]) -> bool:
        """`lets` for one frame: what `littoral.core.exit_policy.ServedExit` asks."""
        return bool(self.lets(features_D))


def fit_gate(
    gram_AA: Float64s,
    targets_AK: Float64s,
    moments: SourceMoments,
    held_ND: NDArray[np.floating],
    *,
    keep: float = 0.95,
    mean_frames: float = 10.0,
    covariance_frames: float = 300.0,
    min_share: float = 0.02,
    shrinkage: float = 0.02,
) -> ExitGate:
    """A gate from a personal head's sums and the frames that it held back.

    Args:
        gram_AA: ``sum w x x^T`` with a 1 behind the features, as `littoral.core.evidence.Evidence.total` gives it.
        targets_AK: ``sum w x t^T`` with t a distribution over classes.
        moments: The source's: the prior of means and covariance.
        held_ND: Frames of the user on which nothing was fitted.
        keep: The share of such frames for which the exit goes on answering. On the next frame it holds to within
            ``1 / (N + 1)``; with too few frames to say, the gate is open.
        mean_frames, covariance_frames: What the source's means, and its covariance, weigh.
        min_share: A class counts when at least this share of the weight is its.
    Raises:
        ValueError: shapes that do not fit, a value out of range, or no class that counts.
    """
    num_features = len(gram_AA) - 1
    if moments.covariance_DD.shape != (num_features, num_features) or targets_AK.shape != (
        num_features + 1,
        len(moments.means_KD),
    ):
        raise ValueError(
            f"sums of {num_features} features and targets {targets_AK.shape} do not fit moments of "
            f"{moments.means_KD.shape[1]} features and {len(moments.means_KD)} classes"
        )
    if held_ND.ndim != 2 or held_ND.shape[1] != num_features:
        raise ValueError(f"held-back frames are (N, {num_features}), got {held_ND.shape}")
    if not (0 < keep < 1 and mean_frames > 0 and covariance_frames > 0 and 0 <= min_share < 1 and 0 < shrinkage < 1):
        raise ValueError(
            "0 < keep < 1, mean_frames > 0, covariance_frames > 0, 0 <= min_share < 1, 0 < shrinkage < 1 must hold"
        )
    counts_K, sums_DK = targets_AK[-1], targets_AK[:-1]
    total = float(counts_K.sum())
    shown = np.flatnonzero((counts_K > 0) & (counts_K >= min_share * total))
    if len(shown) == 0:
        raise ValueError("no class was shown; there is nothing that a gate could be near to")
    means_DK = (mean_frames * moments.means_KD.T + sums_DK) / (mean_frames + counts_K)
    scatter = gram_AA[:-1, :-1] - (sums_DK / np.maximum(counts_K, 1e-12)) @ sums_DK.T
    covariance = (covariance_frames * moments.covariance_DD + scatter) / (covariance_frames + total)
    scale = max(float(np.trace(covariance)) / num_features, 1e-12)
    covariance = (1 - shrinkage) * covariance + shrinkage * scale * np.eye(num_features)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
    gate = ExitGate(
        whitening_DD=whitening.astype(np.float32),
        means_KD=(means_DK[:, shown].T @ whitening).astype(np.float32),
        limit=math.inf,
    )
    return ExitGate(whitening_DD=gate.whitening_DD, means_KD=gate.means_KD, limit=_limit(gate.distances(held_ND), keep))


@dataclass(frozen=True, kw_only=True)
class StrangerGate:
    """An exit answers unless the shipped head is surer of a class that was never shown than it is of the user's frames.

    Attributes:
        shipped: The exit's.
        never_K: The classes that were never shown.
        limit: The largest probability of these at which the exit answers; infinity for a gate that is open.
    """

    shipped: LinearHead
    never_K: Mask
    limit: float

    def lets(self, features: NDArray[np.floating]) -> Mask:
        """Whether the exit may answer for these: ``(...)`` of features ``(..., D)``; not where one is not finite."""
        if math.isinf(self.limit):
            return np.ones(features.shape[:-1], dtype=np.bool_)
        with np.errstate(invalid="ignore", over="ignore"):
            within: Mask = softmax64(self.shipped.logits(features))[..., self.never_K].sum(axis=-1) <= self.limit
        return within

    def __call__(self, features_D: NDArray[np.floating]) -> bool:
        """`lets` for one frame: what `littoral.core.exit_policy.ServedExit` asks."""
        return bool(self.lets(features_D))


def fit_stranger_gate(
    shipped: LinearHead, counts_K: Float64s, held_ND: NDArray[np.floating], *, keep: float = 0.99
) -> StrangerGate:
    """A gate from what a personal head has counted and held back.

    Args:
        counts_K: The evidence by class; `littoral.core.unseen.shown_classes` says which count as shown.
        held_ND: Frames of the user on which nothing was fitted.
        keep: The share of such frames for which the exit goes on answering; on the next frame it holds to within
            ``1 / (N + 1)``. With too few frames to say, or every class shown, the gate is open.
    Raises:
        ValueError: shapes that do not fit, or a share outside (0, 1).
    """
    if counts_K.shape != (shipped.num_classes,) or held_ND.shape[1:] != (shipped.num_features,) or not 0 < keep < 1:
        raise ValueError(
            f"expected counts ({shipped.num_classes},), frames (N, {shipped.num_features}) and 0 < keep < 1, "
            f"got {counts_K.shape}, {held_ND.shape} and {keep}"
        )
    never_K = ~shown_classes(counts_K)
    if not never_K.any() or never_K.all():
        return StrangerGate(shipped=shipped, never_K=never_K, limit=math.inf)
    masses_N = softmax64(shipped.logits(held_ND))[:, never_K].sum(axis=1) if len(held_ND) else np.zeros(0)
    return StrangerGate(shipped=shipped, never_K=never_K, limit=_limit(masses_N, keep))


def _limit(distances_N: Float64s, keep: float) -> float:
    """The smallest limit that lets the next frame through with a probability of at least ``keep``."""
    rank = math.ceil(keep * (len(distances_N) + 1))
    return math.inf if rank > len(distances_N) else float(np.sort(distances_N)[rank - 1])
