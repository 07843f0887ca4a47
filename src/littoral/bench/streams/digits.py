"""Drifting streams of scikit-learn's handwritten digits: 16 x 16 grey frames, seeded, made from the seed alone.

The stream's labels leave this module only in `Stream.labels`, for scoring; what is played to a device is
`Stream.frames`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from littoral.core.arrays import Frame

SIDE = 16
Labels = NDArray[np.int64]
Corruption = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]
"""Frames ``(N, H, W)`` on the scale 0..1 and a generator, to frames of the same shape."""


@dataclass(frozen=True)
class Stream:
    """Frames in the order in which they are played, uint8 ``(N, 16, 16, 1)``, with what only the scorer may see."""

    frames: Frame
    labels: Labels
    phase: NDArray[np.int64]
    """Index into `PHASES` of each frame."""


@cache
def _digits() -> tuple[NDArray[np.float32], Labels]:
    from sklearn.datasets import load_digits  # slow to import: only when digits are wanted

    data = load_digits()
    small = data.images.astype(np.float32) / 16.0
    large: NDArray[np.float32] = ndimage.zoom(small, (1, 2, 2), order=1, mode="nearest", grid_mode=True).clip(0, 1)
    return large, data.target.astype(np.int64)


def split_digits(seed: int) -> tuple[tuple[NDArray[np.float32], Labels], tuple[NDArray[np.float32], Labels]]:
    """Source and stream halves of the digits, ``(N, 16, 16)`` on 0..1; no image is in both."""
    images, labels = _digits()
    order = np.random.default_rng(seed).permutation(len(images))
    source, stream = order[: len(order) // 2], order[len(order) // 2 :]
    return (images[source], labels[source]), (images[stream], labels[stream])


def _turn(images: NDArray[np.float32], angles: NDArray[np.float64]) -> NDArray[np.float32]:
    """Each image turned by its angle, in degrees."""
    turned = [ndimage.rotate(i, a, reshape=False, order=1) for i, a in zip(images, angles, strict=True)]
    return np.stack(turned).astype(np.float32)


def _jitter(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A shift of at most one pixel and a tilt of at most six degrees, as of a hand-held camera."""
    shifts = rng.integers(-1, 2, size=(len(images), 2))
    moved = np.stack([np.roll(image, shift, axis=(0, 1)) for image, shift in zip(images, shifts, strict=True)])
    return _turn(moved, rng.uniform(-6, 6, len(images)))


def clean(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Nothing but the jitter that every frame has."""
    return images


def dim(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Contrast falls to 30 % and brightness to a dark grey, as at dusk."""
    return 0.12 + 0.3 * images + rng.normal(0, 0.02, images.shape).astype(np.float32)


def blur_and_noise(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A lens out of focus (sigma 1.2 pixels) on a noisy sensor (standard deviation 0.1)."""
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(images, (0, 1.2, 1.2))
    return blurred + rng.normal(0, 0.1, images.shape).astype(np.float32)


def rotated(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The camera hangs askew: 12 to 20 degrees, beside the tilt that every frame has."""
    return _turn(images, rng.uniform(12, 20, len(images)))


PHASES: tuple[tuple[str, Corruption], ...] = (
    ("clean", clean),
    ("dim", dim),
    ("blur + noise", blur_and_noise),
    ("rotated", rotated),
    ("clean again", clean),
)
DRIFT_PHASES = (1, 2, 3)
HELD_OUT_IMAGES = 200
"""Of the stream's half: they are never played, so that what is counted on them holds for images that no network saw."""


def to_frames(images: NDArray[np.float32]) -> Frame:
    """uint8 ``(N, H, W, 1)`` of images ``(N, H, W)`` on 0..1."""
    frames: Frame = np.rint(images.clip(0, 1) * 255).astype(np.uint8)[..., None]
    return frames


def source_frames(seed: int, copies: int = 4) -> tuple[Frame, Labels]:
    """The frames that the student is trained on: clean, jittered, ``copies`` of each."""
    (images, labels), _ = split_digits(seed)
    rng = np.random.default_rng([seed, 1])
    frames = np.concatenate([to_frames(_jitter(images, rng)) for _ in range(copies)])
    return frames, np.tile(labels, copies)


def robust_frames(seed: int, copies: int = 6) -> tuple[Frame, Labels]:
    """What makes the teacher strong: random contrast, blur, noise and turns, milder and wider than the stream's own."""
    (images, labels), _ = split_digits(seed)
    rng = np.random.default_rng([seed, 2])
    return np.concatenate([_varied(images, rng) for _ in range(copies)]), np.tile(labels, copies)


def _varied(images: NDArray[np.float32], rng: np.random.Generator, strength: float = 1.0) -> Frame:
    batch = _jitter(images, rng)
    batch = _turn(batch, rng.uniform(-40 * strength, 40 * strength, len(batch)))
    sigma = rng.uniform(0, 1.0 * strength, len(batch))
    batch = np.stack([ndimage.gaussian_filter(i, s) for i, s in zip(batch, sigma, strict=True)])
    gain = rng.uniform(1 - 0.6 * strength, 1.0, (len(batch), 1, 1))
    offset = rng.uniform(0, 0.3 * strength, (len(batch), 1, 1))
    noise = rng.normal(0, 1, batch.shape) * rng.uniform(0, 0.12 * strength, (len(batch), 1, 1))
    return to_frames((batch * gain + offset + noise).astype(np.float32))


def held_out_frames(seed: int, *, clean: int = 7, varied: int = 1) -> tuple[Frame, Labels]:
    """What a router's tables are counted on: images that are neither trained on nor played.

    Args:
        clean, varied: So many copies of each, as they are and half as varied as the teacher's frames. Some must be
            varied: of clean frames alone the student is hardly ever wrong, and what is worth asking could not be seen.
    """
    _, (images, labels) = split_digits(seed)
    images, labels = images[:HELD_OUT_IMAGES], labels[:HELD_OUT_IMAGES]
    rng = np.random.default_rng([seed, 4])
    frames = [to_frames(_jitter(images, rng)) for _ in range(clean)]
    frames += [_varied(images, rng, 0.5) for _ in range(varied)]
    return np.concatenate(frames), np.tile(labels, clean + varied)


def drifting_stream(seed: int, *, device: int, frames_per_phase: int) -> Stream:
    """What one device sees: the phases one after another, drawn afresh from digits that no model trained on."""
    _, (images, labels) = split_digits(seed)
    images, labels = images[HELD_OUT_IMAGES:], labels[HELD_OUT_IMAGES:]
    frames, told, phase = [], [], []
    for index, (_, corrupt) in enumerate(PHASES):
        rng = np.random.default_rng([seed, 3, device, index])
        chosen = rng.choice(len(images), size=frames_per_phase)
        frames.append(to_frames(corrupt(_jitter(images[chosen], rng), rng)))
        told.append(labels[chosen])
        phase.append(np.full(frames_per_phase, index))
    return Stream(frames=np.concatenate(frames), labels=np.concatenate(told), phase=np.concatenate(phase))
