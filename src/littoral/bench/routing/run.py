"""A stream of frames through a policy, a device and a link in virtual time.

Each frame is a generator that asks for computing or waits; a scheduler resumes them in the order of time. The device
computes one thing at a time, for the oldest frame that wants it; frames that only wait for the cloud do not hold up
others, up to `StreamConfig.in_flight` of them.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from littoral.bench.routing.channel import Request, VirtualLink
from littoral.bench.routing.policies import Policy
from littoral.bench.routing.tables import FrameTable
from littoral.core.arrays import Float64s
from littoral.core.hedge import settle
from littoral.core.route_words import Decision, Moment


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How frames come, and how fast the device is."""

    period_ms: float = 50.0
    """Between frames. One that comes while the device is busy waits, and its time counts."""
    in_flight: int = 1
    """Frames that may be without an answer at a time, the others wait to be taken up. 1 is `Device.infer` called by one
    thread; a camera that only sends pictures has more."""
    deadline_ms: float = 200.0
    device_slowdown: float = 1.0
    """The device's steps and encoders take so many times what the table says."""
    jitter: float = 0.05
    """Of a step's time, a standard deviation as a share."""
    answer_bytes: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.period_ms, self.deadline_ms, self.device_slowdown) <= 0 or not 0 <= self.jitter < 1:
            raise ValueError("period_ms, deadline_ms and device_slowdown above 0, and jitter in [0, 1) must hold")
        if self.in_flight < 1:
            raise ValueError(f"in_flight is at least 1 frame, got {self.in_flight}")


@dataclass(frozen=True, kw_only=True)
class Played:
    """What became of each frame, ``(N,)`` each.

    Attributes:
        right, in_time: The answer is right; it was there by the deadline. A frame without an answer is neither.
        latency_ms: From the frame's coming.
        num_bytes: Uplink, with what was asked for a label.
        device_ms: Of computing.
        source: ``exit``, ``finish``, ``cloud``, ``none``, or ``in-hand``: an exit's answer, the cloud having failed.
        depth: Segments that had run when the answer was given.
        degraded: The answer says so.
        reason: Of the last decision.
        picture: The cloud answered from a picture.
    """

    name: str
    is_real: bool
    right: NDArray[np.bool_]
    in_time: NDArray[np.bool_]
    latency_ms: Float64s
    num_bytes: NDArray[np.int64]
    device_ms: Float64s
    source: tuple[str, ...]
    depth: NDArray[np.int64]
    degraded: NDArray[np.bool_]
    reason: tuple[str, ...]
    picture: NDArray[np.bool_]


class _Event(NamedTuple):
    at_ms: float
    order: int
    act: Callable[[float], None]


class _Compute(NamedTuple):
    """A frame wants the device for so long."""

    ms: float


class _Until(NamedTuple):
    """A frame waits."""

    at_ms: float


@dataclass
class _Frame:
    """One frame on its way."""

    index: int
    came_ms: float
    now_ms: float
    point: int = 0
    device_ms: float = 0.0
    num_bytes: int = 0


class _Outcome(NamedTuple):
    answer: int | None
    at_ms: float
    source: str
    degraded: bool
    reason: str
    picture: bool = False


_Life = Generator[_Compute | _Until, None, _Outcome]


@dataclass
class _Player:
    policy: Policy
    table: FrameTable
    link: VirtualLink
    config: StreamConfig
    events: list[_Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._order = itertools.count()
        self._rows: dict[int, tuple[_Frame, _Outcome]] = {}
        self._waiting: deque[_Frame] = deque()
        self._in_flight, self._busy = 0, False
        self._wishes: list[tuple[int, int, float, _Frame, _Life]] = []
        self._rng = np.random.default_rng([self.config.seed, 3])

    def play(self) -> Played:
        """All frames."""
        for index in range(len(self.table)):
            self._at(index * self.config.period_ms, functools.partial(self._arrive, index))
        while self.events:
            at_ms, _, act = heapq.heappop(self.events)
            act(at_ms)
        return self._played([self._rows[index] for index in range(len(self.table))])

    # -- the scheduler -------------------------------------------------------------------------------------------------

    def _at(self, at_ms: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self.events, _Event(at_ms, next(self._order), act))

    def _arrive(self, index: int, now_ms: float) -> None:
        self._waiting.append(_Frame(index=index, came_ms=now_ms, now_ms=now_ms))
        self._take_up(now_ms)

    def _take_up(self, now_ms: float) -> None:
        while self._waiting and self._in_flight < self.config.in_flight:
            frame = self._waiting.popleft()
            self._in_flight += 1
            self._resume(frame, self._frame(frame), now_ms)

    def _resume(self, frame: _Frame, life: _Life, now_ms: float) -> None:
        frame.now_ms = now_ms
        try:
            wish = next(life)
        except StopIteration as end:
            self._rows[frame.index] = frame, end.value
            self._in_flight -= 1
            self._take_up(now_ms)
            return
        if isinstance(wish, _Until):
            self._at(max(wish.at_ms, now_ms), functools.partial(self._resume, frame, life))
        else:
            heapq.heappush(self._wishes, (frame.index, next(self._order), wish.ms, frame, life))
            if not self._busy:
                self._compute(now_ms)

    def _compute(self, now_ms: float) -> None:
        """The device takes up the oldest frame's wish."""
        if self._wishes:
            _, _, ms, frame, life = heapq.heappop(self._wishes)
            frame.device_ms += ms
            self._busy = True
            self._at(now_ms + ms, functools.partial(self._computed, frame, life))

    def _computed(self, frame: _Frame, life: _Life, now_ms: float) -> None:
        self._resume(frame, life, now_ms)  # it may wish for more, and is older than those that wait
        self._busy = False
        self._compute(now_ms)

    def _played(self, rows: list[tuple[_Frame, _Outcome]]) -> Played:
        latency = np.array([outcome.at_ms - frame.came_ms for frame, outcome in rows])
        answered = np.array([outcome.answer is not None for _, outcome in rows])
        answers = np.array([-1 if outcome.answer is None else outcome.answer for _, outcome in rows])
        return Played(
            name=self.policy.name,
            is_real=self.policy.is_real,
            right=answered & (answers == self.table.labels_N),
            in_time=answered & (latency <= self.config.deadline_ms + 1e-9),
            latency_ms=latency,
            num_bytes=np.array([frame.num_bytes for frame, _ in rows], dtype=np.int64),
            device_ms=np.array([frame.device_ms for frame, _ in rows]),
            source=tuple(outcome.source for _, outcome in rows),
            depth=np.array([frame.point for frame, _ in rows], dtype=np.int64),
            degraded=np.array([outcome.degraded for _, outcome in rows]),
            reason=tuple(outcome.reason for _, outcome in rows),
            picture=np.array([outcome.picture for _, outcome in rows]),
        )

    # -- one frame -----------------------------------------------------------------------------------------------------

    def _frame(self, frame: _Frame) -> _Life:
        self.policy.begins(frame.index)
        while True:
            decision = self._decide(frame, asked=False)
            if decision.action == "go-on":
                yield from self._step(frame)
            elif decision.action == "offload":
                return (yield from self._offloaded(frame, decision))
            else:
                at_ms = frame.now_ms
                if decision.ask is not None:
                    yield from self._send(frame, decision.ask, decision, gives_up_ms=at_ms + decision.give_up_after_ms)
                answer = int(self.table.answers_NP[frame.index, frame.point - 1])
                return _Outcome(answer, at_ms, decision.action, decision.degraded, decision.reason)

    def _offloaded(self, frame: _Frame, decision: Decision) -> _Life:
        """Wait, hedge, settle."""
        assert decision.way is not None
        decided_ms, in_hand = frame.now_ms, frame.point
        gives_up_ms = decided_ms + decision.give_up_after_ms
        request = yield from self._send(frame, decision.way, decision, gives_up_ms=gives_up_ms)
        back_ms = math.inf if request.refused else request.received_ms
        told_ms = max(request.received_ms, frame.now_ms) if request.refused else math.inf  # of the refusal
        local_ms, by = None, "finish"
        hedged = decision.hedge_after_ms is not None
        if decision.hedge_after_ms is not None:
            hedge_ms = min(max(decided_ms + decision.hedge_after_ms, frame.now_ms), told_ms)
            yield _Until(min(hedge_ms, back_ms))
            if back_ms > hedge_ms:
                local_ms, by = yield from self._hedge(frame, back_ms)
        else:
            gives_up_ms = min(gives_up_ms, told_ms)
            yield _Until(min(back_ms, gives_up_ms))
        in_time = back_ms <= gives_up_ms or (hedged and local_ms is None)
        if not in_time and local_ms is None and not in_hand:
            return _Outcome(None, gives_up_ms, "none", True, decision.reason)
        settled = settle(
            cloud_ms=back_ms if in_time else None,
            device_ms=local_ms,
            in_hand=in_hand > 0 and not hedged,
            give_up_ms=gives_up_ms,
            deadline_ms=frame.came_ms + self.config.deadline_ms,
        )
        if settled.source == "cloud":
            answer, source = int(self.table.cloud_answers_NW[frame.index, decision.way]), "cloud"
        else:
            answer = int(self.table.answers_NP[frame.index, frame.point - 1])
            source = by if settled.source == "device" else "in-hand"
        picture = source == "cloud" and self.table.ways[decision.way].way.is_picture
        return _Outcome(answer, settled.at_ms, source, settled.degraded, decision.reason, picture)

    def _hedge(self, frame: _Frame, back_ms: float) -> Generator[_Compute | _Until, None, tuple[float | None, str]]:
        """The device goes on: when its answer is there, and of which kind; None where the cloud's is sooner."""
        while frame.now_ms < back_ms:
            decision = self._decide(frame, asked=True)
            if decision.action == "go-on":
                yield from self._step(frame)
            elif decision.reason == "no-time" and decision.action == "exit":
                # Not sure, and no time for better: the cloud is waited for as long as it can be.
                last_ms = max(frame.came_ms + self.config.deadline_ms, frame.now_ms)
                yield _Until(min(back_ms, last_ms))
                return (None, "in-hand") if back_ms <= last_ms else (last_ms, "in-hand")
            else:
                return frame.now_ms, decision.action
        return None, "finish"

    # -- its parts -----------------------------------------------------------------------------------------------------

    def _decide(self, frame: _Frame, *, asked: bool) -> Decision:
        features, p = self.table.features_NPF, frame.point - 1
        coins = getattr(self.policy, "coins", None)
        moment = Moment(
            point=frame.point,
            elapsed_ms=frame.now_ms - frame.came_ms,
            now_ms=frame.now_ms,
            thresholds=self.policy.thresholds(frame.index),
            confidence=float(self.table.confidences_NP[frame.index, p]) if p >= 0 else math.nan,
            features=None if features is None or p < 0 else features[frame.index, p],
            coin=1.0 if coins is None else float(coins[frame.index]),
            connected=self.link.connected(frame.now_ms),
            asked=asked,
        )
        return self.policy.decide(frame.index, moment, lambda way, wait_ms: self._peek(frame, way, wait_ms))

    def _step(self, frame: _Frame) -> Generator[_Compute | _Until, None, None]:
        step, config = frame.point, self.config
        took_ms = self.table.step_ms[step] * config.device_slowdown
        took_ms *= max(1 + config.jitter * float(self._rng.standard_normal()), 0.2)
        yield _Compute(took_ms)
        frame.point += 1
        self.policy.ran(step, took_ms)

    def _send(
        self, frame: _Frame, way: int, decision: Decision, *, gives_up_ms: float
    ) -> Generator[_Compute | _Until, None, Request]:
        """Encode, send, and see to it that the policy is told in time."""
        num_bytes = int(self.table.bytes_NW[frame.index, way])
        encode_ms = self.table.ways[way].way.encode_ms * self.config.device_slowdown
        yield _Compute(encode_ms)
        sent_ms = frame.now_ms
        request = self.link.send(
            num_bytes,
            sent_ms,
            compute_ms=self.table.ways[way].cloud_ms,
            expires_ms=gives_up_ms,
            deadline_ms=max(gives_up_ms - sent_ms, 0.0),
            answer_bytes=self.config.answer_bytes,
        )
        frame.num_bytes += request.num_bytes
        ticket = self.policy.sent(
            way, request.num_bytes or num_bytes, encode_ms=encode_ms, now_ms=sent_ms, ping=decision.is_ping
        )
        end_ms = max(min(request.received_ms, gives_up_ms), sent_ms)
        index, points = frame.index, frame.point

        def tell(_: float) -> None:
            self.policy.heard(ticket, request, waited_ms=end_ms - sent_ms, now_ms=end_ms)
            if request.received_ms <= end_ms and not request.refused:
                self.policy.learned(index, points, way, decision)

        self._at(end_ms, tell)
        return request

    def _peek(self, frame: _Frame, way: int, wait_ms: float) -> Request:
        """What would become of a request made in so long; the link is as it was afterwards."""
        state = self.link.save()
        encode_ms = self.table.ways[way].way.encode_ms * self.config.device_slowdown
        request = self.link.send(
            int(self.table.bytes_NW[frame.index, way]),
            frame.now_ms + wait_ms + encode_ms,
            compute_ms=self.table.ways[way].cloud_ms,
            answer_bytes=self.config.answer_bytes,
        )
        self.link.restore(state)
        return request


def play(policy: Policy, table: FrameTable, link: VirtualLink, config: StreamConfig | None = None) -> Played:
    """Run a stream. The same arguments, the same result; a policy and a link are used up by it."""
    return _Player(policy, table, link, config or StreamConfig()).play()
