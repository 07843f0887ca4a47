"""Frames with shapes, colours and texture, as photographs have, made from a seed."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage

from littoral.core.arrays import Frame


def pictures(count: int, *, side: int = 32, seed: int = 0) -> Frame:
    """uint8 ``(count, side, side, 3)``, the caller's own."""
    return _pictures(count, side, seed).copy()


@cache
def _pictures(count: int, side: int, seed: int) -> Frame:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((count, side, side, 3)), (0, side / 8, side / 8, 0))
    smooth /= smooth.std(axis=(1, 2), keepdims=True)
    fine = ndimage.gaussian_filter(rng.standard_normal((count, side, side, 3)), (0, 0.7, 0.7, 0))
    colour = rng.uniform(0.35, 0.65, (count, 1, 1, 3))
    x = colour + 0.12 * smooth + 0.08 * fine
    for picture in x:
        top, left = rng.integers(2, side // 2, 2)
        picture[top : top + side // 3, left : left + side // 3] = rng.uniform(0, 1, 3)
    return (x.clip(0, 1) * 255).astype(np.uint8)
