"""Stands in for a worker's row: writes down that it was begun, takes its time, and gives the seed back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from littoral.bench.adapt.row import Row

SLOW_S = 60.0


def make_row(row: Row, data: Path, work: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Seed 7 went on where another run was stopped, seed 8 fails, seed 9 takes a minute."""
    with (work / "begun").open("a") as file:
        file.write(f"{row.seed}\n")
    if row.seed == 8:
        raise ValueError("a row that cannot be made")
    if row.seed == 9:
        threading.Event().wait(SLOW_S)
    before = {"took_before": {"seconds": 1000.0, "cpu_seconds": 900.0}} if row.seed == 7 else {}
    return {"accuracy": float(row.seed), "frames": 10, **before}
