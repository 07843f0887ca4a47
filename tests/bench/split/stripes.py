"""Noisy stripes in place of CIFAR-10, and networks with random weights."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import nn

from littoral.bench.split.material import SplitMaterial
from littoral.models import zoo

FRAMES = 16


class Stripes(SplitMaterial):
    """Frames whose label is how far apart their stripes are."""

    @cached_property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        return self._made(0)

    @cached_property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        return self._made(1)

    def _made(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 10, 2 * FRAMES)
        waves = np.sin(np.arange(32) * (labels[:, None] + 1) / 4)
        frames = 128 + 80 * waves[:, :, None, None] + rng.normal(0, 12, (2 * FRAMES, 32, 32, 3))
        return frames.clip(0, 255).astype(np.uint8), labels.astype(np.int64)

    def network(self, name: str) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return zoo.resnet20().eval()
