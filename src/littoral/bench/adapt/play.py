"""Plays one row: the stream's frames through a method, scored against labels that the method never sees."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.bench.adapt.lives import Life, LifeStore
from littoral.bench.adapt.row import Row
from littoral.bench.method import Costs, Labels, Method, MethodFactory, Setup
from littoral.bench.unit import TOOK_BEFORE
from littoral.core.arrays import Frame

TRACE_FRAMES = 64
"""Answers are summed over so many frames of a device for the trace: a batch of most streams, 3 % of a visit of the
recurring one."""
CLOUD_CLOCK = "processor"
"""What every method counts `Costs.cloud_seconds` by, as rows say it."""
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


def score(life: Life, step: Step, answers: NDArray[np.int64], uploads: int) -> None:
    """Count a batch's right answers, in all, by shift and along the stream."""
    right = int((answers == step.labels).sum())
    life.right += right
    life.scored_frames += len(step.labels)
    shift = life.by_shift.setdefault(step.shift, [0, 0])
    shift[0] += len(step.labels)
    shift[1] += right
    trace = life.trace.setdefault(str(step.device), [])
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
    kept: LifeStore | None = None,
    progress: Progress = lambda done, of: None,
) -> dict[str, Any]:
    """A row's result: flat values for the document, and ``by_shift`` and ``trace`` for the summary.

    Args:
        unscored: Devices whose answers do not count, for they are not ours.
        kept: Where a stream that resets finds lives that were played before, and leaves those that are over.
    """
    skip, done, lives, known = frozenset(unscored), 0, list[Life](), list[Life]()
    method: Method | None = None
    began = (0.0, 0.0)

    def end() -> None:
        """Close the last life, if it is played now."""
        nonlocal method
        if method is None:
            return
        closing, method = method, None
        closing.close()
        life = lives[-1]
        life.costs = closing.costs
        life.seconds, life.cpu_seconds = time.perf_counter() - began[0], time.process_time() - began[1]

    def keep() -> None:
        """End the last life and leave it where the next run finds it."""
        played = method is not None
        end()
        if played and kept is not None:
            kept.save(len(lives) - 1, lives[-1])

    try:
        for step in steps:
            if not lives or step.fresh:
                if lives:
                    keep()
                if kept is not None and (life := kept.load(len(lives))) is not None:
                    known.append(life)
                    lives.append(life)
                else:
                    lives.append(Life())
                    began = time.perf_counter(), time.process_time()
                    method = factory(setup)
            done += len(step.labels)
            if method is not None:
                answers = method.answer(step.frames, device=step.device)
                if answers.shape != step.labels.shape:
                    raise ValueError(f"{row.method} gave answers {answers.shape} to {len(step.labels)} frames")
                lives[-1].frames += len(step.labels)
                if step.device not in skip:
                    score(lives[-1], step, answers, method.costs.uploads)
            progress(done, row.num_frames)
        if len(lives) > 1:
            keep()
    finally:
        end()
    result = _flat(lives)
    if known:
        names = ("seconds", "cpu_seconds")
        result[TOOK_BEFORE] = {name: sum(getattr(life, name) for life in known) for name in names}
    return result


def _all_costs(lives: Iterable[Life]) -> Costs:
    """What all lives spent."""
    total = Costs()
    for spent in (life.costs for life in lives):
        names = [f.name for f in dataclasses.fields(Costs) if f.name != "notes"]
        numbers = {name: getattr(total, name) + getattr(spent, name) for name in names}
        notes = {key: total.notes.get(key, 0.0) + value for key, value in spent.notes.items()}
        for key in spent.notes:
            if key.endswith("_max"):
                notes[key] = max(total.notes.get(key, 0.0), spent.notes[key])
        total = Costs(**numbers, notes={**total.notes, **notes})
    return total


def _flat(lives: Sequence[Life]) -> dict[str, Any]:
    costs, frames, scored = (
        _all_costs(lives),
        sum(life.frames for life in lives),
        sum(life.scored_frames for life in lives),
    )
    per_thousand = 1000 / max(frames, 1)
    by_shift, trace, uploads = dict[str, list[int]](), dict[str, list[list[Any]]](), 0
    for life in lives:
        for name, counts in life.by_shift.items():
            by_shift[name] = [a + b for a, b in zip(by_shift.get(name, [0, 0]), counts, strict=True)]
        for device, stretches in life.trace.items():
            trace.setdefault(device, []).extend([*stretch[:3], uploads + stretch[3]] for stretch in stretches)
        uploads += life.costs.uploads
    return {
        "accuracy": round(100 * sum(life.right for life in lives) / max(scored, 1), 3),
        "frames": frames,
        "scored_frames": scored,
        "uploads": costs.uploads,
        "upload_ratio": round(costs.uploads / max(frames, 1), 4),
        "uplink_bytes": costs.uplink_bytes,
        "downlink_bytes": costs.downlink_bytes,
        "pushes": costs.pushes,
        "forward_passes": round(costs.forward_frames / max(frames, 1), 3),
        "backward_passes": round(costs.backward_frames / max(frames, 1), 3),
        "cloud_seconds_per_1000": round(costs.cloud_seconds * per_thousand, 3),
        "cloud_clock": CLOUD_CLOCK,
        "notes": costs.notes,
        "by_shift": by_shift,
        "trace": trace,
        "play_seconds": round(sum(life.seconds for life in lives), 2),
    }
