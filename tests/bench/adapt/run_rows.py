"""Makes the rows of some seeds in a process of its own, for a test to kill: ``run_rows.py WORK SEED...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent / "without_torch"))

from littoral.bench.adapt.methods import fingerprint_of
from littoral.bench.adapt.row import Row
from littoral.bench.rows import RunOptions, Tell, make_units
from littoral.bench.store import UnitStore


def rows_of(seeds: list[int]) -> list[Row]:
    fields = {"table": "quick", "method": "device_statistics", "stream": "continual", "order": "continual"}
    return [Row(**fields, teacher=None, seed=seed, frames=10) for seed in seeds]


def inputs_of(row: Row) -> str:
    """A digest as there might be of the row's data."""
    return f"data of {row.seed}"


def make_rows(
    rows: Sequence[Row], work: Path, tell: Tell = lambda event: None, *, budget_minutes: float | None = None
) -> dict[str, dict[str, Any]]:
    options = RunOptions(data=work, work=work, make="row_maker:make_row", budget_minutes=budget_minutes)
    store = UnitStore[Row](work / "rows")
    return make_units(rows, options, store=store, fingerprint_of=fingerprint_of, inputs_of=inputs_of, tell=tell)


if __name__ == "__main__":
    make_rows(
        rows_of([int(seed) for seed in sys.argv[2:]]),
        Path(sys.argv[1]),
        lambda event: print(event.kind, event.row.seed, flush=True),
    )
