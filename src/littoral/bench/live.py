"""What people see while the demo runs: a table that moves in a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from littoral.bench.loop import DeviceTrack, accuracy
from littoral.bench.streams import PHASES

WINDOW = 200
_LINE_EVERY_S = 5.0


def recent_accuracy(track: DeviceTrack, *, frozen: bool = False) -> float:
    """Percent right among the last `WINDOW` answers; NaN before the first."""
    end = track.answered
    start = max(0, end - WINDOW)
    if end == start:
        return float("nan")
    answers = track.frozen if frozen else track.answers
    return accuracy(answers[start:end], track.stream.labels[start:end])


class LiveView:
    """Shows progress and the tracks. A context manager; `say` and `show` are what `run_loop` wants."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=quiet, quiet=quiet)
        self._live = Live(console=self._console, refresh_per_second=5) if self._console.is_terminal else None
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """One line of progress, with the seconds since the start."""
        self._console.print(Text(f"{time.monotonic() - self._started:6.1f} s  {line}"))

    def show(self, tracks: Sequence[DeviceTrack]) -> None:
        """The state of the stream."""
        if self._live is not None:
            self._live.update(_panel(tracks))
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            for track in tracks:
                self.say(_line(track))


def _phase(track: DeviceTrack) -> str:
    at = min(track.answered, len(track.stream.phase) - 1)
    return PHASES[int(track.stream.phase[at])][0]


def _line(track: DeviceTrack) -> str:
    status = track.status
    return (
        f"{track.name}  {track.answered / len(track.stream.frames):4.0%}  {_phase(track):<13} "
        f"right {recent_accuracy(track):5.1f} % (frozen twin {recent_accuracy(track, frozen=True):5.1f} %)  "
        f"version {status.get('version', 0)}, {status.get('selected', 0)} uploads, "
        f"{status.get('bytes_up', 0) / 1e3:.0f} kB up, {status.get('bytes_down', 0) / 1e3:.0f} kB down, "
        f"cloud {status.get('cloud', 'away')}"
    )


def _panel(tracks: Sequence[DeviceTrack]) -> RenderableType:
    table = Table(title=f"a drifting stream of digits: {_phase(tracks[0])}", title_justify="left")
    for column in ("device", "right", "frozen twin", "version", "uploads", "up", "down", "cloud"):
        table.add_column(column, justify="left" if column in ("device", "cloud") else "right")
    for track in tracks:
        status = track.status
        table.add_row(
            track.name,
            Text(f"{recent_accuracy(track):.1f} %", style="bold green"),
            f"{recent_accuracy(track, frozen=True):.1f} %",
            str(status.get("version", 0)),
            str(status.get("selected", 0)),
            f"{status.get('bytes_up', 0) / 1e3:.0f} kB",
            f"{status.get('bytes_down', 0) / 1e3:.0f} kB",
            str(status.get("cloud", "away")),
        )
    done = float(np.mean([track.answered / len(track.stream.frames) for track in tracks]))
    caption = Text(f"right: of the last {WINDOW} frames", style="dim")
    return Group(table, ProgressBar(total=1.0, completed=done, width=60), caption)
