"""CIFAR-10 and the official CIFAR-10-C from a folder that a user has. Files are read, nothing is fetched."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from littoral.core.arrays import Frame

Labels = NDArray[np.int64]
SIDE = 32
NUM_FRAMES = {"train": 50_000, "test": 10_000}
PER_SEVERITY = 10_000
BINARY = "cifar-10-batches-bin"
_PER_FILE = 10_000
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_cifar10(folder: Path, split: Literal["train", "test"]) -> tuple[Frame, Labels]:
    """CIFAR-10 in the official order.

    Args:
        folder: Has ``cifar10/train.npz`` and ``cifar10/test.npz`` (or these themselves): arrays ``labels`` and either
            ``webp``, the bytes of one lossless mosaic of 32 x 32 tiles, row by row, or ``frames`` uint8 (N, 32, 32, 3).
            Or it has the authors' ``cifar-10-batches-bin``, as `littoral data fetch cifar10` leaves it.
    Returns:
        Frames uint8 ``(N, 32, 32, 3)``, RGB, and labels ``(N,)``.
    Raises:
        ValueError: the folder or the file is missing, or holds something else.
    """
    if split not in NUM_FRAMES:
        raise ValueError(f"split is {split!r}; CIFAR-10 has 'train' and 'test'")
    if (folder / BINARY).is_dir():
        return _read_binary(folder / BINARY, split)
    path = _find(folder, f"{split}.npz", "cifar10")
    try:
        with np.load(path, allow_pickle=False) as held:
            names = set(held.files)
            if "labels" not in names or not names & {"webp", "frames"}:
                raise ValueError(f"its arrays are {sorted(names)}")
            labels = held["labels"].astype(np.int64)
            frames = held["frames"] if "frames" in names else _tiles(held["webp"])
        if frames.dtype != np.uint8 or frames.shape != (len(labels), SIDE, SIDE, 3):
            raise ValueError(f"its frames are {frames.dtype} {frames.shape} for {len(labels)} labels")
    except (OSError, ValueError, KeyError, EOFError) as error:
        expected = "'labels' (N,) and 'webp' (a mosaic) or 'frames' uint8 (N, 32, 32, 3)"
        raise ValueError(f"{path} is not CIFAR-10 as we read it: {error}; expected an .npz with {expected}") from error
    return frames, labels


def _read_binary(folder: Path, split: str) -> tuple[Frame, Labels]:
    """The authors' binary version: a byte of label, then 3,072 of one channel after another, for each frame."""
    names = ["test_batch.bin"] if split == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
    parts = []
    for path in (folder / name for name in names):
        size = path.stat().st_size if path.is_file() else 0
        if size != _PER_FILE * (1 + 3 * SIDE * SIDE):
            raise ValueError(f"{path} has {size} bytes, not those of {_PER_FILE} frames; fetch CIFAR-10 again")
        parts.append(np.fromfile(path, np.uint8).reshape(_PER_FILE, -1))
    records = np.concatenate(parts)
    frames = records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(frames), records[:, 0].astype(np.int64)


def _tiles(webp: NDArray[np.uint8]) -> Frame:
    mosaic = np.asarray(Image.open(io.BytesIO(webp.tobytes())).convert("RGB"))
    height, width, _ = mosaic.shape
    if height % SIDE or width % SIDE:
        raise ValueError(f"its mosaic is {height} x {width} pixels, not a whole number of tiles of {SIDE} x {SIDE}")
    tiles = mosaic.reshape(height // SIDE, SIDE, width // SIDE, SIDE, 3).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(-1, SIDE, SIDE, 3))


def load_cifar10_c(folder: Path, name: str, *, severity: int) -> tuple[Frame, Labels]:
    """The official CIFAR-10-C test frames of one corruption, in the order of the CIFAR-10 test set.

    Args:
        folder: Has ``<name>.npy`` and ``labels.npy``, or a folder ``CIFAR-10-C`` with them.
        name: A corruption by its file's name, as in `littoral.bench.streams.corruptions.COMMON`.
        severity: 1..5; the file holds 10,000 frames of each, in this order.
    Returns:
        Frames uint8 ``(10000, 32, 32, 3)``, a read-only view of the file, and labels ``(10000,)``.
    Raises:
        ValueError: a file is missing or holds something else.
    """
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity is {severity!r}; CIFAR-10-C goes from 1 to 5")
    part = slice((severity - 1) * PER_SEVERITY, severity * PER_SEVERITY)
    frames = _array(_find(folder, f"{name}.npy", "CIFAR-10-C"), (5 * PER_SEVERITY, SIDE, SIDE, 3))
    labels = _array(_find(folder, "labels.npy", "CIFAR-10-C"), (5 * PER_SEVERITY,))
    return frames[part], labels[part].astype(np.int64)


def _array(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A view of the file, so that one severity costs the memory of one."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as .npy: {error}; fetch it again") from error
    if found.shape != shape or found.dtype.kind not in "ui" or (len(shape) > 1 and found.dtype != np.uint8):
        raise ValueError(f"{path} holds {found.dtype} {found.shape}; CIFAR-10-C has uint8 {shape}; fetch it again")
    array: NDArray[np.uint8] = found
    return array


def _find(folder: Path, file: str, below: str) -> Path:
    for path in (folder / below / file, folder / file):
        if path.is_file():
            return path
    state = "has no" if folder.is_dir() else "is no folder, so it has no"
    raise ValueError(f"{folder} {state} {below}/{file}; give the folder that has it ('littoral data list' says how)")
