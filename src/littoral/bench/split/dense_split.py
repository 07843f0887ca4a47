"""Bytes against mIoU or AP50 of a learned split: real payloads, decoded, through decoder and tail.

Axes: N frames, B batch, C channels of the latent, h and w its height and width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from littoral.bench.dense_data import Boxed, Segmented
from littoral.bench.split.codecs import Sizes
from littoral.bench.split.curves import Curve, bytes_at
from littoral.bench.split.dense_networks import DenseNetwork
from littoral.bench.split.dense_rows import Row, accuracy_of, count, prepared, scores
from littoral.bundle import SplitCodec
from littoral.core.arrays import FloatArray, Frame
from littoral.core.codec import decode, encode
from littoral.models.bottleneck import Bottleneck, SplitTail, count_macs, to_split_tail
from littoral.models.frames import normalise
from littoral.train.deadzones import fit_codec
from littoral.train.distortions import distortion_of
from littoral.train.tables import TableOptions


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseSplit:
    """A trained split, its parts in eval mode."""

    bottleneck: Bottleneck
    tail: nn.Module
    """Takes what the decoder makes."""
    head: nn.Module | None
    """What of the network the device runs before the encoder; None where the encoder takes frames."""

    @torch.inference_mode()
    def latent(self, network: DenseNetwork, frame: Frame) -> FloatArray:
        """What the device makes of a uint8 frame of the network's input's size, float32 ``(1, C, h, w)``."""
        x = normalise(torch.from_numpy(np.array(frame[None])), network.input)
        latent: FloatArray = self.bottleneck.latent(x if self.head is None else self.head(x)).numpy()
        return latent

    def macs(self, network: DenseNetwork) -> tuple[int, int]:
        """Multiply-accumulates of the encoder for a frame, and of what the device runs before it."""
        shape: tuple[int, ...] = (3, network.input.height, network.input.width)
        if self.head is None:
            return count_macs(self.bottleneck.encoder, shape), 0
        with torch.no_grad():
            features = self.head(torch.zeros(1, *shape))
        return count_macs(self.bottleneck.encoder, features.shape[1:]), count_macs(self.head, shape)


def codec_of_dense(
    split: DenseSplit,
    network: DenseNetwork,
    frames: Sequence[Frame],
    say: Callable[[str], None] = lambda _line: None,
) -> SplitCodec:
    """Deadzones and integer tables, as a build makes them, of training frames of the input's size."""
    latents = np.concatenate([split.latent(network, frame) for frame in frames])
    cloud = to_split_tail(split.bottleneck, split.tail)
    return fit_codec(split.bottleneck, cloud, latents, distortion_of(network.task), TableOptions(), progress=say)


def split_rows(split: DenseSplit, network: DenseNetwork, codec: SplitCodec, data: Segmented | Boxed) -> list[Row]:
    """A row per level, the coarsest first. The tail sees what the payloads decode to, nothing else."""
    cloud = to_split_tail(split.bottleneck, split.tail)
    levels = range(split.bottleneck.num_levels)
    metrics: list[Any] = [network.task.metric() for _ in levels]
    sizes: list[list[int]] = [[] for _ in levels]
    seconds = np.zeros((split.bottleneck.num_levels, 3))
    for frame, truth in zip(data.frames, data.truths, strict=True):
        began = time.process_time()
        latent = split.latent(network, prepared(network, frame))[0]
        encoded = time.process_time() - began
        for level in levels:
            began = time.process_time()
            payload = encode(codec.symbols(latent, level), codec.tables, level=level)
            symbols = codec.padded(decode(payload, codec.tables).symbols)
            middle = time.process_time()
            outputs = _outputs(cloud, symbols, level)
            seconds[level] += encoded, middle - began, time.process_time() - middle
            sizes[level].append(len(payload))
            count(metrics[level], network, outputs, frame, truth)
    macs, segment_macs = split.macs(network)
    whole = count_macs(network.model, (3, network.input.height, network.input.width))
    return [
        {
            "method": "split",
            "level": level,
            "network": network.name,
            "task": network.task.name,
            "frames": len(sizes[level]),
            **Sizes.of(sizes[level]).columns(),
            **scores(metrics[level]),
            "encoder_macs": macs,
            "segment_macs": segment_macs,
            "encoder_macs_over_network": round(macs / whole, 4),
            **dict(
                zip(
                    ("encoder_cpu_seconds", "codec_cpu_seconds", "network_cpu_seconds"),
                    seconds[level].round(2).tolist(),
                    strict=True,
                )
            ),
        }
        for level in levels
    ]


def bytes_over(rows: Sequence[Row], reference: Sequence[Row]) -> list[dict[str, float | None]]:
    """For each point of ours the reference's bytes at the same accuracy, and ours over these; None where it has none.

    Args:
        rows: Ours, with ``bytes``, and ``miou`` or ``ap50``.
        reference: Another method's points.
    """
    curve = Curve.of((row["bytes"], accuracy_of(row)) for row in reference)
    found = []
    for row in rows:
        others = bytes_at(curve, accuracy_of(row))
        over = None if others is None else round(row["bytes"] / others, 4)
        found.append(
            {
                "accuracy": accuracy_of(row),
                "bytes": row["bytes"],
                "reference_bytes": None if others is None else round(others, 1),
                "over": over,
            }
        )
    return found


@torch.inference_mode()
def _outputs(cloud: SplitTail, symbols_CHW: FloatArray, level: int) -> FloatArray:
    outputs: FloatArray = cloud(torch.from_numpy(symbols_CHW[None]), torch.tensor([level])).numpy()
    return outputs
