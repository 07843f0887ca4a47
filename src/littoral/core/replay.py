"""A bounded memory of frames in which no device and no class can crowd out the others.

Frames are kept as uint8. Each (device, label) pair is a cell with its own reservoir: within a cell every frame that
came is kept with equal chance; when the whole is full, the largest cell gives way. The same frames in the same order
with the same seed give the same memory.
"""

from __future__ import annotations

import numpy as np

from littoral.core.arrays import Frame


class ReplayBuffer:
    """A reservoir balanced by device and class.

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
        self._cells: dict[tuple[str, int], list[Frame]] = {}
        self._seen: dict[tuple[str, int], int] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def counts(self) -> dict[tuple[str, int], int]:
        """How many frames of each (device, label) are kept."""
        return {cell: len(frames) for cell, frames in self._cells.items()}

    def add(self, frame: Frame, *, device: str, label: int) -> None:
        """Offer a frame.

        Args:
            frame: uint8 ``frame_shape``; copied.
            label: The class by which to balance (the device's own answer; no ground truth is known).
        Raises:
            ValueError: another shape or dtype.
        """
        if frame.shape != self.frame_shape or frame.dtype != np.uint8:
            raise ValueError(f"replay keeps uint8 {self.frame_shape}, got {frame.dtype} {frame.shape}")
        cell = (device, label)
        frames = self._cells.setdefault(cell, [])
        self._seen[cell] = self._seen.get(cell, 0) + 1
        if self._size < self.capacity:
            frames.append(frame.copy())
            self._size += 1
            return
        largest = max(self._cells, key=lambda key: len(self._cells[key]))
        if len(frames) < len(self._cells[largest]):
            victims = self._cells[largest]
            victims.pop(int(self._rng.integers(len(victims))))
            frames.append(frame.copy())
        elif self._rng.random() < len(frames) / self._seen[cell]:
            frames[int(self._rng.integers(len(frames)))] = frame.copy()

    def sample(self, count: int, rng: np.random.Generator) -> Frame:
        """Draw frames uniformly, none twice.

        Returns:
            uint8 ``(count, H, W, C)``.
        Raises:
            ValueError: fewer than ``count`` frames are kept.
        """
        if count > self._size:
            raise ValueError(f"{count} frames were asked of a replay buffer that keeps {self._size}")
        everything = [frame for frames in self._cells.values() for frame in frames]
        chosen = rng.choice(len(everything), size=count, replace=False)
        if count == 0:
            return np.zeros((0, *self.frame_shape), dtype=np.uint8)
        return np.stack([everything[i] for i in chosen])
