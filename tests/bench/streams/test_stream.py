"""A stream in batches: nothing lost, devices in turns, no batch across a reset, frames made a window at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pictures import pictures

from littoral.bench.streams.orders import continual, fleet, gradual, mixed, per_shift
from littoral.bench.streams.pools import CorruptedPool
from littoral.bench.streams.stream import Stream
from littoral.core.arrays import Frame

NAMES = ("brightness", "contrast", "clean", "pixelate")


class Counted(CorruptedPool):
    """A pool that keeps the numbers of frames that it was asked for."""

    asked: list[int]

    def frames_of(self, places: np.ndarray, name: str, severity: int) -> Frame:
        self.asked.append(len(places))
        return super().frames_of(places, name, severity)


def pool() -> Counted:
    made = Counted(frames=pictures(40), labels=np.arange(40) % 7)
    object.__setattr__(made, "asked", [])
    return made


STREAMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "continual": (continual, {"frames_per_shift": 25}),
    "per shift": (per_shift, {"frames_per_shift": 25}),
    "mixed": (mixed, {"frames_per_shift": 25}),
    "gradual": (gradual, {"frames_per_shift": 25}),
    "fleet": (fleet, {"frames_per_visit": 10}),
}


@pytest.fixture(params=STREAMS)
def stream(request: pytest.FixtureRequest) -> Stream:
    order, options = STREAMS[request.param]
    made: Stream = order(pool(), NAMES, seed=0, **options)
    return made


@pytest.mark.parametrize(("size", "window"), [(1, 32), (16, 32), (16, 2048), (1000, 1)])
def test_batches_have_every_frame_of_each_device_in_its_order(stream: Stream, size: int, window: int) -> None:
    batches = list(stream.batches(size, window=window))
    for device in range(stream.num_devices):
        own, whole = [batch for batch in batches if batch.device == device], stream.of_device(device)
        np.testing.assert_array_equal(np.concatenate([batch.frames for batch in own]), whole.frames)
        np.testing.assert_array_equal(np.concatenate([batch.labels for batch in own]), whole.labels)
        np.testing.assert_array_equal(np.concatenate([batch.shift for batch in own]), whole.shift)
        assert all(len(batch.frames) <= size for batch in own)


def test_devices_take_turns() -> None:
    stream = fleet(pool(), NAMES, frames_per_visit=10, seed=0)
    assert [batch.device for batch in stream.batches(4)] == [*range(8)] * 10


def test_a_reset_ends_a_batch_and_begins_the_next() -> None:
    stream = per_shift(pool(), NAMES, frames_per_shift=25, seed=0)
    batches = list(stream.batches(10, window=30))
    assert [len(batch.frames) for batch in batches] == [10, 10, 5] * 4
    assert [batch.begins for batch in batches] == [False] * 3 + [True, False, False] * 3
    assert all(len(set(batch.shift)) == 1 for batch in batches)


def test_without_resets_a_batch_may_cross_a_shift() -> None:
    batches = list(continual(pool(), NAMES, frames_per_shift=25, seed=0).batches(10))
    assert [len(batch.frames) for batch in batches] == [10] * 10
    assert not any(batch.begins for batch in batches)
    assert len(set(batches[2].shift)) == 2


def test_no_more_than_a_window_of_frames_is_made_before_it_is_played() -> None:
    frames = pool()
    stream = continual(frames, NAMES, frames_per_shift=25, seed=0)
    assert frames.asked == []
    batches = stream.batches(5, window=20)
    next(batches)
    assert sum(frames.asked) == 20
    for _ in range(3):
        next(batches)
    assert sum(frames.asked) == 20
    next(batches)
    assert sum(frames.asked) == 40


def test_frames_can_be_asked_for_in_any_order() -> None:
    stream = mixed(pool(), NAMES, frames_per_shift=25, seed=0)
    positions = np.array([80, 3, 3, 41])
    np.testing.assert_array_equal(stream.frames_at(positions), stream.frames[positions])
    with pytest.raises(ValueError, match="no positions"):
        stream.frames_at(positions[:0])


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch size is 0"):
        next(continual(pool(), NAMES, frames_per_shift=25, seed=0).batches(0))
