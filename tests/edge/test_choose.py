"""Frames that wait for the background thread: their bytes are bounded, and no frame is too large to be chosen."""

from __future__ import annotations

import numpy as np

from littoral.edge.choose import Waiting


def test_a_frame_over_the_bound_waits_alone_and_others_find_no_room_beside_it() -> None:
    waiting, large, small = Waiting(1000), np.zeros((40, 40, 1), np.uint8), np.zeros((10, 10, 1), np.uint8)
    assert waiting.has_room(large)
    kept = waiting.keep(large)
    assert not waiting.has_room(small)
    waiting.release(kept)
    for _ in range(10):
        assert waiting.has_room(small)
        waiting.keep(small)
    assert not waiting.has_room(small)
    assert not waiting.has_room(large)
