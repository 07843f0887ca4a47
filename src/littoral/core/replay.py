"""A bounded memory of frames in which no device, no domain and no class can crowd out the others.

Frames are kept as uint8. The room is shared out in three steps: among the devices, then among the domains of a device,
then among the classes of a domain. Each (device, domain, label) is a cell with its own reservoir: within a cell every
frame that came is kept with equal chance; when the whole is full, the largest device's largest domain's largest cell
gives way. Devices come first because a domain and a label are only what a device says, while a device costs an
enrolment. The same frames in the same order with the same seed give the same memory.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from littoral.core.arrays import Frame
from littoral.core.recall import NO_DOMAIN


class Cell(NamedTuple):
    """What is balanced: the frames of one device in one domain that it gave one answer."""

    device: str
    domain: int
    label: int


_Group = tuple[object, ...]
"""The first 0 to 3 parts of a cell: everything, a device, a device's domain, a cell."""


class ReplayBuffer:
    """A reservoir balanced by device, domain and class.

    Args:
        capacity: The most frames that are kept.
        frame_shape: ``(H, W, C)``.
        seed: Of the draws that decide what gives way.
    Raises:
        ValueError: the capacity is not positive.
    """

    def __init__(self, *, capacity: int, frame_shape: tuple[int, int, int], seed: int) -> None:
        if capacity < 1:
            raise ValueError(f"the capacity of a replay buffer is at least 1 frame, got {capacity}")
        self.capacity = capacity
        self.frame_shape = frame_shape
        self._rng = np.random.default_rng(seed)
        self._cells: dict[Cell, list[Frame]] = {}
        self._seen: dict[Cell, int] = {}
        self._held: dict[_Group, int] = {(): 0}
        self._parts: dict[_Group, list[_Group]] = {(): []}

    def __len__(self) -> int:
        return self._held[()]

    def counts(self) -> dict[Cell, int]:
        """How many frames of each cell are kept."""
        return {cell: len(frames) for cell, frames in self._cells.items()}

    def kept(self, *, domain: int | None = None, without: Collection[str] = ()) -> int:
        """How many frames `sample` can draw from."""
        return sum(len(frames) for frames in self._chosen(domain, without))

    def add(self, frame: Frame, *, device: str, label: int, domain: int = NO_DOMAIN) -> None:
        """Offer a frame.

        Args:
            frame: uint8 ``frame_shape``; copied.
            label: The class by which to balance (the device's own answer; no ground truth is known).
            domain: The domain of the scene that it is from.
        Raises:
            ValueError: another shape or dtype.
        """
        if frame.shape != self.frame_shape or frame.dtype != np.uint8:
            raise ValueError(f"replay keeps uint8 {self.frame_shape}, got {frame.dtype} {frame.shape}")
        cell = Cell(device, domain, label)
        frames = self._open(cell)
        self._seen[cell] += 1
        if len(self) < self.capacity:
            frames.append(frame.copy())
            self._count(cell, 1)
            return
        victim = self._gives_way(cell)
        if victim != cell:
            victims = self._cells[victim]
            victims.pop(int(self._rng.integers(len(victims))))
            self._count(victim, -1)
            frames.append(frame.copy())
            self._count(cell, 1)
        elif self._rng.random() < len(frames) / self._seen[cell]:
            frames[int(self._rng.integers(len(frames)))] = frame.copy()

    def by_device(self, *, domain: int | None = None) -> dict[str, int]:
        """How many frames of each device are kept, of this domain or of all."""
        out: dict[str, int] = {}
        for cell, frames in self._cells.items():
            if frames and (domain is None or cell.domain == domain):
                out[cell.device] = out.get(cell.device, 0) + len(frames)
        return out

    def forget(self, device: str) -> None:
        """Give up all frames of a device; what comes of it later is kept as before."""
        for cell in [cell for cell in self._cells if cell.device == device]:
            self._count(cell, -len(self._cells[cell]))
            self._cells[cell], self._seen[cell] = [], 0

    def sample(
        self, count: int, rng: np.random.Generator, *, domain: int | None = None, without: Collection[str] = ()
    ) -> Frame:
        """Draw frames uniformly, none twice.

        Args:
            domain: Only of this domain; None for all.
            without: Devices whose frames are passed over.
        Returns:
            uint8 ``(count, H, W, C)``.
        Raises:
            ValueError: fewer than ``count`` frames are kept.
        """
        everything = [frame for frames in self._chosen(domain, without) for frame in frames]
        if count > len(everything):
            raise ValueError(f"{count} frames were asked of a replay buffer that keeps {len(everything)}")
        chosen = rng.choice(len(everything), size=count, replace=False)
        if count == 0:
            return np.zeros((0, *self.frame_shape), dtype=np.uint8)
        return np.stack([everything[i] for i in chosen])

    def _chosen(self, domain: int | None, without: Collection[str]) -> list[list[Frame]]:
        return [
            frames
            for cell, frames in self._cells.items()
            if (domain is None or cell.domain == domain) and cell.device not in without
        ]

    def _open(self, cell: Cell) -> list[Frame]:
        if cell not in self._cells:
            self._cells[cell], self._seen[cell] = [], 0
            for length in range(1, len(cell) + 1):
                group: _Group = tuple(cell[:length])
                if group not in self._held:
                    self._held[group], self._parts[group] = 0, []
                    self._parts[group[:-1]].append(group)
        return self._cells[cell]

    def _count(self, cell: Cell, change: int) -> None:
        for length in range(len(cell) + 1):
            self._held[tuple(cell[:length])] += change

    def _largest(self, group: _Group) -> _Group:
        return max(self._parts[group], key=lambda part: self._held[part])

    def _gives_way(self, cell: Cell) -> Cell:
        """The cell that loses a frame to this one; itself where its device, its domain and it are among the largest."""
        for length in range(len(cell)):
            largest = self._largest(tuple(cell[:length]))
            if self._held[tuple(cell[: length + 1])] < self._held[largest]:
                while len(largest) < len(cell):
                    largest = self._largest(largest)
                return Cell(*largest)  # type: ignore[arg-type]
        return cell
