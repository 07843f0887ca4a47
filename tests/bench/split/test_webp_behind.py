"""Which quality of WebP is as often right as a split, without looking at all of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from littoral.bench.split import link_row
from littoral.bench.split.codecs import QUALITIES
from littoral.bench.split.link import LinkSpec
from littoral.bench.split.link_row import METHODS, WebpBehind


class _Known(WebpBehind):
    """Right on as many per cent as the quality says."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def at(self, quality: int) -> float:
        self.asked.append(quality)
        return float(quality)


@pytest.mark.parametrize(("accuracy", "quality"), [(0.0, 0), (50.0, 50), (50.5, 55), (95.1, 98), (100.0, 100)])
def test_the_lowest_quality_that_is_as_often_right_is_found_by_halving(accuracy: float, quality: int) -> None:
    behind = _Known()
    assert behind.lowest(accuracy) == (quality, float(quality))
    assert len(set(behind.asked)) <= int(np.log2(len(QUALITIES))) + 2


def test_where_no_quality_is_as_often_right_the_highest_is_taken_and_says_how_often_it_is() -> None:
    assert _Known().lowest(100.5) == (QUALITIES[-1], 100.0)


class _Codec:
    """The more effort, the longer it takes on a clock of its own, and the smaller the file."""

    now = 0.0

    def __init__(self, *, name: str, format: str, options: Mapping[str, Any]) -> None:
        self.options = options

    def encode(self, frame: object, quality: int) -> bytes:
        _Codec.now += 1e-3 * (1 + self.options["method"])
        return bytes(1_000 - 50 * self.options["method"])


@pytest.mark.parametrize(("bits_per_second", "method"), [(1e3, METHODS[-1]), (1e9, METHODS[0])], ids=["slow", "fast"])
def test_webp_gets_the_effort_with_which_encoding_and_sending_take_the_least_time(
    monkeypatch: pytest.MonkeyPatch, bits_per_second: float, method: int
) -> None:
    monkeypatch.setattr(link_row, "PictureCodec", _Codec)
    monkeypatch.setattr(link_row.time, "perf_counter", lambda: _Codec.now)
    pictures = np.zeros((3, 32, 32, 3), np.uint8)
    found = link_row._fastest(pictures, 80, LinkSpec(bits_per_second=bits_per_second))
    assert found.options["method"] == method
