"""Requests of a router that are out: payloads made and sent, answers heard, and the router told what became of each.

The router belongs to the thread that answers. What other threads have for it goes through its `Inbox`, and is done
there when a frame comes, and while one waits.

    sent ── answered or refused ──────────────────────┐
      └── nothing by gives_up_ms: the router is told ──┴── an answer that comes later, within keep_ms, is a label only
"""

from __future__ import annotations

import functools
import math
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from littoral.core.answers import decode_answer
from littoral.core.arrays import FloatArray
from littoral.core.estimates import Ewma
from littoral.core.route_words import Ticket, Way
from littoral.core.routing import Router
from littoral.core.selection import judge_one
from littoral.core.tasks import Task
from littoral.edge.encoder import PictureEncoder, payload_of
from littoral.edge.offload import Encoder
from littoral.edge.recent import SeenFrame
from littoral.edge.route_walk import Look
from littoral.errors import LittoralError, ProtocolError
from littoral.wire.messages import MAX_DEADLINE_MS, OffloadAnswer

if TYPE_CHECKING:
    from littoral.edge.link import CloudLink
    from littoral.edge.link_session import Outcome

Told = Callable[[], None]
_DEVIATIONS, _MOST_LATE = 4.0, 0.1
"""Of how late a wait ends, and the most of the deadline that is kept back for it."""
_BROKEN = ("away", "timeout")
"""Of the codes of this side: the road gave no answer. All others are refusals."""


class Inbox:
    """What other threads have for the one that answers. `put` is for any thread, the rest for that one."""

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[Told] = queue.SimpleQueue()

    def put(self, told: Told) -> None:
        """Have it called in the thread that answers."""
        self._told.put(told)

    def drain(self) -> None:
        """Call all that has come."""
        while True:
            try:
                told = self._told.get_nowait()
            except queue.Empty:
                return
            told()

    def wait(self, timeout_ms: float) -> None:
        """Call the next that comes within so long."""
        try:
            told = self._told.get(timeout=max(timeout_ms, 0.0) / 1000)
        except queue.Empty:
            return
        told()


def clock_ms() -> float:
    """The device's clock: monotonic, the one that a frame's coming is timed by."""
    return time.perf_counter() * 1000


@dataclass(eq=False, kw_only=True)
class Request:
    """The cloud is asked for a frame.

    Attributes:
        looks: What the device thought of the frame when it asked.
        seen: For the exits' heads: what is known of the frame; None where its answer teaches them nothing.
        gives_up_ms: When the router is told that nothing came.
        outcome: The cloud's scores ``(K,)``, or a code that says why there are none.
        heard_ms: When that was known.
    """

    frame_id: int
    way: int
    version: int
    looks: tuple[Look, ...]
    propensity: float | None = None
    is_ping: bool = False
    seen: SeenFrame | None = None
    gives_up_ms: float = math.inf
    sent_ms: float = math.nan
    ticket: Ticket | None = None
    outcome: FloatArray | str | None = None
    heard_ms: float = math.inf

    @property
    def scores(self) -> FloatArray | None:
        """The cloud's, if it answered."""
        return None if isinstance(self.outcome, str) else self.outcome


class Requests:
    """All requests of a device.

    Args:
        encoders: By split point. What codes pictures is made of the ways.
        keep_ms: How long after it was given up a request's answer is still taken, as a label.
        learn: Called in the thread that answers with each request that the cloud answered.
    """

    def __init__(
        self,
        link: CloudLink,
        router: Router,
        encoders: Mapping[int, Encoder],
        task: Task[Any, Any],
        *,
        keep_ms: float,
        learn: Callable[[Request], None],
        inbox: Inbox | None = None,
        clock: Callable[[], float] = clock_ms,
    ) -> None:
        self.inbox = inbox or Inbox()
        self.payload_bytes = self.num_sent = 0
        self._link, self._router, self._task = link, router, task
        self._encoders = [PictureEncoder(way.coding) if way.is_picture else encoders[way.split] for way in router.ways]
        self._keep_ms, self._learn, self._clock = keep_ms, learn, clock
        self._out: list[Request] = []
        self._late_ms, self._most_late_ms = Ewma(), _MOST_LATE * router.config.deadline_ms

    def takes_pictures(self) -> bool:
        """What a router is told: that the cloud answers pictures, or that nobody says that it does not."""
        return self._link.takes_pictures or not self._link.connected

    @property
    def ways(self) -> Sequence[Way]:
        return self._router.ways

    def segment_of(self, way: int) -> int | None:
        """The segment whose output the way's encoder takes; None: it takes frames."""
        return self._encoders[way].segment

    # -- in the thread that answers ------------------------------------------------------------------------------------

    def send(self, request: Request, value: Any) -> bool:
        """Make the payload and send it.

        Args:
            value: What the way's encoder takes.
        Returns:
            False where there is no payload: the codec refuses the frame.
        """
        made = self._encode(request, value)
        if made is None:
            return False
        (payload, coding), encode_ms, request.sent_ms = made
        self._note(request, len(payload), encode_ms)
        left_ms = request.gives_up_ms - request.sent_ms
        known = self._router.known.link
        spent_ms = (known.queue_ms.mean or 0.0) + (known.compute_ms.mean or 0.0)
        road_ms = max((known.predict_ms(len(payload)) or 0.0) - spent_ms, 0.0)
        self._ask(request, payload, coding, left_ms - road_ms)
        return True

    def wait(self, request: Request, until_ms: float) -> bool:
        """Wait for what becomes of a request; whether it is known.

        A busy machine wakes a thread late. By how much is measured, and waited less the next time.
        """
        until_ms -= min(self._late_ms.high(_DEVIATIONS) or 0.0, self._most_late_ms)
        waited = False
        while request.outcome is None and (left_ms := until_ms - self._clock()) > 0:
            self.inbox.wait(left_ms)
            waited = True
        if request.outcome is None:
            if waited:
                self._late_ms.add(self._clock() - until_ms)
            self.inbox.drain()
        return request.outcome is not None

    def listen(self) -> None:
        """Take what has come, and tell the router of requests whose time is up."""
        self.inbox.drain()
        if self._out:
            now_ms = self._clock()
            for request in [each for each in self._out if each.gives_up_ms <= now_ms]:
                self._give_up(request, request.gives_up_ms)

    def heard(self, request: Request, outcome: Outcome, at_ms: float) -> None:
        """What became of a request."""
        if request.outcome is not None:
            return
        request.outcome, request.heard_ms = self._scores_or_code(outcome), at_ms
        self._tell_router(request, outcome)
        if request.scores is not None:
            self._learn(request)

    def _tell_router(self, request: Request, outcome: Outcome) -> None:
        if request not in self._out or request.ticket is None:
            return
        if request.heard_ms > request.gives_up_ms or outcome in _BROKEN:
            self._give_up(request, min(request.heard_ms, request.gives_up_ms))
            return
        self._out.remove(request)
        if request.scores is None:
            self._router.refused(request.ticket)
            return
        assert isinstance(outcome, OffloadAnswer)
        self._router.answered(
            request.ticket,
            request.heard_ms - request.sent_ms,
            queue_ms=outcome.queue_ms,
            compute_ms=outcome.compute_ms,
            now_ms=request.heard_ms,
        )

    def _give_up(self, request: Request, at_ms: float) -> None:
        self._out.remove(request)
        assert request.ticket is not None
        self._router.gave_up(request.ticket, at_ms - request.sent_ms, now_ms=at_ms)

    def _note(self, request: Request, num_bytes: int, encode_ms: float) -> None:
        """A payload is on its way."""
        self.num_sent += 1
        self.payload_bytes += num_bytes
        request.ticket = self._router.sent(
            request.way, num_bytes, encode_ms=encode_ms, now_ms=request.sent_ms, ping=request.is_ping
        )
        self._out.append(request)

    def _scores_or_code(self, outcome: Outcome) -> FloatArray | str:
        if isinstance(outcome, str):
            return outcome
        if outcome.code != "ok":
            return outcome.code or "failed"
        try:
            scores = decode_answer(self._task, outcome.answer)
        except ProtocolError:
            return "damaged"
        _, confidence, _ = judge_one(scores)  # type: ignore[arg-type]
        return scores if confidence == confidence else "damaged"  # type: ignore[return-value]

    # -- in any thread -------------------------------------------------------------------------------------------------

    def send_behind(self, request: Request, value: Any, give_up_after_ms: float, noted: Callable[[bool], None]) -> None:
        """As `send`, in the background: nobody waits for the answer.

        Args:
            noted: Called in the thread that answers; whether it was sent.
        """
        made = None
        try:
            if self._link.connected:
                made = self._encode(request, value)
        finally:  # whatever went wrong: no ping follows one that nobody hears of
            if made is None:
                self.inbox.put(lambda: noted(False))
        if made is None:
            return
        (payload, coding), encode_ms, request.sent_ms = made
        request.gives_up_ms = request.sent_ms + give_up_after_ms

        def told() -> None:
            self._note(request, len(payload), encode_ms)
            noted(True)

        self.inbox.put(told)
        self._ask(request, payload, coding, give_up_after_ms)

    def _encode(self, request: Request, value: Any) -> tuple[tuple[bytes, str], float, float] | None:
        """The payload and its coding, how long it took to make, and when it was made."""
        began_ms = self._clock()
        try:
            made = self._encoders[request.way].encode(value, self.ways[request.way].level)
        except LittoralError:  # over every level's ceiling, or not finite: the device answers
            return None
        now_ms = self._clock()
        return payload_of(made), now_ms - began_ms, now_ms

    def _ask(self, request: Request, payload: bytes, coding: str, for_cloud_ms: float) -> None:
        def done(outcome: Outcome) -> None:
            self.inbox.put(functools.partial(self.heard, request, outcome, self._clock()))

        self._link.offload(
            payload,
            split=self.ways[request.way].split,
            coding=coding,
            version=request.version,
            deadline_ms=min(max(int(for_cloud_ms), 1), MAX_DEADLINE_MS),
            wait_s=max(request.gives_up_ms - request.sent_ms, 0.0) / 1000,
            keep_s=self._keep_ms / 1000,
            done=done,
        )
