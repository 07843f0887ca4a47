"""The cohort's loop: a function of the record, whatever happens to the process that runs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cloud_peer import LAYER, SMALL, enrolled, image, png, sample, until
from cohort_bench import KEY, Bench, upload

from littoral.bundle import Bundle
from littoral.bundle.images import decode_image
from littoral.cloud.cohort import MOST_TRIES, Cohort, Outcome
from littoral.cloud.evidence import job_seeds, replay_count
from littoral.cloud.gate import Verdict
from littoral.cloud.jobs import AdaptJob, AdaptResult
from littoral.cloud.ledger import Ledger, NewVersion
from littoral.cloud.store import EnrolledDevice, Store
from littoral.core.affine import decode_delta
from littoral.errors import StorageError

NOTHING = NewVersion(status="held", reason="x", payload=b"", signed=None, state=b"", report={}, verdict={})


@pytest.fixture
def bench(store: Store, opened: Bundle) -> Iterator[Bench]:
    bench = Bench(store, opened)
    yield bench
    bench.executor.close()


# -- the decisions -----------------------------------------------------------------------------------------------------


def test_a_cloud_that_is_behind_learns_from_the_newest_batch_and_remembers_the_others(
    store: Store, opened: Bundle, device: EnrolledDevice
) -> None:
    bench = Bench(store, opened, config=replace(SMALL, max_batches_per_job=3, replay_after=8))
    upload(store, device, 1, 12)
    bench.work()
    upload(store, device, 13, 4)
    bench.work()
    bench.executor.close()
    first, second = bench.worker.jobs
    newest = bench.ledger.samples(1)[-4:]
    assert [
        decode_image(s.coding, s.image, opened.manifest.input).tolist() for s in newest
    ] == first.new_frames.tolist()
    assert len(second.replay_frames) == 8, "all twelve are in replay"


@pytest.mark.parametrize(("buffered", "expected"), [(0, 0), (3, 0), (4, 4), (7, 7), (8, 8), (100, 8)])
def test_replay_is_used_once_enough_is_kept(buffered: int, expected: int) -> None:
    assert replay_count(buffered, 4, SMALL) == expected


def test_a_jobs_seed_depends_on_seed_and_version_alone() -> None:
    assert job_seeds(3, 1)[1] == job_seeds(3, 1)[1]
    assert len({job_seeds(seed, version)[1] for seed in range(3) for version in range(3)}) == 9


# -- one job after another ---------------------------------------------------------------------------------------------


def test_nothing_happens_below_the_batch_size(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    upload(store, device, 1, SMALL.batch_size - 1)
    assert bench.work() == []
    assert bench.ledger.newest_shipped() == {}


def test_batches_are_worked_in_commit_order_each_on_the_state_before(
    bench: Bench, store: Store, device: EnrolledDevice
) -> None:
    upload(store, device, 1, 11)
    assert bench.work() == [Outcome(version=n, domain=0, shipped=True, reason="") for n in (1, 2)] == bench.outcomes
    first, second = bench.worker.jobs
    np.testing.assert_array_equal(first.new_frames, np.stack([image(n) for n in range(1, 5)]))
    np.testing.assert_array_equal(second.new_frames, np.stack([image(n) for n in range(5, 9)]))
    assert (first.base_version, first.state, len(first.replay_frames)) == (0, b"", 0)
    assert (second.base_version, second.state) == (1, bench.worker.states[0])
    assert {f.tobytes() for f in second.replay_frames} == {f.tobytes() for f in first.new_frames}
    upload(store, device, 12, 1)
    assert [outcome.version for outcome in bench.work()] == [3]


def test_png_samples_reach_the_worker_as_frames(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    entries = [(n, sample(n, coding="png", image=png(image(n)))) for n in range(1, 5)]
    store.record(device.id, 7, entries, now=5.0).result()
    bench.work()
    np.testing.assert_array_equal(bench.worker.jobs[0].new_frames, np.stack([image(n) for n in range(1, 5)]))


def test_a_shipped_version_is_signed_for_its_number(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    upload(store, device, 1, 4)
    bench.work()
    shipped = bench.ledger.newest_shipped()[0]
    assert KEY.public.verifies("version", shipped.signed.manifest, shipped.signed.signature)
    assert b'"version":1' in shipped.signed.manifest
    assert set(decode_delta(shipped.signed.payload, [LAYER])) == {LAYER.gamma, LAYER.beta}
    [entry] = bench.ledger.history()
    assert entry.report == {"loss": "nan", "frames": 4.0}
    assert entry.verdict == {"probe_agreement": 1.0}


def test_a_held_version_is_recorded_and_never_shipped_and_the_next_goes_on_from_the_last_good_state(
    bench: Bench, store: Store, device: EnrolledDevice
) -> None:
    bench.gate.hold = {2}
    upload(store, device, 1, 12)
    assert [(o.version, o.shipped) for o in bench.work()] == [(1, True), (2, False), (3, True)]
    held = bench.ledger.history()[1]
    assert (held.status, held.reason) == ("held", "<b>collapse</b>")
    last = bench.worker.jobs[2]
    assert (last.base_version, last.state) == (1, bench.worker.states[0])
    np.testing.assert_array_equal(last.new_frames[0], image(9))
    poison = {image(n).tobytes() for n in range(5, 9)}
    assert not poison & {frame.tobytes() for frame in last.replay_frames}, "held samples never enter replay"
    row = store.read("SELECT signature, payload_sha256 FROM versions WHERE version = 2")[0]
    assert row["signature"] == b""
    assert bench.ledger.payload(row["payload_sha256"]) is None


@pytest.mark.parametrize("harmed", [(), ("somebody",)], ids=["needless", "harmful"])
def test_where_what_serves_is_worse_than_the_source_its_values_ship_and_nothing_was_learned(
    bench: Bench, store: Store, opened: Bundle, device: EnrolledDevice, harmed: tuple[str, ...]
) -> None:
    bench.gate.verdicts[2] = Verdict(
        passed=False, reason="worse", report={}, harmed=harmed, needless=not harmed, base_needless=True
    )
    upload(store, device, 1, 12)
    assert [(o.version, o.shipped) for o in bench.work()] == [(1, True), (2, True), (3, True)]
    gone = bench.ledger.history()[1]
    assert gone.reason.startswith("back to the source's values: worse")
    row = store.read("SELECT payload_sha256 FROM versions WHERE version = 2")[0]
    payload = bench.ledger.payload(row["payload_sha256"])
    assert payload is not None
    assert all((value == 0).all() for value in decode_delta(payload, opened.manifest.norm_layers).values())
    last = bench.worker.jobs[2]
    assert (last.base_version, last.state) == (2, b"")
    gone_frames = {image(n).tobytes() for n in range(5, 9)}
    assert not gone_frames & {frame.tobytes() for frame in last.replay_frames}


def test_a_newest_version_that_is_held_leaves_the_one_before_shipped(
    bench: Bench, store: Store, device: EnrolledDevice
) -> None:
    bench.gate.hold = {2}
    upload(store, device, 1, 8)
    bench.work()
    assert bench.ledger.newest_shipped()[0].version == 1


def test_a_job_that_diverges_is_held_and_does_not_block_the_next(
    bench: Bench, store: Store, device: EnrolledDevice
) -> None:
    bench.worker.fail_on = {1}
    upload(store, device, 1, 8)
    assert [(o.version, o.shipped) for o in bench.work()] == [(1, False), (2, True)]
    assert "not finite" in bench.ledger.history()[0].reason


def spoil(store: Store, *numbers: int) -> None:
    """Cut the recorded images of these samples short."""
    query = "UPDATE blobs SET data = substr(data, 2) WHERE sha256 = (SELECT sha256 FROM samples WHERE id = ?)"
    store.write(lambda db: db.executemany(query, [(number,) for number in numbers]).rowcount).result()


def test_a_sample_that_cannot_be_decoded_any_more_is_left_out_and_the_job_goes_on(
    bench: Bench, store: Store, device: EnrolledDevice, caplog: pytest.LogCaptureFixture
) -> None:
    upload(store, device, 1, 8)
    spoil(store, 2)
    assert [(o.version, o.shipped) for o in bench.work()] == [(1, True), (2, True)]
    first, second = bench.worker.jobs
    np.testing.assert_array_equal(first.new_frames, np.stack([image(n) for n in (1, 3, 4)]))
    np.testing.assert_array_equal(second.new_frames, np.stack([image(n) for n in range(5, 9)]))
    assert [entry.report.get("undecodable_samples") for entry in bench.ledger.history()] == [1.0, None]
    assert "sample 2 is passed over: a raw frame" in caplog.text


@pytest.mark.parametrize("spoilt", [(1, 2, 3), (1, 2, 3, 4)], ids=["one-left", "none-left"])
def test_a_job_of_which_too_few_are_left_is_held_and_says_why(
    bench: Bench, store: Store, device: EnrolledDevice, spoilt: tuple[int, ...]
) -> None:
    upload(store, device, 1, 8)
    spoil(store, *spoilt)
    left = 4 - len(spoilt)
    reason = f"only {left} of 4 samples can be decoded; a job needs 2"
    held = Outcome(version=1, domain=0, shipped=False, reason=reason)
    assert bench.work() == [held, Outcome(version=2, domain=0, shipped=True, reason="")]
    assert len(bench.worker.jobs) == 1
    assert bench.ledger.history()[0].report == {"undecodable_samples": 4.0 - left}


def test_with_undecodable_samples_a_retry_and_a_restart_make_the_same_versions(
    store: Store, opened: Bundle, device: EnrolledDevice, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other", bundle_digest=opened.digest)
    for record, who in ((store, device), (other, enrolled(other))):
        upload(record, who, 1, 24)
        spoil(record, 3, 9, 10, 11, 12, 20)
    whole, jobs = Bench(store, opened), list[AdaptJob]()
    whole.work()
    for _ in range(6):
        part = Bench(other, opened)
        check, executor = part.gate.check, Dying()
        died = Cohort(bundle=opened, ledger=part.ledger, executor=executor, check=check, key=KEY, config=SMALL)
        died.step()
        part.cohort.step()
        part.executor.close()
        jobs += part.worker.jobs
    assert [entry.status for entry in whole.ledger.history()] == ["shipped"] * 2 + ["held"] + ["shipped"] * 3
    for job, again in zip(whole.worker.jobs, jobs, strict=True):
        np.testing.assert_array_equal(job.new_frames, again.new_frames)
        np.testing.assert_array_equal(job.replay_frames, again.replay_frames)
    assert whole.ledger.state(6) == Ledger(other, "default").state(6) != b""
    whole.executor.close()
    other.close()


def test_samples_of_a_revoked_device_are_not_used(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    other = enrolled(store, 2)
    upload(store, device, 1, 3)
    upload(store, other, 1, 2)
    store.revoke(device.id, reason="stolen", now=6.0).result()
    assert bench.work() == []
    upload(store, other, 3, 2)
    bench.work()
    np.testing.assert_array_equal(bench.worker.jobs[0].new_frames, np.stack([image(n) for n in range(1, 5)]))


def test_only_its_own_cohort_is_worked(bench: Bench, store: Store) -> None:
    upload(store, enrolled(store, 2, cohort="north"), 1, 4)
    assert bench.work() == []


# -- restart, twice, at the same time ----------------------------------------------------------------------------------


def test_a_restarted_cloud_makes_the_same_versions(
    store: Store, opened: Bundle, device: EnrolledDevice, tmp_path: Path
) -> None:
    whole, parts = Bench(store, opened), []
    whole.gate.hold = {3}
    upload(store, device, 1, 24)
    whole.work()

    other = Store(tmp_path / "other", bundle_digest=opened.digest)
    twin = enrolled(other)
    upload(other, twin, 1, 24)
    for number in range(1, 7):
        part = Bench(other, opened)
        part.gate.hold = {1} if number == 3 else set()
        assert part.cohort.step() is not None
        part.executor.close()
        parts += part.worker.jobs
    for job, again in zip(whole.worker.jobs, parts, strict=True):
        assert (job.seed, job.base_version, job.state) == (again.seed, again.base_version, again.state)
        np.testing.assert_array_equal(job.replay_frames, again.replay_frames)
    assert whole.ledger.state(6) == Ledger(other, "default").state(6) != b""
    whole.executor.close()
    other.close()


class Dying:
    """An executor that is closed while a job waits."""

    def adapt(self, job: AdaptJob) -> Future[AdaptResult]:
        future: Future[AdaptResult] = Future()
        future.set_exception(CancelledError())
        return future

    def close(self) -> None:
        pass


def test_an_unfinished_job_is_done_again_on_the_same_samples(
    bench: Bench, store: Store, opened: Bundle, device: EnrolledDevice
) -> None:
    upload(store, device, 1, 4)
    dying = Cohort(bundle=opened, ledger=bench.ledger, executor=Dying(), check=bench.gate.check, key=KEY, config=SMALL)
    assert dying.step() is None
    store.revoke(device.id, reason="too late for a job that was begun", now=6.0).result()
    assert bench.work() == [Outcome(version=1, domain=0, shipped=True, reason="")]
    assert store.read("SELECT fencing_token FROM jobs")[0][0] == 2


@pytest.mark.parametrize(("tries", "ships"), [(MOST_TRIES - 1, True), (MOST_TRIES, False)])
def test_a_job_that_ends_with_its_process_each_time_does_not_take_the_cloud_with_it_for_ever(
    bench: Bench, store: Store, opened: Bundle, device: EnrolledDevice, tries: int, ships: bool
) -> None:
    upload(store, device, 1, 8)
    for _ in range(tries):
        executor, check = Dying(), bench.gate.check
        dying = Cohort(bundle=opened, ledger=bench.ledger, executor=executor, check=check, key=KEY, config=SMALL)
        assert dying.step() is None
    first, second = bench.work()
    assert (first.shipped, second.shipped) == (ships, True)
    assert ships or "begun 4 times, and each time its process ended" in first.reason
    assert len(bench.worker.jobs) == 1 + ships


def test_a_version_is_committed_once_however_often_its_job_is_done(
    bench: Bench, store: Store, device: EnrolledDevice
) -> None:
    upload(store, device, 1, 8)
    ledger, head = bench.ledger, bench.ledger.head()
    first = {"domain": 0, "base_version": 0, "now": 0.0, "lease_s": 10.0}
    slow = ledger.claim(head, [1, 2, 3, 4], **first).result()
    assert slow is not None
    assert ledger.claim(head, [5, 6, 7, 8], **first).result() is None, "a job is open on this head"
    assert ledger.resume(head, now=9.0, lease_s=10.0).result() is None, "the lease still runs"
    fast = ledger.resume(head, now=11.0, lease_s=10.0).result()
    assert fast is not None
    assert fast.fencing_token > slow.fencing_token
    assert ledger.commit(slow, NOTHING, now=12.0).result() is False, "fenced off"
    assert ledger.commit(fast, NOTHING, now=12.0).result() is True
    assert ledger.commit(fast, NOTHING, now=12.0).result() is False, "once"
    assert ledger.claim(head, [5, 6, 7, 8], **first).result() is None, "the head moved on"
    assert ledger.resume(head, now=99.0, lease_s=10.0).result() is None, "the head moved on"
    moved = ledger.head()
    assert ledger.claim(moved, [4, 5, 6, 7], **first).result() is None, "one of them was taken"
    assert ledger.claim(moved, [5, 6, 7, 99], **first).result() is None, "one of them does not exist"
    assert ledger.claim(moved, [5, 6, 7, 8], **{**first, "domain": 1}).result() is None, "of another domain"
    assert ledger.claim(moved, [], **first).result() is None
    assert [entry.version for entry in ledger.history()] == [1]


def test_two_workers_at_once_make_each_version_once(store: Store, opened: Bundle, device: EnrolledDevice) -> None:
    upload(store, device, 1, 40)
    benches = [Bench(store, opened) for _ in range(3)]
    threads = [threading.Thread(target=bench.work) for bench in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for bench in benches:
        bench.work()
        bench.executor.close()
    versions = [outcome.version for bench in benches for outcome in bench.outcomes]
    assert sorted(versions) == list(range(1, 11))
    states = [job.state for job in sorted((j for b in benches for j in b.worker.jobs), key=lambda j: j.base_version)]
    assert states[0] == b""


def test_the_thread_works_whenever_it_is_poked(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    bench.cohort.start()
    upload(store, device, 1, 4)
    bench.cohort.poke()
    until(lambda: len(bench.outcomes) == 1, "the first version")
    upload(store, device, 5, 4)
    bench.cohort.poke()
    until(lambda: len(bench.outcomes) == 2, "the second version")
    bench.cohort.stop()
    bench.cohort.stop()


def test_a_failing_record_stops_nothing_for_good(bench: Bench, store: Store, device: EnrolledDevice) -> None:
    upload(store, device, 1, 4)
    store.write(lambda db: db.execute("PRAGMA query_only = ON").fetchall()).result()
    with pytest.raises(StorageError):
        bench.cohort.step()
    store.close()
    again = Store(store.path.parent, bundle_digest=None)
    bench.ledger.store = again
    assert bench.work() == [Outcome(version=1, domain=0, shipped=True, reason="")]
    again.close()


def test_a_record_that_fails_while_a_version_is_judged_costs_no_samples(
    bench: Bench, store: Store, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(version: int) -> bytes:
        raise StorageError("the record cannot be read")

    upload(store, device, 1, 4)
    with monkeypatch.context() as broken:
        broken.setattr(bench.ledger, "payload_of", fail)
        with pytest.raises(StorageError):
            bench.cohort.step()
    assert bench.ledger.head().version == 0
    assert bench.work() == [Outcome(version=1, domain=0, shipped=True, reason="")]


@pytest.mark.parametrize("error", [IndexError, KeyError, TypeError, MemoryError])
def test_a_job_that_fails_in_whatever_way_is_held_and_does_not_stop_the_cohort_for_good(
    bench: Bench, store: Store, device: EnrolledDevice, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    adapt, first = bench.worker.adapt, list[bytes]()

    def fail_on_the_first(job: AdaptJob) -> AdaptResult:
        first[:] = first or [job.new_frames.tobytes()]
        if job.new_frames.tobytes() == first[0]:
            raise error("not this job")
        return adapt(job)

    monkeypatch.setattr(bench.worker, "adapt", fail_on_the_first)
    upload(store, device, 1, 8)
    outcomes = bench.work()
    assert [outcome.shipped for outcome in outcomes] == [False, True]
    assert "not this job" in outcomes[0].reason
