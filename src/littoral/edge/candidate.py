"""A version built but not yet in service, and how much of the source's answers it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from littoral.bundle import Bundle
from littoral.core.arrays import Tensors
from littoral.edge.session import Model


@dataclass(frozen=True)
class Candidate:
    """A version as it would serve, and as the probe sees it: with the source's statistics."""

    affine: Tensors
    live: Model
    probed: Model


def probe(bundle: Bundle, candidate: Candidate) -> float:
    """How much of the source's answers is kept, by the task's metric: of a classifier the share of the labels.

    NaN when an output is not finite.
    """
    task = bundle.manifest.make_task()
    frames, metric = bundle.probe[0], task.metric()
    if not np.isfinite(candidate.live.run(frames[:1])).all():
        return math.nan
    for frame, truth in zip(frames, bundle.probe_truths, strict=True):  # a device may not hold a large batch
        outputs = candidate.probed.run(frame[None])
        if not np.isfinite(outputs).all():
            return math.nan
        metric.update(task.answers(outputs), [truth])
    return float(metric.value())
