"""What takes long says how far it is, and what does not says nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from littoral.core.tasks import Classification
from littoral.train import BuildOptions
from littoral.train import watched as watched_module
from littoral.train.sample import take_sample
from littoral.train.watched import watched


def lines(num_items: int, seconds: float) -> list[str]:
    now, said = [0.0], list[str]()
    for item in watched(range(num_items), "counting", said.append, clock=lambda: now[0]):
        assert item == round(now[0] / seconds)
        now[0] += seconds
    return said


def test_work_of_two_seconds_is_told_and_then_every_half_minute() -> None:
    assert lines(100, 0.02) == []
    assert lines(10, 0.5) == ["counting: 40 % done, 0.1 min left"]
    assert lines(12, 10.0) == [
        "counting: 8 % done, 1.8 min left",
        "counting: 33 % done, 1.3 min left",
        "counting: 58 % done, 0.8 min left",
        "counting: 83 % done, 0.3 min left",
    ]
    assert lines(1, 100.0) == lines(0, 1.0) == []


class Student:
    """A session of a classifier of three classes: by a frame's first pixel."""

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="frames")]

    def run(self, outputs: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.eye(3, dtype=np.float32)[feeds["frames"][:, 0, 0, 0] % 3]]


def test_a_sample_that_takes_long_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.arange(150, dtype=np.uint8)[:, None, None, None]
    given: Any = ([Student()], Classification(num_classes=3), frames, np.arange(150) % 3, BuildOptions(probe_frames=6))
    said: list[str] = []
    sample = take_sample(*given, said.append)
    assert said == []
    monkeypatch.setattr(watched_module, "_FIRST_SECONDS", -1.0)
    again = take_sample(*given, said.append)
    assert said == ["the student on 150 source frames: 33 % done, 0.0 min left"]
    np.testing.assert_array_equal(again.classes, sample.classes)
    np.testing.assert_array_equal(sample.classes, frames[sample.measured, 0, 0, 0] % 3)
