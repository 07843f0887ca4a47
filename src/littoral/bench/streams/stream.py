"""A stream: which frame of a pool is played when, under which shift, to which device. Frames are made when asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.bench.streams.pools import Labels, Pool
from littoral.core.arrays import Frame

Indices = NDArray[np.int64]
WINDOW = 2048


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Frames that one device gets at a time. A method is given ``frames`` and ``device``, and nothing else of it."""

    frames: Frame
    """uint8 ``(B, H, W, 3)``."""
    labels: Labels
    """``(B,)``, for the scorer alone."""
    shift: Indices
    """``(B,)``, for the scorer alone."""
    device: int
    begins: bool
    """A method starts anew before this batch (never in a stream without resets)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """Frames in the order in which they are played, as arrays ``(N,)`` of where they come from.

    The frames themselves are made a window at a time by `batches`, or by `frames_at`; `frames` makes all of them.
    """

    pool: Pool
    place: Indices
    """Index into the pool's frames."""
    shift: Indices
    """Index into ``names``."""
    severity: Indices
    """1..5; without meaning where the shift is ``clean``."""
    device: Indices
    """0 where there is one."""
    names: tuple[str, ...]
    """Of the shifts: corruptions, or ``clean``."""
    resets: bool = False
    """A method starts anew at each shift."""

    def __post_init__(self) -> None:
        lengths = {len(array) for array in (self.place, self.shift, self.severity, self.device)}
        assert len(lengths) == 1, f"arrays of lengths {lengths}"

    def __len__(self) -> int:
        return len(self.place)

    @property
    def labels(self) -> Labels:
        """int64 ``(N,)``, for the scorer alone."""
        return self.pool.labels[self.place].astype(np.int64)

    @property
    def num_devices(self) -> int:
        """At least 1."""
        return int(self.device.max(initial=0)) + 1

    @property
    def frames(self) -> Frame:
        """All frames, uint8 ``(N, H, W, 3)``: 30 MB for every 10,000 of 32 x 32."""
        return self.frames_at(np.arange(len(self)))

    def frames_at(self, positions: Indices) -> Frame:
        """The frames at these positions of the stream, uint8 ``(B, H, W, 3)``."""
        made: Frame | None = None
        keys = self.shift[positions] * 10 + self.severity[positions]
        for key in np.unique(keys):
            chosen = np.flatnonzero(keys == key)
            shift, severity = divmod(int(key), 10)
            part = self.pool.frames_of(self.place[positions[chosen]], self.names[shift], severity)
            if made is None:
                made = np.empty((len(positions), *part.shape[1:]), np.uint8)
            made[chosen] = part
        if made is None:
            raise ValueError("no positions are given; a stream has no frames before its first")
        return made

    def of_device(self, device: int) -> Stream:
        """What one device sees; it keeps its number."""
        return self._only(self.device == device)

    def of_shift(self, shift: int) -> Stream:
        """What is played of one shift, in the same order."""
        return self._only(self.shift == shift)

    def _only(self, kept: NDArray[np.bool_]) -> Stream:
        return Stream(
            pool=self.pool,
            place=self.place[kept],
            shift=self.shift[kept],
            severity=self.severity[kept],
            device=self.device[kept],
            names=self.names,
            resets=self.resets,
        )

    def batches(self, size: int, *, window: int = WINDOW) -> Iterator[Batch]:
        """The stream in batches of one device each, devices in turns.

        With resets no batch has frames of two shifts. The last batch of all, and the last before a reset, may be small.

        Args:
            size: Frames to a batch, at least 1.
            window: About so many frames are held at a time.
        Raises:
            ValueError: ``size`` is not so.
        """
        if size < 1:
            raise ValueError(f"the batch size is {size}; it must be at least 1")
        pending: list[tuple[Indices, bool]] = []
        held = 0
        for positions, begins in self._positions(size):
            pending.append((positions, begins))
            held += len(positions)
            if held >= window:
                yield from self._made(pending)
                pending, held = [], 0
        yield from self._made(pending)

    def _made(self, pending: list[tuple[Indices, bool]]) -> Iterator[Batch]:
        if not pending:
            return
        frames, start = self.frames_at(np.concatenate([positions for positions, _ in pending])), 0
        labels = self.pool.labels
        for positions, begins in pending:
            yield Batch(
                frames=frames[start : start + len(positions)],
                labels=labels[self.place[positions]].astype(np.int64),
                shift=self.shift[positions],
                device=int(self.device[positions[0]]),
                begins=begins,
            )
            start += len(positions)

    def _positions(self, size: int) -> Iterator[tuple[Indices, bool]]:
        """Where in the stream each batch's frames are, and whether a method begins anew there."""
        for number, part in enumerate(self._between_resets()):
            queues = [part[self.device[part] == device] for device in range(self.num_devices)]
            first = self.resets and number > 0
            for start in range(0, max(len(queue) for queue in queues), size):
                for queue in queues:
                    taken = queue[start : start + size]
                    if len(taken):
                        yield taken, first
                        first = False

    def _between_resets(self) -> list[Indices]:
        positions = np.arange(len(self))
        if not self.resets or not len(self):
            return [positions] if len(self) else []
        return np.split(positions, np.flatnonzero(np.diff(self.shift)) + 1)
