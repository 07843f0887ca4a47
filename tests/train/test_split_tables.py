"""Integer tables of a split: what the source shows has a slot and passes the ceiling, what it never shows costs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from littoral.core.codec import HEADER_BYTES, encode, expected_bits, rate_bits
from littoral.core.codec_slots import MAX_PAYLOAD_BYTES
from littoral.core.codec_tables import ChannelPrior
from littoral.errors import PayloadError
from littoral.models.entropy import UniformPrior
from littoral.train.tables import TableOptions, build_tables, mixed

USUAL = TableOptions()
FLAT = ChannelPrior(pmf=np.ones(7), first_value=-3)


def normal(scale: float, *shape: int, seed: int = 0) -> np.ndarray:
    return np.rint(np.random.default_rng(seed).normal(0, scale, shape)).astype(np.int32)


def tables_of(symbols: np.ndarray, options: TableOptions = USUAL, prior: ChannelPrior = FLAT):
    """Of one level whose channels have one prior."""
    return build_tables(
        [list(symbols)],
        [[prior] * symbols.shape[1]],
        height=symbols.shape[2],
        width=symbols.shape[3],
        options=options,
    )


def test_every_value_that_was_seen_has_a_slot_and_the_others_do_not_cost_it_much() -> None:
    symbols = normal(4, 50, 2, 4, 4)
    symbols[7, 1, 2, 2] = 90  # once, far out
    tables = tables_of(symbols)
    (table,) = tables.levels
    for channel in range(2):
        first, last = table.first_values[channel], table.first_values[channel] + table.num_slots[channel] - 2
        assert first <= symbols[:, channel].min()
        assert symbols[:, channel].max() <= last
    assert table.first_values[1] + table.num_slots[1] - 2 == 90, "not beyond what was seen: the prior's tail is trimmed"
    paid = np.mean([rate_bits(frame, tables, level=0) for frame in symbols])
    assert paid == pytest.approx(32 * (np.log2(4) + 2.05), rel=0.05), "the entropy of a rounded normal of 4"


def test_values_that_the_source_did_not_show_are_the_priors() -> None:
    symbols = np.zeros((20, 1, 2, 2), np.int32)
    learned = tables_of(symbols, TableOptions(prior_symbols=10))
    (row,) = learned.levels[0].rows
    assert (learned.levels[0].first_values[0], len(row)) == (-3, 8)
    shares = row / row.sum()
    assert shares[3] == pytest.approx((80 + 10 / 7) / 90, rel=1e-3)
    assert shares[0] == pytest.approx((10 / 7) / 90, rel=1e-3)
    assert row[-1] == 1, "this prior leaves nothing to the escape"


def test_by_a_uniform_prior_alone_every_symbol_costs_8_bits_however_likely_it_is() -> None:
    (prior,) = UniformPrior(1, 1).channel_priors(0)
    symbols = normal(2, 50, 3, 8, 8)
    fixed = tables_of(symbols, TableOptions(prior_share=math.inf, contexts=None), prior)
    sizes = {len(encode(frame, fixed, level=0)) for frame in (symbols[0], np.zeros_like(symbols[0]), symbols[0] - 120)}
    assert len(sizes) == 1
    assert 192 <= sizes.pop() <= 192 + HEADER_BYTES + 4
    assert len(encode(symbols[0], tables_of(symbols, prior=prior), level=0)) < 100, "a coder would spare half"


def test_a_value_far_beyond_the_others_is_left_to_the_escape() -> None:
    symbols = normal(2, 50, 1, 4, 4)
    symbols[3, 0, 0, 0], symbols[4, 0, 0, 0] = 2**31 - 1, -(2**31)
    tables = tables_of(symbols, TableOptions(most_values=64))
    assert tables.levels[0].num_slots[0] <= 65
    prior = mixed(symbols[:, 0], FLAT, TableOptions(most_values=64))
    assert prior.escape == pytest.approx(2 / (800 + 100), rel=0.2)
    for frame in (symbols[3], symbols[4]):
        assert len(encode(frame, tables, level=0)) <= tables.levels[0].max_bytes


def test_a_channel_with_one_value_costs_next_to_nothing() -> None:
    tables = tables_of(np.full((200, 1, 4, 4), 5, np.int32), prior=ChannelPrior(pmf=np.ones(1), first_value=5))
    assert expected_bits(tables, level=0) < 0.01


def test_the_ceiling_lets_all_of_the_source_pass_and_stops_noise() -> None:
    symbols = normal(2, 200, 3, 4, 4)
    tables = tables_of(symbols)
    longest = max(len(encode(frame, tables, level=0)) for frame in symbols)
    assert longest <= tables.levels[0].max_bytes <= 2 * (longest + 2) + HEADER_BYTES
    with pytest.raises(PayloadError):
        encode(symbols[0] * 1000, tables, level=0)


def test_no_ceiling_is_above_the_codecs() -> None:
    tables = tables_of(normal(2, 3, 1, 2, 2), TableOptions(ceiling_factor=1e9))
    assert tables.levels[0].max_bytes == MAX_PAYLOAD_BYTES


def test_the_same_symbols_give_the_same_tables_and_others_do_not() -> None:
    symbols = normal(3, 40, 2, 4, 4)
    assert tables_of(symbols).digest == tables_of(symbols.copy()).digest
    other = symbols.copy()
    other[0, 0, 0, 0] += 1
    assert tables_of(other).digest != tables_of(symbols).digest


@pytest.mark.parametrize(
    "change",
    [{"prior_symbols": 0}, {"prior_share": -1}, {"most_values": 1}, {"ceiling_quantile": 0}, {"ceiling_factor": 0.5}],
    ids=lambda change: next(iter(change)),
)
def test_options_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TableOptions(**change)  # type: ignore[arg-type]
