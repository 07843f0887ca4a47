"""What a checkpoint of a split must agree with, so that no training goes on where another one was."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
from torch import nn

from littoral.train.split_data import SplitData, SplitNetworks
from littoral.train.split_losses import Distortion
from littoral.train.split_recipe import SplitRecipe


def parts_of(recipe: SplitRecipe, networks: SplitNetworks, data: SplitData, distortion: Distortion) -> dict[str, Any]:
    """All that a training is made of but the first weights, by name: what is trained, how, on what and by whom."""
    bottleneck, bank = networks.bottleneck, data.bank
    learners = {"bottleneck": bottleneck, "tail": networks.tail}
    return {
        "recipe": dataclasses.asdict(recipe),
        "bottleneck": _shapes(bottleneck),
        "tail": _shapes(networks.tail),
        "kept channels": bottleneck.kept,
        "flags of the bottleneck": [bottleneck.mixed, bottleneck.learned_gains, bottleneck.learned_scales],
        "frozen parameters": [
            f"{part}.{name}"
            for part, network in learners.items()
            for name, value in network.named_parameters()
            if not value.requires_grad
        ],
        "cut": networks.cut,
        "input": dataclasses.asdict(data.input),
        "frames": [list(data.frames.shape), zlib.crc32(np.ascontiguousarray(data.frames).data)],
        "bank": None if bank is None else [bank.num_views, zlib.crc32(bank.moves_VN3.tobytes())],
        "bank's outputs": None if bank is None else zlib.crc32(np.ascontiguousarray(bank.outputs_VNK).data),
        "targets": None if data.targets is None else zlib.crc32(np.ascontiguousarray(data.targets).data),
        "head": _weights(networks.head),
        "teacher": _weights(networks.teacher),
        "distortion": _settings(distortion),
        "augment": _settings(data.augment),
    }


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
