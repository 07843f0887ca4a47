"""A chain of versions for each domain: nothing is lost, taken twice or mixed, whatever happens; and re-issues."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cloud_peer import SMALL, FakeGate, FakeWorker, enrolled, fingerprint, image, sample, scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from littoral.bundle import Bundle, SigningKey
from littoral.cloud.cohort import Cohort, Outcome
from littoral.cloud.domains import DomainConfig, DomainRule
from littoral.cloud.executors import InlineExecutor
from littoral.cloud.jobs import AdaptConfig, AdaptJob, AdaptResult
from littoral.cloud.ledger import Ledger
from littoral.cloud.reissue import forgotten, pass_over, reissue
from littoral.cloud.store import EnrolledDevice, Store
from littoral.cloud.witnesses import WitnessConfig

KEY = SigningKey(b"c" * 32)
INTERVAL_S = DomainConfig().reissue_interval_s


class Rig:
    """A cohort over a record; `send` numbers the messages of each device."""

    def __init__(
        self, store: Store, bundle: Bundle, *, config: AdaptConfig = SMALL, domains: DomainConfig | None = None
    ) -> None:
        self.witnesses = WitnessConfig(frames=4, min_frames=2)
        self.store, self.bundle, self.config, self.domains = store, bundle, config, domains
        self.ledger = Ledger(store, "default")
        self.worker, self.gate = FakeWorker(), FakeGate()
        self.sequence: Counter[str] = Counter()
        self.scenes: Counter[str] = Counter()
        self.now = 100.0
        self.restart()

    def restart(self) -> None:
        self.executor = InlineExecutor(self.worker)
        self.cohort = self.make(self.executor)

    def make(self, executor: object) -> Cohort:
        return Cohort(
            bundle=self.bundle,
            ledger=self.ledger,
            executor=executor,  # type: ignore[arg-type]
            check=self.gate.check,
            key=KEY,
            config=self.config,
            domains=self.domains,
            witnesses=self.witnesses,
            clock=lambda: self.now,
        )

    def enter(self, device: EnrolledDevice, world: int, *, version: int = 0, highest: int = 0) -> None:
        """The device tells of a new scene."""
        self.scenes[device.id] += 1
        self.sequence[device.id] += 1
        message = scene(self.scenes[device.id], world, version=version)
        entries = [(self.sequence[device.id], message)]
        self.store.record(device.id, 7, entries, now=5.0, highest_version=highest).result()

    def send(self, device: EnrolledDevice, count: int = 4, *, number: int | None = None) -> None:
        """The device sends samples of its newest scene."""
        entries = []
        for _ in range(count):
            self.sequence[device.id] += 1
            n = self.sequence[device.id]
            entries.append((n, sample(n if number is None else number, scene=self.scenes[device.id])))
        self.store.record(device.id, 7, entries, now=5.0).result()

    def work(self) -> list[Outcome]:
        return list(iter(self.cohort.step, None))

    def manifest(self, domain: int) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.ledger.newest_shipped()[domain].signed.manifest)
        return found


@pytest.fixture
def rig(store: Store, opened: Bundle) -> Iterator[Rig]:
    rig = Rig(store, opened)
    yield rig
    rig.executor.close()


def shipped(version: int, domain: int) -> Outcome:
    return Outcome(version=version, domain=domain, shipped=True, reason="")


# -- chains ------------------------------------------------------------------------------------------------------------


def test_each_domain_has_its_own_chain_and_numbers_grow_over_all(rig: Rig, device: EnrolledDevice) -> None:
    other = enrolled(rig.store, 2)
    rig.enter(device, 1)
    rig.enter(other, 2)
    for _ in range(2):
        rig.send(device)
        rig.send(other)
    assert rig.work() == [shipped(1, 1), shipped(2, 2), shipped(3, 1), shipped(4, 2)]
    bases = [(job.base_version, job.state) for job in rig.worker.jobs]
    first, second = rig.worker.states[:2]
    assert bases == [(0, b""), (1, first), (1, first), (2, second)]
    assert {domain: s.version for domain, s in rig.ledger.newest_shipped().items()} == {1: 3, 2: 4}
    assert (rig.manifest(1)["domain"], rig.manifest(1)["fingerprint"]) == (1, fingerprint(1).hex())
    assert (rig.manifest(2)["domain"], rig.manifest(2)["fingerprint"]) == (2, fingerprint(2).hex())
    assert rig.gate.bases == [b"", *(rig.ledger.payload_of(version) for version in (1, 1, 2))]


def test_before_a_first_scene_everything_is_of_domain_0_and_its_manifests_say_so(
    rig: Rig, device: EnrolledDevice
) -> None:
    rig.send(device)
    assert rig.work() == [shipped(1, 0)]
    assert (rig.manifest(0)["domain"], rig.manifest(0)["fingerprint"]) == (0, "")


def test_a_batch_is_never_made_of_two_domains(rig: Rig, device: EnrolledDevice) -> None:
    for world in range(4):
        rig.enter(device, world)
        rig.send(device, 3)
    assert rig.work() == []
    rig.enter(device, 2)
    rig.send(device, 1)
    assert rig.work() == [shipped(1, 3)]


def test_a_held_version_holds_up_its_own_domain_only(rig: Rig, device: EnrolledDevice) -> None:
    rig.gate.hold = {2}
    rig.enter(device, 1)
    rig.send(device)
    rig.enter(device, 2)
    rig.send(device)
    rig.enter(device, 1)
    rig.send(device)
    rig.enter(device, 2)
    rig.send(device)
    assert [(o.version, o.domain, o.shipped) for o in rig.work()] == [
        (1, 1, True),
        (2, 2, False),
        (3, 1, True),
        (4, 2, True),
    ]
    assert [job.base_version for job in rig.worker.jobs] == [0, 1, 1, 3], "a held version is nobody's base"


def test_a_new_domain_may_start_from_the_nearest_ones_newest(
    store: Store, opened: Bundle, device: EnrolledDevice
) -> None:
    rig = Rig(store, opened, domains=DomainConfig(start="nearest"))
    for world in (1, 9, 3, 3):
        rig.enter(device, world)
        rig.send(device)
    rig.work()
    assert [job.base_version for job in rig.worker.jobs] == [0, 1, 1, 3]
    assert rig.worker.jobs[2].state == rig.ledger.state(1)
    assert rig.gate.bases[2] == rig.ledger.payload_of(1)
    rig.executor.close()


@pytest.mark.parametrize(("replay", "num_domains"), [("all", 2), ("own", 1)])
def test_replay_is_of_all_domains_or_of_the_jobs_own(
    store: Store, opened: Bundle, device: EnrolledDevice, replay: str, num_domains: int
) -> None:
    config = replace(SMALL, replay_after=4, replay_ratio=2)
    rig = Rig(store, opened, config=config, domains=DomainConfig(replay=replay))  # type: ignore[arg-type]
    for world in (1, 2, 1):
        rig.enter(device, world)
        rig.send(device, number=world)
    rig.work()
    kinds = {frame.tobytes() for frame in rig.worker.jobs[2].replay_frames}
    assert kinds == {image(world).tobytes() for world in (1, 2)[:num_domains]}
    rig.executor.close()


def test_a_job_learns_from_every_device_and_the_gate_sees_frames_of_each(rig: Rig, device: EnrolledDevice) -> None:
    quiet = enrolled(rig.store, 2)
    rig.enter(device, 1)
    rig.enter(quiet, 1)
    rig.send(quiet, 4, number=2)
    rig.work()
    rig.send(device, 40, number=1)
    rig.send(quiet, 2, number=2)
    rig.work()
    first = rig.worker.jobs[1].new_frames
    assert sum(np.array_equal(frame, image(2)) for frame in first) == 2, "it did not wait behind forty"
    assert rig.gate.witnesses[0] == {}, "nothing was kept yet"
    seen = {name: {frame.tobytes() for frame in frames} for name, frames in rig.gate.witnesses[2].items()}
    assert seen == {device.id: {image(1).tobytes()}, quiet.id: {image(2).tobytes()}}, "each its own"


def test_the_gate_sees_frames_of_the_jobs_own_domain_only(rig: Rig, device: EnrolledDevice) -> None:
    near, far = enrolled(rig.store, 2), enrolled(rig.store, 3)
    for number, (who, world) in enumerate(((near, 1), (far, 2), (device, 1)), 1):
        rig.enter(who, world)
        rig.send(who, number=number)
        rig.work()
    seen = [{name: {f.tobytes() for f in frames} for name, frames in w.items()} for w in rig.gate.witnesses]
    assert seen == [{}, {}, {near.id: {image(1).tobytes()}}]


def test_revoking_withdraws_what_waits_in_every_domain(rig: Rig, device: EnrolledDevice) -> None:
    other = enrolled(rig.store, 2)
    rig.send(device)
    assert rig.work() == [shipped(1, 0)]
    for world in (1, 2):
        rig.enter(device, world)
        rig.send(device, 3)
    rig.enter(other, 1)
    rig.send(other, 3)
    rig.store.revoke(device.id, reason="stolen", now=6.0).result()
    assert rig.work() == []
    rig.send(other, 1)
    assert rig.work() == [shipped(2, 1)]
    withdrawn = rig.store.read("SELECT count(*), count(job) FROM samples WHERE withdrawn = 1")[0]
    assert tuple(withdrawn) == (6, 0), "all that waited, and nothing that a job had taken"


# -- faults ------------------------------------------------------------------------------------------------------------


class Dying:
    """An executor that is closed while a job waits."""

    def adapt(self, job: AdaptJob) -> Future[AdaptResult]:
        future: Future[AdaptResult] = Future()
        future.set_exception(CancelledError())
        return future


def check_record(rig: Rig) -> None:
    """What must hold at any moment: chains are chains, and every sample waits, is withdrawn, or is of one job."""
    for row in rig.store.read("SELECT * FROM jobs"):
        rows = rig.store.read("SELECT DISTINCT domain FROM samples WHERE job = ?", row["id"])
        assert [found["domain"] for found in rows] == [row["domain"]], "a job is of one domain"
        assert len(rig.ledger.samples(row["id"])) == row["num_samples"]
    newest: dict[int, int] = {}
    history = rig.ledger.history()
    assert [entry.version for entry in history] == list(range(1, len(history) + 1))
    for entry in history:
        if entry.job is not None:
            own = newest.get(entry.domain)
            bases = {0, *newest.values()} if own is None else {own}
            assert entry.base_version in bases, "from its own domain's newest; a domain's first may be from another's"
        if entry.status == "shipped":
            newest[entry.domain] = entry.version
    assert {d: s.version for d, s in rig.ledger.newest_shipped().items()} == newest
    jobs = [entry.job for entry in history if entry.job is not None]
    assert len(set(jobs)) == len(jobs)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(
        st.sampled_from(
            ["enter", "send", "send", "send", "step", "step", "die", "restart", "hold", "take-over", "revoke"]
        ),
        min_size=5,
        max_size=60,
    ),
    seed=st.integers(0, 999),
)
def test_whatever_happens_nothing_is_lost_taken_twice_or_mixed(
    tmp_path_factory: pytest.TempPathFactory, opened: Bundle, events: list[str], seed: int
) -> None:
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("record")
    store = Store(folder, bundle_digest=opened.digest, rule=DomainRule.of(opened.manifest))
    config = replace(SMALL, max_batches_per_job=3)
    rig = Rig(store, opened, config=config)
    devices = [enrolled(store, n) for n in range(1, 5)]
    sent = 0
    for event in events:
        device = rng.choice(devices)
        if event == "enter":
            rig.enter(device, rng.randrange(4), version=rng.randrange(4), highest=rng.randrange(9))
        elif event == "send":
            count = rng.randrange(1, 9)
            rig.send(device, count)
            sent += count
        elif event == "step":
            rig.cohort.step()
        elif event == "die":
            rig.make(Dying()).step()
        elif event == "restart":
            rig.executor.close()
            rig.restart()
        elif event == "hold":
            rig.gate.hold.add(rig.gate.calls + 1)
        elif event == "take-over":
            head = rig.ledger.head()
            rig.ledger.resume(head, now=100.0, lease_s=1.0, take_over=True).result()
        elif event == "revoke" and len(devices) > 1:
            devices.remove(device)
            rig.store.revoke(device.id, reason="", now=6.0).result()
        check_record(rig)
    rig.work()
    rig.now += INTERVAL_S
    rig.work()
    check_record(rig)
    left = rig.ledger.head().waiting
    assert all(domain.num_samples < config.batch_size for domain in left), "everything that makes a batch was worked"
    count = "SELECT count(*) FROM samples WHERE withdrawn = 1 OR job IS NOT NULL"
    assert store.read(count)[0][0] + sum(domain.num_samples for domain in left) == sent
    assert forgotten(rig.ledger, now=rig.now, interval_s=0.0) == []
    rig.executor.close()
    store.close()


def test_a_restarted_cohort_makes_the_same_versions_of_interleaved_domains(
    store: Store, opened: Bundle, device: EnrolledDevice, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other", bundle_digest=opened.digest, rule=DomainRule.of(opened.manifest))
    rigs = [Rig(store, opened), Rig(other, opened)]
    for rig, one in zip(rigs, (device, enrolled(other)), strict=True):
        two = enrolled(rig.store, 2)
        for world in (1, 2, 1, 3, 2, 1):
            for who in (one, two):
                rig.enter(who, world)
                rig.send(who, 3)
    whole, parts = rigs
    whole.work()
    while parts.cohort.step() is not None:
        parts.executor.close()
        parts.restart()
        parts.make(Dying()).step()
    history = [[(e.version, e.domain, e.base_version) for e in rig.ledger.history()] for rig in rigs]
    assert history[0] == history[1]
    assert len(history[0]) >= 6
    for version, _, _ in history[0]:
        assert whole.ledger.state(version) == parts.ledger.state(version)
    for rig in rigs:
        rig.executor.close()
    other.close()


# -- re-issues ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def day_and_night(rig: Rig, device: EnrolledDevice) -> Rig:
    """Version 1 is of the day (world 1, domain 1), version 2 of the night (world 2, domain 2)."""
    for world in (1, 2):
        rig.enter(device, world, version=world - 1, highest=world - 1)
        rig.send(device)
        rig.work()
    return rig


def test_a_device_that_does_not_remember_a_domain_gets_its_newest_again_under_a_new_number(
    day_and_night: Rig, device: EnrolledDevice
) -> None:
    rig = day_and_night
    rig.enter(device, 1, version=2, highest=2)
    assert rig.work() == [Outcome(version=3, domain=1, shipped=True, reason="re-issued for domain 1")]
    newest = rig.ledger.newest_shipped()[1]
    assert newest.version == 3
    assert newest.signed.payload == rig.ledger.payload_of(1)
    assert rig.manifest(1)["version"] == 3
    assert KEY.public.verifies("version", newest.signed.manifest, newest.signed.signature)
    assert rig.ledger.state(3) == rig.ledger.state(1) != b""
    entry = rig.ledger.history()[-1]
    assert (entry.base_version, entry.job, entry.num_samples, entry.status) == (1, None, 0, "shipped")
    assert rig.work() == [], "once"
    rig.send(device)
    assert rig.work() == [shipped(4, 1)]
    assert (rig.worker.jobs[-1].base_version, rig.worker.jobs[-1].state) == (3, rig.worker.states[0])


def test_a_reissue_of_a_reissue_points_at_what_a_job_made(day_and_night: Rig, device: EnrolledDevice) -> None:
    rig = day_and_night
    for highest, world in ((2, 1), (3, 2), (4, 1)):
        rig.enter(device, world, version=0, highest=highest)
        rig.work()
        rig.now += INTERVAL_S
    assert [(e.version, e.domain, e.base_version) for e in rig.ledger.history()[2:]] == [
        (3, 1, 1),
        (4, 2, 2),
        (5, 1, 1),
    ]
    assert rig.ledger.state(5) == rig.ledger.state(1)
    rig.restart()
    rig.send(device)
    assert rig.work() == [shipped(6, 1)], "replay is filled from what jobs took"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"world": 1, "version": 1, "highest": 2}, "it recalled the version itself", id="remembered"),
        pytest.param({"world": 1, "version": 0, "highest": 0}, "the newest is above all that it has seen", id="newer"),
        pytest.param({"world": 5, "version": 2, "highest": 2}, "the domain is new", id="new-domain"),
        pytest.param({"world": 2, "version": 2, "highest": 2}, "it runs it", id="same-domain"),
    ],
)
def test_no_version_is_issued_again_without_need(
    day_and_night: Rig, device: EnrolledDevice, changes: dict[str, int], why: str
) -> None:
    day_and_night.enter(device, **changes)
    assert day_and_night.work() == [], why


def test_a_device_of_another_cohort_causes_none(day_and_night: Rig) -> None:
    stranger = enrolled(day_and_night.store, 9, cohort="north")
    day_and_night.enter(stranger, 1, version=2, highest=2)
    assert day_and_night.work() == []


def test_one_reissue_serves_all_devices_that_need_it(day_and_night: Rig, device: EnrolledDevice) -> None:
    rig = day_and_night
    for number in range(2, 6):
        rig.enter(enrolled(rig.store, number), 1, version=2, highest=2)
    assert [outcome.version for outcome in rig.work()] == [3]


def test_a_device_that_has_left_again_or_was_revoked_causes_none(day_and_night: Rig, device: EnrolledDevice) -> None:
    rig, other = day_and_night, enrolled(day_and_night.store, 2)
    rig.enter(device, 1, version=2, highest=2)
    rig.enter(device, 2, version=2, highest=2)
    rig.enter(other, 1, version=2, highest=2)
    rig.store.revoke(other.id, reason="stolen", now=6.0).result()
    assert rig.work() == []


def test_a_device_that_claims_to_have_seen_everything_causes_one_reissue_and_no_more(
    day_and_night: Rig, device: EnrolledDevice
) -> None:
    """Else its claim would be above every number that there can be, and the cohort would do nothing else."""
    rig = day_and_night
    rig.enter(device, 1, version=99, highest=2**63 - 1)
    assert [outcome.version for outcome in rig.work()] == [3]
    rig.store.write(lambda db: db.execute("UPDATE scenes SET highest_version = ?", (2**63 - 1,))).result()
    for _ in range(3):
        rig.now += INTERVAL_S
        assert rig.cohort.step() is not None, "the negative control: without the bound"


def alternate(rig: Rig, device: EnrolledDevice, scenes: int = 20) -> int:
    """A device that opens scenes in two domains by turns and claims to remember none; how many versions that cost."""
    before = rig.ledger.head().version
    for number in range(scenes):
        rig.enter(device, 1 + number % 2, version=0, highest=2**63 - 1)
        rig.work()
    return rig.ledger.head().version - before


def test_a_device_that_calls_for_a_reissue_with_every_scene_gets_one_for_each_interval(
    store: Store, day_and_night: Rig, device: EnrolledDevice, opened: Bundle
) -> None:
    rig = day_and_night
    assert alternate(rig, device) == 2, "each domain at once, and then no more"
    rig.now += INTERVAL_S - 1
    assert alternate(rig, device) == 0
    rig.now += 1
    assert alternate(rig, device) == 2
    free = Rig(store, opened, domains=DomainConfig(reissue_interval_s=0.0))
    free.scenes, free.sequence = rig.scenes, rig.sequence
    assert alternate(free, device) == 20, "the negative control: without the limit"
    free.executor.close()


def test_whoever_needs_a_reissue_within_the_interval_gets_it_afterwards_also_from_a_restarted_cloud(
    day_and_night: Rig, device: EnrolledDevice
) -> None:
    rig, other = day_and_night, enrolled(day_and_night.store, 2)
    rig.enter(device, 1, version=2, highest=2)
    assert [outcome.version for outcome in rig.work()] == [3]
    rig.enter(other, 1, version=2, highest=3)
    rig.restart()
    assert rig.work() == []
    rig.now += INTERVAL_S
    assert [outcome.version for outcome in rig.work()] == [4]
    assert rig.work() == []


def test_a_version_that_a_job_made_is_issued_again_at_once(day_and_night: Rig, device: EnrolledDevice) -> None:
    rig, other = day_and_night, enrolled(day_and_night.store, 2)
    rig.enter(device, 1, version=2, highest=2)
    rig.send(device)
    assert [outcome.version for outcome in rig.work()] == [3, 4]
    rig.enter(other, 1, version=2, highest=4)
    assert rig.work() == [Outcome(version=5, domain=1, shipped=True, reason="re-issued for domain 1")]


def test_a_clock_that_was_set_back_keeps_no_reissue_from_a_device(day_and_night: Rig, device: EnrolledDevice) -> None:
    rig = day_and_night
    rig.now += 1e6
    assert alternate(rig, device) == 2
    rig.now -= 1e6
    assert alternate(rig, device) == 2


def test_a_reissue_waits_for_an_open_job_and_then_goes_first(day_and_night: Rig, device: EnrolledDevice) -> None:
    rig = day_and_night
    rig.send(device, 8)
    rig.make(Dying()).step()
    head = rig.ledger.head()
    assert head.open_job is not None
    rig.enter(device, 1, version=2, highest=2)
    sign = rig.cohort._sign
    assert reissue(rig.ledger, head, 1, sign=sign, now=1.0).result() is False, "never beside an open job"
    assert [(o.version, o.domain) for o in rig.work()] == [(3, 2), (4, 1), (5, 2)]
    assert reissue(rig.ledger, head, 1, sign=sign, now=1.0).result() is False, "the head moved on"


def test_a_need_that_was_there_when_the_cloud_died_is_met_after_its_restart(
    day_and_night: Rig, device: EnrolledDevice
) -> None:
    rig = day_and_night
    rig.enter(device, 1, version=2, highest=2)
    rig.store.close()
    rig.store = Store(rig.store.path.parent, bundle_digest=None, rule=rig.store.rule)
    rig.ledger.store = rig.store
    rig.restart()
    assert [outcome.version for outcome in rig.work()] == [3]
    rig.store.close()


# -- a record that is older than its devices ---------------------------------------------------------------------------


def test_numbers_that_devices_have_seen_are_passed_over(rig: Rig, device: EnrolledDevice) -> None:
    rig.enter(device, 1)
    rig.send(device)
    assert rig.work() == [shipped(1, 1)]
    assert pass_over(rig.ledger, 58, now=6.0).result()
    assert not pass_over(rig.ledger, 58, now=6.0).result(), "once"
    assert not pass_over(rig.ledger, 3, now=6.0).result(), "and never back"
    assert {domain: s.version for domain, s in rig.ledger.newest_shipped().items()} == {1: 1}
    rig.send(device)
    assert rig.work() == [shipped(58, 1)]
    assert (rig.worker.jobs[-1].base_version, rig.worker.jobs[-1].state) == (1, rig.worker.states[0])
    assert [(e.version, e.status) for e in rig.ledger.history()] == [(1, "shipped"), (57, "held"), (58, "shipped")]
    rig.restart()
    rig.send(device)
    assert rig.work() == [shipped(59, 1)]


def test_a_job_that_was_begun_is_done_under_the_higher_number(rig: Rig, device: EnrolledDevice) -> None:
    rig.enter(device, 1)
    rig.send(device)
    assert rig.cohort._claim(rig.ledger.head()) is not None
    assert pass_over(rig.ledger, 9, now=6.0).result()
    rig.restart()
    assert rig.work() == [shipped(9, 1)]


@pytest.mark.parametrize("first", [0, -1, 2**53 + 1])
def test_a_number_that_cannot_be_is_refused(rig: Rig, first: int) -> None:
    with pytest.raises(ValueError, match="the first version is 1 to"):
        pass_over(rig.ledger, first, now=6.0)
