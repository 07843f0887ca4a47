"""The newest frames among those that chance chose, for finding thresholds: nothing is ever fitted to them.

A frame is kept as one record of fixed size, so that the records may lie in a file and no more than a few of them in
memory: 256 frames of six exits with 64 features take 200 kB. Little-endian: frame id, affine version (int64), day, the
shipped network's answer, the label or -1 (int32), the features of all exits (float16).

Where the frames' pixels are kept beside the records, the ring outlives a change of the network in the same world: the
frames are run again, and say what the new network's exits are worth.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s, FloatArray, Indices, Mask
from littoral.core.exit_policy import ExitPolicy
from littoral.core.head_memory import HALF_MAX

NO_LABEL = -1
_EMPTY = -1
_HEAD = struct.Struct("<qqiii")
_CHUNK = 16
"""Records in memory at a time."""


class Slots(Protocol):
    """Where records lie: in memory, or in a file."""

    def write(self, slot: int, record: bytes) -> None:
        """Put a record in its place."""

    def read(self, slot: int) -> bytes:
        """Take it again."""


class MemorySlots:
    """Records in memory."""

    def __init__(self) -> None:
        self._records: dict[int, bytes] = {}

    def write(self, slot: int, record: bytes) -> None:
        self._records[slot] = record

    def read(self, slot: int) -> bytes:
        return self._records[slot]


class Window:
    """A part of other slots: several rings lie in one file, one after another.

    Args:
        first: Of the other slots, the first that is this one's.
    """

    __slots__ = ("_first", "_slots")

    def __init__(self, slots: Slots, first: int) -> None:
        self._slots, self._first = slots, first

    def write(self, slot: int, record: bytes) -> None:
        self._slots.write(self._first + slot, record)

    def read(self, slot: int) -> bytes:
        return self._slots.read(self._first + slot)


Seen = tuple[NDArray[np.float16], int]
"""A frame's features of all exits, side by side, and the network's answer."""


@dataclass(frozen=True, kw_only=True)
class RingFrame:
    """One frame of the ring.

    Attributes:
        features: Of all exits, side by side, float16 ``(sum of D,)``.
        shipped: What the shipped network said at its end.
        label: `NO_LABEL` where the user said nothing.
    """

    frame_id: int
    affine_version: int
    day: int
    shipped: int
    features: NDArray[np.float16]
    label: int = NO_LABEL

    def to_bytes(self) -> bytes:
        head = _HEAD.pack(self.frame_id, self.affine_version, self.day, self.shipped, self.label)
        return head + self.features.astype("<f2", copy=False).tobytes()

    @classmethod
    def from_bytes(cls, record: bytes) -> RingFrame:
        frame_id, version, day, shipped, label = _HEAD.unpack_from(record)
        features = np.frombuffer(record, dtype="<f2", offset=_HEAD.size).astype(np.float16)
        return cls(frame_id=frame_id, affine_version=version, day=day, shipped=shipped, features=features, label=label)

    @staticmethod
    def record_bytes(num_features: int) -> int:
        """How long a record with so many features is."""
        return _HEAD.size + 2 * num_features


@dataclass(frozen=True, kw_only=True)
class RingScores:
    """What a policy's heads say of the frames of a ring.

    Attributes:
        confidences_NE: Of the early exits, and in the last column 1; -1 where a frame may not leave.
        answers_NE: Of the early exits, and in the last column what the device says when a frame runs to the end: its
            personal deep head's answer where that serves, else the shipped network's.
        shipped_N: The shipped network's answers.
        labels_N: `NO_LABEL` where there is none.
    """

    confidences_NE: Float64s
    answers_NE: Indices
    shipped_N: Indices
    labels_N: Indices

    def with_those_of(self, other: RingScores) -> RingScores:
        """These, and then the other's."""
        return RingScores(
            confidences_NE=np.concatenate([self.confidences_NE, other.confidences_NE]),
            answers_NE=np.concatenate([self.answers_NE, other.answers_NE]),
            shipped_N=np.concatenate([self.shipped_N, other.shipped_N]),
            labels_N=np.concatenate([self.labels_N, other.labels_N]),
        )

    def take(self, rows: Mask) -> RingScores:
        """Those of some frames."""
        return RingScores(
            confidences_NE=self.confidences_NE[rows],
            answers_NE=self.answers_NE[rows],
            shipped_N=self.shipped_N[rows],
            labels_N=self.labels_N[rows],
        )


class CalibrationRing:
    """The newest frames, and what the heads in service say of them.

    Args:
        capacity: In frames.
        sizes: The number of features of each exit.
        slots: Where the records lie; by default in memory.
        pixels: Where the frames' own bytes lie, all of one length; None keeps none.
    """

    def __init__(
        self, capacity: int, sizes: Sequence[int], *, slots: Slots | None = None, pixels: Slots | None = None
    ) -> None:
        if capacity < 1:
            raise ValueError(f"a ring holds at least 1 frame, got {capacity}")
        self.sizes = tuple(sizes)
        self._slots: Slots = MemorySlots() if slots is None else slots
        self._pixels = pixels
        self._ids = np.full(capacity, _EMPTY, dtype=np.int64)
        self._next = 0

    def __len__(self) -> int:
        return int((self._ids != _EMPTY).sum())

    def __contains__(self, frame_id: int) -> bool:
        return self._place(frame_id) is not None

    @property
    def runs_again(self) -> bool:
        """The frames' pixels are kept, so that `run_again` can be called."""
        return self._pixels is not None

    def add(self, frame: RingFrame, pixels: bytes = b"") -> None:
        """Keep a frame; the oldest gives way.

        Args:
            pixels: Of the frame; not looked at where none are kept.
        """
        if frame.features.shape != (sum(self.sizes),) or frame.frame_id < 0:
            raise ValueError(f"expected {sum(self.sizes)} features and an id, got {frame.features.shape}")
        slot = self._next
        if self._pixels is not None:
            self._pixels.write(slot, pixels)
        self._slots.write(slot, frame.to_bytes())
        self._ids[slot] = frame.frame_id
        self._next = (slot + 1) % len(self._ids)

    def label(self, frame_id: int, label: int) -> bool:
        """Note what the user said of a frame; False where it is not here (any more)."""
        slot = self._place(frame_id)
        if slot is None:
            return False
        frame = replace(RingFrame.from_bytes(self._slots.read(slot)), label=label)
        self._slots.write(slot, frame.to_bytes())
        return True

    def clear(self) -> None:
        """Forget all frames, even where their bytes cannot be overwritten."""
        used = np.flatnonzero(self._ids != _EMPTY)
        self._ids[:] = _EMPTY
        self._drop(used)

    def remove_day(self, day: int) -> int:
        """Forget the frames of a day; how many they were."""
        gone = [slot for slot in self._in_order() if RingFrame.from_bytes(self._slots.read(slot)).day == day]
        self._drop(np.array(gone, dtype=np.intp))
        return len(gone)

    def bookmark(self) -> bytes:
        """Which slots hold frames and where the oldest is, in some tens of bytes: with the records, all of the ring."""
        return self._next.to_bytes(4, "little") + np.packbits(self._ids != _EMPTY).tobytes()

    def reopen(self, bookmark: bytes) -> None:
        """Go on where a ring was, over the same slots, when it gave this."""
        self._next = int.from_bytes(bookmark[:4], "little")
        used = np.unpackbits(np.frombuffer(bookmark[4:], dtype=np.uint8), count=len(self._ids)).astype(np.bool_)
        self._ids[:] = _EMPTY
        for slot in np.flatnonzero(used).tolist():
            self._ids[slot] = RingFrame.from_bytes(self._slots.read(slot)).frame_id

    def frames(self, newest: int | None = None) -> Iterator[RingFrame]:
        """All frames or the newest so many, the oldest first, one in memory at a time."""
        for slot in self._in_order(newest):
            yield RingFrame.from_bytes(self._slots.read(slot))

    def pass_on(self, other: CalibrationRing) -> None:
        """Move all frames to another ring, as its newest."""
        for slot in self._in_order():
            pixels = b"" if self._pixels is None else self._pixels.read(slot)
            other.add(RingFrame.from_bytes(self._slots.read(slot)), pixels)
        self.clear()

    def run_again(self, version: int, see: Callable[[list[bytes]], list[Seen | None]]) -> int:
        """Let another network see all frames again; what it makes of them replaces what was known. Labels stay.

        Args:
            version: The network's affine version.
            see: Some frames' pixels to their features and answers; None where they are not finite: such are dropped.
        Returns:
            How many frames are left.
        """
        if self._pixels is None:
            raise ValueError("the frames' pixels were not kept, so they cannot be run again")
        slots = np.flatnonzero(self._ids != _EMPTY).tolist()
        for first in range(0, len(slots), _CHUNK):
            chunk = slots[first : first + _CHUNK]
            for slot, seen in zip(chunk, see([self._pixels.read(slot) for slot in chunk]), strict=True):
                if seen is None:
                    self._drop(np.array([slot]))
                    continue
                frame = RingFrame.from_bytes(self._slots.read(slot))
                again = replace(frame, affine_version=version, features=seen[0], shipped=seen[1])
                self._slots.write(slot, again.to_bytes())
        return len(self)

    def scores(self, policy: ExitPolicy, newest: int | None = None) -> RingScores:
        """What the heads of a policy say of all frames, or the newest; only a few of them are in memory at a time."""
        count, num_early = len(self) if newest is None else min(newest, len(self)), policy.num_early
        confidences = np.ones((count, num_early + 1))
        answers = np.zeros((count, num_early + 1), dtype=np.intp)
        shipped, labels = np.zeros(count, dtype=np.intp), np.zeros(count, dtype=np.intp)
        starts = np.cumsum([0, *self.sizes])
        frames, first = self.frames(newest), 0
        while first < count:
            chunk = list(itertools.islice(frames, _CHUNK))
            rows = slice(first, first + len(chunk))
            shipped[rows], labels[rows] = [f.shipped for f in chunk], [f.label for f in chunk]
            features = np.stack([frame.features for frame in chunk])
            answers[rows, -1] = shipped[rows]
            for i, each in enumerate(policy.exits):
                own = features[:, starts[i] : starts[i + 1]]
                if i < num_early:
                    confidences[rows, i], answers[rows, i] = each.answers(own)
                elif policy.deep is not None:
                    sure, said = each.answers(own)
                    answers[rows, -1] = np.where(sure >= 0, said, shipped[rows])
            first += len(chunk)
        return RingScores(confidences_NE=confidences, answers_NE=answers, shipped_N=shipped, labels_N=labels)

    def _in_order(self, newest: int | None = None) -> list[int]:
        """The slots in use, the oldest frame's first."""
        slots = (np.arange(len(self._ids)) + self._next) % len(self._ids)
        used: list[int] = slots[self._ids[slots] != _EMPTY].tolist()
        return used if newest is None else used[max(len(used) - newest, 0) :]

    def _place(self, frame_id: int) -> int | None:
        found = np.flatnonzero(self._ids == frame_id)
        return int(found[0]) if frame_id != _EMPTY and len(found) else None

    def _drop(self, slots: NDArray[np.intp]) -> None:
        for slot in slots.tolist():
            self._slots.write(slot, bytes(RingFrame.record_bytes(sum(self.sizes))))
            if self._pixels is not None:
                self._pixels.write(slot, bytes(len(self._pixels.read(slot))))
            self._ids[slot] = _EMPTY


def as_half(features: NDArray[np.floating]) -> NDArray[np.float16]:
    """Features as records hold them: float16, the largest clipped."""
    clipped: FloatArray = np.clip(features, -HALF_MAX, HALF_MAX).astype(np.float32, copy=False)
    return clipped.astype(np.float16)
