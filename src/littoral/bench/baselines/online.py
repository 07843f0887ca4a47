"""What the methods that adapt on the device share: one learner per device, a window of frames at small batches, costs.

Source of the window: mariodoebler/test-time-adaptation (base class, batch size 1). There the last frames fill a ring
that supplies the statistics; every frame is answered from a forward pass over the whole ring, and the network is
updated once the whole ring has changed. Departures: the same for any batch size below 16, and, as an option that is
off, the statistics may be renewed less often than for every frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from littoral.bench.baselines.networks import batch_norms, keep_batch_statistics, to_tensor
from littoral.bench.method import Costs, Labels, Setup
from littoral.core.arrays import Frame
from littoral.models.frames import normalise


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """The ring of recent frames that supplies batch statistics when batches are small."""

    below: int = 16
    """Batch sizes below this use the ring; 0 for never."""
    length: int = 64
    """Frames in the ring, and new frames per update."""
    refresh: int = 1
    """Renew the statistics every so many frames once the ring is full; 1, as published, costs ``length`` times the
    forward passes. In between a frame is normalised by the statistics of the last renewal."""

    def __post_init__(self) -> None:
        if min(self.length, self.refresh) < 1 or not 0 <= self.below <= self.length:
            raise ValueError("a window needs length and refresh of at least 1, and 0 <= below <= length")


@dataclass(frozen=True, kw_only=True)
class OnlineSettings:
    """What every method that learns on the device has. Defaults are mariodoebler's for CIFAR-10-C."""

    lr: float = 0.001
    momentum: float = 0.9
    """Adam's first beta, or SGD's momentum."""
    official_batch: int = 200
    """The batch size that ``lr`` was published for."""
    lr_scaling: Literal["none", "linear"] = "none"
    """``linear`` multiplies ``lr`` by batch size / ``official_batch``. Nothing official exists for other sizes."""
    window: WindowSettings = field(default_factory=WindowSettings)

    def update_batch(self, batch_size: int) -> int:
        """Frames per update on a stream of this batch size."""
        return self.window.length if batch_size < self.window.below else batch_size

    def lr_for(self, batch_size: int) -> float:
        """The learning rate on a stream of this batch size."""
        scale = self.update_batch(batch_size) / self.official_batch if self.lr_scaling == "linear" else 1.0
        return self.lr * scale


@dataclass
class Work:
    """Frames times passes."""

    forward_frames: int = 0
    backward_frames: int = 0


class Learner(ABC):
    """A network at work on one device's stream, by the statistics of each batch."""

    def __init__(self, model: nn.Module, setup: Setup) -> None:
        self.model, self.setup = model, setup
        self.work = Work()
        keep_batch_statistics(model)
        self.has_batch_norm = bool(batch_norms(model))

    def input(self, frames_BHWC: Tensor) -> Tensor:
        """What the network takes, float32 ``(B, C, H, W)``, of uint8 frames."""
        return normalise(frames_BHWC, self.setup.bundle.manifest.input)

    def pixels(self, frames_BHWC: Tensor) -> Tensor:
        """The frames on 0..1, float32 ``(B, C, H, W)``: what augmentations work on."""
        return frames_BHWC.permute(0, 3, 1, 2).to(torch.float32) / 255

    def input_of(self, pixels_BCHW: Tensor) -> Tensor:
        """What the network takes, of frames on 0..1."""
        spec = self.setup.bundle.manifest.input
        mean, std = (torch.tensor(v, device=pixels_BCHW.device).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
        return (pixels_BCHW - mean) / std

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits ``(B, K)``, counted."""
        self.work.forward_frames += len(x_BCHW)
        return self.run(self.model, x_BCHW)

    def run(self, model: nn.Module, x_BCHW: Tensor) -> Tensor:
        """Logits ``(B, K)``: in float32, as a device computes."""
        logits: Tensor = model(x_BCHW)
        return logits

    @abstractmethod
    def learn(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)`` as the method answers with, then one update."""

    def notes(self) -> dict[str, float]:
        """What else belongs in the method's row; summed over devices."""
        return {}

    def answering_model(self) -> nn.Module:
        """The network that answers where nothing is learned."""
        return self.model

    @torch.no_grad()
    def predict(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)`` by the batch's own statistics, with no update."""
        self.work.forward_frames += len(frames_BHWC)
        return self.run(self.answering_model(), self.input(frames_BHWC))

    def predict_as_before(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)`` by the statistics of the batch before, with no update."""
        norms = batch_norms(self.answering_model())
        for module in norms:
            module.eval()
        logits = self.predict(frames_BHWC)
        for module in norms:
            module.train()
        return logits


class Windowed:
    """A learner fed batch by batch: directly, or by way of the ring where batches are small."""

    def __init__(self, learner: Learner, window: WindowSettings, batch_size: int) -> None:
        self.learner, self.window = learner, window
        self._small = batch_size < window.below
        self._ring: Tensor | None = None
        self._at = self._held = self._since_update = self._since_refresh = 0

    def logits(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)`` for the next frames."""
        return self._by_ring(frames_BHWC) if self._small else self.learner.learn(frames_BHWC)

    def _by_ring(self, frames_BHWC: Tensor) -> Tensor:
        length, count = self.window.length, len(frames_BHWC)
        if self._ring is None:
            self._ring = torch.zeros((length, *frames_BHWC.shape[1:]), dtype=torch.uint8, device=frames_BHWC.device)
        where = (torch.arange(count, device=frames_BHWC.device) + self._at) % length
        self._ring[where] = frames_BHWC
        was_full = self._held == length
        self._at, self._held = (self._at + count) % length, min(length, self._held + count)
        self._since_update += count
        self._since_refresh += count
        if self._since_update >= length:
            self._since_update = self._since_refresh = 0
            return self.learner.learn(self._ring)[where]
        if not self.learner.has_batch_norm:
            return self.learner.predict(frames_BHWC)  # no statistics to gather: the ring is for the updates alone
        if was_full and self._since_refresh < self.window.refresh:
            return self.learner.predict_as_before(frames_BHWC)
        self._since_refresh = 0
        return self.learner.predict(self._ring[: self._held])[where]


class OnDevice:
    """A method that adapts on the device: one independent learner for each device, nothing on the wire.

    Args:
        make: A fresh learner for the device of this number.
    """

    def __init__(self, setup: Setup, window: WindowSettings, make: Callable[[int], Learner]) -> None:
        self.setup, self.window, self._make = setup, window, make
        self.costs = Costs()
        self.devices: dict[int, Windowed] = {}

    def answer(self, frames_BHWC: Frame, *, device: int = 0) -> Labels:
        """Labels ``(B,)``; then, or before, the method's step."""
        if device not in self.devices:
            self.devices[device] = Windowed(self._make(device), self.window, self.setup.batch_size)
        logits = self.devices[device].logits(to_tensor(frames_BHWC, self.setup))
        self._count()
        return labels(logits)

    def _count(self) -> None:
        learners = [windowed.learner for windowed in self.devices.values()]
        self.costs.forward_frames = sum(learner.work.forward_frames for learner in learners)
        self.costs.backward_frames = sum(learner.work.backward_frames for learner in learners)
        self.costs.notes = {note: sum(learner.notes()[note] for learner in learners) for note in learners[0].notes()}

    def close(self) -> None:
        """Let go of the networks."""
        self.devices.clear()


def adam(parameters: list[nn.Parameter], settings: OnlineSettings, setup: Setup) -> torch.optim.Optimizer:
    """The optimiser of the published CIFAR-10-C settings, without weight decay."""
    return torch.optim.Adam(parameters, lr=settings.lr_for(setup.batch_size), betas=(settings.momentum, 0.999))


def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of an optimiser down a loss."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def labels(logits_BK: Tensor) -> Labels:
    """The first of the highest scores, int64 ``(B,)``."""
    return logits_BK.detach().argmax(1).cpu().numpy().astype(np.int64)


def generator(setup: Setup, *, device: int, purpose: int) -> torch.Generator:
    """A CPU generator of its own for each device and purpose; the draws are the same whatever machine computes."""
    seed = np.random.SeedSequence([setup.seed, purpose, device]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> 1))
