"""Points of the rate curves: bytes of real payloads, and how many answers are right behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

from littoral.bench.split.codecs import (
    PACKERS,
    Sizes,
    blank_bytes,
    codec_of,
    packed_bytes,
    quantise,
    recode,
    why_not,
)
from littoral.bench.split.material import Labels, SplitMaterial, accuracy_of, outputs_of, torch_device
from littoral.bench.split.training import CUT, Say, Trained
from littoral.core.arrays import FloatArray, Frame
from littoral.core.codec import decode, encode, rate_bits
from littoral.errors import PayloadError
from littoral.models.bottleneck import count_macs
from littoral.models.parts import head_of, tail_of

Point = dict[str, Any]


def split_points(trained: Trained, frames: Frame, labels: Labels, *, subset: int) -> list[Point]:
    """A point per level. What the tail gets is what the payloads decode to.

    A payload that its level's ceiling refuses is counted, and its frame is sent at the next coarser level, as a device
    does.

    Args:
        subset: The codecs' rows are of the first so many frames only; accuracy and bytes of these are given too.
    """
    codec = trained.codec
    latents = trained.latents(frames)
    out = []
    for level in range(codec.num_levels):
        payloads, levels, ideal = [], [], []
        for latent in latents:
            payload, used = _encoded(trained, latent, level)
            payloads.append(payload)
            levels.append(used)
            ideal.append(rate_bits(codec.symbols(latent, used), codec.tables, level=used) / 8)
        symbols = np.stack([codec.padded(decode(payload, codec.tables).symbols) for payload in payloads])
        logits = np.empty((len(frames), 0), np.float32)
        used_levels = np.array(levels)
        for used in np.unique(used_levels):
            picked = used_levels == used
            found = trained.logits(symbols[picked], int(used))
            if not logits.size:
                logits = np.zeros((len(frames), found.shape[1]), np.float32)
            logits[picked] = found
        sizes = [len(payload) for payload in payloads]
        out.append(
            {
                "level": level,
                "accuracy": accuracy_of(logits, labels),
                **Sizes.of(sizes).columns(),
                "ideal_bytes": round(float(np.mean(ideal)), 2),
                "subset_accuracy": accuracy_of(logits[:subset], labels[:subset]),
                "subset_bytes": round(float(np.mean(sizes[:subset])), 2),
                "refused": int((used_levels != level).sum()),
            }
        )
    return out


def _encoded(trained: Trained, latent_CHW: FloatArray, level: int) -> tuple[bytes, int]:
    """A payload and the level that it has; without a ceiling at the coarsest level nothing would be sent."""
    codec = trained.codec
    while True:
        try:
            return encode(codec.symbols(latent_CHW, level), codec.tables, level=level), level
        except PayloadError:
            if level == 0:
                raise
            level -= 1


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
            "segment_macs": count_macs(head, (3, 32, 32)),
        }
    ]


def _through(tail: Any, features_BCHW: FloatArray) -> FloatArray:
    import torch

    with torch.inference_mode():
        given = torch.from_numpy(features_BCHW).to(torch_device())
        logits: FloatArray = tail(given).float().cpu().numpy()
    return logits


def fixed_points(material: SplitMaterial, name: str, *, frames: int, subset: int) -> list[Point]:
    """A network on the frames as they are: ``device_only`` sends nothing, ``cloud_lossless`` sends lossless WebP."""
    network = material.network(name).to(torch_device())
    pictures, labels = material.first("test", frames)
    logits = outputs_of(network, pictures)
    return [
        {
            "accuracy": accuracy_of(logits, labels),
            "subset_accuracy": accuracy_of(logits[:subset], labels[:subset]),
            "network_macs": count_macs(network, (3, 32, 32)),
        }
    ]


__all__ = ["CUT", "PACKERS", "codec_points", "feature_points", "fixed_points", "split_points"]
