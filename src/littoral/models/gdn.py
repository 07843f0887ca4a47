"""Generalised divisive normalisation, as the published bottleneck uses it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.models.layers import lower_bound

_OFFSET = 2.0**-18
_BETA_MIN = 1e-6


class GDN1(nn.Module):
    """``x / (beta + gamma |x|)`` over channels, or times that where ``inverse``; float32 ``(B, C, H, W)``.

    Beta starts at 1 and gamma at 0.1 of the identity. Both are stored as roots, bounded from below.

    Source: Balle et al., ICLR 2016, with the exponents of Johnston et al., 2019; stored as CompressAI does.
    """

    def __init__(self, num_channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(_to_root(torch.ones(num_channels)))
        self.gamma = nn.Parameter(_to_root(0.1 * torch.eye(num_channels)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        beta = _from_root(self.beta, _BETA_MIN)
        gamma = _from_root(self.gamma, 0.0)
        norm = F.conv2d(x_BCHW.abs(), gamma[:, :, None, None], beta)
        return x_BCHW * norm if self.inverse else x_BCHW / norm


def _to_root(value: Tensor) -> Tensor:
    return (value + _OFFSET**2).clamp(min=_OFFSET**2).sqrt()


def _from_root(root: Tensor, value_min: float) -> Tensor:
    bounded = lower_bound(root, float((value_min + _OFFSET**2) ** 0.5))
    return bounded * bounded - _OFFSET**2
