"""The rows of the link: a split at one level against WebP at the coarsest quality that is as often right."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from littoral.bench.split.codecs import QUALITIES, PictureCodec, decode_picture, recode
from littoral.bench.split.field import Fielded
from littoral.bench.split.link import LinkSpec, PlainSocket, Relay, Way, measure_ways
from littoral.bench.split.material import INPUT, Labels, accuracy_of, outputs_of
from littoral.core.arrays import Frame
from littoral.errors import LittoralError
from littoral.models.frames import normalise

SPLIT, PICTURE = 1, 2
METHODS = (0, 2, 4, 6)
"""WebP's effort: the one is taken whose encoding and sending take the least time together."""


class WebpBehind:
    """How often a network is right behind WebP, by quality; each quality is looked at once, and few are.

    Args:
        network: In eval mode.
        pictures: uint8 ``(N, H, W, 3)``.
    """

    def __init__(self, network: torch.nn.Module, pictures: Frame, labels: Labels) -> None:
        self.network, self.pictures, self._labels = network, pictures, labels
        self._codec = PictureCodec(name="webp", format="WEBP", options={"method": 6})
        self._found: dict[int, float] = {}

    def at(self, quality: int) -> float:
        """Percent."""
        if quality not in self._found:
            seen, _ = recode(self._codec, self.pictures, quality)
            self._found[quality] = accuracy_of(outputs_of(self.network, seen), self._labels)
        return self._found[quality]

    def lowest(self, accuracy: float) -> tuple[int, float]:
        """The lowest quality at which it is as often right, and how often; the highest there is where none is.

        Found by halving: accuracy rises with the quality, but for chance, so a lower one may by luck reach it too.
        """
        index = bisect_left(range(len(QUALITIES) - 1), True, key=lambda i: self.at(QUALITIES[i]) >= accuracy)
        return QUALITIES[index], self.at(QUALITIES[index])


def link_points(
    fielded: Fielded,
    *,
    level: int,
    accuracy: float,
    webp: WebpBehind,
    rounds: int,
    spec: LinkSpec,
    tell: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """A row for the split and one for WebP.

    Args:
        accuracy: The split's at this level, percent, on the same frames.
        webp: On the frames that choose WebP's quality; they are what is sent.
        rounds: Frames sent by each way.
        tell: Hears how many rounds are done.
    """
    network, pictures = webp.network, webp.pictures
    quality, reached = webp.lowest(accuracy)
    codec = _fastest(pictures[:50], quality, spec)

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
        Way(name="webp", kind=PICTURE, segment=lambda frame: frame, encode=lambda frame: codec.encode(frame, quality)),
    )
    with Relay(spec, cloud) as relay, PlainSocket(relay.port) as road:
        rows = measure_ways(road, ways, list(pictures), rounds=rounds, tell=tell)
    shared = {"bits_per_second": spec.bits_per_second, "round_trip_ms": spec.round_trip_ms}
    more = (
        {"level": level, "accuracy": accuracy},
        {"quality": quality, "accuracy": reached, "webp_method": codec.options["method"]},
    )
    return [{**row, **shared, **extra} for row, extra in zip(rows, more, strict=True)]


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
