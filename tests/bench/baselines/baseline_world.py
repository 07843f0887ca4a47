"""Two worlds for the tests of the baselines: what small networks were trained on, and darker, noisier frames."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from littoral.bench.method import Setup
from littoral.bundle import Bundle, InputSpec
from littoral.models.zoo import small_cnn
from littoral.train.fit import fit_classifier, settle_statistics

SPEC = InputSpec(height=8, width=8, channels=3, mean=(0.5, 0.45, 0.4), std=(0.25, 0.25, 0.2))
CLASSES = 4


def bundle_of(spec: InputSpec, num_classes: int) -> Bundle:
    """As much of a bundle as a baseline reads: what a frame is, and how many classes there are."""
    return cast(Bundle, SimpleNamespace(manifest=SimpleNamespace(input=spec, num_classes=num_classes)))


@dataclass(frozen=True)
class World:
    """Two trained networks and frames of two worlds: the one that they were trained in, and a darker, noisy one."""

    student: nn.Module
    teacher: nn.Module
    source_frames: np.ndarray
    frames: np.ndarray
    labels: np.ndarray

    def setup(self, **changes: Any) -> Setup:
        values: dict[str, Any] = dict(
            bundle=bundle_of(SPEC, CLASSES),
            student=lambda: copy.deepcopy(self.student),
            teacher=lambda: copy.deepcopy(self.teacher),
            source_frames=self.source_frames,
            seed=3,
            batch_size=32,
        )
        return Setup(**{**values, **changes})


def make_world() -> World:
    """Trains both networks, which takes a second."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, size=(CLASSES, 8, 8, 3))
    labels = rng.integers(0, CLASSES, 512)
    source = (0.6 * patterns[labels] + 0.4 * rng.integers(0, 256, size=(512, 8, 8, 3))).astype(np.uint8)
    models = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for width in (4, 6):
            model = small_cnn(width=width, num_classes=CLASSES, channels=3, depth=1)
            fit_classifier(model, source[:256], labels[:256], input=SPEC, epochs=10, lr=2e-2, batch_size=32)
            settle_statistics(model, source[:256], input=SPEC)
            models.append(model.eval())
    shifted = 40 + 0.4 * source[256:] + rng.normal(0, 20, size=(256, 8, 8, 3))
    return World(models[0], models[1], source[:256], shifted.clip(0, 255).astype(np.uint8), labels[256:])
