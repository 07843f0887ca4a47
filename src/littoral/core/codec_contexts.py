"""Tables whose choice hangs on symbols that are known already, for latents in which neighbours tell of each other.

The positions of a latent are coded in three *phases*: those of even row and column, then those of odd row and column,
then the rest. So from the second phase on each position has four neighbours that are known, in all channels: the
diagonal ones in the second phase, in the third those above, left, right and below. From them an integer *mean* and an
integer *scale* of each symbol are worked out, weighted sums and a bias, and these name the table that the symbol is
coded with: the scale by thresholds, and the mean by its fraction; what is coded is the symbol less the whole part.

All numbers are whole ones below 2**53, so float64 holds each sum exactly, in whatever order it is added up: both sides
choose the same tables on any machine.

Source: contexts as in Minnen et al., *Joint Autoregressive and Hierarchical Priors*, NeurIPS 2018; phases as in He et
al., *Checkerboard Context Model*, CVPR 2021. Departures: three phases, linear, whole numbers, fitted and not trained.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.core.codec_slots import MAX_SLOTS, Coded, Escaped, Rows, check_counts, split_off
from littoral.core.rans import PRECISION_BITS, RansStack, ReferenceCoder, SlotCoder
from littoral.core.rans_fast import fast_coder

FRACTION_BITS = 12
"""Means, scales, weights and biases count in units of ``2**-12`` of a symbol's step."""
MOST = 127
"""Symbols count as neighbours no farther from 0 than this."""
MAX_CHANNELS = 256
NEAR = ((), ((-1, -1), (-1, 1), (1, -1), (1, 1)), ((-1, 0), (0, -1), (0, 1), (1, 0)))
"""By phase the neighbours that are looked at, in rows and columns."""
NUM_NEAR = 4
_ONE = 1 << FRACTION_BITS
_TYPES = {
    "mean_weights": np.int16, "scale_weights": np.int16, "mean_bias": np.int32, "scale_bias": np.int32,
    "thresholds": np.int32, "counts": np.uint32,
}  # fmt: skip


def phases_of(height: int, width: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows and columns of the positions of each phase, row by row."""
    y, x = np.mgrid[:height, :width]
    phase = np.where((y | x) % 2 == 0, 0, np.where(y & x & 1 == 1, 1, 2))
    return [np.nonzero(phase == number) for number in range(len(NEAR))]  # type: ignore[misc]


def near_index(ys: NDArray[np.int64], xs: NDArray[np.int64], phase: int, width: int) -> NDArray[np.int64]:
    """``(4, n)``: where the neighbours are in a latent with a border of one, its rows and columns as one axis."""
    return np.array([(ys + 1 + dy) * (width + 2) + xs + 1 + dx for dy, dx in NEAR[phase]], np.int64)


def tables_of(
    scales: NDArray[np.float64], halved: NDArray[np.int64], thresholds: NDArray[np.int32], num_fractions: int
) -> Rows:
    """The table of each symbol, by the bin of its scale and the fraction of its mean."""
    fractions = (halved & (_ONE - 1)) * num_fractions >> FRACTION_BITS
    return np.searchsorted(thresholds, scales, side="right") * num_fractions + fractions


@dataclass(frozen=True, kw_only=True)
class _Phase:
    """What one phase needs, worked out once."""

    at: NDArray[np.int64]
    """Its positions in a row of symbols."""
    inside: NDArray[np.int64]
    """The same with a border of one."""
    near: NDArray[np.int64]
    mean_weights: NDArray[np.float64]
    scale_weights: NDArray[np.float64]
    mean_bias: NDArray[np.float64]
    scale_bias: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ContextTable:
    """One level: how tables are chosen, and their counts.

    Args:
        height: Of the latent.
        width: Likewise.
        mean_weights: int16 ``(2, C, C, 4)``: of the second and the third phase, by channel of the symbol, channel of
            the neighbour, and neighbour in the order of `NEAR`.
        scale_weights: Likewise, of the neighbours' magnitudes.
        mean_bias: int32 ``(C, height, width)`` or ``(C, 1, 1)``.
        scale_bias: Likewise.
        thresholds: int32 ``(B - 1,)``, rising: scales from one on, and below the next, are of one bin.
        counts: uint32 ``(B, F, S)``: by the scale's bin and the mean's fraction those of S slots, the escape's last.
        first_value: Of every table: the lowest value, less the whole part of the mean, that has a slot of its own.
        max_bytes: The ceiling of a payload of this level, on both sides.
        usual_bits: What the symbols of a source frame cost.
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

    def __post_init__(self) -> None:
        for name, dtype in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.dtype.newbyteorder("=") != dtype:
                raise ValueError(f"a context table's {name} must be an array of {np.dtype(dtype)}")
            owned = np.ascontiguousarray(value.astype(dtype))  # native byte order, and not the caller's to change
            owned.flags.writeable = False
            object.__setattr__(self, name, owned)
        channels = self.mean_weights.shape[1] if self.mean_weights.ndim == 4 else 0
        shape = (len(NEAR) - 1, channels, channels, NUM_NEAR)
        if self.mean_weights.shape != shape or self.scale_weights.shape != shape or not 1 <= channels <= MAX_CHANNELS:
            raise ValueError(
                f"a context table's weights are {self.mean_weights.shape} and {self.scale_weights.shape}, expected "
                f"(2, C, C, 4) with 1 to {MAX_CHANNELS} channels"
            )
        biases = ((channels, self.height, self.width), (channels, 1, 1))
        if self.mean_bias.shape not in biases or self.scale_bias.shape not in biases:
            raise ValueError(f"a context table's biases must be {biases[0]} or {biases[1]}")
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

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the fields alone, since an accelerator's models cannot be sent."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @property
    def num_channels(self) -> int:
        return int(self.mean_weights.shape[1])

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
    def _phases(self) -> Sequence[_Phase]:
        channels, shape = self.num_channels, (self.num_channels, self.height, self.width)
        mean_bias, scale_bias = (np.broadcast_to(bias, shape) for bias in (self.mean_bias, self.scale_bias))
        found = []
        for number, (ys, xs) in enumerate(phases_of(self.height, self.width)):
            weights = [
                w[number - 1].reshape(channels, -1) if number else np.zeros((channels, 0))
                for w in (self.mean_weights, self.scale_weights)
            ]
            found.append(
                _Phase(
                    at=ys * self.width + xs,
                    inside=(ys + 1) * (self.width + 2) + xs + 1,
                    near=near_index(ys, xs, number, self.width),
                    mean_weights=weights[0].astype(np.float64),
                    scale_weights=weights[1].astype(np.float64),
                    mean_bias=mean_bias[:, ys, xs].astype(np.float64),
                    scale_bias=scale_bias[:, ys, xs].astype(np.float64),
                )
            )
        return [phase for phase in found if len(phase.at)]

    def _border(self) -> NDArray[np.float64]:
        """A latent with a border of one, nothing known of it."""
        return np.zeros((self.num_channels, (self.height + 2) * (self.width + 2)))

    def _predicted(self, phase: _Phase, known: NDArray[np.float64]) -> tuple[NDArray[np.float64], Rows]:
        """Scale, and mean plus a half, of each channel and position of a phase; of many latents, if there are."""
        mean, scale = phase.mean_bias, phase.scale_bias
        if phase.near.size:
            near = known[..., phase.near]
            near = near.reshape(*near.shape[:-3], -1, len(phase.at))
            mean, scale = mean + phase.mean_weights @ near, scale + phase.scale_weights @ np.abs(near)
        shape = (*known.shape[:-1], len(phase.at))
        return np.broadcast_to(scale, shape), np.broadcast_to(mean.astype(np.int64) + _ONE // 2, shape)

    def predictions(self, symbols_NCHW: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Scale, and mean plus a half, ``(N, C, H * W)``, for fitting: as if every symbol had a slot."""
        border = ((0, 0), (0, 0), (1, 1), (1, 1))
        known = np.pad(symbols_NCHW.clip(-MOST, MOST), border).reshape(*symbols_NCHW.shape[:2], -1).astype(np.float64)
        scales = np.zeros((*known.shape[:2], self.height * self.width))
        halved = np.zeros(scales.shape, np.int64)
        for phase in self._phases:
            scales[..., phase.at], halved[..., phase.at] = self._predicted(phase, known)
        return scales, halved

    def _chosen(self, phase: _Phase, known: NDArray[np.float64]) -> tuple[Rows, Rows]:
        """For each channel and position of a phase its table, and the value of that table's first slot."""
        scale, halved = self._predicted(phase, known)
        tables = tables_of(scale, halved, self.thresholds, self.counts.shape[1])
        return tables, (halved >> FRACTION_BITS) + self.first_value

    def _learn(
        self, known: NDArray[np.float64], phase: _Phase, values: Rows, firsts: Rows, escaped: NDArray[np.bool_]
    ) -> None:
        """A phase's values become neighbours; one without a slot counts as its mean, since it is read last."""
        seen = np.where(escaped, firsts - self.first_value, values)
        known[:, phase.inside] = seen.clip(-MOST, MOST)

    def coded(self, rows: Rows) -> Coded:
        """Symbols as slots; see `Coded`."""
        known, parts = self._border(), []
        for phase in self._phases:
            tables, firsts = self._chosen(phase, known)
            values = rows[:, phase.at]
            slots, escaped, outside = split_off(values - firsts, np.array(self.counts.shape[2] - 1))
            self._learn(known, phase, values, firsts, escaped)
            parts.append((tables.ravel(), slots.ravel(), outside))
        tables, slots, outside = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Coded(tables=tables, slots=slots, outside=outside)

    def bits(self, coded: Coded) -> float:
        """What the slots cost, escapes' values not included."""
        return float(self.slot_bits[coded.tables, coded.slots].sum())

    def push(self, stack: RansStack, coded: Coded, *, use_reference: bool) -> RansStack:
        """The stack with the slots on top."""
        return (self.reference_coder if use_reference else self.coder).push_each(stack, coded.tables, coded.slots)

    def pop(self, stack: RansStack, num_positions: int, *, use_reference: bool) -> tuple[Rows, Escaped, RansStack]:
        """The symbols, those that are still to be read, and what is left of the stack.

        Raises:
            PayloadError: the stack is no such stack.
        """
        coder = self.reference_coder if use_reference else self.coder
        known, rows = self._border(), np.zeros((self.num_channels, num_positions), np.int64)
        parts = []
        for phase in self._phases:
            tables, firsts = self._chosen(phase, known)
            flat, stack = coder.pop_each(stack, tables.ravel())
            slots = flat.reshape(tables.shape)
            escaped = slots == self.counts.shape[2] - 1
            rows[:, phase.at] = slots + firsts
            self._learn(known, phase, slots + firsts, firsts, escaped)
            channels, places = np.nonzero(escaped)
            parts.append((channels * rows.shape[1] + phase.at[places], firsts[escaped]))
        at, firsts = (np.concatenate(part) for part in zip(*parts, strict=True))
        return rows, Escaped(at=at, firsts=firsts, lasts=firsts + self.counts.shape[2] - 2), stack

    def digest_parts(self) -> Iterable[bytes]:
        """All that decides what a payload means, in order, little-endian."""
        bins, num_fractions, num_slots = self.counts.shape
        yield struct.pack("<7I", self.num_channels, self.max_bytes, self.usual_bits, bins, num_fractions, num_slots,
                          self.first_value & 0xFFFFFFFF)  # fmt: skip
        yield struct.pack("<4I", *self.mean_bias.shape[1:], *self.scale_bias.shape[1:])
        for name, dtype in _TYPES.items():
            yield getattr(self, name).astype(np.dtype(dtype).newbyteorder("<")).tobytes()

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Named tensors, by `_TYPES` and three numbers."""
        numbers = {"first_value": np.int32, "max_bytes": np.uint32, "usual_bits": np.uint32}
        return {name: getattr(self, name) for name in _TYPES} | {
            name: np.array([getattr(self, name)], dtype) for name, dtype in numbers.items()
        }
