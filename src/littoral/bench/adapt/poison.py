"""Frames that make a teacher teach the wrong thing: what a hostile device sends that knows both networks.

Nobody labels samples: the cloud learns what its teacher says of them. So whoever wants to harm has to make the teacher
say something wrong of frames that look to the student like everybody's. Teacher, student and the cloud's way of
learning are taken as known (white box): projected gradient descent moves each frame by a few grey levels until the
teacher, under the statistics of the batch and averaged with the mirror image as in a job, gives the wanted answer,
while the student's own answer stays where it was.

Source: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018 (the descent); Shafahi
et al., *Poison Frogs!*, NeurIPS 2018 (a frame that collides with an honest one for the student). Departure: there is no
label to leave clean, the teacher's answer is the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.bundle import Bundle
from littoral.core.arrays import Frame
from littoral.models.factory import load_model
from littoral.models.frames import normalise
from littoral.models.norm import learn, prepare

Aim = Literal["next_class", "one_class"]


@dataclass(frozen=True, kw_only=True)
class PoisonConfig:
    """How frames are made."""

    aim: Aim = "next_class"
    """What the teacher should say: the class after its own answer, or one class of all frames."""
    max_change: int = 24
    """Grey levels by which a pixel may move."""
    steps: int = 12
    student_weight: float = 1.0
    """Of how far the student's answer moves, beside the teacher's loss."""
    batch: int = 32
    """Frames that share statistics, as in a job."""


def poison(bundle: Bundle, frames: Frame, *, seed: int, config: PoisonConfig | None = None) -> Frame:
    """Altered frames, uint8 ``(N, H, W, C)`` like those that came; the same for the same seed.

    Args:
        bundle: Opened with ``require_cloud``: its teacher is what is deceived, its student what must not notice.
        frames: uint8 ``(N, H, W, C)`` of the world that is to be poisoned.
    """
    config = config or PoisonConfig()
    teacher, student = (_network(bundle, role) for role in ("teacher", "student"))
    rng = torch.Generator().manual_seed(seed)
    parts = [frames[at : at + config.batch] for at in range(0, len(frames), config.batch)]
    return np.concatenate([_descend(bundle, teacher, student, part, rng, config) for part in parts])


def _network(bundle: Bundle, role: Literal["teacher", "student"]) -> nn.Module:
    spec = bundle.manifest.teacher if role == "teacher" else bundle.manifest.student
    assert spec is not None
    model = prepare(load_model(spec, bundle.load_tensors(spec.file)), "batch").requires_grad_(False)
    learn(model, True)
    return model


def _said(teacher: nn.Module, x: Tensor) -> Tensor:
    """The logarithm of the teacher's answer as a job takes it: the mean over a frame and its mirror image."""
    mean: Tensor = (teacher(x).softmax(1) + teacher(x.flip(3)).softmax(1)) / 2
    return mean.clamp_min(1e-12).log()


def _descend(
    bundle: Bundle, teacher: nn.Module, student: nn.Module, frames: Frame, rng: torch.Generator, config: PoisonConfig
) -> Frame:
    clean = torch.from_numpy(np.ascontiguousarray(frames)).float()
    spec = bundle.manifest.input
    with torch.no_grad():
        x = normalise(clean, spec)
        wanted, before = (_said(teacher, x).argmax(1) + 1) % bundle.manifest.num_classes, student(x)
        if config.aim == "one_class":
            wanted = torch.zeros_like(wanted)
    bound = float(config.max_change)
    moved = (torch.rand(clean.shape, generator=rng) * 2 - 1) * bound
    for _ in range(config.steps):
        moved.requires_grad_(True)
        x = normalise((clean + moved).clamp(0, 255), spec)
        mirrored = bool(torch.rand((), generator=rng) < 0.5)  # a job asks of both: one of them in every step
        loss = F.cross_entropy(teacher(x.flip(3) if mirrored else x), wanted)
        if config.student_weight:
            loss = loss + config.student_weight * F.mse_loss(student(x), before)
        (gradient,) = torch.autograd.grad(loss, moved)
        with torch.no_grad():
            moved = (moved - 2.5 * bound / config.steps * gradient.sign()).clamp(-bound, bound)
    out: Frame = (clean + moved).clamp(0, 255).round().to(torch.uint8).numpy()
    return out
