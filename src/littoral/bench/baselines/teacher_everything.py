"""`teacher_everything`: every frame goes up and the teacher answers, adapting by its own loss.

By the published cloud's step, so no upper bound: a larger one is right more often (``docs/methods/baselines.md``).

As `littoral.bench.yardsticks.teacher_answers`, batch by batch: batch statistics, SGD 0.00025 with momentum 0.9 down the
weighted entropy, the answer before the step. The road is not asked: it neither loses nor delays an answer. The uplink
is counted, the labels that come back are not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from littoral.bench.baselines.networks import affine_parameters, in_the_cloud, place, to_tensor
from littoral.bench.baselines.online import Learner, Windowed, WindowSettings, labels, step
from littoral.bench.baselines.wire_costs import UploadCounter
from littoral.bench.method import Costs, Labels, Setup
from littoral.cloud.teacher import teacher_loss
from littoral.core.arrays import Frame


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """As in our cloud."""

    lr: float = 0.00025
    momentum: float = 0.9
    mean_one_weights: bool = True
    """As `littoral.cloud.adapt.AdaptConfig`; False is the published form."""
    window: WindowSettings = field(default_factory=WindowSettings)


class TeacherLearner(Learner):
    """The teacher by batch statistics, one step of weighted entropy minimisation per batch."""

    def __init__(self, setup: Setup, settings: TeacherSettings) -> None:
        super().__init__(place(setup.teacher(), setup), setup)
        self.settings = settings
        self.parameters = affine_parameters(self.model)
        self.optimiser = torch.optim.SGD(self.parameters, lr=settings.lr, momentum=settings.momentum)

    def run(self, model: nn.Module, x_BCHW: Tensor) -> Tensor:
        """As the cloud computes."""
        return in_the_cloud(model, x_BCHW, self.setup)

    def learn(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)`` of before the step."""
        logits = self.forward(self.input(frames_BHWC))
        step(self.optimiser, teacher_loss(logits, mean_one=self.settings.mean_one_weights))
        return logits.detach()


class TeacherEverything:
    """A teacher for each device, which sees all that the device sees."""

    def __init__(self, setup: Setup, settings: TeacherSettings) -> None:
        self.setup, self.settings = setup, settings
        self.costs = Costs()
        self._teachers: dict[int, Windowed] = {}
        self._counters: dict[int, UploadCounter] = {}

    def answer(self, frames_BHWC: Frame, *, device: int = 0) -> Labels:
        """The teacher's labels ``(B,)``."""
        if device not in self._teachers:
            learner = TeacherLearner(self.setup, self.settings)
            self._teachers[device] = Windowed(learner, self.settings.window, self.setup.batch_size)
            self._counters[device] = UploadCounter(seed=device)
        started = time.process_time()
        answers = labels(self._teachers[device].logits(to_tensor(frames_BHWC, self.setup)))
        self.costs.cloud_seconds += time.process_time() - started
        for frame in frames_BHWC:
            self.costs.uplink_bytes += self._counters[device].weigh(
                frame, frame_id=self.costs.uploads, version=0, predicted=0, entropy_nats=0.0
            )
            self.costs.uploads += 1
        return answers

    def close(self) -> None:
        """Let go of the teachers."""
        self._teachers.clear()


def teacher_everything(setup: Setup, settings: TeacherSettings | None = None) -> TeacherEverything:
    """The teacher on everything."""
    return TeacherEverything(setup, settings or TeacherSettings())
