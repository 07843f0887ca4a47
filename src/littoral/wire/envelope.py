"""One frame on the wire: a msgpack array around a message's body.

    [schema, type, stream, sequence, key, deadline_ms, codec, crc32, body]

``stream`` 0 is control; any other value is the random number of a device's outbox, and (device, stream, sequence) names
a durable message for ever. Trailing fields that this version does not know are ignored; an unknown type is refused.
Every limit is checked before anything is allocated for the body.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import msgpack

from littoral.errors import ProtocolError

SCHEMA = 1
MAX_FRAME_BYTES = 1_048_576
"""The largest frame either side reads: a 512 x 512 RGB image as PNG fits."""
MAX_KEY_BYTES = 32
MAX_CODEC_BYTES = 16
CONTROL_STREAM = 0
_UINT64 = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A decoded wire frame; ``body`` is still the message's own msgpack bytes."""

    type: int
    stream: int = CONTROL_STREAM
    sequence: int = 0
    key: bytes = b""
    deadline_ms: int = 0
    codec: str = ""
    body: bytes = b""


def encode_frame(frame: Frame) -> bytes:
    """The bytes of a frame.

    Raises:
        ProtocolError: it would be larger than a peer reads.
    """
    data: bytes = msgpack.packb(
        [
            SCHEMA,
            frame.type,
            frame.stream,
            frame.sequence,
            frame.key,
            frame.deadline_ms,
            frame.codec,
            zlib.crc32(frame.body),
            frame.body,
        ]
    )
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(
            f"a frame of {len(data)} bytes is over the limit of {MAX_FRAME_BYTES}; send it as an artefact"
        )
    return data


def frame_type(data: bytes) -> int:
    """The type of a frame that `encode_frame` made: after a byte of array and one of schema, in msgpack's shortest."""
    return data[2] if data[2] < 0x80 else data[3]


def decode_frame(data: bytes) -> Frame:
    """Parse a frame from an untrusted peer.

    Raises:
        ProtocolError: too large, not a frame of this schema, a field out of range, or a checksum that does not match.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(data)} bytes came, at most {MAX_FRAME_BYTES} are read")
    try:
        fields = msgpack.unpackb(
            data,
            max_bin_len=MAX_FRAME_BYTES,
            max_str_len=MAX_CODEC_BYTES,
            max_array_len=32,
            max_map_len=0,
            max_ext_len=0,
            strict_map_key=True,
        )
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"a frame that is not msgpack came: {error}") from error
    if not isinstance(fields, list) or len(fields) < 9 or type(fields[0]) is not int or fields[0] != SCHEMA:
        raise ProtocolError("a frame of another schema came; this side speaks schema 1: update the older of the two")
    kind, stream, sequence, key, deadline_ms, codec, crc, body = fields[1:9]
    for name, value, top in (
        ("type", kind, 255),
        ("stream", stream, _UINT64),
        ("sequence", sequence, _UINT64),
        ("deadline_ms", deadline_ms, 3_600_000),
        ("crc32", crc, 2**32 - 1),
    ):
        if type(value) is not int or not 0 <= value <= top:
            raise ProtocolError(f"a frame's {name} is {value!r:.40}, expected an integer from 0 to {top}")
    if (
        not isinstance(key, bytes)
        or len(key) > MAX_KEY_BYTES
        or not isinstance(codec, str)
        or not isinstance(body, bytes)
    ):
        raise ProtocolError("a frame's key, codec or body has the wrong type or length")
    if zlib.crc32(body) != crc:
        raise ProtocolError("a frame's checksum does not match; it was damaged on the way")
    return Frame(type=kind, stream=stream, sequence=sequence, key=key, deadline_ms=deadline_ms, codec=codec, body=body)
