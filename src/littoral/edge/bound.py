"""Sessions for one frame after another, in memory that stays.

`InferenceSession.run` takes new memory for what a session gives, and copies it out. For an early segment, whose output
is large and whose work is small, that costs more than its exit's stem (docs/adr/0026). Here each session writes where
the next one reads. The values are those of `run`, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from littoral.core.arrays import FloatArray, Frame

Bound = Callable[[Any], FloatArray]
"""A `BoundSession`, or what does its work without one."""


class BoundSession:
    """A session of one input and one output, for one thread. What it gave is overwritten by its next run.

    Args:
        given, wanted: Names of the input and the output.
        to: Where the output goes, contiguous and of its shape; None lets ONNX Runtime find a place.
    """

    def __init__(self, session: ort.InferenceSession, given: str, wanted: str, to: FloatArray | None = None) -> None:
        self._session, self._names = session, (given, wanted)
        self._binding = session.io_binding()
        self._run = session.run_with_iobinding
        self._from: NDArray[Any] | None = None
        self._to = to

    def __call__(self, value: NDArray[Any]) -> FloatArray:
        """What the session makes of a value. An array that came last time too is read where it lies."""
        if value is self._from and self._to is not None:
            self._run(self._binding)
            return self._to
        return self._bind(value)

    def _bind(self, value: NDArray[Any]) -> FloatArray:
        """Read from this array from now on, and write where ONNX Runtime puts the output for it."""
        given, wanted = self._names
        if self._to is None:
            self._to = self._session.run([wanted], {given: value})[0]
        self._binding.bind_ortvalue_input(given, ort.OrtValue.ortvalue_from_numpy(value))
        self._binding.bind_ortvalue_output(wanted, ort.OrtValue.ortvalue_from_numpy(self._to))
        self._from = value
        self._run(self._binding)
        return self._to


class BoundModel:
    """All segments of a model, for one frame after another; for the thread that answers alone.

    A value is good until the next frame: who keeps one copies it.
    """

    def __init__(self, segments: Sequence[Bound]) -> None:
        self._segments = tuple(segments)
        self._frame: Frame | None = None

    def through(self, first: int, last: int, value: FloatArray | Frame) -> FloatArray | Frame:
        """As `Model.through`, for one frame.

        Args:
            value: A frame ``(1, H, W, C)``, where ``first`` is 0, or what came before it.
        """
        if first == 0 and last:
            if self._frame is None or self._frame.shape != value.shape:
                self._frame = np.array(value, dtype=np.uint8, order="C")
            else:
                self._frame[...] = value
            value = self._frame
        for segment in self._segments[first:last]:
            value = segment(value)
        return value


class FramePath:
    """A model's segments and the exits' stems, for one frame after another; for the thread that answers alone.

    Args:
        segments: Of which `through` is.
        stems: Of each exit; None where the segment's output is the features.
        model: What the segments are of, for whoever has to notice that it is another.
        features: Of all exits, side by side, float32, where the stems put them.
    """

    def __init__(
        self,
        segments: BoundModel,
        stems: Sequence[Bound | None],
        model: object = None,
        features: FloatArray | None = None,
    ) -> None:
        self.through, self.model = segments.through, model
        self.features = np.zeros(0, np.float32) if features is None else features
        self._stems = tuple(stems)

    def pooled(self, i: int, value: FloatArray) -> FloatArray:
        """The features ``(D,)`` of exit i, from what the segment before gave; good until the next frame."""
        stem = self._stems[i]
        features: FloatArray = (value if stem is None else stem(value))[0]
        return features


def copier(to: FloatArray) -> Bound:
    """What copies a value there."""

    def copy(value: NDArray[Any]) -> FloatArray:
        to[...] = value
        return to

    return copy
