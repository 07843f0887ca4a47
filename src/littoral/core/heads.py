"""A head: a linear softmax on pooled features. How it answers, and five ways to fit it without a framework.

Features are pooled outputs of one segment. A 1 is put behind each, so that the last row of whatever is summed or solved
belongs to the bias. Axes: N frames, D features, K classes, ``A = D + 1``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s, FloatArray

Fit = Literal["logits", "onehot", "lda", "sgd"]
MAX_FEATURES = 1024
MAX_CLASSES = 1024


@dataclass(frozen=True, kw_only=True)
class LinearHead:
    """The values of a head.

    Attributes:
        weights_KD: float32.
        bias_K: float32.
    """

    weights_KD: FloatArray
    bias_K: FloatArray

    def __post_init__(self) -> None:
        if self.weights_KD.ndim != 2 or self.bias_K.shape != self.weights_KD.shape[:1]:
            raise ValueError(f"expected weights (K, D) and bias (K,), got {self.weights_KD.shape}, {self.bias_K.shape}")
        num_classes, num_features = self.weights_KD.shape
        if not (2 <= num_classes <= MAX_CLASSES and 1 <= num_features <= MAX_FEATURES):
            raise ValueError(
                f"a head has 2 to {MAX_CLASSES} classes and 1 to {MAX_FEATURES} features, "
                f"got {num_classes} and {num_features}"
            )
        if self.weights_KD.dtype != np.float32 or self.bias_K.dtype != np.float32:
            raise ValueError(f"a head is float32, got {self.weights_KD.dtype} and {self.bias_K.dtype}")
        if not (np.isfinite(self.weights_KD).all() and np.isfinite(self.bias_K).all()):
            raise ValueError("a head's values are finite")

    @property
    def num_classes(self) -> int:
        return len(self.weights_KD)

    @property
    def num_features(self) -> int:
        return len(self.weights_KD[0])

    def logits(self, features: NDArray[np.floating]) -> FloatArray:
        """Scores before softmax ``(..., K)`` of pooled features ``(..., D)``."""
        scores: FloatArray = features.astype(np.float32, copy=False) @ self.weights_KD.T + self.bias_K
        return scores

    def digest(self) -> bytes:
        """The SHA-256 of shape and values."""
        shape = np.array(self.weights_KD.shape, dtype="<u4").tobytes()
        values = self.weights_KD.astype("<f4").tobytes() + self.bias_K.astype("<f4").tobytes()
        return hashlib.sha256(b"littoral/head/1\0" + shape + values).digest()

    def matrix(self) -> Float64s:
        """Weights and, in the last row, bias: float64 ``(A, K)``."""
        return np.concatenate([self.weights_KD.T, self.bias_K[None]]).astype(np.float64)

    @classmethod
    def of_matrix(cls, matrix_AK: Float64s) -> LinearHead:
        """The inverse of `matrix`, rounded to float32."""
        rounded = matrix_AK.astype(np.float32)
        return cls(weights_KD=np.ascontiguousarray(rounded[:-1].T), bias_K=rounded[-1].copy())


@dataclass(frozen=True, kw_only=True)
class SourceMoments:
    """What a bundle may ship beside a head: where the source's classes lie. `lda_matrix` needs it.

    Attributes:
        means_KD: float32; the mean feature of each class.
        covariance_DD: float32; within classes, pooled.
    """

    means_KD: FloatArray
    covariance_DD: FloatArray


def softmax64(logits: NDArray[np.floating]) -> Float64s:
    """Probabilities in float64, over the last axis."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    p: Float64s = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return p


def solve_in_place(matrix_AA: Float64s, right_AK: Float64s) -> None:
    """Solve ``matrix @ x = right`` for a positive definite matrix. ``right`` becomes x; the matrix is used up.

    Cholesky without a copy: `numpy.linalg.solve` makes one, a seventh of all the memory that a head may take.

    Raises:
        ValueError: the matrix is not positive definite.
    """
    size = len(matrix_AA)
    for j in range(size):
        matrix_AA[j:, j] -= matrix_AA[j:, :j] @ matrix_AA[j, :j]
        pivot = matrix_AA[j, j]
        if not pivot > 0:
            raise ValueError(f"the sums of features are not positive definite (pivot {j} is {pivot})")
        matrix_AA[j:, j] /= np.sqrt(pivot)
    for j in range(size):
        right_AK[j] = (right_AK[j] - matrix_AA[j, :j] @ right_AK[:j]) / matrix_AA[j, j]
    for j in reversed(range(size)):
        right_AK[j] = (right_AK[j] - matrix_AA[j + 1 :, j] @ right_AK[j + 1 :]) / matrix_AA[j, j]


def ridge_matrix(
    gram_AA: Float64s,
    targets_AK: Float64s,
    shipped_AK: Float64s,
    *,
    frames: float,
    prior_frames: float,
) -> Float64s:
    """Ridge regression drawn towards the shipped head.

    Minimises ``sum w |x @ M - t|^2 + sum_i r_i |M_i - shipped_i|^2``. The strength ``r_i`` is ``prior_frames`` times
    the mean square of a feature (of the bias: times 1): it counts like so many frames of features without structure.

    Args:
        gram_AA: ``sum w x x^T``; used up.
        targets_AK: ``sum w x t^T``; used up.
        frames: ``sum w``.
    """
    size = len(gram_AA)
    mean_square = float(np.trace(gram_AA) - gram_AA[-1, -1]) / max(frames * (size - 1), 1e-12)
    step_AK = targets_AK
    step_AK -= gram_AA @ shipped_AK
    strength = np.full(size, prior_frames * max(mean_square, 1e-6))
    strength[-1] = prior_frames
    gram_AA[np.diag_indices(size)] += strength
    solve_in_place(gram_AA, step_AK)
    step_AK += shipped_AK
    return step_AK


def lda_matrix(
    gram_AA: Float64s,
    answers_AK: Float64s,
    moments: SourceMoments,
    *,
    mean_frames: float,
    covariance_frames: float,
    shrinkage: float,
    log_prior_K: Float64s,
) -> Float64s:
    """Linear discriminant analysis with the source's moments as prior: ``(A, K)``.

    Args:
        gram_AA: ``sum w x x^T``; used up.
        answers_AK: ``sum w x t^T`` with t a distribution over classes.
        mean_frames, covariance_frames: What the source's class means, and its covariance, weigh in frames.
        shrinkage: The share of a multiple of the identity in the covariance.
        log_prior_K: The logarithm of each class's share.
    Source: the closed form of streaming LDA (Hayes and Kanan 2020). Departures: a class prior, and the source as prior.
    """
    num_features = len(gram_AA) - 1
    counts_K, sums_DK = answers_AK[-1], answers_AK[:-1]
    means_DK = (mean_frames * moments.means_KD.T + sums_DK) / (mean_frames + counts_K)
    scatter_DD = gram_AA[:-1, :-1]
    scatter_DD -= (sums_DK / np.maximum(counts_K, 1e-12)) @ sums_DK.T
    for i in range(num_features):  # by rows: no second matrix
        scatter_DD[i] += covariance_frames * moments.covariance_DD[i]
    scatter_DD /= covariance_frames + float(counts_K.sum())
    scale = max(float(np.trace(scatter_DD)) / num_features, 1e-12)
    scatter_DD *= 1 - shrinkage
    scatter_DD[np.diag_indices(num_features)] += shrinkage * scale
    weights_DK = means_DK.copy()
    solve_in_place(scatter_DD, weights_DK)
    bias_K = log_prior_K - 0.5 * (means_DK * weights_DK).sum(axis=0)
    return np.concatenate([weights_DK, bias_K[None]])


def fit_sgd(
    start: LinearHead,
    features_ND: NDArray[np.floating],
    targets_NK: NDArray[np.floating],
    weights_N: NDArray[np.floating],
    *,
    seed: int,
    num_epochs: int = 5,
    batch_size: int = 16,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    recall: float = 0.0,
) -> LinearHead:
    """Cross-entropy by stochastic gradient descent, as the published system trains its heads.

    Args:
        targets_NK: Distributions over classes.
        weights_N: Of each frame's loss.
        recall: After each step the head is drawn back to ``start`` by ``learning_rate * recall``.
    Source: Leontiadis et al., HotMobile 2021. Its hyper-parameters are not known to us; these are ours.
    """
    anchor = start.matrix()
    matrix, speed = anchor.copy(), np.zeros_like(anchor)
    rng = np.random.default_rng(seed)
    for _ in range(num_epochs):
        order = rng.permutation(len(features_ND))
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            x = with_one(features_ND[chosen])
            wrong = (softmax64(x @ matrix) - targets_NK[chosen]) * weights_N[chosen, None]
            speed = momentum * speed - learning_rate * (x.T @ wrong / len(chosen) + recall * (matrix - anchor))
            matrix += speed
    return LinearHead.of_matrix(matrix)


@dataclass
class RecursiveRidge:
    """`ridge_matrix` one frame at a time, for a device that wants the new head at once: recursive least squares.

    Equal to the closed form at ``keep = 1``. It cannot give a day back; `littoral.core.evidence` can.

    Attributes:
        keep: What earlier frames keep of their weight with each new one. Below 1 the pull of the shipped head fades
            with them: then nothing bounds what is forgotten.
    """

    matrix_AK: Float64s
    inverse_AA: Float64s
    keep: float = 1.0

    @classmethod
    def start(cls, shipped: LinearHead, *, strength_A: Float64s, keep: float = 1.0) -> RecursiveRidge:
        """At the shipped head, held there by ``strength_A``."""
        if not (strength_A > 0).all() or not 0 < keep <= 1:
            raise ValueError("strengths are positive, and keep lies in (0, 1]")
        return cls(shipped.matrix(), np.diag(1 / strength_A), keep)

    def add(self, features_D: NDArray[np.floating], target_K: NDArray[np.floating], weight: float = 1.0) -> None:
        """Take in one frame."""
        x = with_one(features_D)
        px = self.inverse_AA @ x
        gain = px / (self.keep / weight + float(x @ px))
        self.matrix_AK += np.outer(gain, target_K - x @ self.matrix_AK)
        self.inverse_AA -= np.outer(gain, px)
        self.inverse_AA /= self.keep
        self.inverse_AA = (self.inverse_AA + self.inverse_AA.T) / 2  # else it loses its symmetry over the days


def with_one(features: NDArray[np.floating]) -> Float64s:
    """Features with a 1 behind them, float64 ``(..., A)``."""
    ones = np.ones((*features.shape[:-1], 1))
    return np.concatenate([features.astype(np.float64), ones], axis=-1)
