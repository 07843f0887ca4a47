"""The coder under every payload: an asymmetric numeral system on whole numbers, in plain Python. It defines the format.

A `RansStack` is a state of 64 bits and a stack of 32-bit words. `push` puts a slot of a frequency table onto it, `pop`
takes the last one off again; a slot with count f costs ``24 - log2(f)`` bits. Between two operations the state is at
least 2**32 and below 2**64, so a stack and what was pushed onto it determine each other.

Source: Duda, 2013 (arXiv 1311.2540), the range variant; constants as in the default coder of the package
``constriction``, which `littoral.core.rans_fast` uses where it is installed. Departure: our stack starts from
2**32 + 32 bits of the caller's, not from 0, so that what is wasted there otherwise carries a checksum.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
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
MIN_STACK_BYTES = 5
MOST_BITS_AT_ONCE = 16

Slots = NDArray[np.int64]
"""Indices into a channel's counts, ``(channels, positions)``."""


@dataclass
class RansStack:
    """A state and the words under it. ``words[-1]`` is the next one to be read."""

    state: int
    words: list[int] = field(default_factory=list)

    @classmethod
    def start(cls, check: int) -> RansStack:
        """An empty stack that holds 32 bits of the caller's, to be compared when all has been popped."""
        return cls(_LOW | check)

    @property
    def check(self) -> int | None:
        """The 32 bits that the stack was started with; None when something is still, or wrongly, on it."""
        return None if self.words or self.state >> 32 != 1 else self.state & 0xFFFFFFFF

    def push(self, starts: Sequence[int], counts: Sequence[int]) -> None:
        """Push slots, the last one first, so that `pop` gives them back in their order.

        Args:
            starts: For each slot the sum of the counts before it in its channel.
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

    def pop(self, counts: Sequence[int], ends: Sequence[int], num_slots: int) -> list[int]:
        """Take slots of one channel off, given its counts and their running sums.

        Raises:
            PayloadError: the stack holds fewer.
        """
        state, words, slots = self.state, self.words, []
        for _ in range(num_slots):
            quantile = state & _MASK
            slot = bisect_right(ends, quantile)
            count = counts[slot]
            state = (state >> PRECISION_BITS) * count + quantile - ends[slot] + count
            if state < _LOW:
                if not words:
                    raise too_short()
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
        if state < _LOW:
            if not self.words:
                raise too_short()
            state = state << 32 | self.words.pop()
        self.state = state
        return value

    def to_array(self) -> NDArray[np.uint32]:
        """The words, then the lower and the upper half of the state."""
        return np.array([*self.words, self.state & 0xFFFFFFFF, self.state >> 32], np.uint32)

    @classmethod
    def from_array(cls, words: NDArray[np.uint32]) -> RansStack:
        """The inverse of `to_array`.

        Raises:
            PayloadError: no stack looks like this.
        """
        if len(words) < 2 or words[-1] == 0:
            raise too_short()
        *rest, lower, upper = words.tolist()
        return cls(upper << 32 | lower, rest)

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
    """Codes the slots of all channels of one table. The accelerator and the reference leave the same stack behind."""

    def push(self, stack: RansStack, slots: Slots) -> RansStack:
        """The stack with the slots ``(channels, positions)`` on top, the first channel's first one uppermost."""

    def pop(self, stack: RansStack, num_positions: int) -> tuple[Slots, RansStack]:
        """The inverse of `push`: the slots ``(channels, positions)`` and what is left.

        Raises:
            PayloadError: the stack holds fewer.
        """


class ReferenceCoder:
    """The slot coder in plain Python and NumPy: it runs anywhere, and any other must do as it does.

    Args:
        counts: For each channel the counts of its slots, which add up to `TOTAL`.
    """

    def __init__(self, counts: Sequence[NDArray[np.uint32]]) -> None:
        self._counts = [row.tolist() for row in counts]
        self._ends = [list(accumulate(row)) for row in self._counts]
        self._first = np.cumsum([0, *(len(row) for row in counts)], dtype=np.int64)[:-1, None]
        flat = [row.astype(np.int64) for row in counts]
        self._flat_counts = np.concatenate([np.zeros(0, np.int64), *flat])
        self._flat_starts = np.concatenate([np.zeros(0, np.int64), *(np.cumsum(row) - row for row in flat)])

    def push(self, stack: RansStack, slots: Slots) -> RansStack:
        index = (slots + self._first).ravel()
        stack.push(self._flat_starts[index].tolist(), self._flat_counts[index].tolist())
        return stack

    def pop(self, stack: RansStack, num_positions: int) -> tuple[Slots, RansStack]:
        rows = [stack.pop(*row, num_positions) for row in zip(self._counts, self._ends, strict=True)]
        return np.array(rows, np.int64).reshape(len(rows), num_positions), stack
