"""Networks of several kinds, each traced once a run, and frames to run them on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from made_once import keep_the_exporters_operators, made_once

from littoral.bundle import InputSpec
from littoral.models import zoo
from littoral.models.frames import normalise
from littoral.train.export import ExportedModel, export_model
from littoral.train.fit import settle_statistics


def square(side: int, channels: int) -> InputSpec:
    return InputSpec(height=side, width=side, channels=channels, mean=(0.4,) * channels, std=(0.3,) * channels)


def random_frames(spec: InputSpec, count: int, seed: int = 0) -> np.ndarray:
    """Coarse patches of several contrasts under fine noise: of pure noise all frames look alike to a deep network."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, size=(count, spec.height // 4, spec.width // 4, spec.channels))
    coarse = coarse * rng.uniform(0.1, 1.0, size=(count, 1, 1, 1))
    fine = rng.integers(0, 56, size=(count, *spec.shape))
    return (coarse.repeat(4, axis=1).repeat(4, axis=2) + fine).astype(np.uint8)


def torch_logits(model: torch.nn.Module, spec: InputSpec, frames: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(normalise(torch.from_numpy(frames), spec)).numpy()


class OneNorm(torch.nn.Module):
    """A network with a single BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = torch.nn.Conv2d(1, 6, 3, stride=2), torch.nn.BatchNorm2d(6)
        self.second, self.head = torch.nn.Conv2d(6, 12, 3, stride=2), torch.nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(y.mean((2, 3)))


@dataclass(frozen=True)
class Network:
    model: torch.nn.Module
    spec: InputSpec
    exported: ExportedModel


_CASES: dict[str, tuple[Callable[[], torch.nn.Module], InputSpec, tuple[str, ...]]] = {
    "small_cnn": (lambda: zoo.small_cnn(width=4, depth=1), square(16, 1), ()),
    "one_norm": (OneNorm, square(16, 1), ()),
    "group_norm": (lambda: zoo.small_cnn(width=4, depth=2, norm="group"), square(16, 1), ()),
    "resnet20": (lambda: zoo.resnet20(), square(32, 3), ("layer1", "layer2")),
    "resnet18": (lambda: zoo.resnet18(num_classes=10), square(64, 3), ()),
    "mobilenet_v2": (lambda: zoo.mobilenet_v2(num_classes=10), square(64, 3), ()),
    "vit_tiny": (lambda: zoo.vit_tiny(num_classes=10, image_size=32, patch_size=8, depth=3), square(32, 3), ()),
}


MOBILENET = pytest.param("mobilenet_v2", marks=pytest.mark.slow)
"""Half of what all the other networks together take to trace."""

SHARED: Path | None = None
"""Where the workers of this run leave what they traced; the fixture says it."""


@functools.cache
def network(name: str) -> Network:
    found = trace(name) if SHARED is None else made_once(SHARED / f"traced-{name}.pickle", lambda: trace(name))
    assert isinstance(found, Network)
    return found


def trace(name: str) -> Network:
    keep_the_exporters_operators()
    make, spec, taps = _CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        with torch.no_grad():  # a class token and biases of zero would hide mistakes
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    settle_statistics(model, random_frames(spec, 16), input=spec, batch_size=16)
    return Network(model, spec, export_model(model, spec, output_shape=(10,), taps=taps))
