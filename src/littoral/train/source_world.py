"""What the source's frames look like at the last BatchNorm, class by class: what a device's world is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from littoral.core.arrays import FloatArray, Frame
from littoral.core.nearness import SourceWorld, last_layer
from littoral.core.recall import fingerprint_of_moments
from littoral.core.tasks import Classification, Task
from littoral.train.export import ExportedModel
from littoral.train.options import BuildOptions
from littoral.train.run import BATCH, frames_at_a_time, measure, open_session, predict

_PART = 16
"""Frames of one class to a part, as many as a device's batches have."""


def measure_source_world(
    statistics: ModelProto,
    exported: ExportedModel,
    sessions: Sequence[ort.InferenceSession],
    task: Task[Any, Any],
    frames: Frame,
    options: BuildOptions,
) -> dict[str, FloatArray]:
    """The tensors of `littoral.core.nearness.SourceWorld`, of at most ``options.world_frames`` source frames or four of
    each class.

    Classes are what the student answers, as on a device; of another task than classification all frames are of one.

    Args:
        statistics: The student's statistics graph.
        sessions: Its segments.
    """
    layer = last_layer(exported.norm_layers)
    assert layer is not None, "a network with a statistics graph has a BatchNorm"
    most = max(options.world_frames, 4 * task.num_classes if isinstance(task, Classification) else 0)
    picked = np.random.default_rng(options.seed + 2).permutation(len(frames))[:most]
    labels: NDArray[np.int64] = np.zeros(len(picked), dtype=np.int64)
    num_classes, most_at_once = 1, min(_PART, frames_at_a_time(frames.shape))
    if isinstance(task, Classification):
        num_classes = task.num_classes
        batches = (frames[picked[start : start + BATCH]] for start in range(0, len(picked), BATCH))
        labels = np.concatenate([predict(sessions, batch).argmax(axis=1) for batch in batches])
    session = open_session(statistics, exported.tensors)
    parts: dict[int, list[tuple[FloatArray, int]]] = {}
    for label in np.unique(labels):
        of_class = picked[labels == label]
        num_parts = max(-(-len(of_class) // most_at_once), min(len(of_class), 2))  # of one alone nothing is chance
        parts[int(label)] = [
            (fingerprint_of_moments(measure(session, frames[part], exported.tensors, alpha=0.0), layer), len(part))
            for part in np.array_split(of_class, num_parts)
        ]
    return SourceWorld.measured(layer, parts, num_classes).tensors()
