"""`tent`: entropy minimisation in the affine values, by batch statistics.

Source: Wang et al., ICLR 2021 (DequanWang/tent); CIFAR-10-C settings of it and of mariodoebler/test-time-adaptation:
Adam 0.001 (0.9, 0.999), no weight decay, one step per batch of 200. Departures: none at that batch size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from littoral.bench.baselines.networks import affine_parameters, place
from littoral.bench.baselines.online import Learner, OnDevice, OnlineSettings, adam, step
from littoral.bench.method import Setup
from littoral.cloud.teacher import entropy


@dataclass(frozen=True, kw_only=True)
class TentSettings(OnlineSettings):
    """As published."""


class TentLearner(Learner):
    """One step down the mean entropy of each batch."""

    def __init__(self, setup: Setup, settings: OnlineSettings) -> None:
        super().__init__(place(setup.student(), setup), setup)
        self.parameters = affine_parameters(self.model)
        self.optimiser = adam(self.parameters, settings, setup)

    def learn(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)`` of before the step."""
        logits = self.forward(self.input(frames_BHWC))
        step(self.optimiser, entropy(logits).mean())
        self.work.backward_frames += len(frames_BHWC)
        return logits.detach()


def tent(setup: Setup, settings: TentSettings | None = None) -> OnDevice:
    """TENT."""
    chosen = settings or TentSettings()
    return OnDevice(setup, chosen.window, lambda device: TentLearner(setup, chosen))
