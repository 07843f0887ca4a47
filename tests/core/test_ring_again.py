"""A ring whose frames' pixels are kept is run again by another network, and forgets pixels with frames."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.core.calibration_ring import CalibrationRing, MemorySlots, RingFrame, Seen, Window


def ring_of(count: int, *, capacity: int = 4) -> tuple[CalibrationRing, MemorySlots]:
    """Frames of one byte each, their number; the first exit's feature is that number."""
    pixels = MemorySlots()
    ring = CalibrationRing(capacity, (1, 1), pixels=pixels)
    for number in range(count):
        features = np.array([number, 0], np.float16)
        frame = RingFrame(frame_id=number, affine_version=1, day=number % 2, shipped=0, features=features)
        ring.add(frame, bytes([number]))
    return ring, pixels


def test_another_network_sees_each_frame_again_and_labels_stay() -> None:
    ring, _ = ring_of(6)
    ring.label(4, 7)
    assert ring.run_again(9, lambda many: [(np.array([2 * each[0], 1], np.float16), each[0]) for each in many]) == 4
    frames = list(ring.frames())
    assert [frame.frame_id for frame in frames] == [2, 3, 4, 5]
    assert [frame.features.tolist() for frame in frames] == [[4, 1], [6, 1], [8, 1], [10, 1]]
    assert [frame.shipped for frame in frames] == [2, 3, 4, 5]
    assert {frame.affine_version for frame in frames} == {9}
    assert [frame.label for frame in frames] == [-1, -1, 7, -1]


def test_a_frame_of_which_the_network_makes_nothing_finite_is_dropped_with_its_pixels() -> None:
    ring, pixels = ring_of(4)

    def see(many: list[bytes]) -> list[Seen | None]:
        return [None if each[0] == 2 else (np.zeros(2, np.float16), 0) for each in many]

    assert ring.run_again(9, see) == 3
    assert pixels.read(2) == b"\0"


def test_a_day_that_is_taken_back_leaves_no_pixels() -> None:
    ring, pixels = ring_of(4)
    assert ring.remove_day(1) == 2
    assert [pixels.read(slot) for slot in range(4)] == [b"\0", b"\0", b"\2", b"\0"]  # frame 0's byte is 0 by itself
    ring.clear()
    assert {pixels.read(slot) for slot in range(4)} == {b"\0"}


def test_a_ring_without_pixels_says_so() -> None:
    ring = CalibrationRing(4, (1, 1))
    assert not ring.runs_again
    with pytest.raises(ValueError, match="not kept"):
        ring.run_again(1, lambda many: [])


def test_the_newest_frames_can_be_scored_alone() -> None:
    ring, _ = ring_of(6)
    assert [frame.frame_id for frame in ring.frames(2)] == [4, 5]
    assert [frame.frame_id for frame in ring.frames(99)] == [2, 3, 4, 5]
    assert list(ring.frames(0)) == []


def test_a_ring_passes_on_its_frames_with_their_pixels_and_keeps_none() -> None:
    (ring, pixels), (other, others) = ring_of(3), ring_of(2, capacity=8)
    ring.pass_on(other)
    assert [frame.frame_id for frame in other.frames()] == [0, 1, 0, 1, 2]
    assert [others.read(slot) for slot in range(5)] == [b"\0", b"\1", b"\0", b"\1", b"\2"]
    assert (len(ring), {pixels.read(slot) for slot in range(3)}) == (0, {b"\0"})


def test_a_ring_goes_on_over_its_slots_with_a_bookmark() -> None:
    slots = MemorySlots()
    ring = CalibrationRing(4, (1,), slots=Window(slots, 8))
    for number in range(6):
        frame = RingFrame(frame_id=number, affine_version=1, day=number, shipped=0, features=np.zeros(1, np.float16))
        ring.add(frame)
    ring.remove_day(3)
    again = CalibrationRing(4, (1,), slots=Window(slots, 8))
    again.reopen(ring.bookmark())
    assert [frame.frame_id for frame in again.frames()] == [2, 4, 5]
    assert 4 in again
    again.add(RingFrame(frame_id=9, affine_version=1, day=9, shipped=0, features=np.zeros(1, np.float16)))
    assert [frame.frame_id for frame in again.frames()] == [4, 5, 9], "in the place of the oldest"
    with pytest.raises(KeyError):
        slots.read(0)
