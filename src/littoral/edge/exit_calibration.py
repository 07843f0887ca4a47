"""The frames that say what exits are worth in this world, and what is certified with them. For the background thread.

Two rings hold the newest frames that chance chose. Nothing is ever fitted to those of the *ring*: they certify. The
*lessons* say where this world's features lie, so that shipped heads can be levelled (`littoral.core.head_levels`).
Where frames' pixels are kept, both outlive a change of the network: the frames are run again. Then a world that was
left keeps its two rings, a *page*, for the day when it is back (`littoral.core.known_worlds`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

from littoral.core.arrays import FloatArray, Frame
from littoral.core.calibration_ring import CalibrationRing, RingFrame, RingScores, Slots, Window
from littoral.core.exit_control import (
    LEAST_NEW,
    RETURN_LOOKS,
    ControlConfig,
    ExitControl,
    Purpose,
    alarm_level,
    certify,
    losses_allowed,
    speaks_against,
)
from littoral.core.exit_policy import ExitPolicy
from littoral.core.head_levels import SourceLevels
from littoral.core.known_worlds import KnownWorlds, Near
from littoral.core.risk import Certified, NotCertified
from littoral.edge.exit_fitting import Fitting
from littoral.edge.exit_parts import ExitParts
from littoral.edge.recent import SeenFrame
from littoral.edge.session import Model

log = logging.getLogger("littoral.edge.exits")

LESSONS = 128
"""Frames by which shipped heads are levelled."""


class RingSlots(NamedTuple):
    """Where a ring's records and pixels lie; None: in memory, and no pixels."""

    records: Slots | None = None
    pixels: Slots | None = None


class PageSlots(NamedTuple):
    """Where the frames lie that calibrate, and lessons, of so many worlds one after another."""

    ring: RingSlots = RingSlots()
    lessons: RingSlots = RingSlots()
    num_pages: int = 1


class Page(NamedTuple):
    """What calibrates in a world, and its lessons, if shipped heads are levelled."""

    ring: CalibrationRing
    lessons: CalibrationRing | None

    def rings(self) -> list[CalibrationRing]:
        return [ring for ring in self if ring is not None]

    def clear(self) -> None:
        with contextlib.ExitStack() as stack:  # all of them, whatever the disk says to one
            for ring in self.rings():
                stack.callback(ring.clear)


class Tried(NamedTuple):
    """A policy that a certificate was tried for, and what came of it."""

    policy: ExitPolicy
    found: Certified | NotCertified
    scores: RingScores

    @property
    def serving(self) -> ExitPolicy:
        """With the thresholds that were found in force."""
        return self.policy.serving(self.found.thresholds)


class Calibration:
    """The rings of a device, of the world that it is in and of those that it left.

    Args:
        levels: Of the source at each exit; none: shipped heads stay as they are.
        model: In service now.
        slots: Where frames lie; of more than one world only where pixels are kept.
        is_near: Whether two fingerprints may be of one world.
        any_sure: See `littoral.core.exit_control.certify`.
    """

    def __init__(
        self,
        config: ControlConfig,
        parts: ExitParts,
        levels: Sequence[SourceLevels],
        *,
        model: Model,
        slots: PageSlots,
        any_sure: bool,
        is_near: Near = lambda a, b: False,
    ) -> None:
        self.config, self.model, self.is_near = config, model, is_near
        self._parts, self._any_sure, self._levels = parts, any_sure, bool(levels)
        self._fitting = Fitting(parts, levels, any_sure=any_sure)
        self._slots = slots
        self.worlds = KnownWorlds(slots.num_pages)
        self._aside: dict[int, tuple[bytes, ...]] = {}  # of the pages that are not in use: memory is short
        self._page = self._open(0)

    def _open(self, number: int) -> Page:
        """A page as it was put aside, or an empty one."""

        def ring(capacity: int, lies: RingSlots) -> CalibrationRing:
            records, pixels = (None if each is None else Window(each, number * capacity) for each in lies)
            return CalibrationRing(capacity, self._parts.sizes, slots=records, pixels=pixels)

        levels = self._levels and self._slots.ring.pixels is not None
        lessons = ring(LESSONS, self._slots.lessons) if levels else None
        page = Page(ring(self.config.ring_frames, self._slots.ring), lessons)
        for each, bookmark in zip(page.rings(), self._aside.get(number, ()), strict=False):
            each.reopen(bookmark)
        return page

    @property
    def ring(self) -> CalibrationRing:
        """Of the world at hand."""
        return self._page.ring

    @property
    def runs_again(self) -> bool:
        """Frames' pixels are kept: a certificate is of the network as it is, whatever came since they were seen."""
        return self.ring.runs_again

    def pixels_for(self, purpose: Purpose, frame: Frame) -> bytes:
        """What of a frame is to be handed over with it; empty where it need not be run again."""
        if (
            purpose is Purpose.NOTHING
            or not self.runs_again
            or (purpose is Purpose.HEADS and self._page.lessons is None)
        ):
            return b""
        return frame.tobytes()

    def keep(self, frame: SeenFrame, day: int, pixels: bytes, *, is_ring: bool) -> None:
        """Keep a frame that chance chose, with its pixels if they are wanted."""
        ring = self.ring if is_ring else self._page.lessons
        if ring is None or frame.logits_K is None:
            return
        kept = RingFrame(
            frame_id=frame.frame_id,
            affine_version=frame.version,
            day=day,
            shipped=int(frame.logits_K.argmax()),
            features=frame.features,
        )
        ring.add(kept, pixels)

    def knows(self, here: FloatArray | None) -> bool:
        """Whether there is a page of a world like the one at hand."""
        return here is not None and bool(self.worlds.near(here, self.is_near))

    def leave(self, fingerprint: FloatArray | None) -> None:
        """The world is another one.

        Args:
            fingerprint: Of the one that ends; None: its frames are worth nothing any more.
        """
        keeps = self.runs_again and len(self.ring) >= RETURN_LOOKS[0]
        before, number = self.worlds.page, self.worlds.leave(fingerprint if keeps else None)
        if number != before:
            self._put_aside(before, self._page)
            self._page = self._open(number)
            self._aside.pop(number, None)
        self._page.clear()

    def _put_aside(self, number: int, page: Page) -> None:
        self._aside[number] = tuple(ring.bookmark() for ring in page.rings())

    def remove_day(self, day: int) -> bool:
        """Forget the frames of a day; whether there were any."""
        found = sum(ring.remove_day(day) for ring in self._page.rings())
        for number in [*self._aside]:
            page = self._open(number)
            found += sum(ring.remove_day(day) for ring in page.rings())
            self._put_aside(number, page)
        return found > 0

    def attempt(
        self, policy: ExitPolicy, num_fresh: int, here: FloatArray | None, *, at_once: bool = False
    ) -> Tried | None:
        """While exits are off: a certificate by whatever frames there are of this world; the attempts share delta.

        By the ring; by what came into it since exits were last off, because worlds change that nothing notices; and by
        the page of a world like this one with that, which then is this world's page.

        Args:
            here: The fingerprint of the world at hand.
            at_once: The world that was left last seems to be back before anything was known of another: its page only.
        Returns:
            The first that is certified, else the last that was tried; None where there were too few frames for any.
        """
        pages = () if here is None else self.worlds.near(here, self.is_near)
        if at_once:
            pages = tuple(page for page in pages if page == self.worlds.left_last)
        count, least = len(self.ring), self.config.min_calibration
        own = [newest for newest in (count, self._newest(num_fresh)) if newest >= least and not at_once]
        own = sorted(set(own), reverse=True)
        share = 1 / (len(self.config.looks) * max(len(own) + len(pages), 1))
        tried: Tried | None = None
        if own:
            self._see_again(self._page.rings())
        for newest in own:
            fitted = self._fitting.fitted(
                policy, self._page.lessons, max_risk=losses_allowed(newest, self.config, share)
            )
            scores = self.ring.scores(fitted.policy, newest)
            tried = Tried(fitted.policy, self._certified(scores, share, fitted.kept), scores)
            if isinstance(tried.found, Certified):
                return tried
        for number in pages:
            again = self._taken_up(policy, number, num_fresh, share, LEAST_NEW if at_once else RETURN_LOOKS[0])
            if again is not None:
                return again
        return tried

    def _newest(self, num_fresh: int) -> int:
        """So many frames of the ring came since exits were last off; half of a ring if it was filled since."""
        return num_fresh if num_fresh < self.config.ring_frames else self.config.ring_frames // 2

    def _taken_up(self, policy: ExitPolicy, number: int, num_fresh: int, share: float, least: int) -> Tried | None:
        """Certify with a page that was put aside and the frames that came since; None where they do not agree."""
        page, own = self._open(number), self._page
        newest = min(self._newest(num_fresh), len(own.ring))
        if newest < least:
            return None
        self._see_again([*page.rings(), own.ring])
        allowed = losses_allowed(len(page.ring) + newest, self.config, share)
        fitted = self._fitting.fitted(policy, page.lessons, max_risk=allowed)
        new = own.ring.scores(fitted.policy, newest)
        scores = page.ring.scores(fitted.policy).with_those_of(new)
        found = self._certified(scores, share, fitted.kept)
        self._put_aside(number, page)  # some of its frames may not have been finite
        if not isinstance(found, Certified):
            return None
        level = alarm_level(found, scores, self.config, any_sure=self._any_sure)
        if speaks_against(found, new, level, costs=self._parts.costs, any_sure=self._any_sure):
            log.info("a world like this one is known, but its thresholds are not for this one")
            return None
        for ring, into in zip(own.rings(), page.rings(), strict=True):
            ring.pass_on(into)
        self.worlds.take_up(number)
        self._page = page
        del self._aside[number]
        log.info("a known world is back")
        return Tried(fitted.policy, found, scores)

    def certify(self, policy: ExitPolicy, *, share_of_delta: float = 1.0) -> Tried:
        """Thresholds for these heads, the shipped among them levelled where that does better on the lessons.

        The lessons also say which exits pay in this world: the others stay off.

        The frames are run again through the network that serves, or is about to: versions came and statistics went on
        since they were kept.
        """
        self._see_again(self._page.rings())
        allowed = losses_allowed(len(self.ring), self.config, share_of_delta)
        policy, kept = self._fitting.fitted(policy, self._page.lessons, max_risk=allowed)
        scores = self.ring.scores(policy)
        return Tried(policy, self._certified(scores, share_of_delta, kept), scores)

    def _certified(
        self, scores: RingScores, share_of_delta: float, kept: tuple[bool, ...] | None
    ) -> Certified | NotCertified:
        costs, any_sure = self._parts.costs, self._any_sure
        return certify(scores, self.config, share_of_delta=share_of_delta, costs=costs, any_sure=any_sure, kept=kept)

    def _see_again(self, rings: Sequence[CalibrationRing]) -> None:
        model = self.model
        for ring in rings if self.runs_again else ():
            ring.run_again(model.version, lambda pixels: self._parts.run_again(model, pixels))

    def follow(self, policy: ExitPolicy, before: ExitPolicy, control: ExitControl, *, stays: bool) -> ExitPolicy:
        """The policy with which another affine version is to serve, as far as the ring's frames certify it.

        A ring that certified nothing is asked again with each version: another network has a promise of its own.

        Args:
            policy: The version's heads, every exit off.
            before: In force up to now.
            stays: The ring's frames can be run again, and are like those to come.
        """
        if not self.config.recheck:
            return policy if before.checking else policy.with_shipped_of(before).serving(before.thresholds)
        if not stays or (before.checking and len(self.ring) < self.config.min_calibration):
            return policy
        tried = self.certify(policy, share_of_delta=1 / len(self.config.looks) if before.checking else 1.0)
        if isinstance(tried.found, Certified):
            control.serve_on(tried.found, tried.scores, any_sure=self._any_sure)
            return tried.serving
        if not before.checking:
            control.recheck()
            log.info("exits are off with version %d: %s", policy.affine_version, tried.found.why)
        return policy
