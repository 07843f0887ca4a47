"""Variations of frames whose targets are about places. Axes: B batch, H height, W width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.train.split_data import Frames


@dataclass(frozen=True)
class CropAndFlip:
    """One window for the batch, so that a step costs its share of a frame; half the frames are mirrored.

    Targets, where there are any, are maps of the frame's size and go along. The window is where it falls on a grid of
    ``grid`` pixels, so that what a network makes of a crop lies on what it makes of the frame.
    """

    height: int
    width: int
    grid: int = 8

    def __call__(
        self, frames_BHWC: Frames, targets: NDArray[Any] | None, rng: np.random.Generator
    ) -> tuple[Frames, NDArray[Any] | None]:
        """See `littoral.train.split_data.Augment`; the frames come back with the window's size.

        Raises:
            ValueError: the window is larger than the frame, or the targets are of another size.
        """
        size = frames_BHWC.shape[1:3]
        if self.height > size[0] or self.width > size[1]:
            raise ValueError(f"a window of {self.height} x {self.width} does not fit into frames of {size}")
        if targets is not None and targets.shape[1:3] != size:
            raise ValueError(f"targets are {targets.shape}, expected a map of {size} for each frame")
        top, left = (
            int(rng.integers((whole - part) // self.grid + 1)) * self.grid
            for whole, part in zip(size, (self.height, self.width), strict=True)
        )
        rows, columns = slice(top, top + self.height), slice(left, left + self.width)
        frames = np.array(frames_BHWC[:, rows, columns])
        maps = None if targets is None else np.array(targets[:, rows, columns])
        mirrored = rng.random(len(frames)) < 0.5
        frames[mirrored] = frames[mirrored][:, :, ::-1]
        if maps is not None:
            maps[mirrored] = maps[mirrored][:, :, ::-1]
        return frames, maps
