"""What a device follows its world by, measured on the source's frames: graphs, a threshold, how home looks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from onnx import ModelProto

from littoral.bundle import StatisticsSpec
from littoral.core.affine import NormLayer
from littoral.core.arrays import Frame
from littoral.core.recall import fingerprint_distance, fingerprint_layer, fingerprint_of_moments
from littoral.core.tasks import Classification, Task
from littoral.train.export import ExportedModel, external_names
from littoral.train.options import BuildOptions
from littoral.train.run import measure, open_session, rounded
from littoral.train.sample import Sample
from littoral.train.source_world import measure_source_world
from littoral.train.statistics import fingerprint_graph, statistics_graph
from littoral.train.write import tensors_to_bytes

STATISTICS_FILE = "statistics.onnx"
FINGERPRINT_FILE = "fingerprint.onnx"
SOURCE_WORLD_FILE = "source_world.safetensors"


def measured_statistics(
    exported: ExportedModel,
    task: Task[Any, Any],
    frames: Frame,
    sample: Sample,
    options: BuildOptions,
    say: Callable[[str], None],
) -> tuple[StatisticsSpec | None, dict[str, bytes]]:
    """What a device follows its world by, and its files by name; None and no file for a network without BatchNorm.

    Args:
        frames: The source's, uint8 ``(N, H, W, C)``.
    """
    layer, is_classifier = fingerprint_layer(exported.norm_layers), isinstance(task, Classification)
    graph = statistics_graph(exported.graph, exported.norm_layers, scores=is_classifier)
    if graph is None or layer is None:
        return None, {}
    fingerprints = fingerprint_graph(exported.graph, layer)
    spec = _calibrate(graph, fingerprints, exported, layer, frames, options)
    world = measure_source_world(graph, exported, frames, sample, task.num_classes if is_classifier else 1, say)
    return spec, {
        STATISTICS_FILE: graph.SerializeToString(deterministic=True),
        FINGERPRINT_FILE: fingerprints.SerializeToString(deterministic=True),
        SOURCE_WORLD_FILE: tensors_to_bytes(world),
    }


def _calibrate(
    graph: ModelProto,
    fingerprints: ModelProto,
    exported: ExportedModel,
    layer: NormLayer,
    frames: Frame,
    options: BuildOptions,
) -> StatisticsSpec:
    """The threshold: the largest distance that the fingerprints of two batches of source frames have."""
    rng = np.random.default_rng(options.seed + 1)
    session = open_session(fingerprints, exported.tensors)
    seen = []
    for _ in range(options.drift_batches + 1):
        # With replacement: else two batches of few frames would share some or all, and lie too close together.
        picked = rng.integers(0, len(frames), size=options.drift_batch)
        seen.append(fingerprint_of_moments(measure(session, frames[picked]), layer))
    away = [fingerprint_distance(a, b, eps=layer.eps) for a, b in pairwise(seen)]
    return StatisticsSpec(
        file=STATISTICS_FILE,
        tensors=external_names(graph),
        fingerprint_file=FINGERPRINT_FILE,
        fingerprint_tensors=external_names(fingerprints),
        drift_threshold=rounded(max(away)),
        drift_batch=options.drift_batch,
        source_world_file=SOURCE_WORLD_FILE,
    )
