"""Frames between the thread that answers and the one that calibrates and learns.

The two share Python's lock, so each time that the second is woken costs an answer time: frames wait until there are
some, or until the first has waited long enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from littoral.core.exit_control import Purpose
from littoral.edge.recent import SeenFrame

_MOST_WAITING = 48
"""More would be overwritten before they are taken."""
_AT_A_TIME = 16
"""Frames after which the background thread is woken."""


class Handed(NamedTuple):
    """A frame that ran to its end."""

    frame_id: int
    purpose: Purpose
    stands_for: float
    pixels: bytes
    seen: SeenFrame | None
    """None: it is among the newest frames."""


class ExitQueue:
    """Hands frames over. `put` and `begins` are for the thread that answers, the rest for the background thread.

    Args:
        take: Takes them; it begins with `drain`.
        later: Runs a task in the background thread.
    """

    def __init__(self, take: Callable[[], None], later: Callable[[Callable[[], None]], None]) -> None:
        self._take, self._later = take, later
        self._waiting = deque[Handed]()
        self._first_waiting, self._told = 0, False

    def __len__(self) -> int:
        return len(self._waiting)

    def begins(self, frame_id: int) -> None:
        """A frame comes: wake the background thread where frames have waited for it long enough."""
        if self._first_waiting and frame_id - self._first_waiting >= _AT_A_TIME:
            self._wake()

    def put(self, handed: Handed) -> None:
        """Hand a frame over, if there is room."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(handed)
            self._first_waiting = self._first_waiting or handed.frame_id
            if len(self._waiting) >= _AT_A_TIME:
                self._wake()

    def drain(self) -> Iterator[Handed]:
        """All that wait, and those that come meanwhile. Where one cannot be taken, the others wait for another time."""
        try:
            while self._waiting:
                yield self._waiting.popleft()
        finally:
            self._told = False

    def clear(self) -> None:
        """Forget them."""
        self._waiting.clear()

    def _wake(self) -> None:
        self._first_waiting = 0
        if not self._told:
            self._told = True
            self._later(self._take)
