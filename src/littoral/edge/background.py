"""What goes with a background thread: work that others make for it, results that are waited for, and an end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

log = logging.getLogger(__name__)

Task = Callable[[], None]
T = TypeVar("T")


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


def result_of(work: Callable[[], T], later: Callable[[Task], None], timeout_s: float) -> T:
    """What ``work`` gives in the background thread.

    Args:
        later: Runs a task there.
    Raises:
        TimeoutError: it is not done yet, and will be.
        Exception: whatever ``work`` raises.
    """
    done: Future[T] = Future()

    def task() -> None:
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001  # the caller's, in its own thread
            done.set_exception(error)

    later(task)
    return done.result(timeout_s)


class LastOne:
    """Once several threads are done calls ``then``, in the thread that says last that it is done; waits for nobody.

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
