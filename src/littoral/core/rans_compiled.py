"""The slot coder compiled by the package ``numba``: the reference's bytes, many times the speed.

The two functions at the end are those of `littoral.core.rans.RansStack`, on arrays and on whole numbers of 64 bits.
They are compiled once per machine and kept beside this file, or where the environment variable ``NUMBA_CACHE_DIR``
says. They let other threads run.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.core.rans import PRECISION_BITS, TOTAL, RansStack, Slots

_PUSH = "Tuple((u8, i8))(u8, u4[::1], i8, u8[::1], u8[::1], i8[::1], i8[::1], i8[:, ::1])"
_POP = "Tuple((u8, i8))(u8, u4[::1], i8, u8[::1], u8[::1], i8[::1], i4[:, ::1], i8[::1], i8[:, ::1])"
_LOOKUP_BITS = 8
_MOST_LOOKUP_BITS = 20  # of all tables together
# So that no sum or shift of an unsigned number becomes one of a signed number, or of a float.
_MASK, _BITS, _FORTY, _LOW = np.uint64(TOTAL - 1), np.uint64(PRECISION_BITS), np.uint64(40), np.uint64(1 << 32)
_WORD, _LOWER = np.uint64(32), np.uint64(0xFFFFFFFF)


@cache
def _compiled(numba: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`_push` and `_pop`."""

    def compiled(function: Callable[..., Any], signature: str) -> Callable[..., Any]:
        try:
            return numba.njit(signature, cache=True, nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]
        except RuntimeError:  # there is no folder that may be written to
            return numba.njit(signature, nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]

    return compiled(_push, _PUSH), compiled(_pop, _POP)


class CompiledCoder:
    """A `SlotCoder` for these counts, each table's at least two.

    A slot is searched for between two entries of its table's lookup, which goes by the quantile's upper bits.

    Raises:
        ImportError: ``numba`` is not installed, or does not go with this NumPy.
    """

    def __init__(self, counts: Sequence[NDArray[np.uint32]]) -> None:
        self._push, self._pop = _compiled(import_module("numba"))
        sizes = np.array([len(row) for row in counts], np.int64)
        self._counts = np.concatenate([np.zeros(0, np.uint32), *counts]).astype(np.uint64)
        ends = np.cumsum(self._counts)  # of all tables, one after the other
        self._starts = (ends - self._counts) & _MASK
        self._first = np.cumsum(sizes) - sizes
        bits = max(0, min(_LOOKUP_BITS, _MOST_LOOKUP_BITS - len(counts).bit_length()))
        steps = np.arange((1 << bits) + 1) << PRECISION_BITS - bits
        quantiles = (np.arange(len(counts)) << PRECISION_BITS)[:, None] + steps
        found = np.searchsorted(ends, quantiles.astype(np.uint64), side="right")
        self._lookup = np.minimum(found, (self._first + sizes - 1)[:, None]).astype(np.int32)

    def push(self, stack: RansStack, tables_M: Slots, slots_MN: Slots) -> RansStack:
        words = np.empty(len(stack.words) + slots_MN.size, np.uint32)
        words[: len(stack.words)] = stack.words
        state, used = self._push(
            np.uint64(stack.state), words, len(stack.words), self._starts, self._counts, self._first, tables_M, slots_MN
        )
        return RansStack(int(state), array("I", words[:used].tobytes()))

    def pop(self, stack: RansStack, tables_M: Slots, num_each: int) -> tuple[Slots, RansStack]:
        words = np.array(stack.words, np.uint32)
        slots_MN = np.empty((len(tables_M), num_each), np.int64)
        state, left = self._pop(
            np.uint64(stack.state), words, len(words), self._starts, self._counts, self._first, self._lookup, tables_M,
            slots_MN,
        )  # fmt: skip
        return slots_MN, RansStack(int(state), array("I", words[:left].tobytes()))


def _push(state: Any, words: Any, used: Any, starts: Any, counts: Any, first: Any, tables_M: Any, slots_MN: Any) -> Any:
    """`RansStack.push`; gives the state and how many words are used."""
    num_tables, num_each = slots_MN.shape
    for i in range(num_tables - 1, -1, -1):
        for j in range(num_each - 1, -1, -1):
            slot = first[tables_M[i]] + slots_MN[i, j]
            count = counts[slot]
            if state >= count << _FORTY:
                words[used] = state & _LOWER
                used += 1
                state >>= _WORD
            whole = state // count
            state = (whole << _BITS) + (state - whole * count) + starts[slot]
    return state, used


def _pop(
    state: Any, words: Any, left: Any, starts: Any, counts: Any, first: Any, lookup: Any, tables_M: Any, slots_MN: Any
) -> Any:
    """`RansStack.pop`; fills the slots in, gives the state and how many words are left."""
    shift = np.uint64(0)
    while (np.uint64(lookup.shape[1] - 1) << shift) < np.uint64(TOTAL):
        shift += np.uint64(1)
    num_tables, num_each = slots_MN.shape
    for i in range(num_tables):
        table = tables_M[i]
        for j in range(num_each):
            quantile = state & _MASK
            step = np.int64(quantile >> shift)
            slot, last = lookup[table, step], lookup[table, step + 1]
            while slot < last:
                middle = (slot + last) >> 1
                if starts[middle] + counts[middle] <= quantile:
                    slot = middle + 1
                else:
                    last = middle
            state = (state >> _BITS) * counts[slot] + quantile - starts[slot]
            if state < _LOW and left > 0:
                left -= 1
                state = state << _WORD | np.uint64(words[left])
            slots_MN[i, j] = slot - first[table]
    return state, left
