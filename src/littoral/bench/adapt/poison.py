"""Frames that make a teacher teach harm: what a hostile device sends that knows both networks.

Nobody labels samples: the cloud learns what its teacher says of them. So whoever wants to harm must make the teacher
say something wrong, of frames from which the student then learns something that spoils its answers to everybody's.
Teacher, student and the cloud's way of learning are taken as known (white box). Two kinds:

    matched    the gradient of the student's loss on the frame, with the teacher's own answer to it for a label, points
               where the gradient of teaching wrong labels of *honest* frames points
    collision  the teacher says the class after the right one while the student's own answer stays where it was

Both are made by projected gradient descent on the pixels, under the statistics of the batch, as a job takes them. Bytes
are all that a device has to send, so pixels may move as far as the bound says, and need not look like anything.

Sources: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018 (the descent); Geiping
et al., *Witches' Brew: Industrial Scale Data Poisoning via Gradient Matching*, ICLR 2021; Shafahi et al., *Poison
Frogs!*, NeurIPS 2018 (collision). Departure: there is no label to leave clean, the teacher's answer is the label, so
the teacher is deceived together with the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.bundle import Bundle
from littoral.core.affine import affine_names
from littoral.core.arrays import Frame
from littoral.models.factory import load_model
from littoral.models.frames import normalise
from littoral.models.norm import adaptive_state, learn, prepare

Kind = Literal["matched", "collision"]
Aim = Literal["next_class", "one_class"]


@dataclass(frozen=True, kw_only=True)
class PoisonConfig:
    """How frames are made."""

    kind: Kind = "matched"
    aim: Aim = "one_class"
    """The wrong label: the class after the teacher's own answer, or the first class of all frames."""
    max_change: int = 16
    """Grey levels by which a pixel may move."""
    steps: int = 14
    weight: float = 4.0
    """Of the student's part, a cosine or a square distance, beside the teacher's loss."""
    batch: int = 32
    """Frames that share statistics, as in a job."""


def poison(bundle: Bundle, frames: Frame, *, seed: int, config: PoisonConfig | None = None) -> Frame:
    """Altered frames, uint8 ``(N, H, W, C)`` like those that came; the same for the same seed.

    Args:
        bundle: Opened with ``require_cloud``: its teacher is what is deceived.
        frames: uint8 ``(N, H, W, C)`` of the world that is to be poisoned.
    """
    config = config or PoisonConfig()
    maker = _Maker(bundle, config, frames, torch.Generator().manual_seed(seed))
    parts = [frames[at : at + config.batch] for at in range(0, len(frames), config.batch)]
    return np.concatenate([maker.descend(part) for part in parts])


class _Maker:
    def __init__(self, bundle: Bundle, config: PoisonConfig, honest: Frame, rng: torch.Generator) -> None:
        self.bundle, self.config, self.rng = bundle, config, rng
        self.teacher, self.student = (_network(bundle, role) for role in ("teacher", "student"))
        self.values: list[Tensor] = []
        if config.kind == "matched":
            wanted = set(affine_names(bundle.manifest.norm_layers))
            self.values = [p.requires_grad_(True) for n, p in self.student.named_parameters() if n in wanted]
            x = self._input(torch.from_numpy(np.ascontiguousarray(honest)).float())
            self.harm = self._gradient(F.cross_entropy(self.student(x), self._wrong(x)), keep=False)

    def descend(self, frames: Frame) -> Frame:
        """A batch of frames, altered."""
        config, clean = self.config, torch.from_numpy(np.ascontiguousarray(frames)).float()
        bound = float(config.max_change)
        with torch.no_grad():
            wrong, before = self._wrong(self._input(clean)), self.student(self._input(clean))
        moved = (torch.rand(clean.shape, generator=self.rng) * 2 - 1) * bound
        for _ in range(config.steps):
            moved.requires_grad_(True)
            x = self._input(clean + moved)
            mirrored = bool(torch.rand((), generator=self.rng) < 0.5)  # a job asks of both: one of them in every step
            said, answered = self.teacher(x.flip(3) if mirrored else x), self.student(x)
            if config.kind == "matched":
                loss = -(said.softmax(1) * answered.log_softmax(1)).sum(1).mean()
                students = -_cosine(self._gradient(loss, keep=True), self.harm)
            else:
                students = F.mse_loss(answered, before)
            (down,) = torch.autograd.grad(F.cross_entropy(said, wrong) + config.weight * students, moved)
            moved = (moved.detach() - 2.5 * bound / config.steps * down.sign()).clamp(-bound, bound)
        out: Frame = (clean + moved).clamp(0, 255).round().to(torch.uint8).numpy()
        return out

    def _input(self, frames: Tensor) -> Tensor:
        return normalise(frames.clamp(0, 255), self.bundle.manifest.input)

    @torch.no_grad()
    def _wrong(self, x: Tensor) -> Tensor:
        """The labels that are to be taught for honest frames."""
        right = (self.teacher(x).softmax(1) + self.teacher(x.flip(3)).softmax(1)).argmax(1)
        if self.config.aim == "one_class":
            return torch.zeros_like(right)
        wrong: Tensor = (right + 1) % self.bundle.manifest.num_classes
        return wrong

    def _gradient(self, loss: Tensor, *, keep: bool) -> tuple[Tensor, ...]:
        """Of a loss by the student's affine values; kept so that it can itself be descended."""
        return torch.autograd.grad(loss, self.values, create_graph=keep)


def _cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    def dot(u: Sequence[Tensor], v: Sequence[Tensor]) -> Tensor:
        return torch.stack([(p * q).sum() for p, q in zip(u, v, strict=True)]).sum()

    return dot(a, b) / (dot(a, a) * dot(b, b)).clamp_min(1e-24).sqrt()


def _network(bundle: Bundle, role: Literal["teacher", "student"]) -> nn.Module:
    """A network that normalises by the batch at hand; the student with the values that a first job starts from."""
    spec = bundle.manifest.teacher if role == "teacher" else bundle.manifest.student
    assert spec is not None
    model = prepare(load_model(spec, bundle.load_tensors(spec.file)), "batch")
    if role == "student" and bundle.manifest.rehearsed_file is not None:
        rehearsed = bundle.load_tensors(bundle.manifest.rehearsed_file)
        for name, tensor in adaptive_state(model):
            if name in rehearsed:
                tensor.data.copy_(torch.from_numpy(np.array(rehearsed[name])))
    learn(model, True)
    return model.requires_grad_(False)
