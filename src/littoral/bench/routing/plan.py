"""Which units the loop table has, in the order in which they are worth having."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from littoral.bench.routing.measured import QUICK_CONFIG, MeasuredConfig
from littoral.bench.routing.traces import KINDS
from littoral.bench.routing.unit import LoopUnit

SEEDS = (0, 1, 2)
DEVICE_MS = 8.0
"""A small board computer: ResNet-20, 40.6 million multiply-accumulates, in 8 ms."""
SPEEDS_MS = (4.0, 16.0, 30.0)
"""Beside `DEVICE_MS`, which all other units have."""
WIFI = "wifi-walk"
FRAMES, QUICK_FRAMES = 5_000, 250


def full_plan(
    *, device_ms: float = DEVICE_MS, epochs: int | None = None, traces: Mapping[str, str] | None = None
) -> list[LoopUnit]:
    """Every trace with clean frames and under drift, of three seeds; other speeds of the device on the walk.

    Args:
        device_ms: What the device's whole network takes.
        epochs: Of the splits' trainings, where not `littoral.bench.split.plan.Budget`'s.
        traces: Users' files: names with the SHA-256 under which they are kept in the work folder.
    """
    config = MeasuredConfig() if epochs is None else MeasuredConfig(epochs=epochs)
    options: dict[str, Any] = {"tables": config.options(), "frames": FRAMES}
    units = [
        LoopUnit(trace=trace, stream=stream, seed=seed, device_ms=device_ms, options=options)
        for stream in ("clean", "drift")
        for seed in SEEDS
        for trace in KINDS
    ]
    units += [
        LoopUnit(kind="no-cloud", trace="outage", seed=seed, device_ms=device_ms, options=options) for seed in SEEDS
    ]
    units += [
        LoopUnit(kind="speed", trace=WIFI, seed=seed, device_ms=speed, options=options)
        for speed in SPEEDS_MS
        for seed in SEEDS
    ]
    return [*units, *_of_files(traces or {}, device_ms, options)]


def quick_plan(*, device_ms: float = DEVICE_MS, traces: Mapping[str, str] | None = None) -> list[LoopUnit]:
    """Everything once, hardly trained: the numbers mean nothing."""
    options: dict[str, Any] = {"tables": QUICK_CONFIG.options(), "frames": QUICK_FRAMES}
    units = [LoopUnit(trace=trace, device_ms=device_ms, options=options) for trace in KINDS]
    units.append(LoopUnit(trace=WIFI, stream="drift", device_ms=device_ms, options=options))
    units.append(LoopUnit(kind="no-cloud", trace="outage", device_ms=device_ms, options=options))
    units.append(LoopUnit(kind="speed", trace=WIFI, device_ms=2 * device_ms, options=options))
    return [*units, *_of_files(traces or {}, device_ms, options)]


def _of_files(traces: Mapping[str, str], device_ms: float, options: Mapping[str, Any]) -> list[LoopUnit]:
    return [
        LoopUnit(trace=name, device_ms=device_ms, options={**options, "trace_file": digest})
        for name, digest in traces.items()
    ]
