"""Decoders of a bottleneck: from the latent, as the cloud has it, to what the tail takes. Built by name and JSON.

Axes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.models.gdn import GDN1
from littoral.models.layers import conv1x1, conv3x3


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, the shortcut is the input itself. It starts as the identity, for ReLUs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x_BCHW)))
        return F.relu(x_BCHW + self.bn2(self.conv2(y)))


class Crop(nn.Module):
    """The upper left part of that height and width."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height = height
        self.width = width

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW[:, :, : self.height, : self.width]


def conv_bn_relu(conv: nn.Module, channels: int) -> list[nn.Module]:
    """A convolution with what follows it, for a Sequential."""
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


def residual_decoder(
    *,
    in_channels: int,
    out_channels: int,
    width: int,
    blocks: int,
    upsamplings: int = 1,
    blocks_after: int = 0,
    rectified: bool = True,
) -> nn.Sequential:
    """The product's: a 3x3 convolution, residual blocks, doublings of the size by pixel shuffle, residual blocks.

    Args:
        blocks: Before the doublings.
        blocks_after: After them.
        rectified: The tail takes no negative features.
    """
    layers = conv_bn_relu(conv3x3(in_channels, width), width)
    layers += [ResidualBlock(width) for _ in range(blocks)]
    for _ in range(upsamplings):
        layers += [conv1x1(width, 4 * width), nn.PixelShuffle(2), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [ResidualBlock(width) for _ in range(blocks_after)]
    layers.append(nn.Conv2d(width, out_channels, 3, padding=1))
    return nn.Sequential(*layers, *([nn.ReLU()] if rectified else []))


def gdn_decoder(
    *, in_channels: int, out_channels: int, widths: tuple[int, int] = (512, 256), upsamplings: int = 0
) -> nn.Sequential:
    """Entropic Student's: three convolutions of 2x2 with IGDN between them, no biases.

    The published one does not enlarge. Here the last convolution does, transposed with a kernel of twice its stride,
    which at a stride of 1 is the published one.
    """
    first, second = widths
    stride = 2**upsamplings
    return nn.Sequential(
        nn.Conv2d(in_channels, first, 2, padding=1, bias=False),
        GDN1(first, inverse=True),
        nn.Conv2d(first, second, 2, bias=False),
        GDN1(second, inverse=True),
        nn.ConvTranspose2d(second, out_channels, 2 * stride, stride=stride, bias=False),
    )


def rac_decoder(*, in_channels: int, out_channels: int, width: int, upsamplings: int = 1) -> nn.Sequential:
    """RAC's: a transposed 5x5 convolution for each doubling, 3x3 to twice the width, 3x3 back, 1x1, GELU between them.

    The published one doubles once, and its width is that of the tail's input.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for _ in range(upsamplings):
        layers += [nn.ConvTranspose2d(channels, width, 5, stride=2, padding=2, output_padding=1), nn.GELU()]
        channels = width
    for wide in (2 * width, width):
        layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.GELU()]
        channels = wide
    return nn.Sequential(*layers, nn.Conv2d(channels, out_channels, 1))


def plain_decoder(*, in_channels: int, out_channels: int, width: int, upsamplings: int = 1) -> nn.Sequential:
    """Channel reduction's: convolutions with BatchNorm, transposed ones for each doubling."""
    layers: list[nn.Module] = []
    channels = in_channels
    for _ in range(upsamplings):
        layers += conv_bn_relu(nn.ConvTranspose2d(channels, width, 2, stride=2, bias=False), width)
        channels = width
    layers += conv_bn_relu(conv3x3(channels, width), width)
    return nn.Sequential(*layers, nn.Conv2d(width, out_channels, 3, padding=1), nn.ReLU())


class TransformDecoder(nn.Module):
    """The inverse of a linear transform of blocks of features, and what a small network adds to it.

    ``centre + spread * (linear + correction)``: the network starts at 0 and works in units of each channel's deviation.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, in_channels: int, out_channels: int, block: int, width: int, blocks: int) -> None:
        super().__init__()
        values = out_channels * block**2
        self.linear = nn.Conv2d(in_channels, values, 1, bias=False)
        last = conv1x1(width, values)
        nn.init.zeros_(last.weight)
        self.correction = nn.Sequential(
            *conv_bn_relu(conv3x3(in_channels, width), width), *(ResidualBlock(width) for _ in range(blocks)), last
        )
        self.shuffle = nn.PixelShuffle(block)
        self.register_buffer("centre", torch.zeros(out_channels))
        self.register_buffer("spread", torch.ones(out_channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        blocks: Tensor = self.shuffle(self.linear(x_BCHW) + self.correction(x_BCHW))
        return self.centre[:, None, None] + self.spread[:, None, None] * blocks


def transform_decoder(*, in_channels: int, out_channels: int, block: int, width: int, blocks: int) -> nn.Sequential:
    """Of `littoral.models.architectures.transform`: a latent's position becomes ``block`` x ``block`` positions."""
    return nn.Sequential(TransformDecoder(in_channels, out_channels, block, width, blocks))


_DECODERS: Mapping[str, Callable[..., nn.Sequential]] = {
    "residual": residual_decoder,
    "gdn": gdn_decoder,
    "rac": rac_decoder,
    "plain": plain_decoder,
    "transform": transform_decoder,
}


def make_decoder(
    *, kind: str, size: tuple[int, int] | None = None, averaged: bool = False, **kwargs: Any
) -> nn.Sequential:
    """A decoder by its name.

    Args:
        kind: ``residual``, ``gdn``, ``rac``, ``plain`` or ``transform``.
        size: Height and width of the tail's input, where doubling the latent gives more than that. What is more is cut
            off below and to the right, where it is no more than came of rounding sizes up.
        averaged: All of it is averaged down to that size instead, so that nothing of the frame is left out.
        kwargs: What the decoder of that name takes.
    Raises:
        ValueError: there is no such kind.
    """
    if kind not in _DECODERS:
        raise ValueError(f"there is no decoder {kind!r}; there are {', '.join(_DECODERS)}")
    decoder = _DECODERS[kind](**kwargs)
    if size is not None:
        decoder.append(nn.AdaptiveAvgPool2d(size) if averaged else Crop(*size))
    return decoder
