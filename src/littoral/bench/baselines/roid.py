"""`roid`: a soft likelihood ratio weighted by certainty and diversity, consistency, weights drawn back to the source.

Source: Marsden et al., WACV 2024; mariodoebler/test-time-adaptation (official). CIFAR-10-C settings: Adam 0.001 at
batch 200, 0.99 of the weights kept per step, temperature 1/3, class marginal 0.9 / 0.1, every part on. Departures: a
division by a range of 0 (a batch of one frame) is guarded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from littoral.bench.baselines.augment import Augmentation
from littoral.bench.baselines.networks import affine_parameters, copies, place
from littoral.bench.baselines.online import Learner, OnDevice, OnlineSettings, adam, generator, step
from littoral.bench.method import Setup
from littoral.cloud.teacher import entropy

_AUGMENT = 1


@dataclass(frozen=True, kw_only=True)
class RoidSettings(OnlineSettings):
    """As published."""

    source_momentum: float = 0.99
    """The share of the weights that a step keeps; the rest is the source's."""
    marginal_momentum: float = 0.9
    temperature: float = 1 / 3
    use_weighting: bool = True
    use_consistency: bool = True
    use_prior_correction: bool = True


def soft_likelihood_ratio(logits_BK: Tensor, *, clip: float = 0.99, eps: float = 1e-5) -> Tensor:
    """``-sum p log(p / (1 - p) + eps)`` with p cut at ``clip``, ``(B,)``."""
    p = logits_BK.softmax(1).clamp(0, clip)
    return -(p * torch.log(p / (1 - p) + eps)).sum(1)


def symmetric_cross_entropy(a_BK: Tensor, b_BK: Tensor) -> Tensor:
    """The mean of the cross-entropies of two answers, each taken as the other's target, ``(B,)``."""
    forth = (b_BK.softmax(1) * a_BK.log_softmax(1)).sum(1)
    back = (a_BK.softmax(1) * b_BK.log_softmax(1)).sum(1)
    return -0.5 * (forth + back)


def to_unit_range(x_B: Tensor) -> Tensor:
    """Lowest to 0, highest to 1; all 0 where they are equal."""
    return (x_B - x_B.min()) / (x_B.max() - x_B.min()).clamp(min=1e-12)


def roid_weights(logits_BK: Tensor, marginal_K: Tensor, temperature: float) -> Tensor:
    """What each answer counts, ``(B,)``: 0 for those less diverse than the batch's mean, which are left out."""
    diversity = to_unit_range(1 - F.cosine_similarity(marginal_K.unsqueeze(0), logits_BK.softmax(1), dim=1))
    certainty = to_unit_range(-entropy(logits_BK))
    weights = torch.exp(diversity * certainty / temperature)
    return torch.where(diversity < diversity.mean(), torch.zeros_like(weights), weights)


def correct_prior(logits_BK: Tensor) -> Tensor:
    """Logits times the smoothed class marginal of the batch."""
    num_answers, num_classes = logits_BK.shape
    prior = logits_BK.softmax(1).mean(0)
    smooth = max(1 / num_answers, 1 / num_classes) / prior.max()
    return logits_BK * ((prior + smooth) / (1 + smooth * num_classes))


class RoidLearner(Learner):
    """One weighted step per batch, then 1 % back to the source."""

    def __init__(self, setup: Setup, settings: RoidSettings, device: int) -> None:
        super().__init__(place(setup.student(), setup), setup)
        self.settings = settings
        self.parameters = affine_parameters(self.model)
        self.source = copies(self.parameters)
        self.optimiser = adam(self.parameters, settings, setup)
        num_classes = setup.bundle.manifest.num_classes
        self.marginal = torch.full((num_classes,), 1 / num_classes, device=setup.torch_device)
        self._batch = settings.update_batch(setup.batch_size)
        self._augment = Augmentation(cotta=False)
        self._rng = generator(setup, device=device, purpose=_AUGMENT)

    def learn(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)`` of before the step, corrected by the batch's prior."""
        settings = self.settings
        logits = self.forward(self.input(frames_BHWC))
        weights = self._weights(logits.detach())
        kept = weights > 0
        loss = (soft_likelihood_ratio(logits) * weights)[kept].sum() / self._batch
        if settings.use_consistency:
            augmented = self.forward(self.input_of(self._augment(self.pixels(frames_BHWC[kept]), self._rng)))
            consistency = symmetric_cross_entropy(augmented, logits[kept]) * weights[kept]
            loss = loss + consistency.sum() / self._batch
            self.work.backward_frames += len(augmented)
        step(self.optimiser, loss)
        self.work.backward_frames += len(logits)
        self._ensemble()
        logits = logits.detach()
        return correct_prior(logits) if settings.use_prior_correction else logits

    def _weights(self, logits_BK: Tensor) -> Tensor:
        if not self.settings.use_weighting:
            return torch.ones(len(logits_BK), device=logits_BK.device)
        weights = roid_weights(logits_BK, self.marginal, self.settings.temperature)
        self.marginal.lerp_(logits_BK.softmax(1).mean(0), 1 - self.settings.marginal_momentum)
        return weights

    @torch.no_grad()
    def _ensemble(self) -> None:
        for parameter, source in zip(self.parameters, self.source, strict=True):
            parameter.lerp_(source, 1 - self.settings.source_momentum)


def roid(setup: Setup, settings: RoidSettings | None = None) -> OnDevice:
    """ROID."""
    chosen = settings or RoidSettings()
    return OnDevice(setup, chosen.window, lambda device: RoidLearner(setup, chosen, device))
