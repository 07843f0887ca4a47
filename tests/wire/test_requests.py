"""Offloaded requests in the device's session: each ends exactly once, whatever the road and the cloud do."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter, deque
from collections.abc import Callable

import pytest

from littoral.errors import ProtocolError
from littoral.wire.envelope import MAX_FRAME_BYTES, decode_frame, encode_frame
from littoral.wire.link import MAX_REQUESTS, Action, Answered, Close, DeviceLink, RequestFailed, Send
from littoral.wire.messages import (
    NONCE_BYTES,
    TAKES_PICTURES,
    Challenge,
    Message,
    Offload,
    OffloadAnswer,
    Sample,
    Welcome,
    from_frame,
    to_frame,
)

STREAM = 77
WELCOME = Welcome(acked_sequence=0, credit_bytes=0, envelope=b"e", envelope_signature=b"s")


def encoded(message: Message) -> bytes:
    return encode_frame(to_frame(message))


def request(number: int, payload: bytes = b"payload", **changes: int) -> Offload:
    return Offload(**{"request": number, "split": 0, "version": 3, "deadline_ms": 100, **changes}, payload=payload)  # type: ignore[arg-type]


def answer(number: int, code: str = "ok") -> OffloadAnswer:
    return OffloadAnswer(
        request=number, code=code, message="", answer=b"A", queue_ms=0.0, compute_ms=float(number % 1000)
    )


def make_link(**changes: int) -> DeviceLink:
    return DeviceLink(
        device_id="d-1",
        bundle_digest=b"b" * 32,
        outbox_stream=STREAM,
        highest_version=lambda: 4,
        sign=lambda data: data,
        **changes,
    )


def opened(link: DeviceLink | None = None) -> DeviceLink:
    link = link or make_link()
    link.on_connected()
    link.on_bytes(encoded(Challenge(nonce=b"n" * NONCE_BYTES)))
    link.on_bytes(encoded(WELCOME))
    assert link.state == "open"
    return link


def test_a_request_goes_though_there_is_no_credit_and_its_deadline_is_the_frames() -> None:
    link = opened()
    assert link.credit_left_bytes == 0
    (action,) = link.offload(request(1), expires_ms=50.0)
    assert isinstance(action, Send)
    assert action.purpose == "offload"
    frame = decode_frame(action.data)
    assert (frame.stream, frame.sequence, frame.deadline_ms) == (0, 0, 100)
    assert from_frame(frame) == request(1)
    assert link.in_flight_bytes == 0, "it uses none either"
    assert link.on_bytes(encoded(answer(1))) == [Answered(answer(1))]
    assert (link.num_pending, link.ignored_answers) == (0, 0)


@pytest.mark.parametrize("code", ["overloaded", "late", "damaged", "a-code-of-the-future"])
def test_a_code_that_is_not_ok_is_an_answer_too(code: str) -> None:
    link = opened()
    link.offload(request(1), expires_ms=50.0)
    assert link.on_bytes(encoded(answer(1, code))) == [Answered(answer(1, code))]


def test_answers_come_in_any_order_and_each_once() -> None:
    link = opened()
    for number in (1, 2, 3):
        link.offload(request(number), expires_ms=50.0)
    for number in (3, 1, 3, 2, 1):
        link.on_bytes(encoded(answer(number)))
    assert (link.num_pending, link.ignored_answers) == (0, 2)


def test_an_answer_to_what_was_not_asked_or_is_over_is_counted_and_ignored() -> None:
    link = opened()
    link.offload(request(5), expires_ms=50.0)
    assert link.expire(49.9) == []
    assert link.expire(50.0) == [RequestFailed(5, "timeout")]
    for number in (5, 6, 0, 2**64 - 1):
        assert link.on_bytes(encoded(answer(number))) == []
    assert (link.ignored_answers, link.state) == (4, "open")


def test_a_lost_session_fails_all_that_is_pending_at_once() -> None:
    link = opened()
    for number in (1, 2):
        link.offload(request(number), expires_ms=50.0)
    assert link.on_disconnected() == [RequestFailed(1, "away"), RequestFailed(2, "away")]
    assert link.expire(1e9) == []
    opened(link)
    assert link.on_bytes(encoded(answer(1))) == [], "a later session knows nothing of it"


def test_a_cloud_that_breaks_the_rules_fails_what_is_pending_before_the_session_closes() -> None:
    link = opened()
    link.offload(request(1), expires_ms=50.0)
    failed, closed = link.on_bytes(encoded(WELCOME))
    assert failed == RequestFailed(1, "away")
    assert isinstance(closed, Close)


@pytest.mark.parametrize("state", ["closed", "waiting-challenge", "waiting-welcome"])
def test_without_a_session_a_request_fails_at_once(state: str) -> None:
    link = make_link()
    if state != "closed":
        link.on_connected()
    if state == "waiting-welcome":
        link.on_bytes(encoded(Challenge(nonce=b"n" * NONCE_BYTES)))
    assert link.state == state
    assert link.offload(request(1), expires_ms=50.0) == [RequestFailed(1, "away")]
    if state != "closed":
        (closed,) = link.on_bytes(encoded(answer(1)))
        assert isinstance(closed, Close), "an answer before the Welcome is out of turn"


def test_no_more_are_pending_than_may_be() -> None:
    link = opened()
    for number in range(1, MAX_REQUESTS + 1):
        assert isinstance(link.offload(request(number), expires_ms=50.0)[0], Send)
    assert link.offload(request(100), expires_ms=50.0) == [RequestFailed(100, "busy")]
    link.on_bytes(encoded(answer(1)))
    assert isinstance(link.offload(request(101), expires_ms=50.0)[0], Send)


@pytest.mark.parametrize("wrong", [{"split": 256}, {"deadline_ms": 0}, {"deadline_ms": 3_600_001}], ids=str)
def test_a_request_out_of_range_is_the_callers_mistake(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a request needs"):
        opened().offload(request(1, **wrong), expires_ms=50.0)


def test_a_number_is_used_once() -> None:
    link = opened()
    link.offload(request(7), expires_ms=50.0)
    with pytest.raises(ValueError, match="numbers only rise"):
        link.offload(request(7), expires_ms=50.0)


def test_a_payload_over_a_frame_is_refused_and_leaves_nothing_pending() -> None:
    link = opened()
    with pytest.raises(ProtocolError, match="over the limit"):
        link.offload(request(1, bytes(MAX_FRAME_BYTES)), expires_ms=50.0)
    assert link.num_pending == 0


# Schedules.


class Road:
    """A device that asks and a cloud that answers late, twice, out of order, what was not asked, or not at all."""

    def __init__(self, rng: random.Random, *, fail_at_once: bool = True) -> None:
        self.rng, self.fail_at_once = rng, fail_at_once
        self.link = make_link(max_requests=4)
        self.now_ms = 0.0
        self.asked = 0
        self.ended: Counter[int] = Counter()
        self.ok: set[int] = set()
        self.answered_by_cloud: set[int] = set()
        self.up: deque[bytes] = deque()
        self.down: list[bytes] = []

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.up.append(action.data)
            elif isinstance(action, Answered):
                self.ended[action.answer.request] += 1
                self.ok.add(action.answer.request)
            elif isinstance(action, RequestFailed):
                self.ended[action.request] += 1

    def ask(self) -> None:
        self.asked += 1
        self.act(self.link.offload(request(self.asked), expires_ms=self.now_ms + self.rng.choice([1.0, 30.0])))

    def wait(self) -> None:
        self.now_ms += self.rng.choice([0.5, 10.0])
        self.act(self.link.expire(self.now_ms))

    def work(self) -> None:
        if self.up:
            message = from_frame(decode_frame(self.up.popleft()))
            if isinstance(message, Offload):
                self.answered_by_cloud.add(message.request)
                self.down += [encoded(answer(message.request))] * self.rng.choice([0, 1, 1, 2])

    def make_up(self) -> None:
        self.down.append(encoded(answer(self.rng.randrange(self.asked + 3) + 100_000)))

    def deliver(self) -> None:
        if self.down and self.link.state == "open":
            self.act(self.link.on_bytes(self.down.pop(self.rng.randrange(len(self.down)))))

    def cut(self) -> None:
        actions = self.link.on_disconnected()
        self.act(actions if self.fail_at_once else [])
        self.up.clear()
        self.down.clear()

    def connect(self) -> None:
        if self.link.state == "closed":
            opened(self.link)

    def run(self) -> None:
        steps: list[Callable[[], None]] = [
            self.ask, self.wait, self.work, self.deliver, self.make_up, self.connect, self.cut
        ]  # fmt: skip
        for _ in range(self.rng.randint(5, 60)):
            self.rng.choices(steps, weights=[8, 4, 8, 8, 1, 4, 1])[0]()
        self.now_ms += 1000.0
        self.act(self.link.expire(self.now_ms))
        assert self.link.num_pending == 0
        assert self.ended == Counter(range(1, self.asked + 1)), "each request ends once"
        assert self.ok <= self.answered_by_cloud, "nothing is answered that the cloud did not answer"


def test_in_thousands_of_schedules_every_request_ends_exactly_once() -> None:
    ignored = answered = 0
    for seed in range(1000):
        road = Road(random.Random(seed))
        road.run()
        ignored, answered = ignored + road.link.ignored_answers, answered + len(road.ok)
    assert min(ignored, answered) > 500


def test_pending_requests_that_a_lost_session_forgets_are_caught_by_the_same_schedules() -> None:
    """Negative control."""
    caught = 0
    for seed in range(100):
        try:
            Road(random.Random(seed), fail_at_once=False).run()
        except AssertionError:
            caught += 1
    assert caught > 20


def test_requests_do_not_disturb_the_order_of_durable_messages() -> None:
    link = make_link()
    link.on_connected()
    link.on_bytes(encoded(Challenge(nonce=b"n" * NONCE_BYTES)))
    link.on_bytes(encoded(Welcome(acked_sequence=0, credit_bytes=10_000, envelope=b"e", envelope_signature=b"s")))
    durable = []
    for number in range(1, 5):
        sample = Sample(frame_id=number, version=0, predicted=0, entropy_nats=0.5, coding="raw", image=b"x", scene=0)
        durable.append((number, encode_frame(to_frame(sample, stream=STREAM, sequence=number))))
    sent = link.offer(durable[:2])
    sent += link.offload(request(1), expires_ms=50.0)
    sent += link.offer(durable)
    assert [action.purpose for action in sent if isinstance(action, Send)] == [
        "sample", "sample", "offload", "sample", "sample"
    ]  # fmt: skip


# Pictures.


def test_a_picture_goes_only_to_a_cloud_that_says_it_answers_such() -> None:
    link = opened()
    picture = dataclasses.replace(request(1), coding="webp")
    assert link.offload(picture, expires_ms=1e9) == [RequestFailed(1, "no-pictures")], "as every older cloud"
    assert link.num_pending == 0
    link.on_connected()
    link.on_bytes(encoded(Challenge(nonce=b"n" * NONCE_BYTES)))
    link.on_bytes(encoded(dataclasses.replace(WELCOME, takes=TAKES_PICTURES)))
    assert link.takes_pictures
    (sent,) = link.offload(dataclasses.replace(picture, request=2), expires_ms=1e9)
    assert isinstance(sent, Send)
    assert from_frame(decode_frame(sent.data)) == dataclasses.replace(picture, request=2)
    link.on_disconnected()
    assert not link.takes_pictures, "the next cloud says it anew"
