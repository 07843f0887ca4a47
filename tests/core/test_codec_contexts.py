"""Tables that look at neighbours: both sides choose alike, bytes are golden, and damage is refused."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codec_cases import INT32_MAX, INT32_MIN, each_accelerator, each_coder
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from littoral.core.codec import MIN_PAYLOAD_BYTES, decode, encode, expected_bits, rate_bits
from littoral.core.codec_contexts import ContextTable, _Known, tables_of
from littoral.core.codec_parts import phases_of
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable, quantise_prior
from littoral.errors import PayloadError

GOLDEN_OF = {
    kind: json.loads((Path(__file__).resolve().parents[1] / "golden" / f"codec-{kind}.json").read_text())
    for kind in ("contexts", "groups")
}
GOLDEN = GOLDEN_OF["contexts"]
EACH_GOLDEN = [
    pytest.param(kind, case, id=f"{kind}-{case['name']}")
    for kind, golden in GOLDEN_OF.items()
    for case in golden["payloads"]
]


def golden_tables(kind: str = "contexts") -> CodecTables:
    tensors = {name: np.array(value["values"], value["type"]) for name, value in GOLDEN_OF[kind]["tensors"].items()}
    return CodecTables.from_tensors(tensors)


def context_table(
    seed: int, channels: int, height: int, width: int, *, far: bool = False, grouped: bool = False
) -> ContextTable:
    rng = np.random.default_rng(seed)
    bins, fractions, slots = (int(rng.integers(1, most)) for most in (5, 6, 12))
    rows = [
        quantise_prior(ChannelPrior(pmf=1.0 + rng.integers(0, 50, slots), first_value=0, escape=1.0))
        for _ in range(bins * fractions)
    ]
    most, starts = 32_000 if far else 1500, np.zeros(0, np.uint32)
    if grouped:
        starts = np.sort(rng.permutation(np.arange(1, channels))[: rng.integers(1, channels)]).astype(np.uint32)
    ends = [*starts.tolist(), channels]
    near = ends[rng.integers(0, len(ends))] if grouped else channels
    largest = max(end - start for start, end in zip([0, *ends], ends, strict=False) if end <= near)
    shape = (2, near, largest, 4)
    places = (3, 1) if grouped else (height, width) if rng.random() < 0.5 else (1, 1)
    return ContextTable(
        height=height,
        width=width,
        mean_weights=rng.integers(-most, most, shape).astype(np.int16),
        scale_weights=rng.integers(-most, most, shape).astype(np.int16),
        mean_bias=rng.integers(-9000, 9000, (channels, *places)).astype(np.int32),
        scale_bias=rng.integers(-9000, 9000, (channels, *(places if grouped else (1, 1)))).astype(np.int32),
        thresholds=np.sort(rng.integers(-9000, 30_000, bins - 1)).astype(np.int32),
        counts=np.stack(rows).reshape(bins, fractions, slots + 1),
        first_value=int(rng.integers(-slots, 1)),
        max_bytes=100_000,
        usual_bits=100,
        group_starts=starts,
        group_weights=rng.integers(-most, most, (3, channels, len(starts))).astype(np.int16),
    )


@st.composite
def tables_and_symbols(draw: st.DrawFn) -> tuple[CodecTables, NDArray[np.int32]]:
    grouped = draw(st.booleans())
    channels, height, width = (
        draw(st.integers(2, 6) if grouped else st.integers(1, 3)),
        *(draw(st.integers(1, most)) for most in (4, 5)),
    )
    seed, far = draw(st.integers(0, 1000)), draw(st.booleans())
    table = context_table(seed, channels, height, width, far=far, grouped=grouped)
    value = st.integers(-5, 5) | st.sampled_from([INT32_MIN, INT32_MAX]) | st.integers(INT32_MIN, INT32_MAX)
    num_symbols = channels * height * width
    symbols = draw(st.lists(value, min_size=num_symbols, max_size=num_symbols))
    tables = CodecTables(height=height, width=width, levels=(table,))
    return tables, np.array(symbols, np.int32).reshape(tables.shape(0))


@each_coder
@given(case=tables_and_symbols())
@settings(max_examples=80, deadline=None)
def test_what_goes_in_comes_out(use_reference: bool, case: tuple[CodecTables, NDArray[np.int32]]) -> None:
    tables, symbols = case
    payload = encode(symbols, tables, level=0, use_reference=use_reference)
    decoded = decode(payload, tables, use_reference=use_reference)
    np.testing.assert_array_equal(decoded.symbols, symbols)
    assert decoded.symbols.dtype == np.int32
    assert rate_bits(symbols, tables, level=0) / 8 < len(payload) - MIN_PAYLOAD_BYTES + 2


@each_accelerator
@given(case=tables_and_symbols())
@settings(max_examples=100, deadline=None)
def test_the_accelerator_writes_the_references_bytes_and_reads_them(
    use_reference: bool, case: tuple[CodecTables, NDArray[np.int32]]
) -> None:
    tables, symbols = case
    payload = encode(symbols, tables, level=0, use_reference=True)
    assert encode(symbols, tables, level=0) == payload
    np.testing.assert_array_equal(decode(payload, tables).symbols, symbols)


@each_coder
@pytest.mark.parametrize(("kind", "case"), EACH_GOLDEN)
def test_golden_payloads_never_change(kind: str, case: dict[str, Any], use_reference: bool) -> None:
    tables, golden = golden_tables(kind), bytes.fromhex(case["payload"])
    assert tables.digest.hex() == GOLDEN_OF[kind]["digest"]
    symbols = np.array(case["symbols"], np.int32).reshape(tables.shape(case["level"]))
    assert encode(symbols, tables, level=case["level"], use_reference=use_reference) == golden
    np.testing.assert_array_equal(decode(golden, tables, use_reference=use_reference).symbols, symbols)


# The page on the format, followed place by place in whole numbers.


def table_by_hand(
    table: ContextTable, known: dict[tuple[int, int, int], int], phase: int, place: tuple[int, int, int]
) -> tuple[int, int]:
    """Which table a symbol is of, and the whole part of its mean."""
    channel, y, x = place
    near = [(), ((-1, -1), (-1, 1), (1, -1), (1, 1)), ((-1, 0), (0, -1), (0, 1), (1, 0))][phase]
    starts = [0, *table.group_starts.tolist()]
    group = max(number for number, start in enumerate(starts) if start <= channel)
    ends = [*starts[1:], table.num_channels]
    biases = [int(b[channel, phase, 0]) if len(starts) > 1 else
              int(np.broadcast_to(b, (table.num_channels, table.height, table.width))[place])
              for b in (table.mean_bias, table.scale_bias)]  # fmt: skip
    mean, scale = biases
    for other, (number, (dy, dx)) in itertools.product(range(starts[group], ends[group]), enumerate(near)):
        value = known.get((other, y + dy, x + dx), 0)
        within = other - starts[group]
        mean += int(table.mean_weights[phase - 1, channel, within, number]) * value
        scale += int(table.scale_weights[phase - 1, channel, within, number]) * abs(value)
    for earlier in range(group):
        for other in range(starts[earlier], ends[earlier]):
            scale += int(table.group_weights[phase, channel, earlier]) * abs(known[other, y, x])
    whole, rest = divmod(mean + 2048, 4096)
    fractions = table.counts.shape[1]
    found = sum(threshold <= scale for threshold in table.thresholds.tolist())
    return found * fractions + rest * fractions // 4096, whole


@pytest.mark.parametrize("grouped", [False, True], ids=["one group", "groups"])
@pytest.mark.parametrize("seed", range(6))
def test_tables_are_chosen_as_the_page_says(seed: int, grouped: bool) -> None:
    channels, height, width = 1 + seed % 3 + 4 * grouped, 1 + seed % 4, 5 - seed % 3
    table = context_table(seed, channels, height, width, grouped=grouped)
    symbols = np.random.default_rng(seed).integers(-200, 200, (channels, height, width)) // 40
    symbols[0, 0, 0] = 5000
    coded = table.coded(symbols.reshape(channels, -1).astype(np.int64))
    known: dict[tuple[int, int, int], int] = {}
    expected = []
    starts = [0, *table.group_starts.tolist()]
    for start, end in zip(starts, [*starts[1:], channels], strict=True):
        looks = end <= table.mean_weights.shape[1]
        everywhere = tuple(axis.ravel() for axis in np.mgrid[:height, :width])
        for phase, (ys, xs) in enumerate(phases_of(height, width) if looks else [everywhere]):
            met = {}
            for channel, (y, x) in itertools.product(range(start, end), zip(ys.tolist(), xs.tolist(), strict=True)):
                number, whole = table_by_hand(table, known, phase, (channel, y, x))
                value = int(symbols[channel, y, x])
                slot, last = value - whole - table.first_value, table.counts.shape[2] - 1
                outside = not 0 <= slot < last
                met[channel, y, x] = max(-127, min(127, whole if outside else value))
                expected.append((number, last if outside else slot))
            known |= met
    assert list(zip(coded.tables.tolist(), coded.slots[:, 0].tolist(), strict=True)) == expected


def test_some_groups_look_at_neighbours_and_others_do_not() -> None:
    """Of the tables that the tests above draw, so that both kinds of group are met."""
    tables = [context_table(seed, 5 + seed % 3, 3, 3, grouped=True) for seed in range(6)]
    near = [table.mean_weights.shape[1] for table in tables]
    assert any(count < table.num_channels for count, table in zip(near, tables, strict=True))
    assert any(count > table.group_ends[0] for count, table in zip(near, tables, strict=True))
    assert any(len(table.group_starts) > 2 for table in tables)


def test_the_order_of_sums_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and neighbours as large as they may be: their sums are whole numbers that float64 holds exactly."""
    table = context_table(3, 200, 5, 5, far=True)
    symbols = np.random.default_rng(0).integers(-127, 128, (200, 5, 5)).astype(np.int32)
    scales, halved = table.predictions(symbols[None])
    shuffled = np.random.default_rng(1).permutation(200)
    turned = replace(
        table, mean_weights=table.mean_weights[:, :, shuffled], scale_weights=table.scale_weights[:, :, shuffled]
    )
    for phase, other in zip(table._steps, turned._steps, strict=True):
        known = np.pad(symbols, ((0, 0), (1, 1), (1, 1))).reshape(200, -1).astype(np.float64)
        before, after = (_Known(values, np.zeros((1, 49))) for values in (known, known[shuffled]))
        for one, two in zip(table._predicted(phase, before), turned._predicted(other, after), strict=True):
            np.testing.assert_array_equal(one, two)
    assert np.abs(halved).max() > 1 << 24, "beyond what float32 holds, so the test could fail"
    assert (scales == np.rint(scales)).all()


@pytest.mark.parametrize("grouped", [False, True], ids=["one group", "groups"])
@pytest.mark.parametrize("seed", range(4))
def test_what_tables_are_fitted_by_is_what_symbols_are_coded_by(seed: int, grouped: bool) -> None:
    """Neighbours beyond 127 among them."""
    table = context_table(seed, 6, 4, 5, grouped=grouped)
    counts = np.ones((*table.counts.shape[:2], 4001), np.uint32)
    counts[..., 0] = (1 << 24) - 4000
    table = replace(table, counts=counts, first_value=-2000)
    symbols = np.random.default_rng(seed).integers(-300, 300, (6, 4, 5)).astype(np.int32)
    coded = table.coded(symbols.reshape(6, -1).astype(np.int64))
    assert not len(coded.outside)
    scales, halved = table.predictions(symbols[None])
    (tables,) = tables_of(scales, halved, table.thresholds, table.counts.shape[1])
    in_order = [tables[step.channels][:, step.at].ravel() for step in table._steps]
    np.testing.assert_array_equal(np.concatenate(in_order), coded.tables)


# Damage.


@each_coder
@pytest.mark.parametrize(("kind", "case"), EACH_GOLDEN)
def test_every_changed_byte_and_every_cut_is_refused(kind: str, case: dict[str, Any], use_reference: bool) -> None:
    tables, payload = golden_tables(kind), bytes.fromhex(case["payload"])
    damaged = [payload[:length] for length in range(len(payload))]
    for at, mask in itertools.product(range(len(payload)), range(1, 256)):
        damaged.append(payload[:at] + bytes([payload[at] ^ mask]) + payload[at + 1 :])
    for data in damaged:
        with pytest.raises(PayloadError):
            decode(data, tables, use_reference=use_reference)


@each_coder
@given(body=st.binary(min_size=4, max_size=80), number=st.integers(0, 1))
@settings(max_examples=200, deadline=None)
def test_noise_behind_a_good_header_is_refused(use_reference: bool, body: bytes, number: int) -> None:
    tables = golden_tables()
    rest = bytes([0x30 | number]) + tables.name + body
    with pytest.raises(PayloadError):
        decode(rest[:3] + bytes([-sum(rest) & 0xFF]) + rest[3:], tables, use_reference=use_reference)


def test_symbols_over_the_ceiling_are_not_sent() -> None:
    tables = golden_tables()
    low = CodecTables(height=3, width=4, levels=(replace(tables.levels[0], max_bytes=20),))
    with pytest.raises(PayloadError, match="level 0 allows 20") as caught:
        encode(np.full((2, 3, 4), INT32_MAX, np.int32), low, level=0)
    assert caught.value.code == "too-large"


def test_neighbours_are_worth_bytes_and_without_them_there_is_nothing_to_gain() -> None:
    """The negative control: with weights of 0 the same symbols take more."""
    rng = np.random.default_rng(0)
    smooth = np.rint(np.kron(rng.normal(0, 3, (1, 4, 4)), np.ones((1, 2, 2)))).astype(np.int32)
    rows = [quantise_prior(ChannelPrior(pmf=2.0 ** -np.abs(np.arange(-12, 13)), first_value=0, escape=1e-6))]
    weights = np.zeros((2, 1, 1, 4), np.int16)
    blind = ContextTable(
        height=8, width=8, mean_weights=weights, scale_weights=weights, mean_bias=np.zeros((1, 1, 1), np.int32),
        scale_bias=np.zeros((1, 1, 1), np.int32), thresholds=np.zeros(0, np.int32),
        counts=np.stack(rows).reshape(1, 1, -1), first_value=-12, max_bytes=1000, usual_bits=77,
    )  # fmt: skip
    seeing = replace(blind, mean_weights=np.full((2, 1, 1, 4), 1024, np.int16))
    without, seen = (
        rate_bits(smooth, CodecTables(height=8, width=8, levels=(table,)), level=0) for table in (blind, seeing)
    )
    assert seen < 0.9 * without
    assert expected_bits(CodecTables(height=8, width=8, levels=(blind,)), level=0) == pytest.approx(77)


def test_what_groups_before_have_at_a_place_is_worth_bytes_and_without_them_there_is_nothing_to_gain() -> None:
    """The negative control: with group weights of 0 the same symbols take more."""
    rng = np.random.default_rng(0)
    busy = np.kron(rng.random((6, 6)) < 0.2, np.ones((2, 2)))
    symbols = np.rint(busy * rng.normal(0, 3, (4, 12, 12))).astype(np.int32)
    rows = [
        quantise_prior(ChannelPrior(pmf=np.exp(-np.abs(np.arange(-12, 13)) / each), first_value=0, escape=1e-6))
        for each in (0.2, 2.5)
    ]
    bias = np.zeros((4, 3, 1), np.int32)
    seeing = ContextTable(
        height=12, width=12, mean_weights=np.zeros((2, 0, 0, 4), np.int16),
        scale_weights=np.zeros((2, 0, 0, 4), np.int16), mean_bias=bias, scale_bias=bias,
        thresholds=np.array([1], np.int32), counts=np.stack(rows).reshape(2, 1, -1), first_value=-12, max_bytes=2000,
        usual_bits=77, group_starts=np.array([1, 2], np.uint32), group_weights=np.ones((3, 4, 2), np.int16),
    )  # fmt: skip
    blind = replace(seeing, group_weights=np.zeros((3, 4, 2), np.int16))
    without, seen = (
        rate_bits(symbols, CodecTables(height=12, width=12, levels=(table,)), level=0) for table in (blind, seeing)
    )
    assert seen < 0.7 * without


# What may be wrong with the tables.


def grouped_table() -> ContextTable:
    """Four channels in groups of 1, 2 and 1, the first two of which look at neighbours."""
    weights = np.ones((2, 3, 2, 4), np.int16)
    return ContextTable(
        height=3, width=4, mean_weights=weights, scale_weights=weights, mean_bias=np.zeros((4, 3, 1), np.int32),
        scale_bias=np.zeros((4, 3, 1), np.int32), thresholds=np.zeros(0, np.int32),
        counts=np.full((1, 1, 4), 1 << 22, np.uint32), first_value=-1, max_bytes=4096, usual_bits=100,
        group_starts=np.array([1, 3], np.uint32), group_weights=np.zeros((3, 4, 2), np.int16),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"group_starts": np.array([3, 1], np.uint32)}, "groups start at"),
        ({"group_starts": np.array([0, 3], np.uint32)}, "groups start at"),
        ({"group_starts": np.array([1, 4], np.uint32)}, "groups start at"),
        ({"group_starts": np.array([[1, 3]], np.uint32)}, "groups start at"),
        ({"group_starts": np.array(1, np.uint32)}, "groups start at"),
        ({"group_starts": np.zeros(0, np.uint32)}, "whole groups"),
        ({"group_starts": np.array([1, 3], np.int64)}, "group_starts must be an array of uint32"),
        ({"group_weights": np.zeros((3, 4, 3), np.int16)}, r"group_weights are \(3, 4, 3\)"),
        ({"group_weights": np.zeros((3, 0, 0), np.int16)}, r"expected \(3, 4, 2\)"),
        ({"mean_weights": np.ones((2, 2, 2, 4), np.int16)}, "whole groups"),
        ({"mean_weights": np.ones((2, 3, 1, 4), np.int16)}, "the largest of them"),
        ({"mean_bias": np.zeros((4, 1, 1), np.int32)}, r"biases must be \(4, 3, 1\)"),
        ({"scale_bias": np.zeros((4, 3, 4), np.int32)}, r"biases must be \(4, 3, 1\)"),
    ],
)
def test_groups_that_contradict_themselves_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(grouped_table(), **change)


def wide(channels: int, starts: Sequence[int], near: int, largest: int) -> ContextTable:
    weights, bias = np.zeros((2, near, largest, 4), np.int16), (channels, 3 if starts else 1, 1)
    return replace(
        grouped_table(), mean_weights=weights, scale_weights=weights, mean_bias=np.zeros(bias, np.int32),
        scale_bias=np.zeros(bias, np.int32), group_starts=np.array(starts, np.uint32),
        group_weights=np.zeros((3, channels, len(starts)), np.int16),
    )  # fmt: skip


def test_neither_groups_nor_channels_nor_neighbours_are_without_bound() -> None:
    assert wide(1024, range(1, 64), 0, 0).num_channels == 1024
    assert wide(256, (), 256, 256).num_channels == 256
    for refused, told in (
        ((1024, range(1, 65), 0, 0), "less than 64"),
        ((1025, (1,), 0, 0), "expected 1 to 1024"),
        ((257, (), 257, 257), "256 at most"),
        ((0, (), 0, 0), "of 0 channels"),
    ):
        with pytest.raises(ValueError, match=told):
            wide(*refused)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 0, 0), (3, 1, 0), (3, 2, 0)])
def test_a_file_whose_only_group_is_spelt_out_is_refused(shape: tuple[int, ...]) -> None:
    spelt = {"level0.group_starts": np.zeros(0, np.uint32), "level0.group_weights": np.zeros(shape, np.int16)}
    with pytest.raises(ValueError, match=r"'level0\.group_starts' of the codec tables is empty"):
        CodecTables.from_tensors(golden_tables().to_tensors() | spelt)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 0, 0), (2, 2, 0), (3, 1, 0)])
def test_group_weights_of_one_group_are_none_or_empty(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="group_weights are"):
        replace(golden_tables().levels[0], group_weights=np.zeros(shape, np.int16))


def test_tables_with_groups_come_back_from_a_file_and_have_another_digest_for_each_change() -> None:
    first = grouped_table()
    plain = context_table(0, 4, 3, 4)
    tables = CodecTables(height=3, width=4, levels=(first, plain))
    tensors = tables.to_tensors()
    assert ("level0.group_starts" in tensors, "level1.group_starts" in tensors) == (True, False)
    assert CodecTables.from_tensors(tensors).digest == tables.digest
    weights = first.group_weights.copy()
    weights[2, 3, 1] = 1
    changes: list[dict[str, Any]] = [{"group_weights": weights}]
    for starts, shape in (([1, 2], (2, 2, 1, 4)), ([2, 3], (2, 2, 2, 4))):
        near = np.ones(shape, np.int16)
        changes.append({"group_starts": np.array(starts, np.uint32), "mean_weights": near, "scale_weights": near})
    digests = {replace(tables, levels=(replace(first, **change), plain)).digest for change in [{}, *changes]}
    assert len(digests) == 1 + len(changes)
    with pytest.raises(ValueError, match=r"lack or do not know level0\.group_weights"):
        CodecTables.from_tensors({name: value for name, value in tensors.items() if name != "level0.group_weights"})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mean_weights": np.zeros((2, 2, 2, 4), np.int32)}, "mean_weights must be an array of int16"),
        ({"mean_weights": np.zeros((2, 2, 3, 4), np.int16)}, r"expected \(2, K, M, 4\)"),
        ({"scale_weights": np.zeros((2, 1, 1, 4), np.int16)}, r"expected \(2, K, M, 4\)"),
        ({"mean_bias": np.zeros((2, 3, 1), np.int32)}, "biases must be"),
        ({"thresholds": np.array([3, 2], np.int32)}, "does not fall"),
        ({"thresholds": np.array([1, 2], np.int32)}, "one bin more"),
        ({"counts": np.full((2, 2, 1), 1 << 24, np.uint32)}, "2 slots or more"),
        ({"counts": np.full((2, 2, 4), 1 << 21, np.uint32)}, "add up to"),
        ({"first_value": 1 << 40}, "first value is"),
        ({"usual_bits": -1}, "usual_bits is -1"),
        ({"max_bytes": 0}, "ceiling is 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_tables_that_contradict_themselves_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(golden_tables().levels[0], **change)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda t: {**t, "level0.first_value": t["level0.first_value"].astype(np.uint32)}, r"must be int32 \(1,\)"),
        (lambda t: {k: v for k, v in t.items() if k != "level1.usual_bits"}, "lack or do not know level1.usual_bits"),
        (lambda t: {**t, "level0.num_slots": np.zeros(1, np.uint32)}, "lack or do not know level0.num_slots"),
        (lambda t: {**t, "grid": np.array([4, 3], np.uint32)}, "biases must be"),
    ],
    ids=["type", "missing", "of the other kind", "another grid"],
)
def test_tensors_that_are_none_are_refused(spoil: Callable[[dict[str, Any]], dict[str, Any]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CodecTables.from_tensors(spoil(golden_tables().to_tensors()))


def test_levels_of_both_kinds_are_refused() -> None:
    static = FrequencyTable.from_priors([ChannelPrior(pmf=np.ones(3), first_value=-1)] * 2, max_bytes=100)
    with pytest.raises(ValueError, match="tables of the same kind"):
        CodecTables(height=3, width=4, levels=(golden_tables().levels[0], static))
    with pytest.raises(ValueError, match="latent's height and width"):
        CodecTables(height=4, width=3, levels=golden_tables().levels)


def test_all_that_decides_what_a_payload_means_is_in_the_digest() -> None:
    tables = golden_tables()
    first = tables.levels[0]
    assert isinstance(first, ContextTable)
    changes: list[dict[str, Any]] = [{"first_value": -2}, {"max_bytes": 4095}]
    for name in ("mean_weights", "scale_weights", "mean_bias", "scale_bias", "thresholds"):
        value = getattr(first, name).copy()
        value.flat[-1] += 1
        changes.append({name: value})
    for change in changes:
        other = replace(tables, levels=(replace(first, **change), *tables.levels[1:]))
        assert other.digest != tables.digest, change


def test_tables_go_to_another_process_after_use() -> None:
    tables = golden_tables()
    payload = bytes.fromhex(GOLDEN["payloads"][0]["payload"])
    decode(payload, tables)
    other = pickle.loads(pickle.dumps(tables))  # noqa: S301
    assert other.digest == tables.digest
    np.testing.assert_array_equal(decode(payload, other).symbols, decode(payload, tables).symbols)
