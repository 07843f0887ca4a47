"""A personal head's state as bytes: piece by piece, so that saving needs no second copy; checked before it is used.

Format 1, little-endian (docs/reference/personal-head.md): a header of fixed size, then arrays whose sizes follow from
the header, the head and the configuration, then the SHA-256 of all before it. The hash finds damage, not malice: every
value is checked as well, and what is read is what a `PersonalHead` could have written.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s
from littoral.core.class_prior import ClassShares
from littoral.core.evidence import DaySums, StoredDay
from littoral.core.heads import LinearHead, SourceMoments
from littoral.core.personal import MOST_STANDS_FOR, PersonalConfig, PersonalHead
from littoral.errors import HeadStateError

MAGIC = b"LPHEAD"
FORMAT = 1
_HEADER = struct.Struct("<6sH32s32sQQBBHIIIQ")
"""Magic, format, digests of the shipped head and of the configuration, affine version, seed, whether the personal head
serves, whether there is a sum of older days, days, remembered, held back, the next place among these, draws."""
_DAY = struct.Struct("<iiIIIIddB")
"""First and last day, frames with a label, without, in the class shares, in the sureness; sureness; 0; whether open."""
_LARGEST = 1e20
_MOST_FRAMES = 1 << 31
_DIGEST_BYTES = 32

Sink = Callable[[bytes], object]
Source = Callable[[int], bytes]
Again = Callable[[int, int], bytes]


def config_digest(head: PersonalHead) -> bytes:
    """The SHA-256 of what the sums depend on beside the shipped head."""
    shares = head.source_shares_K.astype("<f8").tobytes()
    moments = b""
    if head.moments is not None:
        means, covariance = head.moments.means_KD, head.moments.covariance_DD
        moments = means.astype("<f4").tobytes() + covariance.astype("<f4").tobytes()
    text = repr(head.config).encode()
    return hashlib.sha256(b"littoral/personal-config/1\0" + text + b"\0" + shares + moments).digest()


def write_state(head: PersonalHead, sink: Sink) -> None:
    """Give the state to ``sink`` in pieces of a few kilobytes. Writing them safely to a disk is the caller's."""
    digest = hashlib.sha256()

    def put(data: bytes) -> None:
        digest.update(data)
        sink(data)

    evidence, memory, held = head.evidence, head.memory, head.held
    put(
        _HEADER.pack(
            MAGIC,
            FORMAT,
            head.shipped.digest(),
            config_digest(head),
            head.affine_version,
            head.seed,
            head.personal_serves,
            evidence.older is not None,
            len(evidence.days),
            memory.size,
            held.size,
            held.next,
            memory.num_draws,
        )
    )
    for sums in evidence.everything():
        gram = sums.gram
        put(_pack_day(sums, is_exact=gram.dtype == np.float64))
        exact = "<f8" if gram.dtype == np.float64 else "<f4"
        for values in (sums.shares.shares_K, sums.weights_K):
            put(values.astype("<f8").tobytes())
        put(gram.astype(exact, copy=False).tobytes())
        del gram
        put(sums.targets_AK.astype(exact, copy=False).tobytes())
    put(memory.seen_K.astype("<i8").tobytes())
    for array, kind in zip(_memory_arrays(head), ("<f2", "<f2", "<f4", "<u2", "<i4"), strict=True):
        put(array[: memory.size].astype(kind, copy=False).tobytes())
    for array, kind in zip(_held_arrays(head), ("<f2", "<u2", "u1", "<i4"), strict=True):
        put(array[: held.size].astype(kind, copy=False).tobytes())
    sink(digest.digest())


def to_bytes(head: PersonalHead) -> bytes:
    """The state in one piece."""
    pieces: list[bytes] = []
    write_state(head, pieces.append)
    return b"".join(pieces)


def read_state(
    source: Source,
    *,
    shipped: LinearHead,
    config: PersonalConfig | None = None,
    source_shares_K: Float64s | None = None,
    moments: SourceMoments | None = None,
    again: Again | None = None,
) -> PersonalHead:
    """The inverse of `write_state`.

    Args:
        source: Gives up to so many next bytes, as ``file.read`` does.
        again: Gives so many bytes from a place that `source` has given before, as often as it is asked, while the head
            is used, and leaves `source` where it is. Then the sums of closed days stay there: most of a week's memory.
        shipped, config, source_shares_K, moments: As the head was made with.
    Raises:
        HeadStateError: damaged or hostile bytes, or a state of another shipped head or configuration.
    """
    reader = _Reader(source)
    try:
        header = _HEADER.unpack(reader.take(_HEADER.size))
    except struct.error as error:  # pragma: no cover - take() gives exactly so many
        raise _damaged("its header cannot be read") from error
    magic, version, head_digest, its_config, affine, seed, serves, older, days, size, num_held, place, draws = header
    if magic != MAGIC or version != FORMAT:
        raise _damaged(f"it begins with {magic!r} and format {version}, expected {MAGIC!r} and {FORMAT}")
    if head_digest != shipped.digest():
        raise HeadStateError("other-head", "the state is of another shipped head; start anew")
    head = PersonalHead(
        shipped, affine_version=affine, seed=seed, config=config, source_shares_K=source_shares_K, moments=moments
    )
    if its_config != config_digest(head):
        raise HeadStateError("other-config", "the state was made with another configuration; start anew")
    memory, held, evidence = head.memory, head.held, head.evidence
    if serves > 1 or older > 1 or days > evidence.max_days or size > len(memory.labels) or num_held > len(held.answers):
        raise _damaged("it says that it holds more than this configuration allows")
    if place != num_held % len(held.answers) and (num_held < len(held.answers) or place >= len(held.answers)):
        raise _damaged(f"the next held-back frame would go to place {place} of {num_held}")
    head.personal_serves = bool(serves)
    read = [_read_day(reader, head, again) for _ in range(older + days)]
    _check_days(read, has_older=bool(older))
    evidence.older, evidence.days = (read[0], read[1:]) if older else (None, read)
    memory.size, memory.num_draws = size, draws
    held.size, held.next = num_held, place
    memory.seen_K[:] = reader.array("<i8", len(memory.seen_K))
    for array, kind in zip(_memory_arrays(head), ("<f2", "<f2", "<f4", "<u2", "<i4"), strict=True):
        array[:size] = reader.array(kind, array[:size].size).reshape(array[:size].shape)
    for array, kind in zip(_held_arrays(head), ("<f2", "<u2", "u1", "<i4"), strict=True):
        array[:num_held] = reader.array(kind, array[:num_held].size).reshape(array[:num_held].shape)
    reader.finish()
    _check_frames(head)
    try:
        head.fitted()
    except ValueError as error:
        raise _damaged(f"no head can be fitted to it ({error})") from error
    return head


def from_bytes(
    data: bytes,
    *,
    shipped: LinearHead,
    config: PersonalConfig | None = None,
    source_shares_K: Float64s | None = None,
    moments: SourceMoments | None = None,
) -> PersonalHead:
    """`read_state` of bytes."""
    view, position = memoryview(data), 0

    def source(count: int) -> bytes:
        nonlocal position
        piece = bytes(view[position : position + count])
        position += len(piece)
        return piece

    return read_state(source, shipped=shipped, config=config, source_shares_K=source_shares_K, moments=moments)


class _Reader:
    """Takes exactly so many bytes, and keeps the hash of all."""

    def __init__(self, source: Source) -> None:
        self._source, self._digest = source, hashlib.sha256()
        self.position = 0

    def take(self, count: int) -> bytes:
        data = self._source(count)
        if len(data) != count:
            raise _damaged("it ends too early")
        self._digest.update(data)
        self.position += count
        return data

    def array(self, kind: str, count: int) -> NDArray[np.generic]:
        return np.frombuffer(self.take(count * np.dtype(kind).itemsize), dtype=kind)

    def numbers(self, kind: str, count: int) -> NDArray[np.floating]:
        values = np.frombuffer(self.take(count * np.dtype(kind).itemsize), dtype=kind)
        if not (np.abs(values) <= _LARGEST).all():
            raise _damaged("a value is not finite or far too large")
        return values.astype(kind[1:])

    def finish(self) -> None:
        expected = self._digest.digest()
        if self._source(_DIGEST_BYTES) != expected:
            raise _damaged("its hash does not match")
        if self._source(1):
            raise _damaged("something follows its end")


def _pack_day(sums: DaySums, *, is_exact: bool) -> bytes:
    return _DAY.pack(
        sums.first_day,
        sums.last_day,
        sums.num_labelled,
        sums.num_unlabelled,
        sums.shares.num_frames,
        sums.num_sure,
        sums.sureness,
        0.0,
        is_exact,
    )


def _read_day(reader: _Reader, head: PersonalHead, again: Again | None) -> DaySums:
    first, last, labelled, unlabelled, in_shares, num_sure, sureness, zero, exact = _DAY.unpack(reader.take(_DAY.size))
    size, num_classes = head.shipped.num_features + 1, head.shipped.num_classes
    shares_K, weights_K = (reader.numbers("<f8", num_classes).astype(np.float64) for _ in range(2))
    kind = "<f8" if exact else "<f4"
    place = reader.position
    gram = reader.numbers(kind, size * (size + 1) // 2)
    targets_AK = reader.numbers(kind, size * num_classes).reshape(size, num_classes)
    diagonal = np.cumsum([0, *range(size, 1, -1)])
    if first > last or exact > 1 or zero != 0 or not 0 <= sureness <= 1:
        raise _damaged("the counts of a day are impossible")
    if not ((shares_K >= 0).all() and abs(float(shares_K.sum()) - 1) < 1e-6 and (weights_K >= 0).all()):
        raise _damaged("class shares or weights of a day are impossible")
    if (gram[diagonal] < 0).any() or max(labelled, unlabelled, in_shares, num_sure) >= _MOST_FRAMES:
        raise _damaged("the sums of a day are impossible")
    shares = ClassShares(head.source_shares_K, head.config.prior, shares_K, in_shares)
    sums = DaySums(first, last, gram, targets_AK, weights_K, shares, labelled, unlabelled, sureness, num_sure)
    if again is None:
        return sums
    fetch, bytes_each = again, np.dtype(kind).itemsize

    def values(start: int, count: int) -> NDArray[np.floating]:
        data = fetch(place + bytes_each * start, bytes_each * count)
        return np.frombuffer(data, dtype=kind).astype(kind[1:], copy=False)

    return StoredDay(sums, values)


def _check_days(read: list[DaySums], *, has_older: bool) -> None:
    for before, after in itertools.pairwise(read):
        if before.last_day >= after.first_day:
            raise _damaged("its days are out of order")
    singles = read[1:] if has_older else read
    if any(sums.first_day != sums.last_day for sums in singles):
        raise _damaged("a day is several days")
    if has_older and read[0].piece(0, 1).dtype != np.float64:
        raise _damaged("the sum of older days is not in float64")
    if any(sums.piece(0, 1).dtype != np.float32 for sums in singles[:-1]):
        raise _damaged("a day before the last one is open")


def _check_frames(head: PersonalHead) -> None:
    memory, held, num_classes = head.memory, head.held, head.shipped.num_classes
    count, num_held = memory.size, held.size
    for features in (memory.features[:count], held.features[:num_held], memory.targets[:count]):
        if not np.isfinite(features).all():
            raise _damaged("a remembered feature is not finite")
    targets, weights = memory.targets[:count].astype(np.float64), memory.weights[:count]
    if (targets < 0).any() or (np.abs(targets.sum(axis=1) - 1) > 0.02).any():
        raise _damaged("a remembered answer is no distribution")
    if not ((weights > 0) & (weights <= max(head.config.label_weight, 1) * MOST_STANDS_FOR * 1.001)).all():
        raise _damaged("a remembered weight is impossible")
    if (memory.labels[:count] >= num_classes).any() or (held.answers[:num_held] >= num_classes).any():
        raise _damaged("a remembered class does not exist")
    if (memory.seen_K < np.bincount(memory.labels[:count], minlength=num_classes)).any():
        raise _damaged("more frames of a class are remembered than came")


def _memory_arrays(head: PersonalHead) -> tuple[NDArray[np.generic], ...]:
    memory = head.memory
    return memory.features, memory.targets, memory.weights, memory.labels, memory.days


def _held_arrays(head: PersonalHead) -> tuple[NDArray[np.generic], ...]:
    held = head.held
    return held.features, held.answers, held.labelled, held.days


def _damaged(why: str) -> HeadStateError:
    return HeadStateError("damaged", f"the saved state of a personal head is refused: {why}; the shipped head serves")
