"""The accelerators of the slot coder: same bytes, many times the speed.

The package ``constriction`` is small and ready at once. What ``numba`` compiles is several times as fast and lets other
threads run meanwhile, but takes a second and 110 MiB to load: it is for large latents, and loaded at the first of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.core.rans import RansStack, ReferenceCoder, SlotCoder, Slots
from littoral.core.rans_compiled import CompiledCoder

MANY_SLOTS = 20_000
"""From so many at once on, what is compiled pays."""


def fast_coder(counts: Sequence[NDArray[np.uint32]]) -> SlotCoder | None:
    """A coder for these counts, each table's at least two; None when neither package is installed."""
    try:
        few: SlotCoder | None = ConstrictionCoder(counts)
    except ImportError:
        few = None
    return few if importlib.util.find_spec("numba") is None else _BySize(counts, few or ReferenceCoder(counts))


class _BySize:
    """Few slots are coded by one coder, many by the compiled one."""

    def __init__(self, counts: Sequence[NDArray[np.uint32]], few: SlotCoder) -> None:
        self._counts, self._few = counts, few

    @cached_property
    def _many(self) -> SlotCoder:
        try:
            return CompiledCoder(self._counts)
        except ImportError:  # it is installed, and does not go with this NumPy
            return self._few

    def push(self, stack: RansStack, tables_M: Slots, slots_MN: Slots) -> RansStack:
        return self._for(slots_MN.size).push(stack, tables_M, slots_MN)

    def pop(self, stack: RansStack, tables_M: Slots, num_each: int) -> tuple[Slots, RansStack]:
        return self._for(len(tables_M) * num_each).pop(stack, tables_M, num_each)

    def _for(self, num_slots: int) -> SlotCoder:
        return self._many if num_slots >= MANY_SLOTS else self._few


class ConstrictionCoder:
    """A `SlotCoder` for these counts, each table's at least two.

    The package gives each of n slots 1 of 2**24 and shares the rest out by weight: with weights of count - 1 the rest
    is their exact sum, its scale is exactly 1.0, and the model's integers are ours.

    Raises:
        ImportError: ``constriction`` is not installed.
    """

    def __init__(self, counts: Sequence[NDArray[np.uint32]]) -> None:
        stream: Any = import_module("constriction").stream
        self._stack: Any = stream.stack.AnsCoder
        self._models = [stream.model.Categorical(row.astype(np.float64) - 1, perfect=False) for row in counts]
        self._each: Any = stream.model.Categorical(perfect=False)
        alike = len({len(row) for row in counts}) == 1
        self._weights = np.stack(counts).astype(np.float64) - 1 if alike else None

    def push(self, stack: RansStack, tables_M: Slots, slots_MN: Slots) -> RansStack:
        coder, slots_MN = self._stack(stack.to_array()), slots_MN.astype(np.int32)
        if slots_MN.shape[1] == 1 and self._weights is not None:
            coder.encode_reverse(slots_MN[:, 0], self._each, self._weights[tables_M])
        else:
            for slots, table in zip(slots_MN[::-1], tables_M[::-1].tolist(), strict=True):
                coder.encode_reverse(slots, self._models[table])
        return RansStack.from_array(coder.get_compressed())

    def pop(self, stack: RansStack, tables_M: Slots, num_each: int) -> tuple[Slots, RansStack]:
        coder = self._stack(stack.to_array())
        if num_each == 1 and self._weights is not None:
            slots = coder.decode(self._each, self._weights[tables_M])
        else:
            slots = [coder.decode(self._models[table], num_each) for table in tables_M.tolist()]
        slots_MN = np.array(slots, np.int64).reshape(len(tables_M), num_each)
        return slots_MN, RansStack.from_array(coder.get_compressed())
