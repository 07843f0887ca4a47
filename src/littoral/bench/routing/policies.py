"""Who decides: the fixed policies that others ship, an oracle, and ours. All speak `littoral.core.routing.Decision`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np

from littoral.bench.routing.channel import Request
from littoral.bench.routing.tables import FrameTable
from littoral.core.arrays import Float64s
from littoral.core.caution import CALM, Caution
from littoral.core.exits import OFF
from littoral.core.hedge import hedge_after_ms
from littoral.core.route_words import Decision, Moment, Ticket
from littoral.core.routing import Router

LOST_AFTER_MS = 2_000.0
"""So long a policy that has only the cloud waits for an answer, whatever the deadline; then the frame is lost."""
Peek = Callable[[int, float], Request]
"""What would become of a request by a way that is made in so many milliseconds: for the oracle alone."""


class Policy(Protocol):
    """Decides at each point of each frame, and is told what came of it."""

    name: str
    is_real: bool
    """Whether it could be built: an oracle could not."""

    def begins(self, frame: int) -> None:
        """The device takes up a frame."""

    def decide(self, frame: int, moment: Moment, peek: Peek) -> Decision:
        """What to do with it."""

    def thresholds(self, frame: int) -> tuple[float, ...]:
        """Of the early exits."""

    def ran(self, step: int, took_ms: float) -> None:
        """A step of the device."""

    def sent(self, way: int, num_bytes: int, *, encode_ms: float, now_ms: float, ping: bool) -> object:
        """A request went out; what it gives is told again with what became of it."""

    def heard(self, ticket: object, request: Request, *, waited_ms: float, now_ms: float) -> None:
        """A request's end as the device sees it: an answer, a refusal, or nothing after so long."""

    def learned(self, frame: int, points: int, way: int, decision: Decision) -> None:
        """The cloud's answer is there for a frame that passed so many points."""


class Fixed:
    """What the fixed policies share: they learn nothing."""

    is_real = True

    def __init__(self, name: str, table: FrameTable, *, deadline_ms: float, thresholds: Sequence[float] = ()) -> None:
        self.name, self.table, self.deadline_ms = name, table, deadline_ms
        self._thresholds = tuple(thresholds) or (OFF,) * (table.num_points - 1)

    def begins(self, frame: int) -> None:
        pass

    def thresholds(self, frame: int) -> tuple[float, ...]:
        return self._thresholds

    def ran(self, step: int, took_ms: float) -> None:
        pass

    def sent(self, way: int, num_bytes: int, *, encode_ms: float, now_ms: float, ping: bool) -> object:
        return None

    def heard(self, ticket: object, request: Request, *, waited_ms: float, now_ms: float) -> None:
        pass

    def learned(self, frame: int, points: int, way: int, decision: Decision) -> None:
        pass

    def _locally(self, moment: Moment) -> Decision:
        """The early exits' thresholds, and nothing else."""
        if moment.point == self.table.num_points:
            return Decision(action="finish", reason="device-better")
        if moment.point and moment.confidence >= moment.thresholds[moment.point - 1]:
            return Decision(action="exit", reason="sure")
        return Decision(action="go-on", reason="unsure")

    def _offload(self, moment: Moment, way: int) -> Decision:
        """As `littoral.edge.offload` does: wait until no more is left than the device needs by itself."""
        left = self.deadline_ms - moment.elapsed_ms
        rest = sum(self.table.step_ms[moment.point :])
        hedge = None
        if moment.point < self.table.num_points:
            hedge = hedge_after_ms(patience_ms=math.inf, remaining_ms=left, rest_ms=min(rest, max(left, 0.0)))
        return Decision(
            action="offload", reason="cloud-better", way=way, hedge_after_ms=hedge, give_up_after_ms=max(left, 0.0)
        )


class DeviceOnly(Fixed):
    """The whole network, always; with thresholds: a static exit rule."""

    def decide(self, frame: int, moment: Moment, peek: Peek) -> Decision:
        return self._locally(moment)


class CloudOnly(Fixed):
    """A picture of every frame goes to the cloud; there is nothing else to answer with."""

    def __init__(self, name: str, table: FrameTable, way: int, *, deadline_ms: float) -> None:
        super().__init__(name, table, deadline_ms=deadline_ms)
        self.way = way

    def decide(self, frame: int, moment: Moment, peek: Peek) -> Decision:
        left = max(LOST_AFTER_MS - moment.elapsed_ms, 0.0)
        return Decision(action="offload", reason="cloud-better", way=self.way, give_up_after_ms=left)


class StaticSplit(Fixed):
    """Every frame is offloaded at one split point and level; the device finishes what does not come back."""

    def __init__(self, name: str, table: FrameTable, way: int, *, deadline_ms: float) -> None:
        super().__init__(name, table, deadline_ms=deadline_ms)
        self.way = way

    def decide(self, frame: int, moment: Moment, peek: Peek) -> Decision:
        if moment.asked or moment.point < self.table.ways[self.way].way.point:
            return self._locally(moment)
        return self._offload(moment, self.way)


class ConfidenceOffload(Fixed):
    """Early exits by thresholds; where the whole network is less sure than ``least_sure`` the frame is offloaded."""

    def __init__(
        self,
        name: str,
        table: FrameTable,
        way: int,
        *,
        least_sure: float,
        deadline_ms: float,
        thresholds: Sequence[float] = (),
    ) -> None:
        super().__init__(name, table, deadline_ms=deadline_ms, thresholds=thresholds)
        self.way, self.least_sure = way, least_sure

    def decide(self, frame: int, moment: Moment, peek: Peek) -> Decision:
        at_end = moment.point == self.table.num_points
        if at_end and not moment.asked and not moment.confidence >= self.least_sure:
            return self._offload(moment, self.way)
        return self._locally(moment)


class Foreseen(Fixed, ABC):
    """Chooses at once, when a frame comes, where it leaves or by which way it goes: it knows what the link will do.

    Args:
        first_point: The first answer of the device that it takes: 0 for all, the last for the whole network's alone.
    """

    def __init__(self, name: str, table: FrameTable, *, deadline_ms: float, first_point: int = 0) -> None:
        super().__init__(name, table, deadline_ms=deadline_ms)
        self._first = first_point
        self._reached = np.cumsum([0.0, *table.step_ms])
        self._way: int | None = None
        self._leave = 0

    def decide(self, frame: int, moment: Moment, peek: Peek) -> Decision:
        at = moment.point
        if at == 0 and not moment.asked:
            self._choose(frame, moment.elapsed_ms, moment.now_ms, peek)
        way = self._way
        if way is not None and not moment.asked and at == self.table.ways[way].way.point:
            return self._offload(moment, way)
        if at == self.table.num_points:
            return Decision(action="finish", reason="device-better")
        if way is None and at > self._leave:
            return Decision(action="exit", reason="sure")
        return Decision(action="go-on", reason="unsure")

    @abstractmethod
    def _choose(self, frame: int, elapsed_ms: float, now_ms: float, peek: Peek) -> None:
        """Set the way, or the exit to leave at."""


class Oracle(Foreseen):
    """Knows which answers are right and what the link is about to do; no policy can be built that knows more.

    It takes the soonest right answer within the deadline; where none is, the soonest answer of the device.

    Args:
        among: ``all`` answers; or ``two``: the whole network's and the cloud's, which a perfect switcher would choose
            from. The first is the upper bound, and wins also by exits and levels that are right by luck.
    """

    is_real = False

    def __init__(
        self, name: str, table: FrameTable, *, deadline_ms: float, among: Literal["all", "two"] = "all"
    ) -> None:
        first_point = 0 if among == "all" else table.num_points - 1
        super().__init__(name, table, deadline_ms=deadline_ms, first_point=first_point)
        self._local, self._cloud = table.local_right_NP > 0, table.cloud_right_NW > 0

    def _choose(self, frame: int, elapsed_ms: float, now_ms: float, peek: Peek) -> None:
        """The soonest right answer: an exit to leave at, or a way."""
        self._way, self._leave, soonest = None, self._first, self.deadline_ms
        for p in range(self._first, self.table.num_points):
            ready = elapsed_ms + float(self._reached[p + 1])
            if self._local[frame, p] and ready <= soonest:
                self._leave, soonest = p, ready
                break
        for w, cloud in enumerate(self.table.ways):
            if self._cloud[frame, w]:
                wait_ms = float(self._reached[cloud.way.point])
                request = peek(w, wait_ms)
                ready = elapsed_ms + request.received_ms - now_ms
                if not request.refused and ready < soonest:
                    self._way, soonest = w, ready


class Ours:
    """`littoral.core.routing.Router`, its switcher refitted from the answers that come back.

    Args:
        thresholds: As certified, for calm times.
        caution: What a sign of drift does; None: nothing.
        coins: One for each frame, drawn beforehand.
        refit_every: So many answers make a new fit of the switcher.
    """

    is_real = True

    def __init__(
        self,
        name: str,
        table: FrameTable,
        router: Router,
        *,
        thresholds: Sequence[float],
        caution: Caution | None = None,
        coins: Float64s | None = None,
        seed: int = 0,
        refit_every: int = 64,
    ) -> None:
        self.name, self.table, self.router, self.caution = name, table, router, caution
        self.refit_every = refit_every
        self._thresholds = tuple(thresholds)
        self.coins = np.random.default_rng([seed, 11]).random(len(table)) if coins is None else coins
        self._since_fit = 0

    def begins(self, frame: int) -> None:
        if self.caution is None:
            return self.router.new_frame(CALM)
        if self.table.drift_N is not None and self.table.drift_N[frame]:
            self.caution.drifted()
        self.router.new_frame(self.caution.frame())

    def thresholds(self, frame: int) -> tuple[float, ...]:
        return self._thresholds

    def decide(self, frame: int, moment: Moment, peek: Peek) -> Decision:
        return self.router.route(moment)

    def ran(self, step: int, took_ms: float) -> None:
        self.router.ran(step, took_ms)

    def sent(self, way: int, num_bytes: int, *, encode_ms: float, now_ms: float, ping: bool) -> object:
        return self.router.sent(way, num_bytes, encode_ms=encode_ms, now_ms=now_ms, ping=ping)

    def heard(self, ticket: object, request: Request, *, waited_ms: float, now_ms: float) -> None:
        assert isinstance(ticket, Ticket)
        if request.received_ms > now_ms:
            self.router.gave_up(ticket, waited_ms, now_ms=now_ms)
        elif request.refused:
            self.router.refused(ticket)
        else:
            self.router.answered(
                ticket, waited_ms, queue_ms=request.queue_ms, compute_ms=request.compute_ms, now_ms=now_ms
            )

    def learned(self, frame: int, points: int, way: int, decision: Decision) -> None:
        switcher, features = self.router.switcher, self.table.features_NPF
        if switcher is None or features is None or decision.propensity is None:
            return
        for p in range(points):
            agrees = bool(self.table.answers_NP[frame, p] == self.table.cloud_answers_NW[frame, way])
            switcher.observe_unlabelled(p, features[frame, p], agrees=agrees, propensity=decision.propensity)
        self._since_fit += 1
        if self._since_fit >= self.refit_every:
            switcher.refit()
            self._since_fit = 0
