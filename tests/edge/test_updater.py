"""Versions on a device: taken wholly or not at all, and taken back when they do harm."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from attacks.target import Target, make_bundle, make_envelope, make_version
from littoral.bundle import Bundle
from littoral.edge.update_steps import UpdaterConfig, UpdateState, step
from littoral.edge.update_words import (
    Build,
    Built,
    Decode,
    Decoded,
    Failed,
    Install,
    Installed,
    Keep,
    Observed,
    Probe,
    Probed,
    Received,
    Record,
    Recorded,
    Say,
    Stage,
    Staged,
    Tidy,
    Verified,
    Verify,
)
from littoral.edge.versions import Files, VersionState
from littoral.errors import BundleError, ModelOutputError, StorageError

CONFIG = UpdaterConfig(watch_frames=4, max_entropy_rise_nats=0.5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def target(bundle: Bundle, tmp_path: Path) -> Target:
    target = Target(bundle, tmp_path)
    target.updater.set_envelope(make_envelope(bundle))
    return target


def install(target: Target, version: int, change: float = 0.1) -> None:
    receipt = target.updater.receive(make_version(target.bundle, version, change=change))
    assert receipt is not None
    assert (receipt.version, receipt.outcome) == (version, "installed"), receipt


# The pure steps.


def test_a_version_goes_through_all_steps_in_order() -> None:
    state, disk = UpdateState(), VersionState()
    said: list[object] = []
    for event, phase in [
        (Received(), "received"),
        (Verified(3), "verified"),
        (Decoded(), "verified"),
        (Staged(), "staged"),
        (None, "staged"),
        (Built(), "built"),
        (Probed(1.0, 0.9), "probed"),
        (None, "committed"),
        (Installed(), "watched"),
        (Observed(0.1, 4), "trusted"),
    ]:
        if event is None:
            record = said[-1]
            assert isinstance(record, Record)
            event = Recorded(record.disk)
        state, actions = step(state, event, CONFIG)
        said += actions
        assert state.phase == phase
        disk = state.disk
    assert [type(action) for action in said] == [
        Verify, Decode, Stage, Record, Build, Probe, Record, Install, Say, Tidy, Keep, Tidy,
    ]  # fmt: skip
    assert (disk.installed, disk.previous, disk.highest_seen, disk.trusted) == (3, 0, 3, True)


def test_the_highest_seen_is_durable_before_the_version_serves() -> None:
    state = UpdateState(phase="built", version=3)
    state, actions = step(state, Probed(1.0, 0.9), CONFIG)
    assert isinstance(actions[0], Record)
    assert actions[0].disk.highest_seen == 3
    assert not any(isinstance(action, Install) for action in actions)


@pytest.mark.parametrize("event", [Verified(1), Decoded(), Staged(), Built(), Installed(), Probed(1.0, 0.5)])
def test_an_event_out_of_its_phase_is_a_mistake_of_the_runner(event: object) -> None:
    with pytest.raises(ValueError, match="cannot come"):
        step(UpdateState(), event, CONFIG)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", ["received", "verified", "staged", "built", "probed"])
def test_a_failure_in_any_phase_leaves_the_installed_version(phase: str) -> None:
    disk = VersionState(installed=2, previous=1, highest_seen=2, pending=3, attempts=1)
    state = UpdateState(phase=phase, disk=disk, version=3)  # type: ignore[arg-type]
    after, actions = step(state, Failed("storage", "full", 3), CONFIG)
    assert after.phase == "trusted"
    assert (after.disk.installed, after.disk.highest_seen, after.disk.pending) == (2, 2, None)
    assert Say(3, "rejected", "storage", "full") in actions


# The updater.


def test_versions_are_installed_and_found_again_at_the_next_start(target: Target) -> None:
    install(target, 1, change=0.1)
    install(target, 5, change=-0.2)
    assert (target.version, target.change, target.updater.highest_version) == (5, -0.2, 5)
    target.start()
    assert (target.version, target.change, target.updater.highest_version) == (5, -0.2, 5)


def test_the_same_version_again_says_nothing(target: Target) -> None:
    install(target, 1)
    assert target.updater.receive(make_version(target.bundle, 1)) is None


def test_an_older_version_is_refused_once_aloud_and_then_silently(target: Target) -> None:
    install(target, 5)
    receipt = target.updater.receive(make_version(target.bundle, 4))
    assert receipt is not None
    assert (receipt.outcome, receipt.code, target.version) == ("rejected", "older", 5)
    assert target.updater.receive(make_version(target.bundle, 4)) is None
    target.start()
    target.updater.set_envelope(make_envelope(target.bundle))
    again = target.updater.receive(make_version(target.bundle, 4))
    assert again is not None
    assert again.code == "older", "a restart does not forget what was seen"


@pytest.mark.parametrize(
    ("agreement", "code"), [(0.5, "probe"), (math.nan, "not-finite"), (math.inf, "not-finite")], ids=str
)
def test_a_version_that_fails_the_probe_is_refused_for_good(target: Target, agreement: float, code: str) -> None:
    install(target, 1)
    target.agreement = agreement
    receipt = target.updater.receive(make_version(target.bundle, 2))
    assert receipt is not None
    assert (receipt.outcome, receipt.code) == ("rejected", code)
    assert (target.version, target.updater.highest_version) == (1, 2)
    target.start()
    assert (target.version, target.updater.highest_version) == (1, 2)
    assert code in target.store.state.reasons["2"]


def test_without_the_probe_the_bad_version_would_be_installed(target: Target) -> None:
    """Negative control: the same version with the guard off."""
    bad = make_version(target.bundle, 2)
    target.agreement = 0.5
    assert target.updater.receive(bad).outcome == "rejected"  # type: ignore[union-attr]
    other = Target(target.bundle, target.state_dir / "unguarded", agreement=1.0)
    other.updater.set_envelope(make_envelope(target.bundle))
    assert other.updater.receive(bad).outcome == "installed"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BundleError("no"), "probe"),
        (RuntimeError("the runtime's own"), "probe"),
        (MemoryError(), "probe"),
        (ModelOutputError("NaN"), "not-finite"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_a_version_that_cannot_be_built_is_a_receipt_and_no_exception(
    target: Target, error: Exception, code: str
) -> None:
    install(target, 1)
    target.build_error = error
    receipt = target.updater.receive(make_version(target.bundle, 2))
    assert receipt is not None
    assert (receipt.code, target.version) == (code, 1)


def test_a_version_that_cannot_be_put_into_service_is_taken_back(target: Target) -> None:
    install(target, 1, change=0.1)
    target.updater.observe(0.1, frames=4)
    target.install_error = RuntimeError("no")
    receipt = target.updater.receive(make_version(target.bundle, 2, change=0.2))
    assert receipt is not None
    assert receipt.outcome == "rejected"
    target.install_error = None
    target.start()
    assert (target.version, target.change, target.updater.highest_version) == (1, 0.1, 2)


def test_a_version_before_the_envelope_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    target = Target(bundle, tmp_path)
    receipt = target.updater.receive(make_version(bundle, 1))
    assert receipt is not None
    assert (receipt.code, target.version) == ("unsigned", 0)


class FullDisk(Files):
    full = False

    def write(self, path: Path, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(path, data)


def test_a_full_disk_refuses_a_version_and_takes_it_later(bundle: Bundle, tmp_path: Path) -> None:
    files = FullDisk()
    target = Target(bundle, tmp_path, files=files)
    target.updater.set_envelope(make_envelope(bundle))
    install(target, 1)
    files.full = True
    receipt = target.updater.receive(make_version(bundle, 2, change=0.2))
    assert receipt is not None
    assert (receipt.code, target.version, target.updater.highest_version) == ("storage", 1, 1)
    files.full = False
    install(target, 2, change=0.2)


def test_a_rise_of_entropy_in_the_watch_reverts_to_the_version_before(target: Target) -> None:
    install(target, 1, change=0.1)
    target.updater.observe(0.2, frames=8)
    install(target, 2, change=0.2)
    assert target.updater.observe(0.9, frames=3) is None, "the watch is not over"
    receipt = target.updater.observe(0.9, frames=3)
    assert receipt is not None
    assert (receipt.version, receipt.outcome, receipt.code) == (2, "reverted", "watch")
    assert (target.version, target.change) == (1, 0.1)
    target.start()
    assert (target.version, target.updater.highest_version) == (1, 2)
    assert "watch" in target.store.state.reasons["2"]


def test_a_rise_within_the_bound_is_trusted(target: Target) -> None:
    target.updater.observe(0.2, frames=8)
    install(target, 1)
    assert target.updater.observe(0.6, frames=4) is None
    assert target.updater.state.phase == "trusted"
    assert target.store.state.trusted


def test_without_the_watch_the_harmful_version_would_stay(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control: the same stream with the bound off."""
    config = replace(CONFIG, max_entropy_rise_nats=math.inf)
    target = Target(bundle, tmp_path, config=config)
    target.updater.set_envelope(make_envelope(bundle))
    target.updater.observe(0.2, frames=8)
    install(target, 1)
    assert target.updater.observe(2.0, frames=8) is None
    assert target.version == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_answer_that_is_not_finite_reverts_at_once(target: Target, value: float) -> None:
    install(target, 1)
    receipt = target.updater.observe(value)
    assert receipt is not None
    assert (receipt.outcome, target.version) == ("reverted", 0)
    assert target.updater.observe(value) is None, "there is nothing to take back from the source"


def test_a_version_in_its_watch_is_not_what_a_later_one_goes_back_to(target: Target) -> None:
    install(target, 1, change=0.1)
    target.updater.observe(0.2, frames=4)
    install(target, 2, change=0.2)
    target.updater.observe(0.3, frames=1)
    install(target, 3, change=0.3)
    target.updater.observe(math.nan)
    assert (target.version, target.change) == (1, 0.1)


def test_the_watch_goes_on_after_a_restart_with_the_mean_from_before(target: Target) -> None:
    target.updater.observe(0.2, frames=4)
    install(target, 1)
    target.start()
    assert target.updater.state.phase == "watched"
    receipt = target.updater.observe(0.9, frames=4)
    assert receipt is not None
    assert (receipt.outcome, target.version) == ("reverted", 0)


def test_a_version_that_never_lives_to_be_trusted_is_taken_back(target: Target) -> None:
    install(target, 1)
    for _ in range(target.config.max_boots):
        target.start()
        assert target.version == 1
    target.start()
    assert target.version == 0
    assert "started" in target.store.state.reasons["1"]


@pytest.mark.parametrize(
    "home", [[True], [True, False], [], [False]], ids=["waits", "serves-again", "dies-first", "serves"]
)
def test_a_version_that_waits_near_the_source_is_not_taken_back_for_starts(target: Target, home: list[bool]) -> None:
    """It had nothing to do with them. The controls: it serves before the device stops, or that dies first."""
    install(target, 1)
    target.updater.set_waiting(True)
    for _ in range(target.config.max_boots + 1):
        target.start()
        for near in home:
            target.updater.set_waiting(near)
    assert target.version == (1 if home == [True] else 0)


def test_what_a_version_in_its_watch_has_shown_is_kept_while_it_waits(target: Target) -> None:
    """Near the source nothing is observed. The control: another world, in which it serves as well."""
    for waits, trusted in ((True, True), (False, False)):
        install(target, target.updater.highest_version + 1)
        for _ in range(2):
            target.updater.observe(0.2, frames=3)
            if waits:
                target.updater.set_waiting(True)
                target.updater.set_waiting(False)
            else:
                target.updater.moved()
        assert (target.updater.state.phase == "trusted") == trusted


def test_what_waits_is_written_down_once(target: Target) -> None:
    install(target, 1)
    before = target.store.state
    target.updater.set_waiting(True)
    after = target.store.state
    target.updater.set_waiting(True)
    assert (before.waits, after.waits) == (False, True)
    assert target.store.state is after


def test_a_version_that_crashes_the_device_while_it_is_built_is_given_up(target: Target) -> None:
    target.build_error = KeyboardInterrupt()  # type: ignore[assignment]  # as a kill: nothing of ours runs after it
    for attempt in range(target.config.max_attempts):
        with pytest.raises(KeyboardInterrupt):
            target.updater.receive(make_version(target.bundle, 1))
        assert target.store.state.attempts == attempt + 1
        assert target.updater.highest_version == 0
        target.start()
        target.updater.set_envelope(make_envelope(target.bundle))
    assert (target.version, target.updater.highest_version) == (0, 1)
    assert "stopped 3 times" in target.store.state.reasons["1"]


def test_a_new_bundle_forgets_the_versions_of_the_old_one(target: Target, tmp_path: Path) -> None:
    install(target, 7)
    other = make_bundle(tmp_path / "other", name="other")
    moved = Target(other, target.state_dir)
    assert (moved.version, moved.updater.highest_version) == (0, 0)
    moved.updater.set_envelope(make_envelope(other))
    install(moved, 1)


def test_another_cohort_starts_from_the_source_with_its_own_numbers(target: Target) -> None:
    install(target, 7)
    target.updater.observe(2.0, frames=8)
    target.updater.set_envelope(make_envelope(target.bundle, cohort="lagoon"))
    assert (target.version, target.change, target.updater.highest_version) == (0, 0.0, 0)
    receipt = target.updater.receive(make_version(target.bundle, 1, cohort="lagoon"))
    assert receipt is not None
    assert receipt.outcome == "installed"
    assert target.store.state.baseline_nats is None, "the other cohort's version says nothing of this one"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "swap"])
def test_a_damaged_version_file_falls_back_to_the_one_before_and_then_to_the_source(
    target: Target, damage: str
) -> None:
    install(target, 1, change=0.1)
    target.updater.observe(0.1, frames=4)
    install(target, 2, change=0.2)
    target.updater.observe(0.1, frames=4)
    for number, expected in ((2, 1), (1, 0)):
        path = target.store.folder / f"{number}.version"
        data = path.read_bytes()
        if damage == "flip":
            path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        elif damage == "truncate":
            path.write_bytes(data[: len(data) // 2])
        elif damage == "remove":
            path.unlink()
        else:
            target.store.stage(number, make_version(target.bundle, 9))
        target.start()
        assert target.version == expected
        assert str(number) in target.store.state.reasons
    assert target.change == 0.0


def test_going_back_to_a_version_that_cannot_be_read_serves_the_source(target: Target) -> None:
    install(target, 1, change=0.1)
    target.updater.observe(0.1, frames=4)
    install(target, 2, change=0.2)
    (target.store.folder / "1.version").unlink()
    assert target.updater.observe(math.nan) is not None
    assert (target.version, target.change) == (0, 0.0)
    target.start()
    assert target.version == 0


def test_only_the_installed_and_the_version_before_stay_on_the_disk(target: Target) -> None:
    for version in range(1, 8):
        install(target, version)
        target.updater.observe(0.1, frames=4)
    assert sorted(path.name for path in target.store.folder.glob("*.version")) == ["6.version", "7.version"]


def test_a_reason_fits_the_wire(target: Target) -> None:
    target.build_error = RuntimeError("x" * 100_000)
    receipt = target.updater.receive(make_version(target.bundle, 1))
    assert receipt is not None
    assert len(receipt.reason) <= 512


def test_a_store_that_cannot_write_raises_its_own_error(bundle: Bundle, tmp_path: Path) -> None:
    files = FullDisk()
    target = Target(bundle, tmp_path, files=files)
    files.full = True
    with pytest.raises(StorageError, match="free some space"):
        target.store.save(VersionState())
