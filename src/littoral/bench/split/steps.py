"""How many steps of the optimiser a row's training had, also where the row is too old to say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from littoral.bench.split.unit import Training

_BATCHES_BEFORE: Mapping[str, tuple[int, ...]] = {"local_only": (128,), "end_to_end": (128,), "parity": (64, 128)}
"""Frames of a step when rows did not tell their steps, each for an equal share of the epochs; of other methods 64."""


def steps_taken(training: Training, result: Mapping[str, Any]) -> int:
    """As the unit's result says, else as the code of its time had it."""
    if "steps" in result:
        return int(result["steps"])
    batches = _BATCHES_BEFORE.get(training.method, (64,))
    ends = [training.epochs * part // len(batches) for part in range(len(batches) + 1)]
    return sum((ends[i + 1] - ends[i]) * max(1, training.frames // size) for i, size in enumerate(batches))
