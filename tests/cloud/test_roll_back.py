"""An operator takes a domain back: a new version with an old payload, which devices take and jobs go on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cloud_peer import FakeWorker, Peer, running

from littoral.bundle import Bundle
from littoral.cloud import admin
from littoral.cloud.keys import Keys
from littoral.cloud.ledger import Claim, Head, Ledger
from littoral.cloud.roll_back import source_payload
from littoral.cloud.store import Store
from littoral.errors import LittoralError, StorageError
from littoral.wire.messages import Version


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def two_versions(bundle: Path, state: Path, worker: FakeWorker) -> tuple[Peer, list[Version]]:
    """A device whose samples made versions 1 and 2 of domain 0; the cloud is stopped."""
    with running(bundle, state, worker=worker) as cloud:
        peer = Peer(cloud).enrol()
        with peer.session() as line:
            line.upload(1, 4)
            first = line.wait(Version)
            line.upload(5, 4)
            return peer, [first, line.wait(Version)]


@contextmanager
def ledger_of(bundle: Path, state: Path) -> Iterator[Ledger]:
    store = Store(state, bundle_digest=Bundle.open(bundle).digest)
    try:
        yield Ledger(store, "default")
    finally:
        store.close()


@pytest.mark.parametrize("to", [0, 1])
def test_devices_get_the_older_values_under_a_new_number_and_adaptation_goes_on(
    bundle: Path, state: Path, to: int
) -> None:
    worker = FakeWorker()
    peer, made = two_versions(bundle, state, worker)
    assert admin.roll_back(bundle, state, 0, to=to, reason="wrong at night") == 3
    with running(bundle, state, worker=worker) as cloud:
        peer.cloud = cloud
        with peer.session(highest_version=2) as line:
            came = line.wait(Version)
            assert line.welcome is not None
            assert peer.verified(came, line.welcome).version == 3
            assert came.payload == (made[0].payload if to else source_payload(Bundle.open(bundle)))
            line.upload(9, 4)
            assert peer.verified(line.wait(Version), line.welcome).version == 4
    assert (worker.jobs[-1].base_version, worker.jobs[-1].state) == (3, b""), "what was learned since is left behind"
    entry = admin.list_versions(state)[2]
    told = "rolled back to version 1: wrong at night" if to else "rolled back to the source: wrong at night"
    assert (entry.version, entry.status, entry.base_version, entry.job, entry.reason) == (3, "shipped", to, None, told)


def test_a_job_that_was_begun_is_done_again_from_what_serves_now(bundle: Path, state: Path) -> None:
    two_versions(bundle, state, FakeWorker())
    with ledger_of(bundle, state) as ledger:
        head = ledger.head()
        sample = ledger.store.read("SELECT id FROM samples ORDER BY id DESC LIMIT 1")[0]["id"]
        ledger.store.write(
            lambda db: db.execute("UPDATE samples SET job = NULL WHERE id = ?", (sample,)).rowcount
        ).result()
        begun = ledger.claim(head, [sample], domain=0, base_version=2, now=1.0, lease_s=9.0).result()
        assert isinstance(begun, Claim)
    assert admin.roll_back(bundle, state, 0, to=1) == 3
    with ledger_of(bundle, state) as ledger:
        head = ledger.head()
        assert (head.version, head.open_job) == (3, begun.job)
        again = ledger.resume(head, now=2.0, lease_s=9.0, take_over=True).result()
        assert (again.head_version, again.base_version, again.num_samples) == (3, 3, 1)


def test_what_was_gone_back_to_keeps_its_state_where_the_record_has_it(bundle: Path, state: Path) -> None:
    worker = FakeWorker()
    two_versions(bundle, state, worker)
    assert admin.roll_back(bundle, state, 0) == 3
    assert admin.roll_back(bundle, state, 0, to=2) == 4
    with ledger_of(bundle, state) as ledger:
        assert ledger.state(4) == worker.states[-1]
        assert ledger.payload_of(4) == ledger.payload_of(2)


@pytest.mark.parametrize(
    ("domain", "to", "told"),
    [(1, 0, "domain 1 .* has no shipped version"), (0, 2, "cannot go back to version 2: .* are 1; or 0"), (0, 9, "9")],
    ids=["no-domain", "the-newest", "none"],
)
def test_where_there_is_nothing_to_go_back_to_nothing_is_made(
    bundle: Path, state: Path, domain: int, to: int, told: str
) -> None:
    two_versions(bundle, state, FakeWorker())
    with pytest.raises(ValueError, match=told):
        admin.roll_back(bundle, state, domain, to=to)
    assert len(admin.list_versions(state)) == 2


def test_a_cloud_that_runs_is_to_be_stopped_first(bundle: Path, state: Path) -> None:
    with running(bundle, state), pytest.raises(LittoralError, match="stop it, roll back, and start it again"):
        admin.roll_back(bundle, state, 0)


def test_a_folder_without_a_record_is_not_made(bundle: Path, state: Path) -> None:
    with pytest.raises(StorageError, match="no record"):
        admin.roll_back(bundle, state, 0)
    assert not state.exists()


def test_a_head_that_moved_on_is_not_gone_back_from(bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from littoral.cloud import roll_back

    two_versions(bundle, state, FakeWorker())
    with ledger_of(bundle, state) as ledger:
        old = Head(version=1, shipped={0: 1}, open_job=None, waiting=())
        monkeypatch.setattr(ledger, "head", lambda: old)
        key = Keys.load(state).cohort
        made = roll_back.back_to(
            *(ledger, 0),
            to=1,
            source=b"",
            sign=lambda payload, version, domain: roll_back.sign_version(
                ledger, key, b"d" * 32, payload, version, domain
            ),
            reason="",
            now=1.0,
        ).result()
        assert made is None
        assert len(ledger.history()) == 2


def test_the_command_lists_versions_and_takes_a_domain_back(
    bundle: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from littoral.cli.main import main

    two_versions(bundle, state, FakeWorker())
    words = ["--state", str(state), "--domain", "0", "--to", "1"]
    assert main(["versions", "roll-back", str(bundle), *words]) == 0
    told = "version 3 takes domain 0 back to version 1; devices get it once the cloud runs again\n"
    assert capsys.readouterr().out == told
    assert main(["versions", "list", "--state", str(state)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "domain 0     shipped" in lines[2]
    assert lines[2].endswith("rolled back to version 1")
