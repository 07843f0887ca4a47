"""Makes the rows of some seeds in a process of its own, for a test to kill: ``run_rows.py WORK SEED...``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent / "without_torch"))

from littoral.bench.adapt.row import Row
from littoral.bench.adapt.rows import RunOptions, make_rows


def rows_of(seeds: list[int]) -> list[Row]:
    fields = {"table": "quick", "method": "device_statistics", "stream": "continual", "order": "continual"}
    return [Row(**fields, teacher=None, seed=seed, frames=10) for seed in seeds]


if __name__ == "__main__":
    work = Path(sys.argv[1])
    make_rows(
        rows_of([int(seed) for seed in sys.argv[2:]]),
        RunOptions(data=work, work=work, jobs=1, make="row_maker:make_row"),
        lambda event: print(event.kind, event.row.seed, flush=True),
    )
