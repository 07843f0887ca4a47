"""A small memory of recent frames in which every predicted class has its place.

A stream that shows one class for minutes would make the statistics of its newest frames those of that class. Frames
drawn from here are of all classes that were seen since the world last changed, the newest of each.

Source: the class-balanced memory of NOTE (Gong et al., NeurIPS 2022). Departure: within a class the oldest gives way,
not a random one, since statistics should follow; so it needs no seed.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from littoral.core.arrays import Frame


class ClassBalancedMemory:
    """At most ``capacity`` frames.

    Raises:
        ValueError: the capacity is not positive.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a memory holds at least 1 frame, got {capacity}")
        self.capacity = capacity
        self._classes: dict[int, deque[Frame]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def counts(self) -> dict[int, int]:
        """How many frames of each class are kept."""
        return {label: len(frames) for label, frames in self._classes.items()}

    def add(self, frame: Frame, label: int) -> None:
        """Keep a copy of a frame; over the capacity the oldest of the largest class gives way."""
        self._classes.setdefault(label, deque()).append(frame.copy())
        self._size += 1
        if self._size > self.capacity:
            largest = max(self._classes, key=lambda key: (len(self._classes[key]), key == label))
            self._classes[largest].popleft()
            self._size -= 1
            if not self._classes[largest]:
                del self._classes[largest]

    def draw(self, count: int) -> Frame:
        """The newest of each class in turn, then the second newest, and so on.

        Returns:
            uint8 ``(count, H, W, C)``, or all that are kept if they are fewer.
        Raises:
            ValueError: nothing is kept.
        """
        if not self._size:
            raise ValueError("nothing can be drawn from an empty memory")
        deepest = max(len(frames) for frames in self._classes.values())
        order = [
            frames[-depth]
            for depth in range(1, deepest + 1)
            for _, frames in sorted(self._classes.items())
            if len(frames) >= depth
        ]
        return np.stack(order[:count])

    def clear(self) -> None:
        """Forget all: the world has changed."""
        self._classes.clear()
        self._size = 0
