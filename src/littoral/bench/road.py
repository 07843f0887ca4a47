"""One way of a simulated link: what goes in at one batch comes out some batches later, or never.

Pure but for its own queue and its own seeded generator: no clock, no thread.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


class Lane(Generic[T]):
    """Items in order; each is lost with a fixed chance.

    Time is counted in batches of the device at this end. What is put at batch ``t`` reaches the other end at batch
    ``t + delay_batches``, after that batch was answered, so it is there for every batch ``u > t + delay_batches``. At
    delay 0 that is the very next batch.

    Args:
        delay_batches: At least 0 (`littoral.bench.method.Road.delay_batches`).
        loss: The chance of each item to be lost, 0 to 1. At 0 no random number is drawn.
        seed: Of the losses; the same puts lose the same items.
    Raises:
        ValueError: the delay is negative, or the loss is not a share.
    """

    def __init__(self, *, delay_batches: int = 0, loss: float = 0.0, seed: int = 0) -> None:
        if delay_batches < 0 or not 0 <= loss <= 1:
            raise ValueError(f"a lane needs delay_batches >= 0 and 0 <= loss <= 1, got {delay_batches} and {loss}")
        self.delay_batches, self.loss = delay_batches, loss
        self.num_lost = 0
        self._rng = np.random.default_rng(seed)
        self._queue: deque[tuple[int, T]] = deque()

    def __len__(self) -> int:
        """How many items are under way."""
        return len(self._queue)

    def loses(self) -> bool:
        """Draw whether the next item is lost, and count it if so; `put` asks this by itself."""
        lost = self.loss > 0 and bool(self._rng.random() < self.loss)
        self.num_lost += lost
        return lost

    def put(self, item: T, at_batch: int) -> bool:
        """Send an item after batch ``at_batch`` was answered.

        Returns:
            True if it is under way, False if it was lost; a sender that misses the ack may put it again.
        Raises:
            ValueError: ``at_batch`` is before that of an item put earlier.
        """
        if self._queue and at_batch < self._queue[-1][0]:
            raise ValueError(f"an item was put at batch {at_batch}, one before it at {self._queue[-1][0]}")
        if self.loses():
            return False
        self._queue.append((at_batch, item))
        return True

    def take(self, at_batch: int) -> list[T]:
        """What has come out before batch ``at_batch`` is answered, oldest first; each item is given once."""
        out = []
        while self._queue and self._queue[0][0] + self.delay_batches < at_batch:
            out.append(self._queue.popleft()[1])
        return out
