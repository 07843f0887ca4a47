"""Plays one row: the stream's frames through a method, scored against labels that the method never sees."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.bench.adapt.row import Row
from littoral.bench.method import Costs, Labels, Method, MethodFactory, Setup
from littoral.core.arrays import Frame

TRACE_FRAMES = 100
"""Answers are summed over so many frames of a device for the trace."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One batch of one device."""

    frames: Frame
    labels: Labels
    shift: str
    """The world that the frames are of; "" where a batch has several."""
    device: int = 0
    fresh: bool = False
    """Begin with a fresh method: a stream that resets."""


@dataclass
class Score:
    """Right answers by shift, in all, and along the stream."""

    right: int = 0
    frames: int = 0
    by_shift: dict[str, list[int]] = field(default_factory=dict)
    trace: dict[int, list[list[Any]]] = field(default_factory=dict)
    """Per device and stretch of one shift: [shift, frames, right, samples sent so far]."""

    def add(self, step: Step, answers: NDArray[np.int64], uploads: int) -> None:
        right = int((answers == step.labels).sum())
        self.right += right
        self.frames += len(step.labels)
        shift = self.by_shift.setdefault(step.shift, [0, 0])
        shift[0] += len(step.labels)
        shift[1] += right
        trace = self.trace.setdefault(step.device, [])
        if not trace or trace[-1][0] != step.shift or trace[-1][1] >= TRACE_FRAMES:
            trace.append([step.shift, 0, 0, 0])
        trace[-1][1] += len(step.labels)
        trace[-1][2] += right
        trace[-1][3] = uploads


def play(
    row: Row,
    setup: Setup,
    factory: MethodFactory,
    steps: Iterable[Step],
    *,
    unscored: Iterable[int] = (),
    progress: Progress = lambda done, of: None,
) -> dict[str, Any]:
    """A row's result: flat values for the document, and ``by_shift`` and ``trace`` for the summary.

    Args:
        unscored: Devices whose answers do not count, for they are not ours.
    """
    costs, score, method = Costs(), Score(), None
    skip, done, started = frozenset(unscored), 0, time.perf_counter()
    try:
        for step in steps:
            if method is None or step.fresh:
                costs = _closed(method, costs)
                method = factory(setup)
            answers = method.answer(step.frames, device=step.device)
            if answers.shape != step.labels.shape:
                raise ValueError(f"{row.method} gave answers {answers.shape} to {len(step.labels)} frames")
            done += len(step.labels)
            if step.device not in skip:
                score.add(step, answers, costs.uploads + method.costs.uploads)
            progress(done, row.num_frames)
    finally:
        if method is not None:
            method.close()
    costs = _closed(method, costs)
    return {**_flat(costs, score, done), "play_seconds": round(time.perf_counter() - started, 2)}


def _closed(method: Method | None, before: Costs) -> Costs:
    """Close a method and add what it spent."""
    if method is None:
        return before
    method.close()
    spent = method.costs
    names = [f.name for f in dataclasses.fields(Costs) if f.name != "notes"]
    numbers = {name: getattr(before, name) + getattr(spent, name) for name in names}
    notes = {key: before.notes.get(key, 0.0) + value for key, value in spent.notes.items()}
    for key in spent.notes:
        if key.endswith("_max"):
            notes[key] = max(before.notes.get(key, 0.0), spent.notes[key])
    return Costs(**numbers, notes={**before.notes, **notes})


def _flat(costs: Costs, score: Score, frames: int) -> dict[str, Any]:
    per_thousand = 1000 / max(frames, 1)
    return {
        "accuracy": round(100 * score.right / max(score.frames, 1), 3),
        "frames": frames,
        "scored_frames": score.frames,
        "uploads": costs.uploads,
        "upload_ratio": round(costs.uploads / max(frames, 1), 4),
        "uplink_bytes": costs.uplink_bytes,
        "downlink_bytes": costs.downlink_bytes,
        "pushes": costs.pushes,
        "forward_passes": round(costs.forward_frames / max(frames, 1), 3),
        "backward_passes": round(costs.backward_frames / max(frames, 1), 3),
        "cloud_seconds_per_1000": round(costs.cloud_seconds * per_thousand, 3),
        "notes": costs.notes,
        "by_shift": {name: [count, right] for name, (count, right) in score.by_shift.items()},
        "trace": {str(device): trace for device, trace in score.trace.items()},
    }
