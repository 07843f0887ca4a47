"""`sar`: entropy minimisation on reliable answers, towards flat minima, with a reset when it has collapsed.

Source: Niu et al., ICLR 2023 (mr-eggplant/SAR); CIFAR-10-C settings of mariodoebler/test-time-adaptation, where the
learning rate 0.001 at batch 200 goes to SGD with momentum 0.9 inside SAM whatever optimiser the file names, and nothing
else changes from ImageNet: radius 0.05, threshold 0.4 ln K, reset below 0.2 nats. Layers are left out by the published
names (ResNet's layer4, a ViT's last blocks and final norm); a CIFAR ResNet has none of them, so all of it learns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from littoral.bench.baselines.networks import affine_parameters, copies, place, put_back
from littoral.bench.baselines.online import Learner, OnDevice, OnlineSettings
from littoral.bench.method import Setup
from littoral.cloud.teacher import entropy

LEFT_OUT = ("layer4", "blocks.9", "blocks.10", "blocks.11", "norm.")


@dataclass(frozen=True, kw_only=True)
class SarSettings(OnlineSettings):
    """As published. ``momentum`` is SGD's."""

    radius: float = 0.05
    """How far SAM climbs, in the norm of all affine values together."""
    entropy_max_fraction: float = 0.4
    reset_below_nats: float = 0.2
    """Of the running mean of the second pass's loss."""
    loss_momentum: float = 0.9


class SarLearner(Learner):
    """Two passes per batch: climb, then step from where it was down the slope up there."""

    def __init__(self, setup: Setup, settings: SarSettings) -> None:
        super().__init__(place(setup.student(), setup), setup)
        self.settings = settings
        self.parameters = affine_parameters(self.model, skip=is_left_out)
        self.source = copies(self.parameters)
        self.optimiser = torch.optim.SGD(
            self.parameters, lr=settings.lr_for(setup.batch_size), momentum=settings.momentum
        )
        self.entropy_max = settings.entropy_max_fraction * math.log(setup.bundle.manifest.num_classes)
        self.mean_loss: float | None = None
        self.num_resets = 0

    def learn(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)`` of before the step."""
        x = self.input(frames_BHWC)
        logits = self.forward(x)
        entropy_B = entropy(logits)
        reliable = entropy_B.detach() < self.entropy_max
        self._backward(entropy_B, reliable)
        before = copies(self.parameters)
        self._climb()
        again = entropy(self.forward(x))
        still = reliable & (again.detach() < self.entropy_max)
        self._backward(again, still)
        put_back(self.parameters, before)
        self.optimiser.step()
        self._watch(again.detach()[still])
        return logits.detach()

    def notes(self) -> dict[str, float]:
        """Resets."""
        return {"resets": float(self.num_resets)}

    def _backward(self, entropy_B: Tensor, kept: Tensor) -> None:
        """Gradients of the mean over what is kept; all zero where nothing is, so that momentum alone moves."""
        self.optimiser.zero_grad()
        loss = (entropy_B * kept).sum() / kept.sum().clamp(min=1)
        loss.backward()  # type: ignore[no-untyped-call]
        self.work.backward_frames += len(entropy_B)

    @torch.no_grad()
    def _climb(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.stack([g.norm() for g in gradients]).norm()
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.add_(gradient * (self.settings.radius / (norm + 1e-12)))

    def _watch(self, entropy_of_kept: Tensor) -> None:
        """Back to the source once the running loss says that every answer is sure."""
        settings = self.settings
        if len(entropy_of_kept):
            loss = float(entropy_of_kept.mean())
            old = self.mean_loss
            self.mean_loss = loss if old is None else settings.loss_momentum * old + (1 - settings.loss_momentum) * loss
        if self.mean_loss is not None and self.mean_loss < settings.reset_below_nats:
            put_back(self.parameters, self.source)
            self.optimiser.state.clear()
            self.mean_loss = None
            self.num_resets += 1


def is_left_out(name: str) -> bool:
    """Whether SAR leaves a layer of this name as it is."""
    return name == "norm" or any(part in name for part in LEFT_OUT)


def sar(setup: Setup, settings: SarSettings | None = None) -> OnDevice:
    """SAR."""
    chosen = settings or SarSettings()
    return OnDevice(setup, chosen.window, lambda device: SarLearner(setup, chosen))
