"""Frost plates made by arithmetic, because the photographs behind the published frost cannot be shipped."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.spatial import cKDTree

from littoral.core.arrays import FloatArray, Frame

PLATES = 5
"""As many as the published sets draw from."""
_SEED = 20190506


@cache
def plate(index: int, *, coarse: bool) -> Frame:
    """Frost on a pane, uint8 ``(side, side, 3)``: ice needles in grains, thicker here and thinner there, bluish white.

    Args:
        index: 0..4; each plate comes from a fixed seed of its own, as each photograph is one photograph.
        coarse: 384 pixels with grains of about 45, for ImageNet's frames; else 256 with grains of about 12.
    Departs from Hendrycks & Dietterich: their plates are photographs. Ours have needles, grains and clear patches like
    those, and their roughness was set so that a plain CIFAR network finds frost as hard among the 15 corruptions as it
    finds the published frost (ResNet-20, severity 5: 42 % wrong). No number measured on one is a number of the other.
    """
    rng = np.random.default_rng([_SEED, index, int(coarse)])
    side, grain = (384, 45) if coarse else (256, 12)
    grains = (side // grain) ** 2
    tree = cKDTree(rng.uniform(0, side, (grains, 2)), boxsize=side)
    at = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    distances, nearest = tree.query(at, k=2)
    own = nearest[:, 0]
    angles, phases = rng.uniform(0, np.pi, grains)[own], rng.uniform(0, 99, grains)[own]
    across = at[:, 0] * np.cos(angles) + at[:, 1] * np.sin(angles)
    needles = np.interp((across * (8 / grain) + phases) % 4000, np.arange(4096), rng.random(4096))
    rims = np.exp(-(distances[:, 1] - distances[:, 0]) * (4 / grain))
    thick = 1 / (1 + np.exp(-2.5 * _clouds(rng, side, 1.5).reshape(-1)))
    fine = _clouds(rng, side, 0.7).reshape(-1)
    ice = thick * (0.35 + 0.75 * needles + 0.25 * rims) + 0.06 * fine
    tint = np.array([0.86, 0.95, 1.0])
    shade = np.array([0.10, 0.13, 0.17])
    light = ice[:, None] * tint + shade
    out: Frame = (np.clip(light, 0, 1) * 255).astype(np.uint8).reshape(side, side, 3)
    out.setflags(write=False)
    return out


def _clouds(rng: np.random.Generator, side: int, steepness: float) -> FloatArray:
    """Periodic noise of mean 0 and deviation 1 with amplitude ``frequency ** -steepness``."""
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) * frequency**-steepness
    field = np.fft.irfft2(spectrum, s=(side, side))
    out: FloatArray = (field / field.std()).astype(np.float32)
    return out
