"""What an exit makes of a segment's output before its linear head: few features, from few multiply-accumulates.

Shapes: B batch, C channels, H height, W width, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.models.bottleneck import count_macs
from littoral.models.layers import conv1x1, conv3x3

NUM_FEATURES = 64
_ALL_AT_ONCE, _STEPS = 2048, 5
"""Up to so many values are taken apart exactly, more of them in so many steps of block iteration."""


class Stem(nn.Module):
    """Takes float32 ``(B, C, H, W)``, gives ``(B, D)``; ``config`` makes the same again by `make_stem`."""

    config: Mapping[str, Any]
    num_features: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one frame: ``(C, H, W)``."""
        return self.config["in_channels"], self.config["height"], self.config["width"]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one frame, of the stem alone."""
        return count_macs(self, self.input_shape)


class ConvStem(Stem):
    """A dense 3x3 convolution, then cheaper ones (3x3 by channel and 1x1), each with BatchNorm and ReLU; then the means
    over the cells of a ``grid`` x ``grid``, and a linear projection to D features.

    The first has twice as many channels as came in; where D channels or more come in, it is a cheaper one too.

    Args:
        num_cheap: How many of the cheaper convolutions.
        smallest: Each halves height and width while both stay at least so long.
    Source: exits as small convolution blocks, after Leontiadis et al., HotMobile 2021; the layers are ours.
    """

    def __init__(
        self,
        in_channels: int,
        height: int,
        width: int,
        *,
        num_features: int = NUM_FEATURES,
        num_cheap: int = 3,
        smallest: int = 8,
        grid: int = 4,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.config = {
            "kind": "conv",
            "in_channels": in_channels,
            "height": height,
            "width": width,
            "num_features": num_features,
            "num_cheap": num_cheap,
            "smallest": smallest,
            "grid": grid,
        }
        sides, layers = (height, width), list[nn.Module]()
        channels = in_channels
        if in_channels < num_features:
            stride, sides = _halved(sides, smallest)
            channels = min(2 * in_channels, num_features)
            layers += [conv3x3(in_channels, channels, stride), nn.BatchNorm2d(channels), nn.ReLU()]
        for _ in range(num_cheap):
            stride, sides = _halved(sides, smallest)
            by_channel = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
            layers += [by_channel, nn.BatchNorm2d(channels)]
            layers += [conv1x1(channels, num_features), nn.BatchNorm2d(num_features), nn.ReLU()]
            channels = num_features
        self.layers = nn.Sequential(*layers)
        self.cells = min(grid, sides[0]), min(grid, sides[1])
        self.project = nn.Linear(channels * self.cells[0] * self.cells[1], num_features)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features: Tensor = self.project(cell_means(self.layers(x_BCHW), self.cells))
        return features


class PooledStem(Stem):
    """Means over the cells of a ``grid`` x ``grid``, then a fixed linear projection to D features.

    Nothing is trained by descent: `fit` sets the projection to the principal components of source features.
    """

    mean: Tensor
    components: Tensor

    def __init__(
        self, in_channels: int, height: int, width: int, *, num_features: int = NUM_FEATURES, grid: int = 4
    ) -> None:
        super().__init__()
        self.cells = min(grid, height), min(grid, width)
        size = in_channels * self.cells[0] * self.cells[1]
        self.num_features = min(num_features, size)
        self.config = {
            "kind": "pooled",
            "in_channels": in_channels,
            "height": height,
            "width": width,
            "num_features": num_features,
            "grid": grid,
        }
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.eye(self.num_features, size))

    def fit(self, means_NS: Tensor) -> None:
        """Set the projection to the D first principal components of `cell_means` of source frames.

        Of more than 2,048 means a frame they are found step by step, near enough: all at once takes time by the cube.
        """
        wide = means_NS.double()
        components = _principal(wide - wide.mean(dim=0), self.num_features)
        largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
        self.components.copy_(components * largest.sign())  # an eigenvector's sign is chance
        self.mean.copy_(wide.mean(dim=0))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.linear(cell_means(x_BCHW, self.cells) - self.mean, self.components)


_KINDS: Mapping[str, Callable[..., Stem]] = {"conv": ConvStem, "pooled": PooledStem}


def make_stem(config: Mapping[str, Any]) -> Stem:
    """The stem of a `Stem.config`, without its weights.

    Raises:
        ValueError: there is no such kind.
    """
    kind = str(config.get("kind"))
    if kind not in _KINDS:
        raise ValueError(f"a stem's kind is {kind!r}, expected one of {', '.join(_KINDS)}")
    return _KINDS[kind](**{name: value for name, value in config.items() if name != "kind"})


def cell_means(x_BCHW: Tensor, cells: tuple[int, int]) -> Tensor:
    """Means over a grid of so many rows and columns of cells: ``(B, C * rows * columns)``. All of the map is in them:
    where a side is no multiple the cells overlap.
    """
    sides = x_BCHW.shape[2:]
    stride = [side // count for side, count in zip(sides, cells, strict=True)]
    kernel = [side - (count - 1) * step for side, count, step in zip(sides, cells, stride, strict=True)]
    return F.avg_pool2d(x_BCHW, kernel, stride).flatten(1)


def _principal(centred_NS: Tensor, count: int) -> Tensor:
    """The first principal components, float64 ``(count, S)``, the greatest first."""
    size = centred_NS.shape[1]
    if size <= _ALL_AT_ONCE:
        whole: Tensor = torch.linalg.eigh(centred_NS.T @ centred_NS)[1]
        return whole.flip(1)[:, :count].T
    start = torch.randn(size, 2 * count, generator=torch.Generator().manual_seed(0), dtype=centred_NS.dtype)
    basis: Tensor = torch.linalg.qr(start.to(centred_NS.device))[0]
    for _ in range(_STEPS):
        basis = torch.linalg.qr(centred_NS.T @ (centred_NS @ basis))[0]
    seen = centred_NS @ basis
    turned: Tensor = basis @ torch.linalg.eigh(seen.T @ seen)[1]
    return turned.flip(1)[:, :count].T


def _halved(sides: tuple[int, int], smallest: int) -> tuple[int, tuple[int, int]]:
    """The stride, and what a convolution with it leaves."""
    if (min(sides) + 1) // 2 < smallest:
        return 1, sides
    return 2, ((sides[0] + 1) // 2, (sides[1] + 1) // 2)
