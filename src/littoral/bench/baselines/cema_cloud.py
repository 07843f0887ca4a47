"""The cloud of the published system: queue, replay, teacher steps, student steps. One student for all devices.

Source: chenyaofo/CEMA ``cema.py`` (``infer``, from its cloud part on), Alg. 2 of the paper. Frames are kept as uint8
and normalised when used, which gives the same tensors as the published float32 ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from littoral.bench.baselines.cema_select import SelectionSettings
from littoral.bench.baselines.networks import affine_parameters, in_the_cloud, keep_batch_statistics, place, to_tensor
from littoral.bench.baselines.online import step
from littoral.bench.baselines.renorm import adapted_tensors, renormalised, set_moving
from littoral.bench.method import Setup
from littoral.cloud.teacher import student_loss, teacher_loss
from littoral.core.arrays import FloatArray, Frame
from littoral.models.frames import normalise


@dataclass(frozen=True, kw_only=True)
class CemaSettings:
    """The published system. Defaults are the shipped configuration's (``conf/cema.conf``)."""

    selection: SelectionSettings = field(default_factory=SelectionSettings)
    batch_size: int = 32
    """New samples per teacher step."""
    replay_ratio: int = 3
    """Replayed samples per new one."""
    replay_after: int = 256
    """Samples that must be in the replay memory before it is used."""
    replay_capacity: int = 10_000
    student_lr: float = 0.0025
    teacher_lr: float = 0.00025
    momentum: float = 0.9
    entropy_weight: float = 3.0
    distillation_weight: float = 3.0
    label_weight: float = 1.0
    renormalise: bool = True
    """Normalise by statistics that travel, as shipped (``is_tbr: true``); else every network normalises each batch by
    its own, and gamma and beta alone travel."""
    statistics_momentum: float = 0.1
    push_every: int = 1
    """K: batches of a device between pushes."""
    live_batches: int = 9
    """In a device's first so many batches it uses the cloud's student itself, whatever K."""

    def pushes_before(self, batch: int) -> bool:
        """Whether the device gets the student's state before its batch of this number, counted from 1."""
        return batch <= self.live_batches + 1 or batch % self.push_every == 0


def adaptable(model: nn.Module, settings: CemaSettings) -> tuple[nn.Module, list[nn.Parameter]]:
    """The model with the normalisation of these settings, in place, and its gammas and betas, which alone learn."""
    if settings.renormalise:
        return renormalised(model, momentum=settings.statistics_momentum)
    model.eval().requires_grad_(False)
    keep_batch_statistics(model)
    return model, affine_parameters(model)


class Replay:
    """The newest ``capacity`` frames, in order."""

    def __init__(self, capacity: int, shape: tuple[int, ...]) -> None:
        self._frames = np.zeros((capacity, *shape), dtype=np.uint8)
        self._at = self._held = 0

    def __len__(self) -> int:
        return self._held

    def add(self, frame_HWC: Frame) -> None:
        """Keep a frame; the oldest gives way."""
        self._frames[self._at] = frame_HWC
        self._at = (self._at + 1) % len(self._frames)
        self._held = min(self._held + 1, len(self._frames))

    def sample(self, count: int, rng: np.random.Generator) -> Frame:
        """Draw ``count`` frames uniformly, none twice: uint8 ``(count, H, W, C)``."""
        from_oldest = rng.choice(self._held, size=count, replace=False)
        return self._frames[(self._at - self._held + from_oldest) % len(self._frames)]


class CemaCloud:
    """Teacher and student at work on what is uploaded."""

    def __init__(self, setup: Setup, settings: CemaSettings) -> None:
        self.setup, self.settings = setup, settings
        self.student, self.student_parameters = adaptable(place(setup.student(), setup), settings)
        self.teacher, self.teacher_parameters = adaptable(place(setup.teacher(), setup), settings)
        self._student_sgd = torch.optim.SGD(self.student_parameters, lr=settings.student_lr, momentum=settings.momentum)
        self._teacher_sgd = torch.optim.SGD(self.teacher_parameters, lr=settings.teacher_lr, momentum=settings.momentum)
        self.replay = Replay(settings.replay_capacity, setup.bundle.manifest.input.shape)
        self._queue: list[Frame] = []
        self._rng = np.random.default_rng(np.random.SeedSequence([setup.seed, 2]))
        self.statistics_move = False
        """Whether the student's layers were left in train mode. While a device uses the student itself they are put
        into eval mode at each of its batches, and a replay-only step then does not move the statistics."""
        self.student_steps = 0
        self.teacher_steps = 0

    def receive(self, frames: list[Frame]) -> None:
        """Samples of one batch of a device have come."""
        self._queue += frames
        for frame in frames:
            self.replay.add(frame)

    def work(self) -> None:
        """All steps that the samples allow; a replay-only step if there was none."""
        settings = self.settings
        worked = False
        while len(self._queue) >= settings.batch_size:
            worked = True
            new = np.stack(self._queue[: settings.batch_size])
            self._queue = self._queue[settings.batch_size :]
            self._teacher_step(new)
            self.statistics_move = True
            if len(self.replay) < settings.replay_after:
                self._student_step(new)
            else:
                self._student_step(np.concatenate([new, self._replayed(settings.replay_ratio)]))
        if not worked and len(self.replay) > settings.replay_after:
            self._student_step(self._replayed(settings.replay_ratio + 1))

    def state(self) -> FloatArray:
        """What a push carries, in one float32 vector: the student's gamma and beta of every layer, and mean and
        variance where it renormalises."""
        flat = torch.cat([t.detach().reshape(-1) for t in adapted_tensors(self.student, self.student_parameters)])
        values: FloatArray = flat.cpu().numpy()
        return values

    def _replayed(self, parts: int) -> Frame:
        return self.replay.sample(self.settings.batch_size * parts, self._rng)

    def _input(self, frames: Frame) -> Tensor:
        return normalise(to_tensor(frames, self.setup), self.setup.bundle.manifest.input)

    def _run(self, model: nn.Module, x: Tensor) -> Tensor:
        return in_the_cloud(model, x, self.setup)

    def _teacher_step(self, new: Frame) -> None:
        set_moving(self.teacher, True)
        step(self._teacher_sgd, teacher_loss(self._run(self.teacher, self._input(new)), mean_one=False))
        set_moving(self.teacher, False)
        self.teacher_steps += 1

    def _student_step(self, frames: Frame) -> None:
        settings, x = self.settings, self._input(frames)
        with torch.no_grad():
            targets = self._run(self.teacher, x)
        set_moving(self.student, self.statistics_move)
        loss = student_loss(
            self._run(self.student, x),
            targets,
            entropy_weight=settings.entropy_weight,
            distillation_weight=settings.distillation_weight,
            label_weight=settings.label_weight,
            mean_one=False,
        )
        step(self._student_sgd, loss)
        set_moving(self.student, False)
        self.student_steps += 1
