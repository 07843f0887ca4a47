"""Losses of the teacher's and the student's steps, as published; every function is pure.

Shapes: B batch, K classes. All entropies in nats.

Source: Chen et al., ICLR 2024 (CEMA), as the authors' code runs it; the names alpha, beta, gamma of that code are
``entropy_weight``, ``distillation_weight`` and ``label_weight`` here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

ENTROPY_MAX_FRACTION = 0.4
_TEMPERATURES = tuple(math.exp2(n / 2) for n in range(-4, 9))
"""1/4 to 16, half an octave apart."""


def entropy(logits_BK: torch.Tensor) -> torch.Tensor:
    """Predictive entropy in nats, ``(B,)``."""
    return -(logits_BK.softmax(1) * logits_BK.log_softmax(1)).sum(1)


def certainty_weights(entropy_B: torch.Tensor, num_classes: int, *, mean_one: bool) -> torch.Tensor:
    """``exp(0.4 ln K - entropy)``, detached: sure answers count for more.

    As published a sure answer weighs 15.8 at K = 1000 and 2.5 at K = 10, which silently divides the learning rate by 6
    on the way from one to the other; ``mean_one`` divides by the batch's mean weight instead.
    """
    weights = torch.exp(ENTROPY_MAX_FRACTION * math.log(num_classes) - entropy_B).detach()
    return weights / weights.mean() if mean_one else weights


def spread(logits_BK: np.ndarray) -> float:
    """Entropy in nats of the labels given: ln K when all classes are answered alike often, 0 for one answer to all.

    Of the labels, not of the mean probabilities: a dead network answers everything with the same blank doubt, whose
    mean is spread as evenly as can be.
    """
    shares = np.bincount(logits_BK.argmax(1), minlength=logits_BK.shape[1]) / len(logits_BK)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def shifted(x_BCHW: torch.Tensor, shift: Sequence[int], mirror: bool) -> torch.Tensor:
    """Frames moved down and right by ``shift`` pixels, the border reflected, and mirrored left to right if asked."""
    if len(x_BCHW) == 0:
        return x_BCHW
    if mirror:
        x_BCHW = x_BCHW.flip(3)
    if any(shift):
        (down, right), (height, width) = shift, x_BCHW.shape[2:]
        y, x = abs(down), abs(right)
        padded = F.pad(x_BCHW, (x, x, y, y), mode="reflect")
        x_BCHW = padded[:, :, y - down : y - down + height, x - right : x - right + width]
    return x_BCHW.contiguous(memory_format=torch.channels_last)


def teacher_loss(logits_BK: torch.Tensor, *, mean_one: bool) -> torch.Tensor:
    """Weighted entropy minimisation on the new samples."""
    entropy_B = entropy(logits_BK)
    return (certainty_weights(entropy_B, logits_BK.shape[1], mean_one=mean_one) * entropy_B).mean()


def divergence_from_teacher(student_BK: torch.Tensor, teacher_BK: torch.Tensor) -> torch.Tensor:
    """KL divergence of the student's answer from the teacher's in nats, ``(B,)``, at temperature 1."""
    student_log, teacher_log = student_BK.log_softmax(1), teacher_BK.log_softmax(1)
    return F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(1)


def fitted_temperature(student_BK: torch.Tensor, teacher_BK: torch.Tensor) -> float:
    """The temperature, of a few, at which the student's answers diverge least from the teacher's.

    Args:
        student_BK, teacher_BK: Logits without gradient.
    """
    return min(_TEMPERATURES, key=lambda t: float(divergence_from_teacher(student_BK / t, teacher_BK).mean()))


def student_loss(
    student_BK: torch.Tensor,
    teacher_BK: torch.Tensor,
    *,
    entropy_weight: float,
    distillation_weight: float,
    label_weight: float,
    mean_one: bool,
) -> torch.Tensor:
    """Entropy minimisation, distillation (KL to the teacher, temperature 1) and cross-entropy on the teacher's label.

    Args:
        student_BK: Logits with gradient.
        teacher_BK: Logits without.
    """
    num_classes = student_BK.shape[1]
    student_entropy, teacher_entropy = entropy(student_BK), entropy(teacher_BK)
    by_student = certainty_weights(student_entropy, num_classes, mean_one=mean_one)
    by_teacher = certainty_weights(teacher_entropy, num_classes, mean_one=mean_one)
    divergence = F.kl_div(student_BK.log_softmax(1), teacher_BK.log_softmax(1), reduction="none", log_target=True).sum(
        1
    )
    labels = F.cross_entropy(student_BK, teacher_BK.argmax(1), reduction="none")
    return (
        entropy_weight * (by_student * student_entropy).mean()
        + distillation_weight * (by_teacher * divergence).mean()
        + label_weight * (by_teacher * labels).mean()
    )
