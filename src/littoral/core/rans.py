"""The coder under every payload: an asymmetric numeral system on whole numbers, in plain Python. It defines the format.

A `RansStack` is a state of 64 bits and a stack of 32-bit words. `push` puts a slot of a frequency table onto it, `pop`
takes the last one off again; a slot with count f costs ``24 - log2(f)`` bits. Between two operations the state is
below 2**64 and, while there are words, at least 2**32, so a stack and what was pushed onto it determine each other.

Source: Duda, 2013 (arXiv 1311.2540), the range variant; constants as in the default coder of the package
``constriction``. Departure: our stack starts from 2**24 + 24 bits of the caller's, not from 0, so that what is wasted
there otherwise carries a checksum. `littoral.core.rans_fast` does the same many times as fast.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from littoral.errors import PayloadError

PRECISION_BITS = 24
TOTAL = 1 << PRECISION_BITS
"""The counts of a channel's slots add up to this."""
_MASK = TOTAL - 1
_LOW = 1 << 32
_WORD = np.dtype("<u4")
CHECK_BITS = 24
"""What a stack starts with of the caller's."""
MIN_STACK_BYTES = 4
MOST_BITS_AT_ONCE = 16

Slots = NDArray[np.int64]
"""Indices into a channel's counts, ``(channels, positions)``."""


@dataclass
class RansStack:
    """A state and the words of 32 bits under it. ``words[-1]`` is the next one to be read."""

    state: int
    words: array[int] = field(default_factory=lambda: array("I"))

    @classmethod
    def start(cls, check: int) -> RansStack:
        """An empty stack that holds `CHECK_BITS` of the caller's, to be compared when all has been popped."""
        return cls(1 << CHECK_BITS | check)

    @property
    def check(self) -> int | None:
        """The bits that the stack was started with; None when something is still on it, or too much came off."""
        return None if self.words or self.state >> CHECK_BITS != 1 else self.state & ((1 << CHECK_BITS) - 1)

    def push(self, starts: Sequence[int], counts: Sequence[int]) -> None:
        """Push slots, the last one first, so that `pop` gives them back in their order.

        Args:
            starts: For each slot the sum of the counts before it in its table.
            counts: For each slot its count.
        """
        state, words = self.state, self.words
        for start, count in zip(reversed(starts), reversed(counts), strict=True):
            if state >= count << 40:
                words.append(state & 0xFFFFFFFF)
                state >>= 32
            whole, rest = divmod(state, count)
            state = (whole << PRECISION_BITS) + rest + start
        self.state = state

    def pop(self, tables: Iterable[tuple[Sequence[int], Sequence[int]]]) -> list[int]:
        """Take slots off, given for each the counts of its table and their running sums.

        Where the stack holds fewer, what comes means nothing, and `check` is None after it.
        """
        state, words, slots = self.state, self.words, []
        for counts, ends in tables:
            quantile = state & _MASK
            slot = bisect_right(ends, quantile)
            count = counts[slot]
            state = (state >> PRECISION_BITS) * count + quantile - ends[slot] + count
            if state < _LOW and words:
                state = state << 32 | words.pop()
            slots.append(slot)
        self.state = state
        return slots

    def push_bits(self, value: int, num_bits: int) -> None:
        """Push a number of at most 16 bits of which every value is as likely."""
        shift = PRECISION_BITS - num_bits
        self.push([value << shift], [1 << shift])

    def pop_bits(self, num_bits: int) -> int:
        """The inverse of `push_bits`."""
        shift = PRECISION_BITS - num_bits
        value = (self.state & _MASK) >> shift
        state = (self.state >> PRECISION_BITS << shift) + (self.state & ((1 << shift) - 1))
        if state < _LOW and self.words:
            state = state << 32 | self.words.pop()
        self.state = state
        return value

    def to_array(self) -> NDArray[np.uint32]:
        """The words, then the lower and, where it is not 0, the upper half of the state."""
        upper, lower = divmod(self.state, _LOW)
        return np.append(np.array(self.words, np.uint32), np.array([lower, upper] if upper else [lower], np.uint32))

    @classmethod
    def from_array(cls, words: NDArray[np.uint32]) -> RansStack:
        """The inverse of `to_array`.

        Raises:
            PayloadError: no stack looks like this.
        """
        if not len(words) or words[-1] == 0:
            raise too_short()
        *lower, last = words[-2:].tolist()
        return cls(last << 32 | lower[0] if lower else last, array("I", words[:-2].tobytes()))

    def to_bytes(self) -> bytes:
        """`to_array` as little-endian words, without the zero bytes at the end."""
        return self.to_array().astype(_WORD).tobytes().rstrip(b"\0")

    @classmethod
    def from_bytes(cls, data: bytes) -> RansStack:
        """The inverse of `to_bytes`.

        Raises:
            PayloadError: no stack is written like this.
        """
        if len(data) < MIN_STACK_BYTES or data[-1] == 0:
            raise too_short()
        return cls.from_array(np.frombuffer(data + bytes(-len(data) % 4), _WORD).astype(np.uint32))


def too_short() -> PayloadError:
    return PayloadError("damaged", "the payload's words end too early; it was damaged, ask for it again")


class SlotCoder(Protocol):
    """Codes the slots of one level's tables. The accelerator and the reference leave the same stack behind."""

    def push(self, stack: RansStack, tables_M: Slots, slots_MN: Slots) -> RansStack:
        """The stack with N slots of each of these tables on top, the first table's first one uppermost."""

    def pop(self, stack: RansStack, tables_M: Slots, num_each: int) -> tuple[Slots, RansStack]:
        """The inverse of `push`: so many slots of each of these tables, ``(M, N)``, and what is left.

        Raises:
            PayloadError: the stack holds fewer. Not each coder notices; `RansStack.check` is None then.
        """


class ReferenceCoder:
    """The slot coder in plain Python and NumPy: it runs anywhere, and any other must do as it does.

    Args:
        counts: For each table the counts of its slots, which add up to `TOTAL`.
    """

    def __init__(self, counts: Sequence[NDArray[np.uint32]]) -> None:
        self._tables = [(row, list(accumulate(row))) for row in (row.tolist() for row in counts)]
        self._first = np.cumsum([0, *(len(row) for row in counts)], dtype=np.int64)[:-1]
        flat = [row.astype(np.int64) for row in counts]
        self._flat_counts = np.concatenate([np.zeros(0, np.int64), *flat])
        self._flat_starts = np.concatenate([np.zeros(0, np.int64), *(np.cumsum(row) - row for row in flat)])

    def push(self, stack: RansStack, tables_M: Slots, slots_MN: Slots) -> RansStack:
        index = (slots_MN + self._first[tables_M][:, None]).ravel()
        stack.push(self._flat_starts[index].tolist(), self._flat_counts[index].tolist())
        return stack

    def pop(self, stack: RansStack, tables_M: Slots, num_each: int) -> tuple[Slots, RansStack]:
        tables = [self._tables[number] for number in tables_M.tolist()]
        slots = stack.pop(table for table in tables for _ in range(num_each))
        return np.array(slots, np.int64).reshape(len(tables_M), num_each), stack
