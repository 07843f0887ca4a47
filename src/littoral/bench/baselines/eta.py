"""`eta`: entropy minimisation on answers that are sure enough and unlike the mean answer.

Source: Niu et al., ICML 2022 (mr-eggplant/EATA), without its Fisher term; CIFAR-10-C settings of
mariodoebler/test-time-adaptation: Adam 0.001 at batch 200, threshold 0.4 ln K, diversity margin 0.4. As there, every
frame takes part in the forward and the backward pass, and those that are filtered out weigh nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from littoral.bench.baselines.networks import affine_parameters, place
from littoral.bench.baselines.online import Learner, OnDevice, OnlineSettings, adam, step
from littoral.bench.method import Setup
from littoral.cloud.teacher import entropy
from littoral.core.selection import default_diversity_margin

OFFICIAL_MARGINS = {10: 0.4, 100: 0.1, 1000: 0.05}
"""By the number of classes: CIFAR-10-C and CIFAR-100-C in mariodoebler's settings, ImageNet-C in the authors'."""


@dataclass(frozen=True, kw_only=True)
class EtaSettings(OnlineSettings):
    """As published."""

    entropy_max_fraction: float = 0.4
    diversity_margin: float | None = None
    """None is the official one for 10, 100 and 1000 classes, our rule of thumb for others."""
    marginal_momentum: float = 0.9

    def margin(self, num_classes: int) -> float:
        """The largest cosine with the mean answer."""
        if self.diversity_margin is not None:
            return self.diversity_margin
        return OFFICIAL_MARGINS.get(num_classes, default_diversity_margin(num_classes))


class EtaLearner(Learner):
    """One weighted step per batch on the answers that pass both filters."""

    def __init__(self, setup: Setup, settings: EtaSettings) -> None:
        super().__init__(place(setup.student(), setup), setup)
        self.settings = settings
        self.parameters = affine_parameters(self.model)
        self.optimiser = adam(self.parameters, settings, setup)
        num_classes = setup.bundle.manifest.num_classes
        self.entropy_max = settings.entropy_max_fraction * math.log(num_classes)
        self.margin = settings.margin(num_classes)
        self.marginal: Tensor | None = None
        self.num_selected = 0

    def learn(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)`` of before the step; no step where nothing passes."""
        logits = self.forward(self.input(frames_BHWC))
        entropy_B = entropy(logits)
        kept = self.select(logits.detach(), entropy_B.detach())
        self.num_selected += int(kept.sum())
        if kept.any():
            chosen = entropy_B[kept]
            weights = torch.exp(self.entropy_max - chosen.detach())
            step(self.optimiser, (chosen * weights).mean() + self.penalty())
            self.work.backward_frames += len(logits)
        return logits.detach()

    def notes(self) -> dict[str, float]:
        """How many frames passed both filters: what the authors count as backward samples."""
        return {"selected_frames": float(self.num_selected)}

    def select(self, logits_BK: Tensor, entropy_B: Tensor) -> Tensor:
        """bool ``(B,)``: which answers count; moves the mean answer by them. The first have none to be held to."""
        kept = entropy_B < self.entropy_max
        answers = logits_BK.softmax(1)
        if self.marginal is not None:
            kept = kept & (F.cosine_similarity(self.marginal.unsqueeze(0), answers, dim=1).abs() < self.margin)
        if kept.any():
            mean = answers[kept].mean(0)
            momentum = self.settings.marginal_momentum
            self.marginal = mean if self.marginal is None else momentum * self.marginal + (1 - momentum) * mean
        return kept

    def penalty(self) -> Tensor | float:
        """What else the loss holds; ETA has nothing."""
        return 0.0


def eta(setup: Setup, settings: EtaSettings | None = None) -> OnDevice:
    """ETA."""
    chosen = settings or EtaSettings()
    return OnDevice(setup, chosen.window, lambda device: EtaLearner(setup, chosen))
