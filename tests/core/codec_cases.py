"""Tables and symbols that the codec's tests share."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from littoral.core.codec_slots import MAX_PAYLOAD_BYTES
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
ACCELERATORS = ("numba", "constriction")


def _each(params: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("use_reference", params, indirect=True)


def _needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


needs_numba = _needs("numba")
each_accelerator = _each([pytest.param(name, marks=_needs(name)) for name in ACCELERATORS])
"""Runs a test that takes ``use_reference``, which is False, with each accelerator that is installed."""
each_coder = _each(["reference", *(pytest.param(name, marks=_needs(name)) for name in ACCELERATORS)])
"""The same with the reference as well, for which it is True."""


def laplace(scale: float, most: int = 8) -> ChannelPrior:
    """Integer weights, so that no library's ``exp`` decides on a test."""
    weights = [max(1, round(100_000 * 2 ** (-abs(value) / scale))) for value in range(-most, most + 1)]
    return ChannelPrior(pmf=np.array(weights, np.float64), first_value=-most, escape=5.0)


def level(*priors: ChannelPrior, max_bytes: int = MAX_PAYLOAD_BYTES) -> FrequencyTable:
    return FrequencyTable.from_priors(priors, max_bytes=max_bytes)


def usual_tables() -> CodecTables:
    """Three levels of a 4 x 4 grid: three channels, two of them, and none."""
    wide, narrow, one_value = laplace(2.0), laplace(0.5), ChannelPrior(pmf=np.ones(1), first_value=0)
    levels = (level(wide, narrow, one_value), level(narrow, wide), level())
    return CodecTables(height=4, width=4, levels=levels)


def draw(tables: CodecTables, number: int, seed: int) -> NDArray[np.int32]:
    """Symbols as often as the tables say, no escapes."""
    rng = np.random.default_rng(seed)
    table = tables.level(number)
    rows = [
        first + rng.choice(len(row) - 1, tables.height * tables.width, p=row[:-1] / row[:-1].sum())
        for row, first in zip(table.rows, table.first_values, strict=True)
    ]
    return np.array(rows, np.int32).reshape(tables.shape(number))


@st.composite
def priors(draw_one: st.DrawFn) -> ChannelPrior:
    pmf = draw_one(st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 1e-300, 1e300]), min_size=1, max_size=12))
    escape = draw_one(st.sampled_from([0.0, 1e-9, 1.0, 1e9]) if any(pmf) else st.just(1.0))
    first = draw_one(st.integers(-20, 20) | st.sampled_from([INT32_MIN, INT32_MAX - len(pmf) + 1]))
    return ChannelPrior(pmf=np.array(pmf), first_value=first, escape=escape)


@st.composite
def tables_and_symbols(draw_one: st.DrawFn) -> tuple[CodecTables, NDArray[np.int32]]:
    """One level of up to four channels on a small grid, and symbols of which many lie outside."""
    channels = draw_one(st.lists(priors(), max_size=4))
    height, width = draw_one(st.integers(1, 3)), draw_one(st.integers(1, 5))
    value = st.integers(-25, 25) | st.sampled_from([INT32_MIN, INT32_MAX]) | st.integers(INT32_MIN, INT32_MAX)
    num_symbols = len(channels) * height * width
    symbols = draw_one(st.lists(value, min_size=num_symbols, max_size=num_symbols))
    tables = CodecTables(height=height, width=width, levels=(level(*channels),))
    return tables, np.array(symbols, np.int32).reshape(tables.shape(0))
