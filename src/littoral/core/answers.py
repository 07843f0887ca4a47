"""What the cloud answers for an offloaded frame, as bytes: one network output of a task, small and exact.

    byte 0     magic 0x41, "A"
    byte 1     kind: 1 scores, 2 label map, 3 detections
    bytes 2 on the answer; all numbers little-endian

    scores      float32 x K, before softmax
    label map   a zlib stream (RFC 1950) of H * W bytes, rows first: a class number for every pixel
    detections  N as uint16, then boxes float32 x 4 N (x_min, y_min, x_max, y_max in pixels of the input), scores
                float32 x N, class numbers uint16 x N; the surest first

K, H, W and the most boxes are the task's, which both sides have from the bundle: there is no number in an answer that
anything is allocated by, and a label map is not unpacked beyond its H * W bytes. No checksum: the frame on the wire has
one.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from littoral.core.arrays import FloatArray
from littoral.core.detections import Detections
from littoral.core.metrics import LabelMap
from littoral.core.tasks import Classification, Detection, Segmentation, Task
from littoral.errors import ProtocolError

MAGIC = 0x41
KINDS = {Classification.name: 1, Segmentation.name: 2, Detection.name: 3}
HEADER_BYTES = 2
MAX_LABEL_MAP_BYTES = 1 << 26
"""The largest label map that is read: 8192 x 8192 pixels. A task with a larger input cannot be offloaded."""
_COUNT = struct.Struct("<H")
_BYTES_PER_BOX = 4 * 4 + 4 + 2
_ZLIB_LEVEL = 6

TaskAnswer = FloatArray | LabelMap | Detections
"""Scores float32 ``(K,)``, a label map uint8 ``(H, W)``, or detections in pixels of the network's input."""


def encode_answer(task: Task[Any, Any], output: FloatArray) -> bytes:
    """The bytes of one frame's answer.

    Args:
        task: What the network is for.
        output: float32 ``task.output_shape``: the network's output for one frame, without the batch.
    Raises:
        ValueError: another shape or type, or a task that has no bytes here.
        ModelOutputError: a value is not finite.
    """
    batch = output[None]
    if isinstance(task, Classification):
        task.check(batch)
        body = output.astype("<f4").tobytes()
    elif isinstance(task, Segmentation):
        _check_size(task)
        (labels_HW,) = task.answers(batch)
        body = zlib.compress(labels_HW.tobytes(), _ZLIB_LEVEL)
    elif isinstance(task, Detection):
        (found,) = task.answers(batch)
        columns = (found.boxes_N4.astype("<f4"), found.scores_N.astype("<f4"), found.labels_N.astype("<u2"))
        body = _COUNT.pack(len(found)) + b"".join(column.tobytes() for column in columns)
    else:
        raise _unknown(task)
    return bytes([MAGIC, KINDS[task.name]]) + body


def decode_answer(task: Task[Any, Any], data: bytes) -> TaskAnswer:
    """The inverse of `encode_answer`, for bytes from an untrusted peer.

    Args:
        task: What the bundle says it is.
    Raises:
        ProtocolError: not an answer of this task; nothing of it was used.
        ValueError: a task that has no bytes here.
    """
    kind = KINDS.get(task.name)
    if kind is None:
        raise _unknown(task)
    if data[:HEADER_BYTES] != bytes([MAGIC, kind]):
        raise ProtocolError(
            f"an answer that begins with {data[:HEADER_BYTES].hex() or 'nothing'} came, {task.name} begins with "
            f"{MAGIC:02x}{kind:02x}; both sides must run the same bundle"
        )
    body = data[HEADER_BYTES:]
    if isinstance(task, Classification):
        return _scores(task, body)
    if isinstance(task, Segmentation):
        return _label_map(task, body)
    assert isinstance(task, Detection)
    return _detections(task, body)


def _scores(task: Classification, body: bytes) -> FloatArray:
    if len(body) != 4 * task.num_classes:
        raise ProtocolError(f"scores of {len(body)} bytes came, {task.num_classes} classes take {4 * task.num_classes}")
    scores: FloatArray = np.frombuffer(body, "<f4").astype(np.float32)
    if not np.isfinite(scores).all():
        raise ProtocolError("a score that is not finite came")
    return scores


def _label_map(task: Segmentation, body: bytes) -> LabelMap:
    _check_size(task)
    shape = (task.input_height, task.input_width)
    num_pixels = shape[0] * shape[1]
    unpacker = zlib.decompressobj()
    try:
        pixels = unpacker.decompress(body, num_pixels)
        # The end of a stream whose last byte just came out is not read before more is asked for.
        more = b"" if unpacker.eof else unpacker.decompress(unpacker.unconsumed_tail, 1)
    except zlib.error as error:
        raise ProtocolError(f"a label map that cannot be unpacked came ({error})") from error
    if len(pixels) != num_pixels or more or not unpacker.eof or unpacker.unused_data:
        raise ProtocolError(f"a label map that does not unpack to just {num_pixels} bytes came")
    labels_HW: LabelMap = np.frombuffer(pixels, np.uint8).reshape(shape)
    if labels_HW.max() >= task.num_classes:
        raise ProtocolError(f"a label map with the class {labels_HW.max()} came, there are {task.num_classes}")
    return labels_HW


def _detections(task: Detection, body: bytes) -> Detections:
    count = _COUNT.unpack_from(body)[0] if len(body) >= _COUNT.size else -1
    if not 0 <= count <= task.max_boxes or len(body) != _COUNT.size + _BYTES_PER_BOX * count:
        raise ProtocolError(f"{len(body)} bytes for {count} boxes came, at most {task.max_boxes} are taken")
    boxes = np.frombuffer(body, "<f4", 4 * count, _COUNT.size).reshape(count, 4)
    scores = np.frombuffer(body, "<f4", count, _COUNT.size + 16 * count)
    labels = np.frombuffer(body, "<u2", count, _COUNT.size + 20 * count)
    try:
        found = Detections(boxes, scores, labels)
    except ValueError as error:
        raise ProtocolError(f"detections that are none came: {error}") from error
    if not count:
        return found
    limits = [task.input_width, task.input_height] * 2
    if found.boxes_N4.min() < 0 or (found.boxes_N4 > limits).any() or found.labels_N.max() >= task.num_classes:
        raise ProtocolError("a box that is not within the input, or of a class that there is not, came")
    if found.scores_N.max() > 1 or found.scores_N.min() < 0 or (np.diff(found.scores_N) > 0).any():
        raise ProtocolError("scores that are not within 0 to 1, or not falling, came")
    return found


def _check_size(task: Segmentation) -> None:
    if task.input_height * task.input_width > MAX_LABEL_MAP_BYTES:
        raise ValueError(
            f"a label map of {task.input_height} x {task.input_width} pixels is over {MAX_LABEL_MAP_BYTES}; let the "
            "device answer"
        )


def _unknown(task: Task[Any, Any]) -> ValueError:
    return ValueError(f"answers of {', '.join(KINDS)} have bytes, {task.name} has none")
