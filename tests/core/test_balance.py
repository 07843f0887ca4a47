"""A memory in which a class that floods the stream does not drive out the others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.arrays import Frame
from littoral.core.balance import ClassBalancedMemory


def frame(number: int) -> Frame:
    return np.full((1, 1, 2), [number // 256, number % 256], np.uint8)


def drawn(memory: ClassBalancedMemory, count: int) -> list[int]:
    return [int(f[0, 0, 0]) * 256 + int(f[0, 0, 1]) for f in memory.draw(count)]


def test_a_class_that_comes_alone_for_long_does_not_drive_out_the_others() -> None:
    memory = ClassBalancedMemory(8)
    for number, label in enumerate([0, 1, 2, 3]):
        memory.add(frame(number), label)
    for number in range(100, 300):
        memory.add(frame(number), 0)
    assert memory.counts() == {0: 5, 1: 1, 2: 1, 3: 1}
    assert drawn(memory, 8) == [299, 1, 2, 3, 298, 297, 296, 295], "the newest of each"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(1, 12), st.integers(1, 16))
@settings(max_examples=300, deadline=None)
def test_it_is_bounded_and_balanced_and_keeps_the_newest_of_each_class(
    labels: list[int], capacity: int, count: int
) -> None:
    memory, own = ClassBalancedMemory(capacity), np.zeros((1, 1, 2), np.uint8)
    for number, label in enumerate(labels):
        own[:] = frame(number)
        memory.add(own, label)
        assert len(memory) == min(number + 1, capacity) == sum(memory.counts().values())
    counts, seen = memory.counts(), {label: labels.count(label) for label in set(labels)}
    most = max(counts.values())
    if len(seen) <= capacity:
        assert all(counts.get(label, 0) >= min(times, most - 1) for label, times in seen.items())
    kept = drawn(memory, capacity)
    for label, many in counts.items():
        newest = [number for number, other in enumerate(labels) if other == label][-many:]
        assert {number for number in kept if labels[number] == label} == set(newest)
    assert drawn(memory, count) == kept[:count]


def test_what_is_cleared_is_gone_and_nothing_is_drawn_from_nothing() -> None:
    memory = ClassBalancedMemory(2)
    memory.add(frame(1), 0)
    memory.clear()
    assert len(memory) == 0
    with pytest.raises(ValueError, match="empty"):
        memory.draw(1)
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        ClassBalancedMemory(0)
