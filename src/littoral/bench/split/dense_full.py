"""Train a dense split by the product's recipe: on what ships for the bench, or on a user's own COCO, VOC or ImageNet.

By `littoral.train.bottleneck.train_split`: resumable, repeatable, the teacher run on every crop. What takes features
starts from the transform that is fitted to them.

Axes: N frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from littoral.bench.split.dense_networks import DenseNetwork
from littoral.bench.split.dense_shapes import DenseShape, FeatureShape, dense_bottleneck, shape_of
from littoral.bench.split.dense_split import DenseSplit
from littoral.bench.split.plan import FEATURES
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
from littoral.train.transform import fit_transform

_START_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class DenseTraining:
    """All that a full training of a dense split may vary. The defaults were not tuned."""

    given: str = FEATURES
    """What the encoder takes: ``features`` of the network at the cut, or ``pixels``."""
    epochs: int = 30
    """0 leaves a fitted transform as it is; from pixels there must be some."""
    hard_epochs: int = 1
    batch_size: int = 16
    bits_weights: tuple[float, ...] = (0.02, 0.008, 0.003, 0.001)
    """From pixels, loss per bit and position of the latent, of each level. What is fitted has its own."""
    feature_weight: float = 0.2
    """From pixels, of the relative error at the cut."""
    crop: tuple[int, int] | None = None
    """Height and width in pixels; the whole frame without it. A detector wants whole frames."""
    lr: float = 1e-3
    tail_lr_scale: float = 0.1
    seed: int = 0


def train_dense(
    network: DenseNetwork,
    frames: Frame,
    targets: NDArray[np.uint8] | None,
    config: DenseTraining,
    *,
    shape: DenseShape | FeatureShape | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> DenseSplit:
    """Make a split and train it against the network itself.

    Args:
        frames: uint8 ``(N, H, W, 3)`` of the network's input's size; a view of a file will do, see
            `littoral.bench.dense_folders.pack_frames`.
        targets: Label maps ``(N, H, W)`` for segmentation where there are any; a detector needs none.
        shape: Where it is cut; without it, what `shape_of` has for the network.
        checkpoint: Written after every epoch and read first.
    Returns:
        For `littoral.bench.split.dense_split.split_rows`.
    Raises:
        ValueError: there is no shape for this network, or frames and targets are not its.
    """
    shape = shape or shape_of(network.name, config.given)
    torch.manual_seed(config.seed)
    tail: nn.Module = tail_of(network.model, shape.cut)
    if isinstance(shape, FeatureShape):
        start = _from_features(network, tail, shape, frames, config, progress or (lambda _line: None))
    else:
        start = _from_pixels(network, shape, frames, config)
    if config.epochs == 0:
        if start.head is None:
            raise ValueError("epochs is 0: a split from pixels is nothing before it is trained; take features")
        return DenseSplit(bottleneck=start.bottleneck.eval(), tail=tail.eval(), head=start.head)
    recipe = product_recipe(
        epochs=config.epochs,
        hard_epochs=config.hard_epochs,
        rate_weights=start.rate_weights,
        features={shape.cut: config.feature_weight} if start.head is None else None,
        lr=config.lr,
        tail_lr_scale=config.tail_lr_scale,
        batch_size=config.batch_size,
        fitted=start.head is not None,
        seed=config.seed,
    )
    bottleneck, tail = train_split(
        recipe,
        SplitNetworks(bottleneck=start.bottleneck, tail=tail, head=start.head, teacher=network.model, cut=shape.cut),
        SplitData(
            frames=frames,
            input=network.input,
            targets=targets if isinstance(network.task, Segmentation) else None,
            augment=CropAndFlip(*_window(network, config)),
        ),
        distortion=distortion_of(network.task),
        checkpoint=checkpoint,
        progress=progress,
    )
    return DenseSplit(bottleneck=bottleneck, tail=tail, head=start.head)


class _Start(NamedTuple):
    """What a training starts from; ``rate_weights`` are a frame's loss per bit."""

    bottleneck: Bottleneck
    head: nn.Module | None
    rate_weights: tuple[float, ...]


def _from_pixels(network: DenseNetwork, shape: DenseShape, frames: Frame, config: DenseTraining) -> _Start:
    features = _features(network, head_of(network.model, shape.cut), frames, _START_FRAMES)
    bottleneck = dense_bottleneck(shape, features_NCHW=features.numpy())
    with torch.no_grad():
        latent = bottleneck.eval().latent(torch.zeros(1, 3, *_window(network, config)))
    positions = latent.shape[2] * latent.shape[3]
    return _Start(bottleneck, None, tuple(weight / positions for weight in config.bits_weights))


def _from_features(
    network: DenseNetwork,
    tail: nn.Module,
    shape: FeatureShape,
    frames: Frame,
    config: DenseTraining,
    progress: Progress,
) -> _Start:
    head = head_of(network.model, shape.cut).eval()
    options = shape.transform if config.epochs else replace(shape.transform, gate_width=0)
    height, width = _window(network, config)
    with torch.no_grad():
        window = head(torch.zeros(1, 3, height, width)).shape[2:]
    if config.crop is not None and any(side % options.block for side in window):
        raise ValueError(
            f"a window of {height} x {width} gives features of {tuple(window)}, which are no whole blocks of "
            f"{options.block}; take another window"
        )
    features = _features(network, head, frames, 2 * shape.fitted_to)
    fitted_to, others = features[::2], features[1::2]
    fitted = fit_transform(
        fitted_to,
        tail.eval(),
        network.task,
        options,
        answered_NCHW=others if len(others) > 1 else None,
        seed=config.seed,
        progress=progress,
    )
    share = height * width / (network.input.height * network.input.width)  # a loss is a mean over places
    return _Start(fitted.bottleneck, head, tuple(weight / share for weight in fitted.rate_weights))


def _window(network: DenseNetwork, config: DenseTraining) -> tuple[int, int]:
    return config.crop or (network.input.height, network.input.width)


@torch.no_grad()
def _features(network: DenseNetwork, head: nn.Module, frames: Frame, most: int) -> Tensor:
    """What the network makes at the cut of a few frames, spread over all."""
    places = np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int)
    made = [head(normalise(torch.from_numpy(np.array(frames[place : place + 1])), network.input)) for place in places]
    return torch.cat(made)
