"""The bottlenecks that we train: the product's, Entropic Student's, channel reduction's and one shaped like RAC's;
and one that is fitted: a transform of features.

Each function gives a `Bottleneck`. Sizes are arguments; the defaults are for frames of 32x32 whose tail takes 32
channels of 16x16 (what the second stage of a CIFAR ResNet gives).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from littoral.models.bottleneck import Bottleneck
from littoral.models.decoders import ResidualBlock, conv_bn_relu, make_decoder
from littoral.models.entropy import FactorisedPrior, UniformPrior
from littoral.models.gdn import GDN1
from littoral.models.layers import conv1x1, conv3x3


def product(
    *,
    in_channels: int = 3,
    out_channels: int = 32,
    num_channels: int = 24,
    starting_gains: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    kept: Sequence[int] | None = None,
    patch: int = 4,
    strides: Sequence[int | tuple[int, int]] = (),
    width: int = 48,
    blocks: int = 1,
    decoder_width: int = 64,
    decoder_blocks: int = 2,
    decoder_blocks_after: int = 0,
    upsamplings: int = 1,
    frame_size: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    averaged: bool = False,
    mixed: bool = False,
    learned_scales: bool = True,
    rectified: bool = True,
) -> Bottleneck:
    """The default, one for all rates: a patchifying convolution or strided ones, residual blocks, 1x1 to the latent.

    BatchNorm folds into the convolutions at export. The latent is normalised, so that the gains alone set the rates.

    Args:
        in_channels: 3 for frames; a segment's channels where its features go in.
        out_channels: The tail's.
        num_channels: Of the latent.
        starting_gains: One per level, the coarsest first.
        kept: Of each level, how many channels are sent.
        patch: Side and stride of the first convolution; 0 for none.
        strides: Of 3x3 convolutions that come next, 1 or more each, or one for height and one for width.
        width: Of the encoder.
        blocks: Residual blocks of the encoder.
        decoder_width: Of the decoder, and so on.
        upsamplings: How often the latent's size has to be doubled for the tail.
        frame_size: Height and width of what comes in; its edges are repeated up to whole patches. Without it, what is
            left over below and to the right is not seen.
        size: See `make_decoder`.
        averaged: Likewise.
        mixed: See `Bottleneck`.
        learned_scales: Likewise.
        rectified: The tail takes no negative features.
    """
    layers = _whole(frame_size, patch) if patch and frame_size else []
    channels = in_channels
    if patch:
        layers += conv_bn_relu(nn.Conv2d(channels, width, patch, stride=patch, bias=False), width)
        channels = width
    for stride in strides:
        layers += conv_bn_relu(conv3x3(channels, width, stride), width)
        channels = width
    if channels != width:
        raise ValueError("an encoder needs a patch or at least one strided convolution")
    layers += [ResidualBlock(width) for _ in range(blocks)]
    layers += [conv1x1(width, num_channels), nn.BatchNorm2d(num_channels, affine=False)]
    decoder: dict[str, Any] = {
        "kind": "residual",
        "in_channels": num_channels,
        "out_channels": out_channels,
        "width": decoder_width,
        "blocks": decoder_blocks,
        "blocks_after": decoder_blocks_after,
        "upsamplings": upsamplings,
    }
    if not rectified:
        decoder["rectified"] = False
    if averaged:
        decoder["averaged"] = True
    network = nn.Sequential(*layers)
    return _learned(
        network, decoder, num_channels, starting_gains, kept, size, mixed=mixed, learned_scales=learned_scales
    )


class TransformEncoder(nn.Module):
    """A linear transform of blocks of features, times a gate where there is one.

    The gate is 1 at the start. A training makes it small where nothing hangs on the features, which are then sent as
    little more than zeros; the decoder is not told where that was.
    """

    def __init__(self, in_channels: int, num_channels: int, block: int, gate_width: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(in_channels, num_channels, block, stride=block)
        self.gate: nn.Sequential | None = None
        if gate_width:
            last = nn.Conv2d(gate_width, num_channels, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
            first = nn.Conv2d(in_channels, gate_width, block, stride=block, bias=False)
            self.gate = nn.Sequential(*conv_bn_relu(first, gate_width), last, nn.Sigmoid())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        turned: Tensor = self.linear(x_BCHW)
        return turned if self.gate is None else 2 * self.gate(x_BCHW) * turned


def transform(
    *,
    in_channels: int,
    num_channels: int,
    starting_gains: Sequence[float],
    size: tuple[int, int],
    kept: Sequence[int] | None = None,
    block: int = 4,
    gate_width: int = 0,
    decoder_width: int = 96,
    decoder_blocks: int = 1,
) -> Bottleneck:
    """A linear transform of blocks of a segment's features, which `littoral.train.transform` fits without a training.

    The decoder is the transform's inverse and a small network that is added to it.

    Args:
        in_channels: Of the segment, and of the tail, which takes the same features.
        num_channels: Of the latent, at most ``in_channels * block**2``.
        size: Height and width of the features; their edges are repeated up to whole blocks.
        block: Side of a block.
        gate_width: Of the gate, see `TransformEncoder`; 0 for none.
    """
    layers = _whole(size, block)
    layers.append(TransformEncoder(in_channels, num_channels, block, gate_width))
    decoder = {
        "kind": "transform",
        "in_channels": num_channels,
        "out_channels": in_channels,
        "block": block,
        "width": decoder_width,
        "blocks": decoder_blocks,
    }
    return _learned(
        nn.Sequential(*layers), decoder, num_channels, starting_gains, kept, size, mixed=True, learned_scales=True
    )


def entropic_student(
    *,
    in_channels: int = 3,
    out_channels: int = 32,
    num_channels: int = 24,
    widths: tuple[int, int] = (96, 48),
    decoder_widths: tuple[int, int] = (512, 256),
    upsamplings: int = 1,
    size: tuple[int, int] | None = None,
    learns_quantiles: bool = False,
) -> Bottleneck:
    """The published network, one level: k5 s2, GDN, k5 s2, GDN, k2, no biases; see `gdn_decoder`.

    Its gain stays 1: the rate is what the training's weight makes of it. Trained with labels and rate alone it is the
    "end to end" baseline.

    Source: Matsubara et al., WACV 2022; at 224 px it has ``out_channels=256`` and ``upsamplings=0``.
    """
    first, second = widths
    encoder = nn.Sequential(
        nn.Conv2d(in_channels, first, 5, stride=2, padding=2, bias=False),
        GDN1(first),
        nn.Conv2d(first, second, 5, stride=2, padding=2, bias=False),
        GDN1(second),
        nn.Conv2d(second, num_channels, 2, bias=False),
    )
    decoder = {
        "kind": "gdn",
        "in_channels": num_channels,
        "out_channels": out_channels,
        "widths": list(decoder_widths),
        "upsamplings": upsamplings,
    }
    bottleneck = _learned(encoder, decoder, num_channels, [1.0], None, size, learned_gains=False)
    bottleneck.prior = FactorisedPrior(1, num_channels, learns_quantiles=learns_quantiles)
    return bottleneck


def channel_reduction(
    *,
    in_channels: int = 3,
    out_channels: int = 32,
    num_channels: int = 2,
    strides: Sequence[int] = (2, 2),
    width: int = 48,
    decoder_width: int = 64,
    upsamplings: int = 1,
    size: tuple[int, int] | None = None,
) -> Bottleneck:
    """Few channels of 8 bits each: `calibrate_8_bit` sets the scale after training.

    Published without an entropy coder. Tables of the prior alone make it so, every symbol then costs 8 bits:
    ``TableOptions(prior_share=math.inf, contexts=None, deadzones=())``. A value outside of the range that was
    calibrated is an escape and costs more.

    Source: "CR+BQ" of Matsubara et al., TMLR 2023. Ours has one range per channel from training frames, where theirs
    takes that of each tensor anew.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for stride in strides:
        layers += conv_bn_relu(conv3x3(channels, width, stride), width)
        channels = width
    layers.append(conv1x1(channels, num_channels))
    decoder: dict[str, Any] = {
        "kind": "plain",
        "in_channels": num_channels,
        "out_channels": out_channels,
        "width": decoder_width,
        "upsamplings": upsamplings,
    }
    if size is not None:
        decoder["size"] = list(size)
    return Bottleneck(
        nn.Sequential(*layers),
        make_decoder(**decoder),
        UniformPrior(1, num_channels),
        num_channels=num_channels,
        num_levels=1,
        starting_gains=[16.0],
        learned_gains=False,
        decoder_spec=decoder,
    )


def calibrate_8_bit(bottleneck: Bottleneck, latents_BCHW: Tensor) -> None:
    """Spread the range of these latents, of each channel, over the symbols -128 to 127."""
    values_CN = latents_BCHW.detach().movedim(1, 0).flatten(1) + bottleneck.shift[:, None]
    low_C, high_C = values_CN.amin(1), values_CN.amax(1)
    gains_C = 255 / (high_C - low_C).clamp(min=1e-6)
    bottleneck.log_gains.data.copy_(gains_C.log()[None])
    bottleneck.round_about(low_C + 128 / gains_C)


class RacBlock(nn.Module):
    """GELU and a 3x3 convolution to half the width, and the same back; the shortcut is the input itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, padding=1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = x_BCHW + self.layers(x_BCHW)
        return out


def rac_shaped(
    *,
    in_channels: int = 3,
    out_channels: int = 32,
    num_channels: int = 24,
    patch: int = 4,
    width: int = 64,
    blocks: int = 4,
    decoder_width: int | None = None,
    upsamplings: int = 1,
    size: tuple[int, int] | None = None,
) -> Bottleneck:
    """A patchifying convolution, N residual blocks or a GELU in their place, 1x1 to the latent; one level.

    Args:
        decoder_width: Of `rac_decoder`; the tail's channels without it, as published.
    Source: Duan & Zhu, PCS 2022 (at 224 px ``patch=8, width=128, num_channels=64, out_channels=256``); with 0, 4 and 8
        blocks it is their n0, n4 and n8.
    """
    between: list[nn.Module] = [RacBlock(width) for _ in range(blocks)] or [nn.GELU()]
    encoder = nn.Sequential(
        nn.Conv2d(in_channels, width, patch, stride=patch),
        *between,
        nn.Conv2d(width, num_channels, 1),
    )
    decoder = {
        "kind": "rac",
        "in_channels": num_channels,
        "out_channels": out_channels,
        "width": decoder_width or out_channels,
        "upsamplings": upsamplings,
    }
    return _learned(encoder, decoder, num_channels, [1.0], None, size, learned_gains=False)


def _whole(size: tuple[int, int], block: int) -> list[nn.Module]:
    """What repeats the edges below and to the right up to whole blocks; nothing where they are whole."""
    below, right = (-side % block for side in size)
    return [nn.ReplicationPad2d((0, right, 0, below))] if below or right else []


def _learned(
    encoder: nn.Module,
    decoder: dict[str, Any],
    num_channels: int,
    starting_gains: Sequence[float],
    kept: Sequence[int] | None,
    size: tuple[int, int] | None,
    *,
    learned_gains: bool = True,
    mixed: bool = False,
    learned_scales: bool = False,
) -> Bottleneck:
    spec = decoder if size is None else {**decoder, "size": list(size)}
    return Bottleneck(
        encoder,
        make_decoder(**spec),
        FactorisedPrior(len(starting_gains), num_channels),
        num_channels=num_channels,
        num_levels=len(starting_gains),
        kept=kept,
        starting_gains=starting_gains,
        learned_gains=learned_gains,
        learned_scales=learned_scales,
        decoder_spec=spec,
        mixed=mixed,
    )
