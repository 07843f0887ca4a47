"""Context tables fitted to a source's symbols: least squares for means and scales, histograms for the tables.

Axes: N frames, C channels, H height, W width, n positions of a part, F what is seen from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from littoral.core.codec_parts import NEAR, NUM_NEAR, largest_near, near_index, parts_of
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


def fit_contexts(
    symbols_NCHW: NDArray[np.int32], options: ContextOptions = ContextOptions(), *, grouped: bool = False
) -> ContextTable:
    """The context table of one level; its ceiling is the highest there is, and its usual bits are 0.

    Args:
        symbols_NCHW: Of source frames.
        grouped: Channels in groups, where later ones see how much there is of earlier ones at their position.
    """
    num, channels, height, width = symbols_NCHW.shape
    values = np.pad(symbols_NCHW.clip(-MOST, MOST), ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float32)
    values = values.reshape(num, channels, -1)
    ends, near_channels = [channels], channels
    if grouped and channels > 1:
        ends = options.group_ends(channels)
        near_channels = max((end for end in ends if end <= options.near_channels), default=0)
    several = len(ends) > 1
    by_place = not several and height * width <= options.most_positions
    weights = np.zeros((2, len(NEAR) - 1, near_channels, largest_near(ends, near_channels), NUM_NEAR))
    group_weights = np.zeros((len(NEAR), channels, len(ends) - 1))
    biases = np.zeros((2, channels, *((height, width) if by_place else (len(NEAR) if several else 1, 1))))
    sums = np.add.reduceat(np.abs(values), [0, *ends[:-1]], axis=1)
    parts = parts_of(ends, near_channels, height, width)
    if not by_place:  # where a channel has one bias, it is that of the phase with most places, as a rule the last one
        parts = sorted(parts, key=lambda part: len(part.ys))
    for group, of, phase, ys, xs in parts:
        size, inside = of.stop - of.start, (ys + 1) * (width + 2) + xs + 1
        near = np.zeros((num, len(ys), 0), np.float32)
        if phase:
            found = values[:, of][:, :, near_index(ys, xs, phase, width)]
            near = found.transpose(0, 3, 1, 2).reshape(num, len(ys), -1)
        before = sums[:, :group][:, :, inside].transpose(0, 2, 1)
        target: NDArray[np.float64] = symbols_NCHW[:, of][:, :, ys, xs].transpose(0, 2, 1).astype(np.float64)  # N, n, C
        for which, seen in enumerate((near, np.concatenate([np.abs(near), before], axis=2))):
            slopes, bias = _regressed(seen, target, by_place, options)
            if phase:
                weights[which, phase - 1, of, :size] = slopes[:, : size * NUM_NEAR].reshape(size, size, NUM_NEAR)
            if by_place:
                biases[which][of, ys, xs] = bias.T
            else:
                biases[which][of, phase if several else 0, 0] = bias[0]
            if which:
                group_weights[phase, of, :group] = slopes[:, near.shape[2] :]
            else:
                target = np.abs(target - (seen @ slopes.T.astype(np.float32) + bias))
    whole = [np.rint(part * _ONE) for part in (weights[0], weights[1], group_weights, biases[0], biases[1])]
    mean_weights, scale_weights, of_groups = (w.clip(-(1 << 15), (1 << 15) - 1).astype(np.int16) for w in whole[:3])
    mean_bias, scale_bias = (b.clip(-(1 << 30), 1 << 30).astype(np.int32) for b in whole[3:])
    blank = np.full((1, 1, 2), 1 << 23, np.uint32)
    start = ContextTable(
        height=height, width=width, mean_weights=mean_weights, scale_weights=scale_weights, mean_bias=mean_bias,
        scale_bias=scale_bias, thresholds=np.zeros(0, np.int32), counts=blank, first_value=0,
        max_bytes=MAX_PAYLOAD_BYTES, usual_bits=0, group_starts=np.array(ends[:-1], np.uint32),
        group_weights=of_groups,
    )  # fmt: skip
    return _counted(start, symbols_NCHW, options)


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
