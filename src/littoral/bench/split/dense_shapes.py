"""Where the dense networks are cut, and how large the encoders and decoders there are.

Both are cut at an eighth of the frame's size, at the last layer whose output carries everything that comes after. An
encoder takes what the network gives there (*features*): the device runs the network up to the cut, and a transform of
blocks of features. Or it takes *pixels*, and the device runs nothing of the network itself.

| network | MACs of all | features: up to the cut + encoder | share | pixels: encoder | share | tail's input |
| --- | --- | --- | --- | --- | --- | --- |
| CGNet, 480 x 360 | 2,223 M | 1,711 M + 94 M | 81 % | 197 M | 8.9 % | 128 x 45 x 60 |
| YOLOX-nano, 416 x 416 | 523 M | 159 M + 44 M | 39 % | 94 M | 18.0 % | 64 x 52 x 52 |

As fitted; the gate of a training adds 7 and 4 M. The decoder is the cloud's, and no part of the device's budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from littoral.bench.split.plan import FEATURES, PIXELS
from littoral.models.bottleneck import Bottleneck
from littoral.models.decoders import ResidualBlock, conv_bn_relu, make_decoder
from littoral.models.entropy import FactorisedPrior
from littoral.models.layers import conv1x1, conv3x3
from littoral.train.transform import TransformOptions


@dataclass(frozen=True, kw_only=True)
class DenseShape:
    """A cut and what is put in its place."""

    cut: str
    """The layer whose output the decoder makes."""
    out_channels: int
    """Of that layer."""
    encoder_width: int
    decoder_width: int = 64
    decoder_blocks: int = 1
    num_channels: int = 32
    """Of the latent."""
    starting_gains: tuple[float, ...] = (0.3, 0.6, 1.2, 2.4)
    """The latent is normalised, so these set the rates that training starts from."""
    kept: tuple[int, ...] = (16, 24, 32, 32)
    mixed: bool = True
    """Train the decoder on rounded latents, see `Bottleneck`. At gains below 1 noise is no stand-in for rounding."""


DENSE_SHAPES: Mapping[str, DenseShape] = {
    "cgnet": DenseShape(cut="level3_0", out_channels=128, encoder_width=48),
    "yolox_nano": DenseShape(cut="781", out_channels=64, encoder_width=32),
}
"""By network, of those that take pixels. ``781`` is the output of YOLOX's third stage, which its neck reads too."""


@dataclass(frozen=True, kw_only=True)
class FeatureShape:
    """A cut and how `littoral.train.transform` fits what stands there."""

    cut: str
    transform: TransformOptions = field(default_factory=lambda: TransformOptions(gate_width=16))
    fitted_to: int = 64
    """Training frames; steps are chosen by as many others."""


FEATURE_SHAPES: Mapping[str, FeatureShape] = {
    "cgnet": FeatureShape(cut="level3_0"),
    "yolox_nano": FeatureShape(cut="781"),
}
"""By network, of those that take features."""


def shape_of(network: str, given: str) -> DenseShape | FeatureShape:
    """Where a network is cut for an encoder that takes this.

    Raises:
        ValueError: no cut is known.
    """
    shapes: dict[str, Mapping[str, DenseShape] | Mapping[str, FeatureShape]]
    shapes = {PIXELS: DENSE_SHAPES, FEATURES: FEATURE_SHAPES}
    if given not in shapes or network not in shapes[given]:
        raise ValueError(
            f"no cut is known for {network!r} from {given}; there are {', '.join(DENSE_SHAPES)}, from "
            f"{' or '.join(shapes)}"
        )
    return shapes[given][network]


def dense_bottleneck(shape: DenseShape, *, features_NCHW: NDArray[Any] | None = None) -> Bottleneck:
    """Encoder from pixels to an eighth: 4x4 patches, a strided 3x3, one residual block, 1x1 to the latent.

    Args:
        features_NCHW: The teacher's at the cut. The decoder then starts from their channels' means and deviations,
            which matters where these are far from 0 and 1: CGNet's are about 0.02 wide.
    """
    width, channels = shape.encoder_width, shape.num_channels
    encoder = nn.Sequential(
        *conv_bn_relu(nn.Conv2d(3, width, 4, stride=4, bias=False), width),
        *conv_bn_relu(conv3x3(width, width, 2), width),
        ResidualBlock(width),
        conv1x1(width, channels),
        nn.BatchNorm2d(channels, affine=False),
    )
    spec: dict[str, Any] = {
        "kind": "residual",
        "in_channels": channels,
        "out_channels": shape.out_channels,
        "width": shape.decoder_width,
        "blocks": shape.decoder_blocks,
        "upsamplings": 0,
        "rectified": False,
    }
    decoder = make_decoder(**spec)
    if features_NCHW is not None:
        values = features_NCHW.astype(np.float64)  # float16 has not the range for sums
        last = decoder[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        with torch.no_grad():
            last.weight.mul_(torch.from_numpy(values.std(axis=(0, 2, 3))).float()[:, None, None, None])
            last.bias.copy_(torch.from_numpy(values.mean(axis=(0, 2, 3))))
    num_levels = len(shape.kept)
    return Bottleneck(
        encoder,
        decoder,
        FactorisedPrior(num_levels, channels, starting_scale=3.0),
        num_channels=channels,
        num_levels=num_levels,
        kept=shape.kept,
        starting_gains=shape.starting_gains,
        decoder_spec=spec,
        mixed=shape.mixed,
    )
