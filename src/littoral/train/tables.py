"""Integer tables for a split: what the source's symbols show, mixed with what training learned of them.

Axes: N frames, C channels, H height, W width, L levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from littoral.bundle.split import SplitCodec, to_symbols
from littoral.core.arrays import FloatArray
from littoral.core.codec import HEADER_BYTES, MIN_PAYLOAD_BYTES, Symbols, predict_bytes, rate_bits
from littoral.core.codec_tables import MAX_PAYLOAD_BYTES, ChannelPrior, CodecTables, FrequencyTable
from littoral.models.bottleneck import Bottleneck


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How tables are made."""

    prior_share: float = 0.01
    """The weight of the learned prior beside the histogram: it fills in values that the source did not show."""
    prior_symbols: float = 100.0
    """The least weight of the learned prior, in symbols."""
    most_values: int = 4096
    """The most values of a channel with a slot of their own; those farthest from the median are left to the escape."""
    ceiling_quantile: float = 0.999
    ceiling_factor: float = 2.0
    """A level's ceiling is so many times this quantile of the source's payloads, and the header."""

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
    """Gains and tables of a trained bottleneck.

    Args:
        latents_NCHW: float32, what its encoder makes of source frames; at least one.
    Raises:
        ModelOutputError: a latent is not finite.
        ValueError: the numbers do not fit each other or the codec's limits.
    """
    gains_LC = np.ascontiguousarray(bottleneck.gains.detach().cpu().float().numpy())
    symbols = [to_symbols(latents_NCHW[:, :kept], gains_LC[level, :kept]) for level, kept in enumerate(bottleneck.kept)]
    priors = [bottleneck.channel_priors(level) for level in range(bottleneck.num_levels)]
    height, width = latents_NCHW.shape[2:]
    tables = build_tables([list(of_level) for of_level in symbols], priors, height=height, width=width, options=options)
    return SplitCodec(tables=tables, gains=gains_LC)


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
        Tables in which every value that was seen has a slot, but for those beyond ``most_values``; each level's
        ceiling lets all but extraordinary frames pass.
    Raises:
        ValueError: the numbers do not fit each other or the codec's limits.
    """
    levels = tuple(
        FrequencyTable.from_priors(
            [mixed(np.stack(frames)[:, c], prior, options) for c, prior in enumerate(of_level)],
            max_bytes=MAX_PAYLOAD_BYTES,
        )
        for frames, of_level in zip(symbols, priors, strict=True)
    )
    tables = CodecTables(height=height, width=width, levels=levels)
    ceilings = [_ceiling(frames, tables, level, options) for level, frames in enumerate(symbols)]
    return replace(tables, levels=tuple(replace(t, max_bytes=most) for t, most in zip(levels, ceilings, strict=True)))


def mixed(symbols: Symbols, prior: ChannelPrior, options: TableOptions = TableOptions()) -> ChannelPrior:
    """A channel's histogram and its learned prior as one, its tails trimmed as far as nothing was seen in them.

    Args:
        symbols: int32 of any shape, at least one.
    """
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


def _ceiling(frames: Sequence[Symbols], tables: CodecTables, level: int, options: TableOptions) -> int:
    sizes = [predict_bytes(rate_bits(symbols, tables, level=level)) for symbols in frames]
    usual = float(np.quantile(sizes, options.ceiling_quantile, method="higher"))
    return min(MAX_PAYLOAD_BYTES, max(MIN_PAYLOAD_BYTES, math.ceil(options.ceiling_factor * usual) + HEADER_BYTES))
