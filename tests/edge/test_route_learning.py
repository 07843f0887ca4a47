"""What a switcher learns on a device, in which order of trust, and what of it a power cut leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from route_rigs import plain_switcher

from littoral.core.arrays import Float64s
from littoral.core.switcher import Switcher, SwitcherConfig
from littoral.edge.route_learning import STATE_FILE, Answered, RouteLearning
from littoral.edge.route_walk import Look
from littoral.edge.versions import Files

SHIPPED = plain_switcher()


class PowerCut(Exception):
    """Nothing after it happens."""


class CutFiles(Files):
    """The power goes before the so-manieth step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise PowerCut

    def write(self, path: Path, data: bytes) -> None:
        if self.left == 0:
            path.write_bytes(data[: len(data) // 2])
        self._step()
        super().write(path, data)

    def sync(self, path: Path) -> None:
        self._step()
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)


class Bench:
    """A `RouteLearning` whose background work is done at once."""

    def __init__(self, folder: Path | None, *, refit_every: int = 8, files: Files | None = None) -> None:
        self.serving, self.tasks = Switcher(SHIPPED), deque[Callable[[], None]]()
        self.learning = RouteLearning(
            self.serving, folder=folder, later=self.tasks.append, refit_every=refit_every, files=files
        )
        self.rng, self.frames = np.random.default_rng(0), 0

    def answered(self, count: int, *, label: int = 0, cloud: int = 1, propensity: float | None = 1.0) -> None:
        for _ in range(count):
            self.frames += 1
            self.learning.newest = self.frames
            features: Float64s = np.array([*self.rng.standard_normal(3), 0.5])
            look = Look(label, 0.7, features)
            self.learning.answered(Answered(self.frames, (look,), cloud, propensity, None))
        self.settle()

    def settle(self) -> None:
        while self.tasks:
            self.tasks.popleft()()
        self.learning.take()

    def learned(self) -> list[int]:
        learner = self.learning._learner
        assert learner is not None
        return learner._outcome[: learner.size].tolist()


def test_answers_wait_as_long_as_the_user_may_label_their_frames() -> None:
    bench = Bench(None)
    bench.answered(64)
    assert bench.learned() == []
    bench.answered(8)
    assert len(set(bench.learned())) == 2, "without a label each is one of two"
    assert bench.learning.num_refits == 1


@pytest.mark.parametrize("first", ["user", "cloud"])
def test_with_the_users_label_it_is_known_who_was_right(first: str) -> None:
    bench = Bench(None)
    if first == "user":
        bench.learning.labelled(1, 1)
        bench.learning.labelled(2, 0)
    bench.answered(3)
    if first == "cloud":
        bench.learning.labelled(1, 1)
        bench.learning.labelled(2, 0)
    bench.settle()
    assert bench.learned() == [1, 2], "the cloud helped; it harmed; of the third nothing is known yet"


# The teacher's word on samples of frames that the cloud was asked for.


def test_answers_to_frames_whose_samples_are_on_their_way_wait_for_the_teachers_word() -> None:
    bench = Bench(None)
    for frame_id in (1, 2, 3):
        bench.learning.awaits(frame_id)
    bench.answered(200)
    num_others = len(bench.learned())
    bench.learning.told(1, 1)
    bench.learning.told(2, 0)
    bench.settle()
    assert bench.learned()[num_others:] == [1, 2], "the cloud helped; it harmed"
    bench.learning.not_told(3)
    bench.settle()
    assert bench.learned()[num_others + 2 :] == [1, 2], "as without a label: one of two"
    learner = bench.learning._learner
    assert learner is not None
    parts = learner._weights[num_others : num_others + 4]
    np.testing.assert_allclose([*parts[:2], parts[2:].sum()], 1.0, rtol=1e-6, err_msg="each counts as one frame")


def test_the_teachers_word_changes_what_a_frame_says_and_not_how_much_it_counts() -> None:
    """An audited frame stands for the others that could have been: whether its sample was answered changes nothing."""
    totals = []
    for told in (True, False):
        bench = Bench(None)
        bench.learning.awaits(1)
        bench.answered(1, propensity=0.25)
        if told:
            bench.learning.told(1, 1)
        bench.learning.close()
        learner = bench.learning._learner
        assert learner is not None
        totals.append(learner._weights[: learner.size].sum())
    np.testing.assert_allclose(totals, 4.0, rtol=1e-6)


def test_the_teachers_word_on_a_frame_that_the_cloud_was_not_asked_for_teaches_the_switcher_nothing() -> None:
    bench = Bench(None)
    for frame_id in range(1, 200):
        bench.learning.awaits(frame_id)
        bench.learning.told(frame_id, 1)
    bench.learning.close()
    assert bench.learned() == []


@pytest.mark.parametrize("first", ["user", "teacher"])
def test_the_users_word_comes_before_the_teachers_unless_it_was_learned_from(first: str) -> None:
    bench = Bench(None)
    bench.learning.awaits(1)
    bench.answered(1)
    if first == "user":
        bench.learning.labelled(1, 0)
        bench.settle()
    bench.learning.told(1, 1)
    if first == "teacher":
        bench.learning.labelled(1, 0)
    bench.settle()
    bench.learning.close()
    assert bench.learned() == [2], "the user says that the cloud harmed"


def test_what_waits_when_a_device_stops_is_learned_from_as_it_is() -> None:
    bench = Bench(None)
    bench.learning.awaits(1)
    bench.answered(1)
    bench.learning.close()
    assert set(bench.learned()) == {1, 2}


def test_pings_teach_the_switcher_nothing() -> None:
    bench = Bench(None)
    bench.answered(100, propensity=None)
    bench.learning.close()
    assert bench.learned() == []
    np.testing.assert_array_equal(bench.serving.coefficients, SHIPPED.coefficients)


def test_what_is_fitted_comes_into_force_and_is_there_after_a_kill(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    before = bench.serving.coefficients
    bench.answered(80)
    after = bench.serving.coefficients
    assert after is not before
    assert not np.array_equal(after, SHIPPED.coefficients)
    again = Bench(tmp_path)  # nothing was closed
    np.testing.assert_array_equal(again.serving.coefficients, after)
    assert (again.learning.num_refits, again.learned()) == (bench.learning.num_refits, bench.learned())


@pytest.mark.parametrize("steps", range(5))
def test_whenever_the_power_goes_the_old_state_is_there_or_the_new_one(tmp_path: Path, steps: int) -> None:
    first = Bench(tmp_path)
    first.answered(72)
    old = (tmp_path / STATE_FILE).read_bytes()
    second = Bench(tmp_path, files=CutFiles(steps))
    try:
        second.answered(72)
    except PowerCut:
        assert steps < 4
    now = (tmp_path / STATE_FILE).read_bytes()
    assert (now == old) == (steps < 3)
    third = Bench(tmp_path)
    assert third.learning.num_refits == 1 + (steps >= 3)
    assert Switcher.from_bytes(now, shipped=SHIPPED, config=SwitcherConfig()).size > 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_state_leaves_the_shipped_switcher_and_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    Bench(tmp_path).answered(80)
    path = tmp_path / STATE_FILE
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-7], "flipped": bytes([data[0] ^ 1]) + data[1:], "empty": b""}[damage])
    bench = Bench(tmp_path)
    np.testing.assert_array_equal(bench.serving.coefficients, SHIPPED.coefficients)
    assert "the shipped one serves" in caplog.text
    bench.answered(80)
    assert Bench(tmp_path).learning.num_refits > 0, "and it is written anew"


def test_a_full_disk_costs_the_state_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(Files):
        def write(self, path: Path, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    bench = Bench(tmp_path, files=Full())
    bench.answered(80)
    assert bench.learning.num_refits > 0
    assert "free some space" in caplog.text
    assert not (tmp_path / STATE_FILE).exists()
