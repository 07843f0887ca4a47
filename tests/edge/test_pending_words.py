"""What is said of a frame before its exits are asked waits for them, a few frames' worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from littoral.edge.exit_files import PendingFrames
from littoral.edge.recent import SeenFrame

FEATURES = np.arange(4, dtype=np.float16)
LOGITS = np.zeros(3, dtype=np.float32)


@pytest.fixture
def pending(tmp_path: Path) -> Iterator[PendingFrames]:
    with closing(PendingFrames(tmp_path / "pending", capacity=8, num_features=4, num_classes=3)) as frames:
        yield frames


def frame(number: int, *, num_seen: int, day: int = 1) -> SeenFrame:
    return SeenFrame(frame_id=number, version=0, num_seen=num_seen, features=FEATURES, logits_K=LOGITS, day=day)


def test_a_word_that_comes_first_is_on_the_frame_when_its_exits_have_spoken(pending: PendingFrames) -> None:
    assert not pending.add(frame(1, num_seen=0).with_label(2))
    assert len(pending) == 0
    assert pending.add(frame(1, num_seen=2))
    (kept,) = pending
    assert (kept.label, kept.num_seen) == (2, 2)
    assert kept.features.tolist() == FEATURES.tolist()


def test_words_of_frames_that_are_never_asked_are_bounded_and_the_newest_stay(pending: PendingFrames) -> None:
    for number in range(1, 41):
        pending.add(frame(number, num_seen=0).with_label(2))
    for number in (1, 40):
        pending.add(frame(number, num_seen=1))
    assert [each.label for each in pending] == [-1, 2]


def test_a_day_that_is_taken_back_takes_its_words_along(pending: PendingFrames) -> None:
    pending.add(frame(1, num_seen=0).with_label(2))
    assert pending.rewrite(lambda each: None if each.day == 1 else each)
    pending.add(replace(frame(1, num_seen=1), day=2))
    assert [each.label for each in pending] == [-1]
