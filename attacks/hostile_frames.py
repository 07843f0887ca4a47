# ruff: noqa: T201 -- a script that shows what it does
"""Bytes on the wire that must be refused by whoever reads them, without much memory or an exception of another kind."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable

import msgpack

from littoral.errors import ProtocolError
from littoral.wire.envelope import MAX_FRAME_BYTES, Frame, decode_frame, encode_frame
from littoral.wire.link import Close, DeviceLink
from littoral.wire.messages import NONCE_BYTES, Ack, Challenge, Offload, Sample, Version, Welcome, from_frame, to_frame

MAX_MEMORY_BYTES = 8 * MAX_FRAME_BYTES
"""What reading one frame may take at most, whatever is in it."""


def _frame(kind: int, body: bytes, /, **changes: object) -> bytes:
    """A frame whose checksum is right and whose other fields are the attacker's."""
    fields = {
        "schema": 1, "type": kind, "stream": 0, "sequence": 0, "key": b"", "deadline_ms": 0, "codec": "",
        "crc": zlib.crc32(body), "body": body, **changes,
    }  # fmt: skip
    data: bytes = msgpack.packb(list(fields.values()))
    return data


def _huge(code: int) -> bytes:
    return bytes([code]) + struct.pack(">I", 2**32 - 1)


SAMPLE = to_frame(
    Sample(frame_id=1, version=0, predicted=0, entropy_nats=0.5, coding="raw", image=bytes(100), scene=0),
    stream=7,
    sequence=1,
)

FRAMES: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(1000),
    "larger than a frame may be": bytes(MAX_FRAME_BYTES + 1),
    "text of a browser": b"GET / HTTP/1.1\r\n\r\n",
    "array that claims four billion items": _huge(0xDD),
    "map that claims four billion items": _huge(0xDF),
    "bytes that claim four gigabytes": b"\x99\x01\x05" + _huge(0xC6),
    "text that claims four gigabytes": b"\x99\x01\x05" + _huge(0xDB),
    "arrays a hundred thousand deep": b"\x91" * 100_000,
    "a million empty arrays": b"\xdc\xff\xff" + b"\x90" * 65_535,
    "a map with a hostile key": b"\x81\x91\xc0\xc0",
    "an extension type": b"\x99\x01\xc7\x04\x01abcd" + b"\xc0" * 7,
    "a timestamp": b"\x99" + b"\xd6\xff\x00\x00\x00\x00" * 9,
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "schema of the future": _frame(8, b"\x91\x00", schema=2),
    "type unknown": _frame(200, b"\x91\x00"),
    "type below zero": _frame(-1, b"\x91\x00"),
    "sequence below zero": _frame(8, b"\x91\x00", sequence=-1),
    "stream as text": _frame(8, b"\x91\x00", stream="7"),
    "deadline of a year": _frame(8, b"\x91\x00", deadline_ms=31_536_000_000),
    "key of a megabyte": _frame(8, b"\x91\x00", key=bytes(100_000)),
    "codec with a long name": _frame(8, b"\x91\x00", codec="x" * 10_000),
    "checksum wrong": _frame(8, b"\x91\x00", crc=1),
    "body as an object": _frame(8, b"\x91\x00", body={}),
    "frame cut short": encode_frame(SAMPLE)[:-1],
    "frame with a tail": encode_frame(SAMPLE) + b"\x00",
    "body not msgpack": _frame(8, b"\xc1"),
    "body without its field": _frame(8, b"\x90"),
    "ack below zero": _frame(8, msgpack.packb([-1])),
    "ack as a truth": _frame(8, msgpack.packb([True])),
    "ack of NaN": _frame(8, msgpack.packb([float("nan")])),
    "entropy of NaN": _frame(5, msgpack.packb([1, 0, 0, float("nan"), "raw", b"", 0])),
    "entropy of infinity": _frame(5, msgpack.packb([1, 0, 0, float("inf"), "raw", b"", 0])),
    "image as text": _frame(5, msgpack.packb([1, 0, 0, 0.5, "raw", "image", 0])),
    "coding of a megabyte": _frame(5, msgpack.packb([1, 0, 0, 0.5, "x" * 500_000, b"", 0])),
    "sample without its scene": _frame(5, msgpack.packb([1, 0, 0, 0.5, "raw", b""])),
    "sample of a scene below zero": _frame(5, msgpack.packb([1, 0, 0, 0.5, "raw", b"", -1])),
    "scene without a fingerprint": _frame(11, msgpack.packb([1, 0])),
    "scene below zero": _frame(11, msgpack.packb([-1, 0, b""])),
    "scene as a float": _frame(11, msgpack.packb([1.0, 0, b""])),
    "fingerprint as text": _frame(11, msgpack.packb([1, 0, "fingerprint"])),
    "fingerprint as a list of numbers": _frame(11, msgpack.packb([1, 0, [0.5, 0.5]])),
    "fingerprint that claims four gigabytes": _frame(11, b"\x93\x01\x00" + _huge(0xC6)),
    "request without a deadline": _frame(12, msgpack.packb([1, 0, 0, b"payload"])),
    "request of a split point below zero": _frame(12, msgpack.packb([1, -1, 0, b"payload"]), deadline_ms=10),
    "request of a split point without end": _frame(12, msgpack.packb([1, 2**40, 0, b"payload"]), deadline_ms=10),
    "payload as text": _frame(12, msgpack.packb([1, 0, 0, "payload"]), deadline_ms=10),
    "payload that claims four gigabytes": _frame(12, b"\x94\x01\x00\x00" + _huge(0xC6), deadline_ms=10),
    "answer of NaN milliseconds": _frame(13, msgpack.packb([1, "ok", "", b"", float("nan"), 0.0])),
    "answer before it was asked": _frame(13, msgpack.packb([1, "ok", "", b"", -1.0, 0.0])),
    "answer with a code of a megabyte": _frame(13, msgpack.packb([1, "x" * 500_000, "", b"", 0.0, 0.0])),
    "text that is not UTF-8": _frame(4, b"\x93\xa1\xff\xa1x\x00"),
    "body that claims four gigabytes": _frame(10, b"\x93" + _huge(0xC6)),
}


def read(data: bytes) -> str:
    """What becomes of a frame: ``refused``, or what it was taken for."""
    try:
        return type(from_frame(decode_frame(data))).__name__
    except ProtocolError:
        return "refused"


def memory_to_read(data: bytes) -> int:
    """The peak of memory in bytes while a frame is read."""
    tracemalloc.start()
    try:
        read(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def open_link() -> DeviceLink:
    """A device in an open session that has sent one message."""
    link = DeviceLink(
        device_id="d", bundle_digest=bytes(32), outbox_stream=7, highest_version=lambda: 0, sign=lambda data: bytes(64)
    )
    link.on_connected()
    link.on_bytes(encode_frame(to_frame(Challenge(nonce=bytes(NONCE_BYTES)))))
    welcome = Welcome(acked_sequence=0, credit_bytes=10_000, envelope=b"", envelope_signature=b"")
    link.on_bytes(encode_frame(to_frame(welcome)))
    link.offer([(1, encode_frame(SAMPLE))])
    return link


def _message(message: Challenge | Ack | Welcome | Offload) -> Callable[[], bytes]:
    return lambda: encode_frame(to_frame(message))


# A cloud that lies to a device whose session is open: each must end the session, and delete nothing.
LIES: dict[str, Callable[[], bytes]] = {
    "ack of what was never sent": _message(Ack(sequence=2)),
    "ack of everything there will ever be": _message(Ack(sequence=2**64 - 1)),
    "a second challenge, for a second signature": _message(Challenge(nonce=b"\x01" * NONCE_BYTES)),
    "a second welcome, with another envelope": _message(
        Welcome(acked_sequence=1, credit_bytes=1, envelope=b"", envelope_signature=b"")
    ),
    "a request sent to the device": _message(Offload(request=1, split=0, version=0, payload=b"x", deadline_ms=10)),
    "a sample sent to the device": lambda: encode_frame(SAMPLE),
    "a version without its payload": lambda: encode_frame(
        Frame(type=Version.TYPE, body=msgpack.packb([b"manifest", b"signature"]))
    ),
}


def lie(data: bytes) -> str:
    """What a device with an open session does: ``closed``, or the actions it takes."""
    actions = open_link().on_bytes(data)
    return "closed" if [type(action) for action in actions] == [Close] else repr(actions)


def main() -> None:
    """Show each attack and what became of it."""
    for name, data in FRAMES.items():
        print(f"frame  {name:48} {read(data):10} {memory_to_read(data):>10,} bytes of memory")
    for name, make in LIES.items():
        print(f"lie    {name:48} {lie(make())}")


if __name__ == "__main__":
    main()
