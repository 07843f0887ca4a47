"""What a head is told of classes that its user never showed: the bundle's class means, as frames that never came.

Regression on one user's answers takes a class without answers out of the answers: every frame teaches "not this". So a
class with little evidence is filled up, to a share of all of it, with frames imagined around the source's mean of the
class, moved by what separates the user's own classes from the source's and spread as the user's classes are. Only sums
are changed, when a head is fitted: what is kept of a user stays as it is, and so does taking a day back.

Source: the Gaussian of each class is that of linear discriminant analysis (Hayes and Kanan 2020) and of pseudo-replay.
Departure: no frame is drawn, a Gaussian's sums are known.

Axes: D features, K classes, ``A = D + 1``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s, Mask

_MOVE_FRAMES = 10.0
"""What "the user's features lie where the source's do" weighs."""


def shown_classes(counts_K: Float64s, *, min_share: float = 0.02) -> Mask:
    """Which classes have at least this share of the weight: ``(K,)``."""
    shown: Mask = (counts_K > 0) & (counts_K >= min_share * counts_K.sum())
    return shown


def imagine_unseen(
    gram_AA: Float64s, answers_AK: Float64s, means_KD: NDArray[np.floating], *, least_share: float
) -> float:
    """Fill the sums up, in place, so that each class has this share of all evidence.

    Args:
        gram_AA: ``sum w x x^T`` with a 1 behind the features.
        answers_AK: ``sum w x t^T`` with t a distribution over classes.
        means_KD: The source's class means.
        least_share: Of the evidence that came; 0 changes nothing.
    Returns:
        ``sum w`` afterwards.
    Raises:
        ValueError: means that do not fit the sums, or a share outside [0, 1).
    """
    num_features, num_classes = len(gram_AA) - 1, answers_AK.shape[1]
    if means_KD.shape != (num_classes, num_features) or not 0 <= least_share < 1:
        raise ValueError(
            f"expected class means ({num_classes}, {num_features}) and a share in [0, 1), "
            f"got {means_KD.shape} and {least_share}"
        )
    counts_K, came = answers_AK[-1].copy(), float(gram_AA[-1, -1])
    imagined_K = np.maximum(least_share * came - counts_K, 0)
    total = float(imagined_K.sum())
    if total == 0:
        return came
    per_K = 1 / np.maximum(counts_K, 1e-12)
    shown_K = np.where(shown_classes(counts_K), counts_K, 0)
    moved_D = (answers_AK[:-1] @ (shown_K * per_K) - shown_K @ means_KD) / (shown_K.sum() + _MOVE_FRAMES)
    at_KD = means_KD + moved_D
    spread = total / came
    for i in range(num_features):  # row by row: a second gram would not fit a device's memory
        gram_AA[i, :-1] *= 1 + spread
        gram_AA[i, :-1] -= answers_AK[:-1] @ (spread * per_K * answers_AK[i])
        gram_AA[i, :-1] += (imagined_K * at_KD[:, i]) @ at_KD
    sum_D = imagined_K @ at_KD
    gram_AA[-1, :-1] += sum_D
    gram_AA[:-1, -1] += sum_D
    gram_AA[-1, -1] += total
    for k in np.flatnonzero(imagined_K):
        answers_AK[:-1, k] += imagined_K[k] * at_KD[k]
    answers_AK[-1] += imagined_K
    return came + total
