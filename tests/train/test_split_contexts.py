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
from littoral.train.tables import TableOptions, build_tables

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
    [({}, True), ({"least_frames": 401}, False), ({"most_symbols": 107}, False)],
    ids=["as it is", "too few frames", "too many symbols"],
)
def test_contexts_are_tried_only_where_they_fit(options: dict[str, int], taken: bool) -> None:
    assert built(related(0), options=TableOptions(contexts=ContextOptions(**options))).has_contexts is taken


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
