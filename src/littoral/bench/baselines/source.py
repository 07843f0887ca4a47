"""`source`: the student as it was deployed. Nothing is learned, nothing is sent."""

from __future__ import annotations

import torch

from littoral.bench.baselines.networks import place, to_tensor
from littoral.bench.baselines.online import labels
from littoral.bench.method import Costs, Labels, Setup
from littoral.core.arrays import Frame
from littoral.models.frames import normalise


class Source:
    """The frozen student by the source's statistics; one network serves every device."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.costs = Costs()
        self.model = place(setup.student(), setup)

    @torch.no_grad()
    def answer(self, frames_BHWC: Frame, *, device: int = 0) -> Labels:
        """Labels ``(B,)``."""
        self.costs.forward_frames += len(frames_BHWC)
        return labels(self.model(normalise(to_tensor(frames_BHWC, self.setup), self.setup.bundle.manifest.input)))

    def close(self) -> None:
        """Nothing is held."""


def source(setup: Setup) -> Source:
    """The unadapted model."""
    return Source(setup)
