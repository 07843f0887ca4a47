"""The quick run's small world: digits on 32 x 32 pixels in colour, and a small network. Nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from littoral.bench.streams.digits import split_digits
from littoral.bundle import InputSpec
from littoral.core.arrays import Frame
from littoral.models.zoo import small_cnn
from littoral.train.fit import fit_classifier

FACTORY = "littoral.models.zoo:small_cnn"
NETWORK: dict[str, Any] = {"width": 16, "num_classes": 10, "channels": 3, "depth": 2}
_EPOCHS = 6
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class SmallWorld:
    """What CIFAR-10 and a ResNet are in the full run.

    Attributes:
        source: Frames and labels that the network was trained on.
        frames, labels: Others, of which users are made.
    """

    network: nn.Module
    input: InputSpec
    source: tuple[Frame, NDArray[np.int64]]
    frames: Frame
    labels: NDArray[np.int64]

    def fresh(self) -> nn.Module:
        """The network in eval mode, a copy."""
        network: nn.Module = small_cnn(**NETWORK)
        network.load_state_dict(self.network.state_dict())
        return network.eval()


@cache
def small_world() -> SmallWorld:
    """Trained in some seconds; the same each time."""
    (source, source_labels), (others, labels) = split_digits(_SEED)
    spec = InputSpec(height=32, width=32, channels=3, mean=(0.3, 0.3, 0.3), std=(1.0, 1.0, 1.0))
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        network = small_cnn(**NETWORK)
        frames = _coloured(source)
        fit_classifier(network, frames, source_labels, input=spec, epochs=_EPOCHS, seed=_SEED)
    return SmallWorld(
        network=network.eval(),
        input=spec,
        source=(frames, source_labels),
        frames=_coloured(others),
        labels=labels,
    )


def _coloured(images: NDArray[np.float32]) -> Frame:
    """uint8 ``(N, 32, 32, 3)`` of grey images ``(N, 16, 16)`` on 0..1."""
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    frames: Frame = np.rint(large[..., None].repeat(3, axis=3) * 255).astype(np.uint8)
    return frames
