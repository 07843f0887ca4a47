"""Noise: Gaussian, shot, impulse, speckle. uint8 frames in, uint8 frames out; one generator per frame."""

from __future__ import annotations

import numpy as np

from littoral.bench.streams.constants import Constants
from littoral.bench.streams.pixels import Generators, draw, normal, to_bytes, to_unit
from littoral.core.arrays import Frame


def gaussian_noise(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """Of one standard deviation (scale 0..1) everywhere."""
    (deviation,) = c
    return to_bytes(to_unit(frames) + np.float32(deviation) * normal(rngs, frames.shape[1:]))


def shot_noise(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """Poisson counts, where white is ``c`` photons."""
    (photons,) = c
    rates = to_unit(frames).astype(np.float64) * photons
    counts = np.stack([rng.poisson(rate) for rng, rate in zip(rngs, rates, strict=True)])
    return to_bytes((counts / photons).astype(np.float32))


def impulse_noise(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """A share of all values, in each channel by itself, goes to 0 or 255 with equal chance."""
    (share,) = c
    chance = draw(rngs, lambda rng: rng.random(frames.shape[1:], dtype=np.float32))
    salted: Frame = np.where(chance < share / 2, np.uint8(255), frames)
    return np.where((chance >= share / 2) & (chance < share), np.uint8(0), salted)


def speckle_noise(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """Gaussian noise in proportion to the value."""
    (deviation,) = c
    x = to_unit(frames)
    return to_bytes(x + x * np.float32(deviation) * normal(rngs, frames.shape[1:]))
