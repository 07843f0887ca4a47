"""`cotta`: a mean teacher averaged over augmentations, all parameters learning, some restored at random.

Source: Wang et al., CVPR 2022 (qinenergy/cotta); CIFAR-10-C settings of both it and mariodoebler/test-time-adaptation:
Adam 0.001 at batch 200, teacher 0.999, restore 0.01, 32 augmentations where the source network's mean confidence is
below 0.92. All three networks use batch statistics. Departures: none; ``num_augmentations`` is what to lower where 34
forward passes per frame are too slow.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from littoral.bench.baselines.augment import Augmentation
from littoral.bench.baselines.networks import copies, keep_batch_statistics, place
from littoral.bench.baselines.online import Learner, OnDevice, OnlineSettings, adam, generator, step
from littoral.bench.method import Setup

_AUGMENT, _RESTORE = 7, 8


@dataclass(frozen=True, kw_only=True)
class CottaSettings(OnlineSettings):
    """As published."""

    teacher_momentum: float = 0.999
    restore: float = 0.01
    """The share of values that each update takes back to the source."""
    sure_above: float = 0.92
    """Mean confidence of the source network from which no augmentation is needed."""
    num_augmentations: int = 32


class CottaLearner(Learner):
    """Student, teacher and source, all by batch statistics. The teacher answers."""

    def __init__(self, setup: Setup, settings: CottaSettings, device: int) -> None:
        super().__init__(place(setup.student(), setup), setup)
        self.settings = settings
        self.anchor, self.teacher = copy.deepcopy(self.model), copy.deepcopy(self.model)
        for model in (self.anchor, self.teacher):
            keep_batch_statistics(model)
        self.parameters = list(self.model.requires_grad_(True).parameters())
        self.source = copies(self.parameters)
        self.optimiser = adam(self.parameters, settings, setup)
        self._augment = Augmentation(cotta=True)
        self._views = generator(setup, device=device, purpose=_AUGMENT)
        self._restores = generator(setup, device=device, purpose=_RESTORE)
        self.num_unsure = 0
        """Batches for which the augmentations were needed."""

    def answering_model(self) -> nn.Module:
        """The teacher answers, where nothing is learned too."""
        return self.teacher

    def learn(self, frames_BHWC: Tensor) -> Tensor:
        """The teacher's logits ``(B, K)`` of before the step."""
        x = self.input(frames_BHWC)
        targets = self._targets(frames_BHWC, x)
        logits = self.forward(x)
        step(self.optimiser, -(targets.softmax(1) * logits.log_softmax(1)).sum(1).mean())
        self.work.backward_frames += len(logits)
        self._move_teacher()
        self._restore()
        return targets

    def notes(self) -> dict[str, float]:
        """Batches that needed the augmentations."""
        return {"unsure_batches": float(self.num_unsure)}

    @torch.no_grad()
    def _targets(self, frames_BHWC: Tensor, x_BCHW: Tensor) -> Tensor:
        """The teacher's logits, averaged over augmentations where the source is unsure."""
        settings = self.settings
        sure = float(self._ask(self.anchor, x_BCHW).softmax(1).amax(1).mean()) >= settings.sure_above
        if sure or settings.num_augmentations == 0:
            return self._ask(self.teacher, x_BCHW)
        self.num_unsure += 1
        pixels = self.pixels(frames_BHWC)
        total = torch.zeros((), device=x_BCHW.device)
        for _ in range(settings.num_augmentations):
            view = self.input_of(self._augment(pixels, self._views))
            total = total + self._ask(self.teacher, view)
        return total / settings.num_augmentations

    def _ask(self, model: nn.Module, x_BCHW: Tensor) -> Tensor:
        self.work.forward_frames += len(x_BCHW)
        logits: Tensor = model(x_BCHW)
        return logits

    @torch.no_grad()
    def _move_teacher(self) -> None:
        for mine, student in zip(self.teacher.parameters(), self.parameters, strict=True):
            mine.lerp_(student, 1 - self.settings.teacher_momentum)

    @torch.no_grad()
    def _restore(self) -> None:
        for parameter, source in zip(self.parameters, self.source, strict=True):
            back = torch.rand(parameter.shape, generator=self._restores) < self.settings.restore
            parameter.copy_(torch.where(back.to(parameter.device), source, parameter))


def cotta(setup: Setup, settings: CottaSettings | None = None) -> OnDevice:
    """CoTTA."""
    chosen = settings or CottaSettings()
    return OnDevice(setup, chosen.window, lambda device: CottaLearner(setup, chosen, device))
