"""Heads that follow a user through power cuts, damaged files, new versions and days that are taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from exit_worlds import Bench, FakeModel, World
from test_versions import FragileFiles, PowerCut

from littoral.core.arrays import FloatArray
from littoral.core.exit_control import ControlConfig
from littoral.core.personal import PersonalConfig
from littoral.edge.exit_config import ExitConfig
from littoral.edge.exit_files import ExitFolder
from littoral.edge.personal import PersonalHeads
from littoral.edge.recent import SeenFrame
from littoral.edge.versions import Files
from littoral.errors import StorageError

WORLD = World(600, seed=3, moved=0.55, noise=0.4)
TWO = World(60, num_exits=2, seed=3)
"""For the many lives that end in a power cut."""
SIZE, K = 6, 4
CONFIG = PersonalConfig(
    fit="onehot", step=6.0, prior_frames=2.0, luck=0.3, memory_frames=24, held_frames=32, min_held=5
)


def frames(first: int, count: int, *, day: int, version: int = 0, world: World = WORLD) -> list[SeenFrame]:
    """What a device has seen of the world, all of it with labels."""
    return [
        SeenFrame(
            frame_id=i + 1,
            version=version,
            num_seen=len(world.features),
            features=world.features[:, i].ravel().astype(np.float16),
            logits_K=None,
            day=day,
            label=int(world.labels[i]),
        )
        for i in range(first, first + count)
    ]


def probe(scale: float = 1.0) -> list[FloatArray]:
    return [scale * features[:16] for features in WORLD.features]


def heads(folder: Path, *, version: int = 0, scale: float = 1.0, files: Files | None = None) -> PersonalHeads:
    return PersonalHeads(
        ExitFolder(folder, files=files),
        WORLD.heads(),
        CONFIG,
        seed=1,
        version=version,
        features=lambda: probe(scale),
        has_deep=True,
    )


def matrices(learned: PersonalHeads) -> list[np.ndarray]:
    """What the states of all exits come to; None where there is no state."""
    found = []
    for i in range(3):
        with learned._read(i) as head:
            found.append(None if head is None else head.matrix())
    return found


def days(learned: PersonalHeads) -> list[set[int]]:
    found = []
    for i in range(len(learned.sizes)):
        with learned._read(i) as head:
            found.append(set() if head is None else {sums.last_day for sums in head.evidence.everything()})
    return found


def test_what_was_learned_is_there_after_a_restart_and_serves(tmp_path: Path) -> None:
    learned = heads(tmp_path)
    learned.learn(frames(0, 100, day=1))
    learned.learn(frames(100, 50, day=2))
    assert [each.personal for each in learned.served] == [True] * 3
    again = heads(tmp_path)
    for before, after in zip(learned.served, again.served, strict=True):
        np.testing.assert_array_equal(before.head.weights_KD, after.head.weights_KD)
        assert (before.personal, before.temperature) == (after.personal, after.temperature)
    assert days(again) == [{1, 2}] * 3


def test_a_clock_that_goes_back_stops_nothing(tmp_path: Path) -> None:
    learned = heads(tmp_path)
    learned.learn(frames(0, 20, day=5))
    learned.learn(frames(20, 20, day=2))
    with learned._read(0) as head:
        assert head is not None
        assert [sums.num_labelled for sums in head.evidence.days] == [40]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_state_is_moved_aside_and_the_shipped_head_serves(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    heads(tmp_path).learn(frames(0, 150, day=1))
    path = tmp_path / "head-1.state"
    data = path.read_bytes()
    flipped = data[:300] + bytes([data[300] ^ 4]) + data[301:]
    path.write_bytes({"cut": data[:-9], "flipped": flipped, "empty": b"", "other": b"x" * len(data)}[damage])
    again = heads(tmp_path)
    assert [each.personal for each in again.served] == [True, False, True]
    assert "what was learned at exit 1 cannot be used" in caplog.text
    assert not path.exists()
    assert path.with_suffix(".refused").exists()
    again.learn(frames(150, 150, day=1))
    assert again.served[1].personal, "it begins anew"


# Days that are taken back.


@pytest.mark.parametrize("day", [1, 2])
def test_without_a_day_every_exit_is_as_if_the_day_had_never_been(tmp_path: Path, day: int) -> None:
    whole, without = heads(tmp_path / "whole"), heads(tmp_path / "without")
    for number in (1, 2, 3):
        batch = frames(60 * number, 60, day=number)
        whole.learn(batch)
        if number != day:
            without.learn(batch)
    before = matrices(whole)
    assert whole.forget(day)
    for mine, its, old in zip(matrices(whole), matrices(without), before, strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-9)
        assert np.abs(mine - old).max() > 1e-3, "the day had left its mark"
    assert not whole.forget(day), "nothing is left of it"
    assert not (tmp_path / "whole" / "forget.json").exists()


def test_a_day_goes_with_all_older_ones_where_they_are_one_sum(tmp_path: Path) -> None:
    learned = heads(tmp_path)
    for day in range(10):
        learned.learn(frames(10 * day, 10, day=day))
    assert learned.forget(1)
    assert days(learned) == [set(range(3, 10))] * 3


def test_taking_a_day_back_removes_what_was_moved_aside_too(tmp_path: Path) -> None:
    learned = heads(tmp_path)
    learned.learn(frames(0, 30, day=1))
    (tmp_path / "head-0.refused").write_bytes(b"nobody knows what")
    learned.forget(1)
    assert not list(tmp_path.glob("*.refused"))


# Versions.


def test_heads_follow_to_another_version_by_the_probe_frames(tmp_path: Path) -> None:
    """Version 7 makes all features twice as large; a boot under it finds the old features on the disk."""
    learned = heads(tmp_path)
    learned.learn(frames(0, 150, day=1))
    moved = heads(tmp_path, version=7, scale=2.0)
    serving = [(i, each.head) for i, each in enumerate(moved.served) if each.personal]
    assert len(serving) >= 2, "which of them serve the held-back frames say anew"
    for i, head in serving:
        assert np.mean(head.logits(2 * WORLD.features[i]).argmax(axis=1) == WORLD.labels) > 0.6
    assert days(moved) == [{1}] * 3
    for i in range(3):
        with moved._read(i) as head:
            assert head is not None
            assert head.affine_version == 7


def test_without_the_probe_frames_features_heads_begin_anew_under_another_version(tmp_path: Path) -> None:
    heads(tmp_path).learn(frames(0, 80, day=1))
    (tmp_path / "probe.tensors").write_bytes(b"no tensors")
    assert [each.personal for each in heads(tmp_path, version=7).served] == [False] * 3


def test_frames_of_another_version_teach_nothing(tmp_path: Path) -> None:
    learned = heads(tmp_path)
    learned.learn([*frames(0, 10, day=1), *frames(10, 10, day=1, version=4)])
    with learned._read(2) as head:
        assert head is not None
        assert sum(sums.num_labelled for sums in head.evidence.days) == 10


# Power cuts.


class Fragile(FragileFiles):
    """The disk of the versions' tests, which also takes a file piece by piece."""

    def append(self, path: Path, data: bytes) -> None:
        self._unsynced.add(path)
        if len(self.taken) == self.steps - 1 and not self.cut:
            Files.append(self, path, data[: len(data) // 2])
        else:
            Files.append(self, path, data)
        if len(data) > 200:  # the small pieces are not worth a life each
            self._step("append")


class Unsynced(Fragile):
    """The negative control: a disk layer that forgets to sync."""

    def sync(self, path: Path) -> None:
        self._step("sync")


class NoIntent(ExitFolder):
    """The negative control: a day is taken back without a note of it."""

    def begin_forgetting(self, days: list[int]) -> None:
        """Nothing."""


@dataclass
class Cut:
    """What was going on when the power failed."""

    doing: str = ""
    done: list[str] = field(default_factory=list)


def booted(folder: ExitFolder) -> PersonalHeads:
    features = [features[:16] for features in TWO.features]
    return PersonalHeads(folder, TWO.heads(), CONFIG, seed=1, version=0, features=lambda: features, has_deep=True)


def live(folder: Path, files: FragileFiles, kind: Callable[..., ExitFolder]) -> Cut:
    """Learn two days, then take the first one back."""
    cut = Cut()
    try:
        for cut.doing in ("boot", "day 1", "day 2", "forget"):
            if cut.doing == "boot":
                learned = booted(kind(folder, files=files))
            elif cut.doing == "forget":
                learned.forget(1)
            else:
                number = int(cut.doing[-1])
                learned.learn(frames(4 * number, 4, day=number, world=TWO))
            cut.done.append(cut.doing)
        cut.doing = "end"
        files.steps = 0
        files._step("end")
    except PowerCut:
        pass
    return cut


def wrong_after(folder: Path, cut: Cut, kind: Callable[..., ExitFolder]) -> Iterator[str]:
    """What is wrong after the power came back."""
    learned = booted(kind(folder))
    if list(folder.glob("*.refused")):
        yield f"in {cut.doing!r} a state was damaged"
    held = days(learned)
    if "day 1" in cut.done and "forget" not in [*cut.done, cut.doing] and any(1 not in each for each in held):
        yield f"in {cut.doing!r} day 1 was lost: {held}"
    if "day 2" in cut.done and any(2 not in each for each in held):
        yield f"in {cut.doing!r} day 2 was lost: {held}"
    if cut.doing == "forget" and len({1 in each for each in held}) != 1:
        yield f"day 1 is half taken back: {held}"
    if "forget" in cut.done and any(1 in each for each in held):
        yield f"day 1 is still there: {held}"


def failures(
    folder: Path, make: Callable[[int], FragileFiles], kind: Callable[..., ExitFolder] = ExitFolder, every: int = 1
) -> list[str]:
    """Cut the power after every number of steps, start again, and tell what is wrong then."""
    whole = make(10**9)
    live(folder / "whole", whole, kind)
    found = []
    for cut in range(0, len(whole.taken) + 1, every):
        place = folder / str(cut)
        found += list(wrong_after(place, live(place, make(cut), kind), kind))
    return found


@pytest.mark.parametrize("lose_renames", [False, True], ids=["renames-kept", "renames-lost"])
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_power_cut_after_any_step_loses_no_more_than_what_was_being_learned(
    tmp_path: Path, lose_renames: bool, every: int
) -> None:
    assert failures(tmp_path, lambda cut: Fragile(cut, lose_renames=lose_renames), every=every) == []


def test_without_syncing_a_power_cut_damages_what_was_learned(tmp_path: Path) -> None:
    found = failures(tmp_path, lambda cut: Unsynced(cut, lose_renames=False), every=7)
    assert any("a state was damaged" in line for line in found)


def test_without_a_note_of_it_a_power_cut_leaves_a_day_half_taken_back(tmp_path: Path) -> None:
    found = failures(tmp_path, lambda cut: Fragile(cut, lose_renames=False), NoIntent, every=3)
    assert any("half taken back" in line for line in found)


class FullDisk(Files):
    """Takes nothing."""

    def append(self, path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_costs_what_was_learned_and_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    learned = heads(tmp_path, files=FullDisk())
    learned.learn(frames(0, 60, day=1))
    assert [each.personal for each in learned.served] == [False] * 3
    assert "free some space" in caplog.text
    assert not list(tmp_path.glob("*.new"))


def test_a_day_that_a_full_disk_keeps_from_being_taken_back_is_taken_back_at_the_next_start(tmp_path: Path) -> None:
    heads(tmp_path).learn(frames(0, 60, day=1))
    stuck = heads(tmp_path)
    stuck._folder._files = FullDisk()
    with pytest.raises(StorageError, match="free some space"):
        stuck.forget(1)
    assert not stuck.served[0].personal, "nothing of the day serves meanwhile"
    assert days(heads(tmp_path)) == [set()] * 3


# The whole device.

EXITS = ExitConfig(
    control=ControlConfig(risk=0.2, ring_frames=60, min_calibration=30, min_labelled=20),
    personal=CONFIG,
    pending_frames=24,
    learning_share=1.0,
    today=lambda: 7,
)


def test_a_device_learns_its_user_and_is_certified_with_what_it_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(monkeypatch, WORLD, EXITS, tmp_path)
    found = bench.show(range(600), labelled=1.0)
    exits = bench.exits
    exits.close()
    assert (exits.state, exits.num_personal) == ("serving", 3)
    right = np.array([each.label for each in found]) == WORLD.labels
    assert right[400:].mean() > right[:30].mean() + 0.05, "while checking the shipped network answered"
    assert {each.exit_index for each in found[:30]} == {3}
    assert exits.early > 100
    assert exits.frames_by_exit[2] > 0, "the deep personal head answers in the place of the network's classifier"


def test_what_was_learned_while_the_clock_ran_ahead_goes_with_any_day_that_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is set right leaves the heads with a last day that is still to come: what comes until then is of it,
    whatever day it is."""
    day = 900
    bench = Bench(monkeypatch, WORLD, replace(EXITS, today=lambda: day), tmp_path)
    exits = bench.exits
    bench.show(range(100), labelled=1.0)
    day = 7
    bench.show(range(100, 300), labelled=1.0)
    assert days(exits._personal) == [{900}] * 3  # type: ignore[arg-type]
    assert exits.forget_day(7), "the user was told that there was nothing to forget"
    assert days(exits._personal) == [set()] * 3  # type: ignore[arg-type]
    bench.show(range(300, 600), labelled=1.0)
    assert days(exits._personal) == [{7}] * 3, "and the days are right again"  # type: ignore[arg-type]
    assert not exits.forget_day(6), "the control: with the clock right a day is that day alone"
    exits.close()


def test_a_day_is_taken_back_from_the_ring_the_waiting_and_the_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 7
    bench = Bench(monkeypatch, WORLD, replace(EXITS, today=lambda: day), tmp_path)
    exits = bench.exits
    bench.show(range(300), labelled=1.0)
    day = 8
    bench.show(range(300, 330), labelled=1.0)
    assert exits.state == "serving"
    assert exits.forget_day(7)
    assert {frame.day for frame in exits.ring.frames()} <= {8}
    assert {frame.day for frame in exits._pending} <= {8}  # type: ignore[union-attr]
    assert not any(7 in each for each in days(exits._personal))  # type: ignore[arg-type]
    assert exits.state == "checking", "thresholds that were certified with its frames are in force no more"
    assert not exits.forget_day(7)
    exits.close()


def test_a_new_version_takes_the_heads_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, WORLD, EXITS, tmp_path)
    bench.show(range(300), labelled=1.0)
    new = FakeModel(WORLD, version=9, scale=1.5)
    bench.exits.prepare(new)()  # type: ignore[arg-type]
    bench.model = new
    assert (bench.exits.state, bench.exits.policy.affine_version) == ("serving", 9), "the ring's frames were run again"
    assert {frame.affine_version for frame in bench.exits.ring.frames()} == {9}
    assert bench.exits.num_personal == 3
    found = bench.show(range(300, 600), labelled=1.0)
    bench.exits.close()
    assert bench.exits.state == "serving"
    assert np.mean(np.array([each.label for each in found]) == WORLD.labels[300:]) > 0.8


def test_a_version_that_breaks_the_promise_does_not_serve_with_exits_and_the_frames_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(300, seed=3, noise=0.4)
    control = ControlConfig(ring_frames=80, min_calibration=70)
    bench = Bench(monkeypatch, world, replace(EXITS, control=control, personal=None), tmp_path)
    exits = bench.exits
    bench.show(range(300))
    assert exits.state == "serving"
    kept = len(exits.ring)
    new = FakeModel(world, version=9, scale=-1.0)
    exits.prepare(new)()  # type: ignore[arg-type]
    bench.model = new
    assert (exits.state, exits.policy.affine_version, len(exits.ring)) == ("checking", 9, kept)
    assert (exits.control.num_rechecks, exits.control.num_alarms) == (1, 0)
    bench.show(range(100))
    assert (exits.state, len(exits.ring)) == ("checking", 80)
    exits.prepare(FakeModel(world, version=10))()  # type: ignore[arg-type]
    assert exits.state == "serving", "a full ring is asked again with the next version"


def test_in_another_world_the_frames_that_calibrated_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(monkeypatch, WORLD, EXITS, tmp_path)
    bench.show(range(300))
    assert bench.exits.state == "serving"
    bench.exits.prepare(FakeModel(WORLD, version=9), same_world=False)()  # type: ignore[arg-type]
    assert (bench.exits.state, len(bench.exits.ring)) == ("checking", 0)


def test_the_alarm_goes_on_through_versions_of_the_same_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, WORLD, EXITS, tmp_path)
    bench.show(range(300))
    alarm = bench.exits.control.alarm
    assert alarm is not None
    alarm.log_wealth = 2.0
    bench.exits.prepare(FakeModel(WORLD, version=9))()  # type: ignore[arg-type]
    assert bench.exits.state == "serving"
    assert bench.exits.control.alarm is alarm, "versions that come all the time must not silence it"


def test_without_a_state_folder_nothing_is_learned_and_exits_serve_as_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, World(200), EXITS, None)
    bench.show(range(200), labelled=1.0)
    assert (bench.exits.state, bench.exits.num_personal) == ("serving", 0)
