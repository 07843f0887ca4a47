"""A unit of the loop table: what is played at one go and kept in one file. Which ones there are is in `plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from littoral.bench.unit import BenchUnit

Kind = Literal["policies", "speed", "no-cloud"]


@dataclass(frozen=True, kw_only=True)
class LoopUnit(BenchUnit):
    """What is measured at one go.

    Attributes:
        kind: ``policies``: all of them on a trace. ``speed``: some of them for a device of another speed.
            ``no-cloud``: ours when nothing ever gets through.
        trace: A kind of `littoral.bench.routing.traces`, or the name of a user's file.
        stream: ``clean`` or ``drift``.
        seed: Of the halves, the stream's order, the trace and the coins.
        device_ms: What the device's whole network takes: its speed.
        options: JSON values: ``tables`` for `littoral.bench.routing.measured.MeasuredConfig`, ``frames`` of the stream
            at most, ``trace_file`` with its rows for a user's trace.
    """

    kind: Kind = "policies"
    trace: str
    stream: str = "clean"
    seed: int = 0
    device_ms: float
    deadline_ms: float = 200.0
    period_ms: float = 50.0
    in_flight: int = 16
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """``kind/trace/stream/seed``, for globs."""
        return f"{self.kind}/{self.trace}/{self.stream}/{self.seed}"

    @property
    def name(self) -> str:
        """For people."""
        speed = f" device {self.device_ms:g} ms" if self.kind == "speed" else ""
        return f"{self.kind} {self.trace} {self.stream} seed {self.seed}{speed}"

    @property
    def slug(self) -> str:
        return f"{self.kind}-{self.trace}-{self.stream}-{self.seed}-{self.device_ms:g}"

    @property
    def sort(self) -> str:
        return self.kind

    @property
    def num_frames(self) -> int:
        """About how many frames' work it is, for bars and estimates."""
        policies = {"policies": 60, "speed": 20, "no-cloud": 6}[self.kind]
        return policies * int(self.options.get("frames", 5_000))
