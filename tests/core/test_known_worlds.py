"""Worlds that were left and come back, by their fingerprints, on a few pages."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.core.arrays import FloatArray
from littoral.core.known_worlds import KnownWorlds


def at(place: float) -> FloatArray:
    return np.array([place], dtype=np.float32)


def are_near(a: FloatArray, b: FloatArray) -> bool:
    return bool(abs(a - b).item() < 1)


def test_a_world_that_is_back_is_found_and_one_that_is_far_is_not() -> None:
    known = KnownWorlds(3)
    assert known.leave(at(0)) == 1
    assert known.leave(at(5)) == 2
    assert known.near(at(0.5), are_near) == (0,)
    assert known.near(at(5.5), are_near) == (1,)
    assert known.near(at(2.5), are_near) == ()
    assert known.left_last == 1


def test_of_several_near_worlds_the_one_left_last_comes_first() -> None:
    known = KnownWorlds(4)
    for place in (0.0, 0.4, 9.0):
        known.leave(at(place))
    assert known.near(at(0.2), are_near) == (1, 0)


def test_a_page_that_is_taken_up_is_in_use_and_the_one_before_is_free() -> None:
    known = KnownWorlds(3)
    known.leave(at(0))
    known.take_up(0)
    assert (known.page, known.near(at(0), are_near), known.left_last) == (0, (), None)
    assert known.leave(at(0)) == 1, "page 1 was never put aside"
    with pytest.raises(ValueError, match="was not put aside"):
        known.take_up(2)


def test_with_no_page_left_the_world_left_longest_ago_is_forgotten() -> None:
    known = KnownWorlds(2)
    known.leave(at(0))
    assert known.leave(at(5)) == 0
    assert known.near(at(0), are_near) == ()
    assert known.near(at(5), are_near) == (1,)


@pytest.mark.parametrize("pages", [1, 3])
def test_of_a_world_that_is_worth_nothing_or_where_there_is_one_page_nothing_is_kept(pages: int) -> None:
    known = KnownWorlds(pages)
    assert known.leave(None) == 0
    assert known.near(at(0), lambda a, b: True) == ()
    assert known.leave(at(0)) == (1 if pages > 1 else 0)
    with pytest.raises(ValueError, match="needs a page"):
        KnownWorlds(0)
