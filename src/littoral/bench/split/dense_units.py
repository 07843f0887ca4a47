"""The split table's units of the dense tasks without a training: CGNet on CamVid, YOLOX-nano on 128 images of COCO.

What a network makes of frames that were sent as pictures, or of none.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from littoral.bench.dense_data import Boxed, Segmented, load_camvid, load_coco_val128
from littoral.bench.split.codecs import codec_of
from littoral.bench.split.dense_networks import DenseNetwork, load_dense_network
from littoral.bench.split.dense_rows import Row, accuracy_of, cloud_only_row, device_only_row, picture_rows
from littoral.bench.split.unit import SplitUnit
from littoral.core.tasks import Segmentation

Tell = Callable[..., None]
_OF_THE_UNIT = ("method", "network", "task", "frames")


def dense_fixed(unit: SplitUnit, folder: Path, tell: Tell) -> dict[str, Any]:
    """Nothing sent, or everything without loss."""
    network, data = dense_material(unit, folder)
    row = device_only_row(network, data) if unit.options["sends"] == "nothing" else cloud_only_row(network, data)
    return dense_result([row])


def dense_codec(unit: SplitUnit, folder: Path, tell: Tell) -> dict[str, Any]:
    """A picture codec at some qualities into the unmodified network."""
    network, data = dense_material(unit, folder)
    qualities = unit.options["qualities"]
    rows: list[Row] = []
    for row in picture_rows(network, data, codec_of(unit.method), qualities):
        rows.append(row)
        tell(len(rows), len(qualities))
    return dense_result(rows)


def dense_material(unit: SplitUnit, folder: Path) -> tuple[DenseNetwork, Segmented | Boxed]:
    """A unit's network and test frames, from the data folder."""
    network = load_dense_network(folder, unit.teacher)
    if isinstance(network.task, Segmentation):
        return network, load_camvid(folder, "test", limit=unit.frames)
    return network, load_coco_val128(folder, limit=unit.frames)


def dense_result(rows: list[Row]) -> dict[str, Any]:
    """Points as the table has them; what the unit says of itself is left to it."""
    return {
        "points": [
            {**{name: value for name, value in row.items() if name not in _OF_THE_UNIT}, "accuracy": accuracy_of(row)}
            for row in rows
        ]
    }
