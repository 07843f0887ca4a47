"""What the teacher says of a sample teaches its frame, once, as the version in service sees it, on any road."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exit_worlds import Bench, FakeModel, World
from test_exit_learning import EXITS

from littoral.core.arrays import FloatArray
from littoral.core.calibration_ring import NO_LABEL
from littoral.core.exit_control import Purpose
from littoral.core.heads import softmax64
from littoral.core.sample_labels import encode_label, encode_labels, sample_key
from littoral.edge import exit_state
from littoral.edge.awaited_labels import AwaitedLabels, Heard
from littoral.edge.exit_config import ExitConfig
from littoral.edge.recent import NUM_RECENT, SeenFrame
from littoral.edge.teacher_labels import TeacherLabels

K = 4
ROOM = replace(EXITS, pending_frames=4096)
"""Nothing is learned: what waits to be learned from can be looked at."""


def frame_of(frame_id: int, *, size: int = 8, version: int = 0, day: int = 0) -> SeenFrame:
    features = np.full(size, frame_id, np.float16)
    return SeenFrame(frame_id=frame_id, version=version, num_seen=1, features=features, logits_K=None, day=day)


def scores_for(label: int) -> FloatArray:
    return np.log(np.where(np.arange(K) == label, 0.97, 0.01)).astype(np.float32)


# What is remembered of samples.


def test_an_answer_is_to_the_sample_that_it_names_and_once() -> None:
    awaited = AwaitedLabels()
    for number in (1, 2):
        awaited.put(bytes([number]), frame_of(number), 0.0)
    assert awaited.answer(b"\x02", scores_for(3), 1.0) == Heard(2, False)
    assert awaited.answer(b"\x02", scores_for(3), 1.0) is None, "a second one"
    assert awaited.answer(b"\x09", scores_for(3), 1.0) is None, "to nobody's"
    taken = awaited.take()
    assert taken is not None
    assert (taken.frame_id, taken.by_cloud, taken.label, taken.stands_for) == (2, True, NO_LABEL, 1.0)
    np.testing.assert_array_equal(taken.logits_K, scores_for(3))  # type: ignore[arg-type]
    assert awaited.take() is None
    assert len(awaited) == 1


def test_what_is_remembered_is_bounded_in_frames_in_bytes_and_in_time() -> None:
    gone: list[int] = []
    few, small = AwaitedLabels(most=3), AwaitedLabels(most_bytes=4 * (512 + 2000))
    for awaited in (few, small):
        awaited.on_forgotten = gone.append
        for number in range(10):
            awaited.put(bytes([number]), frame_of(number, size=1000), float(number))
    assert (len(few), len(small)) == (3, 4)
    assert small.num_bytes <= 4 * (512 + 2000)
    assert gone == [*range(7), *range(6)], "the oldest gives way"
    late = AwaitedLabels(keep_s=60)
    late.put(b"a", frame_of(1), 0.0)
    late.put(b"b", frame_of(2), 50.0)
    assert late.answer(b"a", scores_for(0), 61.0) is None
    assert late.answer(b"b", scores_for(0), 61.0) == Heard(2, False)
    late.expire(120.0)
    assert late.take() is None, "what is not handed on in time goes too"
    assert (len(late), late.num_bytes) == (0, 0)
    large = AwaitedLabels(most_bytes=100)
    large.put(b"a", frame_of(1), 0.0)
    assert (len(large), large.num_bytes) == (0, 0), "one that never fits"


@pytest.mark.parametrize("taught_first", [True, False], ids=["before-it-is-put", "after"])
def test_a_frame_that_somebody_else_spoke_of_is_not_taught_again(taught_first: bool) -> None:
    awaited = AwaitedLabels()
    if taught_first:
        awaited.taught(1)
    awaited.put(b"a", frame_of(1), 0.0)
    if not taught_first:
        awaited.taught(1)
    awaited.put(b"b", frame_of(2), 0.0)
    assert awaited.answer(b"a", scores_for(1), 1.0) == Heard(1, True)
    assert awaited.answer(b"b", scores_for(1), 1.0) == Heard(2, False)
    assert awaited.num_ready == 1


def test_the_same_picture_twice_is_the_newer_frames() -> None:
    gone: list[int] = []
    awaited = AwaitedLabels()
    awaited.on_forgotten = gone.append
    awaited.put(b"a", frame_of(1), 0.0)
    awaited.put(b"a", frame_of(5), 1.0)
    assert gone == [1]
    assert awaited.answer(b"a", scores_for(1), 2.0) == Heard(5, False)


@pytest.mark.parametrize("wrong", [{"keep_s": 0}, {"most": 0}, {"most_bytes": 0}], ids=str)
def test_a_memory_without_room_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected keep_s > 0"):
        AwaitedLabels(**wrong)  # type: ignore[arg-type]


# A device's exits.


def message(labels: Sequence[tuple[bytes, int]]) -> bytes:
    coded = [(key, encode_label(softmax64(scores_for(label).astype(np.float64)))) for key, label in labels]
    return encode_labels(coded)


class Rig:
    """Exits on a world, samples of its frames, and a clock."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, config: ExitConfig = ROOM, world: World | None = None
    ) -> None:
        self.world = world or World(400, seed=3)
        self.bench = Bench(monkeypatch, self.world, config, folder)
        self.exits = self.bench.exits
        self.coin(Purpose.NOTHING)
        self.now_s = 0.0
        self.labels = TeacherLabels(self.exits, later=self.bench.tasks.append, clock=lambda: self.now_s)

    def coin(self, purpose: Purpose) -> None:
        self.exits.control.purpose = lambda *, checking: purpose  # type: ignore[method-assign]

    def upload(self, number: int) -> bytes:
        """Show a frame and send it; its sample's key."""
        self.bench.show([number])
        return self.send(number)

    def send(self, number: int, frame_id: int | None = None) -> bytes:
        """Send a frame that was shown."""
        image = number.to_bytes(4, "big")
        pixels = self.world.frames[number]
        self.labels.sent(image, self.bench.count if frame_id is None else frame_id, pixels)  # type: ignore[arg-type]
        return sample_key(image)

    def came(self, data: bytes) -> None:
        self.labels.came(data)
        self.bench.settle()

    def serve(self, version: int, scale: float = 1.0) -> None:
        """Another version comes into service."""
        new = FakeModel(self.world, version=version, scale=scale)
        self.exits.prepare(new)()  # type: ignore[arg-type]
        self.bench.model = new

    @property
    def waiting(self) -> list[SeenFrame]:
        """What waits to be learned from."""
        assert self.exits.kept.pending is not None
        return list(self.exits.kept.pending)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rig:
    return Rig(monkeypatch, tmp_path)


def test_an_answer_teaches_its_frame_long_after_the_newest_frames_have_forgotten_it(rig: Rig) -> None:
    key = rig.upload(7)
    rig.bench.show(range(8, 8 + 2 * NUM_RECENT))
    assert rig.exits.recent.get(1) is None
    rig.came(message([(key, 2)]))
    (frame,) = rig.waiting
    assert (frame.frame_id, frame.by_cloud, frame.label, frame.num_seen, frame.day) == (1, True, NO_LABEL, 3, 7)
    np.testing.assert_allclose(frame.features, rig.world.features[:, 7].ravel(), rtol=2e-3)
    np.testing.assert_allclose(softmax64(frame.logits_K.astype(np.float64)), [0.01, 0.01, 0.97, 0.01], atol=1e-3)  # type: ignore[union-attr]
    assert (rig.labels.num_taught, rig.labels.num_unused) == (1, 0)


@pytest.mark.parametrize("who", ["user", "cloud", "ring"])
def test_the_users_word_and_the_clouds_come_first_and_what_calibrates_is_taught_nothing(rig: Rig, who: str) -> None:
    rig.coin(Purpose.RING if who == "ring" else Purpose.HEADS)
    key = rig.upload(7)
    if who == "user":
        assert rig.exits.feedback(1, 3)
    elif who == "cloud":
        seen = rig.exits.recent.get(1)
        assert seen is not None
        assert rig.exits.teach(seen.taught_by_cloud(scores_for(1)))
    rig.bench.settle()
    before = [frame.to_bytes(K) for frame in rig.waiting]
    rig.came(message([(key, 2)]))
    assert [frame.to_bytes(K) for frame in rig.waiting] == before
    assert (rig.labels.num_taught, rig.labels.num_unused) == (0, 1)


@pytest.mark.parametrize(
    ("data", "unused", "refused"),
    [
        pytest.param(message([(sample_key(b"nobody's"), 1)]), 1, 0, id="unknown"),
        pytest.param(b"T\x02", 0, 1, id="another-format"),
        pytest.param(message([(sample_key((7).to_bytes(4, "big")), 1)]) + b"\0", 0, 1, id="damaged-behind-a-good-one"),
        pytest.param(
            message([(sample_key((7).to_bytes(4, "big")), 1)]) + sample_key(b"x") + b"\x01\x04\x00\xff\xff",
            0, 1, id="a-class-that-does-not-exist-behind-a-good-one",
        ),
        pytest.param(bytes(5000), 0, 1, id="oversized"),
    ],
)  # fmt: skip
def test_of_a_message_that_is_none_nothing_is_used_and_the_right_one_teaches_after_it(
    rig: Rig, data: bytes, unused: int, refused: int
) -> None:
    key = rig.upload(7)
    rig.came(data)
    assert rig.waiting == []
    assert (rig.labels.num_taught, rig.labels.num_unused, rig.labels.num_refused) == (0, unused, refused)
    rig.came(message([(key, 2)]))
    assert rig.labels.num_taught == 1


def test_a_cloud_that_floods_a_device_fills_nothing(rig: Rig) -> None:
    for _ in range(1000):
        rig.labels.came(message([(b"nobody's", 1)]))
    assert len(rig.bench.tasks) == 8
    assert rig.labels.num_flooded == 992
    rig.bench.settle()
    key = rig.upload(7)
    rig.came(message([(key, 2)]))
    assert rig.labels.num_taught == 1


def test_what_finds_no_room_to_be_learned_from_waits_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rig = Rig(monkeypatch, tmp_path, replace(EXITS, pending_frames=4))
    rig.exits._not_before_s = float("inf")  # it has learned enough for now
    keys = [rig.upload(number) for number in range(6)]
    rig.came(message([(key, 2) for key in keys]))
    assert (len(rig.waiting), rig.labels.num_taught) == (4, 4)
    rig.exits._not_before_s = 0.0
    rig.upload(6)
    rig.bench.settle()
    assert (rig.labels.num_taught, rig.labels.num_unused) == (6, 0)
    assert {frame.frame_id for frame in rig.waiting} == {5, 6}


def test_a_day_that_is_taken_back_takes_the_samples_of_that_day_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    today = 7
    rig = Rig(monkeypatch, tmp_path, replace(ROOM, today=lambda: today))
    old = rig.upload(1)
    today = 8
    new = rig.upload(2)
    assert rig.exits.forget_day(7)
    rig.came(message([(old, 2), (new, 2)]))
    assert [(frame.frame_id, frame.day) for frame in rig.waiting] == [(2, 8)]


def test_a_device_whose_heads_do_not_learn_takes_no_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rig = Rig(monkeypatch, tmp_path, replace(EXITS, personal=None))
    assert not rig.labels.takes
    key = rig.upload(7)
    rig.came(message([(key, 2)]))
    assert rig.labels.num_taught == 0
    assert Rig(monkeypatch, tmp_path / "learns").labels.takes


# Versions.


def nearer_to(features: np.ndarray, this: np.ndarray, than: np.ndarray) -> bool:
    near, far = (float(np.abs(features.astype(np.float64) - each.ravel()).mean()) for each in (this, than))
    return near < 0.5 * far


@pytest.mark.parametrize("label_first", [True, False], ids=["label-before-the-version", "label-after-it"])
def test_a_version_between_the_sample_and_its_label_finds_the_features_as_it_sees_them(
    rig: Rig, label_first: bool
) -> None:
    key = rig.upload(7)
    if label_first:
        rig.came(message([(key, 2)]))
    rig.serve(5, scale=2.0)
    if not label_first:
        rig.came(message([(key, 2)]))
    (frame,) = rig.waiting
    was = rig.world.features[:, 7]
    assert (frame.version, frame.by_cloud) == (5, True)
    assert nearer_to(frame.features, 2 * was, than=was)


def test_where_nothing_says_how_features_moved_the_samples_are_forgotten(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = rig.upload(7)
    monkeypatch.setattr(type(rig.exits.parts), "probe_features", _no_features)
    rig.serve(5, scale=2.0)
    rig.came(message([(key, 2)]))
    assert rig.waiting == []
    assert (rig.labels.num_taught, rig.labels.num_unused) == (0, 1)


def _no_features(self: object, model: object) -> list[FloatArray]:
    from littoral.errors import ModelOutputError

    raise ModelOutputError("not finite")


@pytest.mark.parametrize("why", ["left-early", "not-passed", "too-old", "another-version"])
def test_a_frame_that_has_not_passed_all_exits_is_run_again_for_its_sample(rig: Rig, why: str) -> None:
    scale = 1.0
    if why == "left-early":
        rig.exits.policy = rig.exits.policy.serving((0.0, 0.0))
    elif why != "not-passed":
        rig.coin(Purpose.HEADS)
    rig.bench.show([7])
    seen = rig.exits.recent.get(1)
    assert seen is not None
    assert seen.num_seen == {"left-early": 1, "not-passed": 0}.get(why, 3)
    rig.coin(Purpose.NOTHING)
    if why == "too-old":
        rig.bench.show(range(20, 20 + NUM_RECENT))
    elif why == "another-version":
        rig.serve(5, scale := 2.0)
    key = rig.send(7, frame_id=1)
    rig.came(message([(key, 2)]))
    (frame,) = [frame for frame in rig.waiting if frame.by_cloud]
    assert (frame.frame_id, frame.num_seen, frame.version) == (1, 3, rig.exits.policy.affine_version)
    np.testing.assert_allclose(frame.features, scale * rig.world.features[:, 7].ravel(), rtol=2e-3)
    assert rig.labels.num_run_again == 1


def test_a_frame_that_has_passed_all_exits_is_not_run_again(rig: Rig) -> None:
    rig.coin(Purpose.HEADS)
    key = rig.upload(7)
    rig.came(message([(key, 2)]))
    assert (rig.labels.num_taught, rig.labels.num_run_again) == (1, 0)


def test_running_frames_again_takes_its_share_of_the_time_and_else_what_was_seen_has_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rig = Rig(monkeypatch, tmp_path, replace(ROOM, learning_share=0.1))
    run_again = type(rig.exits.parts).run_again

    def slowly(*args: Any) -> Any:
        rig.now_s += 0.5
        return run_again(*args)

    monkeypatch.setattr(type(rig.exits.parts), "run_again", slowly)
    rig.exits.policy = rig.exits.policy.serving((0.0, 0.0))
    keys = []
    for number in range(30):
        keys.append(rig.upload(number))
        rig.now_s += 1.0
    assert rig.labels.num_run_again in range(6, 9), "half a second of every five"
    rig.came(message([(key, 2) for key in keys]))
    num_seen = [frame.num_seen for frame in rig.waiting if frame.by_cloud]
    assert (num_seen.count(3), num_seen.count(1)) == (rig.labels.num_run_again, 30 - rig.labels.num_run_again)


def test_a_frame_of_which_the_network_makes_no_number_is_not_remembered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(rig.exits.parts), "run_again", lambda self, model, pixels: [None])
    key = rig.upload(7)
    rig.came(message([(key, 2)]))
    assert (rig.labels.num_taught, rig.labels.num_unused) == (0, 1)


def test_what_the_old_network_said_does_not_follow_to_another_version_and_the_users_word_does(rig: Rig) -> None:
    rig.exits.policy = rig.exits.policy.serving((2.0, 2.0))
    rig.bench.show(range(4))
    rig.exits.feedback(2, 1)
    rig.bench.settle()
    assert len(rig.waiting) == 4
    rig.serve(5, scale=2.0)
    assert [(frame.frame_id, frame.label, frame.version) for frame in rig.waiting] == [(2, 1, 5)]


# Whatever the road does.


@dataclass
class Schedule:
    """A device, a cloud that answers samples, and a road that loses, repeats and mixes up what it says."""

    rig: Rig
    rng: random.Random
    scale: dict[int, float] = field(default_factory=lambda: {0: 1.0})
    sent: dict[bytes, int] = field(default_factory=dict)
    road: list[bytes] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)

    def said(self, number: int) -> int:
        return (number * 7) % K

    def play(self, steps: int) -> None:
        rig, rng = self.rig, self.rng
        assert rig.labels._awaited is not None
        rig.labels._learning = self  # type: ignore[assignment]
        rig.labels._awaited.on_forgotten = self.forgotten.append
        for _ in range(steps):
            rig.now_s += rng.expovariate(1 / 20)
            step = rng.random()
            if step < 0.45:
                number = len(self.sent)
                self.sent[rig.upload(number)] = number
            elif step < 0.6 and self.sent:
                chosen = rng.sample(list(self.sent), min(len(self.sent), rng.randrange(1, 5)))
                self.road.append(message([(key, self.said(self.sent[key])) for key in chosen]))
            elif step < 0.7:
                self.road.append(rng.choice([b"T\x01\x00", rng.randbytes(20), message([(rng.randbytes(8), 1)])]))
            elif step < 0.9 and self.road:
                data = self.road[rng.randrange(len(self.road))]  # in any order
                if rng.random() < 0.6:  # else it stays, and comes again
                    self.road.remove(data)
                if rng.random() < 0.8:  # else it is lost
                    rig.came(data)
            else:
                version = len(self.scale)
                self.scale[version] = rng.choice([0.5, 1.0, 2.0])
                rig.serve(version, self.scale[version])
            self.check()

    def check(self) -> None:
        rig, awaited = self.rig, self.rig.labels._awaited
        assert awaited is not None
        assert awaited.num_bytes <= 20_000
        assert len(awaited) <= 12
        version = rig.exits.policy.affine_version
        taught = rig.waiting
        assert len({frame.frame_id for frame in taught}) == len(taught)
        for frame in taught:
            number = frame.frame_id - 1
            assert frame.version == version
            assert frame.logits_K is not None
            assert frame.logits_K.argmax() == self.said(number)
            was = rig.world.features[:, number]
            for other in {0.5, 1.0, 2.0} - {self.scale[version]}:
                assert nearer_to(frame.features, self.scale[version] * was, than=other * was)
        ended = self.answered + self.forgotten
        assert len(set(ended)) == len(ended), "each ends once"
        assert rig.labels.num_taught == len(taught)

    # What the switcher's learning is told.

    def awaits(self, frame_id: int) -> None:
        assert frame_id not in self.answered + self.forgotten

    def told(self, frame_id: int, label: int) -> None:
        assert label == self.said(frame_id - 1)
        self.answered.append(frame_id)


def play(monkeypatch: pytest.MonkeyPatch, folder: Path, seeds: range) -> list[Schedule]:
    played = []
    monkeypatch.setattr(exit_state, "AwaitedLabels", lambda: AwaitedLabels(keep_s=600, most=12, most_bytes=20_000))
    monkeypatch.setattr(exit_state, "fit_feature_map", exactly)
    for seed in seeds:
        rig = Rig(monkeypatch, folder / str(seed))
        played.append(Schedule(rig, random.Random(seed)))
        played[-1].play(120)
        rig.exits.close()
    return played


def exactly(old: FloatArray, new: FloatArray) -> object:
    """With sixteen probe frames a map is drawn towards 1; over many versions that adds up."""
    return exit_state_fit(old, new, prior_frames=0.0)


exit_state_fit: Callable[..., object] = exit_state.fit_feature_map


def test_schedules_of_faults_teach_each_frame_at_most_once_and_as_the_version_in_service_sees_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    played = play(monkeypatch, tmp_path, range(24))
    assert sum(schedule.rig.labels.num_taught for schedule in played) > 120
    assert sum(len(schedule.forgotten) for schedule in played) > 60
    assert sum(schedule.rig.labels.num_unused for schedule in played) > 30
    assert sum(schedule.rig.labels.num_refused for schedule in played) > 30


@pytest.mark.parametrize("broken", ["features-stay", "answers-stay", "no-bound"])
def test_the_same_schedules_catch_a_device_without_the_guard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str
) -> None:
    if broken == "features-stay":
        monkeypatch.setattr(exit_state, "_moved", lambda frame, *, version, **_: replace(frame, version=version))
    elif broken == "answers-stay":
        monkeypatch.setattr(AwaitedLabels, "answer", _answer_that_stays)
    else:
        monkeypatch.setattr(AwaitedLabels, "_make_room", lambda self: None)
    with pytest.raises(AssertionError):
        play(monkeypatch, tmp_path, range(24))


def _answer_that_stays(self: AwaitedLabels, key: bytes, scores_K: FloatArray, now_s: float) -> Heard | None:
    sent = self._sent.get(key)
    if sent is None:
        return None
    self._ready.append(sent._replace(frame=sent.frame.taught_by_cloud(scores_K)))
    return Heard(sent.frame.frame_id, sent.is_taught)
