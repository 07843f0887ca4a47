"""Which quality of WebP is as often right as a split, without looking at all of them."""

import numpy as np
import pytest

pytest.importorskip("torch")

from littoral.bench.split.codecs import QUALITIES
from littoral.bench.split.link_row import WebpBehind


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
