"""`eata`: ETA with a Fisher penalty against forgetting the source.

Source: Niu et al., ICML 2022 (mr-eggplant/EATA); CIFAR-10-C settings of mariodoebler/test-time-adaptation: penalty 1.0,
the Fisher information of 2,000 source frames in batches of 200, each labelled by the network's own answer. Departures:
the frames are drawn by our seed, and their passes are not counted, since they happen before a device is deployed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from littoral.bench.baselines.eta import EtaLearner, EtaSettings
from littoral.bench.baselines.networks import affine_parameters, copies, keep_batch_statistics, place, to_tensor
from littoral.bench.baselines.online import OnDevice
from littoral.bench.method import Setup
from littoral.models.frames import normalise

_FISHER = 6


@dataclass(frozen=True, kw_only=True)
class EataSettings(EtaSettings):
    """As published."""

    fisher_weight: float = 1.0
    """2,000 in the authors' ImageNet settings."""
    fisher_frames: int = 2_000
    fisher_batch: int = 200
    """The batch size of the published settings: the square of a mean gradient depends on it."""


def fisher_information(setup: Setup, settings: EataSettings) -> list[Tensor]:
    """The mean over batches of the squared gradient of each affine value, on source frames under batch statistics."""
    model = place(setup.student(), setup)
    keep_batch_statistics(model)
    parameters = affine_parameters(model)
    rng = np.random.default_rng(np.random.SeedSequence([setup.seed, _FISHER]))
    picked = rng.permutation(len(setup.source_frames))[: settings.fisher_frames]
    batches = [picked[at : at + settings.fisher_batch] for at in range(0, len(picked), settings.fisher_batch)]
    total = [torch.zeros_like(p) for p in parameters]
    for batch in batches:
        logits = model(normalise(to_tensor(setup.source_frames[batch], setup), setup.bundle.manifest.input))
        loss = F.cross_entropy(logits, logits.detach().argmax(1))
        for sum_, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            sum_ += gradient**2
    return [sum_ / len(batches) for sum_ in total]


class EataLearner(EtaLearner):
    """ETA whose affine values are held to the source's, each as strongly as the source needed it."""

    def __init__(self, setup: Setup, settings: EataSettings, fisher: list[Tensor]) -> None:
        super().__init__(setup, settings)
        self.source = copies(self.parameters)
        self.fisher, self.fisher_weight = fisher, settings.fisher_weight

    def penalty(self) -> Tensor:
        """``weight * sum fisher (value - source)^2``."""
        terms = zip(self.fisher, self.parameters, self.source, strict=True)
        return self.fisher_weight * torch.stack([(f * (p - s) ** 2).sum() for f, p, s in terms]).sum()


def eata(setup: Setup, settings: EataSettings | None = None) -> OnDevice:
    """EATA."""
    chosen = settings or EataSettings()
    fisher = fisher_information(setup, chosen)
    return OnDevice(setup, chosen.window, lambda device: EataLearner(setup, chosen, fisher))
