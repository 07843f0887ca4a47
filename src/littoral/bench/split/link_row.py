"""The rows of the link: a split at one level against WebP at the coarsest quality that is as often right."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from littoral.bench.split.codecs import QUALITIES, PictureCodec, decode_picture, recode
from littoral.bench.split.field import Fielded
from littoral.bench.split.link import LinkSpec, PlainSocket, Relay, Way, measure_ways
from littoral.bench.split.material import INPUT, SplitMaterial, accuracy_of, outputs_of
from littoral.bench.split.training import Say
from littoral.core.arrays import Frame
from littoral.errors import LittoralError
from littoral.models.frames import normalise

SPLIT, PICTURE = 1, 2
METHODS = (0, 2, 4, 6)
"""WebP's effort: the one is taken whose encoding and sending take the least time together."""


def link_points(
    fielded: Fielded,
    material: SplitMaterial,
    *,
    level: int,
    accuracy: float,
    frames: int,
    rounds: int,
    spec: LinkSpec,
    teacher: str,
    tell: Say,
) -> list[dict[str, Any]]:
    """A row for the split and one for WebP.

    Args:
        accuracy: The split's at this level, percent, on the same frames.
        frames: So many test frames choose WebP's quality.
        rounds: Frames sent by each way.
    """
    pictures, labels = material.first("test", frames)
    network = material.network(teacher).eval()
    quality, reached = _quality(network, pictures, labels, accuracy)
    webp = _fastest(pictures[:50], quality, spec)

    def cloud(kind: int, body: bytes) -> bytes:
        if kind == SPLIT:
            (answer,) = fielded.tail.answer([body])
            if isinstance(answer, LittoralError):
                raise answer
            return bytes(np.ascontiguousarray(answer, "<f4"))
        frame = torch.from_numpy(decode_picture(body)[None].copy())
        with torch.inference_mode():
            return bytes(np.ascontiguousarray(network(normalise(frame, INPUT))[0].numpy(), "<f4"))

    ways = (
        Way(
            name="split",
            kind=SPLIT,
            segment=fielded.segment,
            encode=lambda value: fielded.encoder.encode(value, level),
        ),
        Way(name="webp", kind=PICTURE, segment=lambda frame: frame, encode=lambda frame: webp.encode(frame, quality)),
    )
    with Relay(spec, cloud) as relay, PlainSocket(relay.port) as road:
        rows = measure_ways(road, ways, list(pictures), rounds=rounds)
    tell(frames, frames)
    shared = {"bits_per_second": spec.bits_per_second, "round_trip_ms": spec.round_trip_ms}
    more = (
        {"level": level, "accuracy": accuracy},
        {"quality": quality, "accuracy": reached, "webp_method": webp.options["method"]},
    )
    return [{**row, **shared, **extra} for row, extra in zip(rows, more, strict=True)]


def _quality(network: torch.nn.Module, pictures: Frame, labels: Any, accuracy: float) -> tuple[int, float]:
    """The lowest quality at which the network is as often right, or the highest there is; and how often it is."""
    codec, reached, quality = PictureCodec(name="webp", format="WEBP", options={"method": 6}), 0.0, 0
    for quality in QUALITIES:
        reached = accuracy_of(outputs_of(network, recode(codec, pictures, quality)[0]), labels)
        if reached >= accuracy:
            break
    return quality, reached


def _fastest(pictures: Frame, quality: int, spec: LinkSpec) -> PictureCodec:
    codecs = [PictureCodec(name="webp", format="WEBP", options={"method": method}) for method in METHODS]

    def cost_s(codec: PictureCodec) -> float:
        took, sizes = [], []
        for frame in pictures:
            started = time.perf_counter()
            size = len(codec.encode(frame, quality))
            took.append(time.perf_counter() - started)
            sizes.append(spec.seconds_to_send(size))
        return float(np.median(took) + np.mean(sizes))

    return min(codecs, key=cost_s)
