# ruff: noqa: T201 -- a script that shows what it does
"""What a lying cloud may send as the teacher's answers to samples. Run as a script to see each one bounce."""

from __future__ import annotations

import struct
import tracemalloc

from littoral.core.sample_labels import MAX_LABELS, decode_labels, sample_key
from littoral.errors import ProtocolError

CLASSES = 10
KEY = sample_key(b"an image")
MAX_MEMORY_BYTES = 200_000
"""What reading a message may take at most, whatever is in it."""


def message(*labels: bytes) -> bytes:
    """Labels with the header that they need."""
    return b"T\x01" + b"".join(labels)


def label(*named: tuple[int, int], key: bytes = KEY, count: int | None = None) -> bytes:
    """One that names classes with their 65,535ths; ``count`` where it lies about how many."""
    head = key + bytes([len(named) if count is None else count])
    return head + b"".join(struct.pack("<HH", *each) for each in named)


GOOD = label((3, 60_000), (1, 5_000))

# For a device of ten classes.
LABELS: dict[str, bytes] = {
    "nothing": b"",
    "a magic alone": b"T",
    "another format": b"T\x02" + GOOD,
    "an offloaded answer": b"A\x01" + bytes(4 * CLASSES),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "a label cut short": message(GOOD)[:-1],
    "a byte behind it": message(GOOD) + b"\x00",
    "a key alone": message(KEY),
    "no class": message(label()),
    "nine classes": message(label(*((k, 7000) for k in range(9)))),
    "200 classes in 8 bytes": message(label((3, 60_000), (1, 5_000), count=200)),
    "a class that is not": message(label((CLASSES, 65_535))),
    "a class twice": message(label((3, 40_000), (3, 25_535))),
    "more than all": message(label((3, 65_535), (1, 1))),
    "probabilities that rise": message(label((1, 5_000), (3, 60_000))),
    "no probability": message(label((3, 0))),
    "others that would be likelier": message(label((3, 100))),
    "NaN as scores": message(KEY + struct.pack("<10f", *[float("nan")] * CLASSES)),
    "one label too many": message(*[label((3, 65_535))] * (MAX_LABELS + 1)),
    "a megabyte": message(bytes(1_000_000)),
}


def read(data: bytes) -> str:
    """What becomes of a message: ``refused``, or ``taken``."""
    try:
        decode_labels(data, CLASSES)
    except ProtocolError:
        return "refused"
    return "taken"


def memory_to_read(data: bytes) -> int:
    """The peak of memory in bytes while a message is read."""
    tracemalloc.start()
    try:
        read(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main() -> None:
    """Show each attack and what became of it."""
    for name, data in LABELS.items():
        print(f"labels  {name:48} {read(data):10} {memory_to_read(data):>10,} bytes of memory")


if __name__ == "__main__":
    main()
