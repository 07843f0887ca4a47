"""``littoral`` with a slow device: an answer takes as long as its multiply-accumulates would at a given pace.

    python -m littoral.bench.slow_edge MACS_PER_MS edge BUNDLE ...

On this machine the demo's network takes less time than the decision how much of it to run. A small board's time is
played here by sleeping: each segment takes what its multiply-accumulates would, and so does each exit that is asked.
Only the thread that answers is slowed down; measuring, adapting and encoding go at this machine's pace.
"""

from __future__ import annotations

import runpy
import sys
import threading
import time
from pathlib import Path
from typing import Any

from littoral.bundle import Bundle, Manifest
from littoral.edge.exit_parts import PlacedExit
from littoral.edge.session import Model


def slow_down(manifest: Manifest, macs_per_ms: float) -> None:
    """From now on segments and exits take so long in this process's main thread."""
    through, pooled = Model.through, PlacedExit.pooled
    segments = manifest.segment_macs
    stems = {each.segment + 1: each.macs for each in manifest.exits if not each.is_deep}

    def sleep(due: float) -> None:
        if threading.current_thread() is threading.main_thread():
            time.sleep(max(due - time.perf_counter(), 0.0))

    def slow_through(self: Model, first: int, last: int, value: Any) -> Any:
        due = time.perf_counter() + sum(segments[first:last]) / macs_per_ms / 1000
        given = through(self, first, last, value)
        sleep(due)
        return given

    def slow_pooled(self: PlacedExit, value: Any) -> Any:
        due = time.perf_counter() + (0 if self.is_deep else stems[self.after]) / macs_per_ms / 1000
        given = pooled(self, value)
        sleep(due)
        return given

    setattr(Model, "through", slow_through)  # noqa: B010 -- the device offers no such thing, and should not
    setattr(PlacedExit, "pooled", slow_pooled)  # noqa: B010


def main() -> None:
    """Start the program ``littoral`` in this process; it ends the process."""
    pace, *rest = sys.argv[1:]
    slow_down(Bundle.open(Path(rest[1])).manifest, float(pace))
    sys.argv = ["littoral", *rest]
    runpy.run_module("littoral.cli.main", run_name="__main__")


if __name__ == "__main__":
    main()
