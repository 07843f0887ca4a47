"""Pieces that several networks of the zoo share. Shapes: B batch, C channels, H height, W width."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

GROUP_NORM_GROUPS = 8


def conv3x3(in_channels: int, out_channels: int, stride: int | tuple[int, int] = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def norm2d(kind: str, num_channels: int) -> nn.Module:
    """The normalisation layer that ``kind`` names: ``batch`` or ``group`` (8 groups, fewer where 8 does not divide).

    Raises:
        ValueError: another kind.
    """
    if kind == "batch":
        return nn.BatchNorm2d(num_channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(GROUP_NORM_GROUPS, num_channels), num_channels)
    raise ValueError(f"norm is {kind!r}, expected 'batch' or 'group'")


def global_average(x_BCHW: Tensor) -> Tensor:
    """Mean over height and width: ``(B, C)``."""
    return x_BCHW.mean(dim=(2, 3))


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """``max(x, bound)`` whose gradient still reaches an x below the bound where it would raise it."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x.clamp(min=bound)
    bounded: Tensor = _LowerBound.apply(x, bound)  # type: ignore[no-untyped-call]
    return bounded


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None
