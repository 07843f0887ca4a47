"""What is known of every frame of a stream before it is simulated: answers, confidences, bytes.

Axes: N frames, P answers of the device (early exits, then the whole network), W ways of offloading, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s, Indices
from littoral.core.route_words import Way
from littoral.core.switcher import NUM_FEATURES


@dataclass(frozen=True, kw_only=True)
class CloudWay:
    """A way of offloading, for tables.

    Attributes:
        name: ``split-1/level-2``, ``webp-80``.
        way: What the router takes; the bytes of each frame are in the table.
        cloud_ms: What the cloud takes for a request.
    """

    name: str
    way: Way
    cloud_ms: float = 5.0


@dataclass(frozen=True, kw_only=True)
class FrameTable:
    """A stream.

    Attributes:
        labels_N: What is right.
        answers_NP, confidences_NP: Of each exit, then of the whole network.
        features_NPF: `littoral.core.switcher.switch_features`; None: there is no switcher.
        cloud_answers_NW: What comes back by each way.
        bytes_NW: Of each payload.
        ways: The W ways.
        step_ms: What the device takes from each point to the next, P of them.
        drift_N: Whether a sign of drift is given before this frame.
    """

    labels_N: Indices
    answers_NP: Indices
    confidences_NP: Float64s
    cloud_answers_NW: Indices
    bytes_NW: NDArray[np.integer]
    ways: tuple[CloudWay, ...]
    step_ms: tuple[float, ...]
    features_NPF: Float64s | None = None
    drift_N: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        n, points, ways = len(self.labels_N), len(self.step_ms), len(self.ways)
        wanted = ((n, points), (n, points), (n, ways), (n, ways))
        came = tuple(
            array.shape for array in (self.answers_NP, self.confidences_NP, self.cloud_answers_NW, self.bytes_NW)
        )
        if n == 0 or points == 0 or came != wanted:
            raise ValueError(f"a table of {n} frames, {points} steps and {ways} ways has shapes {came}, not {wanted}")
        if self.features_NPF is not None and self.features_NPF.shape != (n, points, NUM_FEATURES):
            raise ValueError(f"features of {self.features_NPF.shape} came, expected {(n, points, NUM_FEATURES)}")
        if self.drift_N is not None and self.drift_N.shape != (n,):
            raise ValueError(f"drift signs of {self.drift_N.shape} came, expected {(n,)}")
        if any(way.way.point > points for way in self.ways):
            raise ValueError(f"a way begins after the whole network, which is point {points}")

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def num_points(self) -> int:
        """The answers that the device has: its early exits and the whole network."""
        return len(self.step_ms)

    @property
    def local_right_NP(self) -> Float64s:
        """1 where the device's answer is right."""
        right: Float64s = (self.answers_NP == self.labels_N[:, None]).astype(np.float64)
        return right

    @property
    def cloud_right_NW(self) -> Float64s:
        """1 where the answer that a way brings is right."""
        right: Float64s = (self.cloud_answers_NW == self.labels_N[:, None]).astype(np.float64)
        return right

    def way_named(self, name: str) -> int:
        """The index of a way.

        Raises:
            ValueError: there is none of this name.
        """
        names = [way.name for way in self.ways]
        if name not in names:
            raise ValueError(f"there is no way {name!r}; there are {', '.join(names) or 'none'}")
        return names.index(name)

    def of(self, frames: slice | Indices, ways: Sequence[int] | None = None) -> FrameTable:
        """Some of the frames, and of the ways."""
        keep = list(range(len(self.ways))) if ways is None else list(ways)
        return FrameTable(
            labels_N=self.labels_N[frames],
            answers_NP=self.answers_NP[frames],
            confidences_NP=self.confidences_NP[frames],
            cloud_answers_NW=self.cloud_answers_NW[frames][:, keep],
            bytes_NW=self.bytes_NW[frames][:, keep],
            ways=tuple(self.ways[w] for w in keep),
            step_ms=self.step_ms,
            features_NPF=None if self.features_NPF is None else self.features_NPF[frames],
            drift_N=None if self.drift_N is None else self.drift_N[frames],
        )
