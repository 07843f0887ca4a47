"""Frames and messages: golden bytes, round trips, and that nothing damaged or oversized is taken."""

from __future__ import annotations

import dataclasses
import json
import struct
import typing
import zlib
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.errors import ProtocolError
from littoral.wire.envelope import (
    MAX_CODEC_BYTES,
    MAX_FRAME_BYTES,
    MAX_KEY_BYTES,
    SCHEMA,
    Frame,
    decode_frame,
    encode_frame,
    frame_type,
)
from littoral.wire.messages import (
    MAX_CODE_CHARS,
    MAX_CODING_CHARS,
    MAX_DEADLINE_MS,
    MAX_LABELS_BYTES,
    MAX_SPLIT,
    MAX_TEXT_CHARS,
    TAKES_LABELS,
    TAKES_PICTURES,
    Ack,
    Challenge,
    Credit,
    DurableMessage,
    Hello,
    Labels,
    Message,
    Offload,
    OffloadAnswer,
    Receipt,
    Refusal,
    Sample,
    Scene,
    Status,
    Version,
    Welcome,
    expect,
    from_frame,
    hello_message,
    to_frame,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "wire-messages.json"

EXAMPLES: list[Message] = [
    Challenge(nonce=bytes(range(32))),
    Hello(
        device_id="d-7",
        bundle_digest=b"\xab" * 32,
        highest_version=300,
        outbox_stream=2**62 + 5,
        signature=b"\x01" * 64,
    ),
    Welcome(acked_sequence=70_000, credit_bytes=1_048_576, envelope=b"{}", envelope_signature=b"\x02" * 64),
    Refusal(code="revoked", message="die Küste", retry_after_ms=0),
    Sample(frame_id=12, version=3, predicted=9, entropy_nats=0.625, coding="png", image=b"\x89PNG", scene=4),
    Receipt(version=3, outcome="rejected", code="probe", reason="81 % of the probe frames keep their label"),
    Status(version=3, frames=1000, selected=40, queued=2, dropped=1, statistics_resets=0),
    Ack(sequence=2**40),
    Credit(credit_bytes=0),
    Version(manifest=b'{"version":4}', signature=b"\x03" * 64, payload=b"LAD1"),
    Scene(scene=4, version=2, fingerprint=b"\x00\x38\x00\x3c"),
    Offload(request=1000, split=1, version=3, payload=b"\x4c\x10\xde\xad\xbe\xef\x20", deadline_ms=150),
    OffloadAnswer(request=1000, code="ok", message="", answer=b"A\x01" + bytes(8), queue_ms=0.5, compute_ms=6.25),
    Labels(labels=b"T\x01" + bytes(range(8)) + b"\x01\x07\x00\xff\xff"),
]
IDS = [type(message).__name__ for message in EXAMPLES]


def framed(message: Message) -> bytes:
    durable = isinstance(message, DurableMessage)
    return encode_frame(to_frame(message, stream=99 if durable else 0, sequence=5 if durable else 0))


def raw_frame(fields: list[object]) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


def fields_of(message: Message) -> list[object]:
    return typing.cast("list[object]", msgpack.unpackb(framed(message)))


# Golden bytes.


def test_every_message_has_an_example() -> None:
    assert {type(message) for message in EXAMPLES} == set(typing.get_args(Message))
    assert set(json.loads(GOLDEN.read_text())) == set(IDS)


@pytest.mark.parametrize("message", EXAMPLES, ids=IDS)
def test_golden_bytes_of_the_first_schema_never_change(message: Message) -> None:
    golden = bytes.fromhex(json.loads(GOLDEN.read_text())[type(message).__name__])
    assert framed(message) == golden
    assert from_frame(decode_frame(golden)) == message


def test_a_field_that_was_added_later_is_sent_only_where_it_says_something() -> None:
    status = typing.cast(Status, EXAMPLES[IDS.index("Status")])
    for later in (
        {"offloaded": 7},
        {"degraded": 2},
        {"offloaded": 7, "degraded": 2},
        {"early": 9, "exit_state": "serving"},
        {"finished": 5, "hedged": 1, "labels": 3, "asked": 2, "payload_bytes": 4096},
        {"pictures": 6},
        {"near_source": True},
    ):
        more = dataclasses.replace(status, **later)
        assert len(framed(more)) > len(framed(status))
        assert from_frame(decode_frame(framed(more))) == more


def test_the_counters_of_a_router_have_golden_bytes_too_and_an_older_side_passes_over_them() -> None:
    status = typing.cast(Status, EXAMPLES[IDS.index("Status")])
    routed = dataclasses.replace(
        status, offloaded=300, degraded=4, early=500, exit_state="serving", finished=200, hedged=9, labels=31,
        asked=27, payload_bytes=70_000,
    )  # fmt: skip
    golden = "9901070000c40000a0ce41228d9cc4229f03cd03e828020100cd012c04cd01f4a773657276696e67ccc8091f1bce00011170"
    assert framed(routed).hex() == golden
    older = msgpack.unpackb(typing.cast(bytes, fields_of(routed)[8]))[:10]
    assert older[8:] == [500, "serving"]
    assert from_frame(Frame(type=Status.TYPE, body=raw_frame(older))) == dataclasses.replace(
        routed, finished=0, hedged=0, labels=0, asked=0, payload_bytes=0
    )


def test_what_a_device_takes_costs_its_hello_no_byte_and_older_sides_do_not_see_it() -> None:
    hello = typing.cast(Hello, EXAMPLES[IDS.index("Hello")])
    taking = dataclasses.replace(hello, takes=TAKES_LABELS)
    plain, longer = framed(hello), framed(taking)
    assert len(longer) == len(plain)
    assert [a != b for a, b in zip(plain, longer, strict=True)].index(True) == 7, "element 5, the frame's deadline"
    assert sum(a != b for a, b in zip(plain, longer, strict=True)) == 1
    assert from_frame(decode_frame(longer)) == taking
    older = from_frame(dataclasses.replace(decode_frame(longer), deadline_ms=0))
    assert older == hello, "a side that does not look at it reads the same Hello"


def test_what_a_cloud_takes_costs_its_welcome_no_byte_and_older_sides_do_not_see_it() -> None:
    welcome = typing.cast(Welcome, EXAMPLES[IDS.index("Welcome")])
    taking = dataclasses.replace(welcome, takes=TAKES_PICTURES)
    plain, other = framed(welcome), framed(taking)
    assert sum(a != b for a, b in zip(plain, other, strict=True)) == 1, "element 5, the frame's deadline"
    assert from_frame(decode_frame(other)) == taking
    assert from_frame(dataclasses.replace(decode_frame(other), deadline_ms=0)) == welcome


def test_a_picture_says_how_it_is_coded_and_a_payload_has_the_bytes_that_it_had() -> None:
    payload = typing.cast(Offload, EXAMPLES[IDS.index("Offload")])
    picture = dataclasses.replace(payload, coding="webp")
    assert len(framed(picture)) == len(framed(payload)) + 5
    assert from_frame(decode_frame(framed(picture))) == picture
    older = msgpack.unpackb(typing.cast(bytes, fields_of(picture)[8]))
    assert older[:4] == msgpack.unpackb(typing.cast(bytes, fields_of(payload)[8])), "what an older side reads"
    with pytest.raises(ProtocolError, match=r"Offload\.coding is .*of at most 16"):
        from_frame(to_frame(dataclasses.replace(payload, coding="c" * 17)))


def test_bits_that_are_not_known_yet_are_read() -> None:
    hello = dataclasses.replace(typing.cast(Hello, EXAMPLES[IDS.index("Hello")]), takes=127)
    assert len(framed(hello)) == len(framed(dataclasses.replace(hello, takes=0)))
    assert from_frame(decode_frame(framed(hello))) == hello


def test_the_claim_that_a_device_signs_never_changes() -> None:
    assert hello_message(b"n" * 32, "d-7", b"\xab" * 32, 7).hex() == f"94c420{'6e' * 32}a3642d37c420{'ab' * 32}07"


# Round trips.

BYTES, COUNT, TEXT = st.binary(max_size=200), st.integers(0, 2**64 - 1), st.text(max_size=100)
BY_HINT = {
    bytes: BYTES,
    int: COUNT,
    bool: st.booleans(),
    str: TEXT,
    float: st.floats(allow_nan=False, allow_infinity=False),
}
NARROWER = {
    "split": st.integers(0, MAX_SPLIT),
    "deadline_ms": st.integers(1, MAX_DEADLINE_MS),
    "takes": st.integers(0, MAX_DEADLINE_MS),
    "code": st.text(max_size=MAX_CODE_CHARS),
    "coding": st.text(max_size=MAX_CODING_CHARS),
    "exit_state": st.text(max_size=MAX_CODE_CHARS),
    "queue_ms": st.floats(0, MAX_DEADLINE_MS),
    "compute_ms": st.floats(0, MAX_DEADLINE_MS),
}


def messages() -> st.SearchStrategy[Message]:
    kinds = []
    for kind in typing.get_args(Message):
        hints = typing.get_type_hints(kind)
        fields = {f.name: NARROWER.get(f.name, BY_HINT[hints[f.name]]) for f in dataclasses.fields(kind)}
        kinds.append(st.builds(kind, **fields))
    return st.one_of(kinds)


@settings(max_examples=60)
@given(messages(), COUNT, COUNT)
def test_a_message_comes_back_as_it_went(message: Message, stream: int, sequence: int) -> None:
    frame = decode_frame(encode_frame(to_frame(message, stream=stream, sequence=sequence)))
    assert (frame.stream, frame.sequence) == (stream, sequence)
    assert from_frame(frame) == message


@given(st.builds(
    Frame, type=st.integers(0, 255), stream=COUNT, sequence=COUNT, key=st.binary(max_size=MAX_KEY_BYTES),
    deadline_ms=st.integers(0, 3_600_000), codec=st.text(st.characters(max_codepoint=127), max_size=MAX_CODEC_BYTES),
    body=BYTES,
))  # fmt: skip
def test_a_frame_comes_back_as_it_went(frame: Frame) -> None:
    assert decode_frame(encode_frame(frame)) == frame


# Damage.


@pytest.mark.parametrize("message", EXAMPLES, ids=IDS)
def test_every_truncation_is_refused(message: Message) -> None:
    data = framed(message)
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_frame(data[:length])
    with pytest.raises(ProtocolError):
        decode_frame(data + b"\0")


@pytest.mark.parametrize("message", EXAMPLES, ids=IDS)
def test_a_flipped_bit_never_changes_what_a_message_says(message: Message) -> None:
    """A flip in the body is caught by the checksum; one in the head is refused or shows in the frame's own fields."""
    data = framed(message)
    good = decode_frame(data)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                frame = decode_frame(bytes(flipped))
            except ProtocolError:
                continue
            assert frame.body == good.body
            assert dataclasses.replace(frame, body=b"") != dataclasses.replace(good, body=b"")


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_frame_or_a_protocol_error(data: bytes) -> None:
    try:
        from_frame(decode_frame(data))
    except ProtocolError:
        return


@settings(max_examples=300)
@given(st.integers(0, 20), st.binary(max_size=200))
def test_any_body_is_a_message_or_a_protocol_error(kind: int, body: bytes) -> None:
    try:
        from_frame(Frame(type=kind, body=body))
    except ProtocolError:
        return


# What is to come, and what is not known.


@pytest.mark.parametrize("message", EXAMPLES, ids=IDS)
def test_trailing_fields_that_are_not_known_are_ignored(message: Message) -> None:
    fields = fields_of(message)
    later_fields: dict[type, list[object]] = {Status: [0, 0, 0, "", 0, 0, 0, 0, 0, 0, False], Offload: [""]}
    left_out = later_fields.get(type(message), [])  # they come before what is to come
    body = msgpack.packb([*msgpack.unpackb(typing.cast(bytes, fields[8])), *left_out, "new", 7])
    later = raw_frame([*fields[:7], zlib.crc32(body), body, {}, [3], "and this", b"and more of it"])
    assert from_frame(decode_frame(later)) == message


@pytest.mark.parametrize("kind", [0, 15, 255])
def test_a_type_that_is_not_known_is_refused(kind: int) -> None:
    with pytest.raises(ProtocolError, match="unknown type"):
        from_frame(decode_frame(encode_frame(Frame(type=kind, body=msgpack.packb([])))))


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, "1", None, True, 1.0], ids=repr)
def test_another_schema_is_refused(schema: object) -> None:
    with pytest.raises(ProtocolError, match="another schema"):
        decode_frame(raw_frame([schema, *fields_of(Ack(sequence=1))[1:]]))


# Fields out of range.

WRONG_FIELDS = [
    (1, -1), (1, 256), (1, True), (1, 1.0), (1, None),
    (2, -1), (2, b"x"),
    (3, -1), (3, 2**63 - 0.5),
    (4, "text"), (4, b"k" * (MAX_KEY_BYTES + 1)), (4, None),
    (5, -1), (5, 3_600_001),
    (6, b"bytes"), (6, "c" * (MAX_CODEC_BYTES + 1)),
    (7, 2**32), (7, -1), (7, 0),
    (8, "text"), (8, None), (8, []),
]  # fmt: skip


@pytest.mark.parametrize(("position", "value"), WRONG_FIELDS, ids=[f"{p}-{str(v)[:12]}" for p, v in WRONG_FIELDS])
def test_a_frames_field_out_of_range_is_refused(position: int, value: object) -> None:
    fields = fields_of(Ack(sequence=1))
    fields[position] = value
    with pytest.raises(ProtocolError):
        decode_frame(raw_frame(fields))


@pytest.mark.parametrize("data", [b"\xc0", b"\x01", b"\x90", b"\x98" + b"\x01" * 8, b"\x80", b"\xa1x"], ids=bytes.hex)
def test_what_is_not_an_array_of_nine_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_frame(data)


@pytest.mark.parametrize("message", EXAMPLES, ids=IDS)
def test_every_field_of_another_type_or_missing_is_refused(message: Message) -> None:
    frame = to_frame(message)
    values = msgpack.unpackb(frame.body)
    for position in range(len(values)):
        for wrong in (None, True, -1, 2**64 - 1, 1.5, float("nan"), float("inf"), "text", b"bytes", []):
            if type(wrong) is type(values[position]) and wrong not in (-1,) and not isinstance(wrong, float):
                continue
            if wrong == 1.5 and isinstance(values[position], float):
                continue
            body = msgpack.packb([*values[:position], wrong, *values[position + 1 :]])
            with pytest.raises(ProtocolError):
                from_frame(dataclasses.replace(frame, body=body))
    with pytest.raises(ProtocolError, match="fields"):
        from_frame(dataclasses.replace(frame, body=msgpack.packb(values[:-1])))


# Limits.


def test_a_frame_over_the_limit_is_neither_made_nor_read() -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        encode_frame(Frame(type=5, body=bytes(MAX_FRAME_BYTES)))
    with pytest.raises(ProtocolError, match="at most"):
        decode_frame(bytes(MAX_FRAME_BYTES + 1))


def test_the_largest_frame_goes_through() -> None:
    body = bytes(MAX_FRAME_BYTES - 40)
    assert decode_frame(encode_frame(Frame(type=5, body=body))).body == body


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"\xdd" + struct.pack(">I", 2**32 - 1), id="array-of-4-billion"),
        pytest.param(b"\xdf" + struct.pack(">I", 2**32 - 1), id="map-of-4-billion"),
        pytest.param(b"\xc6" + struct.pack(">I", 2**32 - 1), id="bytes-of-4-GB"),
        pytest.param(b"\xdb" + struct.pack(">I", 2**32 - 1), id="text-of-4-GB"),
        pytest.param(b"\xc9" + struct.pack(">I", 2**32 - 1) + b"\x01", id="extension-of-4-GB"),
        pytest.param(b"\x91" * 100_000, id="deep-arrays"),
        pytest.param(b"\xc1" * 100, id="never-used-byte"),
    ],
)
def test_a_length_that_lies_allocates_nothing(head: bytes) -> None:
    for data in (head, b"\x99\x01" + head, head + bytes(1000)):
        with pytest.raises(ProtocolError):
            decode_frame(data)
        with pytest.raises(ProtocolError):
            from_frame(Frame(type=8, body=data))


def test_a_text_over_the_limit_is_refused() -> None:
    frame = to_frame(Refusal(code="busy", message="x" * 3000, retry_after_ms=1))
    with pytest.raises(ProtocolError):
        from_frame(decode_frame(encode_frame(frame)))


def test_the_message_that_must_come_now() -> None:
    ack = Ack(sequence=1)
    assert expect(ack, Ack) is ack
    with pytest.raises(ProtocolError, match="a Ack came where a Credit was expected"):
        expect(ack, Credit)


# Requests.


REQUEST = next(message for message in EXAMPLES if isinstance(message, Offload))
ANSWER = next(message for message in EXAMPLES if isinstance(message, OffloadAnswer))


@pytest.mark.parametrize("deadline_ms", [1, MAX_DEADLINE_MS])
def test_the_frame_carries_a_requests_deadline_and_the_body_does_not(deadline_ms: int) -> None:
    frame = to_frame(dataclasses.replace(REQUEST, deadline_ms=deadline_ms))
    assert frame.deadline_ms == deadline_ms
    assert frame.body == to_frame(REQUEST).body
    assert from_frame(frame) == dataclasses.replace(REQUEST, deadline_ms=deadline_ms)


def test_a_request_without_a_deadline_is_refused() -> None:
    with pytest.raises(ProtocolError, match="0 ms of time came, expected 1 to"):
        from_frame(dataclasses.replace(to_frame(REQUEST), deadline_ms=0))


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (REQUEST, {"split": MAX_SPLIT + 1}),
        (ANSWER, {"code": "x" * (MAX_CODE_CHARS + 1)}),
        (ANSWER, {"message": "x" * (MAX_TEXT_CHARS + 1)}),
        (ANSWER, {"queue_ms": -0.5}),
        (ANSWER, {"compute_ms": 1e300}),
        (Labels(labels=b""), {"labels": bytes(MAX_LABELS_BYTES + 1)}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_field_over_its_limit_is_refused(message: Message, change: dict[str, object]) -> None:
    (name,) = change
    with pytest.raises(ProtocolError, match=name):
        from_frame(to_frame(dataclasses.replace(message, **change)))  # type: ignore[arg-type]


def test_a_code_that_is_not_known_yet_is_read() -> None:
    later = dataclasses.replace(ANSWER, code="try-another-region", answer=b"")
    assert from_frame(to_frame(later)) == later


@pytest.mark.parametrize("kind", [0, 1, 24, 127, 128, 200, 255])
def test_a_frames_type_is_read_without_the_rest_of_it(kind: int) -> None:
    data = encode_frame(Frame(type=kind, stream=2**63, sequence=7, body=b"x" * 300))
    assert frame_type(data) == decode_frame(data).type == kind
