"""An exit part-way through a segmentation network: a score for every pixel, from features alone.

The published shape (MESS) is a 1x1 reduction of the channels, a few cheap blocks, a classifier and bilinear upsampling.
Here the blocks work at a quarter of the features' size, where context is cheap, and three linear classifiers are added
up: of the context, of the reduced features at half the size, and of the features themselves, which still have edges.

Axes: B batch, C channels, H height, W width, K classes.
Source: Kouris et al., ECCV 2022 (MESS). Departures: the three sizes; a gate over all positions as CGNet has it (Wu et
al., 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, RUF100

from littoral.models.bottleneck import count_macs

_GATE_SHARE = 8


class ContextBlock(nn.Module):
    """A residual bottleneck: 1x1 to half the channels, a dilated 3x3, 1x1 back, a gate for each channel."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            *_conv_bn(width, half, 1),
            nn.PReLU(half),
            *_conv_bn(half, half, 3, padding=dilation, dilation=dilation),
            nn.PReLU(half),
            *_conv_bn(half, width, 1),
        )
        hidden = max(1, width // _GATE_SHARE)
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.act = nn.PReLU(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.body(x_BCHW)
        gate_BC = torch.sigmoid(self.up(torch.relu(self.down(y.mean(dim=(2, 3))))))
        out: Tensor = self.act(x_BCHW + y * gate_BC[:, :, None, None])
        return out


class DenseExit(nn.Module):
    """Features ``(B, C, H, W)`` to scores ``(B, K, H, W)``; H and W are even.

    `full_scores` brings them to the frame's size. All weights are its own; the network's stay as they are.

    Args:
        in_channels: Of the features.
        num_classes: K.
        width: Channels at half the features' size.
        context: Channels at a quarter, even.
        dilations: One block for each, in positions of a quarter of the features' size.
    Raises:
        ValueError: an odd context, or a number that is too small.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int = 64,
        context: int = 96,
        dilations: Sequence[int] = (1, 2, 4, 1),
    ) -> None:
        super().__init__()
        if min(width, in_channels) < 1 or num_classes < 2 or context < 2 or context % 2:
            raise ValueError(
                f"an exit needs at least 1 channel to stand on, 2 classes, a width of 1 and an even context, got "
                f"{in_channels}, {num_classes}, {width} and {context}"
            )
        self.in_channels = in_channels
        self.reduce = nn.Sequential(*_conv_bn(in_channels, width, 1), nn.PReLU(width))
        self.near = nn.Sequential(
            *_conv_bn(width, width, 3, padding=1, groups=width), *_conv_bn(width, width, 1), nn.PReLU(width)
        )
        self.enter = nn.Sequential(*_conv_bn(width, context, 1), nn.PReLU(context))
        self.blocks = nn.Sequential(*(ContextBlock(context, dilation) for dilation in dilations))
        self.of_context = nn.Conv2d(context, num_classes, 1)
        self.of_near = nn.Conv2d(width, num_classes, 1, bias=False)
        self.of_features = nn.Conv2d(in_channels, num_classes, 1, bias=False)
        nn.init.zeros_(self.of_features.weight)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        near = self.near(self.reduce(F.avg_pool2d(features_BCHW, 2)))
        context = self.blocks(self.enter(F.avg_pool2d(near, 2, ceil_mode=True)))
        at_half = full_scores(self.of_context(context), *near.shape[2:]) + self.of_near(near)
        scores: Tensor = full_scores(at_half, *features_BCHW.shape[2:]) + self.of_features(features_BCHW)
        return scores

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for features of this size; as for the network itself, upsampling is not counted."""
        return count_macs(self, (self.in_channels, height, width))


def full_scores(scores_BKHW: Tensor, height: int, width: int) -> Tensor:
    """Scores at another size, bilinear: the frame's, for an answer."""
    return F.interpolate(scores_BKHW, size=(height, width), mode="bilinear", align_corners=False)


def _conv_bn(
    in_channels: int, out_channels: int, size: int, *, padding: int = 0, dilation: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(
        in_channels, out_channels, size, padding=padding, dilation=dilation, groups=groups, bias=False
    )
    return convolution, nn.BatchNorm2d(out_channels)
