"""What is timed: ways in turns, on the device's own path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from littoral.bench.exits.latency import timed
from littoral.bench.exits.summary import summarise
from littoral.bench.exits.unit import ExitUnit

FRAMES = np.arange(25, dtype=np.uint8).reshape(-1, 1, 1, 1)
WARM_UP = 2 * 5


@pytest.mark.parametrize(("in_a_row", "begins"), [(1, "abbaab"), (3, "aaabbbbbbaaa")], ids=["single", "three"])
def test_ways_take_turns_and_each_goes_first_as_often(in_a_row: int, begins: str) -> None:
    asked: list[tuple[str, int]] = []

    def way(name: str) -> Any:
        return lambda frame: asked.append((name, int(frame.ravel()[0])))

    timed({"a": way("a"), "b": way("b")}, FRAMES, in_a_row=in_a_row)
    counted = asked[WARM_UP:]
    assert "".join(name for name, _ in counted).startswith(begins)
    for name in "ab":
        assert [number for who, number in counted if who == name] == list(range(25))


def test_a_mean_is_over_the_places_where_frames_leave_and_one_call_that_was_held_up_does_not_decide() -> None:
    now, calls = [0], [0]

    def way(frame: np.ndarray) -> int:
        place = int(frame.ravel()[0] >= 20)
        calls[0] += 1
        now[0] += 200_000_000 if calls[0] == 15 else 4_000_000 if place else 1_000_000
        return place

    milliseconds = timed({"a": way}, FRAMES, clock_ns=lambda: now[0])["a"]
    assert milliseconds == pytest.approx((20 * 1 + 5 * 4) / 25), "20 take 1 ms and 5 take 4, the one of 200 counts as 1"


def test_times_in_a_row_stand_beside_those_in_turns_where_all_rows_have_them() -> None:
    unit = ExitUnit(kind="latency", network="resnet20", count=2)
    row = {"user": 0, "hard": False, "way": "personal, labels, equal accuracy", "ms": 2.0, "full_ms": 5.0}
    both = {**row, "in_a_row_ms": 1.0, "in_a_row_full_ms": 4.0}
    key = "latency_full_over_exits_equal_accuracy"
    out = summarise([unit], {unit.key: {"points": [both, both]}})
    assert (out[key], out[f"{key}_in_a_row"]) == (2.5, 4.0)
    assert f"{key}_in_a_row" not in summarise([unit], {unit.key: {"points": [both, row]}})
