"""Points of the rate curves of what nothing was trained for: pictures, packed features, a network on whole frames.

Nothing here hangs on how a split is trained, and so neither does the fingerprint of these units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from littoral.bench.split.codecs import (
    Sizes,
    blank_bytes,
    codec_of,
    packed_bytes,
    quantise,
    recode,
    why_not,
)
from littoral.bench.split.material import SplitMaterial, accuracy_of, macs_of_module, outputs_of, torch_device
from littoral.core.arrays import FloatArray
from littoral.models.parts import head_of, tail_of

Point = dict[str, Any]
Say = Callable[..., None]


def codec_points(
    material: SplitMaterial, name: str, *, qualities: tuple[int, ...], frames: int, teacher: str, tell: Say
) -> list[Point]:
    """A point per quality of a picture codec into the unmodified teacher; where it is not here, the reason."""
    codec = codec_of(name)
    if (reason := why_not(codec)) is not None:
        return [{"skipped": reason}]
    network = material.network(teacher).to(torch_device())
    pictures, labels = material.first("test", frames)
    out = []
    for index, quality in enumerate(qualities if codec.lossy else (0,)):
        seen, sizes = recode(codec, pictures, quality)
        header = blank_bytes(codec, quality, pictures[0])
        out.append(
            {
                "quality": quality if codec.lossy else None,
                "accuracy": accuracy_of(outputs_of(network, seen), labels),
                **Sizes.of(sizes).columns(),
                "header_bytes": header,
                "bytes_without_header": round(float(np.mean(sizes)) - header, 2),
            }
        )
        tell((index + 1) * frames, len(qualities) * frames)
    return out


def feature_points(material: SplitMaterial, packer: str, *, cut: str, frames: int, teacher: str) -> list[Point]:
    """The teacher's own features at a cut, 8 bits each, through a general packer; nothing is trained."""
    network = material.network(teacher).to(torch_device())
    head, tail = head_of(network, cut), tail_of(network, cut)
    pictures, labels = material.first("test", frames)
    sizes: list[int] = []
    logits = []
    for start in range(0, frames, 250):
        levels, back = quantise(outputs_of(head, pictures[start : start + 250]))
        sizes += packed_bytes(levels, packer)
        logits.append(_through(tail, back))
    return [
        {
            "accuracy": accuracy_of(np.concatenate(logits), labels),
            **Sizes.of(sizes).columns(),
            "packer": packer,
            "segment_macs": macs_of_module(head, (3, 32, 32)),
        }
    ]


def _through(tail: Any, features_BCHW: FloatArray) -> FloatArray:
    with torch.inference_mode():
        given = torch.from_numpy(features_BCHW).to(torch_device())
        logits: FloatArray = tail(given).float().cpu().numpy()
    return logits


def fixed_points(material: SplitMaterial, name: str, *, frames: int, subset: int) -> list[Point]:
    """A network on the frames as they are; what sending them losslessly costs is in the codecs' rows."""
    network = material.network(name).to(torch_device())
    pictures, labels = material.first("test", frames)
    logits = outputs_of(network, pictures)
    return [
        {
            "accuracy": accuracy_of(logits, labels),
            "subset_accuracy": accuracy_of(logits[:subset], labels[:subset]),
            "network_macs": macs_of_module(network, (3, 32, 32)),
        }
    ]
