"""In which parts a latent is coded, and what is seen from each: the order that both sides go by.

Groups of channels one after another, and within a group three phases of positions; see `littoral.core.codec_contexts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEAR = ((), ((-1, -1), (-1, 1), (1, -1), (1, 1)), ((-1, 0), (0, -1), (0, 1), (1, 0)))
"""By phase the neighbours that are looked at, in rows and columns."""
NUM_NEAR = 4


def phases_of(height: int, width: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows and columns of the positions of each phase, row by row."""
    y, x = np.mgrid[:height, :width]
    phase = np.where((y | x) % 2 == 0, 0, np.where(y & x & 1 == 1, 1, 2))
    return [np.nonzero(phase == number) for number in range(len(NEAR))]  # type: ignore[misc]


def near_index(ys: NDArray[np.int64], xs: NDArray[np.int64], phase: int, width: int) -> NDArray[np.int64]:
    """``(4, n)``: where the neighbours are in a latent with a border of one, its rows and columns as one axis."""
    return np.array([(ys + 1 + dy) * (width + 2) + xs + 1 + dx for dy, dx in NEAR[phase]], np.int64)


def largest_near(group_ends: Sequence[int], near_channels: int) -> int:
    """The size of the largest group within the first so many channels, 0 if there is none."""
    starts = [0, *group_ends[:-1]]
    sizes = [end - start for start, end in zip(starts, group_ends, strict=True) if end <= near_channels]
    return max(sizes, default=0)


class Part(NamedTuple):
    """What is coded at once: some channels at some positions, after all parts before it."""

    group: int
    """How many groups come before."""
    channels: slice
    phase: int
    ys: NDArray[np.int64]
    xs: NDArray[np.int64]


def parts_of(group_ends: Sequence[int], near_channels: int, height: int, width: int) -> list[Part]:
    """The parts of a latent, in order.

    Args:
        group_ends: The channel after each group's last.
        near_channels: The groups of the first so many channels look at neighbours.
    """
    phases = phases_of(height, width)
    all_at_once = [tuple(each.ravel() for each in np.mgrid[:height, :width])]
    starts = [0, *group_ends[:-1]]
    return [
        Part(group, slice(start, end), phase, ys, xs)
        for group, (start, end) in enumerate(zip(starts, group_ends, strict=True))
        for phase, (ys, xs) in enumerate(phases if end <= near_channels else all_at_once)
        if len(ys)
    ]
