# ruff: noqa: T201 -- a script that shows what it does
"""What a lying cloud may answer for an offloaded frame, and what a hostile device may send as a payload."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np

from littoral.core.answers import decode_answer
from littoral.core.tasks import Classification, Detection, Segmentation, Task
from littoral.errors import ProtocolError

CLASSES = 10
MAX_MEMORY_BYTES = 4_000_000
"""What reading an answer of these tasks may take at most, whatever is in it."""


def _scores(*values: float) -> bytes:
    return b"A\x01" + np.array(values, "<f4").tobytes()


# For a device that asks for scores of ten classes.
ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "a magic alone": b"A",
    "no scores": b"A\x01",
    "one class too few": _scores(*[0.0] * (CLASSES - 1)),
    "one class too many": _scores(*[0.0] * (CLASSES + 1)),
    "scores of NaN": _scores(*[float("nan")] * CLASSES),
    "one score of infinity": _scores(float("inf"), *[0.0] * (CLASSES - 1)),
    "a label map": b"A\x02" + zlib.compress(bytes(100)),
    "detections": b"A\x03\x00\x00",
    "a kind that is not": b"A\x7f" + bytes(4 * CLASSES),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "text": b"cat",
    "a megabyte": b"A\x01" + bytes(1_000_000),
}

_MAPS = Segmentation(num_classes=3, input_height=8, input_width=8)
_BOXES = Detection(num_classes=2, input_height=32, input_width=32)

# For the other two tasks.
OTHER_ANSWERS: dict[str, tuple[Task, bytes]] = {  # type: ignore[type-arg]
    "a label map that unpacks to ten megabytes": (_MAPS, b"A\x02" + zlib.compress(bytes(10_000_000))),
    "a label map one pixel short": (_MAPS, b"A\x02" + zlib.compress(bytes(63))),
    "a label map cut short": (_MAPS, (b"A\x02" + zlib.compress(bytes(64)))[:-1]),
    "a label map with something behind it": (_MAPS, b"A\x02" + zlib.compress(bytes(64)) + b"\x00"),
    "two label maps": (_MAPS, b"A\x02" + zlib.compress(bytes(64)) * 2),
    "a label map that is not packed": (_MAPS, b"A\x02" + bytes(64)),
    "a class that is not": (_MAPS, b"A\x02" + zlib.compress(bytes([3] * 64))),
    "65,535 boxes in no bytes": (_BOXES, b"A\x03\xff\xff"),
    "a box of NaN": (_BOXES, b"A\x03\x01\x00" + struct.pack("<5fH", *[float("nan")] * 4, 0.5, 0)),
    "a box beyond the input": (_BOXES, b"A\x03\x01\x00" + struct.pack("<5fH", 0, 0, 1e9, 1e9, 0.5, 0)),
    "a box of a class that is not": (_BOXES, b"A\x03\x01\x00" + struct.pack("<5fH", 0, 0, 1, 1, 0.5, 999)),
}

# For a cloud that takes requests. None of them is a payload; what a real tail does with real bytes is the codec's.
PAYLOADS: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(100),
    "a header alone": b"\x4c\x10\x00\x00\x00\x00\xa4",
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "half a megabyte": bytes(524_288),
}


def read(task: Task, data: bytes) -> str:  # type: ignore[type-arg]
    """What becomes of an answer: ``refused``, or ``taken``."""
    try:
        decode_answer(task, data)
    except ProtocolError:
        return "refused"
    return "taken"


def memory_to_read(task: Task, data: bytes) -> int:  # type: ignore[type-arg]
    """The peak of memory in bytes while an answer is read."""
    tracemalloc.start()
    try:
        read(task, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def all_answers() -> dict[str, tuple[Task, bytes]]:  # type: ignore[type-arg]
    """Every hostile answer with the task of who asked."""
    scores = Classification(num_classes=CLASSES)
    return {**{name: (scores, data) for name, data in ANSWERS.items()}, **OTHER_ANSWERS}


def main() -> None:
    """Show each attack and what became of it."""
    for name, (task, data) in all_answers().items():
        print(f"answer  {name:48} {read(task, data):10} {memory_to_read(task, data):>10,} bytes of memory")


if __name__ == "__main__":
    main()
