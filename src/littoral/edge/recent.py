"""The newest frames' features, for whoever comes after the answer: the background thread, and a user with a label.

The thread that answers writes; it never waits. Others take a copy and see by its number whether it is whole: a frame's
place is taken again 64 frames later.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import FloatArray
from littoral.core.calibration_ring import NO_LABEL

NUM_RECENT = 64
_HEAD = struct.Struct("<qqiiBBf")


@dataclass(frozen=True, kw_only=True)
class SeenFrame:
    """What is kept of a frame.

    Attributes:
        num_seen: The exits whose features are there, the earliest.
        features: Of all exits, side by side, float16; zeros where there are none.
        logits_K: Who teaches: the shipped network's at its end, float32, or the cloud's; None where there are none.
        by_cloud: They are the cloud's.
        stands_for: See `littoral.core.exit_control.ExitControl.stands_for`.
    """

    frame_id: int
    version: int
    num_seen: int
    features: NDArray[np.float16]
    logits_K: FloatArray | None
    day: int = 0
    label: int = NO_LABEL
    stands_for: float = 1.0
    by_cloud: bool = False

    def to_bytes(self, num_classes: int) -> bytes:
        """A record; its length depends on the features and classes alone."""
        logits = np.zeros(num_classes, np.float32) if self.logits_K is None else self.logits_K
        teacher = 0 if self.logits_K is None else 1 + self.by_cloud
        head = self.frame_id, self.version, self.day, self.label, self.num_seen
        packed = _HEAD.pack(*head, teacher, self.stands_for)
        return packed + self.features.astype("<f2", copy=False).tobytes() + logits.astype("<f4", copy=False).tobytes()

    @classmethod
    def from_bytes(cls, record: bytes, num_classes: int) -> SeenFrame:
        """The inverse of `to_bytes`."""
        frame_id, version, day, label, num_seen, teacher, stands_for = _HEAD.unpack_from(record)
        end = len(record) - 4 * num_classes
        features = np.frombuffer(record[_HEAD.size : end], dtype="<f2").astype(np.float16)
        logits = np.frombuffer(record[end:], dtype="<f4").astype(np.float32)
        return cls(
            frame_id=frame_id,
            version=version,
            num_seen=num_seen,
            features=features,
            logits_K=logits if teacher else None,
            day=day,
            label=label,
            stands_for=stands_for,
            by_cloud=teacher > 1,
        )

    def with_label(self, label: int) -> SeenFrame:
        """As the user says. It stands for itself: the user chose it, and not the coin."""
        return replace(self, label=label, stands_for=1.0)

    def taught_by_cloud(self, logits_K: FloatArray) -> SeenFrame:
        """As the cloud answered. It stands for itself: the router chose it, or another coin than the exits'."""
        return replace(self, logits_K=logits_K, by_cloud=True, stands_for=1.0)

    def with_what_is_known(self, before: SeenFrame) -> SeenFrame:
        """This frame, and what was known of it before: the most exits; the user's word before the cloud's before the
        network's own."""
        more = self if self.num_seen >= before.num_seen else before
        teacher = before if (before.by_cloud and not self.by_cloud) or self.logits_K is None else self
        label = self.label if self.label != NO_LABEL else before.label
        return replace(
            self,
            num_seen=more.num_seen,
            features=more.features,
            logits_K=teacher.logits_K,
            by_cloud=teacher.by_cloud,
            label=label,
            stands_for=1.0 if label != NO_LABEL or teacher.by_cloud else self.stands_for,
        )


class RecentFrames:
    """The newest `NUM_RECENT` frames.

    Args:
        sizes: The number of features of each exit.
    """

    def __init__(self, sizes: Sequence[int], num_classes: int) -> None:
        self.features = np.zeros((NUM_RECENT, sum(sizes)), dtype=np.float16)
        self._ends = (0, *itertools.accumulate(sizes))
        self.logits = np.zeros((NUM_RECENT, num_classes), dtype=np.float32)
        self._ids = [0] * NUM_RECENT
        self._versions = [0] * NUM_RECENT
        self._seen = [0] * NUM_RECENT
        self._whole = [False] * NUM_RECENT

    def begin(self, frame_id: int) -> int:
        """In the thread that answers: the place of a frame; what was there is no more."""
        place = frame_id % NUM_RECENT
        self._ids[place], self.features[place] = 0, 0
        return place

    def put(self, frame_id: int, num_seen: int, features: FloatArray) -> None:
        """Between the two: the features of the earliest exits; one that is too large for float16 becomes infinite."""
        end = self._ends[num_seen]
        with np.errstate(over="ignore"):
            self.features[frame_id % NUM_RECENT, :end] = features[:end]

    def end(self, frame_id: int, version: int, num_seen: int, logits_K: FloatArray | None) -> None:
        """All that is known of the frame is in its place."""
        place = frame_id % NUM_RECENT
        if logits_K is not None:
            self.logits[place] = logits_K
        self._versions[place], self._seen[place], self._whole[place] = version, num_seen, logits_K is not None
        self._ids[place] = frame_id

    def get(self, frame_id: int) -> SeenFrame | None:
        """A copy of a frame, in any thread; None where another frame has its place."""
        place = frame_id % NUM_RECENT
        if frame_id < 1 or self._ids[place] != frame_id:
            return None
        frame = SeenFrame(
            frame_id=frame_id,
            version=self._versions[place],
            num_seen=self._seen[place],
            features=self.features[place].copy(),
            logits_K=self.logits[place].copy() if self._whole[place] else None,
        )
        return frame if self._ids[place] == frame_id else None
