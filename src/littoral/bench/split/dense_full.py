"""Train a dense split by the product's recipe: on what ships for the bench, or on a user's own COCO, VOC or ImageNet.

Unlike the pilot this is `littoral.train.bottleneck.train_split`: resumable, repeatable, the teacher run on every crop.

Axes: N frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from littoral.bench.split.dense_networks import DenseNetwork
from littoral.bench.split.dense_shapes import DENSE_SHAPES, DenseShape, dense_bottleneck
from littoral.core.arrays import Frame
from littoral.core.tasks import Segmentation
from littoral.models.bottleneck import Bottleneck
from littoral.models.frames import normalise
from littoral.models.parts import head_of, tail_of
from littoral.train.bottleneck import train_split
from littoral.train.dense_data import CropAndFlip
from littoral.train.distortions import distortion_of
from littoral.train.split_data import Progress, SplitData, SplitNetworks
from littoral.train.split_recipe import product_recipe

_START_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class DenseTraining:
    """All that a full training of a dense split may vary. The defaults were not tuned: no full one was run yet."""

    epochs: int = 30
    hard_epochs: int = 1
    batch_size: int = 16
    bits_weights: tuple[float, ...] = (0.02, 0.008, 0.003, 0.001)
    """Loss per bit and position of the latent, of each level: the pilot's."""
    feature_weight: float = 0.2
    """Of the relative error at the cut."""
    crop: tuple[int, int] | None = None
    """Height and width in pixels; the whole frame without it. A detector wants whole frames."""
    lr: float = 2e-3
    tail_lr_scale: float = 0.25
    seed: int = 0


def train_dense(
    network: DenseNetwork,
    frames: Frame,
    targets: NDArray[np.uint8] | None,
    config: DenseTraining,
    *,
    shapes: Mapping[str, DenseShape] = DENSE_SHAPES,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Bottleneck, nn.Module]:
    """Train encoder, prior, decoder and tail against the network itself.

    Args:
        frames: uint8 ``(N, H, W, 3)`` of the network's input's size; a view of a file will do, see
            `littoral.bench.dense_folders.pack_frames`.
        targets: Label maps ``(N, H, W)`` for segmentation where there are any; a detector needs none.
        checkpoint: Written after every epoch and read first.
    Returns:
        The bottleneck and the tail, in eval mode, for `littoral.bench.split.dense_split.split_rows`.
    Raises:
        ValueError: there is no shape for this network, or frames and targets are not its.
    """
    if network.name not in shapes:
        raise ValueError(f"no cut is known for {network.name!r}; there are {', '.join(shapes)}")
    shape = shapes[network.name]
    torch.manual_seed(config.seed)
    bottleneck = dense_bottleneck(shape, features_NCHW=_features(network, shape.cut, frames))
    height, width = config.crop or (network.input.height, network.input.width)
    with torch.no_grad():
        latent = bottleneck.eval().latent(torch.zeros(1, 3, height, width))
    positions = latent.shape[2] * latent.shape[3]
    recipe = product_recipe(
        epochs=config.epochs,
        hard_epochs=config.hard_epochs,
        rate_weights=tuple(weight / positions for weight in config.bits_weights),
        features={shape.cut: config.feature_weight},
        lr=config.lr,
        tail_lr_scale=config.tail_lr_scale,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    return train_split(
        recipe,
        SplitNetworks(
            bottleneck=bottleneck, tail=tail_of(network.model, shape.cut), teacher=network.model, cut=shape.cut
        ),
        SplitData(
            frames=frames,
            input=network.input,
            targets=targets if isinstance(network.task, Segmentation) else None,
            augment=CropAndFlip(height, width),
        ),
        distortion=distortion_of(network.task),
        checkpoint=checkpoint,
        progress=progress,
    )


@torch.inference_mode()
def _features(network: DenseNetwork, cut: str, frames: Frame) -> NDArray[np.float32]:
    """What the network makes at the cut of a few frames, spread over all."""
    places = np.linspace(0, len(frames) - 1, min(_START_FRAMES, len(frames))).astype(int)
    head = head_of(network.model, cut)
    made = [head(normalise(torch.from_numpy(np.array(frames[place : place + 1])), network.input)) for place in places]
    features: NDArray[np.float32] = torch.cat(made).numpy()
    return features
