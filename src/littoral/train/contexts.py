"""Context tables fitted to a source's symbols: least squares for means and scales, histograms for the tables.

Axes: N frames, C channels, H height, W width, n positions of a part, F what is seen from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from littoral.core.codec_contexts import (
    FRACTION_BITS,
    MAX_CHANNELS,
    MAX_NEAR_CHANNELS,
    MOST,
    ContextTable,
    tables_of,
)
from littoral.core.codec_parts import NEAR, NUM_NEAR, Part, largest_near, near_index, parts_of
from littoral.core.codec_slots import MAX_PAYLOAD_BYTES, split_off
from littoral.core.codec_tables import ChannelPrior, quantise_prior

_ONE = 1 << FRACTION_BITS


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """How context tables are fitted, and where."""

    most_symbols: int = 8192
    """Of a latent of one group: of more, choosing tables would take a device longer than it may."""
    most_channels: int = MAX_NEAR_CHANNELS
    """Likewise: each has weights for all."""
    least_frames: int = 256
    """Of the source, for one group: from fewer, tables of their own for each channel are the safer ones."""
    most_grouped_symbols: int = 1 << 17
    """Of a latent of groups of channels, which are for those too large for one group."""
    least_symbols: int = 2048
    """Of the source in a channel, for groups."""
    largest_group: int = 32
    """Channels. Groups grow: the first four channels are one each, and then a group is at most half as many as come
    before, and a power of two."""
    near_channels: int = 64
    """Groups within the first so many channels look at neighbours; later ones are mostly 0, where these say little."""
    num_bins: int = 12
    """Of the scale."""
    num_fractions: int = 8
    """Of the mean."""
    most_positions: int = 256
    """Up to so many places of a channel each has a bias of its own; beyond, a channel has one."""
    ridge: float = 1e-3
    """Of a neighbour's own variance."""
    place_frames: float = 50.0
    """A place's mean counts as its channel's until it has been seen so often."""
    shared_symbols: float = 20.0
    """A table starts from so many symbols of the level's histogram."""
    most_rest: int = 2048
    """A symbol that is farther from its mean has no slot."""
    tail_mass: float = 1e-5
    """Of the level's histogram, without a slot at each end."""

    def takes_groups(self, channels: int, height: int, width: int) -> bool:
        """Whether a latent is too large for one group of all channels."""
        return channels * height * width > self.most_symbols or channels > self.most_channels

    def fits(self, num_frames: int, channels: int, height: int, width: int, *, grouped: bool) -> bool:
        """Whether context tables of one group, or of groups, are to be fitted to so much."""
        size = channels * height * width
        if grouped:
            enough = num_frames * height * width >= self.least_symbols
            return enough and 0 < size <= self.most_grouped_symbols and channels <= MAX_CHANNELS
        return num_frames >= self.least_frames and size > 0 and not self.takes_groups(channels, height, width)

    def group_ends(self, channels: int) -> list[int]:
        """The channel after each group's last, for groups that grow."""
        ends = [1]
        while ends[-1] < channels:
            half = max(1, ends[-1] // 2)
            ends.append(ends[-1] + min(self.largest_group, 1 << half.bit_length() - 1))
        return [*ends[:-1], channels]


class _Layout(NamedTuple):
    """In which parts a latent is coded, and what has a bias of its own."""

    height: int
    width: int
    group_ends: list[int]
    near_channels: int
    by_place: bool
    """Each place of a channel; else the channel, in each phase where there are several groups."""

    @classmethod
    def of(cls, channels: int, height: int, width: int, options: ContextOptions, *, grouped: bool) -> _Layout:
        if grouped and channels > 1:
            ends = options.group_ends(channels)
            return cls(height, width, ends, max((e for e in ends if e <= options.near_channels), default=0), False)
        return cls(height, width, [channels], channels, height * width <= options.most_positions)

    @property
    def num_groups(self) -> int:
        return len(self.group_ends)

    @property
    def bias_shape(self) -> tuple[int, int]:
        if self.by_place:
            return self.height, self.width
        return (len(NEAR) if self.num_groups > 1 else 1), 1

    def parts(self) -> list[Part]:
        """A channel's one bias is that of the phase with most places, as a rule the last one, so that comes last."""
        parts = parts_of(self.group_ends, self.near_channels, self.height, self.width)
        return parts if self.by_place else sorted(parts, key=lambda part: len(part.ys))


class _Source:
    """A source's symbols, and what each part of them sees of those before it."""

    def __init__(self, symbols_NCHW: NDArray[np.int32], layout: _Layout) -> None:
        self.symbols, self.width = symbols_NCHW, layout.width
        padded = np.pad(symbols_NCHW.clip(-MOST, MOST), ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float32)
        self._values = padded.reshape(*symbols_NCHW.shape[:2], -1)
        self._sums = np.add.reduceat(np.abs(self._values), [0, *layout.group_ends[:-1]], axis=1)

    def near(self, part: Part) -> NDArray[np.float32]:
        """Neighbours in the part's own group, ``(N, n, F)``; none in the first phase."""
        if not part.phase:
            return np.zeros((len(self.symbols), len(part.ys), 0), np.float32)
        found = self._values[:, part.channels][:, :, near_index(part.ys, part.xs, part.phase, self.width)]
        return found.transpose(0, 3, 1, 2).reshape(len(found), len(part.ys), -1)

    def before(self, part: Part) -> NDArray[np.float32]:
        """How much each group before has at the place, ``(N, n, groups)``."""
        inside = (part.ys + 1) * (self.width + 2) + part.xs + 1
        return self._sums[:, : part.group][:, :, inside].transpose(0, 2, 1)

    def own(self, part: Part) -> NDArray[np.float64]:
        """What is to be coded, ``(N, n, C)``."""
        return self.symbols[:, part.channels][:, :, part.ys, part.xs].transpose(0, 2, 1).astype(np.float64)


class _Found:
    """Weights and biases of means, or of scales, part by part."""

    def __init__(self, layout: _Layout) -> None:
        channels, near = layout.group_ends[-1], layout.near_channels
        self._layout = layout
        self.weights = np.zeros((len(NEAR) - 1, near, largest_near(layout.group_ends, near), NUM_NEAR))
        self.of_groups = np.zeros((len(NEAR), channels, layout.num_groups - 1))
        self.biases = np.zeros((channels, *layout.bias_shape))

    def put(self, part: Part, slopes_CF: NDArray[np.float64], bias_nC: NDArray[np.float64]) -> None:
        of, size = part.channels, part.channels.stop - part.channels.start
        num_near = size * NUM_NEAR if part.phase else 0
        if part.phase:
            self.weights[part.phase - 1, of, :size] = slopes_CF[:, :num_near].reshape(size, size, NUM_NEAR)
        self.of_groups[part.phase, of, : slopes_CF.shape[1] - num_near] = slopes_CF[:, num_near:]
        if self._layout.by_place:
            self.biases[of, part.ys, part.xs] = bias_nC.T
        else:
            self.biases[of, part.phase if self._layout.num_groups > 1 else 0, 0] = bias_nC[0]


def fit_contexts(
    symbols_NCHW: NDArray[np.int32], options: ContextOptions = ContextOptions(), *, grouped: bool = False
) -> ContextTable:
    """The context table of one level; its ceiling is the highest there is, and its usual bits are 0.

    Args:
        symbols_NCHW: Of source frames.
        grouped: Channels in groups, where later ones see how much there is of earlier ones at their position.
    """
    _, channels, height, width = symbols_NCHW.shape
    layout = _Layout.of(channels, height, width, options, grouped=grouped)
    source, means, scales = _Source(symbols_NCHW, layout), _Found(layout), _Found(layout)
    for part in layout.parts():
        near, own = source.near(part), source.own(part)
        slopes, bias = _regressed(near, own, layout.by_place, options)
        means.put(part, slopes, bias)
        left = np.abs(own - (near @ slopes.T.astype(np.float32) + bias))
        amounts = np.concatenate([np.abs(near), source.before(part)], axis=2)
        scales.put(part, *_regressed(amounts, left, layout.by_place, options))
    start = ContextTable(
        height=layout.height,
        width=layout.width,
        mean_weights=_whole(means.weights, 15, np.int16),
        scale_weights=_whole(scales.weights, 15, np.int16),
        mean_bias=_whole(means.biases, 30, np.int32),
        scale_bias=_whole(scales.biases, 30, np.int32),
        thresholds=np.zeros(0, np.int32),
        counts=np.full((1, 1, 2), 1 << 23, np.uint32),
        first_value=0,
        max_bytes=MAX_PAYLOAD_BYTES,
        usual_bits=0,
        group_starts=np.array(layout.group_ends[:-1], np.uint32),
        group_weights=_whole(scales.of_groups, 15, np.int16),
    )
    return _counted(start, symbols_NCHW, options)


def _whole(values: NDArray[np.float64], bits: int, dtype: type[np.signedinteger]) -> NDArray[Any]:
    """In steps of `FRACTION_BITS`, cut off so that they fit into so many bits and a sign."""
    return np.rint(values * _ONE).clip(-(1 << bits), (1 << bits) - 1).astype(dtype)


def _regressed(
    seen_NnF: NDArray[np.float32], target_NnC: NDArray[np.float64], by_place: bool, options: ContextOptions
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights ``(C, F)`` and biases ``(n, C)`` of the least squares, all places together, each with its own mean."""
    seen_mean, target_mean = (_place_means(part, by_place, options) for part in (seen_NnF, target_NnC))
    if not seen_NnF.shape[2]:
        return np.zeros((target_NnC.shape[2], 0)), target_mean
    x = (seen_NnF - seen_mean).reshape(-1, seen_NnF.shape[2])
    y = (target_NnC - target_mean).reshape(-1, target_NnC.shape[2])
    square = (x.T @ x).astype(np.float64)
    square[np.diag_indices(len(square))] *= 1 + options.ridge
    square[np.diag_indices(len(square))] += 1.0
    weights = np.asarray(np.linalg.solve(square, x.T.astype(np.float64) @ y).T, np.float64)
    return weights, target_mean - seen_mean @ weights.T


def _place_means(part_NnF: NDArray[np.floating], by_place: bool, options: ContextOptions) -> NDArray[np.float64]:
    overall = part_NnF.mean(axis=(0, 1), dtype=np.float64)
    share = len(part_NnF) / (len(part_NnF) + options.place_frames) if by_place else 0.0
    means = share * part_NnF.mean(axis=0, dtype=np.float64) + (1 - share) * overall
    return np.asarray(means, np.float64)


def _counted(start: ContextTable, symbols_NCHW: NDArray[np.int32], options: ContextOptions) -> ContextTable:
    """The table with thresholds and counts of these symbols."""
    scales, halved = start.predictions(symbols_NCHW)
    shares = np.arange(1, options.num_bins) / options.num_bins
    thresholds = np.quantile(scales, shares).clip(-(1 << 30), 1 << 30).astype(np.int32)
    tables = tables_of(scales, halved, thresholds, options.num_fractions)
    rest = symbols_NCHW.reshape(halved.shape) - (halved >> FRACTION_BITS)
    inside = np.abs(rest) <= options.most_rest
    histogram = np.bincount(rest[inside] + options.most_rest, minlength=2 * options.most_rest + 1)
    level = ChannelPrior(
        pmf=histogram.astype(np.float64), first_value=-options.most_rest, escape=max(1.0, float((~inside).sum()))
    ).trimmed(options.tail_mass)
    num_slots = len(level.pmf) + 1
    slots, _, _ = split_off(rest - level.first_value, np.array(num_slots - 1))
    num_tables = options.num_bins * options.num_fractions
    found = np.bincount((tables * num_slots + slots).ravel(), minlength=num_tables * num_slots)
    shared = np.append(level.pmf, level.escape)
    weights = found.reshape(num_tables, num_slots) + options.shared_symbols * shared / shared.sum()
    counts = np.stack([_counts(row) for row in weights])
    return replace(
        start,
        thresholds=thresholds,
        counts=counts.reshape(options.num_bins, options.num_fractions, num_slots),
        first_value=level.first_value,
    )


def _counts(weights: NDArray[np.float64]) -> NDArray[np.uint32]:
    return quantise_prior(ChannelPrior(pmf=weights[:-1], first_value=0, escape=float(weights[-1])))
