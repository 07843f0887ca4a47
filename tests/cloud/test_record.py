"""The record keeps its word: once, in order, synced, or not at all."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from cloud_peer import enrolled, sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from littoral.bundle import SigningKey
from littoral.cloud import intake
from littoral.cloud.intake import Malformed
from littoral.cloud.store import EnrolledDevice, Store
from littoral.errors import BundleError, LinkRefused, ProtocolError, StorageError
from littoral.wire.messages import Receipt

RECEIPT = Receipt(version=3, outcome="installed", code="", reason="")


def count(store: Store, table: str) -> int:
    return int(store.read(f"SELECT count(*) FROM {table}")[0][0])


def test_what_was_committed_is_there_after_a_restart(store: Store, device: EnrolledDevice) -> None:
    future = store.record(device.id, 2**64 - 1, [(1, sample(1)), (2, RECEIPT)], now=5.0)
    assert future.result() == 2
    store.close()
    again = Store(store.path.parent, bundle_digest=None)
    assert again.acked_sequence(device.id, 2**64 - 1) == 2
    assert again.acked_sequence(device.id, 1) == 0
    assert (count(again, "samples"), count(again, "receipts")) == (1, 1)
    assert again.last_receipts()[device.id]["outcome"] == "installed"
    found = again.device(device.id)
    assert found is not None
    assert (found.num_samples, found.sample_bytes) == (1, len(sample(1).image))
    again.close()


def test_every_connection_syncs_fully(store: Store) -> None:
    def pragmas(db: sqlite3.Connection) -> tuple[str, int]:
        return db.execute("PRAGMA journal_mode").fetchone()[0], db.execute("PRAGMA synchronous").fetchone()[0]

    assert store.write(pragmas).result() == ("wal", 2)


def test_only_the_owner_can_read_the_frames_of_the_devices(store: Store, device: EnrolledDevice) -> None:
    store.record(device.id, 7, [(1, sample(1))], now=5.0).result()
    files = [path for path in store.path.parent.iterdir() if path.name.startswith(store.path.name)]
    assert len(files) == 3
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


def test_a_gap_is_refused_and_nothing_of_the_batch_is_recorded(store: Store, device: EnrolledDevice) -> None:
    with pytest.raises(ProtocolError, match="send again from 2"):
        store.record(device.id, 7, [(1, sample(1)), (3, sample(3))], now=5.0).result()
    assert (store.acked_sequence(device.id, 7), count(store, "samples")) == (0, 0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), max_size=8), stream=st.integers(1, 2**64 - 1)
)
def test_duplicates_and_reorders_have_no_second_effect(
    store: Store, device: EnrolledDevice, order: list[list[int]], stream: int
) -> None:
    acked = store.acked_sequence(device.id, stream)
    for batch in order:
        try:
            acked = store.record(device.id, stream, [(n, sample(n)) for n in batch], now=5.0).result()
        except ProtocolError:
            assert any(n > acked for n in batch)
        rows = store.read("SELECT sequence FROM samples WHERE stream = ? ORDER BY id", (stream ^ 2**63) - 2**63)
        assert [row[0] for row in rows] == list(range(1, acked + 1))
        assert store.acked_sequence(device.id, stream) == acked


def test_the_same_image_is_kept_once(store: Store, device: EnrolledDevice) -> None:
    store.record(device.id, 7, [(1, sample(1)), (2, sample(1))], now=5.0).result()
    assert (count(store, "samples"), count(store, "blobs")) == (2, 1)


def test_a_malformed_message_is_passed_over_once_and_a_flood_of_them_does_not_fill_the_audit(
    store: Store, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_AUDITED", 3)
    bad = Malformed(kind="sample", reason="x" * 5000)
    for _ in range(2):
        store.record(device.id, 7, [(n, bad) for n in range(1, 10)], now=5.0).result()
    assert store.record(device.id, 7, [(10, sample(10))], now=5.0).result() == 10
    found = store.device(device.id)
    assert found is not None
    assert (found.num_malformed, found.num_samples) == (9, 1)
    audit = [detail for _, kind, _, detail in store.audit_entries() if kind == "malformed"]
    assert [detail[:11] for detail in audit] == ["sample 1: x", "sample 2: x", "sample 3: x"]
    assert max(map(len, audit)) == 400


def test_a_failing_message_does_not_take_its_neighbours_along(store: Store, device: EnrolledDevice) -> None:
    other = enrolled(store, 2)
    gate = threading.Event()
    hold = store.write(lambda db: gate.wait(5))
    good = store.record(device.id, 7, [(1, sample(1))], now=5.0)
    bad = store.record(other.id, 7, [(2, sample(2))], now=5.0)
    also_good = store.record(other.id, 7, [(1, sample(1))], now=5.0)
    gate.set()
    assert hold.result() is True
    assert (good.result(), also_good.result()) == (1, 1)
    with pytest.raises(ProtocolError):
        bad.result()


def test_messages_of_many_devices_share_one_commit(store: Store) -> None:
    devices = [enrolled(store, n) for n in range(1, 21)]
    commits: list[str] = []
    gate = threading.Event()
    store.write(lambda db: db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)).result()
    hold = store.write(lambda db: gate.wait(5))
    futures = [store.record(d.id, 1, [(1, sample(1))], now=5.0) for d in devices]
    gate.set()
    assert [future.result() for future in futures] == [1] * 20
    hold.result()
    assert len(commits) <= 3


def test_a_full_disk_is_a_storage_error_and_acks_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "full", bundle_digest=b"d" * 32, max_bytes=200_000)
    device = enrolled(store)
    store.record(device.id, 7, [(1, sample(1))], now=5.0).result()
    big = sample(2, image=bytes(150_000))
    with pytest.raises(StorageError, match="free space"):
        store.record(device.id, 7, [(2, big)], now=5.0).result()
    assert store.acked_sequence(device.id, 7) == 1
    assert store.record(device.id, 7, [(2, sample(2))], now=5.0).result() == 2, "it goes on when there is room"
    store.close()


def test_a_closed_record_says_so(store: Store, device: EnrolledDevice) -> None:
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.record(device.id, 7, [(1, sample(1))], now=5.0)


def test_a_folder_that_cannot_be_used_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="writable"):
        Store(tmp_path / "file", bundle_digest=b"d" * 32)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "record.sqlite3").write_bytes(b"this is not a database" * 100)
    with pytest.raises(StorageError):
        Store(tmp_path / "state", bundle_digest=b"d" * 32)
    with pytest.raises(StorageError, match="start a cloud"):
        Store(tmp_path / "none", bundle_digest=None)


def test_a_state_folder_of_another_bundle_is_refused(store: Store) -> None:
    with pytest.raises(BundleError, match="state folder of its own"):
        Store(store.path.parent, bundle_digest=b"x" * 32)


def test_a_record_of_another_schema_is_refused(store: Store) -> None:
    store.write(lambda db: db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")).result()
    with pytest.raises(StorageError, match="schema 99"):
        Store(store.path.parent, bundle_digest=None)


# -- tokens and devices ------------------------------------------------------------------------------------------------


def test_a_token_is_redeemed_once_even_at_the_same_time(store: Store) -> None:
    store.add_token(b"t" * 32, now=0.0).result()
    barrier = threading.Barrier(8)
    outcomes: list[str] = []

    def redeem(number: int) -> None:
        barrier.wait()
        key = SigningKey(number.to_bytes(32, "big")).public
        future = store.redeem(b"t" * 32, public_key=key, name="x", cohort="default", now=1.0)
        error = future.exception()
        outcomes.append(error.code if isinstance(error, LinkRefused) else "enrolled")

    threads = [threading.Thread(target=redeem, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["bad-token"] * 7 + ["enrolled"]
    assert count(store, "devices") == 1


def test_a_device_whose_answer_was_lost_may_ask_again_with_the_same_key(store: Store, device: EnrolledDevice) -> None:
    again = store.redeem(
        (1).to_bytes(32, "big"), public_key=device.public_key, name="other", cohort="default", now=9.0
    ).result()
    assert again == device


def test_an_unknown_token_enrols_nobody(store: Store) -> None:
    future = store.redeem(b"?" * 32, public_key=SigningKey(b"k" * 32).public, name="x", cohort="default", now=1.0)
    with pytest.raises(LinkRefused) as caught:
        future.result()
    assert caught.value.code == "bad-token"
    assert count(store, "devices") == 0


def test_a_revoked_device_changes_nothing_more_and_its_unused_samples_are_withdrawn(
    store: Store, device: EnrolledDevice
) -> None:
    store.record(device.id, 7, [(1, sample(1))], now=5.0).result()
    assert store.revoke(device.id, reason="stolen", now=6.0).result() is True
    assert store.revoke(device.id, reason="stolen", now=7.0).result() is False
    with pytest.raises(LinkRefused) as caught:
        store.record(device.id, 7, [(2, sample(2))], now=8.0).result()
    assert caught.value.code == "revoked"
    assert [row[0] for row in store.read("SELECT withdrawn FROM samples")] == [1]
    store.add_token(b"n" * 32, now=8.0).result()
    with pytest.raises(LinkRefused, match=r"remove device\.key"):
        store.redeem(b"n" * 32, public_key=device.public_key, name="x", cohort="default", now=9.0).result()
    assert ("device-revoked", device.id, "stolen") in [entry[1:] for entry in store.audit_entries()]


def test_an_unknown_device_is_refused_and_cannot_be_revoked(store: Store) -> None:
    with pytest.raises(LinkRefused) as caught:
        store.record("nobody", 7, [(1, sample(1))], now=5.0).result()
    assert caught.value.code == "not-enrolled"
    with pytest.raises(ValueError, match="no device"):
        store.revoke("nobody", reason="", now=5.0).result()
    assert count(store, "samples") == 0
