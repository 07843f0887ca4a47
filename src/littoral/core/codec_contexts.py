"""Tables whose choice hangs on symbols that are known already, for latents in which neighbours tell of each other.

The channels of a latent are coded *group* by group; often there is one group of all. A group's positions are coded in
three *phases*: those of even row and column, then those of odd row and column, then the rest. So from the second phase
on each position has four neighbours that are known, in all channels of the group: the diagonal ones in the second
phase, in the third those above, left, right and below. From them an integer *mean* and an integer *scale* of each
symbol are worked out, weighted sums and a bias; what the groups before have at the same position, one sum of magnitudes
each, goes into the scale as well. Later groups may do without neighbours: they have one phase. Mean and scale name the
table that the symbol is coded with: the scale by thresholds, and the mean by its fraction; what is coded is the symbol
less the whole part.

All numbers are whole ones below 2**53, so float64 holds each sum exactly, in whatever order it is added up: both sides
choose the same tables on any machine.

Source: contexts as in Minnen et al., *Joint Autoregressive and Hierarchical Priors*, NeurIPS 2018; phases as in He et
al., *Checkerboard Context Model*, CVPR 2021; groups of channels as in He et al., *ELIC*, CVPR 2022. Departures: three
phases, linear, whole numbers, fitted and not trained; of the groups before, their magnitudes alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from littoral.core.codec_parts import NEAR, NUM_NEAR, Part, largest_near, near_index, parts_of
from littoral.core.codec_slots import MAX_SLOTS, Coded, Escaped, Rows, check_counts, split_off
from littoral.core.rans import PRECISION_BITS, RansStack, ReferenceCoder, SlotCoder
from littoral.core.rans_fast import fast_coder

FRACTION_BITS = 12
"""Means, scales, weights and biases count in units of ``2**-12`` of a symbol's step."""
MOST = 127
"""Symbols count as neighbours no farther from 0 than this."""
MAX_CHANNELS = 1024
MAX_NEAR_CHANNELS = 256
"""So many channels at most look at neighbours: each has weights for all of its group."""
MAX_GROUPS = 64
"""Each is some calls of NumPy, for whoever encodes and whoever decodes."""
_ONE = 1 << FRACTION_BITS
_TYPES = {
    "mean_weights": np.int16, "scale_weights": np.int16, "mean_bias": np.int32, "scale_bias": np.int32,
    "thresholds": np.int32, "counts": np.uint32,
}  # fmt: skip
_GROUP_TYPES = {"group_starts": np.uint32, "group_weights": np.int16}
"""Of what there is only where there is more than one group."""


def tables_of(
    scales: NDArray[np.float64], halved: NDArray[np.int64], thresholds: NDArray[np.int32], num_fractions: int
) -> Rows:
    """The table of each symbol, by the bin of its scale and the fraction of its mean."""
    fractions = (halved & (_ONE - 1)) * num_fractions >> FRACTION_BITS
    return np.searchsorted(thresholds, scales, side="right") * num_fractions + fractions


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What one part needs, worked out once."""

    group: int
    channels: slice
    at: NDArray[np.int64]
    """Its positions in a row of symbols."""
    inside: NDArray[np.int64]
    """The same with a border of one."""
    near: NDArray[np.int64]
    mean_weights: NDArray[np.float64]
    scale_weights: NDArray[np.float64]
    group_weights: NDArray[np.float64]
    mean_bias: NDArray[np.float64]
    scale_bias: NDArray[np.float64]


class _Known(NamedTuple):
    """What is known of a latent, or of many, with a border of one, rows and columns as one axis."""

    values: NDArray[np.float64]
    """Of each channel."""
    sums: NDArray[np.float64]
    """Of each group the sum of its magnitudes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ContextTable:
    """One level: how tables are chosen, and their counts.

    Args:
        height: Of the latent.
        width: Likewise.
        mean_weights: int16 ``(2, K, M, 4)``: of the second and the third phase, by channel of the symbol, channel of
            the neighbour within the group, and neighbour in the order of `NEAR`. The groups of the first K channels
            look at neighbours, and M is the size of the largest of these; with one group both are C.
        scale_weights: Likewise, of the neighbours' magnitudes.
        mean_bias: int32 ``(C, height, width)`` or ``(C, 1, 1)``; with more groups than one ``(C, 3, 1)``, by phase.
        scale_bias: Likewise.
        thresholds: int32 ``(B - 1,)``, rising: scales from one on, and below the next, are of one bin.
        counts: uint32 ``(B, F, S)``: by the scale's bin and the mean's fraction those of S slots, the escape's last.
        first_value: Of every table: the lowest value, less the whole part of the mean, that has a slot of its own.
        max_bytes: The ceiling of a payload of this level, on both sides.
        usual_bits: What the symbols of a source frame cost.
        group_starts: uint32 ``(G - 1,)``, rising: the first channel of each group but the first.
        group_weights: int16 ``(3, C, G - 1)``: by phase and channel, of the magnitudes of the groups before its own.
    Raises:
        ValueError: the arrays contradict each other or the limits.
    """

    height: int
    width: int
    mean_weights: NDArray[np.int16]
    scale_weights: NDArray[np.int16]
    mean_bias: NDArray[np.int32]
    scale_bias: NDArray[np.int32]
    thresholds: NDArray[np.int32]
    counts: NDArray[np.uint32]
    first_value: int
    max_bytes: int
    usual_bits: int
    group_starts: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    group_weights: NDArray[np.int16] = field(default_factory=lambda: np.zeros((len(NEAR), 0, 0), np.int16))

    def __post_init__(self) -> None:
        for name, dtype in (_TYPES | _GROUP_TYPES).items():
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.dtype.newbyteorder("=") != dtype:
                raise ValueError(f"a context table's {name} must be an array of {np.dtype(dtype)}")
            owned = np.array(value, dtype, order="C")  # native byte order, and not the caller's to change
            owned.flags.writeable = False
            object.__setattr__(self, name, owned)
        self._check_groups()
        if self.thresholds.ndim != 1 or (np.diff(self.thresholds.astype(np.int64)) < 0).any():
            raise ValueError("a context table's thresholds must be a vector that does not fall")
        shape_ok = self.counts.ndim == 3 and len(self.counts) == len(self.thresholds) + 1
        if not shape_ok or not 1 <= self.counts.shape[1] <= _ONE or self.counts.shape[2] < 2:
            raise ValueError(
                f"a context table's counts are {self.counts.shape} for {len(self.thresholds)} thresholds, expected "
                "(bins, fractions, slots), one bin more, and 2 slots or more"
            )
        if self.counts.size > MAX_SLOTS:
            raise ValueError(f"a context table has {self.counts.size} slots, at most {MAX_SLOTS} are taken")
        check_counts(self.rows, self.max_bytes)
        if type(self.first_value) is not int or not -MAX_SLOTS <= self.first_value <= MAX_SLOTS:
            raise ValueError(f"a context table's first value is {self.first_value!r}, expected {MAX_SLOTS} at most")
        if type(self.usual_bits) is not int or not 0 <= self.usual_bits < 1 << 32:
            raise ValueError(f"a context table's usual_bits is {self.usual_bits!r}, expected a uint32")

    def _check_groups(self) -> None:
        """Raises ValueError unless weights and biases are of these groups."""
        channels, weights = len(self.mean_bias) if self.mean_bias.ndim == 3 else 0, self.mean_weights.shape
        if not 1 <= channels <= MAX_CHANNELS:
            raise ValueError(f"a context table's mean_bias is of {channels} channels, expected 1 to {MAX_CHANNELS}")
        ends = [*np.atleast_1d(self.group_starts).ravel().tolist(), channels]
        if self.group_starts.ndim != 1 or sorted({0, *ends}) != [0, *ends] or len(ends) > MAX_GROUPS:
            raise ValueError(
                f"a context table's groups start at {self.group_starts.tolist()}, expected less than {MAX_GROUPS} "
                f"rising numbers above 0 and below the number of channels, {channels}"
            )
        near = weights[1] if len(weights) == 4 else 0
        if (
            weights != (len(NEAR) - 1, near, largest_near(ends, near), NUM_NEAR)
            or self.scale_weights.shape != weights
            or near not in (ends if len(ends) == 1 else [0, *ends])
            or near > MAX_NEAR_CHANNELS
        ):
            raise ValueError(
                f"a context table's weights are {weights} and {self.scale_weights.shape}, expected (2, K, M, 4) where "
                f"the first K channels, {MAX_NEAR_CHANNELS} at most, are whole groups, M the size of the largest of "
                f"them; groups end at {ends}"
            )
        if len(ends) == 1 and self.group_weights.shape == (len(NEAR), 0, 0):  # as it is where nobody gave it
            object.__setattr__(self, "group_weights", np.zeros((len(NEAR), channels, 0), np.int16))
        if self.group_weights.shape != (len(NEAR), channels, len(ends) - 1):
            raise ValueError(
                f"a context table's group_weights are {self.group_weights.shape}, expected "
                f"{(len(NEAR), channels, len(ends) - 1)}"
            )
        biases = ((channels, self.height, self.width), (channels, 1, 1))
        if len(ends) > 1:
            biases = ((channels, len(NEAR), 1),) * 2
        if self.mean_bias.shape not in biases or self.scale_bias.shape not in biases:
            raise ValueError(f"a context table's biases must be {biases[0]} or {biases[1]}")

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the fields alone, since an accelerator's models cannot be sent."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @property
    def num_channels(self) -> int:
        return len(self.mean_bias)

    @property
    def group_ends(self) -> list[int]:
        """The channel after each group's last."""
        return [*self.group_starts.tolist(), self.num_channels]

    @property
    def rows(self) -> list[NDArray[np.uint32]]:
        """Each table's counts."""
        return list(self.counts.reshape(-1, self.counts.shape[2]))

    @cached_property
    def slot_bits(self) -> NDArray[np.float64]:
        """What each of the counts' slots costs, ``(tables, slots)``."""
        return PRECISION_BITS - np.log2(self.counts.reshape(-1, self.counts.shape[2]))

    @property
    def entropy_bits(self) -> float:
        """What a position costs, on average over source frames."""
        return self.usual_bits / (self.height * self.width)

    @cached_property
    def reference_coder(self) -> SlotCoder:
        return ReferenceCoder(self.rows)

    @cached_property
    def coder(self) -> SlotCoder:
        """The accelerator where it is installed, else the reference."""
        return fast_coder(self.rows) or self.reference_coder

    @cached_property
    def _steps(self) -> Sequence[_Step]:
        weights = [w.astype(np.float64) for w in (self.mean_weights, self.scale_weights)]
        found = []
        for part in parts_of(self.group_ends, self.mean_weights.shape[1], self.height, self.width):
            size, channels, phase = part.channels.stop - part.channels.start, part.channels, part.phase
            near = [w[phase - 1, channels, :size].reshape(size, -1) if phase else np.zeros((size, 0)) for w in weights]
            found.append(
                _Step(
                    group=part.group,
                    channels=channels,
                    at=part.ys * self.width + part.xs,
                    inside=(part.ys + 1) * (self.width + 2) + part.xs + 1,
                    near=near_index(part.ys, part.xs, phase, self.width),
                    mean_weights=near[0],
                    scale_weights=near[1],
                    group_weights=self.group_weights[phase, channels, : part.group].astype(np.float64),
                    mean_bias=self._bias(self.mean_bias, part),
                    scale_bias=self._bias(self.scale_bias, part),
                )
            )
        return found

    def _bias(self, bias: NDArray[np.int32], part: Part) -> NDArray[np.float64]:
        own = bias[part.channels].astype(np.float64)
        if len(self.group_starts):
            return own[:, part.phase]
        return np.broadcast_to(own, (len(own), self.height, self.width))[:, part.ys, part.xs]

    def _nothing_known(self) -> _Known:
        places = (self.height + 2) * (self.width + 2)
        return _Known(np.zeros((self.num_channels, places)), np.zeros((len(self.group_ends), places)))

    def _predicted(self, step: _Step, known: _Known) -> tuple[NDArray[np.float64], Rows]:
        """Scale, and mean plus a half, of each channel and position of a part; of many latents, if there are."""
        mean, scale = step.mean_bias, step.scale_bias
        if step.near.size:
            near = known.values[..., step.channels, :][..., step.near]
            near = near.reshape(*near.shape[:-3], -1, len(step.at))
            mean, scale = mean + step.mean_weights @ near, scale + step.scale_weights @ np.abs(near)
        if step.group:
            scale = scale + step.group_weights @ known.sums[..., : step.group, :][..., step.inside]
        shape = (*known.values.shape[:-2], len(step.mean_bias), len(step.at))
        return np.broadcast_to(scale, shape), np.broadcast_to(mean.astype(np.int64) + _ONE // 2, shape)

    def predictions(self, symbols_NCHW: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Scale, and mean plus a half, ``(N, C, H * W)``, for fitting: as if every symbol had a slot."""
        border = ((0, 0), (0, 0), (1, 1), (1, 1))
        values = np.pad(symbols_NCHW.clip(-MOST, MOST), border).reshape(*symbols_NCHW.shape[:2], -1).astype(np.float64)
        sums = np.add.reduceat(np.abs(values), [0, *self.group_ends[:-1]], axis=1)
        scales = np.zeros((*values.shape[:2], self.height * self.width))
        halved = np.zeros(scales.shape, np.int64)
        for step in self._steps:
            found = self._predicted(step, _Known(values, sums))
            for into, part in zip((scales, halved), found, strict=True):
                into[:, step.channels][..., step.at] = part
        return scales, halved

    def _chosen(self, step: _Step, known: _Known) -> tuple[Rows, Rows]:
        """For each channel and position of a part its table, and the value of that table's first slot."""
        scale, halved = self._predicted(step, known)
        tables = tables_of(scale, halved, self.thresholds, self.counts.shape[1])
        return tables, (halved >> FRACTION_BITS) + self.first_value

    def _learn(self, known: _Known, step: _Step, values: Rows, firsts: Rows, escaped: NDArray[np.bool_]) -> None:
        """A part's values become known; one without a slot counts as its mean, since it is read last."""
        seen = np.where(escaped, firsts - self.first_value, values).clip(-MOST, MOST)
        known.values[step.channels, step.inside] = seen
        if step.group < len(self.group_starts):  # of the last group nobody asks
            known.sums[step.group, step.inside] = np.abs(seen).sum(axis=0)

    def coded(self, rows: Rows) -> Coded:
        """Symbols as slots; see `Coded`."""
        known, parts = self._nothing_known(), []
        for step in self._steps:
            tables, firsts = self._chosen(step, known)
            values = rows[step.channels][:, step.at]
            slots, escaped, outside = split_off(values - firsts, np.array(self.counts.shape[2] - 1))
            self._learn(known, step, values, firsts, escaped)
            parts.append((tables.ravel(), slots.reshape(-1, 1), outside))
        tables, slots, outside = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Coded(tables=tables, slots=slots, outside=outside)

    def bits(self, coded: Coded) -> float:
        """What the slots cost, escapes' values not included."""
        return float(self.slot_bits[coded.tables, coded.slots[:, 0]].sum())

    def push(self, stack: RansStack, coded: Coded, *, use_reference: bool) -> RansStack:
        """The stack with the slots on top."""
        return (self.reference_coder if use_reference else self.coder).push(stack, coded.tables, coded.slots)

    def pop(self, stack: RansStack, num_positions: int, *, use_reference: bool) -> tuple[Rows, Escaped, RansStack]:
        """The symbols, those that are still to be read, and what is left of the stack.

        Raises:
            PayloadError: the stack is no such stack.
        """
        coder = self.reference_coder if use_reference else self.coder
        known, rows = self._nothing_known(), np.zeros((self.num_channels, num_positions), np.int64)
        parts = []
        for step in self._steps:
            tables, firsts = self._chosen(step, known)
            flat, stack = coder.pop(stack, tables.ravel(), 1)
            slots = flat.reshape(tables.shape)
            escaped = slots == self.counts.shape[2] - 1
            rows[step.channels, step.at] = slots + firsts
            self._learn(known, step, slots + firsts, firsts, escaped)
            channels, places = np.nonzero(escaped)
            at = (channels + step.channels.start) * num_positions + step.at[places]
            parts.append((at, firsts[escaped]))
        at, firsts = (np.concatenate(part) for part in zip(*parts, strict=True))
        return rows, Escaped(at=at, firsts=firsts, lasts=firsts + self.counts.shape[2] - 2), stack

    def digest_parts(self) -> Iterable[bytes]:
        """All that decides what a payload means, in order, little-endian."""
        bins, num_fractions, num_slots = self.counts.shape
        yield struct.pack("<7I", self.num_channels, self.max_bytes, self.usual_bits, bins, num_fractions, num_slots,
                          self.first_value & 0xFFFFFFFF)  # fmt: skip
        yield struct.pack("<4I", *self.mean_bias.shape[1:], *self.scale_bias.shape[1:])
        yield from self._bytes_of(_TYPES)

    def group_digest_parts(self) -> Iterable[bytes]:
        """The same of the groups, for tables of which a level has more than one."""
        yield struct.pack("<3I", len(self.group_starts), *self.mean_weights.shape[1:3])
        yield from self._bytes_of(_GROUP_TYPES)

    def _bytes_of(self, names: Iterable[str]) -> Iterable[bytes]:
        for name in names:
            value: NDArray[Any] = getattr(self, name)
            yield value.astype(value.dtype.newbyteorder("<")).tobytes()

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Named tensors: `_TYPES`, where there are groups `_GROUP_TYPES`, and three numbers."""
        numbers = {"first_value": np.int32, "max_bytes": np.uint32, "usual_bits": np.uint32}
        names = [*_TYPES, *(_GROUP_TYPES if len(self.group_starts) else ())]
        return {name: getattr(self, name) for name in names} | {
            name: np.array([getattr(self, name)], dtype) for name, dtype in numbers.items()
        }
