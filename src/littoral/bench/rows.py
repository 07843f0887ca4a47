"""Makes the units of a table, several at a time, in worker processes, and keeps every finished one at once.

A stop at any moment loses at most the units that run: nothing is remembered here that `UnitStore` does not hold.
"""

from __future__ import annotations

import fnmatch
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from littoral.bench.document import commit, machine, versions
from littoral.bench.store import UnitStore, UnitT
from littoral.bench.unit import TOOK_BEFORE, BenchUnit

MakeUnit = Callable[[Any, Path, Path, Callable[..., None]], dict[str, Any]]
"""A unit, the data folder, the work folder and where to tell progress, to the unit's result.

Progress is told as ``(done, of)`` in frames and, where there is more to say, a line of text."""
_TELL_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened to a unit: ``started``, ``progress``, ``done`` or ``failed``."""

    kind: str
    row: Any
    """The unit."""
    worker: int
    done: int = 0
    of: int = 0
    text: str = ""
    document: dict[str, Any] | None = None


Tell = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How units are made."""

    data: Path
    work: Path
    jobs: int = 1
    budget_minutes: float | None = None
    """After so many minutes no unit is begun; those that run are finished."""
    make: str
    """Who makes a unit in the worker process, ``module:function`` of the form of `MakeUnit`."""


@dataclass(frozen=True, kw_only=True)
class TableRequest:
    """What a command was asked for whose table is made unit by unit."""

    data: Path | None
    work: Path
    rows: Path | None = None
    """Where finished units are kept; None is ``rows`` in the work folder."""
    quick: bool = False
    only: tuple[str, ...] = ()
    jobs: int | None = None
    """None for as many as there are cores."""
    budget_minutes: float | None = None
    list_only: bool = False
    any_code: bool = False
    """Units that other code made count too: each row of the document says of which commit it is, and the
    configuration which units these are."""
    out: Path | None = None
    quiet: bool = False


def split_done(
    units: Sequence[UnitT],
    store: UnitStore[UnitT],
    fingerprint_of: Callable[[UnitT], str],
    *,
    inputs_of: Callable[[UnitT], str | None] = lambda unit: None,
    any_code: bool = False,
) -> tuple[dict[str, dict[str, Any]], list[UnitT]]:
    """Finished documents by key, and what is left to do; with ``any_code`` also those that other code made.

    What was made of other data than ``inputs_of`` names is left to do, unless that or the document says of none.
    """
    done, left = {}, []
    for unit in units:
        document = store.read(unit) if any_code else store.load(unit, fingerprint_of(unit))
        if document is None or _of_other_inputs(document, inputs_of(unit)):
            left.append(unit)
        else:
            done[unit.key] = document
    return done, left


def _of_other_inputs(document: Mapping[str, Any], inputs: str | None) -> bool:
    return inputs is not None and document.get("inputs", inputs) != inputs


def of_other_code(
    units: Sequence[UnitT], done: Mapping[str, Mapping[str, Any]], fingerprint_of: Callable[[UnitT], str]
) -> list[str]:
    """The names of the finished units that this code would make again."""
    return [u.name for u in units if u.key in done and done[u.key].get("fingerprint") != fingerprint_of(u)]


def make_units(
    units: Sequence[UnitT],
    options: RunOptions,
    *,
    store: UnitStore[UnitT],
    fingerprint_of: Callable[[UnitT], str],
    inputs_of: Callable[[UnitT], str | None] = lambda unit: None,
    tell: Tell = lambda event: None,
) -> dict[str, dict[str, Any]]:
    """Make these units in order; documents by key. One that fails is told of and left out.

    Each document says of which code, by which versions, on which machine and of which data it was made.

    Raises:
        KeyboardInterrupt: passed on once the workers are stopped; what was finished is kept.
    """
    todo, made = deque(units), dict[str, dict[str, Any]]()
    if not todo:
        return made
    stamp = {"commit": commit(), "versions": versions(), "machine": machine()}
    stop_at = None if options.budget_minutes is None else time.monotonic() + 60 * options.budget_minutes
    prints = {unit.key: fingerprint_of(unit) for unit in units}  # of the sources as they are now
    inputs = {unit.key: {"inputs": digest} for unit in units if (digest := inputs_of(unit)) is not None}
    crew = _Crew(options, stamp, min(max(options.jobs, 1), len(todo)))
    try:
        while True:
            while todo and (stop_at is None or time.monotonic() < stop_at) and (free := crew.free()) is not None:
                unit = todo.popleft()
                crew.give(free, unit)
                tell(Event(kind="started", row=unit, worker=free))
            if not crew.busy:
                return made
            for event in crew.events():
                if event.document is not None:
                    unit = next(unit for unit in units if unit.key == event.row.key)
                    document = store.save(unit, prints[unit.key], {**inputs.get(unit.key, {}), **event.document})
                    made[unit.key], event = document, replace(event, document=document)
                tell(event)
    finally:
        crew.stop()


class _Crew:
    """Worker processes and what each is at."""

    def __init__(self, options: RunOptions, stamp: dict[str, Any], size: int) -> None:
        self._options, self._stamp = options, stamp
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start() for _ in range(size)]
        self._at: dict[int, BenchUnit] = {}

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

    def give(self, number: int, unit: BenchUnit) -> None:
        self._at[number] = unit
        self._workers[number][1].send(unit)

    def events(self) -> list[Event]:
        """Wait for news; a worker that died has failed its unit and is replaced."""
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
    """A worker process: units in, events out, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to hear
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, function = options.make.split(":")
    make: MakeUnit = getattr(__import__(module, fromlist=[function]), function)
    while True:
        try:
            unit = pipe.recv()
        except EOFError:
            return
        begun, spent = time.monotonic(), time.process_time()
        try:
            result = make(unit, options.data, options.work, _teller(pipe))
        except Exception as error:  # noqa: BLE001 -- the outermost frame of a unit; the others go on
            pipe.send(("failed", {"text": f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-6)}"}))
            continue
        took = {"seconds": time.monotonic() - begun, "cpu_seconds": time.process_time() - spent}
        before = result.pop(TOOK_BEFORE, {})
        took = {name: round(value + before.get(name, 0.0), 2) for name, value in took.items()}
        pipe.send(("done", {"document": {**stamp, **took, "result": result}}))


def _teller(pipe: Connection) -> Callable[..., None]:
    last = time.monotonic()

    def tell(done: int, of: int, text: str = "") -> None:
        nonlocal last
        if time.monotonic() - last >= _TELL_EVERY_S:
            last = time.monotonic()
            pipe.send(("progress", {"done": done, "of": of, "text": text}))

    return tell


def _end_with_parent() -> None:
    """A worker must not outlive a main process that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def chosen_by_name(units: Sequence[UnitT], only: Iterable[str]) -> list[UnitT]:
    """Those of these names: globs over `BenchUnit.short`, of which the first part or the end may be left out; all where
    none is given.

    Raises:
        ValueError: one that fits none.
    """
    patterns = list(only)

    def fits(unit: UnitT, pattern: str) -> bool:
        return any(fnmatch.fnmatch(unit.short, glob) for glob in (pattern, f"{pattern}/*", f"*/{pattern}"))

    for pattern in patterns:
        if not any(fits(unit, pattern) for unit in units):
            names = ", ".join(sorted({unit.short for unit in units}))
            raise ValueError(f"--only {pattern!r} fits no unit; there are {names}")
    return [unit for unit in units if not patterns or any(fits(unit, pattern) for pattern in patterns)]
