"""Symbols to a payload and back: the bytes of a split.

    byte 0        magic 0x4C, "L"
    byte 1        codec id in the upper four bits, level in the lower
    bytes 2 to 5  the first 4 bytes of the tables' digest
    byte 6        makes all bytes of the payload add up to 0 modulo 256
    byte 7 ...    the coder's stack (`littoral.core.rans`): little-endian words without the zeros at the end

The stack starts from a CRC-32 of the tables' digest, the level and the symbols, so what was decoded is compared with
what was encoded, whatever happened between. Upon it lie the escapes' values, the last first, and then the slots. For
the value v of a channel whose slots are for a to b, u is ``2 (v - b - 1)`` above and ``2 (a - 1 - v) + 1`` below;
written are the bit length of u + 1, in 6 bits, and u + 1 without its leading 1, at most 32 bits. A symbol costs at most
62 bits.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.core.codec_tables import CodecTables, FrequencyTable
from littoral.core.rans import MIN_STACK_BYTES, MOST_BITS_AT_ONCE, RansStack
from littoral.errors import PayloadError

CODEC_ID = 1
"""rANS with static tables of 24 bits, one per channel and level."""
HEADER_BYTES = 7
MIN_PAYLOAD_BYTES = HEADER_BYTES + MIN_STACK_BYTES
_MAGIC = 0x4C
_HEADER = struct.Struct("<BB4s")  # and the byte that evens out the sum
_LENGTH_BITS = 6
_MOST_ESCAPE_BITS = 33
_CHECK_BITS = 32.5  # the stack's start is 2**32 to 2**33
_MOST_SYMBOL_BYTES = 8  # 24 + 6 + 32 bits, and what five steps of the coder may lose

Symbols = NDArray[np.int32]
"""The whole numbers made of a latent, ``(C, H, W)``."""


@dataclass(frozen=True, kw_only=True)
class PayloadHeader:
    """What a payload says of itself. Nothing but its sum has been checked."""

    tables_name: bytes
    """The first 4 bytes of the digest of the tables that it was coded with."""
    level: int


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a payload held."""

    level: int
    symbols: Symbols


def worst_case_bytes(num_symbols: int) -> int:
    """No payload of so many symbols is longer, whatever the symbols and the tables are."""
    return MIN_PAYLOAD_BYTES + _MOST_SYMBOL_BYTES * num_symbols


def encode(symbols: NDArray[np.integer], tables: CodecTables, *, level: int, use_reference: bool = False) -> bytes:
    """Code the symbols of one latent.

    Args:
        symbols: ``(C, H, W)`` of the level, any integer type and byte order, values within int32.
        tables: What both sides have.
        level: The rate.
        use_reference: Do without the accelerator also where it is installed. The bytes are the same.
    Raises:
        ValueError: another shape, type or range.
        PayloadError: ``too-large``: over the level's ceiling. Take a coarser level, or answer on the device.
    """
    table = tables.level(level)
    rows = _rows(symbols, tables, level)
    slots, outside = _slots(rows, table)
    if len(outside) * _LENGTH_BITS > 8 * table.max_bytes:  # before time is spent on what a hostile frame blew up
        raise _too_large(f"more than {table.max_bytes}", table, level)
    stack = RansStack.start(_check(rows, tables, level))
    for value, num_bits in reversed(list(_escape_bits(outside))):
        stack.push_bits(value, num_bits)
    stack = (table.reference_coder if use_reference else table.coder).push(stack, slots)
    header = _HEADER.pack(_MAGIC, CODEC_ID << 4 | level, tables.digest[:4])
    body = stack.to_bytes()
    payload = header + bytes([-(_sum(header) + _sum(body)) & 0xFF]) + body
    if len(payload) > table.max_bytes:
        raise _too_large(str(len(payload)), table, level)
    return payload


def _too_large(size: str, table: FrequencyTable, level: int) -> PayloadError:
    return PayloadError(
        "too-large",
        f"the symbols take {size} bytes, level {level} allows {table.max_bytes}; take a coarser level or let the "
        "device answer",
    )


def read_header(payload: bytes) -> PayloadHeader:
    """The tables' name and the level of a payload, to find its tables by.

    Raises:
        PayloadError: ``damaged`` or ``other-codec``.
    """
    if len(payload) < MIN_PAYLOAD_BYTES:
        raise PayloadError("damaged", f"a payload of {len(payload)} bytes came, none has less than {MIN_PAYLOAD_BYTES}")
    if _sum(payload):
        raise PayloadError("damaged", "the payload's bytes do not add up; it was damaged, ask for it again")
    magic, codec_and_level, name = _HEADER.unpack_from(payload)
    codec, level = divmod(codec_and_level, 16)
    if magic != _MAGIC or codec != CODEC_ID:
        raise PayloadError(
            "other-codec",
            f"a payload with magic {magic:#04x} and codec {codec} came, expected {_MAGIC:#04x} and {CODEC_ID}; update "
            "the older of the two sides",
        )
    return PayloadHeader(tables_name=name, level=level)


def decode(payload: bytes, tables: CodecTables, *, use_reference: bool = False) -> Decoded:
    """The inverse of `encode`, for bytes from an untrusted peer.

    The shape is the tables', so nothing is allocated by what the bytes ask for, and longer ones than the level's
    ceiling are not looked at. What is accepted is, byte for byte, what `encode` gives for the symbols returned.

    Raises:
        PayloadError: ``damaged``, ``too-large``, ``other-codec`` or ``other-tables``. Nothing was decoded.
    """
    ceiling = max(level.max_bytes for level in tables.levels)
    if len(payload) > ceiling:
        raise PayloadError("too-large", f"a payload of {len(payload)} bytes came, these tables allow {ceiling}")
    header = read_header(payload)
    if header.tables_name != tables.digest[:4]:
        raise PayloadError(
            "other-tables",
            f"a payload of the tables {header.tables_name.hex()} came, these are {tables.digest[:4].hex()}; both sides "
            "must run the same bundle",
        )
    if header.level >= len(tables.levels):
        raise PayloadError("damaged", f"a payload of level {header.level} came, there are {len(tables.levels)}")
    table = tables.level(header.level)
    if len(payload) > table.max_bytes:
        raise PayloadError(
            "too-large", f"a payload of {len(payload)} bytes came, level {header.level} allows {table.max_bytes}"
        )
    stack = RansStack.from_bytes(payload[HEADER_BYTES:])
    coder = table.reference_coder if use_reference else table.coder
    slots, stack = coder.pop(stack, tables.height * tables.width)
    rows = slots + table.first_values[:, None]
    escaped = slots == table.num_slots[:, None] - 1
    rows[escaped] = _pop_escapes(stack, table, np.nonzero(escaped)[0])
    if stack.check != _check(rows, tables, header.level):
        raise PayloadError("damaged", "the payload's checksum does not match; it was damaged, ask for it again")
    return Decoded(level=header.level, symbols=rows.astype(np.int32).reshape(tables.shape(header.level)))


def rate_bits(symbols: NDArray[np.integer], tables: CodecTables, *, level: int) -> float:
    """What the symbols cost under the tables, ``-log2 p``, without coding them; escapes included, the header not.

    Raises:
        ValueError: another shape, type or range.
    """
    table = tables.level(level)
    slots, outside = _slots(_rows(symbols, tables, level), table)
    lengths = np.frexp((outside + 1).astype(np.float64))[1]  # the bit lengths, exact below 2**53
    escapes = int(lengths.sum()) + (_LENGTH_BITS - 1) * len(lengths)
    return float(table.slot_bits[slots + table.first_slots[:, None]].sum()) + escapes


def expected_bits(tables: CodecTables, *, level: int) -> float:
    """`rate_bits` in expectation, if symbols come as the tables say: what a level costs before a frame is seen."""
    return tables.level(level).entropy_bits * tables.height * tables.width


def predict_bytes(bits: float) -> int:
    """The length of a payload whose symbols cost so much; true within a byte in a thousand, and one."""
    return HEADER_BYTES + max(MIN_STACK_BYTES, math.ceil((bits + _CHECK_BITS) / 8))


def _sum(data: bytes) -> int:
    return int(np.frombuffer(data, np.uint8).sum(dtype=np.uint64)) & 0xFF


def _check(rows: NDArray[np.int64], tables: CodecTables, level: int) -> int:
    return zlib.crc32(rows.astype("<i4").tobytes(), zlib.crc32(tables.digest + bytes([level])))


def _rows(symbols: NDArray[np.integer], tables: CodecTables, level: int) -> NDArray[np.int64]:
    """The symbols as ``(C, H * W)``."""
    shape = tables.shape(level)
    if symbols.shape != shape or symbols.dtype.kind not in "iu":
        raise ValueError(
            f"symbols are {symbols.dtype} {symbols.shape}, level {level} of these tables takes integers {shape}; round "
            "the latent first"
        )
    limits = np.iinfo(np.int32)
    if symbols.size and not (symbols.min() >= limits.min and symbols.max() <= limits.max):
        raise ValueError(f"symbols reach from {symbols.min()} to {symbols.max()}, expected values within int32")
    return symbols.astype(np.int64).reshape(shape[0], shape[1] * shape[2])


def _slots(rows: NDArray[np.int64], table: FrequencyTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The slot of each symbol, and for those outside, in order, the u of the module's text."""
    slots = rows - table.first_values[:, None]
    num_values = np.broadcast_to(table.num_slots.astype(np.int64)[:, None] - 1, slots.shape)
    escaped = (slots < 0) | (slots >= num_values)
    over, num_inside = slots[escaped], num_values[escaped]
    slots[escaped] = num_inside
    return slots, np.where(over < 0, -2 * over - 1, 2 * (over - num_inside))


def _escape_bits(outside: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """What is written for the values outside: numbers and their bits, in the order of decoding."""
    for code in (outside + 1).tolist():
        length = code.bit_length()
        yield length, _LENGTH_BITS
        left = length - 1
        while left:
            num_bits = min(left, MOST_BITS_AT_ONCE)
            left -= num_bits
            yield code >> left & ((1 << num_bits) - 1), num_bits


def _pop_escapes(stack: RansStack, table: FrequencyTable, channels: NDArray[np.int64]) -> list[int]:
    """The values outside, given the channel of each.

    Raises:
        PayloadError: one is not within int32, or the stack holds fewer.
    """
    firsts, last_slots = table.first_values.tolist(), table.num_slots.tolist()
    values = []
    for channel in channels.tolist():
        length = stack.pop_bits(_LENGTH_BITS)
        if not 1 <= length <= _MOST_ESCAPE_BITS:
            raise PayloadError("damaged", f"an escape of {length} bits came, expected 1 to {_MOST_ESCAPE_BITS}")
        code, left = 1, length - 1
        while left:
            num_bits = min(left, MOST_BITS_AT_ONCE)
            left -= num_bits
            code = code << num_bits | stack.pop_bits(num_bits)
        half, below = divmod(code - 1, 2)
        value = firsts[channel] - 1 - half if below else firsts[channel] + last_slots[channel] - 1 + half
        if not -(1 << 31) <= value < 1 << 31:
            raise PayloadError("damaged", f"an escape of the value {value} came, expected one within int32")
        values.append(value)
    return values
