"""Makes rows, several at a time, each in a process of its own kind, and keeps every finished one at once.

A stop at any moment loses at most the rows that are running: nothing is remembered here that `RowStore` does not hold.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from littoral.bench.adapt.fingerprint import fingerprint
from littoral.bench.adapt.methods import modules_of, modules_without
from littoral.bench.adapt.row import Row
from littoral.bench.adapt.store import RowStore
from littoral.bench.document import commit, machine

MakeRow = Callable[[Row, Path, Path, Callable[[int, int], None]], dict[str, Any]]
"""A row, the data folder, the work folder and where to tell progress, to the row's result."""
_TELL_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened to a row: ``started``, ``progress``, ``done`` or ``failed``."""

    kind: str
    row: Row
    worker: int
    done: int = 0
    of: int = 0
    text: str = ""
    document: dict[str, Any] | None = None


Tell = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How rows are made."""

    data: Path
    work: Path
    rows: Path | None = None
    """Where finished rows are kept; None is ``rows`` in the work folder."""
    jobs: int = 1
    budget_minutes: float | None = None
    """After so many minutes no row is begun; those that run are finished."""
    make: str = "littoral.bench.adapt.make:make_row"
    """Who makes a row in the worker process, ``module:function`` of the form of `MakeRow`."""


def fingerprint_of(row: Row) -> str:
    """Of the source files that the row's numbers come from."""
    return fingerprint(modules_of(row), without=modules_without(row))


def split_done(rows: Sequence[Row], store: RowStore) -> tuple[dict[str, dict[str, Any]], list[Row]]:
    """Finished documents by key, and what is left to do."""
    done, left = {}, []
    for row in rows:
        document = store.load(row, fingerprint_of(row))
        if document is None:
            left.append(row)
        else:
            done[row.key] = document
    return done, left


def make_rows(rows: Sequence[Row], options: RunOptions, tell: Tell = lambda event: None) -> dict[str, dict[str, Any]]:
    """Make these rows in order; documents by key. A row that fails is told of and left out.

    Raises:
        KeyboardInterrupt: passed on once the workers are stopped; what was finished is kept.
    """
    todo, made = deque(rows), dict[str, dict[str, Any]]()
    if not todo:
        return made
    stamp = {"commit": commit(), "machine": machine()}
    stop_at = None if options.budget_minutes is None else time.monotonic() + 60 * options.budget_minutes
    prints = {row.key: fingerprint_of(row) for row in rows}  # of the sources as they are now
    crew = _Crew(options, stamp, min(max(options.jobs, 1), len(todo)), prints)
    try:
        while True:
            while todo and (stop_at is None or time.monotonic() < stop_at) and (free := crew.free()) is not None:
                row = todo.popleft()
                crew.give(free, row)
                tell(Event(kind="started", row=row, worker=free))
            if not crew.busy:
                return made
            for event in crew.events():
                if event.document is not None:
                    made[event.row.key] = event.document
                tell(event)
    finally:
        crew.stop()


class _Crew:
    """Worker processes and what each is at."""

    def __init__(self, options: RunOptions, stamp: dict[str, Any], size: int, prints: dict[str, str]) -> None:
        self._options, self._stamp, self._prints = options, stamp, prints
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start() for _ in range(size)]
        self._at: dict[int, Row] = {}

    def _start(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._options, self._stamp), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    @property
    def busy(self) -> bool:
        return bool(self._at)

    def free(self) -> int | None:
        """The number of a worker that has nothing to do."""
        return next((number for number in range(len(self._workers)) if number not in self._at), None)

    def give(self, number: int, row: Row) -> None:
        self._at[number] = row
        self._workers[number][1].send((row, self._prints[row.key]))

    def events(self) -> list[Event]:
        """Wait for news; a worker that died has failed its row and is replaced."""
        pipes: dict[Any, int] = {self._workers[number][1]: number for number in self._at}
        out = []
        for ready in wait(list(pipes)):
            number = pipes[ready]
            row = self._at[number]
            try:
                kind, values = self._workers[number][1].recv()
            except (EOFError, OSError):
                process = self._workers[number][0]
                process.join()
                kind, values = "failed", {"text": f"the worker ended with status {process.exitcode}"}
                self._workers[number] = self._start()
            if kind in ("done", "failed"):
                del self._at[number]
            out.append(Event(kind=kind, row=row, worker=number, **values))
        return out

    def stop(self) -> None:
        """End all workers at once; what they were at is lost."""
        for process, pipe in self._workers:
            process.terminate()
            pipe.close()
        for process, _ in self._workers:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


def _work(pipe: Connection, options: RunOptions, stamp: dict[str, Any]) -> None:
    """A worker process: rows in, events out, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to hear
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, function = options.make.split(":")
    make: MakeRow = getattr(__import__(module, fromlist=[function]), function)
    store = RowStore(options.rows or options.work / "rows")
    while True:
        try:
            row, made_by = pipe.recv()
        except EOFError:
            return
        begun, spent = time.monotonic(), time.process_time()
        try:
            result = make(row, options.data, options.work, _teller(pipe))
        except Exception as error:  # noqa: BLE001 -- the outermost frame of a row; the others go on
            pipe.send(("failed", {"text": f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-6)}"}))
            continue
        took = {"seconds": round(time.monotonic() - begun, 2), "cpu_seconds": round(time.process_time() - spent, 2)}
        values = {**stamp, **took, "result": result}
        pipe.send(("done", {"document": store.save(row, made_by, values)}))


def _teller(pipe: Connection) -> Callable[[int, int], None]:
    last = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _TELL_EVERY_S:
            last = time.monotonic()
            pipe.send(("progress", {"done": done, "of": of}))

    return tell


def _end_with_parent() -> None:
    """A worker must not outlive a main process that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
