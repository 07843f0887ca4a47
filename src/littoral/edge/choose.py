"""Frames on their way from the answer to the outbox: most are settled by their entropy, few are looked at.

The thread that answers does no more than compare a number and copy the frames that may be worth it; looking at them,
coding them and keeping the budget is the background thread's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from littoral.core.arrays import FloatArray, Frame
from littoral.core.product import ProductSelector

_SKIPPED_AT_A_TIME = 32
_MOST_WAITING = 64
"""Frames that wait to be looked at: more would keep statistics and versions waiting behind them."""


class Waiting:
    """Bounds the bytes of the frames that wait for the background thread. A frame that is larger waits alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._kept = self._released = 0  # each written by one thread only

    def has_room(self, frame: Frame) -> bool:
        """Whether another frame may wait."""
        waits = self._kept - self._released
        return not waits or waits + frame.nbytes <= self._max

    def keep(self, frame: Frame) -> Frame:
        """A copy that may wait."""
        self._kept += frame.nbytes
        return frame.copy()

    def release(self, frame: Frame) -> None:
        """It waits no longer."""
        self._released += frame.nbytes


class _Put(Protocol):
    def __call__(
        self, frame: Frame, frame_id: int, label: int, entropy_nats: float, version: int, *, value: float
    ) -> int | None: ...


class Chooser:
    """Runs a `ProductSelector` in the background thread on what the thread that answers offers.

    Args:
        selector: The background thread's; `offer` reads only what does not change.
        put: Puts a frame into the outbox; gives its bytes on the wire, None if it was dropped.
        later: Runs a task in the background thread.
    """

    def __init__(
        self, selector: ProductSelector, waiting: Waiting, *, put: _Put, later: Callable[[Callable[[], None]], None]
    ) -> None:
        self.selector = selector
        self._waiting, self._put, self._later = waiting, put, later
        self._gate = 0.0
        self._skipped: deque[float] = deque()
        self._told = False
        self._offered = self._judged = 0  # each written by one thread only

    def offer(
        self, frame: Frame, logits_K: FloatArray, frame_id: int, label: int, entropy_nats: float, version: int
    ) -> None:
        """In the thread that answers: a frame went by."""
        at_most = self.selector.worth_at_most(entropy_nats)
        room = self._offered - self._judged < _MOST_WAITING and self._waiting.has_room(frame)
        if at_most > 0 and at_most >= self._gate and room:
            self._offered += 1
            kept, logits = self._waiting.keep(frame), logits_K.copy()
            self._later(lambda: self._judge(kept, logits, frame_id, label, entropy_nats, version))
            return
        self._skipped.append(at_most)
        if len(self._skipped) >= _SKIPPED_AT_A_TIME and not self._told:
            self._told = True
            self._later(self._catch_up)

    def enter(self, scene: int) -> None:
        """The world changed: the budget opens for a while."""
        self._catch_up()
        self.selector.enter(scene)
        self._gate = self.selector.gate

    def _catch_up(self) -> None:
        self._told = False
        while self._skipped:
            self.selector.skip(self._skipped.popleft())
        self._gate = self.selector.gate

    def _judge(
        self, frame: Frame, logits_K: FloatArray, frame_id: int, label: int, entropy_nats: float, version: int
    ) -> None:
        self._judged += 1
        self._waiting.release(frame)
        self._catch_up()
        selector = self.selector
        if self._gate > selector.worth_at_most(entropy_nats):
            selector.skip(selector.worth_at_most(entropy_nats))
        elif selector.judge(frame, logits_K, entropy_nats):
            num_bytes = None
            try:
                num_bytes = self._put(frame, frame_id, label, entropy_nats, version, value=selector.last_score)
            finally:
                selector.settle(num_bytes)
        self._gate = selector.gate
