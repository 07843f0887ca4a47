"""Halves of a drawn table, as the loop bench takes them: small, and no network anywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from routing_tables import drawn

from littoral.bench.routing.halves import EXIT_SETS, Exits, Halves
from littoral.bench.routing.plan import full_plan
from littoral.bench.routing.tables import FrameTable
from littoral.bench.routing.unit import LoopUnit

NAMES = ("split layer2.1 0", "split layer2.1 1", "split layer2.1 2", "webp 95")


def with_exits(table: FrameTable, exits: Exits) -> FrameTable:
    """Of the drawn table's two exits as many as are asked for; a step without an exit takes less."""
    assert table.features_NPF is not None
    points = [*range(len(exits)), 2]
    edges = np.cumsum([0.0, *table.step_ms])
    ends = [edges[point + 1] for point in points]
    steps = np.diff([0.0, *ends]) + 0.5 * (np.arange(len(points)) < len(exits))
    ways = [
        replace(way, name=name, way=replace(way.way, point=min(way.way.point, len(points))))
        for way, name in zip(table.ways, NAMES, strict=True)
    ]
    return replace(
        table,
        answers_NP=table.answers_NP[:, points],
        confidences_NP=table.confidences_NP[:, points],
        features_NPF=table.features_NPF[:, points],
        step_ms=tuple(steps.tolist()),
        ways=tuple(ways),
    )


def small_halves(num_calibration: int = 900, num_frames: int = 120, *, drift: bool = False) -> Halves:
    """A calibration half and a stream, all sets of exits."""
    calibration, stream = drawn(num_calibration, 1), drawn(num_frames, 2)
    if drift:
        stream = replace(stream, drift_N=np.arange(num_frames) == num_frames // 2)
    phases = np.where(np.arange(num_frames) < num_frames // 2, "clean", "fog" if drift else "clean")
    return Halves(
        calibration={exits: with_exits(calibration, exits) for exits in EXIT_SETS},
        stream={exits: with_exits(stream, exits) for exits in EXIT_SETS},
        num_splits=3,
        phases_N=phases,
    )


def unit_of(kind: str, trace: str, stream: str = "clean") -> LoopUnit:
    """A unit of the full plan, its stream being given elsewhere."""
    return next(u for u in full_plan(device_ms=22.0) if (u.kind, u.trace, u.stream) == (kind, trace, stream))
