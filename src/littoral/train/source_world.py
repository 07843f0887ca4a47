"""What the source's frames look like at the last BatchNorm, class by class: what a device's world is held against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto

from littoral.core.arrays import FloatArray, Frame
from littoral.core.nearness import SourceWorld, last_layer
from littoral.core.recall import fingerprint_of_moments
from littoral.train.export import ExportedModel
from littoral.train.run import frames_at_a_time, measure, open_session
from littoral.train.sample import Sample

_PART = 16
"""Frames of one class to a part, as many as a device's batches have."""
_TELL_EVERY = 512


def measure_source_world(
    statistics: ModelProto,
    exported: ExportedModel,
    frames: Frame,
    sample: Sample,
    num_classes: int,
    progress: Callable[[str], None],
) -> dict[str, FloatArray]:
    """The tensors of `littoral.core.nearness.SourceWorld`, of the frames that the source metrics are of.

    Args:
        statistics: The student's statistics graph.
        frames: All source frames.
        sample: Which of them were measured, and what the student answers for each.
        num_classes: 1 where frames have no class.
    """
    layer = last_layer(exported.norm_layers)
    assert layer is not None, "a network with a statistics graph has a BatchNorm"
    session, at_once = open_session(statistics, exported.tensors), min(_PART, frames_at_a_time(frames.shape))
    parts: dict[int, list[tuple[FloatArray, int]]] = {}
    done = 0
    for label in np.unique(sample.classes):
        of_class = sample.measured[sample.classes == label]
        num_parts = max(-(-len(of_class) // at_once), min(len(of_class), 2))  # what one alone is away is not chance
        for part in np.array_split(of_class, num_parts):
            moments = measure(session, frames[part], exported.tensors, alpha=0.0)
            parts.setdefault(int(label), []).append((fingerprint_of_moments(moments, layer), len(part)))
            done += len(part)
            if done // _TELL_EVERY > (done - len(part)) // _TELL_EVERY:
                progress(f"measuring the source's world: {done} of {len(sample.measured)} frames")
    return SourceWorld.measured(layer, parts, num_classes).tensors()
