"""Finished rows of the adaptation table, and how long the others will take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from littoral.bench.adapt.row import Row
from littoral.bench.store import UnitStore


class RowStore(UnitStore[Row]):
    """Rows under names that people can read."""

    def path(self, row: Row) -> Path:
        return self.folder / f"{row.method}-{row.stream}-{row.seed}-{row.key}.json"


def us_per_frame(documents: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Per method the mean processor time of a frame in microseconds, of what was done."""
    seconds: dict[str, float] = {}
    frames: dict[str, int] = {}
    for document in documents:
        method = document["config"]["method"]
        seconds[method] = seconds.get(method, 0.0) + document["cpu_seconds"]
        frames[method] = frames.get(method, 0) + document["result"].get("frames", 0)
    return {method: 1e6 * seconds[method] / frames[method] for method in seconds if frames[method]}


FALLBACK_US = {
    "product": 8000.0, "product_unguarded": 8000.0, "device_statistics": 2500.0, "parity_shipped": 1500.0,
    "parity_paper": 1500.0, "teacher_everything": 5000.0, "teacher_answers": 1500.0, "cotta": 20000.0, "source": 400.0,
    "push_loss": 10000.0,
}  # fmt: skip
"""Before anything was measured, on one core of a small machine."""
_OTHERS_US = 2500.0


def estimate_seconds(row: Row, measured: dict[str, float]) -> float:
    """How long a row will take, on one core."""
    return row.num_frames * measured.get(row.method, FALLBACK_US.get(row.method, _OTHERS_US)) / 1e6 + 5.0
