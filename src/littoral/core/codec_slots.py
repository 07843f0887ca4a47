"""What both kinds of tables make of a level's symbols: slots to be coded, and values that have none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.core.rans import TOTAL, Slots

Rows = NDArray[np.int64]
"""The symbols of a level, ``(C, H * W)``."""
MAX_SLOTS = 1 << 20
"""Of one level, over all its tables."""
MAX_PAYLOAD_BYTES = 1_000_000
"""No level's ceiling is higher: a payload fits into one frame of the wire."""


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A level's symbols on their way into a payload, in the order in which they are decoded."""

    tables: Slots
    """``(M,)``: which of the level's tables the slots of each row are of."""
    slots: Slots
    """``(M, N)``."""
    outside: NDArray[np.int64]
    """For each symbol without a slot, in order, the u of the text of `littoral.core.codec`."""


@dataclass(frozen=True, kw_only=True)
class Escaped:
    """Symbols whose values are still to be read, in order."""

    at: NDArray[np.int64]
    """Where each belongs in the rows, flat."""
    firsts: NDArray[np.int64]
    lasts: NDArray[np.int64]
    """The lowest and the highest value that have a slot there."""


def split_off(slots: Slots, num_values: Slots) -> tuple[Slots, NDArray[np.bool_], NDArray[np.int64]]:
    """Slots with the escape for what lies outside, where that is, and how far.

    Args:
        slots: Values less the first one that has a slot.
        num_values: How many values have one.
    """
    escaped = slots.view(np.uint64) >= num_values  # negative ones are far above
    if not escaped.any():
        return slots, escaped, np.zeros(0, np.int64)
    num_values = np.broadcast_to(num_values, slots.shape)
    over, inside = slots[escaped], num_values[escaped]
    slots = np.where(escaped, num_values, slots)
    return slots, escaped, np.where(over < 0, -2 * over - 1, 2 * (over - inside))


def check_counts(rows: list[NDArray[np.uint32]], max_bytes: object) -> None:
    """Raises ValueError unless each table's counts are counts and the ceiling is one."""
    if any((row < 1).any() or int(row.sum(dtype=np.uint64)) != TOTAL for row in rows):
        raise ValueError(f"a channel's counts must be 1 or more each and add up to {TOTAL}; build the tables again")
    if type(max_bytes) is not int or not 0 < max_bytes <= MAX_PAYLOAD_BYTES:
        raise ValueError(f"a level's ceiling is {max_bytes!r} bytes, expected 1 to {MAX_PAYLOAD_BYTES}")
