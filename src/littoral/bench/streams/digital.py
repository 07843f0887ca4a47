"""Digital and other: contrast, elastic, pixelate, jpeg, saturate. uint8 frames in and out; one generator per frame."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from littoral.bench.streams.constants import Constants
from littoral.bench.streams.pixels import Generators, draw, gaussian, sample, to_bytes, to_unit
from littoral.core.arrays import FloatArray, Frame


def contrast(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """Distances from each channel's mean over the frame shrink to a share."""
    (share,) = c
    x = to_unit(frames)
    means = x.mean(axis=(1, 2), keepdims=True)
    return to_bytes((x - means) * np.float32(share) + means)


def saturate(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """HSV saturation times the first number plus the second, hue and value as they were; grey has the hue of red."""
    factor, added = c
    x = to_unit(frames)
    value, least = x.max(axis=3, keepdims=True), x.min(axis=3, keepdims=True)
    span = value - least
    saturation = span / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * np.float32(factor) + np.float32(added), 0, 1)
    below = (value - x) / np.where(span > 0, span, 1)  # 0 for the largest channel, 1 for the smallest
    below = np.where(span > 0, below, np.array([0, 1, 1], np.float32))
    return to_bytes(value * (1 - wanted * below))


def pixelate(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """Averaged down to a share of each side, and back up."""
    (share,) = c
    height, width = frames.shape[1:3]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    box = Image.Resampling.BOX
    return np.stack([np.asarray(Image.fromarray(f).resize(small, box).resize((width, height), box)) for f in frames])


def jpeg_compression(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """Through JPEG of a quality, chroma at half the resolution. The bytes are those of the installed libjpeg."""
    return np.stack([_through_jpeg(frame, int(c[0])) for frame in frames])


def _through_jpeg(frame: Frame, quality: int) -> Frame:
    held = io.BytesIO()
    Image.fromarray(frame).save(held, "JPEG", quality=quality)
    return np.asarray(Image.open(held))


def _affine(rngs: Generators, height: int, width: int, reach: float) -> tuple[FloatArray, FloatArray]:
    """Where each pixel comes from, rows and columns ``(B, H, W)``, when three points move by up to ``reach`` pixels."""
    middle, arm = np.array([height // 2, width // 2]), min(height, width) // 3
    # Points as (x, y) of (height // 2, width // 2), as published; frames are square there.
    before = np.array([middle + arm, [middle[0] + arm, middle[1] - arm], middle - arm], np.float64)
    moves = np.stack([rng.uniform(-reach, reach, (3, 2)) for rng in rngs])
    after = before + moves
    # The map that takes each point ``after`` back to ``before``, by Cramer's rule on the triangles' edges.
    first, second = after[:, 1] - after[:, 0], after[:, 2] - after[:, 0]
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    area = np.where(np.abs(area) < 1e-3, np.copysign(1e-3, area), area)[:, None, None]
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    dx, dy = x - after[:, 0, 0, None, None], y - after[:, 0, 1, None, None]
    along_first = (dx * second[:, 1, None, None] - dy * second[:, 0, None, None]) / area
    along_second = (dy * first[:, 0, None, None] - dx * first[:, 1, None, None]) / area
    edge_first, edge_second = before[1] - before[0], before[2] - before[0]
    columns = before[0, 0] + along_first * edge_first[0] + along_second * edge_second[0]
    rows = before[0, 1] + along_first * edge_first[1] + along_second * edge_second[1]
    return rows, columns


def elastic_transform(frames: Frame, rngs: Generators, c: Constants) -> Frame:
    """A random affine map, then a smooth random displacement; shares of the side: (strength, smoothness, affine).

    Departs from the published sets in exact bilinear weights, where OpenCV's are rounded to 1/32 pixel.
    """
    height, width = frames.shape[1:3]
    strength, smooth, reach = (share * height for share in c)
    x = to_unit(frames)
    x = sample(x, *_affine(rngs, height, width, reach), edge_twice=False)
    moves = [
        gaussian(draw(rngs, lambda rng: rng.uniform(-1, 1, (height, width))), smooth, mode="reflect", truncate=3)
        * np.float32(strength)
        for _ in range(2)
    ]
    rows, columns = np.arange(height)[None, :, None] + moves[1], np.arange(width)[None, None, :] + moves[0]
    return to_bytes(sample(x, rows, columns, edge_twice=True))
