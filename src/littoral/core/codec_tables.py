"""The integer frequencies that payloads are coded with: built once at export, shipped, hashed, never computed twice.

A *level* is one rate of a split point's model. Its `FrequencyTable` has for each channel C a range of values with a
slot each, and one last slot, the *escape*, for whatever lies outside. A slot's count is at least 1, and a channel's
counts add up to 2**24, so every int32 can be coded, at a price. `CodecTables` holds all levels and the latent's height
and width: the shape of what a payload decodes to is the tables', and a payload cannot ask for another.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.core.codec_contexts import ContextTable
from littoral.core.codec_slots import MAX_SLOTS, Coded, Escaped, Rows, check_counts, split_off
from littoral.core.rans import PRECISION_BITS, TOTAL, RansStack, ReferenceCoder, SlotCoder
from littoral.core.rans_fast import fast_coder

MAX_LEVELS = 16
MAX_SYMBOLS = 1 << 20
"""Of one payload; 4 MiB as int32."""
_INT32 = np.iinfo(np.int32)
_STATIC, _CONTEXTS, _GROUPS = (b"littoral/codec-tables/%d\0" % number for number in (1, 2, 3))
"""What a digest begins with: tables that hang on no contexts, on contexts, and on contexts of groups of channels."""
NAME_BYTES = 2
_STATIC_ARRAYS = ("first_values", "num_slots", "counts")
_CONTEXT_NUMBERS = ("first_value", "max_bytes", "usual_bits")
_GROUP_ARRAYS = ("group_starts", "group_weights")
_CONTEXT_ARRAYS = ("mean_weights", "scale_weights", "mean_bias", "scale_bias", "thresholds", "counts")


@dataclass(frozen=True, kw_only=True)
class ChannelPrior:
    """What an exporter knows of a channel: ``pmf[i]`` is the weight of the value ``first_value + i``.

    Weights need not add up to 1, so a histogram will do; ``escape`` is the weight of all other values together.
    """

    pmf: NDArray[np.float64]
    first_value: int
    escape: float = 0.0

    def trimmed(self, tail_mass: float) -> ChannelPrior:
        """Without the values at either end that together weigh at most half of ``tail_mass``; the escape gets them.

        Raises:
            ValueError: the weights are no distribution, or the share is not below 1.
        """
        if not 0 <= tail_mass < 1:
            raise ValueError(f"tail_mass is {tail_mass}, expected a share of the whole weight, 0 or more and below 1")
        weights = _normalised(self)
        pmf = weights[:-1]
        low = int(np.searchsorted(np.cumsum(pmf), tail_mass / 2, side="right"))
        high = len(pmf) - int(np.searchsorted(np.cumsum(pmf[::-1]), tail_mass / 2, side="right"))
        if low >= high:  # so little lies within the range that even its mode is in a tail
            low, high = int(pmf.argmax()), int(pmf.argmax()) + 1
        escape = math.fsum([*weights[:low], *weights[high:]])
        return ChannelPrior(pmf=pmf[low:high], first_value=self.first_value + low, escape=escape)


def quantise_prior(prior: ChannelPrior) -> NDArray[np.uint32]:
    """The counts of a channel: 1 for each slot, and the rest of 2**24 by weight, largest remainders first.

    Equal remainders go to the lower slot, sums are exactly rounded: the same weights give the same counts anywhere.

    Returns:
        uint32 ``(values + 1,)`` that add up to 2**24; the last one is the escape's.
    Raises:
        ValueError: no weight is positive, one is negative or not finite, or there are too many.
    """
    weights = _normalised(prior)
    shares = weights * (TOTAL - len(weights))
    counts = np.floor(shares).astype(np.int64)
    left_over = TOTAL - len(weights) - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:left_over]] += 1
    return (counts + 1).astype(np.uint32)


def _normalised(prior: ChannelPrior) -> NDArray[np.float64]:
    """The weights of a channel's values and, last, of its escape, as shares of their sum."""
    pmf = np.asarray(prior.pmf, np.float64)
    if pmf.ndim != 1 or not 1 <= len(pmf) < MAX_SLOTS:
        raise ValueError(f"a pmf has shape {pmf.shape}, expected (values,) with 1 to {MAX_SLOTS - 1} of them")
    weights = np.append(pmf, prior.escape)
    if not (weights >= 0).all() or not 0 < weights.max() < math.inf:
        raise ValueError(
            f"a pmf holds weights from {pmf.min()} to {pmf.max()}, and {prior.escape} for the escape; expected finite "
            "ones, none of them negative, and not all 0"
        )
    weights /= weights.max()  # so that the sum is finite
    return weights / math.fsum(weights)


def _arrays_of(level: int, tensors: Mapping[str, object]) -> tuple[str, ...]:
    """Of a level with contexts."""
    return _CONTEXT_ARRAYS + (_GROUP_ARRAYS if f"level{level}.group_starts" in tensors else ())


def _is(value: object, dtype: type[np.generic]) -> bool:
    """An array of the type, in either byte order."""
    return isinstance(value, np.ndarray) and value.dtype.newbyteorder("=") == dtype


@dataclass(frozen=True, kw_only=True, eq=False)
class FrequencyTable:
    """The counts of one level.

    Args:
        first_values: int32 ``(C,)``, the lowest value of each channel that has a slot of its own.
        num_slots: uint32 ``(C,)``, at least 2 each: the values and the escape.
        counts: uint32 ``(sum of num_slots,)``, channel by channel, the escape's last.
        max_bytes: The ceiling of a payload of this level, on both sides.
    Raises:
        ValueError: the arrays contradict each other or the limits.
    """

    first_values: NDArray[np.int32]
    num_slots: NDArray[np.uint32]
    counts: NDArray[np.uint32]
    max_bytes: int

    def __post_init__(self) -> None:
        for name, dtype in (("first_values", np.int32), ("num_slots", np.uint32), ("counts", np.uint32)):
            value = getattr(self, name)
            if not _is(value, dtype) or value.ndim != 1:
                raise ValueError(f"a frequency table's {name} must be a vector of {np.dtype(dtype)}")
            owned = value.astype(dtype)  # native byte order, and not the caller's to change
            owned.flags.writeable = False
            object.__setattr__(self, name, owned)
        if self.first_values.shape != self.num_slots.shape or self.num_channels > MAX_SYMBOLS:
            raise ValueError(
                f"a frequency table has {len(self.first_values)} first values and {self.num_channels} channels; "
                f"expected as many of both, {MAX_SYMBOLS} at most"
            )
        if (self.num_slots < 2).any() or int(self.num_slots.sum(dtype=np.uint64)) != len(self.counts):
            raise ValueError("a frequency table's num_slots must be 2 or more each and add up to the length of counts")
        if len(self.counts) > MAX_SLOTS:
            raise ValueError(f"a frequency table has {len(self.counts)} slots, at most {MAX_SLOTS} are taken")
        check_counts(self.rows, self.max_bytes)
        last_values = self.first_values.astype(np.int64) + self.num_slots - 2
        if (last_values > _INT32.max).any():
            raise ValueError("a channel's values must be within int32")

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the fields alone, since an accelerator's models cannot be sent."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @classmethod
    def from_priors(cls, priors: Sequence[ChannelPrior], *, max_bytes: int) -> FrequencyTable:
        """The table of one level from what was learned of each channel.

        Raises:
            ValueError: a prior is no distribution, or a limit is exceeded.
        """
        if any(not _INT32.min <= prior.first_value <= _INT32.max for prior in priors):
            raise ValueError("a prior's first value must be within int32")
        rows = [quantise_prior(prior) for prior in priors]
        return cls(
            first_values=np.array([prior.first_value for prior in priors], np.int32),
            num_slots=np.array([len(row) for row in rows], np.uint32),
            counts=np.concatenate([np.zeros(0, np.uint32), *rows]),
            max_bytes=max_bytes,
        )

    @property
    def num_channels(self) -> int:
        return len(self.num_slots)

    @cached_property
    def rows(self) -> list[NDArray[np.uint32]]:
        """Each channel's counts."""
        return np.split(self.counts, np.cumsum(self.num_slots, dtype=np.int64)[:-1]) if self.num_channels else []

    @cached_property
    def _values(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first value that has a slot, and how many have one, ``(C, 1)`` each."""
        return self.first_values.astype(np.int64)[:, None], self.num_slots.astype(np.int64)[:, None] - 1

    @cached_property
    def first_slots(self) -> NDArray[np.int64]:
        """``(C,)``: where each channel begins in the counts."""
        ends = np.cumsum(self.num_slots, dtype=np.int64)
        return ends - self.num_slots

    @cached_property
    def slot_bits(self) -> NDArray[np.float64]:
        """What each of the counts' slots costs."""
        return PRECISION_BITS - np.log2(self.counts)

    @cached_property
    def entropy_bits(self) -> float:
        """The expected cost of one position with all its channels, if symbols come as the table says.

        What follows an escape is not in it.
        """
        return float((self.counts / TOTAL) @ self.slot_bits)

    @cached_property
    def reference_coder(self) -> SlotCoder:
        return ReferenceCoder(self.rows)

    @cached_property
    def coder(self) -> SlotCoder:
        """The accelerator where it is installed, else the reference."""
        return fast_coder(self.rows) or self.reference_coder

    def coded(self, rows: Rows) -> Coded:
        """Symbols as slots; see `Coded`."""
        first_values, num_values = self._values
        slots, _, outside = split_off(rows - first_values, num_values)
        return Coded(tables=np.arange(self.num_channels), slots=slots, outside=outside)

    def bits(self, coded: Coded) -> float:
        """What the slots cost, escapes' values not included."""
        return float(self.slot_bits[coded.slots + self.first_slots[:, None]].sum())

    def push(self, stack: RansStack, coded: Coded, *, use_reference: bool) -> RansStack:
        """The stack with the slots on top."""
        return (self.reference_coder if use_reference else self.coder).push(stack, coded.tables, coded.slots)

    def pop(self, stack: RansStack, num_positions: int, *, use_reference: bool) -> tuple[Rows, Escaped, RansStack]:
        """The symbols, those that are still to be read, and what is left of the stack.

        Raises:
            PayloadError: the stack is no such stack.
        """
        coder = self.reference_coder if use_reference else self.coder
        slots, stack = coder.pop(stack, np.arange(self.num_channels), num_positions)
        first_values, num_values = self._values
        at = np.flatnonzero(slots == num_values)
        firsts, counts = (values[at // num_positions, 0] for values in (first_values, num_values))
        return slots + first_values, Escaped(at=at, firsts=firsts, lasts=firsts + counts - 1), stack

    def digest_parts(self) -> Iterable[bytes]:
        """All that decides what a payload means, in order, little-endian."""
        yield struct.pack("<II", self.num_channels, self.max_bytes)
        yield self.first_values.astype("<i4").tobytes()
        yield self.num_slots.astype("<u4").tobytes()
        yield self.counts.astype("<u4").tobytes()

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Named tensors."""
        arrays = {name: getattr(self, name) for name in ("first_values", "num_slots", "counts")}
        return arrays | {"max_bytes": np.array([self.max_bytes], np.uint32)}


@dataclass(frozen=True, kw_only=True, eq=False)
class CodecTables:
    """The tables of one split point: one of a kind per level, and the latent's height and width.

    A level may have fewer channels than another, where a prefix of them is an answer already.

    Raises:
        ValueError: no or too many levels, or a latent of too many symbols.
    """

    height: int
    width: int
    levels: tuple[FrequencyTable | ContextTable, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.levels) <= MAX_LEVELS:
            raise ValueError(f"codec tables have {len(self.levels)} levels, expected 1 to {MAX_LEVELS}")
        channels = max(level.num_channels for level in self.levels)
        if self.height < 1 or self.width < 1 or max(channels, 1) * self.height * self.width > MAX_SYMBOLS:
            raise ValueError(
                f"a latent of {channels} x {self.height} x {self.width} symbols; expected a positive height and width "
                f"and at most {MAX_SYMBOLS} symbols: cut the network where less passes"
            )
        contexts = [level for level in self.levels if isinstance(level, ContextTable)]
        if contexts and len(contexts) < len(self.levels):
            raise ValueError("all levels must have tables of the same kind; build the tables again")
        if any((level.height, level.width) != (self.height, self.width) for level in contexts):
            raise ValueError("a context table must have the latent's height and width; build the tables again")

    def level(self, number: int) -> FrequencyTable | ContextTable:
        """The table of a level.

        Raises:
            ValueError: there is no such level.
        """
        if not 0 <= number < len(self.levels):
            raise ValueError(f"level {number} was asked for, these tables have 0 to {len(self.levels) - 1}")
        return self.levels[number]

    def shape(self, level: int) -> tuple[int, int, int]:
        """``(C, H, W)`` of a level's symbols."""
        return self.level(level).num_channels, self.height, self.width

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all that decides what a payload means, 32 bytes."""
        contexts = [level for level in self.levels if isinstance(level, ContextTable)]
        grouped = any(len(level.group_starts) for level in contexts)
        schema = _GROUPS if grouped else _CONTEXTS if contexts else _STATIC
        digest = hashlib.sha256(schema + struct.pack("<III", self.height, self.width, len(self.levels)))
        for level in self.levels:
            for part in level.digest_parts():
                digest.update(part)
        for level in contexts if grouped else ():
            for part in level.group_digest_parts():
                digest.update(part)
        return digest.digest()

    @property
    def name(self) -> bytes:
        """What a payload calls them by: the first 2 bytes of the digest, all of which is under its checksum."""
        return self.digest[:NAME_BYTES]

    @property
    def has_contexts(self) -> bool:
        """Whether they are `ContextTable`s."""
        return isinstance(self.levels[0], ContextTable)

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Named tensors for a safetensors file."""
        tensors: dict[str, NDArray[Any]] = {"grid": np.array([self.height, self.width], np.uint32)}
        for number, level in enumerate(self.levels):
            tensors |= {f"level{number}.{name}": value for name, value in level.to_tensors().items()}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> CodecTables:
        """The inverse of `to_tensors`, for tensors from a file.

        Raises:
            ValueError: a tensor is missing, unknown, of another type or size, or what they say is not allowed.
        """
        num_levels = sum(re.fullmatch(r"level\d+\.counts", name) is not None for name in tensors)
        if empty := [name for name in tensors if name.endswith(".group_starts") and not tensors[name].size]:
            raise ValueError(f"{empty[0]!r} of the codec tables is empty; one group of all channels has none")
        has_contexts = "level0.thresholds" in tensors
        arrays = [_arrays_of(n, tensors) if has_contexts else _STATIC_ARRAYS for n in range(num_levels)]
        names = [f"level{n}.{part}" for n, of_level in enumerate(arrays) for part in of_level]
        single = _CONTEXT_NUMBERS if has_contexts else ("max_bytes",)
        numbers = {"grid": 2} | {f"level{n}.{part}": 1 for n in range(num_levels) for part in single}
        if set(tensors) != {*names, *numbers}:
            odd = sorted(set(tensors) ^ {*names, *numbers})
            raise ValueError(f"codec tables lack or do not know {', '.join(odd[:4])}; build the bundle again")
        for name, size in numbers.items():
            dtype = np.int32 if name.endswith(".first_value") else np.uint32
            if not _is(tensors[name], dtype) or tensors[name].shape != (size,):
                kind = np.dtype(dtype)
                raise ValueError(f"{name!r} of the codec tables must be {kind} ({size},); build the bundle again")
        height, width = tensors["grid"].tolist()
        if has_contexts:
            contexts = [
                ContextTable(
                    height=height,
                    width=width,
                    **{part: tensors[f"level{n}.{part}"] for part in of_level},  # type: ignore[arg-type]
                    **{part: int(tensors[f"level{n}.{part}"][0]) for part in _CONTEXT_NUMBERS},  # type: ignore[arg-type]
                )
                for n, of_level in enumerate(arrays)
            ]
            return cls(height=height, width=width, levels=tuple(contexts))
        levels = [
            FrequencyTable(
                first_values=tensors[f"level{n}.first_values"],
                num_slots=tensors[f"level{n}.num_slots"],
                counts=tensors[f"level{n}.counts"],
                max_bytes=int(tensors[f"level{n}.max_bytes"][0]),
            )
            for n in range(num_levels)
        ]
        return cls(height=height, width=width, levels=tuple(levels))
