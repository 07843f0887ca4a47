"""The messages, each a frozen dataclass and a msgpack array of its fields in order.

    cloud -> device   Challenge  Welcome  Refusal  Ack  Credit  Version  OffloadAnswer  Labels
    device -> cloud   Hello  Status  Offload   and, durable, by way of the outbox:   Sample  Receipt  Scene

A session: the cloud sends Challenge; the device answers Hello, signed with its device key; the cloud answers Welcome or
Refusal. Then the device sends durable messages in order while its bytes in flight are below the credit, the cloud
acknowledges cumulatively *after* its commit is synced, and sends Version whenever there is one newer than the device
has. An Offload goes at any time, needs no credit, is kept by neither side, and is answered by one OffloadAnswer. Labels
come when the teacher has answered samples, to a device whose Hello says that it takes them.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import msgpack

from littoral.errors import ProtocolError
from littoral.wire.envelope import CONTROL_STREAM, MAX_FRAME_BYTES, Frame

HELLO_PURPOSE = "hello"
NONCE_BYTES = 32
MAX_TEXT_CHARS = 512
MAX_CODE_CHARS = 32
MAX_SPLIT = 255
MAX_DEADLINE_MS = 3_600_000
MAX_LABELS_BYTES = 4_096
MAX_CODING_CHARS = 16
TAKES_LABELS = 1
"""Bit of `Hello.takes`: the device reads `Labels`."""
TAKES_PICTURES = 1
"""Bit of `Welcome.takes`: the cloud answers an `Offload` whose payload is a picture."""


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """The first message of a session: a fresh nonce to sign."""

    TYPE: ClassVar[int] = 1
    nonce: bytes


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The device names itself. ``signature`` covers `hello_message` under the device key.

    ``highest_version`` is the highest affine version that the device has seen, so the cloud sends only newer ones.
    ``outbox_stream`` is the stream of its durable messages. ``takes`` has a bit for each kind of message that this
    device reads and an older one does not (`TAKES_LABELS`); bits that are not known are passed over. The frame carries
    it in a byte that every Hello has, so saying it costs nothing: an older device says 0, an older cloud does not look.
    """

    TYPE: ClassVar[int] = 2
    device_id: str
    bundle_digest: bytes
    highest_version: int
    outbox_stream: int
    signature: bytes
    takes: int = 0


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """The session is open. ``acked_sequence`` is the last sequence of the device's outbox stream that is committed.

    ``envelope`` and its signature tell the device who may sign versions and how far they may go
    (`littoral.bundle.update.Envelope`); ``credit_bytes`` is how many unacknowledged bytes may be in flight, 0 to hold.
    ``takes`` has a bit for what this cloud answers and an older one does not (`TAKES_PICTURES`); as in the Hello it is
    in the frame, where every Welcome has a byte, an older cloud says 0, and an older device does not look.
    """

    TYPE: ClassVar[int] = 3
    acked_sequence: int
    credit_bytes: int
    envelope: bytes
    envelope_signature: bytes
    takes: int = 0


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The cloud says no and why (`littoral.errors.LinkRefused.code`); the session ends.

    ``retry_after_ms`` 0 means: do not try again by yourself, a person must act.
    """

    TYPE: ClassVar[int] = 4
    code: str
    message: str
    retry_after_ms: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Durable. A frame that the device chose for the teacher; ``image`` is coded as ``coding`` says: ``png``, ``raw``,
    ``webp`` or ``jpeg``.

    ``predicted`` is the class that the device answered, ``version`` the affine version it answered with, ``scene`` the
    number of the `Scene` that it belongs to, 0 before the first.
    """

    TYPE: ClassVar[int] = 5
    frame_id: int
    version: int
    predicted: int
    entropy_nats: float
    coding: str
    image: bytes
    scene: int


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Durable. What became of a version, and why: ``installed``, ``rejected``, ``reverted``, ``recalled`` or
    ``remembered``."""

    TYPE: ClassVar[int] = 6
    version: int
    outcome: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """Not durable: the device's counters, for people to look at. Lost ones do not matter."""

    TYPE: ClassVar[int] = 7
    version: int
    frames: int
    selected: int
    queued: int
    dropped: int
    statistics_resets: int
    # Added one after another, in this order; a device that does not say them has none.
    offloaded: int = 0
    """Frames that the cloud answered in time."""
    degraded: int = 0
    """Frames that the device answered although the cloud was to."""
    early: int = 0
    """Frames that left at an early exit."""
    exit_state: str = ""
    """``checking`` while no frame may leave early, ``serving``; "" from a device without exits."""
    finished: int = 0
    """Frames that the device answered after the whole network; this and the next ones are of a router."""
    hedged: int = 0
    """Frames with which the device went on while the cloud was asked."""
    labels: int = 0
    """Answers of the cloud that came as labels only."""
    asked: int = 0
    """Requests behind an answer that was given already: audits and pings."""
    payload_bytes: int = 0
    """Of all requests."""
    pictures: int = 0
    """Of the frames that the cloud answered those that it answered from a picture."""
    near_source: bool = False
    """The world is so near the source's that its values serve, whatever is installed (version 0)."""


@dataclass(frozen=True, kw_only=True)
class Ack:
    """Every durable message of the device's stream up to and including ``sequence`` is committed and synced."""

    TYPE: ClassVar[int] = 8
    sequence: int


@dataclass(frozen=True, kw_only=True)
class Credit:
    """How many unacknowledged bytes may be in flight from now on; 0 to hold."""

    TYPE: ClassVar[int] = 9
    credit_bytes: int


@dataclass(frozen=True, kw_only=True)
class Version:
    """A signed affine version (`littoral.bundle.update.SignedVersion`)."""

    TYPE: ClassVar[int] = 10
    manifest: bytes
    signature: bytes
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Durable. The device's world changed: from here on its samples are of ``scene``, which counts from 1.

    ``fingerprint`` is what the fingerprint's layer sees (`littoral.core.recall.encode_fingerprint`), ``version`` the
    affine version in service, a remembered one if the device has been in such a world before.
    """

    TYPE: ClassVar[int] = 11
    scene: int
    version: int
    fingerprint: bytes


@dataclass(frozen=True, kw_only=True)
class Offload:
    """Interactive. The device asks the cloud to finish a frame; ``payload`` is what its encoder made of it.

    ``request`` names it in this session, ``split`` is the split point's number in the bundle, ``version`` the affine
    version that the segments before it ran with. ``deadline_ms`` is the frame's, not the body's: the milliseconds from
    the moment the message has arrived by which the cloud must have sent its answer; 1 at least. Where ``coding`` is not
    empty the payload is a picture of the frame, coded like a `Sample`'s image, for the cloud's teacher; ``split`` says
    nothing then. Only to a cloud whose Welcome says that it takes pictures: an older one would not look at ``coding``.
    """

    TYPE: ClassVar[int] = 12
    request: int
    split: int
    version: int
    payload: bytes
    deadline_ms: int
    coding: str = ""


@dataclass(frozen=True, kw_only=True)
class OffloadAnswer:
    """What became of an Offload.

    ``code`` is ``ok`` or says why there is no answer: `OFFLOAD_CODES`. A reader takes one that it does not know for
    ``failed``. ``answer`` is what `littoral.core.answers` writes, empty unless ``ok``; ``message`` is for people, empty
    if ``ok``. ``queue_ms`` and ``compute_ms`` are what the request spent waiting and in its batch.
    """

    TYPE: ClassVar[int] = 13
    request: int
    code: str
    message: str
    answer: bytes
    queue_ms: float
    compute_ms: float


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the teacher answered to samples that the device uploaded: what `littoral.core.sample_labels` writes.

    Kept by neither side, sent at most once, and only to a device that takes it.
    """

    TYPE: ClassVar[int] = 14
    labels: bytes


OFFLOAD_CODES = ("ok", "overloaded", "late", "damaged", "too-large", "other-tables", "unknown-split", "failed")

Message = (
    Challenge
    | Hello
    | Welcome
    | Refusal
    | Sample
    | Receipt
    | Status
    | Ack
    | Credit
    | Version
    | Scene
    | Offload
    | OffloadAnswer
    | Labels
)
DurableMessage = Sample | Receipt | Scene

_BY_TYPE: dict[int, type[Message]] = {kind.TYPE: kind for kind in typing.get_args(Message)}
_FIELDS: dict[type[Message], list[tuple[str, type]]] = {
    kind: [(f.name, typing.get_type_hints(kind)[f.name]) for f in dataclasses.fields(kind)]
    for kind in _BY_TYPE.values()
}
_IN_FRAME: dict[type[Message], str] = {Offload: "deadline_ms", Hello: "takes", Welcome: "takes"}
"""The one field of a message that the frame carries, as its ``deadline_ms``, and not the body."""
_BODY_FIELDS = {
    kind: [field for field in fields if field[0] != _IN_FRAME.get(kind)] for kind, fields in _FIELDS.items()
}
_DEFAULTS: dict[type[Message], list[object]] = {
    kind: [
        each.default
        for each in dataclasses.fields(kind)
        if each.name != _IN_FRAME.get(kind) and each.default is not dataclasses.MISSING
    ]
    for kind in _BY_TYPE.values()
}
"""Of a body's last fields, which were added later: an older side leaves them out, and so do we where we can."""
_TOP: dict[tuple[type[Message], str], int] = {
    (Offload, "split"): MAX_SPLIT,
    (Offload, "coding"): MAX_CODING_CHARS,
    (Status, "exit_state"): MAX_CODE_CHARS,
    (OffloadAnswer, "code"): MAX_CODE_CHARS,
    (OffloadAnswer, "message"): MAX_TEXT_CHARS,
    (OffloadAnswer, "queue_ms"): MAX_DEADLINE_MS,
    (OffloadAnswer, "compute_ms"): MAX_DEADLINE_MS,
    (Labels, "labels"): MAX_LABELS_BYTES,
}
"""The most that a number may be, a text have of characters, and bytes be long; numbers of these are not below 0
either."""

M = TypeVar("M", bound=Message)


def hello_message(nonce: bytes, device_id: str, bundle_digest: bytes, outbox_stream: int) -> bytes:
    """What the device signs: the nonce and what it claims to be."""
    packed: bytes = msgpack.packb([nonce, device_id, bundle_digest, outbox_stream])
    return packed


def to_frame(message: Message, *, stream: int = CONTROL_STREAM, sequence: int = 0) -> Frame:
    """Wrap a message for the wire. A durable message takes its outbox's stream and its sequence there."""
    in_frame = _IN_FRAME.get(type(message), "")
    values = [getattr(message, name) for name, _ in _BODY_FIELDS[type(message)]]
    later = list(_DEFAULTS[type(message)])
    while later and values[-1] == later.pop():
        values.pop()
    body: bytes = msgpack.packb(values)
    deadline_ms = getattr(message, in_frame) if in_frame else 0
    return Frame(type=message.TYPE, stream=stream, sequence=sequence, deadline_ms=deadline_ms, body=body)


def from_frame(frame: Frame) -> Message:
    """Parse a frame's body; the dataclass's annotations are the schema, trailing unknown fields are ignored.

    Raises:
        ProtocolError: an unknown type, or a field that is missing, of the wrong type, or out of range.
    """
    kind = _BY_TYPE.get(frame.type)
    if kind is None:
        raise ProtocolError(f"a message of the unknown type {frame.type} came; update the older of the two sides")
    try:
        values = msgpack.unpackb(
            frame.body,
            max_bin_len=MAX_FRAME_BYTES,
            max_str_len=4 * MAX_TEXT_CHARS,
            max_array_len=32,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"a {kind.__name__} that is not msgpack came: {error}") from error
    fields = _BODY_FIELDS[kind]
    num_needed = len(fields) - len(_DEFAULTS[kind])
    if not isinstance(values, list) or len(values) < num_needed:
        raise ProtocolError(f"a {kind.__name__} should have {num_needed} fields or more")
    for (name, expected), value in zip(fields, values, strict=False):
        good = type(value) is expected
        if isinstance(value, int):
            good = good and 0 <= value < 2**64
        elif isinstance(value, float):
            good = good and math.isfinite(value)
        top = _TOP.get((kind, name))
        size = len(value) if isinstance(value, str | bytes) else value
        if not good or (top is not None and not 0 <= size <= top):
            raise ProtocolError(
                f"{kind.__name__}.{name} is {value!r:.40}, expected {expected.__name__}"
                + ("" if top is None else f" of at most {top}")
            )
    known = {name: value for (name, _), value in zip(fields, values, strict=False)}
    if kind is Hello or kind is Welcome:
        known["takes"] = frame.deadline_ms
    if kind is not Offload:
        return kind(**known)
    if not 1 <= frame.deadline_ms <= MAX_DEADLINE_MS:
        raise ProtocolError(f"an Offload with {frame.deadline_ms} ms of time came, expected 1 to {MAX_DEADLINE_MS}")
    return Offload(**known, deadline_ms=frame.deadline_ms)


def expect(message: Message, kind: type[M]) -> M:
    """The message as the kind that must come now.

    Raises:
        ProtocolError: it is another one.
    """
    if not isinstance(message, kind):
        raise ProtocolError(f"a {type(message).__name__} came where a {kind.__name__} was expected")
    return message
