"""Traces of links: what a link can do from moment to moment. Five seeded kinds, and users' own files.

A trace is a CSV file (UTF-8) with a header and a row for each moment at which the link changes:

    time_ms,up_kbit_s,down_kbit_s,one_way_ms,loss,cloud_queue_ms
    0,12000,40000,8,0.001,0
    100,11500,40000,9,0.002,0

`time_ms` begins at 0 and rises; a row holds until the next one, the last as long as the one before it. `up_kbit_s` and
`down_kbit_s` are what gets through, 0 in an outage; `one_way_ms` is the delay of a packet each way; `loss` is the share
of packets lost. `cloud_queue_ms`, how long a request waits in the cloud for other devices' ones, may be left out. Lines
that begin with # are for people. A stream that is longer than the trace begins it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from littoral.core.arrays import Float64s

Kind = Literal["fixed", "wifi-walk", "lte-drive", "outage", "saturated"]
KINDS: tuple[Kind, ...] = get_args(Kind)
COLUMNS = ("time_ms", "up_kbit_s", "down_kbit_s", "one_way_ms", "loss", "cloud_queue_ms")
_STEP_MS = 100.0
_MOST_ROWS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class LinkTrace:
    """What a link can do in each of S stretches of time; all arrays ``(S,)``.

    Attributes:
        name: For tables.
        time_ms: When each stretch begins.
        duration_ms: After it the trace begins again.
    """

    name: str
    time_ms: Float64s
    up_kbit_s: Float64s
    down_kbit_s: Float64s
    one_way_ms: Float64s
    loss: Float64s
    cloud_queue_ms: Float64s
    duration_ms: float

    def __post_init__(self) -> None:
        size = self.time_ms.shape
        for name in COLUMNS[1:]:
            values = getattr(self, name)
            if values.shape != size or not np.isfinite(values).all() or (values < 0).any():
                raise ValueError(f"trace {self.name!r}: {name} needs {size} finite values, none below 0")
        if size == (0,) or self.time_ms[0] != 0 or (np.diff(self.time_ms) <= 0).any():
            raise ValueError(f"trace {self.name!r}: its times begin at 0 and rise")
        if not self.duration_ms > self.time_ms[-1] or (self.loss >= 1).any():
            raise ValueError(f"trace {self.name!r}: it lasts longer than its last time, and less than all is lost")

    def index_at(self, time_ms: float) -> int:
        """The stretch at this time."""
        return int(np.searchsorted(self.time_ms, time_ms % self.duration_ms, side="right")) - 1

    def without_cloud(self) -> LinkTrace:
        """The same with nothing getting through."""
        none = np.zeros_like(self.up_kbit_s)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return LinkTrace(**(values | {"name": f"{self.name}, no cloud", "up_kbit_s": none, "down_kbit_s": none}))


def make_trace(kind: Kind, seed: int = 0, *, duration_ms: float = 120_000.0) -> LinkTrace:
    """A trace of a kind. The same seed, the same trace.

    The figures are chosen to be plausible and are no measurements: ``fixed`` a cable at 10 Mbit/s up; ``wifi-walk`` a
    walk from 30 Mbit/s to the edge of the cell and back, twice; ``lte-drive`` 1 to 20 Mbit/s with handovers of half a
    second in which next to nothing passes; ``outage`` the cable, cut from 40 to 65 % of the time; ``saturated`` what
    others leave of an uplink, with full buffers before it and a busy cloud behind it.
    """
    if kind not in KINDS:
        raise ValueError(f"a kind of trace is one of {', '.join(KINDS)}, got {kind!r}")
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    size = max(int(duration_ms // _STEP_MS), 10)
    times: Float64s = np.arange(size, dtype=np.float64) * _STEP_MS
    share: Float64s = times / (size * _STEP_MS)
    up, down, one_way, loss, queue = _MAKERS[kind](rng, share)
    return LinkTrace(
        name=kind,
        time_ms=times,
        up_kbit_s=up,
        down_kbit_s=down,
        one_way_ms=one_way,
        loss=loss,
        cloud_queue_ms=queue,
        duration_ms=size * _STEP_MS,
    )


def read_trace(path: Path | str) -> LinkTrace:
    """A trace from a CSV file; the format is at the top of this module.

    Raises:
        ValueError: it is not such a file; says in which line and what is expected there.
    """
    path = Path(path)
    rows: list[list[float]] = []
    columns: list[str] | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split(",")]
        if columns is None:
            columns = _columns(path, number, cells)
            continue
        rows.append(_row(path, number, cells, columns))
        if len(rows) > _MOST_ROWS:
            raise ValueError(f"{path}: more than {_MOST_ROWS} rows; cut the trace, a stream begins it again anyway")
        if len(rows) > 1 and rows[-1][columns.index("time_ms")] <= rows[-2][columns.index("time_ms")]:
            raise ValueError(f"{path}:{number}: time_ms does not rise; sort the rows, one for each time")
    if columns is None or not rows:
        raise ValueError(f"{path}: no rows; expected a header '{','.join(COLUMNS[:5])}' and at least one row")
    table = np.array(rows, dtype=np.float64)
    values = {name: table[:, columns.index(name)] for name in columns}
    values.setdefault("cloud_queue_ms", np.zeros(len(rows)))
    times = values["time_ms"]
    if times[0] != 0:
        raise ValueError(f"{path}: time_ms begins at {times[0]:g}; subtract that, a trace begins at 0")
    last = times[-1] - times[-2] if len(times) > 1 else 1000.0
    return LinkTrace(name=path.stem, duration_ms=float(times[-1] + last), **values)


def write_trace(trace: LinkTrace, path: Path | str) -> None:
    """The inverse of `read_trace`, to three decimals."""
    rows = np.stack([getattr(trace, name) for name in COLUMNS], axis=1)
    lines = [",".join(COLUMNS), *(",".join(f"{value:.6g}" for value in row) for row in rows.tolist())]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _columns(path: Path, number: int, cells: list[str]) -> list[str]:
    missing = [name for name in COLUMNS[:5] if name not in cells]
    unknown = [name for name in cells if name not in COLUMNS]
    if missing or unknown or len(set(cells)) != len(cells):
        raise ValueError(
            f"{path}:{number}: the header has {', '.join(cells)!r}; expected {','.join(COLUMNS[:5])} and, if it is "
            f"known, cloud_queue_ms" + (f"; missing: {', '.join(missing)}" if missing else "")
        )
    return cells


def _row(path: Path, number: int, cells: list[str], columns: list[str]) -> list[float]:
    if len(cells) != len(columns):
        raise ValueError(f"{path}:{number}: {len(cells)} values, the header has {len(columns)} columns")
    row = []
    for name, cell in zip(columns, cells, strict=True):
        try:
            value = float(cell)
        except ValueError:
            raise ValueError(
                f"{path}:{number}: {name} is {cell!r}; write a number, with a point for decimals"
            ) from None
        if not 0 <= value < math.inf:
            raise ValueError(f"{path}:{number}: {name} is {cell}; it is finite and not below 0 (an outage is 0 kbit/s)")
        if name == "loss" and value >= 1:
            raise ValueError(f"{path}:{number}: loss is {cell}; it is a share below 1 (0.02 for 2 %)")
        row.append(value)
    return row


_Made = tuple[Float64s, Float64s, Float64s, Float64s, Float64s]


def _wander(rng: np.random.Generator, size: int, keep: float) -> Float64s:
    """A path of mean 0 and variance 1 that forgets a step's share ``1 - keep``."""
    steps = rng.standard_normal(size) * math.sqrt(1 - keep**2)
    path = np.empty(size)
    now = float(rng.standard_normal())
    for i, step in enumerate(steps.tolist()):
        now = keep * now + step
        path[i] = now
    return path


def _fixed(rng: np.random.Generator, share: Float64s) -> _Made:
    one = np.ones(len(share))
    return 10_000 * one, 40_000 * one, 8 * one, 0 * one, 0 * one


def _wifi_walk(rng: np.random.Generator, share: Float64s) -> _Made:
    size = len(share)
    near = (1 + np.cos(4 * np.pi * share)) / 2  # 1 beside the access point, 0 at the edge of the cell
    up = np.exp(np.log(600) + near * np.log(50) + 0.35 * _wander(rng, size, 0.9))
    one_way = 3 + 20 * (1 - near) ** 2 * np.exp(0.6 * _wander(rng, size, 0.7))
    return up, 1.5 * up, one_way, np.clip(0.04 * (1 - near) ** 2, 0, 0.5), np.zeros(size)


def _lte_drive(rng: np.random.Generator, share: Float64s) -> _Made:
    size = len(share)
    up = np.exp(np.log(5_000) + 0.7 * _wander(rng, size, 0.97))
    one_way = 22 + 12 * np.exp(0.5 * _wander(rng, size, 0.8))
    at = 0
    while (at := at + int(rng.integers(100, 300))) < size:  # a handover each 10 to 30 s
        up[at : at + int(rng.integers(3, 8))] = 40.0
    return up, 4 * up, one_way, np.full(size, 0.005), np.zeros(size)


def _outage(rng: np.random.Generator, share: Float64s) -> _Made:
    up, down, one_way, loss, queue = _fixed(rng, share)
    cut = (share >= 0.4) & (share < 0.65)
    return np.where(cut, 0.0, up), np.where(cut, 0.0, down), one_way, loss, queue


def _saturated(rng: np.random.Generator, share: Float64s) -> _Made:
    size = len(share)
    full = 1 / (1 + np.exp(-1.5 * _wander(rng, size, 0.97)))  # how full the buffers are
    up = 1_500 * (1 - full) + 250
    return up, 20 * up, 20 + 180 * full, 0.04 * full, 60 * full * rng.random(size)


_MAKERS: dict[Kind, Callable[[np.random.Generator, Float64s], _Made]] = {
    "fixed": _fixed,
    "wifi-walk": _wifi_walk,
    "lte-drive": _lte_drive,
    "outage": _outage,
    "saturated": _saturated,
}
