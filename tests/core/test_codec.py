"""Payloads: what goes in comes out, bytes are golden and near the entropy, damage and size are refused."""

from __future__ import annotations

import importlib
import itertools
import json
import pickle
import sys
import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from codec_cases import (
    ACCELERATORS,
    INT32_MAX,
    INT32_MIN,
    draw,
    each_accelerator,
    each_coder,
    laplace,
    level,
    needs_numba,
    tables_and_symbols,
    usual_tables,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from littoral.core import codec, rans_compiled, rans_fast
from littoral.core.codec import (
    HEADER_BYTES,
    MIN_PAYLOAD_BYTES,
    decode,
    encode,
    expected_bits,
    predict_bytes,
    rate_bits,
    read_header,
    worst_case_bytes,
)
from littoral.core.codec_tables import ChannelPrior, CodecTables
from littoral.core.rans import RansStack, ReferenceCoder
from littoral.core.rans_compiled import CompiledCoder, _compiled
from littoral.core.rans_fast import ConstrictionCoder
from littoral.errors import LittoralError, PayloadError

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "golden" / "codec-payloads.json").read_text())
Case = tuple[CodecTables, NDArray[np.int32]]


def evened(payload: bytes) -> bytes:
    """The payload with the byte that its sum needs, as a peer would write it who means harm."""
    rest = payload[:3] + payload[4:]
    return payload[:3] + bytes([-sum(rest) & 0xFF]) + payload[4:]


def payload_of(stack: RansStack, tables: CodecTables, number: int = 0) -> bytes:
    """A payload with whatever stack, made by hand from the page on the format."""
    return evened(bytes([0x20 | number]) + tables.digest[:2] + b"\0" + stack.to_bytes())


def three_payloads() -> list[bytes]:
    tables = usual_tables()
    outside = draw(tables, 1, 3)
    outside[0, 0], outside[1, 2, 3] = (300, -9, 70_000, INT32_MIN), INT32_MAX
    return [
        encode(draw(tables, 0, 1), tables, level=0),
        encode(outside, tables, level=1),
        encode(np.zeros((0, 4, 4), np.int32), tables, level=2),
    ]


# Round trips.


@each_coder
@given(case=tables_and_symbols())
@settings(max_examples=60, deadline=None)
def test_what_goes_in_comes_out(use_reference: bool, case: Case) -> None:
    tables, symbols = case
    payload = encode(symbols, tables, level=0, use_reference=use_reference)
    decoded = decode(payload, tables, use_reference=use_reference)
    assert decoded.level == 0
    assert decoded.symbols.dtype == np.int32
    np.testing.assert_array_equal(decoded.symbols, symbols)
    assert MIN_PAYLOAD_BYTES <= len(payload) <= worst_case_bytes(symbols.size)


@each_accelerator
@given(case=tables_and_symbols())
@settings(max_examples=100, deadline=None)
def test_the_accelerator_writes_the_references_bytes_and_reads_them(use_reference: bool, case: Case) -> None:
    tables, symbols = case
    payload = encode(symbols, tables, level=0, use_reference=True)
    assert encode(symbols, tables, level=0) == payload
    np.testing.assert_array_equal(decode(payload, tables).symbols, symbols)


@each_accelerator
@pytest.mark.parametrize("seed", range(8))
def test_the_accelerator_agrees_on_larger_latents(seed: int, use_reference: bool) -> None:
    rng = np.random.default_rng(seed)
    channels = [laplace(float(scale), most=int(rng.integers(1, 60))) for scale in rng.uniform(0.1, 20, 6)]
    tables = CodecTables(height=16, width=12, levels=(level(*channels),))
    symbols = np.rint(rng.laplace(0, rng.uniform(0.1, 30), tables.shape(0))).astype(np.int32)
    payload = encode(symbols, tables, level=0, use_reference=True)
    assert encode(symbols, tables, level=0) == payload
    for by_reference in (True, False):
        np.testing.assert_array_equal(decode(payload, tables, use_reference=by_reference).symbols, symbols)


def test_without_the_accelerator_the_reference_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ACCELERATORS:
        monkeypatch.setitem(sys.modules, name, None)
    tables = usual_tables()
    assert tables.levels[0].coder is tables.levels[0].reference_coder
    symbols = draw(tables, 0, 0)
    np.testing.assert_array_equal(decode(encode(symbols, tables, level=0), tables).symbols, symbols)


@each_accelerator
def test_with_an_accelerator_the_reference_does_not_code(use_reference: bool, request: pytest.FixtureRequest) -> None:
    tables, expected = usual_tables(), {"numba": CompiledCoder, "constriction": ConstrictionCoder}
    encode(draw(tables, 0, 0), tables, level=0)
    coder = tables.levels[0].coder
    assert type(vars(coder).get("_many", coder)) is expected[request.node.callspec.params["use_reference"]]


@needs_numba
def test_a_large_latent_alone_loads_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rans_fast, "MANY_SLOTS", 3 * 4 * 4)
    tables = usual_tables()
    for number, loaded in ((0, True), (1, False)):
        decode(encode(draw(tables, number, 0), tables, level=number), tables)
        assert ("_many" in vars(tables.levels[number].coder)) is loaded


@needs_numba
def test_a_compiler_that_cannot_be_imported_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed, but for another NumPy."""
    monkeypatch.setattr(rans_fast, "MANY_SLOTS", 0)
    monkeypatch.setitem(sys.modules, "constriction", None)
    monkeypatch.setattr(rans_compiled, "import_module", Mock(side_effect=ImportError("Numba needs NumPy 2.4 or less")))
    tables = usual_tables()
    symbols = draw(tables, 0, 0)
    np.testing.assert_array_equal(decode(encode(symbols, tables, level=0), tables).symbols, symbols)
    assert type(tables.levels[0].coder._many) is ReferenceCoder


@each_coder
def test_symbols_may_lie_in_memory_in_any_order(use_reference: bool) -> None:
    """As an array that was turned does; a compiled coder takes rows one after the other."""
    tables = CodecTables(height=1, width=6, levels=(level(laplace(2.0), laplace(0.5), laplace(4.0)),))
    symbols = draw(tables, 0, 0)
    payload = encode(symbols, tables, level=0, use_reference=use_reference)
    for order in itertools.permutations(range(3)):
        turned = np.ascontiguousarray(symbols.transpose(order)).transpose(np.argsort(order))
        assert encode(turned, tables, level=0, use_reference=use_reference) == payload


@needs_numba
@pytest.mark.parametrize("most_bits", [0, 3, 6])
def test_many_tables_have_smaller_lookups(monkeypatch: pytest.MonkeyPatch, most_bits: int) -> None:
    monkeypatch.setattr(rans_compiled, "_MOST_LOOKUP_BITS", most_bits)
    monkeypatch.setattr(rans_fast, "MANY_SLOTS", 0)
    tables = usual_tables()
    symbols = draw(tables, 0, 0)
    payload = encode(symbols, tables, level=0, use_reference=True)
    assert encode(symbols, tables, level=0) == payload
    np.testing.assert_array_equal(decode(payload, tables).symbols, symbols)


@needs_numba
def test_what_cannot_be_kept_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder may be written to, as in many a container."""
    numba = importlib.import_module("numba")
    njit = numba.njit

    def refuses_to_keep(*args: object, **options: object) -> object:
        if options.get("cache"):
            return lambda _: (_ for _ in ()).throw(RuntimeError("cannot cache function: no locator available"))
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", refuses_to_keep)
    _compiled.cache_clear()
    try:
        CompiledCoder(usual_tables().levels[0].rows)
    finally:
        _compiled.cache_clear()


def test_each_level_comes_back_with_its_number_and_shape() -> None:
    tables = usual_tables()
    shapes = []
    for number, payload in enumerate(three_payloads()):
        header, decoded = read_header(payload), decode(payload, tables)
        assert (header.level, header.tables_name) == (decoded.level, tables.name) == (number, tables.digest[:2])
        shapes.append(decoded.symbols.shape)
    assert shapes == [(3, 4, 4), (2, 4, 4), (0, 4, 4)]


@pytest.mark.parametrize("dtype", [">i4", "<i4", ">i8", "<i8", ">i2", "i1"])
def test_byte_order_and_width_of_the_input_do_not_matter(dtype: str) -> None:
    tables = usual_tables()
    symbols = draw(tables, 0, 5)
    assert encode(symbols.astype(dtype), tables, level=0) == encode(symbols, tables, level=0)


def test_an_input_that_is_not_contiguous_is_read_in_its_own_order() -> None:
    tables = usual_tables()
    symbols = draw(tables, 0, 6)
    turned = np.ascontiguousarray(symbols.transpose(2, 1, 0)).transpose(2, 1, 0)
    assert not turned.flags.c_contiguous
    assert encode(turned, tables, level=0) == encode(symbols, tables, level=0)


# Golden bytes.


def golden_tables() -> CodecTables:
    levels = tuple(
        level(
            *(ChannelPrior(pmf=np.array(pmf), first_value=first, escape=escape) for pmf, first, escape in channels),
            max_bytes=GOLDEN["max_bytes"],
        )
        for channels in GOLDEN["priors"]
    )
    return CodecTables(height=GOLDEN["grid"][0], width=GOLDEN["grid"][1], levels=levels)


def test_golden_weights_give_the_golden_counts_and_digest() -> None:
    tables = golden_tables()
    assert [table.counts.tolist() for table in tables.levels] == GOLDEN["counts"]
    assert tables.digest.hex() == GOLDEN["digest"]


@each_coder
@pytest.mark.parametrize("case", GOLDEN["payloads"], ids=lambda case: case["name"])
def test_golden_payloads_never_change(case: dict[str, Any], use_reference: bool) -> None:
    tables, golden = golden_tables(), bytes.fromhex(case["payload"])
    symbols = np.array(case["symbols"], np.int32).reshape(tables.shape(case["level"]))
    assert encode(symbols, tables, level=case["level"], use_reference=use_reference) == golden
    decoded = decode(golden, tables, use_reference=use_reference)
    assert decoded.level == case["level"]
    np.testing.assert_array_equal(decoded.symbols, symbols)


# Size.


@pytest.mark.parametrize(
    ("channels", "side", "scale"),
    [(4, 16, 0.3), (16, 8, 1.0), (64, 16, 4.0), (1, 32, 0.1), (200, 4, 2.0)],
    ids=["sparse", "usual", "fine", "one channel", "many channels"],
)
def test_a_payload_is_as_long_as_its_entropy_header_and_checksum(channels: int, side: int, scale: float) -> None:
    table = level(*(laplace(scale * (1 + c % 3), most=20) for c in range(channels)))
    tables = CodecTables(height=side, width=side, levels=(table,))
    symbols = draw(tables, 0, channels)
    symbols[0, 0, :2] = 1_000, -1_000
    bits = 0.0
    for row, first, values in zip(table.rows, table.first_values, symbols.reshape(channels, -1), strict=True):
        slots = values - first
        bits -= np.log2(row[np.where((slots < 0) | (slots > 40), 41, slots)] / 2**24).sum()
    bits += 6 + 10 + 6 + 10  # 1000 - 20 - 1 = 979, u + 1 = 1959; 1000 - 20 - 1 = 979, u + 1 = 1960: 11 bits each
    payload = encode(symbols, tables, level=0)
    assert rate_bits(symbols, tables, level=0) == pytest.approx(bits)
    assert bits / 8 < len(payload) <= 1.001 * bits / 8 + 8.2
    assert abs(predict_bytes(bits) - len(payload)) <= 1 + 0.001 * len(payload)


def test_a_level_is_priced_before_a_frame_is_seen() -> None:
    tables = CodecTables(height=64, width=64, levels=(level(laplace(1.0), laplace(3.0), laplace(0.2)),))
    measured = len(encode(draw(tables, 0, 0), tables, level=0))
    assert predict_bytes(expected_bits(tables, level=0)) == pytest.approx(measured, rel=0.02)


def test_the_shortest_payload_has_eight_bytes() -> None:
    payload = three_payloads()[2]
    assert len(payload) == MIN_PAYLOAD_BYTES == predict_bytes(0.0) == 8


def test_nothing_is_longer_than_the_worst_case() -> None:
    """Every symbol an escape of the dearest kind, under a table that gives escapes the smallest count."""
    prior = ChannelPrior(pmf=np.ones(1), first_value=INT32_MAX)
    tables = CodecTables(height=8, width=8, levels=(level(prior, prior),))
    symbols = np.full((2, 8, 8), INT32_MIN, np.int32)
    payload = encode(symbols, tables, level=0)
    assert 0.95 * worst_case_bytes(128) < len(payload) <= worst_case_bytes(128)
    np.testing.assert_array_equal(decode(payload, tables).symbols, symbols)


# Damage.


@each_coder
@pytest.mark.parametrize("number", range(3))
def test_every_changed_byte_is_refused(number: int, use_reference: bool) -> None:
    tables, payload = usual_tables(), three_payloads()[number]
    for at, mask in itertools.product(range(len(payload)), range(1, 256)):
        damaged = bytearray(payload)
        damaged[at] ^= mask
        with pytest.raises(PayloadError):
            decode(bytes(damaged), tables, use_reference=use_reference)


@each_coder
@pytest.mark.parametrize("number", range(3))
def test_every_truncation_and_extension_is_refused(number: int, use_reference: bool) -> None:
    tables, payload = usual_tables(), three_payloads()[number]
    cut = [payload[:length] for length in range(len(payload))]
    for damaged in [*cut, *(part[at:] for part in [payload] for at in range(1, len(part))), payload + b"\0"]:
        with pytest.raises(PayloadError):
            decode(damaged, tables, use_reference=use_reference)
    for damaged in [evened(part) for part in cut if len(part) > HEADER_BYTES] + [payload + bytes([1, 255])]:
        with pytest.raises(PayloadError):  # the sum is right, the checksum under the symbols is not
            decode(damaged, tables, use_reference=use_reference)


def flips_with_an_even_sum(payload: bytes) -> list[bytes]:
    """Each bit of the coder's stack flipped, and the sum made right again."""
    found = []
    for bit in range(8 * HEADER_BYTES, 8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        found.append(evened(bytes(damaged)))
    return found


@each_coder
@pytest.mark.parametrize("number", range(3))
def test_damage_that_keeps_the_sum_meets_the_checksum(number: int, use_reference: bool) -> None:
    tables, payload = usual_tables(), three_payloads()[number]
    for damaged in flips_with_an_even_sum(payload):
        with pytest.raises(PayloadError, match=r"checksum|too early|escape"):
            decode(damaged, tables, use_reference=use_reference)


def accepted(payloads: list[bytes], tables: CodecTables) -> int:
    count = 0
    for payload in payloads:
        try:
            decode(payload, tables)
        except PayloadError:
            continue
        count += 1
    return count


def test_without_the_checksum_damage_is_decoded_to_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the coder alone does not notice."""
    tables, payload = usual_tables(), three_payloads()[0]
    damaged = flips_with_an_even_sum(payload)
    assert accepted(damaged, tables) == 0
    monkeypatch.setattr(codec, "_check", lambda *_: None)
    monkeypatch.setattr(RansStack, "check", None)
    assert accepted(damaged, tables) > len(damaged) / 4


@each_coder
@given(body=st.binary(min_size=1, max_size=80), number=st.integers(0, 15))
@settings(max_examples=150, deadline=None)
def test_noise_behind_a_good_header_is_refused(use_reference: bool, body: bytes, number: int) -> None:
    tables = usual_tables()
    with pytest.raises(PayloadError):
        decode(
            evened(bytes([0x20 | number]) + tables.digest[:2] + b"\0" + body),
            tables,
            use_reference=use_reference,
        )


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(PayloadError):
        decode(data, usual_tables())


@each_coder
def test_a_payload_of_other_tables_is_refused_and_both_are_named(use_reference: bool) -> None:
    tables, other = usual_tables(), CodecTables(height=4, width=4, levels=(level(laplace(2.1)),))
    payload = encode(draw(other, 0, 0), other, level=0)
    with pytest.raises(PayloadError, match=f"{other.name.hex()} came, these are {tables.name.hex()}") as e:
        decode(payload, tables, use_reference=use_reference)
    assert e.value.code == "other-tables"
    renamed = evened(payload[:1] + tables.name + payload[3:])
    with pytest.raises(PayloadError):
        decode(renamed, tables, use_reference=use_reference)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda p: b"\x10" + p[1:], "other-codec"),
        (lambda p: b"\x4c\x10" + p[2:], "other-codec"),
        (lambda p: b"\x30" + p[1:], "other-tables"),
        (lambda p: b"\x23" + p[1:], "damaged"),
        (lambda p: b"\x21" + p[1:], "damaged"),
        (lambda p: p[:7], "damaged"),
        (lambda p: p + bytes(2_000_000), "too-large"),
    ],
    ids=["codec", "codec 1", "other kind", "no such level", "another level", "short", "long"],
)
def test_each_refusal_has_its_code(spoil: Callable[[bytes], bytes], code: str) -> None:
    payload = evened(spoil(three_payloads()[0]))
    with pytest.raises(PayloadError) as caught:
        decode(payload, usual_tables())
    assert caught.value.code == code
    assert isinstance(caught.value, LittoralError)
    assert isinstance(caught.value, ValueError)


def test_a_payload_of_the_first_codec_is_refused_by_name() -> None:
    golden_of_codec_1 = bytes.fromhex("4c107d36cd4fb49a4e57fc984e")
    with pytest.raises(PayloadError, match="codec 1, of an older version, came, expected 2 or 3; update") as caught:
        decode(golden_of_codec_1, golden_tables())
    assert caught.value.code == "other-codec"


# Ceilings.


def peak_bytes(work: Callable[[], object]) -> int:
    """How much more memory a piece of work held at its height."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_a_payload_over_the_ceiling_is_not_even_read() -> None:
    tables = CodecTables(height=4, width=4, levels=(level(laplace(2.0), max_bytes=64),))
    payload = encode(draw(tables, 0, 0), tables, level=0)
    long = evened(payload + bytes(4_000_000) + b"\1")

    def refused() -> None:
        with pytest.raises(PayloadError, match=f"of {len(long)} bytes came, these tables allow 64"):
            decode(long, tables)

    decode(payload, tables)
    assert peak_bytes(refused) < 100_000


def test_of_a_payload_that_is_too_long_it_is_said_that_it_is_anothers() -> None:
    tables = CodecTables(height=4, width=4, levels=(level(laplace(2.0), max_bytes=12),))
    with pytest.raises(PayloadError, match=f"these are {tables.name.hex()}; both sides must run") as caught:
        decode(three_payloads()[0], tables)
    assert caught.value.code == "other-tables"
    with pytest.raises(PayloadError) as caught:
        decode(b"L" * 1000, tables)
    assert caught.value.code == "too-large"


def test_a_level_has_its_own_ceiling() -> None:
    tables = CodecTables(height=4, width=4, levels=(level(laplace(2.0), max_bytes=400), level(laplace(2.0))))
    stack = RansStack(1 << 40, array("I", [0] * 200))
    with pytest.raises(PayloadError, match="level 0 allows 400") as caught:
        decode(payload_of(stack, tables, 0), tables)
    assert caught.value.code == "too-large"
    with pytest.raises(PayloadError, match="checksum"):
        decode(payload_of(stack, tables, 1), tables)


def test_symbols_over_the_ceiling_are_not_sent() -> None:
    symbols = draw(CodecTables(height=8, width=8, levels=(level(laplace(2.0)),)), 0, 0)
    size = len(encode(symbols, CodecTables(height=8, width=8, levels=(level(laplace(2.0)),)), level=0))
    for ceiling, fits in ((size, True), (size - 1, False)):
        tables = CodecTables(height=8, width=8, levels=(level(laplace(2.0), max_bytes=ceiling),))
        if fits:
            assert len(encode(symbols, tables, level=0)) == size
            continue
        with pytest.raises(PayloadError, match=f"take {size} bytes, level 0 allows {ceiling}; take a coarser") as e:
            encode(symbols, tables, level=0)
        assert e.value.code == "too-large"


def test_a_frame_that_blows_up_every_symbol_is_refused_before_it_is_coded(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = CodecTables(height=64, width=64, levels=(level(laplace(2.0), max_bytes=200),))
    monkeypatch.setattr(RansStack, "start", None)  # whoever starts a stack fails
    with pytest.raises(PayloadError, match="more than 200 bytes"):
        encode(np.full((1, 64, 64), INT32_MIN, np.int32), tables, level=0)


@each_coder
@pytest.mark.parametrize(
    ("bits", "told"),
    [
        ([(0, 6)], "an escape of 0 bits"),
        ([(34, 6)], "an escape of 34 bits"),
        ([(63, 6), *[(0xFFFF, 16)] * 4], "an escape of 63 bits"),
        ([(33, 6), (0xFFFF, 16), (0xFFFF, 16)], "an escape of the value 4294967298"),
        ([(33, 6), (0xFFFF, 16), (0xFFFE, 16)], "an escape of the value -4294967295"),
        ([(32, 6), (0xFFFF, 16), (0x7FFB, 15)], "an escape of the value 2147483648"),
        ([(33, 6), (0, 16), (2, 16)], "an escape of the value -2147483649"),
        ([(32, 6), (0xFFFF, 16), (0x7FF9, 15)], "checksum does not match"),
    ],
    ids=["no bits", "34 bits", "63 bits", "far above", "far below", "just above", "just below", "within"],
)
def test_an_escape_that_no_coder_writes_is_refused(bits: list[tuple[int, int]], told: str, use_reference: bool) -> None:
    prior = ChannelPrior(pmf=np.ones(3), first_value=0, escape=1.0)
    tables = CodecTables(height=1, width=1, levels=(level(prior),))
    stack = RansStack.start(1)
    for value, num_bits in reversed(bits):
        stack.push_bits(value, num_bits)
    stack = tables.levels[0].reference_coder.push(stack, np.array([0]), np.array([[3]]))
    with pytest.raises(PayloadError, match=told):
        decode(payload_of(stack, tables), tables, use_reference=use_reference)


@each_coder
def test_escapes_without_end_stop_where_the_bytes_do(use_reference: bool) -> None:
    """Slots that cost nothing announce an escape each; the stack is empty long before all are read."""
    prior = ChannelPrior(pmf=np.zeros(1), first_value=0, escape=1.0)
    tables = CodecTables(height=200, width=200, levels=(level(prior, max_bytes=100),))
    stack = tables.levels[0].reference_coder.push(RansStack.start(1), np.array([0]), np.full((1, 40_000), 1))
    with pytest.raises(PayloadError, match=r"too early|an escape of"):
        decode(payload_of(stack, tables), tables, use_reference=use_reference)


# The caller's mistakes.


@pytest.mark.parametrize(
    ("symbols", "told"),
    [
        (np.zeros((3, 4, 4), np.float32), r"symbols are float32 \(3, 4, 4\).*round the latent first"),
        (np.zeros((2, 4, 4), np.int32), r"int32 \(2, 4, 4\), level 0 of these tables takes integers \(3, 4, 4\)"),
        (np.zeros((3, 4, 4), bool), "symbols are bool"),
        (np.full((3, 4, 4), INT32_MAX + 1, np.int64), "expected values within int32"),
        (np.full((3, 4, 4), 1 << 63, np.uint64), "expected values within int32"),
    ],
    ids=["float", "shape", "bool", "above int32", "above int64"],
)
@pytest.mark.parametrize("work", [encode, rate_bits], ids=["encode", "rate_bits"])
def test_symbols_that_are_none_are_refused(work: Callable[..., object], symbols: NDArray[Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        work(symbols, usual_tables(), level=0)


@pytest.mark.parametrize("number", [-1, 3])
def test_a_level_that_is_not_there_is_named(number: int) -> None:
    with pytest.raises(ValueError, match=f"level {number} was asked for, these tables have 0 to 2"):
        encode(np.zeros((3, 4, 4), np.int32), usual_tables(), level=number)


def test_tables_go_to_another_process_after_use() -> None:
    tables = usual_tables()
    payload = encode(draw(tables, 0, 0), tables, level=0)
    other = pickle.loads(pickle.dumps(tables))  # noqa: S301
    assert other.digest == tables.digest
    np.testing.assert_array_equal(decode(payload, other).symbols, decode(payload, tables).symbols)
