"""What the corruptions share: scales, Gaussian and motion blur, zoom, bilinear sampling; batches all, no randomness."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from littoral.core.arrays import FloatArray, Frame

Generators = Sequence[np.random.Generator]
"""One generator per frame, so that a frame's randomness does not depend on its batch."""


def to_unit(frames_BHWC: Frame) -> FloatArray:
    """The scale 0..1."""
    return frames_BHWC.astype(np.float32) / np.float32(255)


def to_bytes(x: FloatArray) -> Frame:
    """uint8 of the scale 0..1, clipped and cut off as the published sets are, not rounded."""
    guard = np.float32(1e-3)  # of a grey level: what float32 loses must not cost a whole one
    out: Frame = (x.clip(0, 1) * np.float32(255) + guard).astype(np.uint8)
    return out


def draw(rngs: Generators, one: Callable[[np.random.Generator], NDArray[np.floating] | float]) -> FloatArray:
    """``one`` of each frame's generator, stacked as float32."""
    return np.stack([one(rng) for rng in rngs]).astype(np.float32, copy=False)


def normal(rngs: Generators, shape: tuple[int, ...]) -> FloatArray:
    """Standard normal float32 ``(B, *shape)``."""
    return draw(rngs, lambda rng: rng.standard_normal(shape, dtype=np.float32))


def grey(x_BHWC: FloatArray) -> FloatArray:
    """Luma ``(B, H, W)`` of RGB, weights of ITU-R BT.601."""
    red, green, blue = np.float32(0.299), np.float32(0.587), np.float32(0.114)
    luma: FloatArray = red * x_BHWC[..., 0] + green * x_BHWC[..., 1] + blue * x_BHWC[..., 2]
    return luma


def gaussian(x_BHW: FloatArray, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> FloatArray:
    """Blur axes 1 and 2 of ``(B, H, W)`` or ``(B, H, W, C)``; sigma in pixels, 0 for nothing."""
    sigmas = (0.0, sigma, sigma) + (0.0,) * (x_BHW.ndim - 3)
    out: FloatArray = ndimage.gaussian_filter(x_BHW, sigmas, mode=mode, truncate=truncate)
    return out


def zoom(x_BHW: FloatArray, factor: float) -> FloatArray:
    """The middle of each frame, enlarged to the frame's size; ``(B, H, W)`` or ``(B, H, W, C)``, factor at least 1."""
    return _zoom_axis(_zoom_axis(x_BHW, factor, 1), factor, 2)


def _zoom_axis(x: FloatArray, factor: float, axis: int) -> FloatArray:
    size = x.shape[axis]
    kept = int(np.ceil(size / factor))
    made = round(kept * factor)
    first = (size - kept) // 2
    trimmed = (made - size) // 2
    at = np.arange(trimmed, trimmed + size) * ((kept - 1) / max(made - 1, 1))  # corners stay corners
    low = np.minimum(at.astype(np.int64), max(kept - 2, 0))
    share = (at - low).astype(np.float32).reshape((size,) + (1,) * (x.ndim - axis - 1))
    high = np.minimum(low + 1, kept - 1)
    out: FloatArray = x.take(low + first, axis=axis) * (1 - share) + x.take(high + first, axis=axis) * share
    return out


def motion_blur(x_BHWC: FloatArray, *, radius: float, sigma: float, angles: FloatArray) -> FloatArray:
    """One-sided Gaussian smear along one direction for each frame.

    Args:
        x_BHWC: Any scale.
        radius: Pixels; ``2 * ceil(radius) + 1`` taps.
        angles: Degrees ``(B,)``, 0 along the rows.
    Source: ImageMagick's ``MotionBlurImage``: whole-pixel taps, edge pixels repeated.
    """
    height, width = x_BHWC.shape[1:3]
    taps = 2 * int(np.ceil(radius)) + 1
    steps = np.arange(taps)
    kernel = np.exp(-(steps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    turns = np.deg2rad(angles.astype(np.float64))[:, None]
    rows = np.ceil(steps * np.sin(turns) - 0.5).astype(np.int64) + taps
    columns = np.ceil(steps * np.cos(turns) - 0.5).astype(np.int64) + taps
    margins = ((0, 0), (taps, taps), (taps, taps)) + ((0, 0),) * (x_BHWC.ndim - 3)
    padded = np.pad(x_BHWC, margins, mode="edge")
    out = np.zeros_like(x_BHWC)
    seen = [(step, weight) for step, weight in enumerate(kernel.astype(np.float32)) if weight > 1e-7]
    for frame, source, row, column in zip(out, padded, rows, columns, strict=True):
        for step, weight in seen:
            top, left = row[step], column[step]
            frame += weight * source[top : top + height, left : left + width]
    return out


def mirror(index: NDArray[np.int64], size: int, *, edge_twice: bool) -> NDArray[np.int64]:
    """Any whole index reflected into ``0..size-1``: ``b a | a b`` with the edge twice, ``c b | a b c`` without."""
    period = 2 * size if edge_twice else max(2 * size - 2, 1)
    folded = np.mod(index, period)
    out: NDArray[np.int64] = np.minimum(folded, (period - 1 if edge_twice else period) - folded)
    return out


def sample(
    x_BHWC: FloatArray, rows_BHW: NDArray[np.floating], columns_BHW: NDArray[np.floating], *, edge_twice: bool
) -> FloatArray:
    """Bilinear values at real coordinates in pixels; outside, the frame is reflected (see `mirror`)."""
    batch, height, width, channels = x_BHWC.shape
    flat = x_BHWC.reshape(-1, channels)
    base = (np.arange(batch) * (height * width))[:, None, None]
    top, left = np.floor(rows_BHW).astype(np.int64), np.floor(columns_BHW).astype(np.int64)
    down = (rows_BHW - top).astype(np.float32)[..., None]
    right = (columns_BHW - left).astype(np.float32)[..., None]
    out = np.zeros_like(x_BHWC)
    for step_down, share_down in ((0, 1 - down), (1, down)):
        row = base + mirror(top + step_down, height, edge_twice=edge_twice) * width
        for step_right, share_right in ((0, 1 - right), (1, right)):
            column = mirror(left + step_right, width, edge_twice=edge_twice)
            out += share_down * share_right * flat.take(row + column, axis=0)
    return out
