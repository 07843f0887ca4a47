"""Symbols to a payload and back: the bytes of a split.

    byte 0        codec in the upper four bits, level in the lower
    bytes 1 to 2  the tables' name, the first 2 bytes of their digest
    byte 3        makes all bytes of the payload add up to 0 modulo 256
    byte 4 ...    the coder's stack (`littoral.core.rans`): little-endian words without the zeros at the end

The stack starts from 24 bits of a CRC-32 of the tables' digest, the level and the symbols, so what was decoded is
compared with what was encoded, whatever happened between. Upon it lie the escapes' values, the last first, and then the
slots. For the value v of a symbol whose table has slots for a to b, u is ``2 (v - b - 1)`` above and
``2 (a - 1 - v) + 1`` below; written are the bit length of u + 1, in 6 bits, and u + 1 without its leading 1, at most 32
bits. A symbol costs at most 62 bits.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.core.codec_contexts import ContextTable
from littoral.core.codec_slots import Escaped
from littoral.core.codec_tables import NAME_BYTES, CodecTables, FrequencyTable
from littoral.core.rans import CHECK_BITS, MIN_STACK_BYTES, MOST_BITS_AT_ONCE, RansStack
from littoral.errors import PayloadError

STATIC, CONTEXTS = 2, 3
"""rANS with tables of 24 bits, one per channel and level, or chosen by what is known of a symbol's neighbours. Codec 1
had seven bytes of header, and began with 0x4C: as codec 4 of this header, which therefore is none."""
HEADER_BYTES = 4
MIN_PAYLOAD_BYTES = HEADER_BYTES + MIN_STACK_BYTES
_HEADER = struct.Struct(f"<B{NAME_BYTES}s")  # and the byte that evens out the sum
_MAGIC_OF_1 = 0x4C
_INT32 = np.iinfo(np.int32)
_LENGTH_BITS = 6
_MOST_ESCAPE_BITS = 33
_START_BITS = CHECK_BITS + 0.5  # the stack's start is 2**24 to 2**25
_MOST_SYMBOL_BYTES = 8  # 24 + 6 + 32 bits, and what five steps of the coder may lose

Symbols = NDArray[np.int32]
"""The whole numbers made of a latent, ``(C, H, W)``."""


@dataclass(frozen=True, kw_only=True)
class PayloadHeader:
    """What a payload says of itself. Nothing but its sum has been checked."""

    tables_name: bytes
    """Of the tables that it was coded with (`littoral.core.codec_tables.CodecTables.name`)."""
    has_contexts: bool
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
    coded = table.coded(rows)
    outside = coded.outside
    if len(outside) * _LENGTH_BITS > 8 * table.max_bytes:  # before time is spent on what a hostile frame blew up
        raise _too_large(f"more than {table.max_bytes}", table, level)
    stack = RansStack.start(_check(symbols, tables, level))
    for value, num_bits in reversed(list(_escape_bits(outside))):
        stack.push_bits(value, num_bits)
    stack = table.push(stack, coded, use_reference=use_reference)
    header = _HEADER.pack(_codec_of(tables) << 4 | level, tables.name)
    body = stack.to_bytes()
    payload = header + bytes([-(_sum(header) + _sum(body)) & 0xFF]) + body
    if len(payload) > table.max_bytes:
        raise _too_large(str(len(payload)), table, level)
    return payload


def _codec_of(tables: CodecTables) -> int:
    return CONTEXTS if tables.has_contexts else STATIC


def _too_large(size: str, table: FrequencyTable | ContextTable, level: int) -> PayloadError:
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
    codec_and_level, name = _HEADER.unpack_from(payload)
    codec, level = divmod(codec_and_level, 16)
    if codec not in (STATIC, CONTEXTS):
        which = "1, of an older version," if codec_and_level == _MAGIC_OF_1 else str(codec)
        raise PayloadError(
            "other-codec",
            f"a payload of codec {which} came, expected {STATIC} or {CONTEXTS}; update the older of the two sides",
        )
    return PayloadHeader(tables_name=name, has_contexts=codec == CONTEXTS, level=level)


def decode(payload: bytes, tables: CodecTables, *, use_reference: bool = False) -> Decoded:
    """The inverse of `encode`, for bytes from an untrusted peer.

    The shape is the tables', so nothing is allocated by what the bytes ask for, and longer ones than the level's
    ceiling are not looked at. What is accepted is, byte for byte, what `encode` gives for the symbols returned.

    Raises:
        PayloadError: ``damaged``, ``too-large``, ``other-codec`` or ``other-tables``. Nothing was decoded.
    """
    ceiling = max(level.max_bytes for level in tables.levels)
    if len(payload) > ceiling:
        name = payload[1 : 1 + NAME_BYTES]
        if payload[0] >> 4 in (STATIC, CONTEXTS) and name != tables.name:  # not noise, as far as its first bytes go
            raise _other_tables(name, tables)
        raise PayloadError("too-large", f"a payload of {len(payload)} bytes came, these tables allow {ceiling}")
    header = read_header(payload)
    if header.tables_name != tables.name or header.has_contexts != tables.has_contexts:
        raise _other_tables(header.tables_name, tables)
    if header.level >= len(tables.levels):
        raise PayloadError("damaged", f"a payload of level {header.level} came, there are {len(tables.levels)}")
    table = tables.level(header.level)
    if len(payload) > table.max_bytes:
        raise PayloadError(
            "too-large", f"a payload of {len(payload)} bytes came, level {header.level} allows {table.max_bytes}"
        )
    stack = RansStack.from_bytes(payload[HEADER_BYTES:])
    rows, escaped, stack = table.pop(stack, tables.height * tables.width, use_reference=use_reference)
    rows.flat[escaped.at] = _pop_escapes(stack, escaped)
    symbols = rows.astype(np.int32)
    if (symbols != rows).any():
        raise PayloadError("damaged", "a value beyond int32 came; the payload was damaged, ask for it again")
    if stack.check != _check(symbols, tables, header.level):
        raise PayloadError("damaged", "the payload's checksum does not match; it was damaged, ask for it again")
    return Decoded(level=header.level, symbols=symbols.reshape(tables.shape(header.level)))


def _other_tables(name: bytes, tables: CodecTables) -> PayloadError:
    return PayloadError(
        "other-tables",
        f"a payload of the tables {name.hex()} came, these are {tables.name.hex()}; both sides must run the same "
        "bundle",
    )


def rate_bits(symbols: NDArray[np.integer], tables: CodecTables, *, level: int) -> float:
    """What the symbols cost under the tables, ``-log2 p``, without coding them; escapes included, the header not.

    Raises:
        ValueError: another shape, type or range.
    """
    table = tables.level(level)
    coded = table.coded(_rows(symbols, tables, level))
    lengths = np.frexp((coded.outside + 1).astype(np.float64))[1]  # the bit lengths, exact below 2**53
    escapes = int(lengths.sum()) + (_LENGTH_BITS - 1) * len(lengths)
    return table.bits(coded) + escapes


def expected_bits(tables: CodecTables, *, level: int) -> float:
    """`rate_bits` in expectation, if symbols come as the tables say: what a level costs before a frame is seen."""
    return tables.level(level).entropy_bits * tables.height * tables.width


def predict_bytes(bits: float) -> int:
    """The length of a payload whose symbols cost so much; true within a byte in a thousand, and one."""
    return HEADER_BYTES + max(MIN_STACK_BYTES, math.ceil((bits + _START_BITS) / 8))


def _sum(data: bytes) -> int:
    return int(np.frombuffer(data, np.uint8).sum(dtype=np.uint64)) & 0xFF


def _check(symbols: NDArray[np.integer], tables: CodecTables, level: int) -> int:
    found = zlib.crc32(np.ascontiguousarray(symbols, "<i4").data, zlib.crc32(tables.digest + bytes([level])))
    return found & ((1 << CHECK_BITS) - 1)


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
    return np.ascontiguousarray(symbols, np.int64).reshape(shape[0], shape[1] * shape[2])


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


def _pop_escapes(stack: RansStack, escaped: Escaped) -> list[int]:
    """The values outside, in order.

    Raises:
        PayloadError: one is not within int32, or the stack holds fewer.
    """
    values = []
    for first, last in zip(escaped.firsts.tolist(), escaped.lasts.tolist(), strict=True):
        length = stack.pop_bits(_LENGTH_BITS)
        if not 1 <= length <= _MOST_ESCAPE_BITS:
            raise PayloadError("damaged", f"an escape of {length} bits came, expected 1 to {_MOST_ESCAPE_BITS}")
        code, left = 1, length - 1
        while left:
            num_bits = min(left, MOST_BITS_AT_ONCE)
            left -= num_bits
            code = code << num_bits | stack.pop_bits(num_bits)
        half, below = divmod(code - 1, 2)
        value = first - 1 - half if below else last + 1 + half
        if not -(1 << 31) <= value < 1 << 31:
            raise PayloadError("damaged", f"an escape of the value {value} came, expected one within int32")
        values.append(value)
    return values
