"""The slot coder of the package ``constriction``, where it is installed: same bytes, many times the speed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.core.rans import RansStack, SlotCoder, Slots


def fast_coder(counts: Sequence[NDArray[np.uint32]]) -> SlotCoder | None:
    """A coder for these counts, each channel's at least two; None when ``constriction`` is not installed."""
    try:
        stream = import_module("constriction").stream
    except ImportError:
        return None
    return _ConstrictionCoder(counts, stream)


class _ConstrictionCoder:
    """Models are made once; a call costs one step into compiled code per channel."""

    def __init__(self, counts: Sequence[NDArray[np.uint32]], stream: Any) -> None:
        self._stack: Any = stream.stack.AnsCoder
        # The package gives each of n slots 1 of 2**24 and shares the rest out by weight: with weights of count - 1 the
        # rest is their exact sum, its scale is exactly 1.0, and the model's integers are ours.
        self._models = [stream.model.Categorical(row.astype(np.float64) - 1, perfect=False) for row in counts]
        self._each: Any = stream.model.Categorical(perfect=False)
        alike = len({len(row) for row in counts}) == 1
        self._weights = np.stack(counts).astype(np.float64) - 1 if alike else np.zeros((0, 0))

    def push(self, stack: RansStack, slots: Slots) -> RansStack:
        coder = self._stack(stack.to_array())
        for row, model in zip(slots[::-1].astype(np.int32), reversed(self._models), strict=True):
            coder.encode_reverse(row, model)
        return RansStack.from_array(coder.get_compressed())

    def pop(self, stack: RansStack, num_positions: int) -> tuple[Slots, RansStack]:
        coder = self._stack(stack.to_array())
        rows = [coder.decode(model, num_positions) for model in self._models]
        left = RansStack.from_array(coder.get_compressed())
        return np.array(rows, np.int64).reshape(len(rows), num_positions), left

    def push_each(self, stack: RansStack, tables_N: Slots, slots_N: Slots) -> RansStack:
        coder = self._stack(stack.to_array())
        coder.encode_reverse(slots_N.astype(np.int32), self._each, self._weights[tables_N])
        return RansStack.from_array(coder.get_compressed())

    def pop_each(self, stack: RansStack, tables_N: Slots) -> tuple[Slots, RansStack]:
        coder = self._stack(stack.to_array())
        slots = coder.decode(self._each, self._weights[tables_N])
        return slots.astype(np.int64), RansStack.from_array(coder.get_compressed())
