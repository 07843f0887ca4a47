"""Context tables at export: taken where neighbours tell of each other, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from littoral.core.codec import decode, encode, predict_bytes, rate_bits
from littoral.core.codec_contexts import ContextTable
from littoral.core.codec_tables import ChannelPrior, CodecTables
from littoral.train.contexts import ContextOptions, fit_contexts
from littoral.train.tables import TableOptions, best_kind, build_tables

PRIOR = ChannelPrior(pmf=np.ones(9), first_value=-4, escape=0.01)
FRAMES, SHAPE = 400, (3, 6, 6)
USUAL = TableOptions()


def related(seed: int, count: int = FRAMES) -> NDArray[np.int32]:
    """Places near each other are alike, the second channel is the first one's opposite, the third's size is its."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 2.5, (count, 3, 3, 3)).repeat(2, axis=2).repeat(2, axis=3)
    coarse[:, 1] = -coarse[:, 0]
    coarse[:, 2] = np.abs(coarse[:, 0]) * rng.normal(0, 1, (count, 6, 6))
    return np.rint(coarse + rng.normal(0, 0.3, coarse.shape)).astype(np.int32)


def unrelated(seed: int) -> NDArray[np.int32]:
    return np.rint(np.random.default_rng(seed).laplace(0, 1.5, (FRAMES, *SHAPE))).astype(np.int32)


def built(*levels: NDArray[np.int32], options: TableOptions = USUAL) -> CodecTables:
    priors = [[PRIOR] * frames.shape[1] for frames in levels]
    return build_tables([list(frames) for frames in levels], priors, height=6, width=6, options=options)


def bits(frames: NDArray[np.int32], tables: CodecTables) -> float:
    return float(np.mean([rate_bits(frame, tables, level=0) for frame in frames]))


def test_where_neighbours_tell_of_each_other_contexts_are_taken_and_spare_bits_on_other_frames() -> None:
    tables, static = built(related(0)), built(related(0), options=TableOptions(contexts=None))
    assert (tables.has_contexts, static.has_contexts) == (True, False)
    held = related(1, 100)
    assert bits(held, tables) < 0.8 * bits(held, static)


def test_where_they_do_not_each_channel_has_its_table() -> None:
    assert not built(unrelated(0)).has_contexts


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, "contexts"),
        ({"least_frames": 61}, "static"),
        ({"most_symbols": 107}, "groups"),
        ({"most_channels": 2}, "groups"),
        ({"most_symbols": 107, "least_frames": 61}, "groups"),
        ({"most_symbols": 107, "least_symbols": 2161}, "static"),
        ({"most_symbols": 107, "most_grouped_symbols": 107}, "static"),
    ],
    ids=["as it is", "few frames", "large", "many channels", "large, few frames", "large, few symbols", "too large"],
)
def test_contexts_are_tried_only_where_they_fit(options: dict[str, int], taken: str) -> None:
    limits = {"least_frames": 60, "least_symbols": 2160, **options}
    options_of = TableOptions(contexts=ContextOptions(**limits))
    assert best_kind([related(0, 80)[:60]], [[PRIOR] * 3], options_of) == taken


def test_a_level_of_one_channel_leaves_the_large_ones_their_groups() -> None:
    frames, large = related(0, 80), TableOptions(contexts=ContextOptions(most_symbols=107))
    tables = build_tables([list(frames[:, :1]), list(frames)], [[PRIOR], [PRIOR] * 3], height=6, width=6, options=large)
    assert [len(level.group_starts) for level in tables.levels if isinstance(level, ContextTable)] == [0, 2]
    for level, kept in enumerate((1, 3)):
        payload = encode(frames[0, :kept], tables, level=level)
        np.testing.assert_array_equal(decode(payload, tables).symbols, frames[0, :kept])
    alone = fit_contexts(frames[:, :1], ContextOptions(near_channels=0), grouped=True)
    assert alone.mean_weights.shape == (2, 1, 1, 4)


def test_each_phase_of_a_group_has_its_own_bias_and_a_large_map_that_of_its_largest_phase() -> None:
    y, x = np.mgrid[:4, :4]
    phase = np.where((y | x) % 2 == 0, 0, np.where(y & x & 1 == 1, 1, 2))
    constant = np.array([3, 5, 8])[phase]  # of each phase another value, of which neighbours tell nothing
    frames = np.broadcast_to(constant, (64, 3, 4, 4)).astype(np.int32)
    grouped = fit_contexts(frames, grouped=True)
    np.testing.assert_array_equal(grouped.mean_bias[:, :, 0], np.full((3, 3), [3, 5, 8]) << 12)
    one_group = fit_contexts(frames, ContextOptions(most_positions=15))
    np.testing.assert_array_equal(one_group.mean_bias.ravel(), np.full(3, 8 << 12))
    row = fit_contexts(
        np.array([3, 8, 3], np.int32).reshape(1, 1, 1, 3).repeat(64, 0), ContextOptions(most_positions=2)
    )
    assert row.mean_bias.item() == 3 << 12, "of the phase that has most places"


def active(seed: int, count: int = 64) -> NDArray[np.int32]:
    """Twenty channels that are all large at the same few places, which lie anywhere; none tells the sign of another."""
    rng = np.random.default_rng(seed)
    busy = np.where(rng.random((count, 1, 9, 9)) < 0.15, 2.0, 0.1)
    return np.rint(busy * rng.laplace(0, 1, (count, 20, 9, 9)) * np.linspace(1.5, 0.3, 20)[:, None, None]).astype(
        np.int32
    )


def test_where_channels_are_large_together_groups_spare_bits_on_other_frames_and_otherwise_are_not_taken() -> None:
    frames, held, large = active(0), active(1, 20), TableOptions(contexts=ContextOptions(most_symbols=1619))
    shuffled = np.random.default_rng(2).permuted(frames.reshape(64, 20, 81), axis=2).reshape(frames.shape)
    assert best_kind([frames], [[PRIOR] * 20], large) == "groups"
    assert best_kind([shuffled], [[PRIOR] * 20], large) == "static"
    grouped, static = (
        build_tables([list(frames)], [[PRIOR] * 20], height=9, width=9, options=options)
        for options in (large, TableOptions(contexts=None))
    )
    assert bits(held, grouped) < 0.85 * bits(held, static)
    for frame in held:
        np.testing.assert_array_equal(decode(encode(frame, grouped, level=0), grouped).symbols, frame)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 3, 4, 5]), (20, [1, 2, 3, 4, 6, 8, 12, 16, 20])],
)
def test_groups_grow(channels: int, expected: list[int]) -> None:
    assert ContextOptions().group_ends(channels) == expected


def test_no_group_is_larger_than_it_may_be() -> None:
    ends = ContextOptions().group_ends(300)
    assert ends[-3:] == [256, 288, 300]
    assert max(np.diff(ends)) == 32


def test_groups_beyond_the_first_channels_look_at_no_neighbours() -> None:
    options = ContextOptions(near_channels=6)
    table = fit_contexts(active(0), options, grouped=True)
    assert table.mean_weights.shape == (2, 6, 2, 4)
    alone = fit_contexts(active(0), ContextOptions(near_channels=0), grouped=True)
    assert alone.mean_weights.shape == (2, 0, 0, 4)
    frame = active(3, 1)[0]
    for each in (table, alone):
        tables = CodecTables(height=9, width=9, levels=(each,))
        np.testing.assert_array_equal(decode(encode(frame, tables, level=0), tables).symbols, frame)


def test_a_level_without_channels_keeps_all_levels_on_tables_of_their_own() -> None:
    assert not built(related(0), related(0)[:, :0]).has_contexts


def test_payloads_come_back_and_the_ceiling_lets_the_source_pass() -> None:
    tables = built(related(0), related(0)[:, :2])
    assert [level.num_channels for level in tables.levels] == [3, 2]
    for number, frames in enumerate((related(0), related(0)[:, :2])):
        for frame in frames[:50]:
            decoded = decode(encode(frame, tables, level=number), tables)
            np.testing.assert_array_equal(decoded.symbols, frame)
        level = tables.level(number)
        assert isinstance(level, ContextTable)
        usual = np.mean([rate_bits(frame, tables, level=number) for frame in frames])
        assert level.usual_bits == round(usual)
        assert predict_bytes(usual) < level.max_bytes < 6 * predict_bytes(usual)


def test_a_value_far_from_its_mean_has_no_slot_and_still_comes_back() -> None:
    frames = related(0)
    frames[0, 0, 0, 0] = 1_000_000
    tables = CodecTables(height=6, width=6, levels=(fit_contexts(frames),))
    np.testing.assert_array_equal(decode(encode(frames[0], tables, level=0), tables).symbols, frames[0])


def test_a_large_map_has_a_bias_for_each_channel_only() -> None:
    by_place, by_channel = (
        fit_contexts(related(0), ContextOptions(most_positions=most)).mean_bias.shape for most in (36, 35)
    )
    assert (by_place, by_channel) == (SHAPE, (3, 1, 1))


def test_the_same_frames_give_the_same_tables() -> None:
    assert built(related(0)).digest == built(related(0)).digest


def test_symbols_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"came for a grid of 5 x 6"):
        build_tables([list(related(0))], [[PRIOR] * 3], height=5, width=6)
