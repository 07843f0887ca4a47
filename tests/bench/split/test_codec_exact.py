"""The measurement of exactness: it finds nothing wrong with the codec, and finds a codec that is wrong."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from littoral.bench.split import codec_exact
from littoral.bench.split.codec_exact import damage, measure_exactness, random_symbols, random_tables, round_trips
from littoral.core import codec
from littoral.core.rans import RansStack
from littoral.core.rans_compiled import CompiledCoder

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")


def test_both_coders_agree_and_damage_is_refused() -> None:
    said = []
    out = measure_exactness(num_round_trips=150, num_damaged=2, say=lambda *done: said.append(done))
    assert (out["round_trips"], out["mismatches"]) == (150, 0)
    assert (out["damaged_payloads"], out["accepted"]) == (2, 0)
    assert out["changed"] == 255 * out["cut"], "every byte has 255 other values, and may be the first that is missing"
    assert said[-1] == (152, 152)


def test_symbols_lie_inside_and_outside_of_their_tables() -> None:
    rng = np.random.default_rng(0)
    found = {False: np.zeros(2), True: np.zeros(2)}
    for _ in range(40):
        tables = random_tables(rng)
        symbols, table = random_symbols(rng, tables, 0), tables.level(0)
        coded = table.coded(symbols.reshape(table.num_channels, -1).astype(np.int64))
        found[tables.has_contexts] += np.array([coded.slots.size, len(coded.outside)])
    assert found[False][0] > 20 * found[False][1] > 0
    assert found[True][0] > 2 * found[True][1] > 0


def test_a_coder_that_gives_other_bytes_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: object, use_reference: bool = False, **more: object) -> bytes:
        payload = codec.encode(*args, use_reference=use_reference, **more)  # type: ignore[arg-type]
        return payload + b"\0" if use_reference else payload

    monkeypatch.setattr(codec_exact, "encode", wrong)
    monkeypatch.setattr(codec_exact, "decode", lambda data, *args, **more: codec.decode(data.rstrip(b"\0"), *args))
    assert round_trips(20)["mismatches"] == 20


@needs_numba
@pytest.mark.parametrize("part", ["push", "pop"])
def test_a_compiled_coder_that_differs_is_counted(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    right = getattr(CompiledCoder, part)

    def wrong(self: CompiledCoder, stack: RansStack, *more: Any) -> Any:
        out = right(self, stack, *more)
        return RansStack(out.state + 1, out.words) if part == "push" else (out[0] + 1, out[1])

    monkeypatch.setattr(CompiledCoder, part, wrong)
    assert round_trips(20)["mismatches"] == 20


def test_a_decoder_that_takes_damage_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_exact, "decode", lambda data, tables: None)
    out = damage(1)
    assert out["accepted"] == out["changed"] + out["cut"]
