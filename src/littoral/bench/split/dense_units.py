"""The split table's units of the dense tasks: CGNet on CamVid, YOLOX-nano on 128 images of COCO.

What a network makes of frames that were sent as pictures, or of none, and of a trained split's payloads. The detector's
split is distilled on the unlabelled ImageNet sample, the segmenter's on CamVid's train frames with their labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.bench.alone import alone
from littoral.bench.dense_data import Boxed, Segmented, iter_imagenet_sample, load_camvid, load_coco_val128
from littoral.bench.document import commit
from littoral.bench.split.codecs import codec_of
from littoral.bench.split.dense_full import DenseTraining, train_dense
from littoral.bench.split.dense_networks import DenseNetwork, load_dense_network
from littoral.bench.split.dense_rows import Row, accuracy_of, cloud_only_row, device_only_row, picture_rows, prepared
from littoral.bench.split.dense_shapes import shape_of
from littoral.bench.split.dense_split import codec_of_dense, split_rows
from littoral.bench.split.material import SplitMaterial
from littoral.bench.split.unit import SplitUnit
from littoral.core.arrays import Frame
from littoral.core.tasks import Segmentation

Tell = Callable[..., None]
_TABLE_FRAMES = 256
_OF_THE_UNIT = ("method", "network", "task", "frames")


def dense_fixed(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> dict[str, Any]:
    """Nothing sent, or everything without loss."""
    network, data = _material(unit, material)
    row = device_only_row(network, data) if unit.options["sends"] == "nothing" else cloud_only_row(network, data)
    return _result([row])


def dense_codec(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> dict[str, Any]:
    """A picture codec at some qualities into the unmodified network."""
    network, data = _material(unit, material)
    qualities = unit.options["qualities"]
    rows: list[Row] = []
    for row in picture_rows(network, data, codec_of(unit.method), qualities):
        rows.append(row)
        tell(len(rows), len(qualities))
    return _result(rows)


def dense_split(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> dict[str, Any]:
    """Train a split, or take it from its checkpoint, and count its payloads."""
    network, data = _material(unit, material)
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
    return {**_result(rows), "trained_commit": by.read_text()}


def _key(unit: SplitUnit) -> str:
    """Of the training alone, so that another test set takes the same checkpoint, and another shape another one."""
    told = json.dumps(dict(unit.options), sort_keys=True) + repr(shape_of(unit.teacher, unit.options["given"]))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _material(unit: SplitUnit, material: SplitMaterial) -> tuple[DenseNetwork, Segmented | Boxed]:
    network = load_dense_network(material.data, unit.teacher)
    if isinstance(network.task, Segmentation):
        return network, load_camvid(material.data, "test", limit=unit.frames)
    return network, load_coco_val128(material.data, limit=unit.frames)


def _training_data(network: DenseNetwork, folder: Path, count: int) -> tuple[Frame, NDArray[np.uint8] | None]:
    if isinstance(network.task, Segmentation):
        data = load_camvid(folder, "train", limit=count)
        return np.stack(data.frames), np.stack(data.truths)
    return np.stack([prepared(network, frame) for _, frame in iter_imagenet_sample(folder, limit=count)]), None


def _result(rows: list[Row]) -> dict[str, Any]:
    """Points as the table has them; what the unit says of itself is left to it."""
    return {
        "points": [
            {**{name: value for name, value in row.items() if name not in _OF_THE_UNIT}, "accuracy": accuracy_of(row)}
            for row in rows
        ]
    }
