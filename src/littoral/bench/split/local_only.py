"""Networks of a given work that send nothing: what a split must beat before its bytes are worth anything.

Residual networks of three stages, as the student's, narrower and shorter. For a budget the one nearest below it is
taken of each of two shapes: at full size, and after a first convolution that halves the size, which leaves room for
four times the width squared. Which shape is better is found by training both; the table holds the product against the
better one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from littoral.models.layers import conv3x3, global_average
from littoral.models.resnet import _cifar_stage

SHAPES: tuple[Literal["full", "halved"], ...] = ("full", "halved")
WIDTHS = (*range(2, 16), *range(16, 49, 2))
BLOCKS = (1, 2, 3)


class LocalNet(nn.Module):
    """A first convolution, three stages of residual blocks that double the width, a linear layer.

    Args:
        width: Of the first stage.
        blocks: Per stage.
        stride: Of the first convolution.
    """

    def __init__(self, *, width: int, blocks: int, stride: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _cifar_stage(width, width, 1, blocks)
        self.layer2 = _cifar_stage(width, 2 * width, 2, blocks)
        self.layer3 = _cifar_stage(2 * width, 4 * width, 2, blocks)
        self.linear = nn.Linear(4 * width, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Scores ``(B, num_classes)`` of normalised frames."""
        x = F.relu(self.bn1(self.conv1(x_BCHW)))
        scores: Tensor = self.linear(global_average(self.layer3(self.layer2(self.layer1(x)))))
        return scores


def local_network(*, width: int, blocks: int, stride: int, num_classes: int) -> LocalNet:
    """As `LocalSize` says."""
    return LocalNet(width=width, blocks=blocks, stride=stride, num_classes=num_classes)


@dataclass(frozen=True, kw_only=True)
class LocalSize:
    """A network of the family and what it costs on a frame of 32 x 32."""

    width: int
    blocks: int
    stride: int
    macs: int

    @property
    def kwargs(self) -> dict[str, Any]:
        """For `local_network`, but the classes."""
        return {"width": self.width, "blocks": self.blocks, "stride": self.stride}


def macs_of(*, width: int, blocks: int, stride: int, side: int = 32, num_classes: int = 10) -> int:
    """Multiply-accumulates of convolutions and the linear layer."""
    size = (side + stride - 1) // stride
    total = 27 * width * size**2
    channels = width
    for stage in range(3):
        out = width << stage
        if stage:
            size = (size + 1) // 2
        for block in range(blocks):
            into = channels if block == 0 else out
            total += 9 * size**2 * (into * out + out * out)
        channels = out
    return total + channels * num_classes


def size_for(budget_macs: int, shape: Literal["full", "halved"]) -> LocalSize | None:
    """The network of a shape that comes nearest to a budget without going over it; None if the smallest does."""
    stride = 1 if shape == "full" else 2
    sizes = [
        LocalSize(width=width, blocks=blocks, stride=stride, macs=macs_of(width=width, blocks=blocks, stride=stride))
        for width in WIDTHS
        for blocks in BLOCKS
    ]
    fitting = [size for size in sizes if size.macs <= budget_macs]
    return max(fitting, key=lambda size: size.macs, default=None)
