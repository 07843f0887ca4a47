"""A power cut between any two steps of the disk: what boots next is a whole version, and one that was good."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks.target import Target, make_bundle, make_envelope, make_version
from littoral.bundle import Bundle
from littoral.core.scenes import Remembered
from littoral.edge.updater import UpdaterConfig
from littoral.edge.versions import BACKUP_FILE, STATE_FILE, Files, VersionState, VersionStore

DAY, NIGHT = 1, 5


class PowerCut(BaseException):
    """Not an Exception: nothing of ours may run after it."""


class FragileFiles(Files):
    """A disk that loses what was not synced.

    Args:
        steps: How many steps work before the power fails.
        lose_renames: Also lose renames whose folder was not synced; a real disk may do either.
    """

    def __init__(self, steps: int, *, lose_renames: bool) -> None:
        self.steps, self.lose_renames, self.cut = steps, lose_renames, False
        self.taken: list[str] = []
        self._unsynced: set[Path] = set()
        self._renames: list[tuple[Path, Path, bytes | None]] = []

    def _step(self, name: str) -> None:
        if self.cut:
            raise PowerCut
        if len(self.taken) >= self.steps:
            self.fail()
        self.taken.append(name)

    def fail(self) -> None:
        """The power fails: take back what the disk never promised, then stop."""
        self.cut = True
        if self.lose_renames:
            for source, target, before in reversed(self._renames):
                if not target.exists():
                    continue
                content = target.read_bytes()
                source.write_bytes(content)
                if before is None:
                    target.unlink()
                else:
                    target.write_bytes(before)
        for path in self._unsynced:
            if path.exists():
                path.write_bytes(path.read_bytes()[:7] + b"\0\0\0")
        raise PowerCut

    def write(self, path: Path, data: bytes) -> None:
        self._unsynced.add(path)
        if not self.cut and len(self.taken) >= self.steps:
            super().write(path, data[: len(data) // 2])
        self._step("write")
        super().write(path, data)

    def sync(self, path: Path) -> None:
        self._step("sync")
        if path.is_dir():
            self._renames.clear()
        self._unsynced.discard(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        before = target.read_bytes() if target.exists() else None
        super().rename(source, target)
        self._renames.append((source, target, before))
        if source in self._unsynced:
            self._unsynced.discard(source)
            self._unsynced.add(target)

    def remove(self, path: Path) -> None:
        if not self.cut:
            super().remove(path)


class UnsyncedFiles(FragileFiles):
    """The negative control: a disk layer that forgets to sync."""

    def sync(self, path: Path) -> None:
        self._step("sync")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


def live(bundle: Bundle, folder: Path, files: FragileFiles) -> set[int]:
    """Install 1, trust it, install 2, revert it, install 3; returns what may serve when the power fails."""
    good = {0}
    try:
        target = Target(bundle, folder, files=files, config=UpdaterConfig(watch_frames=2))
        updater = target.updater
        updater.set_envelope(make_envelope(bundle))
        good = {0, 1}
        updater.receive(make_version(bundle, 1, change=0.1))
        updater.observe(0.1, frames=2)
        good = {1, 2}
        updater.receive(make_version(bundle, 2, change=0.2))
        updater.observe(9.9, frames=2)
        good = {1, 3}
        updater.receive(make_version(bundle, 3, change=0.3))
        good = {3}
        files.steps = 0
        files._step("end")
    except PowerCut:
        return good
    raise AssertionError("the power never failed")


def num_steps(bundle: Bundle, folder: Path) -> int:
    files = FragileFiles(10**9, lose_renames=False)
    live(bundle, folder, files)
    return len(files.taken)


def failures(bundle: Bundle, folder: Path, make: Callable[[int], FragileFiles]) -> list[str]:
    """Cut the power after every number of steps, start again, and tell what is wrong then."""
    found = []
    for cut in range(num_steps(bundle, folder / "whole") + 1):
        place = folder / str(cut)
        files = make(cut)
        good = live(bundle, place, files)
        again = Target(bundle, place)
        if again.version not in good or again.change != round(again.version / 10, 3):
            found.append(f"cut {cut} {files.taken[-1:]}: version {again.version}, expected one of {good}")
        if again.updater.highest_version < again.version:
            found.append(f"cut {cut}: highest seen {again.updater.highest_version} < {again.version}")
        again.updater.set_envelope(make_envelope(bundle))
        receipt = again.updater.receive(make_version(bundle, 9, change=0.4))
        if receipt is None or receipt.outcome != "installed":
            found.append(f"cut {cut}: the next version is not taken: {receipt}")
    return found


def live_in_two_worlds(bundle: Bundle, folder: Path, files: FragileFiles) -> set[int]:
    """Versions 1 and 2 are for the day, 3 for the night comes by day; night falls, day breaks, 4 is for the night."""
    good = {0}
    try:
        target = Target(bundle, folder, files=files, config=UpdaterConfig(watch_frames=2))
        updater = target.updater
        updater.set_envelope(make_envelope(bundle))
        target.move(DAY)
        for version in (1, 2):
            good = {version - 1, version}
            updater.receive(make_version(bundle, version, change=version / 10, domain=DAY))
            updater.observe(0.1, frames=2)
        good = {2}
        updater.receive(make_version(bundle, 3, change=0.3, domain=NIGHT))
        good = {2, 3}
        target.move(NIGHT)
        updater.observe(0.1, frames=2)
        target.move(DAY)
        good = {2}
        updater.receive(make_version(bundle, 4, change=0.4, domain=NIGHT))
        files.steps = 0
        files._step("end")
    except PowerCut:
        return good
    raise AssertionError("the power never failed")


def recall_failures(bundle: Bundle, folder: Path, make: Callable[[int], FragileFiles], *, stride: int = 1) -> list[str]:
    """As `failures`; whatever is remembered afterwards can be recalled, and is what it says."""
    files = FragileFiles(10**9, lose_renames=False)
    live_in_two_worlds(bundle, folder / "whole", files)
    found = []
    for cut in range(0, len(files.taken) + 1, stride):
        place, files = folder / str(cut), make(cut)
        good = live_in_two_worlds(bundle, place, files)
        again = Target(bundle, place)
        if again.version not in good or again.change != round(again.version / 10, 3):
            found.append(f"cut {cut} {files.taken[-1:]}: version {again.version}, expected one of {good}")
        highest = again.updater.highest_version
        if any(entry.version > highest for entry in again.updater.remembered):
            found.append(f"cut {cut}: {again.updater.remembered} remembered, highest seen {highest}")
        for domain in (DAY, NIGHT, DAY):
            known = [entry.version for entry in again.updater.remembered if entry.domain == domain]
            told = again.move(domain)
            if known and (again.version != max(known) or again.change != round(again.version / 10, 3)):
                found.append(f"cut {cut}: {known} are remembered for {domain}, version {again.version} serves: {told}")
    return found


@pytest.mark.parametrize("lose_renames", [False, True], ids=["renames-kept", "renames-lost"])
def test_what_is_remembered_after_a_power_cut_can_be_recalled(
    bundle: Bundle, tmp_path: Path, lose_renames: bool
) -> None:
    assert recall_failures(bundle, tmp_path, lambda cut: FragileFiles(cut, lose_renames=lose_renames)) == []


def test_without_syncing_a_power_cut_loses_what_was_remembered(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control."""
    assert recall_failures(bundle, tmp_path, lambda cut: UnsyncedFiles(cut, lose_renames=True), stride=7) != []


@pytest.mark.parametrize("lose_renames", [False, True], ids=["renames-kept", "renames-lost"])
def test_a_power_cut_after_any_step_boots_a_good_version(bundle: Bundle, tmp_path: Path, lose_renames: bool) -> None:
    assert failures(bundle, tmp_path, lambda cut: FragileFiles(cut, lose_renames=lose_renames)) == []


def test_without_syncing_a_power_cut_loses_the_good_version(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control: the same cuts with the syncs left out must be noticed."""
    assert failures(bundle, tmp_path, lambda cut: UnsyncedFiles(cut, lose_renames=True)) != []


def test_a_damaged_state_is_replaced_by_its_backup(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    store.save(VersionState(installed=3, highest_seen=4))
    (store.folder / STATE_FILE).write_bytes(b"{rubbish")
    state = VersionStore(tmp_path).state
    assert (state.installed, state.highest_seen) == (3, 4)
    assert "cannot be read" in state.reasons["0"]


GOOD = json.loads(
    '{"installed":1,"previous":0,"highest_seen":1,"pending":null,"attempts":0,"trusted":true,"baseline_nats":null,'
    '"boots":0,"bundle":"","cohort":"","reasons":{}}'
)
ENTRY = {"version": 1, "domain": 2, "fingerprint": "00", "trusted": True, "entropy_nats": 0.5}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        json.dumps({**GOOD, "installed": -1}).encode(),
        json.dumps({**GOOD, "installed": True}).encode(),
        json.dumps({**GOOD, "installed": "../../etc"}).encode(),
        json.dumps({**GOOD, "highest_seen": 2**64}).encode(),
        json.dumps({**GOOD, "pending": 1.5}).encode(),
        json.dumps({**GOOD, "trusted": 1}).encode(),
        json.dumps({**GOOD, "baseline_nats": float("nan")}).encode(),
        json.dumps({**GOOD, "reasons": {"1": 2}}).encode(),
        json.dumps({**GOOD, "unknown": 1}).encode(),
        *(
            json.dumps({**GOOD, "remembered": wrong}).encode()
            for wrong in (
                {},
                [1],
                [{}],
                [{**ENTRY, "version": 0}],
                [{**ENTRY, "domain": -1}],
                [{**ENTRY, "domain": 0}],
                [{**ENTRY, "fingerprint": None}],
                [{**ENTRY, "trusted": 1}],
                [{**ENTRY, "entropy_nats": math.inf}],
                [{**ENTRY, "unknown": 1}],
                [ENTRY, ENTRY],
            )
        ),
    ],
    ids=range(24),
)
def test_a_state_without_sense_boots_the_source_and_says_why(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "versions"
    folder.mkdir()
    (folder / STATE_FILE).write_bytes(content)
    (folder / BACKUP_FILE).write_bytes(content)
    target = Target(bundle, tmp_path)
    assert target.version == 0
    assert "cannot be read" in target.store.state.reasons["0"]


def test_reasons_are_bounded() -> None:
    state = VersionState()
    for version in range(100):
        state = state.because(version, "x" * 1000)
    assert len(state.reasons) == 32
    assert list(state.reasons)[-1] == "99"
    assert max(map(len, state.reasons.values())) <= 300


def test_a_state_folder_that_cannot_be_made_leaves_the_source_serving(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    target = Target(bundle, tmp_path / "file")
    assert target.version == 0


def test_a_state_from_before_versions_were_remembered_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "versions"
    folder.mkdir()
    (folder / STATE_FILE).write_bytes(json.dumps(GOOD).encode())
    state = VersionStore(tmp_path).state
    assert (state.installed, state.highest_seen, state.remembered) == (1, 1, ())


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    state = VersionState(installed=1, highest_seen=1, remembered=(Remembered(**ENTRY),))  # type: ignore[arg-type]
    VersionStore(tmp_path).save(state)
    assert VersionStore(tmp_path).state == state
