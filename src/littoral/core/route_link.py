"""What a router knows of the link, and whether it may be used: estimates that grow old, and a latch with hysteresis.

No clock: every time is passed in, in milliseconds of one clock of the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from littoral.core.estimates import Ewma, RoadEstimate

_SPREAD = 0.01
"""Lengths within a tenth of each other say nothing about throughput."""
_LINE_WEIGHT = 0.03
"""Of a new measurement in the throughput: payloads differ by few milliseconds, round trips by many."""
_GIVEN_UP = 2
_PINGS_IN_A_ROW = 8
"""So many may follow each other without a pause where they are answered in time, until the latch has opened."""
LinkTrouble = Literal["link-down", "link-stale", "link-slow"]
"""No session or nothing comes back; what is known of it is too old, or nothing is; no answer would be there in time."""


@dataclass(frozen=True, kw_only=True)
class LatchConfig:
    """How far a link is trusted. A latch that shuts at once and opens slowly."""

    deviations: float = 1.0
    """How many mean errors of the estimate are added to what an answer is expected to take, before that is held against
    the time there is. Few: what is late all the same is hedged, and costs bytes only."""
    max_age_ms: float = 10_000.0
    """What was measured longer ago than this says nothing."""
    failures_to_close: int = 3
    """So many requests in a row without an answer shut the latch."""
    answers_to_open: int = 2
    """So many answers in a row open it, if the quickest way would be soon enough now."""
    open_margin: float = 0.9
    """Soon enough: within this share of the time there is."""
    ping_first_ms: float = 250.0
    """A shut latch lets a ping pass after so long; each that is not answered doubles it."""
    ping_most_ms: float = 8_000.0

    def __post_init__(self) -> None:
        if self.deviations < 0 or self.max_age_ms <= 0 or min(self.failures_to_close, self.answers_to_open) < 1:
            raise ValueError("deviations >= 0, max_age_ms > 0 and at least 1 failure and 1 answer must hold")
        if not (0 < self.open_margin <= 1 and 0 < self.ping_first_ms <= self.ping_most_ms):
            raise ValueError(
                "0 < open_margin <= 1 and 0 < ping_first_ms <= ping_most_ms must hold, got "
                f"{self.open_margin}, {self.ping_first_ms} and {self.ping_most_ms}"
            )


class LinkEstimate:
    """How long an answer takes: the road by `RoadEstimate`, the cloud's queue and its computing, and how wrong that is.

    A road over which payloads of one length go for a while says nothing about throughput any more; what it was is
    remembered, so that a longer payload is not thought to be free. The first answer after requests that went unanswered
    starts everything afresh: it is another link.

    Args:
        weight: Of a new measurement.
    """

    def __init__(self, weight: float = 0.2) -> None:
        self._weight = weight
        self.measured_at_ms = -math.inf
        self._given_up = 0
        self._restart()

    def answered(self, num_bytes: int, elapsed_ms: float, *, queue_ms: float, compute_ms: float, now_ms: float) -> None:
        """An answer came back ``elapsed_ms`` after sending began; the cloud says how long it spent on what."""
        if self._given_up >= _GIVEN_UP:
            self._restart()
        self._given_up = 0
        expected = self.predict_ms(num_bytes)
        if expected is not None:
            self._wrong_by(abs(elapsed_ms - expected))
        self._add(num_bytes, elapsed_ms - queue_ms - compute_ms, now_ms)
        self.queue_ms.add(max(queue_ms, 0.0))
        self.compute_ms.add(max(compute_ms, 0.0))

    def gave_up(self, num_bytes: int, waited_ms: float, *, now_ms: float) -> None:
        """No answer came in so long: it would have taken longer still."""
        self._given_up += 1
        expected = self.predict_ms(num_bytes) or 0.0
        spent = (self.queue_ms.mean or 0.0) + (self.compute_ms.mean or 0.0)
        self._wrong_by(max(waited_ms - expected, 0.0))
        self._add(num_bytes, max(waited_ms, expected) - spent, now_ms)

    def predict_ms(self, num_bytes: int) -> float | None:
        """From sending so many bytes to the answer; None before the first measurement."""
        road = self.road
        if not road.num_measured:
            return None
        slope = self._ms_per_byte
        if road.mean_bytes > 0:
            slope = min(slope, road.mean_ms / road.mean_bytes)
        moved = road.mean_ms + slope * (num_bytes - road.mean_bytes)
        return max(moved, 0.0) + (self.queue_ms.mean or 0.0) + (self.compute_ms.mean or 0.0)

    def _wrong_by(self, error_ms: float) -> None:
        self._num_errors += 1
        weight = max(self._weight, 1 / self._num_errors)  # the plain mean until there are enough
        self._error_ms += weight * (error_ms - self._error_ms)

    def _add(self, num_bytes: int, road_ms: float, now_ms: float) -> None:
        self.road.add(num_bytes, road_ms)
        self._line.add(num_bytes, road_ms)
        self.measured_at_ms = now_ms
        if self._line.spread > _SPREAD:
            rate = self._line.bytes_per_ms
            self._ms_per_byte = 1 / rate if rate else 0.0

    def _restart(self) -> None:
        self.road = RoadEstimate(self._weight)
        self._line = RoadEstimate(_LINE_WEIGHT)
        self._ms_per_byte = 0.0
        self.queue_ms, self.compute_ms = Ewma(self._weight), Ewma(self._weight)
        self._error_ms, self._num_errors = 0.0, 0
        self._given_up = 0

    def high_ms(self, num_bytes: int, deviations: float) -> float | None:
        """What it takes at most, but for so many mean errors."""
        expected = self.predict_ms(num_bytes)
        if expected is None:
            return None
        return expected + deviations * (self._error_ms if self._num_errors else expected / 4)

    def age_ms(self, now_ms: float) -> float:
        """How old the newest measurement is; infinite before the first."""
        return now_ms - self.measured_at_ms


class LinkLatch:
    """Whether frames may be offloaded now. Shut at first; pings open it.

    It shuts when there is no session, when requests go unanswered, when what is known is old, and when the quickest way
    would be late. It opens when answers come soon enough by a margin, several in a row: a link at the edge of being
    useful does not make the router change its mind with every frame.
    """

    def __init__(self, config: LatchConfig | None = None) -> None:
        self.config = config or LatchConfig()
        self.is_open = False
        self.num_changes = 0
        """How often it opened or shut."""
        self._why: LinkTrouble = "link-stale"
        self._failures = self._answers = self._in_a_row = 0
        self._ping_every_ms = self.config.ping_first_ms / 2
        self._pinged_at_ms = -math.inf

    def trouble(
        self, *, connected: bool, age_ms: float, quickest_high_ms: float | None, allowed_ms: float
    ) -> LinkTrouble | None:
        """What is wrong with the link for a frame that has so long left; None when it may be used.

        Args:
            quickest_high_ms: Of the quickest way (`LinkEstimate.high_ms`); None when nothing is known.
        """
        if not connected:
            self._shut("link-down")
        elif age_ms > self.config.max_age_ms or quickest_high_ms is None:
            self._shut("link-stale")
        elif self.is_open and quickest_high_ms > allowed_ms:
            self._shut("link-slow")
        elif self._answers >= self.config.answers_to_open and quickest_high_ms <= self.config.open_margin * allowed_ms:
            self.num_changes += not self.is_open
            self.is_open = True
        return None if self.is_open else self._why

    def answered(self, *, in_time: bool = True) -> None:
        """An answer came; ``in_time`` says whether within ``open_margin`` of the time there was."""
        self._failures = 0
        self._answers += 1
        self._in_a_row = self._in_a_row + 1 if in_time else 0
        self._ping_every_ms = self.config.ping_first_ms / 2
        if not self.is_open:
            self._why = "link-slow"

    def failed(self, why: LinkTrouble = "link-down") -> None:
        """A request was given up, or the road broke under it; or it was refused, then the cloud is ``link-slow``."""
        self._failures += 1
        self._answers = self._in_a_row = 0
        if self._failures >= self.config.failures_to_close:
            self._shut(why)

    def wants_ping(self, now_ms: float) -> bool:
        """Whether a request should be made to learn about the link: at once where the last was answered in time."""
        if self.is_open:
            return False
        return 0 < self._in_a_row <= _PINGS_IN_A_ROW or now_ms - self._pinged_at_ms >= self._ping_every_ms

    def pinged(self, now_ms: float) -> None:
        """A ping was sent; the next one waits twice as long, unless this one is answered."""
        self._ping_every_ms = min(2 * self._ping_every_ms, self.config.ping_most_ms)
        self._pinged_at_ms = now_ms

    def _shut(self, why: LinkTrouble) -> None:
        if self.is_open:
            self.num_changes += 1
            self._answers = self._in_a_row = 0
        self.is_open, self._why = False, why


class StickyChoice:
    """Stays with one of several ways until another has been cheaper by a margin for a while.

    Args:
        margin: By which share of the current one's loss another must be cheaper.
        hold: For how many choices in a row.
    """

    def __init__(self, margin: float = 0.1, hold: int = 8) -> None:
        if margin < 0 or hold < 1:
            raise ValueError(f"margin >= 0 and hold >= 1 must hold, got {margin} and {hold}")
        self.margin, self.hold = margin, hold
        self.current: int | None = None
        self.num_changes = 0
        self._rival: int | None = None
        self._ahead = 0

    def choose(self, losses: Sequence[float]) -> int | None:
        """One of the ways; infinite losses are those that cannot be taken, and None when all are.

        The current way is left at once when it cannot be taken.
        """
        finite = [w for w, loss in enumerate(losses) if loss < math.inf]
        if not finite:
            return None
        best = min(finite, key=lambda w: losses[w])
        now = self.current
        if now is None or now >= len(losses) or losses[now] == math.inf:
            return self._change(best)
        if best == now or losses[best] > losses[now] - self.margin * abs(losses[now]):
            self._ahead = 0
            return now
        self._ahead = self._ahead + 1 if best == self._rival else 1
        self._rival = best
        return self._change(best) if self._ahead >= self.hold else now

    def _change(self, to: int) -> int:
        self.num_changes += self.current is not None and self.current != to
        self.current, self._ahead, self._rival = to, 0, None
        return to
