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
from littoral.train.run import measure, open_session, predict

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
    """The tensors of `littoral.core.nearness.SourceWorld`, of at most ``options.world_frames`` source frames.

    Classes are what the student answers, as on a device; of another task than classification all frames are of one.

    Args:
        statistics: The student's statistics graph.
        sessions: Its segments.
    """
    layer = last_layer(exported.norm_layers)
    assert layer is not None, "a network with a statistics graph has a BatchNorm"
    picked = frames[np.random.default_rng(options.seed + 2).permutation(len(frames))[: options.world_frames]]
    labels: NDArray[np.int64] = np.zeros(len(picked), dtype=np.int64)
    num_classes = 1
    if isinstance(task, Classification):
        labels, num_classes = predict(sessions, picked).argmax(axis=1), task.num_classes
    session = open_session(statistics, exported.tensors)
    parts: dict[int, list[tuple[FloatArray, int]]] = {}
    for label in np.unique(labels):
        of_class = picked[labels == label]
        num_parts = max(-(-len(of_class) // _PART), min(len(of_class), 2))  # of one alone nothing is said of chance
        parts[int(label)] = [
            (fingerprint_of_moments(measure(session, part, exported.tensors, alpha=0.0), layer), len(part))
            for part in np.array_split(of_class, num_parts)
        ]
    return SourceWorld.measured(layer, parts, num_classes).tensors()
