"""Spatter: drops of water or mud on the lens. uint8 frames in, uint8 frames out; one generator per frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from littoral.bench.streams.constants import Constants
from littoral.bench.streams.pixels import Generators, gaussian, normal, to_bytes, to_unit
from littoral.core.arrays import FloatArray, Frame, Mask

_WATER: FloatArray = np.array([175, 238, 238], np.float32) / np.float32(255)
_MUD: FloatArray = np.array([63, 42, 20], np.float32) / np.float32(255)
_LIGHT = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)


def spatter(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """Smoothed noise (mean, deviation, sigma) above a threshold: water of a strength, or mud with borders of a sigma.

    Departs from the published sets in exact distances from the drops' borders, where OpenCV's are of a 5 x 5 mask.
    """
    mean, deviation, sigma, threshold, strength, mud = c
    x = to_unit(frames)
    layer = gaussian(np.float32(mean) + np.float32(deviation) * normal(rngs, frames.shape[1:3]), sigma)
    layer[layer < threshold] = 0
    if mud:
        mask = gaussian((layer > threshold).astype(np.float32), strength)[..., None]
        mask[mask < 0.8] = 0
        return to_bytes(x * (1 - mask) + mask * _MUD)
    drops = to_bytes(layer)
    lit = drops.astype(np.float32) * _relief(drops)
    peak = lit.max(axis=(1, 2), keepdims=True)
    peak[peak == 0] = 1
    cover: FloatArray = np.float32(strength) * lit / peak
    return to_bytes(x + cover[..., None] * _WATER)


def _relief(drops: Frame) -> FloatArray:
    """How the light falls on drops ``(B, H, W)``: from their borders, as if lit from one corner."""
    distance = ndimage.distance_transform_edt(~edges(drops, 50, 150), sampling=(1000, 1, 1))
    distance = _box(np.minimum(distance, 20).astype(np.float32))
    even = equalise(distance.astype(np.uint8)).astype(np.float32)
    lit = ndimage.correlate(even, _LIGHT[None], mode="mirror").clip(0, 255)
    return np.rint(_box(lit))


def _box(x_BHW: FloatArray) -> FloatArray:
    out: FloatArray = ndimage.uniform_filter(x_BHW, (0, 3, 3), mode="mirror")
    return out


def _slope(x_BHW: NDArray[np.int32], axis: int) -> NDArray[np.int32]:
    """Sobel's along rows (1) or columns (2). `ndimage.sobel` would smooth from frame to frame."""
    slope = ndimage.correlate1d(x_BHW, (-1, 0, 1), axis=axis, mode="nearest")
    out: NDArray[np.int32] = ndimage.correlate1d(slope, (1, 2, 1), axis=3 - axis, mode="nearest")
    return out


def equalise(x_BHW: Frame) -> Frame:
    """Histogram equalisation of each frame by itself; a frame of one value stays."""
    batch, pixels = x_BHW.shape[0], x_BHW.shape[1] * x_BHW.shape[2]
    keys = x_BHW.reshape(batch, -1).astype(np.int64) + 256 * np.arange(batch)[:, None]
    counts = np.bincount(keys.reshape(-1), minlength=256 * batch).reshape(batch, 256)
    lowest = counts[np.arange(batch), (counts > 0).argmax(axis=1)][:, None]
    share = (counts.cumsum(axis=1) - lowest) / np.maximum(pixels - lowest, 1)
    table = np.rint(255 * share).clip(0, 255).astype(np.uint8)
    made: Frame = table.reshape(-1)[keys].reshape(x_BHW.shape)
    return np.where((lowest == pixels)[..., None], x_BHW, made)


def edges(x_BHW: Frame, low: int, high: int) -> Mask:
    """Canny's edges of each frame ``(B, H, W)``: Sobel, L1 strength, thinned, above ``low`` and linked to ``high``.

    Source: Canny 1986, with the comparisons and borders of OpenCV's implementation.
    """
    x = x_BHW.astype(np.int32)
    across, down = _slope(x, 2), _slope(x, 1)
    strength = np.abs(across) + np.abs(down)
    edge = np.pad(strength, ((0, 0), (1, 1), (1, 1)))

    def beside(rows: int, columns: int) -> NDArray[np.int32]:
        height, width = strength.shape[1:]
        return edge[:, 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    steep, flat = np.abs(down), np.abs(across)
    level, upright = steep < 0.41421356 * flat, steep > 2.41421356 * flat
    falling = (across ^ down) >= 0  # the gradient runs along the main diagonal
    thin = np.where(level, (strength > beside(0, -1)) & (strength >= beside(0, 1)), False)
    thin |= upright & (strength > beside(-1, 0)) & (strength >= beside(1, 0))
    slanted = ~level & ~upright
    thin |= slanted & falling & (strength > beside(-1, -1)) & (strength > beside(1, 1))
    thin |= slanted & ~falling & (strength > beside(-1, 1)) & (strength > beside(1, -1))
    kept = thin & (strength > low)
    out: Mask = ndimage.binary_propagation(kept & (strength > high), structure=np.ones((1, 3, 3)), mask=kept)
    return out
