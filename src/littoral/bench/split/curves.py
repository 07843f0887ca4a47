"""Rate curves: bytes against accuracy, and how far two of them lie apart. Pure.

Between points a curve is a piecewise cubic that does not overshoot (PCHIP), over the logarithm of the bytes. Source of
the two distances: Bjontegaard, VCEG-M33, 2001, who used one cubic through all points; PCHIP and mean differences over
the common range as in the later practice of the video standards. We put accuracy where they have PSNR.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

_NODES = 1000
"""The mean of a difference is taken at so many places, at the middles of equal steps."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points that one could choose to work at, in rising order of both.

    Args:
        num_bytes: Mean bytes of a frame, above 0.
        accuracy: Percent.
    Raises:
        ValueError: there is no point, or they are not in strictly rising order of both.
    """

    num_bytes: tuple[float, ...]
    accuracy: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for values in (self.num_bytes, self.accuracy) for a, b in pairwise(values))
        if not self.num_bytes or len(self.num_bytes) != len(self.accuracy) or min(self.num_bytes) <= 0 or not rising:
            raise ValueError(
                f"a curve has bytes above 0 and accuracies, both rising, got {self.num_bytes} and {self.accuracy}; "
                "make one of measured points by Curve.of"
            )

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> Curve:
        """The curve of measured ``(bytes, accuracy)``: a point that costs more than another and is no better is left
        out.

        Raises:
            ValueError: there is no point, or one has no bytes.
        """
        kept: list[tuple[float, float]] = []
        for num_bytes, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
            if not kept or accuracy > kept[-1][1]:
                kept.append((num_bytes, accuracy))
        return cls(num_bytes=tuple(b for b, _ in kept), accuracy=tuple(a for _, a in kept))


def bytes_at(curve: Curve, accuracy: float) -> float | None:
    """The bytes of an accuracy, straight between two points over the logarithm; None outside the curve."""
    if not curve.accuracy[0] <= accuracy <= curve.accuracy[-1]:
        return None
    return math.exp(float(np.interp(accuracy, curve.accuracy, np.log(curve.num_bytes))))


def accuracy_at(curve: Curve, num_bytes: float) -> float | None:
    """What is reached with so many bytes, straight between two points over the logarithm.

    None below the first point; above the last one its accuracy, since one need not send more.

    Raises:
        ValueError: the bytes are not above 0.
    """
    if num_bytes <= 0:
        raise ValueError(f"num_bytes is {num_bytes}; what sends nothing has no place on a rate curve")
    if num_bytes < curve.num_bytes[0]:
        return None
    return float(np.interp(math.log(num_bytes), np.log(curve.num_bytes), curve.accuracy))


def delta_accuracy(curve: Curve, reference: Curve) -> float | None:
    """By how many points a curve lies above another in the mean, over the logarithm of the bytes that both reach.

    None where they have no bytes in common, or one has a single point.
    """
    logs, others = np.log(curve.num_bytes), np.log(reference.num_bytes)
    return _mean_difference((logs, np.array(curve.accuracy)), (others, np.array(reference.accuracy)))


def delta_rate(curve: Curve, reference: Curve) -> float | None:
    """By what share a curve needs more bytes than another for the same accuracy, in the geometric mean.

    -0.5 is half the bytes. The mean is over the accuracies that both reach; None as for `delta_accuracy`.
    """
    ours = np.array(curve.accuracy), np.log(curve.num_bytes)
    theirs = np.array(reference.accuracy), np.log(reference.num_bytes)
    difference = _mean_difference(ours, theirs)
    return None if difference is None else math.exp(difference) - 1


Points = tuple[NDArray[np.float64], NDArray[np.float64]]


def _mean_difference(ours: Points, theirs: Points) -> float | None:
    low, high = max(ours[0][0], theirs[0][0]), min(ours[0][-1], theirs[0][-1])
    if not low < high:
        return None
    at = low + (np.arange(_NODES) + 0.5) * (high - low) / _NODES
    return float((PchipInterpolator(*ours)(at) - PchipInterpolator(*theirs)(at)).mean())
