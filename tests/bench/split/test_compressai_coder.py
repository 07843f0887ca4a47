"""CompressAI's coder is gone to as its entropy models do, and it gives back what it was given."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("scipy", reason="the bench needs its extra")

from littoral.bench.split import compressai_coder
from littoral.bench.split.codec_speed import draw_symbols, laplace_tables
from littoral.bench.split.compressai_coder import cdf_of_16_bits, compressai_ways
from littoral.core.codec import encode

TABLES = laplace_tables(120, num_channels=3)


class StandIn:
    """Takes and gives what the compiled coder does, and writes down all that it was told."""

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift

    def encode_with_indexes(self, *told: Any) -> bytes:
        assert all(type(part) is list for part in told)
        return json.dumps(told).encode()

    def decode_with_indexes(self, string: bytes, *told: Any) -> list[int]:
        symbols, *encoded_with = json.loads(string)
        assert encoded_with == list(told)
        return [value + self.shift for value in symbols]


def compiled(shift: int = 0) -> SimpleNamespace:
    return SimpleNamespace(RansEncoder=StandIn, RansDecoder=lambda: StandIn(shift))


def test_symbols_indices_and_all_tables_become_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressai_coder, "_compiled", compiled)
    (symbols,) = draw_symbols(TABLES, level=0, num_payloads=1)
    ways = compressai_ways([symbols], TABLES, 0)
    assert set(ways) == {"compressai", "compressai_lists"}
    for encode_one, decode_one in ways.values():
        values, indices, cdfs, lengths, offsets = json.loads(encode_one(0))  # type: ignore[arg-type]
        assert values == symbols.reshape(-1).tolist()
        assert indices == [0] * 40 + [1] * 40 + [2] * 40
        assert [cdf[:length] for cdf, length in zip(cdfs, lengths, strict=True)] == [
            cdf_of_16_bits(row)
            for row in TABLES.levels[0].rows  # type: ignore[union-attr]
        ]
        assert offsets == TABLES.levels[0].first_values.tolist()  # type: ignore[union-attr]
        back = decode_one(0)
        assert torch.equal(torch.as_tensor(back).reshape(symbols.shape), torch.from_numpy(symbols))
    assert isinstance(ways["compressai"][1](0), torch.Tensor)


def test_a_coder_that_gives_other_symbols_back_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressai_coder, "_compiled", lambda: compiled(shift=1))
    with pytest.raises(RuntimeError, match="other symbols back"):
        compressai_ways(draw_symbols(TABLES, level=0, num_payloads=1), TABLES, 0)


def test_where_it_is_not_installed_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps compressai"):
        compressai_ways([], TABLES, 0)


@pytest.mark.skipif(importlib.util.find_spec("compressai") is None, reason="CompressAI is not installed")
def test_its_strings_are_as_long_as_ours() -> None:
    symbols = draw_symbols(laplace_tables(2_000, num_channels=5), level=0, num_payloads=3)
    tables = laplace_tables(2_000, num_channels=5)
    encode_one, _ = compressai_ways(symbols, tables, 0)["compressai"]
    for number, one in enumerate(symbols):
        assert len(encode_one(number)) == pytest.approx(len(encode(one, tables, level=0)), abs=12)  # type: ignore[arg-type]


def test_tables_of_sixteen_bits_have_a_slot_for_every_value() -> None:
    counts = np.array([1, 1, (1 << 24) - 3, 1], np.uint32)
    steps = np.diff(cdf_of_16_bits(counts))
    assert steps.min() == 1
    assert steps.sum() == 1 << 16
