"""Weather: snow, frost, fog, brightness. uint8 frames in, uint8 frames out; one generator per frame."""

from __future__ import annotations

import numpy as np

from littoral.bench.streams.constants import Constants
from littoral.bench.streams.frost import PLATES, plate
from littoral.bench.streams.pixels import Generators, draw, grey, motion_blur, normal, to_bytes, to_unit, zoom
from littoral.core.arrays import FloatArray, Frame


def snow(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """Flakes (mean, deviation, size, threshold) smeared down (radius, sigma) over a whitened frame (share kept)."""
    mean, deviation, size, threshold, radius, sigma, kept = c
    x = to_unit(frames)
    layer = zoom(np.float32(mean) + np.float32(deviation) * normal(rngs, frames.shape[1:3]), size)
    layer[layer < threshold] = 0
    angles = draw(rngs, lambda rng: rng.uniform(-135, -45))
    layer = to_bytes(layer).astype(np.float32)
    layer = to_unit(np.rint(motion_blur(layer, radius=radius, sigma=sigma, angles=angles)).astype(np.uint8))
    white = np.maximum(x, grey(x)[..., None] * np.float32(1.5) + np.float32(0.5))
    x = np.float32(kept) * x + np.float32(1 - kept) * white
    return to_bytes(x + layer[..., None] + layer[:, ::-1, ::-1, None])


def frost(frames: Frame, rngs: Generators, c: Constants, *, coarse: bool = False) -> Frame:
    """A share of the frame plus a share of a frost plate, cropped anywhere. The plates are ours (see `frost.plate`)."""
    kept, added = c
    height, width = frames.shape[1:3]
    plates = [plate(index, coarse=coarse) for index in range(PLATES)]
    side = plates[0].shape[0]
    crops = []
    for rng in rngs:
        which, top, left = rng.integers(PLATES), rng.integers(side), rng.integers(side)
        rows, columns = (top + np.arange(height)) % side, (left + np.arange(width)) % side
        crops.append(plates[which][rows[:, None], columns[None, :]])
    mixed = np.float32(kept) * frames + np.float32(added) * np.stack(crops)
    out: Frame = mixed.clip(0, 255).astype(np.uint8)
    return out


def frost_coarse(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """`frost` at the scale of the ImageNet set, which does not shrink the plates."""
    return frost(frames, rngs, c, coarse=True)


def plasma(rngs: Generators, side: int, decay: float) -> FloatArray:
    """Height maps ``(B, side, side)`` from 0 to 1 by the diamond-square algorithm; ``side`` is a power of two."""
    noise = draw(rngs, lambda rng: rng.uniform(-1, 1, side * side))
    batch, used = len(rngs), 0
    out = np.zeros((batch, side, side), np.float32)

    def around(total: FloatArray, wibble: float) -> FloatArray:
        nonlocal used
        count = total.shape[1] * total.shape[2]
        jitter = noise[:, used : used + count].reshape(total.shape)
        used += count
        return total / 4 + np.float32(wibble * wibble) * jitter

    step, wibble = side, 100.0
    while step >= 2:
        half = step // 2
        corners = out[:, ::step, ::step]
        total = corners + np.roll(corners, -1, axis=1)
        out[:, half::step, half::step] = around(total + np.roll(total, -1, axis=2), wibble)
        centres, corners = out[:, half::step, half::step], out[:, ::step, ::step]
        over = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=2)
        out[:, ::step, half::step] = around(over, wibble)
        beside = centres + np.roll(centres, 1, axis=2) + corners + np.roll(corners, -1, axis=1)
        out[:, half::step, ::step] = around(beside, wibble)
        step, wibble = half, wibble / decay
    out -= out.min(axis=(1, 2), keepdims=True)
    heights: FloatArray = out / out.max(axis=(1, 2), keepdims=True)
    return heights


def fog(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """A height map (strength, decay of its detail) added, and the whole scaled back to the frame's brightest value."""
    strength, decay = c
    height, width = frames.shape[1:3]
    x = to_unit(frames)
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    side = 1 << (max(height, width) - 1).bit_length()
    layer = plasma(rngs, side, decay)[:, :height, :width, None]
    return to_bytes((x + np.float32(strength) * layer) * brightest / (brightest + np.float32(strength)))


def brightness(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """HSV value raised, hue and saturation as they were; that scales R, G and B alike, and makes black grey."""
    (added,) = c
    x = to_unit(frames)
    value = x.max(axis=3, keepdims=True)
    raised = np.minimum(value + np.float32(added), 1)
    return to_bytes(np.where(value > 0, x * (raised / np.where(value > 0, value, 1)), raised))
