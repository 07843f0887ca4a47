"""What a record gives up: images and states that nobody needs, and never one that somebody does."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cloud_peer import SMALL, enrolled, image, sample
from cohort_bench import Bench, upload

from littoral.bundle import Bundle
from littoral.cloud.evidence import Evidence, call_witnesses
from littoral.cloud.ledger import Claim, NewVersion, StoredSample
from littoral.cloud.memory import ReplayMemory
from littoral.cloud.reissue import reissue
from littoral.cloud.retention import drop_idle_states, drop_images, idle_images
from littoral.cloud.store import EnrolledDevice, Store
from littoral.cloud.verdicts import quarantining
from littoral.cloud.witnesses import WitnessConfig
from littoral.errors import StorageError

FEW = replace(SMALL, replay_capacity=6)
NOTHING = NewVersion(status="held", reason="x", payload=b"", signed=None, state=b"", report={}, verdict={})


@pytest.fixture
def bench(store: Store, opened: Bundle) -> Iterator[Bench]:
    bench = Bench(store, opened, FEW)
    yield bench
    bench.executor.close()


def digest_of(frame: np.ndarray) -> bytes:
    return hashlib.sha256(frame.tobytes()).digest()


def alike(store: Store, device: EnrolledDevice, first: int, count: int) -> None:
    """Samples of one answer, among which chance decides what replay keeps."""
    entries = [(n, sample(n, predicted=0)) for n in range(first, first + count)]
    store.record(device.id, 7, entries, now=5.0).result()


def with_image(store: Store) -> set[int]:
    """The samples whose image is there."""
    return {row[0] for row in store.read("SELECT s.id FROM samples s JOIN blobs b USING (sha256) WHERE b.data != x''")}


def test_images_are_kept_for_what_waits_and_for_replay_and_rows_for_all(
    bench: Bench, store: Store, device: EnrolledDevice
) -> None:
    upload(store, device, 1, 43)
    assert len(bench.work()) == 10
    kept = set(bench.cohort._memory().ids)
    assert len(kept) == 6
    assert with_image(store) == kept | {41, 42, 43}
    assert store.read("SELECT count(*) FROM samples")[0][0] == 43


def test_whoever_wants_all_images_keeps_them(store: Store, opened: Bundle, device: EnrolledDevice) -> None:
    bench = Bench(store, opened, FEW, keep_images=True)
    upload(store, device, 1, 43)
    bench.work()
    assert with_image(store) == set(range(1, 44))
    bench.executor.close()
    again = Bench(store, opened, FEW)  # and who changes their mind gets rid of them at the next start
    upload(store, device, 44, 1)
    again.work()
    assert with_image(store) == set(again.cohort._memory().ids) | set()
    again.executor.close()


def test_a_cloud_that_restarts_after_each_job_replays_what_one_that_goes_on_does(
    store: Store, opened: Bundle, device: EnrolledDevice, tmp_path: Path
) -> None:
    whole = Bench(store, opened, FEW)
    whole.gate.hold = {4}
    upload(store, device, 1, 60)
    whole.work()
    other = Store(tmp_path / "other", bundle_digest=opened.digest)
    upload(other, enrolled(other), 1, 60)
    jobs = []
    for number in range(1, 16):
        part = Bench(other, opened, FEW)
        part.gate.hold = {1} if number == 4 else set()
        assert part.cohort.step() is not None
        part.executor.close()
        jobs += part.worker.jobs
    for job, again in zip(whole.worker.jobs, jobs, strict=True):
        np.testing.assert_array_equal(job.replay_frames, again.replay_frames)
    assert with_image(store) == with_image(other)
    whole.executor.close()
    other.close()


def test_an_image_that_another_sample_needs_stays(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    upload(store, device, 1, 40)
    bench.work()
    gone = next(iter(set(range(1, 41)) - with_image(store)))
    same = [(n, sample(n, image=image(gone).tobytes())) for n in range(41, 43)]
    store.record(device.id, 7, same, now=5.0).result()
    assert with_image(store) >= {gone, 41, 42}, "it came again, and is there for whoever waits"
    drop_images(bench.ledger, [digest_of(image(gone))], kept=())
    assert {41, 42} <= with_image(store)
    upload(store, device, 43, 2)
    assert len(bench.work()) == 1
    np.testing.assert_array_equal(bench.worker.jobs[-1].new_frames[0], image(gone))
    for kept in bench.cohort._memory().ids:
        assert kept in with_image(store)


def test_what_another_cohort_may_replay_stays(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    """It cannot be known here what the other keeps; the negative control is the same image without a second owner."""
    upload(store, enrolled(store, 2, cohort="north"), 1, 2)
    upload(store, device, 1, 3)
    drop_images(bench.ledger, [digest_of(image(n)) for n in (1, 2, 3)], kept=())
    assert with_image(store) == {1, 2, 3, 4, 5}, "they wait"
    store.write(lambda db: db.execute("UPDATE samples SET withdrawn = 1").rowcount).result()
    drop_images(bench.ledger, idle_images(bench.ledger, kept=()), kept=())
    assert with_image(store) == {1, 2, 3, 4}


def test_a_job_that_was_begun_keeps_its_images(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    upload(store, device, 1, 4)
    claim = bench.cohort._claim(bench.ledger.head())
    assert claim is not None
    drop_images(bench.ledger, [digest_of(image(n)) for n in range(1, 5)], kept=())
    assert with_image(store) == {1, 2, 3, 4}
    assert idle_images(bench.ledger, kept=()) == []


def test_a_disk_that_fails_when_images_are_given_up_costs_no_version(
    bench: Bench,
    store: Store,
    device: EnrolledDevice,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise StorageError("the disk is on fire")

    upload(store, device, 1, 16)
    bench.work()
    upload(store, device, 17, 16)
    with monkeypatch.context() as patch:
        patch.setattr("littoral.cloud.cohort.drop_images", fails)
        assert len(bench.work()) == 4
    assert "images that nobody needs stay: the disk is on fire" in caplog.text
    assert len(with_image(store)) > 6
    upload(store, device, 33, 4)
    again = Bench(store, bench.cohort._bundle, FEW)
    again.work()
    assert with_image(store) == set(again.cohort._memory().ids)
    again.executor.close()


def test_a_chain_of_versions_leaves_one_state(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    bench.gate.hold = {2, 5}
    upload(store, device, 1, 20)
    bench.work()
    states = [(row[0], bool(row[1])) for row in store.read("SELECT version, length(state) FROM versions")]
    assert states == [(1, False), (2, False), (3, False), (4, True), (5, False)]


def test_states_of_a_record_of_an_earlier_release_are_given_up(
    store: Store, opened: Bundle, device: EnrolledDevice
) -> None:
    first = Bench(store, opened, FEW)
    first.gate.hold = {2}
    upload(store, device, 1, 12)
    first.work()
    newest = first.ledger.state(3)
    store.write(lambda db: db.execute("UPDATE versions SET state = x'01' WHERE version < 3").rowcount).result()
    again = Bench(store, opened, FEW)
    upload(store, device, 13, 4)
    again.gate.hold = {1}
    again.work()
    assert [row[0] for row in store.read("SELECT state FROM versions ORDER BY version")] == [b"", b"", newest, b""]
    for each in (first, again):
        each.executor.close()


def test_a_record_of_an_earlier_release_gets_its_indexes(store: Store, opened: Bundle) -> None:
    def old(db):
        db.execute("DROP INDEX jobs_by_domain")
        db.execute("DROP INDEX samples_by_image")
        db.execute("DROP INDEX receipts_reverted")

    store.write(old).result()
    store.close()
    again = Store(store.path.parent, bundle_digest=opened.digest)
    names = {row[0] for row in again.read("SELECT name FROM sqlite_master WHERE type = 'index'")}
    again.close()
    assert {"jobs_by_domain", "samples_by_image", "receipts_reverted"} <= names


def test_what_a_session_asks_does_not_wait_for_a_long_query(store: Store, device: EnrolledDevice) -> None:
    begun, asked = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        store.read(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000000) SELECT sum(i) FROM n"
        )
        finished.append(asked.is_set())

    finished: list[bool] = []
    thread = threading.Thread(target=long)
    thread.start()
    begun.wait()
    while not store._reader._lock.locked() and thread.is_alive():
        time.sleep(0)
    assert store.device(device.id) is not None
    asked.set()
    thread.join()
    assert finished == [True]


def test_an_image_that_replay_keeps_for_another_sample_stays(
    bench: Bench, store: Store, device: EnrolledDevice
) -> None:
    """The negative control is in the test of what is given up: there the same call empties it."""
    upload(store, device, 1, 4)
    bench.work()
    same = [(n, sample(n, image=image(1).tobytes())) for n in range(5, 9)]
    store.record(device.id, 7, same, now=5.0).result()
    bench.gate.hold = {2}
    assert [outcome.shipped for outcome in bench.work()] == [False]
    assert with_image(store) >= {1, 2, 3, 4}
    assert idle_images(bench.ledger, kept=bench.cohort._memory().digests()) == []


def test_more_images_than_go_into_one_write_are_all_given_up(
    store: Store, opened: Bundle, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("littoral.cloud.retention._AT_ONCE", 3)
    monkeypatch.setattr("littoral.cloud.memory._AT_ONCE", 2)
    keeps = Bench(store, opened, FEW, keep_images=True)
    upload(store, device, 1, 43)
    keeps.work()
    again = Bench(store, opened, FEW)
    kept = set(again.cohort._memory().ids)
    assert kept == set(keeps.cohort._memory().ids)
    assert with_image(store) == kept | {41, 42, 43}
    for each in (keeps, again):
        each.executor.close()


def test_a_damaged_image_leaves_a_gap_and_no_others_are_lost_for_it(
    store: Store, opened: Bundle, device: EnrolledDevice
) -> None:
    first = Bench(store, opened, FEW)
    upload(store, device, 1, 40)
    first.work()
    broken = min(first.cohort._memory().ids)
    spoil = "UPDATE blobs SET data = x'01' WHERE sha256 = (SELECT sha256 FROM samples WHERE id = ?)"
    store.write(lambda db: db.execute(spoil, (broken,)).rowcount).result()
    for start in range(41, 121, 8):
        part = Bench(store, opened, FEW)
        upload(store, device, start, 8)
        part.work()
        kept, asked = set(part.cohort._memory().ids), set(part.cohort._memory().buffer.items())
        assert asked - kept <= {broken}
        assert kept <= with_image(store)
        part.executor.close()
    first.executor.close()


@pytest.mark.parametrize("change", [{"replay_capacity": 9}, {"replay_capacity": 4}, {"seed": 8}], ids=str)
def test_with_other_settings_replay_is_made_of_what_is_left_and_stays_the_same_over_restarts(
    store: Store, opened: Bundle, device: EnrolledDevice, change: dict[str, int]
) -> None:
    first = Bench(store, opened, FEW)
    alike(store, device, 1, 60)
    first.work()
    before = set(first.cohort._memory().ids)
    config = replace(FEW, **change)
    second = Bench(store, opened, config)
    assert set(second.cohort._memory().ids) <= before
    assert set(second.cohort._memory().buffer.items()) == set(second.cohort._memory().ids), "no gaps"
    assert len(second.cohort._memory().ids) == min(len(before), config.replay_capacity)
    alike(store, device, 61, 40)
    second.work()
    third = Bench(store, opened, config)
    assert third.cohort._memory().ids == second.cohort._memory().ids
    assert len(third.cohort._memory().ids) == config.replay_capacity
    for each in (first, second, third):
        each.executor.close()


def test_a_disk_that_fails_for_a_while_costs_no_sample(
    bench: Bench, store: Store, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the same process tries: only a process that ended counts as a try."""
    upload(store, device, 1, 4)
    with monkeypatch.context() as patch:

        def fails(*_: object, **__: object) -> None:
            raise StorageError("full")

        patch.setattr(bench.ledger, "commit", fails)
        for _ in range(12):
            with pytest.raises(StorageError, match="full"):
                bench.cohort.step()
    (outcome,) = bench.work()
    assert outcome.shipped
    assert store.read("SELECT fencing_token FROM jobs")[0][0] == 1


def test_images_of_a_device_that_teaches_nobody_are_not_kept(
    store: Store, opened: Bundle, device: EnrolledDevice
) -> None:
    """In quarantine and in no domain it is recorded and not learned from."""
    query = "UPDATE devices SET quarantined_at = 3.0 WHERE id = ?"
    store.write(lambda db: db.execute(query, (device.id,)).rowcount).result()
    upload(store, device, 1, 3)
    assert with_image(store) == set()
    store.keep_images = True
    upload(store, device, 4, 2)
    assert with_image(store) == {4, 5}


def test_the_state_that_a_reissue_stands_for_stays(store: Store, opened: Bundle, device: EnrolledDevice) -> None:
    bench = Bench(store, opened, FEW)
    upload(store, device, 1, 8)
    bench.work()
    newest = bench.ledger.state(2)
    reissue(bench.ledger, bench.ledger.head(), 0, sign=bench.cohort._sign, now=6.0).result()
    assert bench.ledger.state(3) == newest != b""
    store.write(lambda db: db.execute("UPDATE versions SET state = x'01' WHERE version = 1").rowcount).result()
    drop_idle_states(bench.ledger).result()
    assert bench.ledger.state(3) == newest
    assert [bool(row[0]) for row in store.read("SELECT state FROM versions ORDER BY version")] == [False, True, False]
    bench.executor.close()


def test_an_image_that_could_not_be_decoded_is_given_up_with_its_job(
    bench: Bench, store: Store, device: EnrolledDevice
) -> None:
    upload(store, device, 1, 4)
    spoil = "UPDATE blobs SET data = x'01' WHERE sha256 = (SELECT sha256 FROM samples WHERE id = 2)"
    store.write(lambda db: db.execute(spoil).rowcount).result()
    bench.work()
    assert with_image(store) == {1, 3, 4} == set(bench.cohort._memory().ids)


def test_images_of_who_is_forgotten_are_given_up(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    other = enrolled(store, 2)
    for who in (device, other):
        entries = [(n, sample(n if who is device else n + 50)) for n in (1, 2)]
        store.record(who.id, 7, entries, now=5.0).result()
    bench.work()
    assert with_image(store) == {1, 2, 3, 4}
    memory = bench.cohort._memory()
    gone = memory.remember([], np.empty((0, *memory.frame_shape), np.uint8), 0, quarantining(NOTHING, [other.id]))
    assert sorted(gone) == sorted(digest_of(image(n)) for n in (51, 52))
    assert memory.ids == {1, 2}


def test_a_held_versions_state_is_given_up_also_where_nothing_shipped_after_it(
    bench: Bench, store: Store, device: EnrolledDevice
) -> None:
    bench.gate.hold = {2}
    upload(store, device, 1, 8)
    bench.work()
    store.write(lambda db: db.execute("UPDATE versions SET state = x'01' WHERE version = 2").rowcount).result()
    drop_idle_states(bench.ledger).result()
    assert [bool(row[0]) for row in store.read("SELECT state FROM versions ORDER BY version")] == [True, False]


def test_a_witness_judges_by_its_own_frames_alone(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    memory = ReplayMemory(SMALL, (4, 5, 1))
    shipped = replace(NOTHING, status="shipped")
    own: dict[str, set[bytes]] = {}
    for number, name in enumerate(("a", "b", "c")):
        frames = np.stack([image(10 * number + i) for i in range(5)])
        samples = [
            StoredSample(id=10 * number + i, device_id=name, predicted=0, coding="raw", sha256=b"", image=b"")
            for i in range(5)
        ]
        memory.remember(samples, frames, 1, shipped)
        own[name] = {frame.tobytes() for frame in frames}
    claim = Claim(job=1, head_version=0, domain=1, base_version=0, num_samples=0, fencing_token=1)
    evidence = Evidence(claim=claim, stored=[], frames=frames, newest=[], replay=memory)
    called = call_witnesses(evidence, WitnessConfig(frames=4, min_frames=2), seed=0)
    assert len(called) >= 2
    for name, judged in called.items():
        assert {frame.tobytes() for frame in judged} <= own[name]
