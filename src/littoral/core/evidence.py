"""Sums of features and answers, kept by day, so that a day can be taken back as if it had never been.

A closed-form head needs of its frames only ``sum w x x^T`` and ``sum w x t^T``. Sums of days add up; without one of
them they are what they would have been without it, to the last rounding: a closed day is rounded to float32 when it is
added up, whether it is still open or not, and all adding is in float64. Over `Evidence.max_days` the oldest day goes
into one sum with all that are older, which can only be taken back together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s, Mask
from littoral.core.class_prior import ClassShares
from littoral.core.heads import with_one

Floats = NDArray[np.floating]
_ROWS = 16
_PIECE = 256
"""So many values of a day's sums are looked at together where they lie on the disk."""


@dataclass
class DaySums:
    """What one day, or several together, came to.

    Attributes:
        first_day, last_day: Equal but for several together.
        gram: ``sum w x x^T``, its upper triangle row by row, ``(A (A + 1) / 2,)``.
        targets_AK: ``sum w x t^T``.
        weights_K: ``sum w`` by class.
        shares: The class shares of this day alone: what a day teaches must not depend on other days.
        num_labelled, num_unlabelled: Frames that came, used or held back.
        sureness: The mean of the deep exit's highest corrected probability; ``num_sure`` frames made it.
    """

    first_day: int
    last_day: int
    gram: Floats
    targets_AK: Floats
    weights_K: Float64s
    shares: ClassShares
    num_labelled: int = 0
    num_unlabelled: int = 0
    sureness: float = 1.0
    num_sure: int = 0

    @classmethod
    def start(cls, day: int, num_features: int, shares: ClassShares) -> DaySums:
        """Of a day of which nothing came yet."""
        size, num_classes = num_features + 1, len(shares.shares_K)
        return cls(
            day, day, np.zeros(size * (size + 1) // 2), np.zeros((size, num_classes)), np.zeros(num_classes), shares
        )

    def add(self, features_D: Floats, target_K: Floats, weight: float, *, minus_K: Floats | None = None) -> None:
        """Take in a frame; ``minus_K`` is subtracted from the target in the sums, but not in the weights by class."""
        x = with_one(features_D)
        weighted = x * weight
        upper, start = _upper(len(x)), 0
        for i in range(0, len(x), _ROWS):  # some rows at a time: all at once would take more than a fit does
            part = np.multiply.outer(weighted[i : i + _ROWS], x)[upper[i : i + _ROWS]]
            self.gram[start : start + len(part)] += part
            start += len(part)
        self.targets_AK += np.outer(weighted, target_K if minus_K is None else target_K - minus_K)
        self.weights_K += weight * target_K

    def piece(self, start: int, count: int) -> Floats:
        """So many values of `gram`."""
        return self.gram[start : start + count]

    def close(self) -> None:
        """No frame comes any more: half the memory."""
        self.gram, self.targets_AK = self.gram.astype(np.float32), self.targets_AK.astype(np.float32)

    def saw(self, sureness: float, *, start_frames: float = 20.0) -> None:
        """Count how sure the deep exit was of a frame; a day starts out as if it had been sure so many times."""
        self.num_sure += 1
        self.sureness += (sureness - self.sureness) / (self.num_sure + start_frames)


class StoredDay(DaySums):
    """A day whose sums lie elsewhere, and are in memory only while somebody looks at them, until they are set anew.

    Args:
        sums: The day.
        fetch: Gives so many values from a place, each time anew: first those of ``gram``, after them the targets'.
    """

    def __init__(self, sums: DaySums, fetch: Callable[[int, int], Floats]) -> None:
        self._fetch: Callable[[int, int], Floats] = fetch
        self._gram: Floats | None = None
        self._targets: Floats | None = None
        self._num_gram, self._shape = sums.gram.size, sums.targets_AK.shape
        vars(self).update({name: value for name, value in vars(sums).items() if name not in ("gram", "targets_AK")})

    @property
    def gram(self) -> Floats:
        return self._fetch(0, self._num_gram) if self._gram is None else self._gram

    @gram.setter
    def gram(self, values: Floats) -> None:
        self._gram = values

    @property
    def targets_AK(self) -> Floats:
        if self._targets is not None:
            return self._targets
        return self._fetch(self._num_gram, self._shape[0] * self._shape[1]).reshape(self._shape)

    @targets_AK.setter
    def targets_AK(self, values: Floats) -> None:
        self._targets = values

    def piece(self, start: int, count: int) -> Floats:
        return self._fetch(start, count) if self._gram is None else super().piece(start, count)


@dataclass
class Evidence:
    """The sums of all days.

    Attributes:
        older: Of all days before those that are held one by one; float64.
        days: Float32 but for the last, which is open.
    """

    num_features: int
    num_classes: int
    max_days: int
    older: DaySums | None = None
    days: list[DaySums] = field(default_factory=list)

    def open(self, day: int, shares: ClassShares) -> DaySums:
        """The sums of a day, which become those that are added to.

        Raises:
            ValueError: a day before the last one.
        """
        first = self.days[-1].last_day if self.days else self.older.last_day + 1 if self.older is not None else day
        if day < first:
            raise ValueError(f"a frame of day {day} came when only day {first} and later are open; days do not go back")
        if not self.days or self.days[-1].last_day != day:
            if self.days:
                self.days[-1].close()
            self.days.append(DaySums.start(day, self.num_features, shares))
            if len(self.days) > self.max_days:
                self._merge_oldest()
        today = self.days[-1]
        gram = today.gram
        if (
            gram.dtype != np.float64 or not gram.flags.writeable
        ):  # the day after it was taken back, or it lies elsewhere
            today.gram, today.targets_AK = today.gram.astype(np.float64), today.targets_AK.astype(np.float64)
        return today

    def everything(self) -> Iterator[DaySums]:
        """All sums, the oldest first."""
        if self.older is not None:
            yield self.older
        yield from self.days

    def remove(self, day: int) -> None:
        """Take back all that came on a day.

        Raises:
            ValueError: nothing of this day is held, or it is in the sum of older days, which go only together.
        """
        for held in self.everything():
            if held.first_day <= day <= held.last_day:
                if held is self.older and held.first_day != held.last_day:
                    raise ValueError(
                        f"days {held.first_day} to {held.last_day} are one sum; take them back with remove_older"
                    )
                self.older, self.days = (None, self.days) if held is self.older else (self.older, self._without(held))
                return
        raise ValueError(f"nothing of day {day} is held")

    def total(self, *, keep_per_day: float) -> tuple[Float64s, Float64s, Float64s]:
        """Everything added up: the whole gram ``(A, A)``, targets ``(A, K)`` and weights ``(K,)``; the caller's own.

        Args:
            keep_per_day: The share of its weight that a day keeps with each later day.
        """
        size = self.num_features + 1
        gram, targets = np.zeros((size, size)), np.zeros((size, self.num_classes))
        weights = np.zeros(self.num_classes)
        newest = self.days[-1].last_day if self.days else 0
        for held in self.everything():
            keep = keep_per_day ** max(newest - held.last_day, 0)
            exact = held is self.older
            targets += keep * (held.targets_AK if exact else held.targets_AK.astype(np.float32).astype(np.float64))
            weights += keep * held.weights_K
            start = 0
            for i in range(size):
                row = held.piece(start, size - i)
                gram[i, i:] += keep * (row if exact else row.astype(np.float32).astype(np.float64))
                start += size - i
        for i in range(size):
            gram[i + 1 :, i] = gram[i, i + 1 :]
        return gram, targets, weights

    def weights(self) -> Float64s:
        """``sum w`` by class over all days, none faded: ``(K,)``."""
        return sum((held.weights_K for held in self.everything()), np.zeros(self.num_classes))

    def shares(self) -> Float64s | None:
        """The class shares over all days, each weighing as many frames as it had; None before any frame."""
        held = [sums for sums in self.everything() if sums.shares.num_frames]
        if not held:
            return None
        frames = [sums.shares.num_frames for sums in held]
        shares: Float64s = np.average([sums.shares.shares_K for sums in held], axis=0, weights=frames)
        return shares

    def _without(self, gone: DaySums) -> list[DaySums]:
        return [held for held in self.days if held is not gone]

    def _merge_oldest(self) -> None:
        oldest, self.days = self.days[0], self.days[1:]
        if self.older is None:
            oldest.gram, oldest.targets_AK = oldest.gram.astype(np.float64), oldest.targets_AK.astype(np.float64)
            self.older = oldest
            return
        older = self.older
        gram = older.gram
        if gram.dtype != np.float64 or not gram.flags.writeable:
            gram = gram.astype(np.float64)
        for start in range(0, len(gram), _PIECE):  # no third one of these at a time: memory is short on a device
            part = gram[start : start + _PIECE]
            part += oldest.piece(start, len(part))
        older.gram = gram
        older.targets_AK = older.targets_AK + oldest.targets_AK
        older.weights_K += oldest.weights_K
        frames = [older.shares.num_frames, oldest.shares.num_frames]
        if sum(frames):
            older.shares.shares_K = np.average([older.shares.shares_K, oldest.shares.shares_K], axis=0, weights=frames)
        older.shares.num_frames = sum(frames)
        older.last_day = oldest.last_day
        older.num_labelled += oldest.num_labelled
        older.num_unlabelled += oldest.num_unlabelled


@cache
def _upper(size: int) -> Mask:
    """Where the upper triangle is; row by row these are the places of a gram."""
    return np.triu(np.ones((size, size), dtype=np.bool_))
