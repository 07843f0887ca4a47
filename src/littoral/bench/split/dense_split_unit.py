"""The split table's units of the dense tasks whose split is trained: what its payloads come to.

The detector's split is distilled on the unlabelled ImageNet sample, the segmenter's on CamVid's train frames with their
labels.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.bench.alone import alone
from littoral.bench.dense_data import iter_imagenet_sample, load_camvid
from littoral.bench.document import commit
from littoral.bench.split.dense_full import DenseTraining, train_dense
from littoral.bench.split.dense_networks import DenseNetwork
from littoral.bench.split.dense_rows import prepared
from littoral.bench.split.dense_shapes import shape_of
from littoral.bench.split.dense_split import codec_of_dense, split_rows
from littoral.bench.split.dense_units import Tell, dense_material, dense_result
from littoral.bench.split.material import SplitMaterial
from littoral.bench.split.unit import SplitUnit
from littoral.core.arrays import Frame
from littoral.core.tasks import Segmentation

_TABLE_FRAMES = 256


def dense_split(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> dict[str, Any]:
    """Train a split, or take it from its checkpoint, and count its payloads."""
    network, data = dense_material(unit, material.data)
    options = dict(unit.options)
    frames, targets = _training_data(network, material.data, options.pop("training_frames"))
    crop = options.pop("crop", None)
    config = DenseTraining(**options, crop=None if crop is None else tuple(crop))
    folder = material.work / "trained" / f"dense-{network.name}-{_key(unit)}"

    def say(line: str) -> None:
        tell(0, config.epochs, line)

    with alone(folder):
        split = train_dense(network, frames, targets, config, checkpoint=folder / "split.pt", progress=say)
        by = folder / "commit"
        if not by.exists():
            by.write_text(commit())
    some = [frames[place] for place in np.linspace(0, len(frames) - 1, min(_TABLE_FRAMES, len(frames))).astype(int)]
    rows = split_rows(split, network, codec_of_dense(split, network, some, say), data)
    return {**dense_result(rows), "trained_commit": by.read_text()}


def _key(unit: SplitUnit) -> str:
    """Of the training alone, so that another test set takes the same checkpoint, and another shape another one."""
    told = json.dumps(dict(unit.options), sort_keys=True) + repr(shape_of(unit.teacher, unit.options["given"]))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _training_data(network: DenseNetwork, folder: Path, count: int) -> tuple[Frame, NDArray[np.uint8] | None]:
    if isinstance(network.task, Segmentation):
        data = load_camvid(folder, "train", limit=count)
        return np.stack(data.frames), np.stack(data.truths)
    return np.stack([prepared(network, frame) for _, frame in iter_imagenet_sample(folder, limit=count)]), None
