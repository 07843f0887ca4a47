"""A device that routes: exit here, go on, finish, or offload, decided for every frame at every point.

The decisions are `littoral.core.routing.Router`'s. Here they are carried out in the thread that answers, and each frame
has its answer in time whatever the link does: the device is the second server behind the cloud.

    comes ── point 0 ── point 1 ── ... ── exit or finish ── answered ── an audit or a ping, behind
                │          │
                └ offload ─┴─ waits ── hedge ── goes on by itself ──┐
                     └─────────────── the cloud's answer ───────────┴─ the first counts, the other is a label

Two coins are tossed before a frame is looked at, from two seeds: the exits' (`littoral.core.exit_control`) and the
router's audit. Neither touches the other, nor the answer (docs/adr/0022): a frame that the exits' coin picks is routed
and answered like any other, and what it then lacks of the whole network runs behind its answer. So what calibrates is
like the whole traffic, the frames that the cloud answered included. Where too much waits behind already, no coin is
tossed: before the frame is looked at too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from littoral.core.arrays import FloatArray, Frame
from littoral.core.caution import Caution
from littoral.core.exit_control import Purpose, early_loss
from littoral.core.exit_policy import ExitPolicy
from littoral.core.exits import OFF
from littoral.core.head_memory import draw
from littoral.core.hedge import settle
from littoral.core.route_words import Decision, Moment
from littoral.core.routing import Router
from littoral.core.selection import judge_one
from littoral.edge.answer import PICTURE, SPLIT, Found
from littoral.edge.counters import RouteCounters
from littoral.edge.exits import ExitRuntime
from littoral.edge.recent import SeenFrame
from littoral.edge.route_learning import Answered, RouteLearning
from littoral.edge.route_requests import Request, Requests
from littoral.edge.route_walk import Trail, Walk
from littoral.edge.session import Model

_TOSS = 1 << 32
_AUDIT_SEED = 0x9E6C63D0876A9A47
"""Added to the device's seed: another coin than the exits'."""
_MOST_BEHIND = 4
"""Frames of which something still runs behind their answers: more would only grow older."""


class Routed(NamedTuple):
    """A frame's answer. As `littoral.edge.answer.Found`, and who gave it, and why."""

    found: Found
    source: str
    degraded: bool
    reason: str
    in_hand: Found | None = None
    """What the device itself had made of a frame that the cloud answered."""
    way: str = ""
    """By which way the cloud answered."""


@dataclass(eq=False)
class _Trip:
    """A frame in the thread that answers."""

    frame_id: int
    started_ms: float
    walk: Walk
    thresholds: tuple[float, ...]
    coin: float
    purpose: Purpose
    num_rechecks: int
    pixels: bytes = b""
    """Where the frame is to be run again."""
    decided_ms: float = 0.0
    """When the last decision was taken: what it says of times counts from there."""
    wanted: bool = False
    """A decision said that the answer would be degraded."""

    @property
    def policy(self) -> ExitPolicy:
        return self.walk.policy

    @property
    def is_picked(self) -> bool:
        return self.purpose is not Purpose.NOTHING


class Routing:
    """Answers a device's frames. `answer` is for one thread at a time.

    Args:
        trail: The device's exits and what its encoders take.
        learning: Takes what the cloud answers.
        later: Runs a task in the background thread.
        broken: Told the affine version whose output was not finite behind an answer.
        seed: Of the audit's coin.
    """

    def __init__(
        self,
        router: Router,
        requests: Requests,
        trail: Trail,
        *,
        exits: ExitRuntime,
        learning: RouteLearning,
        later: Callable[[Callable[[], None]], None],
        clock: Callable[[], float],
        connected: Callable[[], bool],
        broken: Callable[[int], None] = lambda version: None,
        caution: Caution | None = None,
        seed: int = 0,
    ) -> None:
        self.router, self.requests, self.learning = router, requests, learning
        self.counters, self.caution = RouteCounters(), caution or Caution()
        self._trail, self._exits, self._later, self._clock = trail, exits, later, clock
        self._connected, self._broken, self._seed = connected, broken, seed + _AUDIT_SEED
        self._row = np.zeros(exits.recent.features.shape[1], dtype=np.float16)
        self._begun = self._done = 0  # of what runs behind answers; each written by one thread only
        self._pinging = False
        exits.on_world = self.world

    # -- in any thread -------------------------------------------------------------------------------------------------

    def world(self, changed: bool) -> None:
        """A sign of drift; or thresholds were certified in the world as it is."""
        self.requests.inbox.put(self.caution.drifted if changed else self.caution.settled)

    def close(self) -> None:
        """Keep what was learned. The link has ended, and the background thread has no other task."""
        self.requests.listen()
        self.learning.close()

    # -- in the thread that answers ------------------------------------------------------------------------------------

    def answer(self, model: Model, frame: Frame, frame_id: int, started_ms: float) -> Routed:
        """Answer a frame within the deadline.

        Args:
            model: Read once for this frame.
            frame: uint8 ``(H, W, C)``.
            frame_id: Counts the frames of this run from 1.
            started_ms: When it came, by the clock; its deadline counts from there.
        """
        self.requests.listen()
        self.learning.newest = frame_id
        trip = self._begin(model, frame, frame_id, started_ms)
        self.router.new_frame(self.caution.frame())
        while (decision := self._decide(trip)).action == "go-on":
            self._go(trip, decision.until)
        if decision.action == "offload":
            routed = self._offloaded(trip, decision)
        else:
            routed = self._own(trip, decision.reason, degraded=False)
            if decision.ask is not None:
                self._ask_behind(trip, decision.ask, decision)
        self._count(routed)
        share = self._exits.parts.work(trip.walk.point, trip.walk.asked)
        self._end(trip, leaves=decision.action == "exit")
        return routed._replace(found=routed.found._replace(compute_share=share))

    def _begin(self, model: Model, frame: Frame, frame_id: int, started_ms: float) -> _Trip:
        exits, coin = self._exits, draw(self._seed, frame_id, _TOSS) / _TOSS
        exits.queue.begins(frame_id)
        policy, purpose = exits.policy, Purpose.NOTHING
        fits = policy.affine_version == model.version
        if fits and self._has_room():
            purpose = exits.control.purpose(checking=policy.checking)
        exits.calibrates = purpose is Purpose.RING and exits.calibration.runs_again
        row = exits.recent.features[exits.recent.begin(frame_id)] if fits else self._row
        walk = Walk(self._trail, model, frame, policy, row, fits=fits)
        thresholds = policy.thresholds if fits else (OFF,) * policy.num_early
        return _Trip(frame_id, started_ms, walk, thresholds, coin, purpose, exits.control.num_rechecks)

    def _decide(self, trip: _Trip, *, asked: bool = False) -> Decision:
        walk, now_ms = trip.walk, self._clock()
        trip.decided_ms = now_ms
        look = walk.looks[-1] if walk.looks else None
        decision = self.router.route(
            Moment(
                point=walk.point,
                elapsed_ms=now_ms - trip.started_ms,
                now_ms=now_ms,
                thresholds=trip.thresholds,
                confidence=float("nan") if look is None else look.confidence,
                features=None if look is None else look.features,
                coin=trip.coin,
                connected=self._connected(),
                pictures=self.requests.takes_pictures(),
                asked=asked,
            )
        )
        trip.wanted = trip.wanted or decision.degraded
        return decision

    def _go(self, trip: _Trip, until: int | None, stop: Callable[[], bool] | None = None) -> None:
        """Run to a point, or until stopped. Exits on the way are not asked."""
        walk, shares = trip.walk, self._trail.stem_shares
        until = walk.point + 1 if until is None else until
        while walk.point < until:
            began_ms, point = self._clock(), walk.point
            look = point + 1 == until
            if not walk.step(stop, look=look):
                return
            spared = 0.0 if look or not shares else shares[point]
            self.router.ran(point, (self._clock() - began_ms) / (1 - spared))

    # -- with the cloud asked ------------------------------------------------------------------------------------------

    def _offloaded(self, trip: _Trip, decision: Decision) -> Routed:
        """Ask the cloud, wait, go on, and settle."""
        assert decision.way is not None
        decided_ms, gives_up_ms = trip.decided_ms, trip.decided_ms + decision.give_up_after_ms
        request = self._request(trip, decision.way, decision, gives_up_ms)
        is_sent = self.requests.send(request, trip.walk.input_of(self.requests.segment_of(decision.way)))
        hedged = decision.hedge_after_ms is not None
        if is_sent:
            until_ms = gives_up_ms if decision.hedge_after_ms is None else decided_ms + decision.hedge_after_ms
            self.requests.wait(request, until_ms)
        if request.scores is not None or (trip.walk.point and not hedged):
            return self._settle(trip, request, decision, None)
        self.counters.hedged += is_sent
        return self._go_on(trip, request if is_sent else None, decision)

    def _go_on(self, trip: _Trip, request: Request | None, offload: Decision) -> Routed:
        """The device makes an answer of its own, and takes the cloud's if that is there before."""

        def is_answered() -> bool:
            self.requests.listen()
            return request is not None and request.scores is not None

        while not is_answered():
            decision = self._decide(trip, asked=True)
            if decision.action == "go-on":
                self._go(trip, decision.until, is_answered)
                continue
            if decision.reason == "no-time" and request is not None:  # not sure: the cloud's, as long as it may be
                config = self.router.config
                self.requests.wait(request, trip.started_ms + config.deadline_ms - config.spare_ms)
            reason = "no-way" if decision.reason == "asked" and request is None else decision.reason
            return self._settle(trip, request, offload, reason)
        return self._settle(trip, request, offload, None)

    def _settle(self, trip: _Trip, request: Request | None, offload: Decision, own: str | None) -> Routed:
        """Whose answer it is.

        Args:
            own: Why the device gives the one in hand, which it made after asking; None: it made none.
        """
        scores, now_ms = None if request is None else request.scores, self._clock() - trip.started_ms
        settled = settle(
            cloud_ms=None if request is None or scores is None else request.heard_ms - trip.started_ms,
            device_ms=now_ms if own is not None else None,
            in_hand=trip.walk.found is not None,
            give_up_ms=now_ms,
            deadline_ms=self.router.config.deadline_ms,
        )
        if settled.source == "cloud" and scores is not None:
            label, confidence, entropy = judge_one(scores)
            found = Found(scores, label, confidence, entropy, len(self._trail.exits), None)
            in_hand = trip.walk.found if _is_finite(trip.walk) else None
            assert request is not None
            way = PICTURE if self.requests.ways[request.way].is_picture else SPLIT
            return Routed(found, "cloud", False, offload.reason, in_hand, way)
        return self._own(trip, own or offload.reason, degraded=True)

    def _request(self, trip: _Trip, way: int, decision: Decision, gives_up_ms: float) -> Request:
        walk = trip.walk
        teaches = walk.num_seen > 0 and walk.fits and trip.purpose is not Purpose.RING
        return Request(
            frame_id=trip.frame_id,
            way=way,
            version=walk.model.version,
            looks=tuple(walk.looks),
            propensity=decision.propensity,
            is_ping=decision.is_ping,
            seen=walk.seen(trip.frame_id) if teaches else None,
            gives_up_ms=gives_up_ms,
        )

    def learn(self, request: Request) -> None:
        """The cloud answered a request: its answer teaches."""
        scores, seen = request.scores, request.seen
        assert scores is not None
        self.counters.answered += 1
        if seen is not None:  # the device may have gone on since it asked
            seen = (self._exits.recent.get(request.frame_id) or seen).taught_by_cloud(scores)
        label = int(scores.argmax())
        self.learning.answered(Answered(request.frame_id, request.looks, label, request.propensity, seen))

    # -- answered ------------------------------------------------------------------------------------------------------

    def _own(self, trip: _Trip, reason: str, *, degraded: bool) -> Routed:
        assert trip.walk.found is not None
        return Routed(trip.walk.found, "device", degraded or trip.wanted, reason)

    def _count(self, routed: Routed) -> None:
        counters = self.counters
        counters.degraded += routed.degraded
        if routed.source == "cloud":
            counters.offloaded += 1
            counters.pictures += routed.way == PICTURE
            return
        counters.finished += routed.found.network_entropy is not None
        self._exits.frames_by_exit[routed.found.exit_index] += 1

    def _end(self, trip: _Trip, *, leaves: bool) -> None:
        """Keep what is known of the frame. One that the coin picked runs to its end now, behind its answer."""
        exits, walk, policy = self._exits, trip.walk, trip.policy
        if not walk.fits or (walk.is_whole and not _is_finite(walk)):
            return
        trip.pixels = exits.calibration.pixels_for(trip.purpose, walk.input_of(None)[0])
        exits.recent.end(trip.frame_id, walk.model.version, walk.num_seen, walk.network_logits)
        if walk.has_all and (trip.is_picked or not policy.checking):
            self._hand_over(trip, leaves)
        elif trip.is_picked:
            walk.stays_behind()
            self._run_behind(functools.partial(self._run_to_end, trip, leaves))

    def _hand_over(self, trip: _Trip, leaves: bool, seen: SeenFrame | None = None) -> None:
        loss = self._loss(trip)
        self._exits.hand_over(
            trip.policy, trip.frame_id, trip.purpose, leaves=leaves, loss=loss, pixels=trip.pixels, seen=seen
        )

    def _loss(self, trip: _Trip) -> float | None:
        """What an audit of the exits counts for a frame that ran to its end; None where it is no audit."""
        policy, walk = trip.policy, trip.walk
        if policy.checking or not trip.is_picked or walk.found is None:
            return None
        return early_loss(walk.spoken, policy, walk.found.label, any_sure=True)[1]

    # -- behind the answer ---------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return self._begun - self._done < _MOST_BEHIND

    def _run_behind(self, work: Callable[[], None]) -> None:
        self._begun += 1

        def task() -> None:
            try:
                work()
            finally:
                self._done += 1

        self._later(task)

    def _run_to_end(self, trip: _Trip, leaves: bool) -> None:
        """In the background thread."""
        while not trip.walk.is_whole:
            trip.walk.step()
        trip.walk.catch_up()
        self.requests.inbox.put(lambda: self._ran_to_end(trip, leaves))

    def _ran_to_end(self, trip: _Trip, leaves: bool) -> None:
        """A frame that the coin picked has a deep answer, behind the one that was given."""
        exits, version = self._exits, trip.walk.model.version
        if not _is_finite(trip.walk):
            self._broken(version)
        elif exits.control.num_rechecks == trip.num_rechecks and exits.policy.affine_version == version:
            self._hand_over(trip, leaves, trip.walk.seen(trip.frame_id))

    def _ask_behind(self, trip: _Trip, way: int, decision: Decision) -> None:
        """An audit or a ping: its payload is made and sent when the answer is given."""
        if not self._has_room() or (decision.is_ping and self._pinging):
            return
        self._pinging = self._pinging or decision.is_ping
        segment = self.requests.segment_of(way)
        value: FloatArray | Frame = trip.walk.input_of(segment)
        if segment is None:
            value = value.copy()
        request = self._request(trip, way, decision, float("inf"))

        def noted(is_sent: bool) -> None:
            if decision.is_ping:
                self._pinging = False
                self.counters.pings += is_sent
            else:
                self.counters.audits += is_sent

        send = functools.partial(self.requests.send_behind, request, value, decision.give_up_after_ms, noted)
        self._run_behind(send)


def _is_finite(walk: Walk) -> bool:
    """The answer in hand is one."""
    return walk.found is not None and walk.found.is_finite
