"""``littoral`` with a slow device: an answer takes as long as its multiply-accumulates would at a given pace.

    python -m littoral.bench.slow_edge MACS_PER_MS edge BUNDLE ...

On this machine the demo's network takes less time than the decision how much of it to run. A small board's time is
played here by sleeping: each segment, and the exit that stands on it, takes what its multiply-accumulates would. Only
the thread that answers is slowed down; measuring, adapting and encoding go at this machine's pace.
"""

from __future__ import annotations

import runpy
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from littoral.bundle import Bundle, Manifest
from littoral.edge.session import Model


def step_macs(manifest: Manifest) -> tuple[int, ...]:
    """Of each segment with the exits that stand on it."""
    macs = list(manifest.segment_macs)
    for each in manifest.exits:
        macs[each.segment] += each.macs
    return tuple(macs)


def slow_down(macs: Sequence[int], macs_per_ms: float) -> None:
    """From now on segments take so long in this process's main thread."""
    through = Model.through

    def slowed(self: Model, first: int, last: int, value: Any) -> Any:
        due = time.perf_counter() + sum(macs[first:last]) / macs_per_ms / 1000
        given = through(self, first, last, value)
        if threading.current_thread() is threading.main_thread():
            time.sleep(max(due - time.perf_counter(), 0.0))
        return given

    setattr(Model, "through", slowed)  # noqa: B010 -- the device offers no such thing, and should not


def main() -> None:
    """Start the program ``littoral`` in this process; it ends the process."""
    pace, *rest = sys.argv[1:]
    slow_down(step_macs(Bundle.open(Path(rest[1])).manifest), float(pace))
    sys.argv = ["littoral", *rest]
    runpy.run_module("littoral.cli.main", run_name="__main__")


if __name__ == "__main__":
    main()
