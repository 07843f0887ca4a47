"""A device that routes, without a network, a socket or a clock: thousands of lives of it run in seconds.

`Rig` runs the very code of `littoral.edge.route` on the world of ``exit_worlds``. Its clock goes on where a segment
runs, a payload is made, or the device waits; what the link has for it comes at its own time meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exit_worlds import Bench, World
from route_cases import CURVES, STEP_MS, WAYS

from littoral.core.answers import encode_answer
from littoral.core.exit_control import ControlConfig
from littoral.core.route_plan import Prices
from littoral.core.route_words import Decision, Moment, RouteConfig
from littoral.core.routing import Router
from littoral.core.switcher import ShippedSwitcher, Switcher
from littoral.core.tasks import Classification
from littoral.edge.exit_config import ExitConfig
from littoral.edge.route import Routed, Routing
from littoral.edge.route_learning import RouteLearning
from littoral.edge.route_requests import Inbox, Request, Requests
from littoral.edge.route_walk import Trail
from littoral.errors import PayloadError
from littoral.wire.messages import OffloadAnswer

TASK = Classification(num_classes=4)
SEGMENT_MS = (STEP_MS[0], STEP_MS[1], 0.8 * STEP_MS[2], 0.2 * STEP_MS[2])
EAGER = Prices(ms=0.0001, byte=0.0)
"""The cloud's answer is worth nearly any wait."""
CALM = ControlConfig(ring_frames=80, min_calibration=40, audit_share=0.1)


class Clock:
    """Milliseconds that go on only where something takes time, and what is to happen meanwhile."""

    def __init__(self) -> None:
        self.now_ms, self.runs = 1000.0, True
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        return self.now_ms

    def at(self, at_ms: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(at_ms, self.now_ms), next(self._order), act))

    def advance(self, by_ms: float) -> None:
        if not self.runs:
            return
        end_ms = self.now_ms + by_ms
        while self._events and self._events[0][0] <= end_ms:
            self.now_ms, _, act = heapq.heappop(self._events)
            act()
        self.now_ms = end_ms

    def next_within(self, by_ms: float) -> None:
        """Go on to what happens next, or by so long."""
        first = self._events[0][0] if self._events else float("inf")
        self.advance(max(min(first - self.now_ms, by_ms), 0.0))


class FakeInbox(Inbox):
    """Waits by the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._come = clock, deque[Callable[[], None]]()

    def put(self, told: Callable[[], None]) -> None:
        self._come.append(told)

    def drain(self) -> None:
        while self._come:
            self._come.popleft()()

    def wait(self, timeout_ms: float) -> None:
        if not self._come:
            self._clock.next_within(timeout_ms)
        if self._come:
            self._come.popleft()()


class Numbered(np.ndarray[Any, Any]):
    """Features that know whose they are."""

    number: int


class TimedModel:
    """``exit_worlds.FakeModel`` whose segments take time, for walks that overtake each other.

    Args:
        broken: Frames whose whole network gives no number.
    """

    def __init__(self, rig: Rig, version: int = 0) -> None:
        self.rig, self.version = rig, version
        self.broken: set[int] = set()
        self._last = rig.world.heads().heads[-1]

    def through(self, first: int, last: int, value: Any) -> Any:
        for segment in range(first, last):
            number = int(value[0]) if value.dtype == np.int64 else value.number
            slow = 1 + self.rig.jitter * float(self.rig.rng.uniform(-1, 1))
            self.rig.clock.advance(SEGMENT_MS[segment] * slow)
            self.rig.segments.append((number, segment))
            features = self.rig.world.features[min(segment, 2), number]
            if segment == 3:
                features = self._last.logits(features) * (np.nan if number in self.broken else 1)
            value = features[None].view(Numbered)
            value.number = number
        return value


@dataclass
class FakeEncoder:
    """A payload that says whose it is; ``refuses`` those of some frames."""

    rig: Rig
    segment: int | None

    def encode(self, value: Any, level: int) -> bytes:
        self.rig.clock.advance(1.0)
        number = int(value[0]) if self.segment is None else value.number
        if number in self.rig.refused:
            raise PayloadError("too-large", "over the ceiling")
        return number.to_bytes(4, "big") + bytes(6000 if self.segment is None else 300 * (1 + 4 * level))


@dataclass
class FakeLink:
    """What `littoral.edge.route_requests` uses of a `CloudLink`. ``fate`` says what becomes of a request: after how
    many milliseconds, and what; it may say so more than once, or never."""

    rig: Rig
    fate: Callable[[dict[str, Any]], list[tuple[float, OffloadAnswer | str]]] = lambda asked: []
    connected: bool = True
    takes_pictures: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)

    def offload(self, payload: bytes, *, done: Callable[[Any], None], **asked: Any) -> None:
        asked["number"] = int.from_bytes(payload[:4], "big")
        self.asked.append(asked)
        for after_ms, outcome in self.fate(asked):
            self.rig.clock.at(self.rig.clock.now_ms + after_ms, lambda outcome=outcome: done(outcome))  # type: ignore[misc]


def reply(label: int = 0, code: str = "ok", *, answer: bytes | None = None) -> OffloadAnswer:
    """The cloud's word, sure of a class."""
    made = encode_answer(TASK, 9 * np.eye(4, dtype=np.float32)[label]) if answer is None else answer
    return OffloadAnswer(request=1, code=code, message="", answer=made, queue_ms=0.1, compute_ms=0.4)


class Rig:
    """A device that routes.

    Args:
        checking: Exits begin by being checked; else these thresholds are in force, and the exits' coin is tossed.
        jitter: By which share segments take more or less time than they should.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        config: RouteConfig,
        *,
        num_frames: int = 60,
        seed: int = 0,
        thresholds: tuple[float, float] = (0.9, 0.9),
        checking: bool = False,
        control: ControlConfig = CALM,
        personal: bool = True,
        jitter: float = 0.0,
        noise: float = 1.0,
        state: Path | None = None,
        switcher: bool = False,
        link_warm_ms: float | None = 10.0,
    ) -> None:
        self.clock, self.rng = Clock(), np.random.default_rng(seed)
        self.world, self.jitter = World(num_frames, seed=seed, noise=noise), jitter
        self.segments: list[tuple[int, int]] = []
        self.refused: set[int] = set()
        exits = ExitConfig(control=control, seed=seed, learning_share=1.0)
        if not personal:
            exits = ExitConfig(control=control, seed=seed, personal=None)
        self.bench = Bench(monkeypatch, self.world, exits, state, routed=True)
        self.exits, self.tasks = self.bench.exits, self.bench.tasks
        if not checking:
            self.exits.policy = self.exits.policy.serving(thresholds)
        self.model, self.link = TimedModel(self), FakeLink(self)
        made = Switcher(plain_switcher()) if switcher else None
        self.router = Router(CURVES, WAYS, STEP_MS, config, switcher=made)
        for step, took_ms in enumerate(STEP_MS):
            for way_off in (1.0, 1 + jitter, 1 - jitter):
                self.router.ran(step, took_ms * way_off)
        self.broken: list[int] = []
        encoders = {0: FakeEncoder(self, 0), 1: FakeEncoder(self, None)}
        requests = Requests(
            self.link, self.router, encoders, TASK,  # type: ignore[arg-type]
            keep_ms=config.deadline_ms, learn=self._learn, inbox=FakeInbox(self.clock), clock=self.clock,
        )  # fmt: skip
        self.routing = Routing(
            self.router,
            requests,
            Trail(self.exits.parts.all, len(SEGMENT_MS), frozenset({0})),
            exits=self.exits,
            learning=RouteLearning(made, teach=self.exits.teach, folder=state, later=self.tasks.append),
            later=self.tasks.append,
            clock=self.clock,
            connected=lambda: self.link.connected,
            broken=self.broken.append,
            seed=seed,
        )
        self.count = 0
        if link_warm_ms is not None:
            self.warm(link_warm_ms)

    def _learn(self, request: Request) -> None:
        self.routing.learn(request)

    def warm(self, rtt_ms: float) -> None:
        """The router has heard from the cloud a few times."""
        for i in range(6):
            self.router.new_frame()
            size, now_ms = (300, 1500)[i % 2], self.clock.now_ms
            ticket = self.router.sent(i % 2, size, encode_ms=1.0, now_ms=now_ms)
            self.router.answered(ticket, rtt_ms + size / 1000, queue_ms=0, compute_ms=0, now_ms=now_ms)

    def infer(self, number: int, *, gap_ms: float = 5.0, behind: bool = True) -> tuple[Routed, float]:
        """A frame's answer, and how long it took; then a pause in which what runs behind is done."""
        self.count += 1
        began_ms = self.clock.now_ms
        routed = self.routing.answer(self.model, self.world.frames[number], self.count, began_ms)  # type: ignore[arg-type]
        took_ms = self.clock.now_ms - began_ms
        if behind:
            self.settle()
        self.clock.advance(gap_ms)
        return routed, took_ms

    def offloads_at(self, point: int, *, hedge_after_ms: float | None = 60.0) -> None:
        """Every frame is offloaded at this point; what comes after that is the router's own decision."""
        route = self.router.route

        def decide(moment: Moment) -> Decision:
            if moment.asked:
                return route(moment)
            if moment.point < point:
                return Decision(action="go-on", reason="unsure")
            return Decision(
                action="offload",
                reason="cloud-better",
                way=0 if point else 2,
                hedge_after_ms=hedge_after_ms,
                give_up_after_ms=self.router.config.deadline_ms - self.router.config.spare_ms - moment.elapsed_ms,
                propensity=1.0,
            )

        self.router.route = decide  # type: ignore[method-assign]

    def settle(self) -> None:
        """Do what the background thread has to do, in no time: it has a core of its own."""
        self.clock.runs = False
        while self.tasks:
            self.tasks.popleft()()
        self.clock.runs = True


def plain_switcher() -> ShippedSwitcher:
    """The less sure, the more an offload gains."""
    coefficients = np.zeros((3, 2, 5))
    coefficients[:, 0, 0], coefficients[:, 0, 4] = -1.0, 0.0
    coefficients[:, 1, 4] = -3.0
    precision = np.broadcast_to(np.eye(5) * 10, (3, 2, 5, 5)).copy()
    return ShippedSwitcher(coefficients=coefficients, precision=precision)
