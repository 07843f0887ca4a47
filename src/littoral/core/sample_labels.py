"""The teacher's answers to samples that were uploaded for adaptation, as bytes on their way back to the device.

    byte 0     magic 0x54, "T"
    byte 1     format 1
    bytes 2 on the labels, one after another, at most 64; all numbers little-endian

    label      the first 8 bytes of the SHA-256 of the sample's image; the number of classes named, uint8, 1 to 8; then
               of each its number, uint16, and its probability in 65,535ths, uint16, the likeliest first

What the classes named leave of 1 is spread evenly over the others. The device knows the image's digest by itself, so
nothing needs to go up for it; it holds through restarts, where a counter of frames begins anew. There is no NaN in
whole numbers, and K comes from the bundle: no number here says how much is allocated.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import FloatArray
from littoral.errors import ProtocolError

MAGIC, FORMAT = 0x54, 1
KEY_BYTES = 8
MAX_LABELS = 64
"""In one message: it is short, and what comes after it on the wire hardly waits."""
MAX_NAMED = 8
_LEFT = 1 / 256
"""Classes are named until no more than this is left."""
_UNITS = 65_535
_NAMED = struct.Struct("<HH")
_HEADER = bytes((MAGIC, FORMAT))
MAX_LABELS_BYTES = len(_HEADER) + MAX_LABELS * (KEY_BYTES + 1 + MAX_NAMED * _NAMED.size)
_LEAST = 1e-7
"""Of a probability, so that its logarithm is finite."""


@dataclass(frozen=True)
class SampleLabel:
    """What the teacher says of a sample.

    Attributes:
        key: See `sample_key`.
        label: The likeliest class.
        scores_K: Logarithms of all probabilities, float32 ``(K,)``, finite; their softmax is the probabilities.
    """

    key: bytes
    label: int
    scores_K: FloatArray


def sample_key(image: bytes) -> bytes:
    """What names a sample's label: of its image as it was sent."""
    return hashlib.sha256(image).digest()[:KEY_BYTES]


def encode_label(probabilities_K: NDArray[np.floating]) -> bytes:
    """A label without its key: 5 bytes where the teacher is sure, at most 33.

    Args:
        probabilities_K: They add up to 1; at most 65,536.
    Raises:
        ValueError: they do not, or one is negative or no number.
    """
    p = np.asarray(probabilities_K, dtype=np.float64)
    good = p.ndim == 1 and 2 <= len(p) <= _UNITS + 1 and bool((p >= 0).all())
    if not good or not math.isclose(float(p.sum()), 1.0, abs_tol=1e-3):
        raise ValueError(f"expected 2 to {_UNITS + 1} probabilities that add up to 1, got {p.shape} with {p.sum()}")
    named, left = bytearray(), 1.0
    order = np.argsort(-p, kind="stable")[:MAX_NAMED]
    for count, k in enumerate(order.tolist()):
        units = math.floor(p[k] / p.sum() * _UNITS)
        if count and (left <= _LEFT or units == 0):
            break
        named += _NAMED.pack(k, max(units, 1))
        left -= float(p[k])
    return bytes([len(named) // _NAMED.size]) + bytes(named)


def encode_labels(labels: Sequence[tuple[bytes, bytes]]) -> bytes:
    """One message's bytes.

    Args:
        labels: (`sample_key`, `encode_label`) of each, at most 64.
    Raises:
        ValueError: more, or a key of another length.
    """
    if len(labels) > MAX_LABELS or any(len(key) != KEY_BYTES for key, _ in labels):
        raise ValueError(f"expected at most {MAX_LABELS} labels with keys of {KEY_BYTES} bytes, got {len(labels)}")
    return _HEADER + b"".join(key + label for key, label in labels)


def decode_labels(data: bytes, num_classes: int) -> list[SampleLabel]:
    """The labels of a message from a peer that is not trusted.

    Raises:
        ProtocolError: anything in it breaks a rule; then nothing of it counts.
    """
    if len(data) > MAX_LABELS_BYTES:
        raise ProtocolError(f"labels of {len(data)} bytes came, at most {MAX_LABELS_BYTES} are read")
    if data[: len(_HEADER)] != _HEADER:
        raise ProtocolError(f"labels that begin with {data[:2].hex()} came, expected {_HEADER.hex()}: update this side")
    labels, place = list[SampleLabel](), len(_HEADER)
    while place < len(data):
        if len(labels) == MAX_LABELS:
            raise ProtocolError(f"more than {MAX_LABELS} labels came in one message")
        key, count = data[place : place + KEY_BYTES], data[place + KEY_BYTES : place + KEY_BYTES + 1]
        start = place + KEY_BYTES + 1
        place = start + (count[0] if count else 0) * _NAMED.size
        if not count or not 1 <= count[0] <= min(MAX_NAMED, num_classes) or place > len(data):
            raise ProtocolError(
                f"a label that names {count[0] if count else 'no'} classes or is cut off came, expected 1 to "
                f"{min(MAX_NAMED, num_classes)} whole ones"
            )
        named = list(_NAMED.iter_unpack(data[start:place]))
        labels.append(SampleLabel(key, named[0][0], _scores(named, num_classes)))
    return labels


def _scores(named: Sequence[tuple[int, int]], num_classes: int) -> FloatArray:
    """All scores of a label, from the classes that it names.

    Raises:
        ProtocolError: a class that does not exist or comes twice, or probabilities that are none.
    """
    classes, units = [k for k, _ in named], [u for _, u in named]
    if max(classes) >= num_classes or len(set(classes)) < len(classes):
        raise ProtocolError(f"a label names the classes {classes}, expected different ones below {num_classes}")
    left, others = _UNITS - sum(units), num_classes - len(named)
    falling = all(a >= b for a, b in itertools.pairwise(units)) and units[-1] > 0
    if not falling or left < 0 or left > others * (units[-1] + 1) + len(named):
        raise ProtocolError(f"a label's probabilities are {units} of {_UNITS} and {left} for {others} other classes")
    p = np.full(num_classes, max(left / _UNITS / max(others, 1), _LEAST))
    p[classes] = np.array(units) / _UNITS
    scores: FloatArray = np.log(p / p.sum()).astype(np.float32)
    return scores
