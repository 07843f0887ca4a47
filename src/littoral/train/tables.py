"""Integer tables for a split: what the source's symbols show, mixed with what training learned of them.

Axes: N frames, C channels, H height, W width, L levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from littoral.bundle.split import SplitCodec, to_symbols
from littoral.core.arrays import FloatArray
from littoral.core.codec import HEADER_BYTES, MIN_PAYLOAD_BYTES, Symbols, predict_bytes, rate_bits
from littoral.core.codec_contexts import ContextTable
from littoral.core.codec_slots import MAX_PAYLOAD_BYTES
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable
from littoral.models.bottleneck import Bottleneck
from littoral.train.contexts import ContextOptions, fit_contexts

_MOST_HELD = 256
Kind = Literal["static", "contexts", "groups"]
"""Of tables: one per channel, or chosen by what is known of neighbours, of all channels or of groups of them."""


@dataclass(frozen=True, kw_only=True)
class DeadzoneOptions:
    """How `littoral.train.deadzones` chooses each level's deadzone."""

    sizes: tuple[float, ...] = (0.1, 0.2)
    """What is tried, at least two; what is taken lies between none and the largest."""
    least_saving: float = 0.01
    """One is taken if it spares this share of the level's bytes beyond what the loss by it is worth."""
    most_frames: int = 2048
    most_symbols: int = 1 << 21
    """Of large latents fewer frames are looked at,"""
    least_frames: int = 32
    """but so many."""

    def __post_init__(self) -> None:
        if len(set(self.sizes)) < 2 or not all(0 < size < 0.5 for size in self.sizes):
            raise ValueError(f"sizes of deadzones are {self.sizes}, expected two or more above 0 and below 0.5")
        if not (0 <= self.least_saving < 1 and 1 <= self.least_frames <= self.most_frames):
            raise ValueError(
                "0 <= least_saving < 1 and 1 <= least_frames <= most_frames must hold, got "
                f"{self.least_saving}, {self.least_frames} and {self.most_frames}"
            )


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How tables are made."""

    prior_share: float = 0.01
    """The weight of the learned prior beside the histogram: it fills in values that the source did not show. Infinite:
    the prior alone, such as `littoral.models.entropy.UniformPrior`'s code of fixed length."""
    prior_symbols: float = 100.0
    """The least weight of the learned prior, in symbols."""
    most_values: int = 4096
    """The most values of a channel with a slot of their own; those farthest from the median are left to the escape."""
    ceiling_quantile: float = 0.999
    ceiling_factor: float = 2.0
    """A level's ceiling is so many times this quantile of the source's payloads, and the header."""
    contexts: ContextOptions | None = field(default_factory=ContextOptions)
    """How tables that look at neighbours are fitted; None for none."""
    least_saving: float = 0.02
    """They are taken if they spare this share of the bits of the source's last quarter, fitted to the rest."""
    deadzones: tuple[float, ...] | None = None
    """Per level, of the rounding (`littoral.bundle.split.to_symbols`); none where it is empty. None: they are chosen,
    if there is a tail to choose by (`littoral.train.deadzones.fit_codec`)."""
    choice: DeadzoneOptions = field(default_factory=DeadzoneOptions)
    """How, where they are."""

    def __post_init__(self) -> None:
        if not (self.prior_share >= 0 and self.prior_symbols > 0 and self.most_values >= 2):
            raise ValueError(
                "prior_share >= 0, prior_symbols > 0 and most_values >= 2 must hold, got "
                f"{self.prior_share}, {self.prior_symbols} and {self.most_values}"
            )
        if not (0 < self.ceiling_quantile <= 1 and 1 <= self.ceiling_factor < math.inf):
            raise ValueError(
                "ceiling_quantile within (0, 1] and ceiling_factor >= 1 must hold, got "
                f"{self.ceiling_quantile} and {self.ceiling_factor}"
            )


def build_codec(bottleneck: Bottleneck, latents_NCHW: FloatArray, options: TableOptions = TableOptions()) -> SplitCodec:
    """Gains and tables of a trained bottleneck, with the deadzones that the options say; none where they say to choose.

    Args:
        latents_NCHW: float32, what its encoder makes of source frames; at least one.
    Raises:
        ModelOutputError: a latent is not finite.
        ValueError: the numbers do not fit each other or the codec's limits.
    """
    gains_LC = np.ascontiguousarray(bottleneck.gains.detach().cpu().float().numpy())
    deadzones = options.deadzones or (0.0,) * bottleneck.num_levels
    symbols = [
        to_symbols(latents_NCHW[:, :kept], gains_LC[level, :kept], deadzone)
        for level, (kept, deadzone) in enumerate(zip(bottleneck.kept, deadzones, strict=True))
    ]
    priors = [bottleneck.channel_priors(level) for level in range(bottleneck.num_levels)]
    height, width = latents_NCHW.shape[2:]
    tables = build_tables([list(of_level) for of_level in symbols], priors, height=height, width=width, options=options)
    return SplitCodec(tables=tables, gains=gains_LC, deadzones=options.deadzones or ())


def build_tables(
    symbols: Sequence[Sequence[Symbols]],
    priors: Sequence[Sequence[ChannelPrior]],
    *,
    height: int,
    width: int,
    options: TableOptions = TableOptions(),
) -> CodecTables:
    """The tables of one split point.

    Args:
        symbols: For each level, the symbols of each source frame, ``(C, height, width)``; at least one frame.
        priors: For each level, the learned prior of each of its C channels.
    Returns:
        Tables for each channel in which every value that was seen has a slot, but for those beyond ``most_values``; or
        `ContextTable`s where they spare enough. Each level's ceiling lets all but extraordinary frames pass.
    Raises:
        ValueError: the numbers do not fit each other or the codec's limits.
    """
    if len(symbols) != len(priors):
        raise ValueError(f"{len(symbols)} levels of symbols came with {len(priors)} of priors; give both of each level")
    stacked = [np.stack(frames) for frames in symbols]
    if any(frames.shape[2:] != (height, width) for frames in stacked):
        raise ValueError(f"symbols of {[frames.shape[2:] for frames in stacked]} came for a grid of {height} x {width}")
    tables = tables_of_kind(best_kind(stacked, priors, options), stacked, priors, options)
    levels: list[FrequencyTable | ContextTable] = []
    for number, frames in enumerate(stacked):
        bits = [rate_bits(frame, tables, level=number) for frame in frames]
        level, ceiling = tables.level(number), _ceiling(bits, options)
        if isinstance(level, ContextTable):
            levels.append(replace(level, max_bytes=ceiling, usual_bits=round(float(np.mean(bits)))))
        else:
            levels.append(replace(level, max_bytes=ceiling))
    return replace(tables, levels=tuple(levels))


def tables_of_kind(
    kind: Kind, stacked: Sequence[Symbols], priors: Sequence[Sequence[ChannelPrior]], options: TableOptions
) -> CodecTables:
    """Tables without ceilings; of each level the symbols ``(N, C, H, W)`` and the channels' priors."""
    height, width = stacked[0].shape[2:]
    levels: tuple[FrequencyTable | ContextTable, ...]
    if kind == "static":
        levels = tuple(
            FrequencyTable.from_priors(
                [mixed(frames[:, c], prior, options) for c, prior in enumerate(of_level)], max_bytes=MAX_PAYLOAD_BYTES
            )
            for frames, of_level in zip(stacked, priors, strict=True)
        )
    else:
        assert options.contexts is not None
        levels = tuple(fit_contexts(frames, options.contexts, grouped=kind == "groups") for frames in stacked)
    return CodecTables(height=height, width=width, levels=levels)


def best_kind(stacked: Sequence[Symbols], priors: Sequence[Sequence[ChannelPrior]], options: TableOptions) -> Kind:
    """Contexts, if they spare bits on frames that no table was fitted to.

    Of groups where a level is too large for one: with more parts to code a small latent would take the longer.
    """
    contexts = options.contexts
    if contexts is None:
        return "static"
    grouped = any(contexts.takes_groups(*frames.shape[1:]) for frames in stacked)
    if not all(contexts.fits(*frames.shape, grouped=grouped) for frames in stacked):
        return "static"
    kind: Kind = "groups" if grouped else "contexts"
    seen = [frames[: len(frames) * 3 // 4] for frames in stacked]
    held = [frames[len(frames) * 3 // 4 :][:_MOST_HELD] for frames in stacked]
    static, chosen = (
        sum(rate_bits(frame, tables, level=n) for n, frames in enumerate(held) for frame in frames)
        for tables in (tables_of_kind(each, seen, priors, options) for each in ("static", kind))
    )
    return kind if chosen <= (1 - options.least_saving) * static else "static"


def mixed(symbols: Symbols, prior: ChannelPrior, options: TableOptions = TableOptions()) -> ChannelPrior:
    """A channel's histogram and its learned prior as one, its tails trimmed as far as nothing was seen in them.

    Args:
        symbols: int32 of any shape, at least one.
    """
    if options.prior_share == math.inf:
        return prior
    values, counts = np.unique(symbols, return_counts=True)
    weight = max(options.prior_share * symbols.size, options.prior_symbols)
    middle = int(values[np.searchsorted(np.cumsum(counts), symbols.size / 2)])
    low, high = middle - options.most_values // 2 + 1, middle + options.most_values // 2
    learned = prior.pmf * (weight / (prior.pmf.sum() + prior.escape))
    escape = weight * prior.escape / (prior.pmf.sum() + prior.escape)
    pmf = np.zeros(high - low + 1)
    for first, amounts in ((values, counts), (prior.first_value + np.arange(len(learned)), learned)):
        inside = (first >= low) & (first <= high)
        np.add.at(pmf, first[inside] - low, amounts[inside])
        escape += float(amounts[~inside].sum())
    # Half of this tail mass is less than the weight of one symbol, so no value that was seen goes.
    return ChannelPrior(pmf=pmf, first_value=low, escape=escape).trimmed(1 / (symbols.size + weight))


def _ceiling(bits: Sequence[float], options: TableOptions) -> int:
    sizes = [predict_bytes(each) for each in bits]
    usual = float(np.quantile(sizes, options.ceiling_quantile, method="higher"))
    return min(MAX_PAYLOAD_BYTES, max(MIN_PAYLOAD_BYTES, math.ceil(options.ceiling_factor * usual) + HEADER_BYTES))
