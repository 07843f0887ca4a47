"""How unlike a frame is to what was sent before: a small memory of what the sent ones looked like and were answered.

A descriptor is a thumbnail, 4 x 4 cells of mean colour, freed of its brightness and contrast so that fog and night do
not make all frames alike, and the softmax answer. A camera that looks at one thing gives one descriptor, noise aside.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from littoral.core.arrays import FloatArray, Frame

CELLS = 4
_SAMPLED = 32
"""Pixels a side that the cells are taken from at most: a large frame costs no more than a small one."""
_CONTRAST_FLOOR = 0.02
"""In units of full scale: what has less contrast is nearly uniform, and noise in it is not blown up."""


class Descriptor:
    """Makes the descriptors of frames of one shape; on the path of an answer, so in few calls.

    Args:
        frame_shape: ``(H, W, C)``.
        answer_weight: How much a wholly different answer counts beside a wholly different picture.
    """

    def __init__(self, frame_shape: tuple[int, int, int], num_classes: int, answer_weight: float) -> None:
        height, width, channels = frame_shape
        self._down, self._across = -(-height // _SAMPLED), -(-width // _SAMPLED)
        rows = _pooling(-(-height // self._down))
        columns = _pooling(-(-width // self._across))
        self._rows = rows / np.float32(255)
        self._columns = np.kron(columns.T, np.eye(channels, dtype=np.float32))
        self._num_cells = rows.shape[0] * columns.shape[0] * channels
        self.size = self._num_cells + num_classes
        self._picture_weight = 1 / math.sqrt(4 * self._num_cells)
        self._answer_weight = np.float32(answer_weight * math.sqrt(0.5))

    def __call__(self, frame_HWC: Frame, logits_K: FloatArray) -> FloatArray:
        """float32 ``(size,)``: two are 0 apart for the same, about 0.7 for unrelated pictures, at most about 1."""
        small = frame_HWC[:: self._down, :: self._across]
        flat = small.reshape(len(small), -1).astype(np.float32)
        cells = (self._rows @ flat @ self._columns).reshape(-1)
        mean = float(np.add.reduce(cells)) / self._num_cells
        variance = float(cells.dot(cells)) / self._num_cells - mean * mean
        scale = self._picture_weight / (math.sqrt(max(variance, 0.0)) + _CONTRAST_FLOOR)
        out = np.empty(self.size, np.float32)
        np.multiply(cells - np.float32(mean), np.float32(scale), out=out[: self._num_cells])
        answer = np.exp(logits_K - logits_K.max())
        np.multiply(answer, self._answer_weight / np.add.reduce(answer), out=out[self._num_cells :])
        return out


def _pooling(size: int) -> FloatArray:
    """``(cells, size)``: each cell is the mean of a part of equal length, or nearly."""
    cells = min(size, CELLS)
    edges = [size * i // cells for i in range(cells + 1)]
    out = np.zeros((cells, size), np.float32)
    for row, (start, end) in enumerate(pairwise(edges)):
        out[row, start:end] = 1 / (end - start)
    return out


class SentMemory:
    """The descriptors of the frames that were sent last; the oldest gives way."""

    def __init__(self, *, capacity: int, size: int) -> None:
        self._rows = np.zeros((capacity, size), np.float32)
        self._squares = np.zeros(capacity, np.float32)
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, len(self._rows))

    def distance(self, descriptor: FloatArray) -> float:
        """To the nearest that was sent; 1 when nothing was sent yet."""
        n = len(self)
        if n == 0:
            return 1.0
        squares = self._squares[:n] - 2 * self._rows[:n].dot(descriptor)
        return math.sqrt(max(float(squares.min()) + float(descriptor.dot(descriptor)), 0.0))

    def add(self, descriptor: FloatArray) -> None:
        """Keep what a sent frame looked like."""
        at = self._count % len(self._rows)
        self._rows[at], self._squares[at] = descriptor, descriptor.dot(descriptor)
        self._count += 1

    def clear(self) -> None:
        """Forget all: in another world the same picture is worth sending again."""
        self._count = 0
