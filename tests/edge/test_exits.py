"""A device that leaves early: what is skipped, what is promised, and what no exit may break."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bundle is built here")

from exit_bundles import source_like

from littoral.bundle import Bundle
from littoral.core.exit_control import ControlConfig
from littoral.core.exits import OFF
from littoral.edge.answer import Answer
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exit_config import ExitConfig
from littoral.edge.exit_files import SlotFile
from littoral.edge.offload_config import OffloadConfig
from littoral.edge.session import Model
from littoral.errors import ModelOutputError, StorageError

FRAMES, LABELS = source_like(240, seed=1)
QUICK = ControlConfig(risk=0.1, ring_frames=80, min_calibration=40, audit_share=0.2)
NEVER = ControlConfig(ring_frames=4096, min_calibration=4096)
"""Such a device checks for ever."""


@pytest.fixture(scope="module")
def bundle(exit_bundle: Path) -> Bundle:
    return Bundle.open(exit_bundle)


@contextmanager
def leaving(bundle: Bundle, control: ControlConfig = QUICK, state: Path | None = None, **more: Any) -> Iterator[Device]:
    exits = ExitConfig(control=control, learning_share=1.0, **more)
    with Device(bundle, state_dir=state, config=DeviceConfig(adapt_statistics=False, exits=exits)) as device:
        yield device


def runtime(device: Device) -> Any:
    return device._exits


def in_force(device: Device, *thresholds: float) -> None:
    """Put thresholds in force without a certificate, and toss no coin."""
    exits = runtime(device)
    exits.control._limit = 0
    exits.policy = exits.policy.serving(thresholds)


class Counted:
    """A model whose runs of segments are counted."""

    def __init__(self, model: Model) -> None:
        self.model, self.version, self.segments = model.for_one_frame(), model.version, 0

    def for_one_frame(self) -> Counted:
        return self

    def through(self, first: int, last: int, value: Any) -> Any:
        self.segments += last - first
        return self.model.through(first, last, value)


@pytest.mark.parametrize(
    ("thresholds", "segments", "exit_index"),
    [((0.0, 0.0), 1, 0), ((OFF, 0.0), 2, 1), ((OFF, OFF), 4, 3)],
    ids=["at-the-first", "at-the-second", "at-the-end"],
)
def test_segments_after_the_exit_that_answers_are_not_run(
    bundle: Bundle, thresholds: tuple[float, float], segments: int, exit_index: int
) -> None:
    with leaving(bundle) as device:
        in_force(device, *thresholds)
        model = device._maintenance.model = Counted(device._maintenance.model)  # type: ignore[assignment]
        answer = device.infer(FRAMES[0])
        status = device.status()
    assert isinstance(answer, Answer)
    assert (answer.exit_index, model.segments) == (exit_index, segments)
    assert status.frames_by_exit == tuple(int(i == exit_index) for i in range(4))
    assert answer.latency_ms > 0


def test_an_exits_answer_is_its_heads_and_at_the_end_it_is_the_networks(bundle: Bundle) -> None:
    plain = Model(bundle)
    with leaving(bundle) as device:
        heads = runtime(device).shipped.heads
        in_force(device, OFF, OFF)
        np.testing.assert_array_equal(device.infer(FRAMES[0]).logits, plain.run(FRAMES[:1])[0])
        in_force(device, 0.0, 0.0)
        answer = device.infer(FRAMES[0])
        grid = plain.run_until(0, FRAMES[:1]).reshape(4, 4, 4, 4, 4).mean(axis=(2, 4)).ravel()
    np.testing.assert_allclose(answer.logits, heads[0].logits(grid) / 20, rtol=1e-4, atol=1e-4)
    assert answer.label == answer.logits.argmax()


def test_a_device_without_exits_answers_as_before(bundle: Bundle) -> None:
    with Device(bundle, config=DeviceConfig(adapt_statistics=False)) as device:
        answer, status = device.infer(FRAMES[0]), device.status()
        with pytest.raises(ValueError, match="this device has no exits"):
            device.feedback(1, 0)
    assert (answer.exit_index, status.frames_by_exit, status.exit_state) == (0, (), "")


def test_a_device_begins_by_checking_and_leaves_early_once_that_is_certified(bundle: Bundle) -> None:
    """Of frames that leave early the answers are the whole network's, but for the promised share."""
    plain = Model(bundle)
    with leaving(bundle, replace(QUICK, audit_share=0.05)) as device:
        answers = []
        for frame in FRAMES:
            answers.append(device.infer(frame))
            device.settle()
        status = device.status()
    early = [answer.exit_index < 2 for answer in answers]
    first = early.index(True)
    assert first >= 2 * QUICK.min_calibration - 1
    assert status.exit_state == "serving"
    assert sum(early) > 0.5 * (len(FRAMES) - first)
    wrong = [a.label != plain.run(frame[None])[0].argmax() for a, frame in zip(answers, FRAMES, strict=True)]
    assert np.mean(wrong[first:]) <= QUICK.risk
    assert 0 < status.exit_audits < 30
    assert (sum(status.frames_by_exit), status.frames_by_exit[2]) == (len(FRAMES), 0)
    assert (status.rechecks, status.exit_alarms, status.personal_heads) == (0, 0, 0)


def test_shipped_thresholds_may_be_in_force_at_once(bundle: Bundle) -> None:
    with leaving(bundle, start_with_shipped=True) as device:
        assert device.status().exit_state == "serving"
        assert runtime(device).policy.thresholds == (OFF, OFF), "as this bundle ships them"


def test_the_alarm_takes_exits_out_of_force_with_the_frame_that_rings_it(bundle: Bundle) -> None:
    """The exits of this device are broken behind its back: they are sure of another class than the network's."""
    with leaving(bundle) as device:
        for frame in FRAMES[:120]:
            device.infer(frame)
            device.settle()
        exits = runtime(device)
        assert exits.state == "serving"
        wrong = replace(exits.policy.exits[0].head, bias_K=np.float32([0] * 9 + [1e4]))
        broken = replace(exits.policy.exits[0], head=wrong)
        exits.policy = replace(exits.policy, exits=(broken, *exits.policy.exits[1:]))
        for count, frame in enumerate(FRAMES):  # noqa: B007 -- it is looked at below
            device.infer(frame)
            if exits.policy.checking:
                break
        after = device.infer(FRAMES[0])
        assert device.settle()
        status = device.status()
    assert 3 < count < len(FRAMES) - 1
    assert after.exit_index == 3
    assert (status.exit_alarms, status.rechecks, status.exit_state) == (1, 1, "checking")
    assert len(exits.ring) <= 1, "emptied; the frame after the alarm may be in it"


def test_logits_of_an_exit_that_are_not_finite_let_the_frame_go_on(bundle: Bundle) -> None:
    with leaving(bundle) as device:
        exits = runtime(device)
        in_force(device, 0.0, OFF)
        assert device.infer(FRAMES[0]).exit_index == 0
        broken = replace(exits.policy.exits[0], temperature=1e-44)
        exits.policy = replace(exits.policy, exits=(broken, *exits.policy.exits[1:]))
        with np.errstate(over="ignore", invalid="ignore"):
            assert device.infer(FRAMES[0]).exit_index == 3


def test_a_network_that_is_not_finite_is_an_error_as_without_exits(bundle: Bundle) -> None:
    with leaving(bundle) as device:
        broken = Model(bundle, {name: np.full_like(value, np.nan) for name, value in bundle.source_affine.items()})
        device._maintenance.model = broken
        with pytest.raises(ModelOutputError, match="not finite"):
            device.infer(FRAMES[0])
        assert device.settle()
        assert len(runtime(device).ring) == 0


def test_no_frame_leaves_under_a_version_that_the_policy_is_not_of(bundle: Bundle) -> None:
    with leaving(bundle) as device:
        in_force(device, 0.0, 0.0)
        device._maintenance.model = Model(bundle, version=5)
        answer = device.infer(FRAMES[0])
        assert (answer.exit_index, answer.version) == (3, 5)
        assert not runtime(device).queue, "nothing of it is kept either"


def test_another_version_is_checked_anew_and_its_frames_leave_early_afterwards(bundle: Bundle) -> None:
    with leaving(bundle) as device:
        in_force(device, 0.0, 0.0)
        device._maintenance.call(lambda: device._maintenance._serve(dict(bundle.source_affine), 7), 5.0)
        assert device.infer(FRAMES[0]).exit_index == 3
        assert (device.status().exit_state, device.status().rechecks) == ("checking", 1)
        for frame in FRAMES[:120]:
            device.infer(frame)
            device.settle()
        assert device.status().exit_state == "serving"


def test_new_statistics_of_the_same_version_leave_the_exits_in_force(bundle: Bundle) -> None:
    with leaving(bundle) as device:
        in_force(device, 0.0, 0.0)
        device.rebuild()
        assert device.settle()
        assert (device.infer(FRAMES[0]).exit_index, device.status().swaps) == (0, 1)


@pytest.mark.parametrize("recheck", [True, False], ids=["recheck", "no-recheck"])
def test_a_change_of_the_world_is_checked_anew(bundle: Bundle, recheck: bool) -> None:
    with leaving(bundle, replace(QUICK, recheck=recheck)) as device:
        in_force(device, 0.0, 0.0)
        device._maintenance.call(lambda: runtime(device).recheck("a test"), 5.0)
        assert device.infer(FRAMES[0]).exit_index == (3 if recheck else 0)


def test_exits_go_out_of_force_in_a_new_world_though_the_disk_fails(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("a frame cannot be kept")

    with leaving(bundle, state=tmp_path) as device:
        for frame in FRAMES[:60]:
            device.infer(frame)
        assert device.settle()
        in_force(device, 0.0, 0.0)
        assert len(runtime(device).ring) > 10
        with monkeypatch.context() as broken:
            broken.setattr(SlotFile, "write", fail)
            with pytest.raises(StorageError):
                device._maintenance.call(lambda: runtime(device).recheck("a test"), 5.0)
        assert device.infer(FRAMES[0]).exit_index == 3
        assert len(runtime(device).ring) == 0, "frames of the world that was left certify nothing in this one"


def test_only_the_owner_can_read_what_a_device_keeps_of_its_user(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "exits").mkdir()
    (tmp_path / "exits" / "ring.frames").touch(mode=0o644)
    with leaving(bundle, NEVER, tmp_path) as device:
        for frame in FRAMES[:20]:
            device.infer(frame)
        assert device.settle()
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]
        modes = {path.name: path.stat().st_mode & 0o077 for path in kept}
    assert {"ring.frames", "ring.slots", "pending.slots", "probe.tensors", "outbox.sqlite"} <= modes.keys()
    assert not any(modes.values()), modes


def test_drift_that_the_statistics_find_is_a_change_of_the_world(bundle: Bundle) -> None:
    config = DeviceConfig(statistics_stride_frames=1, exits=ExitConfig(control=NEVER))
    with Device(bundle, config=config) as device:
        for frame in (*FRAMES[:96], *(FRAMES[:128] // 4)):
            device.infer(frame)
            device.settle()
        status = device.status()
    assert status.statistics_resets >= 1
    assert status.rechecks == status.statistics_resets


def test_an_early_answer_says_nothing_of_the_version_in_service(bundle: Bundle) -> None:
    with leaving(bundle) as device:
        maintenance = device._maintenance
        in_force(device, 0.0, 0.0)
        for frame in FRAMES[:4]:
            device.infer(frame)
        assert (maintenance._seen, maintenance.entropies.num_frames, maintenance.entropies.sum_nats) == (4, 0, 0.0)
        in_force(device, OFF, OFF)
        answer = device.infer(FRAMES[4])
        assert (maintenance.entropies.num_frames, maintenance.entropies.sum_nats) == (1, answer.entropy_nats)


def test_what_cannot_be_is_refused(bundle: Bundle, tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match="has no exits; build it with exits"):
        Device(Bundle.open(tiny_bundle), config=DeviceConfig(exits=ExitConfig()))
    with pytest.raises(ValueError, match="leaves early or offloads"):
        DeviceConfig(exits=ExitConfig(), offload=OffloadConfig(mode="always"))
    for wrong in ({"pending_frames": 0}, {"learning_share": 0.0}, {"seed": -1}):
        with pytest.raises(ValueError, match="got"):
            ExitConfig(**wrong)  # type: ignore[arg-type]


def test_a_label_of_a_frame_in_the_ring_judges_and_teaches_nobody(bundle: Bundle, tmp_path: Path) -> None:
    with leaving(bundle, NEVER, tmp_path) as device:
        answers = [device.infer(frame) for frame in FRAMES[:8]]
        assert [device.feedback(answer.frame_id, 3) for answer in answers] == [True] * 8
        assert device.settle()
        exits = runtime(device)
        assert [frame.label for frame in exits.ring.frames()] == [3] * 6
        assert [frame.label for frame in exits._pending] == [3] * 2
        in_ring = {frame.frame_id for frame in exits.ring.frames()}
        assert not in_ring & {frame.frame_id for frame in exits._pending}


def test_labels_are_taken_of_the_newest_frames_only(bundle: Bundle) -> None:
    with leaving(bundle) as device:
        for frame in FRAMES[:70]:
            device.infer(frame)
        assert [device.feedback(i, 0) for i in (-1, 0, 6, 7, 70, 71)] == [False, False, False, True, True, False]
        with pytest.raises(ValueError, match="the label is 10, expected 0 to 9"):
            device.feedback(70, 10)


def test_of_a_frame_that_left_early_a_label_teaches_the_exits_that_saw_it(bundle: Bundle, tmp_path: Path) -> None:
    with leaving(bundle, QUICK, tmp_path) as device:
        in_force(device, 0.0, 0.0)
        answer = device.infer(FRAMES[0])
        assert device.feedback(answer.frame_id, 2)
        assert device.settle()
        exits = runtime(device)
        (frame,) = list(exits._pending)
        assert (frame.num_seen, frame.label, frame.logits_K) == (1, 2, None)
        device._maintenance.call(lambda: exits._learn(exits._pending), 5.0)
        taught = []
        for i in range(3):
            with exits._personal._read(i) as head:
                taught.append(sum(day.num_labelled for day in head.evidence.days))
        assert taught == [1, 0, 0]
