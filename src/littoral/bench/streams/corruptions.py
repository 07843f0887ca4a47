"""The 15 common corruptions and the 4 extra ones, at severities 1..5, seeded, with CIFAR's or ImageNet's constants.

Source: Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR
2019. Our own writing on NumPy, SciPy and Pillow; the random draws are ours, so no frame equals one of CIFAR-10-C, and
frost is drawn instead of photographed. What else departs stands with each corruption.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from littoral.bench.streams import blur, digital, noise, weather
from littoral.bench.streams.constants import CIFAR, IMAGENET, Constants
from littoral.bench.streams.pixels import Generators
from littoral.bench.streams.spatter import spatter
from littoral.core.arrays import Frame

ConstantsName = Literal["cifar", "imagenet"]
Corruption = Callable[[Frame, Generators, Constants], Frame]

_FUNCTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter,
    "saturate": digital.saturate,
}
COMMON: tuple[str, ...] = tuple(_FUNCTIONS)[:15]
"""In the order of the paper, which is that of the continual stream."""
EXTRA: tuple[str, ...] = tuple(_FUNCTIONS)[15:]
SEVERITIES = (1, 2, 3, 4, 5)
VERSION = 1
"""Raised with every change of what bytes come out; part of the key of cached frames."""
_CHUNK_VALUES = 1 << 20


def corrupt(
    frames_BHWC: Frame,
    name: str,
    *,
    severity: int,
    seed: int,
    constants: ConstantsName = "cifar",
    first_index: int = 0,
) -> Frame:
    """Corrupt frames, each by randomness of its own.

    Args:
        frames_BHWC: RGB, uint8 ``(B, H, W, 3)``.
        name: One of `COMMON` or `EXTRA`.
        severity: 1..5.
        constants: Of CIFAR-10-C (32 x 32 pixels) or of ImageNet-C (224 x 224). Other sizes are taken as they are.
        first_index: The place of the first frame in its data set: frame ``i`` of a batch that starts at ``f`` is
            corrupted as frame ``f + i``, whatever the batch.
    Returns:
        New frames, uint8 ``(B, H, W, 3)``.
    Raises:
        ValueError: any of these is not so.
    """
    if first_index < 0:
        raise ValueError(f"first_index is {first_index}; a place in a data set is 0 or more")
    places = range(first_index, first_index + len(frames_BHWC))
    return corrupt_at(frames_BHWC, places, name, severity=severity, seed=seed, constants=constants)


def corrupt_at(
    frames_BHWC: Frame,
    places: Sequence[int],
    name: str,
    *,
    severity: int,
    seed: int,
    constants: ConstantsName = "cifar",
) -> Frame:
    """`corrupt` for frames from anywhere in their data set; ``places`` says where, one 0 or more for each."""
    _check(frames_BHWC, name, severity=severity, seed=seed, constants=constants)
    if len(places) != len(frames_BHWC):
        raise ValueError(f"{len(places)} places for {len(frames_BHWC)} frames; give one for each")
    function = weather.frost_coarse if (name, constants) == ("frost", "imagenet") else _FUNCTIONS[name]
    strength = (CIFAR if constants == "cifar" else IMAGENET)[name][severity - 1]
    out = np.empty_like(frames_BHWC)
    chunk = max(1, _CHUNK_VALUES // int(np.prod(frames_BHWC.shape[1:])))
    key = zlib.crc32(name.encode())  # not hash(): that differs from process to process
    for start in range(0, len(out), chunk):
        batch = frames_BHWC[start : start + chunk]
        rngs = [np.random.default_rng((seed, key, severity, place)) for place in places[start : start + chunk]]
        out[start : start + chunk] = function(batch, rngs, strength)
    return out


def _check(frames: Frame, name: str, *, severity: int, seed: int, constants: str) -> None:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        came = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise ValueError(f"frames are {came}; corruptions take RGB frames, uint8 (B, H, W, 3)")
    if min(frames.shape[1:3]) < 16:
        raise ValueError(f"frames are {frames.shape[1]} x {frames.shape[2]}; corruptions take 16 x 16 pixels or more")
    if name not in _FUNCTIONS:
        raise ValueError(f"no corruption is called {name!r}; there are {', '.join(_FUNCTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity!r}; it goes from 1 to 5")
    if constants not in ("cifar", "imagenet"):
        raise ValueError(f"constants are {constants!r}; there are 'cifar' and 'imagenet'")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
