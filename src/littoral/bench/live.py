"""What people see while the demo runs: a table that moves in a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from littoral.bench.play import DeviceTrack, accuracy
from littoral.bench.streams.digits import PHASES

WINDOW = 200
_LINE_EVERY_S, _STEP_EVERY_S = 5.0, 10.0


def recent_accuracy(track: DeviceTrack, *, frozen: bool = False) -> float:
    """Percent right among the last `WINDOW` answers; NaN before the first."""
    end = track.answered
    start = max(0, end - WINDOW)
    if end == start:
        return float("nan")
    answers = track.frozen if frozen else track.answers
    return accuracy(answers[start:end], track.stream.labels[start:end])


class LiveView:
    """Shows progress and the tracks. A context manager; `say`, `step` and `show` are what `play_demo` wants."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=quiet, quiet=quiet)
        moves = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(console=self._console, refresh_per_second=8) if moves else None
        self._started = self._last_line = time.monotonic()
        self._panel: RenderableType | None = None
        self._spinner = Spinner("dots")
        self._busy = False

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._busy = False
            self._refresh()
            self._live.stop()

    def say(self, line: str) -> None:
        """One line that stays, with the seconds since the start."""
        self._busy = False
        self._refresh()
        self._print(line)

    def step(self, line: str) -> None:
        """What is being done at the moment: a moving line in a terminal, elsewhere a line if none came for a while."""
        if self._live is not None:
            self._busy = True
            self._spinner.update(text=Text(line, style="dim"))
            self._refresh()
        elif self._silent_s() >= _STEP_EVERY_S:
            self._print(line)

    def show(self, tracks: Sequence[DeviceTrack]) -> None:
        """The state of the stream."""
        if self._live is not None:
            self._panel = panel(tracks)
            self._busy = False
            self._refresh()
        elif self._silent_s() >= _LINE_EVERY_S:
            for track in tracks:
                self._print(track_line(track))

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        text = Text(f"{self._last_line - self._started:6.1f} s  {line}")
        self._console.print(text, soft_wrap=True)

    def _silent_s(self) -> float:
        return time.monotonic() - self._last_line

    def _refresh(self) -> None:
        if self._live is not None:
            parts = [] if self._panel is None else [self._panel]
            self._live.update(Group(*parts, *([self._spinner] if self._busy else [])))


def track_line(track: DeviceTrack) -> str:
    """A device in one line of about 100 characters."""
    status = track.status
    right, twin = _percent(recent_accuracy(track)), _percent(recent_accuracy(track, frozen=True))
    return (
        f"{track.name} {track.answered / len(track.stream.frames):4.0%}  {_phase(track):<12}"
        f"  right {right:>5}, frozen twin {twin:>5}"
        f"  version {status.get('version', 0)}, {_sent(track)}, {_kilobytes(track, 'bytes_down')} down, {_cloud(track)}"
    )


def panel(tracks: Sequence[DeviceTrack]) -> RenderableType:
    """All devices as a table, and how far the stream is."""
    at = _phase_index(tracks[0])
    title = f"a drifting stream of digits: {PHASES[at][0]} (phase {at + 1} of {len(PHASES)})"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("device", "right", "frozen twin", "version", "uploads", "up", "down", "cloud"):
        table.add_column(column, justify="left" if column in ("device", "cloud") else "right")
    for track in tracks:
        table.add_row(
            track.name,
            Text(_percent(recent_accuracy(track)), style="bold green"),
            _percent(recent_accuracy(track, frozen=True)),
            str(track.status.get("version", 0)),
            f"{track.status.get('selected', 0)}",
            _kilobytes(track, "bytes_up"),
            _kilobytes(track, "bytes_down"),
            _cloud(track),
        )
    done = float(np.mean([track.answered / len(track.stream.frames) for track in tracks]))
    progress = Table.grid(padding=(0, 1))
    progress.add_row(ProgressBar(total=1.0, completed=done, width=40), f"{done:4.0%}")
    return Group(table, progress, Text(f"right: of the last {WINDOW} frames; version 0: as built", style="dim"))


def _phase_index(track: DeviceTrack) -> int:
    at = min(track.answered, len(track.stream.phase) - 1)
    return int(track.stream.phase[at])


def _phase(track: DeviceTrack) -> str:
    return PHASES[_phase_index(track)][0]


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0f} %"


def _sent(track: DeviceTrack) -> str:
    return f"{track.status.get('selected', 0)} uploads ({_kilobytes(track, 'bytes_up')})"


def _kilobytes(track: DeviceTrack, key: str) -> str:
    return f"{track.status.get(key, 0) / 1e3:.0f} kB"


def _cloud(track: DeviceTrack) -> str:
    """The link as the device last saw it; ``done`` at the end of the stream, when the device itself has hung up."""
    if track.answered >= len(track.stream.frames):
        return "done"
    return str(track.status.get("cloud", "starting"))
