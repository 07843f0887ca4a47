"""Lines of the log that would come again and again: written once, then counted, and told again after an hour.

A device that is refused asks again each minute, and a full disk fails every commit: in a weekend that would be millions
of lines that say the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable

AGAIN_S = 3_600.0
MAX_KEPT = 4_096
"""Keys that are remembered, those written longest ago go first: strangers can make as many as they like."""


class Repeats:
    """Which lines are news. Not for several threads at once.

    Args:
        clock: Seconds of any origin, never set back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[tuple[str, ...], tuple[float, int]] = {}

    def news(self, *key: str) -> str | None:
        """What stands behind a line that is to be written, "" or how often it was not; None: it is not to be written.

        Args:
            key: Of whom and of what the line is.
        """
        now = self._clock()
        written, num_left_out = self._kept.get(key, (None, 0))
        if written is not None and now - written < AGAIN_S:
            self._kept[key] = written, num_left_out + 1
            return None
        self._kept.pop(key, None)  # so that it stands last
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = now, 0
        return f" ({num_left_out} times more since this was last written)" if num_left_out else ""

    def over(self, *key: str) -> bool:
        """Forget the lines whose key begins so: the next ones are news. Whether one was written since the last time."""
        found = [kept for kept in self._kept if kept[: len(key)] == key]
        for kept in found:
            del self._kept[kept]
        return bool(found)
