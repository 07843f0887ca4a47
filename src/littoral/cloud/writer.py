"""One thread that writes to a SQLite database, many transactions' worth of work in one commit.

What is submitted while a commit is being synced waits and goes into the next commit together, so a thousand devices
cost about as many disk flushes as one. A future resolves only after ``COMMIT`` returned under ``synchronous=FULL``.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from littoral.cloud.repeats import Repeats
from littoral.errors import StorageError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
MAX_GROUP = 256
"""The most pieces of work in one commit."""

log = logging.getLogger(__name__)


class GroupWriter:
    """Owns the writing connection. `submit` may be called from any thread; work runs in the order of submission.

    Each piece of work runs in its own savepoint: when it raises, only its own changes are undone and its future gets
    the exception. When the database itself fails, the whole group is undone and every future gets `StorageError`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._said = Repeats()
        self._thread = threading.Thread(target=self._run, name="littoral-record", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T]) -> Future[T]:
        """Run ``work(connection)`` inside the next group; the future resolves after the group is synced.

        Raises:
            StorageError: the writer is closed.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # from here on it cannot be cancelled: the work will be done
        with self._lock:
            if self._closed:
                raise StorageError("the record is closed; start the cloud again")
            self._queue.put((work, future))
        return future

    def close(self) -> None:
        """Commit what was submitted, then stop the thread and close the connection. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (first := self._queue.get()) is not None:
                group, last = [first], False
                while len(group) < MAX_GROUP and not self._queue.empty():
                    item = self._queue.get()
                    if item is None:
                        last = True
                        break
                    group.append(item)
                self._commit(group)
                if last:
                    return
        finally:
            self._connection.close()

    def _commit(self, group: list[tuple[Work[Any], Future[Any]]]) -> None:
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for work, _ in group:
                outcomes.append(self._run_one(work))
            self._connection.execute("COMMIT")
            if self._said.over("record"):
                log.warning("the record can be written again")
        except sqlite3.Error as error:
            if (more := self._said.news("record")) is not None:
                log.error("the record could not be written: %s%s", error, more)
            self._roll_back()
            failure = StorageError(
                f"the record could not be written ({error}); free space or make the state folder writable"
            )
            outcomes = [(None, failure)] * len(group)
        for (_, future), (result, problem) in zip(group, outcomes, strict=True):
            if problem is None:
                future.set_result(result)
            else:
                future.set_exception(problem)

    def _run_one(self, work: Work[Any]) -> tuple[Any, BaseException | None]:
        self._connection.execute("SAVEPOINT one")
        result: Any = None
        problem: BaseException | None = None
        try:
            result = work(self._connection)
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError) as error:
            problem = error
        except sqlite3.Error:
            raise  # the database, not the work: the whole group is undone
        except Exception as error:  # noqa: BLE001 -- the outermost frame of this work; its caller gets the exception
            problem = error
        if problem is not None:
            self._connection.execute("ROLLBACK TO one")
        self._connection.execute("RELEASE one")
        return result, problem

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.error("the record could not be rolled back: %s", error)
