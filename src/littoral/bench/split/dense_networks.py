"""The published networks for the two dense tasks, rebuilt from the files beside their weights.

Axes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, nn

from littoral.bench.dense_data import CAMVID_CLASSES, CAMVID_VOID, COCO_NUM_CLASSES
from littoral.bundle.manifest import InputSpec
from littoral.core.tasks import Detection, Segmentation
from littoral.models.camvid_nets import cgnet_graph, espnet_graph
from littoral.models.frames import normalise
from littoral.models.graph import graph_network, graph_state, with_shapes

FACTORY = "littoral.models.graph:graph_network"
_CAMVID = {"cgnet": ("camvid_cgnet_m3n21", cgnet_graph), "espnet": ("camvid_espnet_p2q8", espnet_graph)}
_DETECTORS = {
    "yolox_nano": "coco_yolox_nano",
    "yolo_fastest": "coco_yolo_fastest_1.1",
    "yolo_fastest_xl": "coco_yolo_fastest_1.1_xl",
}
DENSE_NETWORKS = (*_CAMVID, *_DETECTORS)
_DARKNET_STRIDES = (32, 16)


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseNetwork:
    """A trained network, with what its input and its output are."""

    name: str
    model: nn.Module
    """Takes normalised frames; in eval mode."""
    kwargs: Mapping[str, Any]
    """Of `FACTORY`."""
    input: InputSpec
    task: Segmentation | Detection
    letterboxed: bool
    """Frames keep their ratio and are padded (YOLOX), or are brought to the input's size by each axis' own factor."""

    @torch.inference_mode()
    def outputs(self, frames_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the network says of uint8 frames of the input's size, as `Task.answers` takes it."""
        outputs: Tensor = self.model(normalise(torch.from_numpy(np.array(frames_BHWC)), self.input))
        return outputs.numpy()


def network_files(name: str) -> tuple[str, str]:
    """The files below the data folder that one of `DENSE_NETWORKS` is built from: what it is, and its weights."""
    stem = _CAMVID[name][0] if name in _CAMVID else _DETECTORS[name]
    return f"weights/{stem}.json", f"weights/{stem}.safetensors"


def load_dense_network(folder: Path, name: str) -> DenseNetwork:
    """One of `DENSE_NETWORKS`.

    Args:
        folder: Has ``weights/*.json`` and ``weights/*.safetensors``.
        name: ``cgnet`` and ``espnet`` know CamVid's 11 classes, the others COCO's 80.
    Raises:
        ValueError: there is no such network, or its files are missing or of another one.
    """
    if name not in DENSE_NETWORKS:
        raise ValueError(f"there is no network {name!r}; there are {', '.join(DENSE_NETWORKS)}")
    meta_path, path = (folder / file for file in network_files(name))
    try:
        meta = json.loads(meta_path.read_text(encoding="utf-8"))
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        stem = path.with_suffix("")
        raise ValueError(f"{stem}.json and .safetensors cannot be read ({error}); give their folder") from error
    graph = _camvid_graph(name) if name in _CAMVID else _detector_graph(name, meta)
    kwargs = with_shapes(graph, tensors)
    model = graph_network(**kwargs)
    state = {key: torch.from_numpy(value) for key, value in graph_state(graph, tensors).items()}
    if missing := [key for key in model.load_state_dict(state, strict=False).missing_keys if "num_batches" not in key]:
        raise ValueError(f"{path} lacks what the layer of {missing[0]!r} needs")
    input, task = _camvid_ends(name, meta) if name in _CAMVID else _detector_ends(name, meta)
    return DenseNetwork(
        name=name, model=model.eval(), kwargs=kwargs, input=input, task=task, letterboxed=name == "yolox_nano"
    )


def _camvid_graph(name: str) -> dict[str, Any]:
    graph = _CAMVID[name][1]()
    if name == "espnet":  # its twelfth score is of what has no class
        graph["nodes"].append({"op": "first_channels", "inputs": ["scores"], "output": "classes", "count": 11})
        graph["output"] = "classes"
    return graph


def _detector_graph(name: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    graph: dict[str, Any] = dict(meta["graph"])
    if name == "yolox_nano":
        return graph
    heads = [
        {
            "op": "anchor_head",
            "inputs": [head["tensor"]],
            "output": f"head_{stride}",
            "anchors": head["anchors"],
            "stride": stride,
            "scale_x_y": head["scale_x_y"],
        }
        for head, stride in zip(meta["heads"], _DARKNET_STRIDES, strict=True)
    ]
    joined = {"op": "concat", "inputs": [head["output"] for head in heads], "output": "cells"}
    return {**graph, "nodes": [*graph["nodes"], *heads, joined], "output": "cells"}


def _camvid_ends(name: str, meta: Mapping[str, Any]) -> tuple[InputSpec, Segmentation]:
    """CGNet takes ``x - mean``, ESPNet ``(x - mean) / std / 255``; both as means and deviations of x / 255."""
    given = meta["normalisation"]
    mean, std = given["mean"], given.get("std")
    if std is None:
        means, stds = mean, [1.0] * 3
    else:
        means, stds = mean[::-1], [255.0 * each for each in std[::-1]]  # its order is BGR
    task = Segmentation(num_classes=len(CAMVID_CLASSES), input_height=360, input_width=480, ignored_label=CAMVID_VOID)
    return _spec(360, 480, [m / 255 for m in means], [s / 255 for s in stds]), task


def _detector_ends(name: str, meta: Mapping[str, Any]) -> tuple[InputSpec, Detection]:
    if name == "yolox_nano":
        given = meta["normalisation"]
        task = Detection(num_classes=COCO_NUM_CLASSES, input_height=416, input_width=416)
        return _spec(416, 416, given["mean"], given["std"]), task
    strides = tuple(stride for stride in _DARKNET_STRIDES for _ in range(3))  # each anchor as a grid of its own
    task = Detection(num_classes=COCO_NUM_CLASSES, input_height=320, input_width=320, strides=strides)
    return _spec(320, 320, [0.0] * 3, [1.0] * 3), task


def _spec(height: int, width: int, mean: list[float], std: list[float]) -> InputSpec:
    return InputSpec(height=height, width=width, channels=3, mean=tuple(mean), std=tuple(std))
