"""Frames on their way to the background thread: what goes wrong with one does not hold up those that come later."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from littoral.core.exit_control import Purpose
from littoral.edge.exit_queue import ExitQueue, Handed
from littoral.errors import StorageError


def test_a_disk_that_fails_once_does_not_keep_the_frames_of_later_from_being_taken() -> None:
    tasks: list[Callable[[], None]] = []
    taken: list[int] = []
    failures = [StorageError("a frame cannot be kept")]

    def take() -> None:
        for handed in queue.drain():
            if failures:
                raise failures.pop()
            taken.append(handed.frame_id)

    def put(first: int, count: int) -> None:
        for frame_id in range(first, first + count):
            queue.begins(frame_id)
            queue.put(Handed(frame_id, Purpose.RING, 1.0, b"", None))

    queue = ExitQueue(take, tasks.append)
    put(1, 20)
    assert len(tasks) == 1
    with pytest.raises(StorageError):
        tasks.pop()()
    put(21, 40)
    while tasks:
        tasks.pop()()
    assert taken, "the background thread is woken again"
    assert taken[-1] > 20
    assert len(queue) < 20
