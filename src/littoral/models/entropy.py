"""What the symbols of a latent cost: learned priors that training differentiates and the exporter tabulates.

Axes: B batch, C channels, H height, W width, L levels, N values of one channel.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.core.codec_tables import ChannelPrior
from littoral.models.layers import lower_bound

LIKELIHOOD_MIN = 1e-9
_TAIL_MASS = 1e-7
_QUANTILE_TAILS = 1e-9
_WIDEST = 1 << 15
_WIDTHS = (1, 3, 3, 3, 3, 1)


class Prior(nn.Module, ABC):
    """The cost of symbols, per level and channel."""

    num_levels: int
    num_channels: int

    @abstractmethod
    def bits(self, symbols_BCHW: Tensor, level_B: Tensor, kept_B: Tensor | None = None) -> Tensor:
        """``-log2 p`` of each frame's symbols together, differentiable.

        Args:
            symbols_BCHW: float32, whole numbers or noisy ones.
            level_B: int64, the level of each frame.
            kept_B: int64, how many channels of each frame are sent; without it, all of them.
        Returns:
            float32 ``(B,)``.
        """

    @abstractmethod
    def channel_priors(self, level: int) -> list[ChannelPrior]:
        """The distribution of each of the C channels' symbols at a level, in float64, for the integer tables."""


class FactorisedPrior(Prior):
    """A distribution per level and channel, learned as a monotone network 1-3-3-3-3-1 that gives its cumulative.

    58 parameters each: matrices made positive by softplus, and after each layer but the last ``x + tanh(f) tanh(x)``.

    Args:
        starting_scale: About how wide the distributions are at first, in steps of rounding.
        learns_quantiles: Also have the published three quantiles per channel, which `quantile_loss` alone trains. What
            they are needed for, the medians and the tables' ranges, is found here without them.
    Source: Balle et al., ICLR 2018, appendix 6.1.
    """

    offsets: Tensor

    def __init__(
        self,
        num_levels: int,
        num_channels: int,
        *,
        starting_scale: float = 10.0,
        learns_quantiles: bool = False,
    ) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.num_channels = num_channels
        self.learns_quantiles = learns_quantiles
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        per_layer = starting_scale ** (1 / (len(_WIDTHS) - 1))
        for fan_in, fan_out in itertools.pairwise(_WIDTHS):
            value = math.log(math.expm1(1 / per_layer / fan_out))
            self.matrices.append(torch.full((num_levels, num_channels, fan_out, fan_in), value))
            self.biases.append(torch.rand(num_levels, num_channels, fan_out, 1) - 0.5)
            if fan_out > 1:
                self.factors.append(torch.zeros(num_levels, num_channels, fan_out, 1))
        self.quantiles = nn.Parameter(torch.tensor([-10.0, 0.0, 10.0]).repeat(num_levels, num_channels, 1))
        # The value that the symbol 0 stands for: not 0 where the latent is rounded about a median.
        self.register_buffer("offsets", torch.zeros(num_levels, num_channels))

    def bits(self, symbols_BCHW: Tensor, level_B: Tensor, kept_B: Tensor | None = None) -> Tensor:
        """See `Prior.bits`. A likelihood counts as 1e-9 at least."""
        total_B = symbols_BCHW.new_zeros(len(symbols_BCHW))
        for level in sorted(set(level_B.tolist())):
            (chosen,) = torch.nonzero(level_B == level, as_tuple=True)
            num_kept = self.num_channels if kept_B is None else int(kept_B[chosen].max())
            symbols = symbols_BCHW[chosen, :num_kept]
            # Frames side by side, so that each channel's little matrices meet one long row.
            values_CN = symbols.movedim(1, 0).reshape(num_kept, -1) + self.offsets[level, :num_kept, None]
            bits_CN = -torch.log2(lower_bound(self._likelihood(values_CN, level), LIKELIHOOD_MIN))
            bits_bc = bits_CN.view(num_kept, len(chosen), -1).sum(2).t()
            if kept_B is not None:
                bits_bc = bits_bc * (torch.arange(num_kept, device=kept_B.device) < kept_B[chosen, None])
            total_B = total_B.index_add(0, chosen, bits_bc.sum(1))
        return total_B

    def _likelihood(self, values_CN: Tensor, level: int) -> Tensor:
        """The probability of the unit interval around each value, for the first C channels."""
        edges = torch.cat([values_CN - 0.5, values_CN + 0.5], dim=1)
        lower, upper = self._logits_of_cdf(edges, level).chunk(2, dim=1)
        # On the side of the median where sigmoids are small, so that their difference keeps its digits.
        sign = torch.where(lower + upper > 0, -1.0, 1.0)
        return torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))

    def _logits_of_cdf(self, values_CN: Tensor, level: int, *, constant: bool = False) -> Tensor:
        """For the first C channels; ``constant`` keeps gradients from the network's own parameters."""

        def part(parameter: Tensor) -> Tensor:
            mine = parameter[level, : len(values_CN)].to(values_CN.dtype)
            return mine.detach() if constant else mine

        x = values_CN[:, None, :]
        for index, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = torch.baddbmm(part(bias), F.softplus(part(matrix)), x)
            if index < len(self.factors):
                x = x + torch.tanh(part(self.factors[index])) * torch.tanh(x)
        return x[:, 0]

    def quantile_loss(self) -> Tensor:
        """How far the learned quantiles are from where the cumulatives are 5e-10, 0.5 and 1 - 5e-10; trains only them.

        Source: CompressAI's auxiliary loss, summed over all channels.
        """
        edge = math.log(2 / _QUANTILE_TAILS - 1)
        targets = self.quantiles.new_tensor([-edge, 0.0, edge])
        logits = [self._logits_of_cdf(self.quantiles[n], n, constant=True) for n in range(self.num_levels)]
        return (torch.stack(logits) - targets).abs().sum()

    @torch.no_grad()
    def medians(self, level: int) -> Tensor:
        """The value of each channel whose cumulative is one half, float64 ``(C,)``; by bisection, or as learned."""
        if self.learns_quantiles:
            return self.quantiles[level, :, 1].double()
        low = torch.full((self.num_channels, 1), -float(_WIDEST), dtype=torch.float64, device=self.offsets.device)
        high = -low
        for _ in range(60):
            middle = (low + high) / 2
            below = self._logits_of_cdf(middle, level) < 0
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2)[:, 0]

    @torch.no_grad()
    def channel_priors(self, level: int) -> list[ChannelPrior]:
        """See `Prior.channel_priors`. Values beyond what holds all but 1e-7 of the weight are left to the escape."""
        reach = 16
        while True:
            edges_N = torch.arange(-reach, reach + 2, dtype=torch.float64, device=self.offsets.device) - 0.5
            cdf_CN = torch.sigmoid(self._logits_of_cdf(edges_N + self.offsets[level].double()[:, None], level))
            outside_C = cdf_CN[:, 0] + 1 - cdf_CN[:, -1]
            if reach >= _WIDEST or bool((outside_C < _TAIL_MASS / 100).all()):
                break
            reach *= 2
        pmf_CN = np.maximum(np.diff(cdf_CN.cpu().numpy(), axis=1), 0)
        return [
            ChannelPrior(pmf=pmf_N, first_value=-reach, escape=max(float(outside), 0.0)).trimmed(_TAIL_MASS)
            for pmf_N, outside in zip(pmf_CN, outside_C, strict=True)
        ]


class UniformPrior(Prior):
    """Every one of ``num_values`` symbols from ``first_value`` on costs the same: a code of fixed length."""

    def __init__(self, num_levels: int, num_channels: int, *, num_values: int = 256, first_value: int = -128) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.num_channels = num_channels
        self.num_values = num_values
        self.first_value = first_value

    def bits(self, symbols_BCHW: Tensor, level_B: Tensor, kept_B: Tensor | None = None) -> Tensor:
        """See `Prior.bits`. What lies outside of the values costs no more here; on the wire it is an escape."""
        batch, channels, height, width = symbols_BCHW.shape
        kept = torch.full((batch,), channels) if kept_B is None else kept_B
        return kept.to(symbols_BCHW) * (height * width * math.log2(self.num_values))

    def channel_priors(self, level: int) -> list[ChannelPrior]:
        """See `Prior.channel_priors`."""
        pmf = np.full(self.num_values, 1 / self.num_values)
        return [ChannelPrior(pmf=pmf, first_value=self.first_value)] * self.num_channels
