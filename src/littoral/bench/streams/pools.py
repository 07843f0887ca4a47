"""Where a stream's frames come from: clean frames corrupted by us, or the official CIFAR-10-C, by name and severity.

The name ``clean`` is the frames as they are, whatever the severity.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
import scipy
from numpy.typing import NDArray

from littoral.bench.streams.cifar import load_cifar10_c
from littoral.bench.streams.corruptions import COMMON, EXTRA, VERSION, ConstantsName, corrupt, corrupt_at
from littoral.core.arrays import Frame

Labels = NDArray[np.int64]
CLEAN = "clean"


class Pool(Protocol):
    """Frames that exist in every shift."""

    @property
    def labels(self) -> Labels:
        """Of each place ``(N,)``; only the scorer may look."""
        ...

    def frames_of(self, places: NDArray[np.int64], name: str, severity: int) -> Frame:
        """Frames uint8 ``(B, H, W, 3)`` of these places under a shift."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class CorruptedPool:
    """Clean frames, corrupted when asked.

    Args:
        frames: uint8 ``(N, H, W, 3)``.
        labels: int64 ``(N,)``.
        seed: Of the corruptions. A place has the same bytes in every stream made from one seed.
        cache: A folder of the caller's. Where one is given, a shift is made for all places once, kept as a ``.npy``
            file, and read from there through a memory map ever after, by other processes too.
    Raises:
        ValueError: frames and labels are not of these forms.
    """

    frames: Frame
    labels: Labels
    seed: int = 0
    constants: ConstantsName = "cifar"
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise ValueError(f"frames are {self.frames.dtype} {self.frames.shape}; expected uint8 (N, H, W, 3)")
        if self.labels.shape != self.frames.shape[:1] or self.labels.dtype.kind not in "iu":
            came = f"{self.labels.dtype} {self.labels.shape}"
            raise ValueError(f"labels are {came}; expected one whole number for each of {len(self.frames)} frames")

    def frames_of(self, places: NDArray[np.int64], name: str, severity: int) -> Frame:
        """See `Pool`."""
        if name == CLEAN:
            return self.frames[places]
        if self.cache is None:
            options = {"severity": severity, "seed": self.seed}
            return corrupt_at(self.frames[places], places.tolist(), name, **options, constants=self.constants)
        return np.asarray(self._kept(self.cache, name, severity)[places])

    @cached_property
    def _digest(self) -> str:
        held = hashlib.sha256(repr(self.frames.shape).encode())
        held.update(np.ascontiguousarray(self.frames).data)
        return held.hexdigest()

    def _kept(self, folder: Path, name: str, severity: int) -> Frame:
        """The whole shift from the cache, made if it is not there."""
        makers = f"{VERSION} {np.__version__} {scipy.__version__} {PIL.__version__}"
        key = f"{self._digest} {name} {severity} {self.constants} {self.seed} {makers}"
        path = folder / f"{name}-{severity}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.npy"
        for _ in range(2):
            try:
                kept: Frame = np.load(path, mmap_mode="r", allow_pickle=False)
                if kept.shape == self.frames.shape and kept.dtype == np.uint8:
                    return kept
            except (OSError, ValueError, EOFError):
                pass  # not there, or damaged: made below
            made = corrupt(self.frames, name, severity=severity, seed=self.seed, constants=self.constants)
            _write(path, made)
        raise ValueError(f"{path} was written and cannot be read; is the cache's folder sound?")


def _write(path: Path, frames: Frame) -> None:
    """All of a file or nothing, for readers in other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".npy")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, frames, allow_pickle=False)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass(frozen=True, kw_only=True, eq=False)
class OfficialCifar10C:
    """The official CIFAR-10-C of a folder; ``clean`` is ``frames``, the CIFAR-10 test set in its own order."""

    folder: Path
    frames: Frame
    labels: Labels

    def frames_of(self, places: NDArray[np.int64], name: str, severity: int) -> Frame:
        """See `Pool`."""
        if name == CLEAN:
            return self.frames[places]
        shifted, labels = load_cifar10_c(self.folder, name, severity=severity)
        if not np.array_equal(labels, self.labels):
            raise ValueError(
                f"the labels in {self.folder} are not those given; give CIFAR-10's test set in its own order"
            )
        return np.asarray(shifted[places])


def check_names(names: tuple[str, ...]) -> None:
    """Raises: ValueError: no names, or one that is no corruption."""
    known = (CLEAN, *COMMON, *EXTRA)
    strangers = [name for name in names if name not in known]
    if not names or strangers:
        raise ValueError(f"corruptions are {list(names)}; give some of {', '.join(known)}")
