"""`rdumb`: ETA that goes back to the source every 1,000 updates.

Source: Press et al., NeurIPS 2023 (oripress/CCC), for ImageNet; CIFAR-10-C settings of mariodoebler's repository:
ETA's, reset after 1,000 updates. As in the authors' code the mean answer is forgotten too.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from littoral.bench.baselines.eta import EtaLearner, EtaSettings
from littoral.bench.baselines.networks import copies, put_back
from littoral.bench.baselines.online import OnDevice
from littoral.bench.method import Setup


@dataclass(frozen=True, kw_only=True)
class RdumbSettings(EtaSettings):
    """As published."""

    reset_after: int = 1_000
    """Batches answered between resets, whether or not each led to a step: 64,000 frames at batch 64, so a stream of
    30,000 frames never sees one and the method is then ETA."""


class RdumbLearner(EtaLearner):
    """ETA with a memory of bounded length."""

    def __init__(self, setup: Setup, settings: RdumbSettings) -> None:
        super().__init__(setup, settings)
        self.reset_after = settings.reset_after
        self.source = copies(self.parameters)
        self.num_updates = self.num_resets = 0

    def learn(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)``, from the source again where a reset is due."""
        if self.num_updates and self.num_updates % self.reset_after == 0:
            put_back(self.parameters, self.source)
            self.optimiser.state.clear()
            self.marginal = None
            self.num_resets += 1
        self.num_updates += 1
        return super().learn(frames_BHWC)

    def notes(self) -> dict[str, float]:
        """Selected frames as in ETA, and resets."""
        return {**super().notes(), "resets": float(self.num_resets)}


def rdumb(setup: Setup, settings: RdumbSettings | None = None) -> OnDevice:
    """RDumb."""
    chosen = settings or RdumbSettings()
    return OnDevice(setup, chosen.window, lambda device: RdumbLearner(setup, chosen))
