"""Something to do once several threads are done, by whichever is the last."""

from __future__ import annotations

import threading
from collections.abc import Callable


class LastOne:
    """Calls ``then`` once, in the thread that says last that it is done; waits for nobody.

    Args:
        names: Who has to be done.
    """

    def __init__(self, names: set[str], then: Callable[[], None]) -> None:
        self._left, self._then, self._lock = set(names), then, threading.Lock()

    def done(self, name: str) -> None:
        """Say it; a second time it changes nothing."""
        with self._lock:
            last = self._left == {name}
            self._left.discard(name)
        if last:
            self._then()
