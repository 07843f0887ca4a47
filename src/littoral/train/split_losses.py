"""What a split is trained for: the task's distortion, and how far features are from the teacher's.

Axes: B batch, K classes, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.train.split_recipe import SplitLoss


class Distortion(Protocol):
    """What a task loses by outputs: one class or function per task."""

    def __call__(self, outputs: Any, teacher_outputs: Any, targets: Tensor | None) -> Tensor:
        """The loss of each frame, float32 ``(B,)``, differentiable in ``outputs``.

        Args:
            outputs: What the tail gave.
            teacher_outputs: What the teacher gave for the same frames, without a gradient; None without a teacher.
            targets: What is known of the frames; None without labels.
        """


@dataclass(frozen=True, kw_only=True)
class ClassifierDistortion:
    """Cross-entropy with the labels and Kullback-Leibler divergence from the teacher, of logits ``(B, K)``.

    Where there is no teacher, or no labels, its part is 0.
    """

    label_weight: float = 0.5
    teacher_weight: float = 0.5
    temperature: float = 1.0
    """Of both sides of the divergence, which is multiplied by its square."""

    def __call__(self, outputs: Tensor, teacher_outputs: Tensor | None, targets: Tensor | None) -> Tensor:
        """See `Distortion`."""
        total_B = outputs.new_zeros(len(outputs))
        if targets is not None and self.label_weight:
            total_B = total_B + self.label_weight * F.cross_entropy(outputs, targets.long(), reduction="none")
        if teacher_outputs is not None and self.teacher_weight:
            student = F.log_softmax(outputs / self.temperature, dim=1)
            teacher = F.log_softmax(teacher_outputs.to(outputs) / self.temperature, dim=1)
            divergence_B = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
            total_B = total_B + self.teacher_weight * self.temperature**2 * divergence_B
        return total_B


@contextmanager
def tapped(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """While open, what the modules of these names give is in the dictionary after each pass.

    Raises:
        ValueError: the network has no module of a name.
    """
    seen: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    names = list(names)
    if unknown := [name for name in names if name not in modules]:
        raise ValueError(f"{unknown[0]!r} is not a module of {type(model).__name__}; take the loss at another one")
    hooks = [
        modules[name].register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out})) for name in names
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def pool(features: Tensor) -> Tensor:
    """The mean over height and width, ``(B, C)``."""
    return features.mean(dim=(2, 3))


def feature_errors(
    ours: Mapping[str, Tensor],
    teachers: Mapping[str, Tensor],
    weights: Mapping[str, float],
    *,
    relative: bool,
) -> Tensor:
    """The weighted squared errors of each frame, ``(B,)``.

    Args:
        relative: Each as a share of the teacher's mean energy in this batch; else sums of squares.
    Raises:
        ValueError: the features of a module have other shapes.
    """
    terms = []
    for name, weight in weights.items():
        ours_B, teachers_B = ours[name].flatten(1), teachers[name].to(ours[name]).flatten(1)
        if ours_B.shape != teachers_B.shape:
            raise ValueError(
                f"at {name!r} the split gives {tuple(ours[name].shape)}, the teacher {tuple(teachers[name].shape)}; "
                "take the loss where they are alike"
            )
        error_B = (ours_B - teachers_B).square().sum(1)
        if relative:
            error_B = error_B / teachers_B.square().sum(1).mean().clamp(min=1e-12)
        terms.append(weight * error_B)
    return torch.stack(terms).sum(0)


def tap_names(loss: SplitLoss) -> list[str]:
    """The modules at which a loss looks."""
    return sorted({*loss.features, *loss.pooled})
