"""What a checkpoint of a split must agree with, so that no training goes on where another one was."""

from __future__ import annotations

import dataclasses
import json
import zlib

import numpy as np
from torch import nn

from littoral.train.split_data import SplitData, SplitNetworks
from littoral.train.split_losses import Distortion
from littoral.train.split_recipe import SplitRecipe


def fingerprint(recipe: SplitRecipe, networks: SplitNetworks, data: SplitData) -> str:
    """Of the recipe, the shapes of what is trained, and the frames."""
    parts = {
        "recipe": dataclasses.asdict(recipe),
        "bottleneck": _shapes(networks.bottleneck),
        "tail": _shapes(networks.tail),
        "frames": [list(data.frames.shape), zlib.crc32(np.ascontiguousarray(data.frames).data)],
        "bank": None if data.bank is None else [data.bank.num_views, zlib.crc32(data.bank.moves_VN3.tobytes())],
    }
    return json.dumps(parts, sort_keys=True)


def teaching(networks: SplitNetworks, data: SplitData, distortion: Distortion) -> str:
    """Of what is learned and from whom: targets, the teacher and its bank, the head, distortion and augmentation."""
    parts = {
        "targets": None if data.targets is None else zlib.crc32(np.ascontiguousarray(data.targets).data),
        "bank": None if data.bank is None else zlib.crc32(np.ascontiguousarray(data.bank.outputs_VNK).data),
        "head": _weights(networks.head),
        "teacher": _weights(networks.teacher),
        "distortion": _settings(distortion),
        "augment": _settings(data.augment),
    }
    return json.dumps(parts, sort_keys=True)


def _shapes(network: nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in network.state_dict().items()}


def _weights(network: nn.Module | None) -> int | None:
    if network is None:
        return None
    crc = 0
    for value in network.state_dict().values():
        crc = zlib.crc32(np.ascontiguousarray(value.detach().cpu().numpy()).data, crc)
    return crc


def _settings(what: object) -> list[object]:
    """The kind of it and, of a dataclass, what is a plain value: nothing that another process would show otherwise."""
    plain = {}
    if dataclasses.is_dataclass(what):
        values = {field.name: getattr(what, field.name) for field in dataclasses.fields(what)}
        plain = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
    return [getattr(what, "__qualname__", type(what).__qualname__), plain]
