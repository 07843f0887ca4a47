"""Versions for several worlds on one device: recalled when their world is back, watched, and never if they were bad."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from attacks.target import STRANGER, Target, make_bundle, make_envelope, make_version, world
from littoral.bundle import Bundle
from littoral.core.recall import encode_fingerprint
from littoral.core.scenes import RecallConfig
from littoral.edge.scenes import Scenes
from littoral.edge.update_steps import UpdaterConfig

DAY, NIGHT, FOG = 1, 5, 9


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def target(bundle: Bundle, tmp_path: Path) -> Target:
    return ready(Target(bundle, tmp_path))


def ready(target: Target, here: float = DAY) -> Target:
    target.updater.set_envelope(make_envelope(target.bundle))
    target.tracker.open(world(here))
    return target


def push(target: Target, version: int, domain: int, *, trusted: float | None = 0.1) -> str:
    """Send a version whose values say its number; let it be trusted if it is installed."""
    made = make_version(target.bundle, version, change=version / 100, domain=domain)
    receipt = target.updater.receive(made)
    assert receipt is not None
    if receipt.outcome == "installed" and trusted is not None:
        assert target.updater.observe(trusted, frames=4) is None
    return receipt.outcome


def files(target: Target) -> list[str]:
    return sorted(path.name for path in target.store.folder.glob("*.version"))


def serves(target: Target, version: int) -> bool:
    return target.version == version and target.change == round(version / 100, 3)


def day_and_night(target: Target) -> None:
    """Version 1 is for the day, version 2 for the night, and it is night."""
    assert push(target, 1, DAY) == "installed"
    assert target.move(NIGHT) == []
    assert push(target, 2, NIGHT) == "installed"


def test_when_a_world_is_back_its_version_serves_at_once_and_the_cloud_is_told(target: Target) -> None:
    day_and_night(target)
    (receipt,) = target.move(DAY)
    assert (receipt.version, receipt.outcome, receipt.code) == (1, "recalled", "")
    assert serves(target, 1)
    assert target.updater.state.phase == "watched"
    assert target.updater.highest_version == 2, "recall is no way to make a device take an old version again"
    assert target.updater.receive(make_version(target.bundle, 2)).outcome == "rejected"  # type: ignore[union-attr]
    (receipt,) = target.move(NIGHT)
    assert (receipt.version, receipt.outcome) == (2, "recalled")
    assert target.move(NIGHT) == [], "it serves already"


def test_recall_works_offline_right_after_a_restart(target: Target) -> None:
    day_and_night(target)
    target.start()
    assert target.version == 2
    assert [receipt.outcome for receipt in target.move(DAY)] == ["recalled"]
    assert serves(target, 1)
    target.start()
    assert serves(target, 1)


class Watcher:
    """What `Scenes` needs of an updater; counts how often it was told that the world moved."""

    remembered = ()
    state = SimpleNamespace(disk=SimpleNamespace(installed=5))

    def __init__(self) -> None:
        self.moves = 0

    def moved(self) -> None:
        self.moves += 1


@pytest.mark.parametrize(("drifted", "moves"), [(False, 0), (True, 1)], ids=["restart", "drift"])
def test_the_first_scene_after_a_restart_leaves_the_watch_of_a_version_alone(
    target: Target, drifted: bool, moves: int
) -> None:
    scenes, watcher = Scenes(target.bundle, RecallConfig(), outbox=None), Watcher()
    target.start()
    scenes._tracker = target.tracker

    def look(where: float, *, drifted: bool) -> bool:
        return scenes.look(world(where), drifted=drifted, updater=watcher, tell=print, uplink=False)  # type: ignore[arg-type]

    assert look(DAY, drifted=drifted)
    assert watcher.moves == moves
    assert look(NIGHT, drifted=True)
    assert watcher.moves == moves + 1


def test_with_recall_off_every_version_is_installed_and_nothing_is_recalled(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control."""
    target = ready(Target(bundle, tmp_path, config=UpdaterConfig(watch_frames=4, remembered_versions=0)))
    assert [push(target, 1, DAY), push(target, 2, NIGHT)] == ["installed", "installed"]
    assert target.move(DAY) == []
    assert (target.version, target.updater.remembered) == (2, ())


def test_a_version_for_another_world_is_remembered_and_serves_only_when_that_world_is_here(target: Target) -> None:
    assert push(target, 1, DAY) == "installed"
    assert push(target, 2, NIGHT) == "remembered"
    assert serves(target, 1)
    assert target.updater.highest_version == 2
    assert target.updater.state.phase == "trusted"
    target.start()
    assert serves(target, 1)
    assert [receipt.outcome for receipt in target.move(NIGHT)] == ["recalled"]
    assert serves(target, 2)


def test_a_version_for_another_world_that_fails_the_probe_is_not_remembered(target: Target) -> None:
    target.agreement = 0.5
    assert push(target, 1, NIGHT) == "rejected"
    assert (target.updater.remembered, files(target)) == ((), [])
    assert target.move(NIGHT) == []


def test_a_version_of_no_domain_serves_in_every_world_and_is_not_remembered(target: Target) -> None:
    assert push(target, 1, 0) == "installed"
    assert target.move(NIGHT) == []
    assert (target.version, target.updater.remembered) == (1, ())


@pytest.mark.parametrize(("policy", "expected"), [("keep", 2), ("source", 0)])
def test_a_world_that_is_not_known_keeps_what_serves_or_brings_the_source_back(
    bundle: Bundle, tmp_path: Path, policy: str, expected: int
) -> None:
    recall = RecallConfig(unknown_domain=policy)  # type: ignore[arg-type]
    target = ready(Target(bundle, tmp_path, recall=recall))
    day_and_night(target)
    assert target.move(FOG) == []
    assert serves(target, expected)
    assert target.updater.highest_version == 2
    target.start()
    assert serves(target, expected)
    assert [receipt.version for receipt in target.move(NIGHT)] == ([] if expected else [2])


# What was bad is never recalled.


def test_a_version_that_was_reverted_is_never_recalled(target: Target) -> None:
    day_and_night(target)
    target.updater.observe(math.nan)
    assert target.version == 1
    assert target.move(DAY) == []
    assert target.move(NIGHT) == []
    assert target.version == 1
    assert [entry.version for entry in target.updater.remembered] == [1]


def test_a_recalled_version_is_watched_and_held_against_its_own_past(target: Target) -> None:
    """By day the answers are sure (0.1 nats), by night they are not (0.9): that is not the version's fault."""
    assert push(target, 1, DAY, trusted=0.1) == "installed"
    target.move(NIGHT)
    assert push(target, 2, NIGHT, trusted=0.9) == "installed"
    target.move(DAY)
    assert target.updater.observe(0.1, frames=4) is None
    target.move(NIGHT)
    assert target.updater.observe(0.9, frames=4) is None
    assert target.updater.state.phase == "trusted"
    target.move(DAY)
    receipt = target.updater.observe(0.9, frames=4)
    assert receipt is not None
    assert (receipt.version, receipt.outcome, receipt.code) == (1, "reverted", "watch")
    assert target.version == 2
    assert target.move(NIGHT) == target.move(DAY) == []


def test_without_a_bound_on_entropy_the_recalled_version_would_stay(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control."""
    config = UpdaterConfig(watch_frames=4, max_entropy_rise_nats=math.inf)
    target = ready(Target(bundle, tmp_path, config=config))
    day_and_night(target)
    target.move(DAY)
    assert target.updater.observe(9.0, frames=4) is None
    assert target.version == 1


def test_nightfall_in_a_watch_does_not_condemn_the_version(target: Target) -> None:
    push(target, 1, DAY, trusted=0.1)
    push(target, 2, DAY, trusted=None)
    target.move(NIGHT)
    assert target.updater.observe(2.0, frames=4) is None
    assert target.version == 2


def test_a_newer_version_of_a_domain_that_fails_gives_way_to_the_trusted_one_of_the_same_domain(target: Target) -> None:
    push(target, 1, DAY)
    target.move(NIGHT)
    push(target, 2, NIGHT, trusted=0.2)
    target.move(DAY)
    target.updater.observe(0.1, frames=4)
    assert push(target, 3, NIGHT) == "remembered"
    assert [receipt.version for receipt in target.move(NIGHT)] == [3]
    receipt = target.updater.observe(2.0, frames=4)
    assert receipt is not None
    assert (receipt.version, receipt.outcome) == (3, "reverted")
    assert serves(target, 2)
    target.move(DAY)
    assert [receipt.version for receipt in target.move(NIGHT)] == [2]


@pytest.mark.parametrize("damage", ["flip", "remove", "swap"])
def test_a_damaged_version_is_not_recalled_and_the_next_nearest_is(target: Target, damage: str) -> None:
    assert push(target, 1, DAY) == "installed"
    assert push(target, 2, NIGHT) == "remembered"
    target.updater.receive(
        make_version(target.bundle, 3, change=0.03, domain=6, fingerprint=encode_fingerprint(world(NIGHT + 0.2)))
    )
    path = target.store.folder / "2.version"
    if damage == "flip":
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    elif damage == "remove":
        path.unlink()
    else:
        target.store.stage(2, make_version(target.bundle, 1))
    told = [(receipt.version, receipt.outcome, receipt.code) for receipt in target.move(NIGHT)]
    assert told == [(2, "rejected", "storage"), (3, "recalled", "")]
    assert serves(target, 3)
    assert [entry.version for entry in target.updater.remembered] == [1, 3]


def test_a_version_is_held_against_the_envelope_of_today(target: Target) -> None:
    day_and_night(target)
    target.start()
    target.updater.set_envelope(make_envelope(target.bundle, bound=0.005))
    (receipt,) = target.move(DAY)
    assert (receipt.version, receipt.outcome, receipt.code) == (1, "rejected", "out-of-bounds")
    target.updater.set_envelope(replace(make_envelope(target.bundle), cohort_key=STRANGER.public.hex))
    target.move(DAY)
    (receipt,) = target.move(NIGHT) or [None]
    assert receipt is None, "it serves"
    assert target.version == 2


def test_a_version_that_crashes_the_device_when_it_is_recalled_is_given_up(target: Target) -> None:
    day_and_night(target)
    target.build_error = KeyboardInterrupt()  # type: ignore[assignment]  # as a kill: nothing of ours runs after it
    for _ in range(target.config.max_attempts):
        with pytest.raises(KeyboardInterrupt):
            target.move(DAY)
        target.start()
        assert target.version == 2
    assert [entry.version for entry in target.updater.remembered] == [2]
    assert "stopped 3 times" in target.store.state.reasons["1"]


def test_another_cohort_and_another_bundle_forget_what_was_remembered(target: Target, tmp_path: Path) -> None:
    day_and_night(target)
    other = Target(make_bundle(tmp_path / "other", name="other"), target.state_dir)
    assert other.updater.remembered == ()
    day = ready(Target(target.bundle, tmp_path / "again"))
    day_and_night(day)
    day.updater.set_envelope(make_envelope(day.bundle, cohort="lagoon"))
    assert (day.updater.remembered, day.version) == ((), 0)


# Bounds and bad claims.


def test_files_are_kept_for_so_many_versions_and_no_more(bundle: Bundle, tmp_path: Path) -> None:
    target = ready(Target(bundle, tmp_path, config=UpdaterConfig(watch_frames=4, remembered_versions=3)))
    assert push(target, 1, DAY) == "installed"
    for number in range(2, 9):
        assert push(target, number, 10 * number) == "remembered"
    assert files(target) == ["1.version", "7.version", "8.version"]
    assert target.updater.highest_version == 8
    target.start()
    assert [entry.version for entry in target.updater.remembered] == [1, 7, 8]


@pytest.mark.parametrize(
    ("domain", "fingerprint"),
    [(1, b""), (0, encode_fingerprint(world(1))), (1, bytes(15)), (1, b"\xff" * 16), (2**63, bytes(16))],
    ids=["no-fingerprint", "no-domain", "short", "not-finite", "domain-out-of-range"],
)
def test_a_claim_without_sense_is_refused(target: Target, domain: int, fingerprint: bytes) -> None:
    receipt = target.updater.receive(make_version(target.bundle, 1, domain=domain, fingerprint=fingerprint))
    assert receipt is not None
    assert (receipt.outcome, receipt.code) == ("rejected", "malformed")
    assert (target.version, target.updater.remembered) == (0, ())


def test_a_remembered_fingerprint_that_is_not_the_bundles_is_dropped_at_the_start(target: Target) -> None:
    day_and_night(target)
    bad = tuple(replace(entry, fingerprint="00") for entry in target.store.state.remembered[:1])
    target.store.save(replace(target.store.state, remembered=bad + target.store.state.remembered[1:]))
    target.start()
    assert [entry.version for entry in target.updater.remembered] == [2]
