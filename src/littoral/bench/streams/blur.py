"""Blur: Gaussian, defocus, glass, motion, zoom. uint8 frames in, uint8 frames out; one generator per frame."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from littoral.bench.streams.constants import Constants
from littoral.bench.streams.pixels import Generators, draw, gaussian, motion_blur, to_bytes, to_unit, zoom
from littoral.core.arrays import FloatArray, Frame


def gaussian_blur(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """Of one standard deviation in pixels."""
    (sigma,) = c
    return to_bytes(gaussian(to_unit(frames), sigma))


def disk(radius: float, alias_blur: float) -> FloatArray:
    """The picture of a point out of focus: a disk whose pixels are in or out, softened, of sum 1."""
    reach, soft = (8, 1) if radius <= 8 else (int(radius), 2)
    at = np.arange(-reach, reach + 1)
    inside = (at[:, None] ** 2 + at[None, :] ** 2 <= radius**2).astype(np.float64)
    taps = np.exp(-(np.arange(-soft, soft + 1) ** 2) / (2 * alias_blur**2))
    for axis in (0, 1):
        inside = ndimage.correlate1d(inside, taps / taps.sum(), axis=axis, mode="mirror")
    used = np.flatnonzero(inside.sum(0) > 1e-12)
    kept = inside[used[0] : used[-1] + 1, used[0] : used[-1] + 1]
    out: FloatArray = (kept / kept.sum()).astype(np.float32)
    return out


def defocus_blur(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """A disk of a radius in pixels, itself blurred by the second number."""
    kernel = disk(*c)[None, :, :, None]
    return to_bytes(ndimage.correlate(to_unit(frames), kernel, mode="mirror"))


def glass_blur(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """Blur (sigma), pixels taken from up to ``reach`` away, ``rounds`` times over, blur again.

    As the published sets were made, not as they are described: what is written there as a swap of two pixels copies the
    neighbour, because both sides are views of one array, and the neighbours lie above and to the left.
    """
    sigma, reach, rounds = c[0], int(c[1]), int(c[2])
    batch, height, width, _ = frames.shape
    soft = to_bytes(gaussian(to_unit(frames), sigma))
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    shape = (rounds, len(rows), len(columns), 2)
    steps = np.stack([rng.integers(-reach, reach, shape, dtype=np.int8) for rng in rngs], axis=-1).astype(np.int64)
    # (pixel, frame): from which pixel of its frame each one comes
    origin = np.repeat(np.arange(height * width)[:, None], batch, axis=1)
    flat, each = origin.reshape(-1), np.arange(batch)
    for turn in range(rounds):
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                across, down = steps[turn, i, j]
                there = (row + down) * width + (column + across)
                origin[row * width + column] = flat[there * batch + each]
    pixels = soft.reshape(batch, height * width, -1)
    moved = np.take_along_axis(pixels, origin.T[:, :, None], axis=1).reshape(frames.shape)
    return to_bytes(gaussian(to_unit(moved), sigma))


def motion(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """A smear (radius, sigma) at an angle drawn from -45..45 degrees; rounded, as ImageMagick does."""
    radius, sigma = c
    angles = draw(rngs, lambda rng: rng.uniform(-45, 45))
    out = motion_blur(frames.astype(np.float32), radius=radius, sigma=sigma, angles=angles)
    return np.rint(out).clip(0, 255).astype(np.uint8)


def zoom_blur(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """The mean of the frame and of its zooms by 1, 1 + step, ... below ``stop``."""
    stop, step = c
    factors = np.arange(1, stop, step)
    x = to_unit(frames)
    total = x.copy()
    for factor in factors:
        total += zoom(x, float(factor))
    return to_bytes(total / np.float32(len(factors) + 1))
