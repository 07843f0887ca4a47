"""What the table says of the coder is what the coder does."""

from __future__ import annotations

import pytest

pytest.importorskip("scipy", reason="the bench needs its extra")

from littoral.bench.split import codec_speed
from littoral.bench.split.codec_speed import draw_symbols, laplace_tables, overhead, speed
from littoral.core.codec import encode, rate_bits
from littoral.core.codec_tables import CodecTables


@pytest.fixture(scope="module")
def tables() -> CodecTables:
    return laplace_tables(1_200, num_channels=6)


def test_symbols_that_come_as_the_tables_say_cost_the_entropy(tables: CodecTables) -> None:
    symbols = draw_symbols(tables, level=0, num_payloads=8)
    expected = tables.level(0).entropy_bits * tables.width / 8
    found = overhead(symbols, tables, level=0)
    assert found["ideal_bytes"] == pytest.approx(expected, rel=0.03)
    assert found["within_promise"]
    assert 0 < found["overhead_bytes"] <= 12
    assert found["overhead_fraction"] == pytest.approx(found["bytes"] / found["ideal_bytes"] - 1, abs=1e-4)


def test_a_coder_that_wastes_a_byte_in_fifty_does_not_keep_the_promise(
    tables: CodecTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    (symbols,) = draw_symbols(tables, level=0, num_payloads=1)
    needed = rate_bits(symbols, tables, level=0) / 8
    padding = bytes(int(needed / 50) + 12)
    monkeypatch.setattr(codec_speed, "encode", lambda *a, **k: encode(*a, **k) + padding)
    assert not overhead([symbols], tables, level=0)["within_promise"]


def test_a_coder_that_is_not_here_has_no_number_and_a_reason(
    tables: CodecTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object) -> None:
        raise ImportError("No module named 'compressai.ans'")

    monkeypatch.setattr(codec_speed, "compressai_ways", missing)
    row = speed(draw_symbols(tables, level=0, num_payloads=1), tables, level=0, rounds=2)
    assert row["symbols_per_second_compressai"] is None
    assert "compressai" in row["compressai_reason"]
    assert row["encode_ms_reference"] > 0
    assert row["symbols_per_second_reference"] > 0


def test_tables_by_neighbours_are_measured_too_and_keep_the_promise() -> None:
    row = codec_speed.context_speed(rounds=2)
    assert row["contexts_num_symbols"] == codec_speed.NUM_SYMBOLS
    assert row["contexts_within_promise"]
    assert row["contexts_encode_ms_reference"] > 0
    assert row["contexts_decode_ms_reference"] > 0
