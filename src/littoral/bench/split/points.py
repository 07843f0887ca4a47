"""Points of a trained split's rate curve: bytes of real payloads, and how many answers are right behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

from littoral.bench.split.codecs import Sizes
from littoral.bench.split.material import Labels, accuracy_of
from littoral.bench.split.training import Trained
from littoral.core.arrays import FloatArray, Frame
from littoral.core.codec import decode, encode, rate_bits
from littoral.errors import PayloadError

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
