"""What people see while rows are made: bars in a terminal, a line for each row anywhere else. Never on stdout.

A row that fails is told of whatever was asked for.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from littoral.bench.rows import Event

_LINE_EVERY_S = 60.0


class ProgressView:
    """Told of events; a context manager. ``quiet``: only of what failed."""

    def __init__(self, total: int, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console, self._quiet = console or Console(stderr=True), quiet
        moves = self.console.is_terminal and not self.console.is_dumb_terminal and not quiet
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=self.console) if moves else None
        self._tasks: dict[int, TaskID] = {}
        self._all = self._bars.add_task("rows", total=total) if self._bars is not None else None
        self._started, self._said = time.monotonic(), dict[int, float]()
        self._total, self._done = total, 0

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, line: str) -> None:
        """One line that stays."""
        if not self._quiet:
            self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(Text(f"{time.monotonic() - self._started:7.1f} s  {line}"), soft_wrap=True)

    def tell(self, event: Event) -> None:
        """Take in what happened to a row."""
        if event.kind in ("done", "failed"):
            self._done += 1
            self._finish(event)
        elif self._bars is not None:
            if event.kind == "started":
                self._tasks[event.worker] = self._bars.add_task(event.row.name, total=event.row.num_frames)
            else:
                told = f"{event.row.name}  {event.text}" if event.text else None
                self._bars.update(self._tasks[event.worker], completed=event.done, description=told)
        elif event.kind == "started":
            self._said[event.worker] = time.monotonic()
            self.say(f"started {event.row.name}")
        elif time.monotonic() - self._said.get(event.worker, 0.0) >= _LINE_EVERY_S:
            self._said[event.worker] = time.monotonic()
            more = f": {event.text}" if event.text else ""
            self.say(f"{event.done / max(event.of, 1):4.0%} of {event.row.name}{more}")

    def _finish(self, event: Event) -> None:
        if self._bars is not None and self._all is not None:
            self._bars.advance(self._all)
            if (task := self._tasks.pop(event.worker, None)) is not None:
                self._bars.remove_task(task)
        if event.document is None:
            self._print(f"FAILED {event.row.name}: {event.text.strip()}")
            return
        result, seconds = event.document["result"], event.document["seconds"]
        right = f"{result['accuracy']:.2f} % right, " if "accuracy" in result else ""
        self.say(f"[{self._done}/{self._total}] {event.row.name}: {right}{seconds:.0f} s")
