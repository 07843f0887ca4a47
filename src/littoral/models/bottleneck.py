"""The learned bottleneck of a split: what the device makes of a frame, and what the cloud makes of its symbols.

    encoder -> latent -> x gain of the level -> rounded: symbols ... symbols -> / gain -> decoder -> features -> tail

In the cloud a *scale* per level and channel, 1 at the start, follows the division: at low rates what a symbol stands
for is less than whole steps away from 0.

Level 0 is the coarsest. One network serves all levels: each has gains of its own and sends the first ``kept[level]``
channels. The networks themselves are in `littoral.models.architectures`.

Axes: B batch, C latent channels, H height, W width, L levels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from littoral.core.codec_tables import MAX_LEVELS, MAX_SYMBOLS, ChannelPrior
from littoral.models.decoders import make_decoder
from littoral.models.entropy import Prior
from littoral.models.factory import make_model
from littoral.models.parts import tail_of


class BottleneckOutput(NamedTuple):
    """What a bottleneck gives in training."""

    features: Tensor
    """What the tail takes, float32 ``(B, C', H', W')``."""
    rate_bits: Tensor
    """The cost of each frame's symbols, float32 ``(B,)``."""


class LatentEncoder(nn.Module):
    """What runs on the device: a network and, where symbols are rounded about medians, what is taken off before."""

    shift: Tensor

    def __init__(self, network: nn.Module, shift: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("shift", shift)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The latent, float32 ``(B, C, H, W)``."""
        latent: Tensor = self.network(x_BCHW)
        return latent - self.shift[:, None, None]


class Bottleneck(nn.Module):
    """An encoder, a decoder and a prior, with a gain per level and channel between them.

    In train mode noise stands for rounding, so that a gradient passes; in eval mode, and where ``hard`` is set, symbols
    are rounded and the encoder gets no gradient.

    Args:
        encoder: Gives a latent of ``num_channels`` of normalised frames or of a segment's features.
        decoder: Gives the tail's input of the latent as the cloud has it. See `littoral.models.decoders`.
        prior: Of as many levels and channels.
        kept: Of each level, how many channels are sent; all of them without it.
        starting_gains: Of each level; 1, 2, 4, ... without it.
        learned_gains: Or they stay what they are.
        learned_scales: The same for the scales on the decoder's side.
        decoder_spec: How `make_split_tail` builds this decoder anew: what `make_decoder` takes.
        mixed: In training, give the decoder rounded symbols whose gradient goes straight through, and the prior noisy
            ones (Minnen & Singh, ICIP 2020).
    Raises:
        ValueError: levels and channels do not fit together.
    """

    shift: Tensor
    _kept: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: Prior,
        *,
        num_channels: int,
        num_levels: int,
        kept: Sequence[int] | None = None,
        starting_gains: Sequence[float] | None = None,
        learned_gains: bool = True,
        learned_scales: bool = False,
        decoder_spec: Mapping[str, Any] | None = None,
        mixed: bool = False,
    ) -> None:
        super().__init__()
        self.kept = tuple(kept if kept is not None else [num_channels] * num_levels)
        gains = list(starting_gains if starting_gains is not None else [2.0**level for level in range(num_levels)])
        if (prior.num_levels, prior.num_channels) != (num_levels, num_channels):
            raise ValueError(
                f"the prior has {prior.num_levels} levels of {prior.num_channels} channels, the bottleneck "
                f"{num_levels} of {num_channels}"
            )
        _check_levels(num_channels, num_levels, self.kept, gains)
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.num_channels = num_channels
        self.num_levels = num_levels
        self.decoder_spec = None if decoder_spec is None else dict(decoder_spec)
        self.mixed = mixed
        self.learned_gains = learned_gains
        self.hard = False
        """Round in train mode too, and leave the encoder and the gains without a gradient."""
        log_gains = torch.tensor(gains).log()[:, None].repeat(1, num_channels)
        self.log_gains = nn.Parameter(log_gains)
        self.learned_scales = learned_scales
        self.log_scales = nn.Parameter(torch.zeros(num_levels, num_channels))
        self.register_buffer("shift", torch.zeros(num_channels))
        self.register_buffer("_kept", torch.tensor(self.kept), persistent=False)

    @property
    def gains(self) -> Tensor:
        """Positive float32 ``(L, C)``: how many steps of rounding a unit of the latent is."""
        return self.log_gains.exp()

    @property
    def scales(self) -> Tensor:
        """Positive float32 ``(L, C)``: what the decoder's side multiplies by after it divided by the gains."""
        return self.log_scales.exp()

    def latent(self, x_BCHW: Tensor) -> Tensor:
        """What the device computes, float32 ``(B, C, H, W)``."""
        latent: Tensor = self.encoder(x_BCHW)
        return latent - self.shift[:, None, None]

    def device_encoder(self) -> LatentEncoder:
        """A copy of what the device runs, in eval mode: `latent` as a module of its own, for the exporter."""
        return LatentEncoder(copy.deepcopy(self.encoder), self.shift.detach().clone()).eval()

    @torch.no_grad()
    def symbols(self, latent_BCHW: Tensor, level_B: Tensor) -> Tensor:
        """What the device sends: int32 ``(B, C, H, W)``, 0 in the channels that a level does not keep."""
        scaled = latent_BCHW * self._gains_of(level_B)
        return (torch.round(scaled) * self._mask_of(level_B)).to(torch.int32)

    def decode(self, symbols_BCHW: Tensor, level_B: Tensor) -> Tensor:
        """The tail's input of float32 symbols."""
        steps = (self.scales / self.gains)[level_B][:, :, None, None]
        latent = (symbols_BCHW * steps + self.shift[:, None, None]) * self._mask_of(level_B)
        features: Tensor = self.decoder(latent)
        return features

    def forward(self, x_BCHW: Tensor, level_B: Tensor) -> BottleneckOutput:
        """Features and rates of a batch in which each frame has a level, int64 ``(B,)``."""
        scaled = self.latent(x_BCHW).float() * self._gains_of(level_B)
        if self.hard or not self.training:
            symbols = counted = torch.round(scaled.detach())
        else:
            symbols = counted = scaled + torch.rand_like(scaled) - 0.5
            if self.mixed:
                symbols = scaled + (torch.round(scaled) - scaled).detach()
        with torch.autocast(counted.device.type, enabled=False):  # likelihoods are differences of numbers almost alike
            bits_B = self.prior.bits(counted, level_B, self._kept[level_B])
        return BottleneckOutput(features=self.decode(symbols, level_B), rate_bits=bits_B)

    def round_about(self, medians_C: Tensor) -> None:
        """From now on round about these values of the latent instead of 0. Gains that stay what they are only.

        Raises:
            ValueError: the gains are learned.
        """
        if self.learned_gains:
            raise ValueError("a bottleneck with learned gains rounds about 0; set learned_gains=False")
        self.shift.copy_(medians_C)
        offsets = getattr(self.prior, "offsets", None)
        if isinstance(offsets, Tensor):
            offsets.copy_(self.gains.detach() * self.shift)

    def channel_priors(self, level: int) -> list[ChannelPrior]:
        """What the prior says of the channels that a level sends, for its integer table."""
        return self.prior.channel_priors(level)[: self.kept[level]]

    def _gains_of(self, level_B: Tensor) -> Tensor:
        return self.gains[level_B][:, :, None, None]

    def _mask_of(self, level_B: Tensor) -> Tensor:
        return _mask(self._kept, self.num_channels)[level_B][:, :, None, None]


class SplitTail(nn.Module):
    """What the cloud runs: decoder and tail.

    Args:
        decoder: As the bottleneck's.
        gains: The device's, float32 ``(L, C)``.
        kept: Of each level, how many channels are sent.
        tail: Takes the decoder's features.
        shift: What the symbol 0 stands for in each channel of the latent, float32 ``(C,)``; 0 without it.
        scales: See `Bottleneck.scales`; 1 without it.
    Raises:
        ValueError: levels and channels do not fit together.
    """

    gains: Tensor
    scales: Tensor
    shift: Tensor
    _kept: Tensor

    def __init__(
        self,
        decoder: nn.Module,
        gains: Tensor,
        kept: Sequence[int],
        tail: nn.Module,
        *,
        shift: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> None:
        super().__init__()
        num_levels, num_channels = gains.shape
        _check_levels(num_channels, num_levels, kept, gains.flatten().tolist())
        self.decoder = decoder
        self.tail = tail
        self.kept = tuple(kept)
        self.register_buffer("gains", gains.detach().clone())
        self.register_buffer("scales", torch.ones_like(gains) if scales is None else scales.detach().clone())
        self.register_buffer("shift", torch.zeros(num_channels) if shift is None else shift.detach().clone())
        self.register_buffer("_kept", torch.tensor(self.kept), persistent=False)

    def forward(self, symbols_BCHW: Tensor, level_B: Tensor) -> Any:
        """The network's outputs.

        Args:
            symbols_BCHW: float32, all C channels, 0 in those that a level does not keep.
            level_B: int64, the level of each frame; a batch may mix them.
        """
        mask = _mask(self._kept, self.gains.shape[1])[level_B][:, :, None, None]
        steps = (self.scales / self.gains)[level_B][:, :, None, None]
        latent = (symbols_BCHW * steps + self.shift[:, None, None]) * mask
        return self.tail(self.decoder(latent))


def make_split_tail(
    *,
    decoder: Mapping[str, Any],
    num_channels: int,
    kept: Sequence[int],
    tail: Mapping[str, Any],
) -> SplitTail:
    """The factory of a `SplitTail`, of arguments that JSON can hold; its tensors are put in afterwards.

    Args:
        decoder: What `make_decoder` takes.
        num_channels: Of the latent.
        kept: Of each level, how many channels are sent.
        tail: ``factory`` (``package.module:function``) and ``kwargs`` of the network, and the module ``cut`` after
            whose output its tail begins; without ``cut`` the network is the tail.
    Raises:
        ValueError: they do not fit together, or the network cannot be cut there.
        BundleError: the network's factory fails.
    """
    network = make_model(tail["factory"], tail.get("kwargs", {}))
    cut = tail.get("cut")
    return SplitTail(
        make_decoder(**decoder),
        torch.ones(len(kept), num_channels),
        kept,
        network if cut is None else tail_of(network, cut),
    )


def split_tail_kwargs(bottleneck: Bottleneck, tail: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which `make_split_tail` builds `to_split_tail` of this bottleneck anew.

    Raises:
        ValueError: the bottleneck does not know how its decoder is built.
    """
    if bottleneck.decoder_spec is None:
        raise ValueError("this bottleneck has no decoder_spec; give it what make_decoder takes")
    return {
        "decoder": bottleneck.decoder_spec,
        "num_channels": bottleneck.num_channels,
        "kept": list(bottleneck.kept),
        "tail": dict(tail),
    }


def to_split_tail(bottleneck: Bottleneck, tail: nn.Module) -> SplitTail:
    """The cloud's side of a trained bottleneck and its tail: a copy, in eval mode."""
    return SplitTail(
        copy.deepcopy(bottleneck.decoder),
        bottleneck.gains,
        bottleneck.kept,
        copy.deepcopy(tail),
        shift=bottleneck.shift,
        scales=bottleneck.scales,
    ).eval()


def count_macs(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of convolutions and matrix products for one input.

    Args:
        input_shape: Without the batch.
    """
    probe = copy.deepcopy(module).cpu().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        probe(torch.zeros(1, *input_shape))
    return int(counter.get_total_flops()) // 2


def check_symbols(num_channels: int, height: int, width: int, where: str = "of the encoder") -> None:
    """Refuse a latent that no payload holds.

    Args:
        num_channels: At most so many are sent at a level.
        where: Whose latent it is.
    Raises:
        ValueError: it has too many symbols.
    """
    if (count := num_channels * height * width) > MAX_SYMBOLS:
        raise ValueError(
            f"the latent {where} has {num_channels} x {height} x {width} symbols, {count} in all; a payload holds at "
            f"most {MAX_SYMBOLS}. Send fewer channels, or cut the network at a later module, where its map is smaller"
        )


def _mask(kept_L: Tensor, num_channels: int) -> Tensor:
    """float32 ``(L, C)``, 1 where a level sends the channel."""
    return (torch.arange(num_channels, device=kept_L.device) < kept_L[:, None]).float()


def _check_levels(num_channels: int, num_levels: int, kept: Sequence[int], gains: Sequence[float]) -> None:
    if not 1 <= num_levels <= MAX_LEVELS:
        raise ValueError(f"there are {num_levels} levels, expected 1 to {MAX_LEVELS}: more do not go into a payload")
    if len(kept) != num_levels or any(not 1 <= number <= num_channels for number in kept):
        raise ValueError(
            f"kept is {list(kept)}, expected for each of {num_levels} levels how many of {num_channels} channels it "
            "sends"
        )
    if len(gains) not in (num_levels, num_levels * num_channels) or any(not 0 < gain < math.inf for gain in gains):
        raise ValueError(f"gains are {list(gains)}, expected a positive one for each of {num_levels} levels")
