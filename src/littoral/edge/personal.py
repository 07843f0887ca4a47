"""The heads that follow a device's user: learned in the background, one in memory at a time, kept on the disk.

Nothing here is on the way of an answer. What serves is handed over as a `ServedExit` for each exit, a few kilobytes;
what it was made from lies in the state folder.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import FloatArray
from littoral.core.class_prior import ClassShares
from littoral.core.exit_gate import StrangerGate, fit_stranger_gate
from littoral.core.exit_policy import ServedExit
from littoral.core.exits import fit_temperature
from littoral.core.head_memory import FeatureMap, fit_feature_map
from littoral.core.head_state import read_state
from littoral.core.heads import softmax64
from littoral.core.personal import PersonalConfig, PersonalHead
from littoral.edge.exit_files import ExitFolder
from littoral.edge.recent import SeenFrame
from littoral.errors import HeadStateError, StorageError

if TYPE_CHECKING:
    from littoral.bundle.exits import ExitHeads

log = logging.getLogger("littoral.edge.personal")


_LEAST_SHARE = 1e-4
"""Of a class that the source never showed: nothing is divided by 0."""


class _Moved(NamedTuple):
    """How features moved from a version, at each exit."""

    version: int
    maps: list[FeatureMap]


class PersonalHeads:
    """What was learned for each exit. For the background thread alone.

    Args:
        folder: Where the states are.
        shipped: The bundle's heads; `fit` ``lda`` needs its moments, else they may be left out.
        seed: Of the memories' draws.
        version: The affine version in service.
        features: Gives the probe frames' features of each exit under the version in service; asked at most once.
        has_deep: The last exit's shipped head is the network's own last layer, which teaches all.
        class_means: The source's by exit, ``(K, D)``; empty where classes that never come need not stay answers.
    """

    def __init__(
        self,
        folder: ExitFolder,
        shipped: ExitHeads,
        config: PersonalConfig,
        *,
        seed: int,
        version: int,
        features: Callable[[], list[FloatArray]],
        has_deep: bool,
        class_means: Sequence[NDArray[np.floating]] = (),
    ) -> None:
        self._folder, self._shipped, self._config, self._seed = folder, shipped, config, seed
        self._has_deep, self._class_means = has_deep, class_means
        shares_K = np.maximum(shipped.class_shares_K, _LEAST_SHARE)
        self._shares_K = shares_K / shares_K.sum()
        self.version = version
        self.served = [self._as_shipped(i) for i in range(len(shipped.heads))]
        """What serves at each exit."""
        self.sizes = tuple(head.num_features for head in shipped.heads)
        for day in folder.intent():
            self._take_back(day)
        folder.end_forgetting()
        self._boot(features)

    def learn(self, frames: Iterable[SeenFrame]) -> None:
        """Take frames in, at every exit; frames of another version are left out.

        Args:
            frames: Gone through several times for each exit.
        """
        starts = np.cumsum([0, *self.sizes]).tolist()
        for i in range(len(self.sizes)):
            self._learn_one(i, frames, slice(starts[i], starts[i + 1]))  # its head is gone before the next one comes

    def _learn_one(self, i: int, frames: Iterable[SeenFrame], columns: slice) -> None:
        """A day at a time: only the sums of the day that is open are in memory."""
        days = sorted({frame.day for frame in frames})
        for day in days:
            self._open_day(i, day)
            self._learn_day(i, (frame for frame in frames if frame.day == day), columns, fit=day == days[-1])

    def _open_day(self, i: int, day: int) -> None:
        """Begin a day in a state of its own, so that the one before it is closed and need not be in memory."""
        with self._load(i) as head:
            if head.evidence.days and head.evidence.days[-1].last_day < day:
                head.evidence.open(day, ClassShares.start(head.source_shares_K, head.config.prior))
                self._save(i, head)

    def _learn_day(self, i: int, frames: Iterable[SeenFrame], columns: slice, *, fit: bool) -> None:
        with self._load(i) as head:
            for frame in frames:
                if frame.version == self.version and frame.num_seen > i:
                    _observe(head, frame, frame.features[columns].astype(np.float32))
                    time.sleep(0)  # lets the thread that answers go on
            if fit:
                self._fit_and_save(i, head)
            else:
                self._save(i, head)

    def forget(self, day: int, *, today: int | None = None) -> bool:
        """Take a day back at every exit; exact, but what is older than the days held one by one goes together.

        Args:
            today: Days that are later go too: the clock ran ahead, and nobody knows what of them came on which day.
        Returns:
            Whether anything of it had been learned.
        Raises:
            StorageError: the disk does not take it; where it had begun, the next start goes on with it.
        """
        gone = {day} if today is None else {day, *self._later_than(today)}
        self._folder.begin_forgetting([*self._folder.intent(), *sorted(gone)])
        found = [self._take_back(each) for each in sorted(gone)]
        self._folder.end_forgetting()
        return any(found)

    def move(self, version: int, old: Sequence[FloatArray] | None, new: Sequence[FloatArray]) -> None:
        """Follow the user under another affine version.

        Args:
            old, new: The features of the same frames at each exit under the version of the heads, and under the new
                one; without the old ones nothing that was learned can be kept.
        """
        self._move(self.version, version, old, new)

    def _boot(self, features: Callable[[], list[FloatArray]]) -> None:
        """What serves, from the states; heads of another version are moved over where the probe frames allow it."""
        probe = self._folder.load_probe(self.sizes)
        if probe is not None and probe[0] == self.version:
            self.served = [self._fit_as_it_is(i) for i in range(len(self.sizes))]
            return
        since, old = (self.version, None) if probe is None else probe
        self._move(since, self.version, old, features())

    def _move(self, since: int, version: int, old: Sequence[FloatArray] | None, new: Sequence[FloatArray]) -> None:
        moved = None
        if old is not None and [len(values) for values in old] == [len(values) for values in new]:
            moved = _Moved(since, [fit_feature_map(*pair) for pair in zip(old, new, strict=True)])
        self.version = version
        for i in range(len(self.sizes)):
            self._move_one(i, moved)
        try:
            self._folder.save_probe(version, list(new))
        except StorageError as error:
            log.warning("%s", error)

    def _fit_as_it_is(self, i: int) -> ServedExit:
        with self._load(i) as head:
            return self._fit(i, head)

    def _move_one(self, i: int, moved: _Moved | None) -> None:
        with self._load(i, moved) as head:
            self._fit_and_save(i, head)

    @contextlib.contextmanager
    def _read(self, i: int) -> Iterator[PersonalHead | None]:
        """An exit's head as it is on the disk, under whatever version, while it is open; None where there is none.

        Raises:
            HeadStateError, StorageError: it cannot be used.
        """
        shipped = self._shipped
        with self._folder.open_state(i) as file:
            if file is None:
                yield None
                return
            head = read_state(
                file.read,
                shipped=shipped.heads[i],
                config=self._config,
                source_shares_K=self._shares_K,
                moments=shipped.moments[i] if shipped.moments else None,
                again=file.again,
            )
            head.class_means_KD, head.teaches = self._means(i), self._teaches(i)  # of the bundle, not of the state
            yield head

    @contextlib.contextmanager
    def _load(self, i: int, moved: _Moved | None = None) -> Iterator[PersonalHead]:
        """An exit's head under the version in service, while it is open: as it was, moved over by a map, or anew."""
        with contextlib.ExitStack() as stack:
            head: PersonalHead | None = None
            try:
                head = stack.enter_context(self._read(i))
            except (HeadStateError, StorageError) as error:
                log.warning("what was learned at exit %d cannot be used: %s", i, error)
                self._folder.refuse(i)
            if head is not None and head.affine_version != self.version:
                if moved is not None and head.affine_version == moved.version:
                    head.rebase(self.version, feature_map=moved.maps[i])
                else:
                    log.warning("what was learned at exit %d is of version %d; it begins anew", i, head.affine_version)
                    head = None
            yield head if head is not None else self._new(i)

    def _new(self, i: int) -> PersonalHead:
        return PersonalHead(
            self._shipped.heads[i],
            affine_version=self.version,
            seed=self._seed * len(self.sizes) + i,
            config=self._config,
            source_shares_K=self._shares_K,
            moments=self._shipped.moments[i] if self._shipped.moments else None,
            class_means_KD=self._means(i),
            teaches=self._teaches(i),
        )

    def _means(self, i: int) -> NDArray[np.floating] | None:
        return self._class_means[i] if self._class_means else None

    def _teaches(self, i: int) -> bool:
        return self._has_deep and i == len(self.sizes) - 1

    def _fit_and_save(self, i: int, head: PersonalHead) -> None:
        fitted = self._fit(i, head)
        if self._save(i, head):
            self.served[i] = fitted

    def _save(self, i: int, head: PersonalHead) -> bool:
        try:
            self._folder.save_state(i, head)
        except StorageError as error:  # what is on the disk stands, and so does what serves
            log.warning("what was learned at exit %d is lost: %s", i, error)
            return False
        return True

    def _fit(self, i: int, head: PersonalHead) -> ServedExit:
        try:
            serving, judgement = head.refresh()
        except ValueError as error:
            log.warning("no head can be fitted at exit %d (%s); the shipped one serves", i, error)
            return self._as_shipped(i)
        if not judgement.serves:
            return self._as_shipped(i)
        held = len(head.held)
        gate = self._gate(head)
        if held < self._config.min_held:
            return ServedExit(head=serving, temperature=self._shipped.temperatures[i], personal=True, gate=gate)
        logits_NK = serving.logits(head.held.features[:held])
        temperature = fit_temperature(logits_NK, head.held.answers[:held].astype(np.intp))
        return ServedExit(head=serving, temperature=temperature, personal=True, gate=gate)

    def _gate(self, head: PersonalHead) -> StrangerGate | None:
        if self._config.keep_own == 1:
            return None
        counts_K = head.evidence.weights()
        held_ND = head.held.features[: len(head.held)]
        return fit_stranger_gate(head.shipped, counts_K, held_ND, keep=self._config.keep_own)

    def _as_shipped(self, i: int) -> ServedExit:
        return ServedExit(head=self._shipped.heads[i], temperature=self._shipped.temperatures[i], personal=False)

    def _later_than(self, today: int) -> set[int]:
        """The days of the states that are still to come."""
        found = set[int]()
        for i in range(len(self.sizes)):
            with (
                contextlib.suppress(HeadStateError),
                self._read(i) as head,
            ):  # such a state is removed, whatever the day
                everything = () if head is None else head.evidence.everything()
                found |= {sums.last_day for sums in everything if sums.last_day > today}
        return found

    def _take_back(self, day: int) -> bool:
        self._folder.forget_refused()
        found = False
        for i in range(len(self.sizes)):
            found = self._take_back_one(i, day) or found
        return found

    def _take_back_one(self, i: int, day: int) -> bool:
        try:
            with self._read(i) as head:
                if head is None or not _remove(head, day):
                    return False
                self.served[i] = self._as_shipped(i)
                fitted = self._fit(i, head)
                self._folder.save_state(i, head)  # where this fails, the intent stays
                if head.affine_version == self.version:
                    self.served[i] = fitted
        except HeadStateError as error:
            log.warning("what was learned at exit %d cannot be used and is removed: %s", i, error)
            self._folder.refuse(i)
            self._folder.forget_refused()
            return False
        return True


def _observe(head: PersonalHead, frame: SeenFrame, features: FloatArray) -> None:
    """Show a frame to a head. A clock that went back does not take it back to a day before the head's last one."""
    days = [sums.last_day for sums in head.evidence.everything()]
    deep = None if frame.logits_K is None else softmax64(frame.logits_K)
    try:
        head.observe(
            features,
            day=max([frame.day, *days[-1:]]),
            affine_version=frame.version,
            label=None if frame.label < 0 else frame.label,
            deep_K=deep,
            stands_for=frame.stands_for,
        )
    except ValueError as error:
        log.debug("a frame was not learned from: %s", error)


def _remove(head: PersonalHead, day: int) -> bool:
    """Take a day back from a head, with all older ones where it is in their sum; whether there was anything of it."""
    held = next((sums for sums in head.evidence.everything() if sums.first_day <= day <= sums.last_day), None)
    if held is None:
        return False
    if held.first_day != held.last_day:
        log.info("days %d to %d are one sum and were taken back together", held.first_day, held.last_day)
        head.remove_older()
    else:
        head.remove_day(day)
    return True
