"""Work of one kind that others make for the background thread: at most so much of it waits."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

Task = Callable[[], None]


class FewWaiting:
    """Hands tasks of one kind over; a cloud that floods a device fills nothing. `put` is for one thread.

    Args:
        what: Comes, for the log.
        later: Runs a task in the background thread.
        most: So many wait.

    Attributes:
        num_refused: Tasks for which there was no room.
    """

    def __init__(self, what: str, later: Callable[[Task], None], most: int) -> None:
        self._what, self._later, self._most = what, later, most
        self._given = self._begun = 0  # each written by one thread only
        self.num_refused = 0

    def put(self, task: Task) -> None:
        """Have a task run, if not too many of its kind wait already."""
        if self._given - self._begun >= self._most:
            self.num_refused += 1
            level = logging.WARNING if self.num_refused == 1 else logging.DEBUG
            log.log(level, "%s are not looked at while %d wait already", self._what, self._most)
            return
        self._given += 1

        def begin() -> None:
            self._begun += 1
            task()

        self._later(begin)
