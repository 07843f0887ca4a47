"""The device's end of a session under thousands of fault schedules, without a socket, a clock or a sleep."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littoral.errors import LinkRefused, ProtocolError
from littoral.wire.envelope import decode_frame, encode_frame
from littoral.wire.link import AckedUpTo, Backoff, Close, DeviceLink, GotLabels, GotVersion, Opened, Send
from littoral.wire.messages import (
    NONCE_BYTES,
    TAKES_LABELS,
    Ack,
    Challenge,
    Credit,
    Hello,
    Labels,
    Message,
    Refusal,
    Sample,
    Status,
    Version,
    Welcome,
    from_frame,
    hello_message,
    to_frame,
)

STREAM = 77
WELCOME = Welcome(acked_sequence=0, credit_bytes=10_000, envelope=b"e", envelope_signature=b"s")


def encoded(message: Message, *, sequence: int | None = None) -> bytes:
    if sequence is None:
        return encode_frame(to_frame(message))
    return encode_frame(to_frame(message, stream=STREAM, sequence=sequence))


def sample(frame_id: int) -> Sample:
    return Sample(frame_id=frame_id, version=0, predicted=0, entropy_nats=0.5, coding="raw", image=b"x" * 20, scene=0)


def make_link(takes: int = 0) -> DeviceLink:
    return DeviceLink(
        device_id="d-1",
        bundle_digest=b"b" * 32,
        outbox_stream=STREAM,
        highest_version=lambda: 4,
        sign=lambda data: data,
        takes=takes,
    )


def opened(welcome: Welcome = WELCOME, *, takes: int = 0) -> DeviceLink:
    link = make_link(takes)
    link.on_connected()
    link.on_bytes(encoded(Challenge(nonce=b"n" * NONCE_BYTES)))
    link.on_bytes(encoded(welcome))
    assert link.state == "open"
    return link


# One session.


def test_the_hello_answers_the_challenge_and_is_signed() -> None:
    link = make_link()
    assert link.on_connected() == []
    (action,) = link.on_bytes(encoded(Challenge(nonce=b"n" * NONCE_BYTES)))
    assert isinstance(action, Send)
    hello = from_frame(decode_frame(action.data))
    assert hello == Hello(
        device_id="d-1",
        bundle_digest=b"b" * 32,
        highest_version=4,
        outbox_stream=STREAM,
        signature=hello_message(b"n" * NONCE_BYTES, "d-1", b"b" * 32, STREAM),
    )
    assert link.state == "waiting-welcome"


def test_nothing_is_sent_before_the_welcome() -> None:
    link = make_link()
    durable = [(1, encoded(sample(1), sequence=1))]
    status = Status(version=0, frames=0, selected=0, queued=0, dropped=0, statistics_resets=0)
    for advance in (link.on_connected, lambda: link.on_bytes(encoded(Challenge(nonce=b"n" * NONCE_BYTES)))):
        assert (link.credit_left_bytes, link.offer(durable), link.report(status)) == (0, [], [])
        advance()
    assert (link.credit_left_bytes, link.offer(durable), link.report(status)) == (0, [], [])
    assert link.on_bytes(encoded(WELCOME)) == [Opened(WELCOME), AckedUpTo(0)]
    assert link.offer(durable) == [Send(durable[0][1], "sample")]


def test_sending_resumes_after_what_the_welcome_says_is_committed() -> None:
    link = opened(Welcome(acked_sequence=5, credit_bytes=10_000, envelope=b"", envelope_signature=b""))
    assert link.sent_sequence == 5
    durable = [(i, encoded(sample(i), sequence=i)) for i in (4, 5, 6, 7)]
    assert [action.data for action in link.offer(durable) if isinstance(action, Send)] == [durable[2][1], durable[3][1]]
    assert link.offer(durable) == [], "a session sends a message once"


def test_a_gap_is_the_outboxs_mistake() -> None:
    with pytest.raises(ValueError, match="never skips"):
        opened().offer([(2, encoded(sample(2), sequence=2))])


def test_credit_bounds_what_is_in_flight_and_zero_means_hold() -> None:
    durable = [(i, encoded(sample(i), sequence=i)) for i in range(1, 10)]
    size = len(durable[0][1])
    link = opened(Welcome(acked_sequence=0, credit_bytes=2 * size + 1, envelope=b"", envelope_signature=b""))
    assert len(link.offer(durable)) == 3, "the last one may overdraw"
    assert link.credit_left_bytes == 0
    link.on_bytes(encoded(Ack(sequence=2)))
    assert link.in_flight_bytes == size
    assert len(link.offer(durable)) == 2
    link.on_bytes(encoded(Credit(credit_bytes=0)))
    link.on_bytes(encoded(Ack(sequence=5)))
    assert link.offer(durable) == []
    link.on_bytes(encoded(Credit(credit_bytes=1)))
    assert len(link.offer(durable)) == 1


def test_acks_are_cumulative_and_late_ones_change_nothing() -> None:
    link = opened()
    link.offer([(i, encoded(sample(i), sequence=i)) for i in range(1, 6)])
    assert link.on_bytes(encoded(Ack(sequence=3))) == [AckedUpTo(3)]
    assert link.on_bytes(encoded(Ack(sequence=3))) == []
    assert link.on_bytes(encoded(Ack(sequence=1))) == []
    assert link.on_bytes(encoded(Ack(sequence=5))) == [AckedUpTo(5)]
    assert link.in_flight_bytes == 0


def test_an_ack_of_what_was_not_sent_ends_the_session() -> None:
    (action,) = opened().on_bytes(encoded(Ack(sequence=1)))
    assert isinstance(action, Close)
    assert isinstance(action.error, ProtocolError)


def test_a_version_is_handed_over_as_it_came() -> None:
    version = Version(manifest=b"m", signature=b"s", payload=b"p")
    assert opened().on_bytes(encoded(version)) == [GotVersion(version)]


# Labels.

LABELS = Labels(labels=b"T\x01")


def test_labels_are_handed_over_as_they_came_to_a_device_that_said_it_takes_them() -> None:
    link = opened(takes=TAKES_LABELS)
    assert link.on_bytes(encoded(LABELS)) == [GotLabels(b"T\x01")]
    assert (link.state, link.ignored_labels) == ("open", 0)


def test_labels_that_nobody_takes_are_counted_and_end_nothing() -> None:
    link = opened()
    assert link.on_bytes(encoded(LABELS)) == []
    assert (link.state, link.ignored_labels) == ("open", 1)


def test_a_session_sends_the_same_number_of_bytes_with_labels_and_without() -> None:
    """To the byte, message by message: what a device takes is said in a byte that every Hello has."""
    sent: list[list[int]] = []
    for takes in (0, TAKES_LABELS):
        link = make_link(takes)
        link.on_connected()
        actions = link.on_bytes(encoded(Challenge(nonce=b"n" * NONCE_BYTES)))
        link.on_bytes(encoded(WELCOME))
        for sequence in range(1, 9):
            actions += link.offer([(sequence, encoded(sample(sequence), sequence=sequence))])
            link.on_bytes(encoded(LABELS))
            link.on_bytes(encoded(Ack(sequence=sequence)))
        sent.append([len(action.data) for action in actions if isinstance(action, Send)])
        assert link.state == "open"
    assert len(sent[0]) == 9
    assert sent[0] == sent[1]


@pytest.mark.parametrize("state", ["waiting-challenge", "waiting-welcome", "open"])
def test_a_refusal_closes_in_any_state_and_says_when_to_try_again(state: str) -> None:
    link = make_link()
    link.on_connected()
    if state != "waiting-challenge":
        link.on_bytes(encoded(Challenge(nonce=b"n" * NONCE_BYTES)))
    if state == "open":
        link.on_bytes(encoded(WELCOME))
    (action,) = link.on_bytes(encoded(Refusal(code="busy", message="later", retry_after_ms=1500)))
    assert isinstance(action, Close)
    assert isinstance(action.error, LinkRefused)
    assert (action.error.code, action.retry_after_ms, link.state) == ("busy", 1500, "closed")


def test_a_refusal_writes_no_lines_of_its_own_into_a_log_and_nothing_on_a_terminal() -> None:
    link = make_link()
    link.on_connected()
    said = "caf\u00e9 \u2026\n2026-12-01 INFO all is well\x1b[2J\x9b2J\u202e"
    (action,) = link.on_bytes(encoded(Refusal(code="busy", message=said, retry_after_ms=1)))
    assert isinstance(action, Close)
    assert str(action.error).isprintable()
    assert "caf\u00e9 \u2026\ufffd2026-12-01 INFO all is well\ufffd[2J\ufffd2J\ufffd" in str(action.error)


@pytest.mark.parametrize("state", ["waiting-challenge", "waiting-welcome", "open"])
@pytest.mark.parametrize(
    "message",
    [
        Challenge(nonce=b"n" * NONCE_BYTES),
        Challenge(nonce=b"short"),
        WELCOME,
        Ack(sequence=0),
        Version(manifest=b"", signature=b"", payload=b""),
        Hello(device_id="", bundle_digest=b"", highest_version=0, outbox_stream=0, signature=b""),
        sample(1),
        LABELS,
    ],
    ids=["challenge", "short-challenge", "welcome", "ack", "version", "hello", "sample", "labels"],
)
def test_a_message_out_of_turn_ends_the_session(state: str, message: Message) -> None:
    in_session = ["Ack", "Version", "Labels"]
    allowed = {"waiting-challenge": ["Challenge"], "waiting-welcome": ["Welcome"], "open": in_session}[state]
    if type(message).__name__ in allowed and message != Challenge(nonce=b"short"):
        return
    link = make_link()
    link.on_connected()
    if state != "waiting-challenge":
        link.on_bytes(encoded(Challenge(nonce=b"n" * NONCE_BYTES)))
    if state == "open":
        link.on_bytes(encoded(WELCOME))
    assert link.state == state
    (action,) = link.on_bytes(encoded(message))
    assert isinstance(action, Close)
    assert link.state == "closed"
    assert link.on_bytes(encoded(WELCOME)) == [], "a closed link hears nothing"


@given(st.binary(max_size=300))
def test_any_bytes_are_an_action_and_never_an_exception(data: bytes) -> None:
    for link in (make_link(), opened()):
        if link.state == "closed":
            link.on_connected()
        assert all(isinstance(action, Close) for action in link.on_bytes(data))


# Back-off.


def test_waits_are_jittered_and_grow_to_their_limit() -> None:
    backoff = Backoff(rng=random.Random(0), first_s=1.0, longest_s=60.0)
    waits = [backoff.next_wait_s() for _ in range(200)]
    for n, wait in enumerate(waits):
        assert wait is not None
        assert 0 <= wait <= min(60.0, 2.0**n)
    assert max(waits) > 50  # type: ignore[type-var]
    assert min(waits[20:]) < 5  # type: ignore[type-var]


def test_a_fleet_does_not_come_back_together() -> None:
    waits = sorted(Backoff(rng=random.Random(i), first_s=60.0).next_wait_s() or 0.0 for i in range(200))
    assert max(b - a for a, b in itertools.pairwise(waits)) < 5.0


def test_what_the_cloud_asks_for_is_waited_in_full_and_zero_means_stop() -> None:
    backoff = Backoff(rng=random.Random(0), first_s=1.0)
    wait = backoff.next_wait_s(30_000)
    assert wait is not None
    assert 30.0 <= wait <= 31.0
    assert backoff.next_wait_s(0) is None


@pytest.mark.parametrize("asked_ms", [2**31, 2**53, 2**64 - 1])
def test_no_cloud_sends_a_device_away_for_longer_than_an_hour(asked_ms: int) -> None:
    wait = Backoff(rng=random.Random(0), first_s=1.0).next_wait_s(asked_ms)
    assert wait is not None
    assert 3600.0 <= wait <= 3601.0


def test_a_session_makes_the_next_wait_short_again() -> None:
    backoff = Backoff(rng=random.Random(0), first_s=1.0)
    for _ in range(20):
        backoff.next_wait_s()
    backoff.reset()
    assert (backoff.next_wait_s() or 0.0) <= 1.0


def test_a_backoff_without_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="first_s"):
        Backoff(rng=random.Random(0), first_s=0.0)
