"""Frequency tables: counts follow the weights and are the same anywhere, and hostile tables are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from codec_cases import INT32_MAX, INT32_MIN, laplace, level, priors, usual_tables
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from littoral.core.codec_slots import MAX_PAYLOAD_BYTES
from littoral.core.codec_tables import (
    MAX_LEVELS,
    MAX_SLOTS,
    MAX_SYMBOLS,
    ChannelPrior,
    CodecTables,
    FrequencyTable,
    quantise_prior,
)

TOTAL = 1 << 24
Tensors = dict[str, NDArray[Any]]


def prior(*weights: float, first_value: int = 0, escape: float = 0.0) -> ChannelPrior:
    return ChannelPrior(pmf=np.array(weights), first_value=first_value, escape=escape)


# Counts.


@given(priors())
@settings(max_examples=100, deadline=None)
def test_each_slot_has_a_count_and_they_add_up(given_prior: ChannelPrior) -> None:
    counts = quantise_prior(given_prior)
    assert counts.dtype == np.uint32
    assert len(counts) == len(given_prior.pmf) + 1
    assert counts.min() >= 1
    assert counts.sum() == TOTAL


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=40), st.integers(1, 10**6))
@settings(max_examples=100, deadline=None)
def test_a_count_is_within_one_of_its_share(weights: list[int], escape: int) -> None:
    counts = quantise_prior(prior(*weights, escape=escape))
    total = sum(weights) + escape
    for weight, count in zip([*weights, escape], counts.tolist(), strict=True):
        share = 1 + Fraction(weight * (TOTAL - len(counts)), total)
        assert abs(count - share) < 1 + 1e-6


def test_what_is_left_over_goes_to_the_largest_remainders_and_the_lower_of_equal_ones() -> None:
    """16777216 - 4 = 3 x 5592404: no remainder. With one slot more, 16777211 = 4 x 4194302 + 3."""
    assert quantise_prior(prior(1, 1, 1)).tolist() == [5592405, 5592405, 5592405, 1]
    assert quantise_prior(prior(1, 1, 1, 1)).tolist() == [4194303 + 1, 4194303 + 1, 4194303 + 1, 4194303, 1]


@pytest.mark.parametrize("factor", [2.0**-1000, 0.5, 3.0, 2.0**900], ids=["tiny", "half", "three", "huge"])
def test_only_the_ratio_of_weights_counts(factor: float) -> None:
    weights = [1.0, 5.0, 2.0, 0.0]
    scaled = prior(*(factor * weight for weight in weights), escape=factor)
    assert quantise_prior(scaled).tolist() == quantise_prior(prior(*weights, escape=1.0)).tolist()


@pytest.mark.parametrize("dtype", [">f8", "<f8", "f4", "i8"])
def test_the_type_of_the_weights_does_not_matter(dtype: str) -> None:
    weights = np.array([3, 1, 4, 1, 5])
    given_prior = ChannelPrior(pmf=weights.astype(dtype), first_value=0)
    assert quantise_prior(given_prior).tolist() == quantise_prior(prior(*weights)).tolist()


@pytest.mark.parametrize(
    "weights",
    [[], [0.0, 0.0], [1.0, -0.1], [1.0, math.nan], [1.0, math.inf]],
    ids=["none", "all zero", "negative", "nan", "infinite"],
)
def test_weights_that_are_no_distribution_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"a pmf (has shape|holds weights)"):
        quantise_prior(prior(*weights))
    if len(weights) == 2:
        with pytest.raises(ValueError, match="for the escape; expected finite"):
            quantise_prior(prior(1.0, escape=weights[1] or math.nan))


def test_trimming_gives_both_tails_to_the_escape() -> None:
    trimmed = prior(0, 1, 2, 94, 2, 1, 0, first_value=-3, escape=0.0).trimmed(0.03)
    assert trimmed.first_value == -1
    np.testing.assert_allclose(trimmed.pmf, [0.02, 0.94, 0.02])
    assert trimmed.escape == pytest.approx(0.02)


def test_trimming_nothing_drops_only_what_weighs_nothing() -> None:
    trimmed = prior(0, 0, 1, 0, 3, 0, first_value=5).trimmed(0.0)
    assert (trimmed.first_value, trimmed.escape) == (7, 0.0)
    np.testing.assert_allclose(trimmed.pmf, [0.25, 0, 0.75])


def test_trimming_keeps_the_mode_whatever_it_weighs() -> None:
    trimmed = prior(1, 2, 1, first_value=10, escape=1e6).trimmed(0.5)
    assert (trimmed.first_value, len(trimmed.pmf)) == (11, 1)
    assert trimmed.escape == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="expected a share of the whole weight"):
        prior(1, 2).trimmed(share)


# Digest and tensors.


def swapped(tensors: Tensors) -> Tensors:
    return {name: value.astype(value.dtype.newbyteorder("S")) for name, value in tensors.items()}


@pytest.mark.parametrize("order", [dict, swapped], ids=["native", "swapped"])
def test_tables_survive_their_tensors_in_either_byte_order(order: Callable[[Tensors], Tensors]) -> None:
    tables = usual_tables()
    back = CodecTables.from_tensors(order(tables.to_tensors()))
    assert back.digest == tables.digest
    assert [back.shape(n) for n in range(3)] == [(3, 4, 4), (2, 4, 4), (0, 4, 4)]


def test_tables_survive_a_safetensors_file() -> None:
    from safetensors.numpy import load, save

    tables = usual_tables()
    tensors = {name: np.ascontiguousarray(value) for name, value in tables.to_tensors().items()}
    assert CodecTables.from_tensors(load(save(tensors))).digest == tables.digest


@pytest.mark.parametrize(
    "other",
    [
        lambda t: CodecTables(height=2, width=8, levels=t.levels),
        lambda t: CodecTables(height=4, width=4, levels=t.levels[:2]),
        lambda t: CodecTables(height=4, width=4, levels=(t.levels[1], t.levels[0], t.levels[2])),
        lambda t: CodecTables(height=4, width=4, levels=(level(laplace(2.0), laplace(0.5)), *t.levels[1:])),
        lambda t: CodecTables(height=4, width=4, levels=(*t.levels[:2], level(max_bytes=999))),
    ],
    ids=["grid", "fewer levels", "order of levels", "channels", "ceiling"],
)
def test_whatever_changes_the_meaning_changes_the_digest(other: Callable[[CodecTables], CodecTables]) -> None:
    tables = usual_tables()
    assert other(tables).digest[:4] != tables.digest[:4]
    assert usual_tables().digest == tables.digest


def test_each_count_and_first_value_is_in_the_digest() -> None:
    table = level(prior(1, 2, 3), prior(5, first_value=2))
    digests = {CodecTables(height=1, width=1, levels=(table,)).digest}
    for at in range(3):  # a count given from one slot to the next
        counts = table.counts.copy()
        counts[at], counts[at + 1] = counts[at] - 1 if counts[at] > 1 else counts[at], counts[at + 1]
        counts[(at + 1) % 3] += table.counts[at] - counts[at]
        changed = FrequencyTable(
            first_values=table.first_values, num_slots=table.num_slots, counts=counts, max_bytes=table.max_bytes
        )
        digests.add(CodecTables(height=1, width=1, levels=(changed,)).digest)
    moved = level(prior(1, 2, 3), prior(5, first_value=3))
    digests.add(CodecTables(height=1, width=1, levels=(moved,)).digest)
    assert len(digests) == 5


def test_a_table_is_its_own_and_cannot_be_changed() -> None:
    counts = np.array([TOTAL - 1, 1], np.uint32)
    table = FrequencyTable(
        first_values=np.zeros(1, np.int32), num_slots=np.array([2], np.uint32), counts=counts, max_bytes=100
    )
    counts[0] = 7
    assert table.counts[0] == TOTAL - 1
    with pytest.raises(ValueError, match="read-only"):
        table.counts[0] = 7


# What a file must not say.


def with_(name: str, value: Any) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: np.array(value, tensors[name].dtype)}


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def as_type(name: str, dtype: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: tensors[name].astype(dtype)}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (with_("level1.counts", [TOTAL - 1, 2, 5, TOTAL - 5]), f"1 or more each and add up to {TOTAL}"),
        (with_("level1.counts", [TOTAL, 0, 5, TOTAL - 5]), "1 or more each"),
        (with_("level1.counts", [2**32 - 1, TOTAL + 1, 5, TOTAL - 5]), "1 or more each"),
        (with_("level1.num_slots", [2, 3]), "add up to the length of counts"),
        (with_("level1.num_slots", [1, 3]), "num_slots must be 2 or more"),
        (with_("level1.num_slots", [2**32 - 1, 5]), "add up to the length of counts"),
        (with_("level1.num_slots", [4]), "2 first values and 1 channels"),
        (with_("level1.first_values", [INT32_MAX, INT32_MIN]), None),
        (with_("level0.first_values", [INT32_MAX]), "values must be within int32"),
        (with_("grid", [2**32 - 1, 2**32 - 1]), "at most 1048576 symbols"),
        (with_("grid", [0, 4]), "positive height and width"),
        (with_("grid", [4]), r"'grid' of the codec tables must be uint32 \(2,\)"),
        (with_("level0.max_bytes", [0]), "ceiling is 0 bytes, expected 1 to 1000000"),
        (with_("level0.max_bytes", [2**32 - 1]), "ceiling is 4294967295 bytes"),
        (as_type("grid", "i8"), "must be uint32"),
        (as_type("level0.counts", "f4"), "counts must be a vector of uint32"),
        (as_type("level0.first_values", "i8"), "first_values must be a vector of int32"),
        (without("grid"), "lack or do not know grid"),
        (without("level0.num_slots"), "lack or do not know level0.num_slots"),
        (lambda t: {**t, "level2.counts": t["level1.counts"]}, "lack or do not know level2.first_values"),
        (lambda t: {**t, "weights": t["grid"]}, "lack or do not know weights"),
        (lambda t: {"grid": t["grid"]}, "have 0 levels"),
    ],
)
def test_tensors_that_make_no_tables_are_refused(spoil: Callable[[Tensors], Tensors], told: str | None) -> None:
    levels = (level(prior(3, 1, 2)), level(prior(1), prior(9)))
    tensors = spoil(CodecTables(height=4, width=4, levels=levels).to_tensors())
    if told is None:
        CodecTables.from_tensors(tensors)
        return
    with pytest.raises(ValueError, match=told):
        CodecTables.from_tensors(tensors)


def test_the_limits_of_tables_are_where_they_are_said_to_be() -> None:
    table = level(prior(1))
    CodecTables(height=1024, width=MAX_SYMBOLS // 1024, levels=(table,) * MAX_LEVELS)
    with pytest.raises(ValueError, match="expected 1 to 16"):
        CodecTables(height=1, width=1, levels=(table,) * (MAX_LEVELS + 1))
    with pytest.raises(ValueError, match="at most 1048576 symbols"):
        CodecTables(height=1024, width=MAX_SYMBOLS // 1024 + 1, levels=(table,))
    with pytest.raises(ValueError, match="at most 1048576 are taken"):
        level(ChannelPrior(pmf=np.ones(MAX_SLOTS - 1), first_value=0), prior(1))
    with pytest.raises(ValueError, match="has shape"):
        level(ChannelPrior(pmf=np.ones(MAX_SLOTS), first_value=0))
    with pytest.raises(ValueError, match="expected 1 to 1000000"):
        level(prior(1), max_bytes=MAX_PAYLOAD_BYTES + 1)
    with pytest.raises(ValueError, match="first value must be within int32"):
        level(prior(1, first_value=INT32_MIN - 1))


def test_a_payload_at_the_highest_ceiling_fits_into_a_frame_of_the_wire() -> None:
    from littoral.wire.envelope import MAX_FRAME_BYTES

    assert MAX_PAYLOAD_BYTES < MAX_FRAME_BYTES - 4096
