"""A cohort's loop: when enough samples of a domain wait, make its next version of them, gate it, sign it, commit it.

Nothing is remembered here that the record does not hold: the replay memory is filled again from recorded samples, in
their order, and a job that was begun and not finished is done again with the same result. Samples of a version that was
held back are consumed and never enter replay; a sample that cannot be decoded any more is left out of both. The image
of a sample that neither waits nor is kept for replay is given up. What the teacher answered goes back to the devices
once its version is committed, and only where that is shipped.

A version that costs other devices of its domain too much is made again without the frames of whoever may have caused
it (`littoral.cloud.witnesses`); who is blamed too often is quarantined together with the version that shows it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from littoral.bundle import Bundle, SignedVersion, SigningKey
from littoral.cloud.domains import DomainConfig, start_version
from littoral.cloud.evidence import MIN_FRAMES, Evidence, call_witnesses, make_job
from littoral.cloud.executors import Executor
from littoral.cloud.jobs import AdaptConfig, AdaptJob, AdaptResult
from littoral.cloud.labels import LabelOf
from littoral.cloud.ledger import Claim, Head, Ledger, NewVersion, StoredSample
from littoral.cloud.memory import ReplayMemory, decode_all
from littoral.cloud.reissue import forgotten, reissue
from littoral.cloud.repeats import Repeats
from littoral.cloud.retention import begin_replay, drop_idle_states, drop_images, idle_images
from littoral.cloud.roll_back import sign_version, source_payload
from littoral.cloud.shares import newest_by_turns, oldest_by_turns, plan
from littoral.cloud.verdicts import (
    BLAMED,
    LEFT_OUT,
    back,
    blaming,
    held,
    named,
    quarantining,
    shipped,
)
from littoral.cloud.witnesses import WitnessConfig, outvoted, suspects_of, too_often
from littoral.core.arrays import Frame
from littoral.core.recall import fingerprint_layer
from littoral.core.sample_labels import sample_key
from littoral.errors import LittoralError, StorageError

if TYPE_CHECKING:
    from littoral.cloud.gate import Verdict

LEASE_S = 600.0
RETRY_S = 5.0
"""How long the loop waits after the record failed, and between looks at another worker's lease."""

MOST_TRIES = 4
"""So often a job is begun; one that always ends with its process must not take the cloud with it for ever."""

_OF_THE_JOB = (LittoralError, ValueError, ArithmeticError, RuntimeError, LookupError, TypeError, MemoryError)
"""What adapting and judging raise: torch the fourth, a network that does not fit its bundle any of the others."""

_NOTHING_MADE = AdaptResult(state=b"", payload=b"", report={})
log = logging.getLogger(__name__)


class Check(Protocol):
    """The gate, called right after the job that made the payload: `littoral.cloud.gate.Gate.check`, or a stand-in."""

    def __call__(
        self, payload: bytes, *, recent_frames: Frame, witnesses: Mapping[str, Frame], base_payload: bytes
    ) -> Verdict:
        """Judge a version against the one that it was made from, also on frames of other devices."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the loop did: version ``version`` of a domain was shipped, or held for ``reason``."""

    version: int
    domain: int
    shipped: bool
    reason: str
    quarantined: tuple[str, ...] = ()
    """Devices that were put apart together with it."""


class Cohort:
    """Works one cohort's samples off. `step` does one job; `start` runs steps in a thread whenever `poke` is called.

    Args:
        domains: Where a domain's versions begin, and what is replayed.
        witnesses: How devices of a domain vouch for its versions.
        on_version: Called after each commit, from the cohort's thread.
        on_labels: Likewise, after it, with the teacher's answers.
        clock: Seconds since the epoch.
        sole_worker: Nobody else works on this record (the cloud locks its state folder), so an open job is one that a
            worker left when it died and need not wait for its lease.
        keep_images: Whether the record keeps images that no job and no replay needs any more.
    """

    def __init__(
        self,
        *,
        bundle: Bundle,
        ledger: Ledger,
        executor: Executor,
        check: Check,
        key: SigningKey,
        config: AdaptConfig,
        domains: DomainConfig | None = None,
        witnesses: WitnessConfig | None = None,
        on_version: Callable[[Outcome], None] = lambda outcome: None,
        on_labels: Callable[[list[LabelOf]], None] = lambda labels: None,
        clock: Callable[[], float] = time.time,
        sole_worker: bool = True,
        keep_images: bool = False,
    ) -> None:
        self._bundle, self._ledger, self._executor, self._check = bundle, ledger, executor, check
        self._key, self._config, self._clock = key, config, clock
        self._on_version, self._on_labels = on_version, on_labels
        self._domains, self._witnesses = domains or DomainConfig(), witnesses or WitnessConfig()
        self._replay: ReplayMemory | None = None
        self._keep_images = keep_images
        self._held: Claim | None = None
        self._sole_worker = sole_worker
        self._wake, self._stop = threading.Event(), threading.Event()
        self._said = Repeats()
        self._thread: threading.Thread | None = None

    # -- the thread --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run steps in a thread, the first at once."""
        self._wake.set()
        self._thread = threading.Thread(target=self._run, name="littoral-cohort", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        """New samples may be waiting."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the step that runs and stop. Idempotent."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(RETRY_S)
            self._wake.clear()
            try:
                while not self._stop.is_set() and self.step() is not None:
                    pass
                self._said.over("step")
            except Exception as error:
                if (more := self._said.news("step", str(error))) is not None:
                    unexpected = not isinstance(error, StorageError)
                    told = f"a step failed ({error})" if unexpected else str(error)
                    text = "cohort %s: %s; trying again every %g s%s"
                    log.error(text, self._ledger.cohort, told, RETRY_S, more, exc_info=unexpected)
                self._stop.wait(RETRY_S)

    # -- one job -----------------------------------------------------------------------------------------------------

    def step(self) -> Outcome | None:
        """Do one job, or re-issue one version, if there is something to do and no other worker does it; else None.

        Raises:
            StorageError: the record failed; nothing was committed.
        """
        head = self._ledger.head()
        if head.open_job is not None:
            claim = self._held  # what failed here is tried again under the same claim, which counts as one try
            if claim is None or (claim.job, claim.head_version) != (head.open_job, head.version):
                now, take_over = self._clock(), self._sole_worker
                claim = self._ledger.resume(head, now=now, lease_s=LEASE_S, take_over=take_over).result()
            return None if claim is None else self._work(claim)
        interval_s = self._domains.reissue_interval_s
        for domain in forgotten(self._ledger, now=self._clock(), interval_s=interval_s):
            if domain in head.shipped:
                return self._reissue(head, domain)
        claim = self._claim(head)
        return None if claim is None else self._work(claim)

    def _claim(self, head: Head) -> Claim | None:
        take = plan(head.waiting, self._config)
        if take is None:
            return None
        waiting = self._ledger.waiting(take.domain, per_device=take.num_samples)
        return self._ledger.claim(
            head,
            oldest_by_turns(waiting, take.num_samples),
            domain=take.domain,
            base_version=self._base_version(head, take.domain),
            now=self._clock(),
            lease_s=LEASE_S,
        ).result()

    def _base_version(self, head: Head, domain: int) -> int:
        """The newest shipped version of the domain; where it has none yet or begins afresh, what the policy says."""
        layer = fingerprint_layer(self._bundle.manifest.norm_layers)
        if layer is None:
            return head.shipped.get(domain, 0)
        return start_version(domain, self._ledger.domains(), head.shipped, config=self._domains, eps=layer.eps)

    def _reissue(self, head: Head, domain: int) -> Outcome | None:
        if not reissue(self._ledger, head, domain, sign=self._sign, now=self._clock()).result():
            return None
        reason = f"re-issued for domain {domain}"
        return self._tell(Outcome(version=head.version + 1, domain=domain, shipped=True, reason=reason))

    def _work(self, claim: Claim) -> Outcome | None:
        self._held = claim
        replay, spec = self._memory(), self._bundle.manifest.input
        taken, given_up = self._ledger.samples(claim.job), claim.fencing_token > MOST_TRIES
        stored, frames = decode_all([] if given_up else taken, spec)
        newest = newest_by_turns([sample.device_id for sample in stored], self._config.batch_size)
        if given_up:
            reason = f"the job was begun {MOST_TRIES} times, and each time its process ended before it was done"
            new: NewVersion | None = held(reason, _NOTHING_MADE, {})
        elif len(stored) < MIN_FRAMES:
            reason = f"only {len(stored)} of {claim.num_samples} samples can be decoded; a job needs {MIN_FRAMES}"
            new = held(reason, _NOTHING_MADE, {})
        else:
            new = self._judged(Evidence(claim=claim, stored=stored, frames=frames, newest=newest, replay=replay))
        if new is None:
            return None
        lost = [sample for sample in taken if sample not in stored]
        if lost and not given_up:
            new = replace(new, report={**new.report, "undecodable_samples": float(len(lost))})
        passed_over = [sample.id for sample in lost]
        committed = self._ledger.commit(claim, new, passed_over=passed_over, now=self._clock()).result()
        self._held = None
        if not committed:
            return None
        idle = replay.remember(stored, frames, claim.domain, new)
        self._drop_images([*idle, *(sample.sha256 for sample in lost)], replay)
        outcome = self._tell(
            Outcome(
                version=claim.head_version + 1,
                domain=claim.domain,
                shipped=new.status == "shipped",
                reason=new.reason,
                quarantined=new.quarantined,
            )
        )
        if outcome.shipped:
            taught = [stored[i] for i in newest if stored[i].device_id not in named(new, LEFT_OUT)]
            self._on_labels(_labels_of(taught, new.labels))
        return outcome

    def _judged(self, evidence: Evidence) -> NewVersion | None:
        """The job's version; where the gate holds it, the one without the frames of whoever that comes from."""
        job = self._job(evidence)
        assert job is not None
        witnesses = call_witnesses(evidence, self._witnesses, seed=self._config.seed)
        new, verdict = self._make(evidence.claim, job, witnesses)
        if new is None or verdict is None or verdict.passed:
            return new
        if not verdict.needless:
            new = self._without_harm(evidence, job, witnesses, new, verdict)
        if new is not None and new.status == "held" and verdict.base_needless:
            return self._back(evidence.claim, new)
        return new

    def _without_harm(
        self, evidence: Evidence, job: AdaptJob, witnesses: Mapping[str, Frame], new: NewVersion, verdict: Verdict
    ) -> NewVersion | None:
        """In place of a version that harms somebody, or is refused, one that does not, and who is to blame."""
        config, devices = self._witnesses, evidence.devices
        harmed, kept = set(verdict.harmed), evidence.replay.buffer.by_device(domain=evidence.claim.domain)
        if new.status == "shipped":
            return self._blame(new, harmed, f"outvoted by the other devices: {verdict.reason}")
        if len({*devices, *kept}) < 2:
            return new  # a device alone is nobody's harm
        for suspect in suspects_of(devices, kept, num_replayed=len(job.replay_frames), config=config):
            if harmed and harmed <= {suspect}:
                continue  # a version that nobody else is harmed by must not ship for want of its witness
            without = self._job(evidence, without=suspect)
            if without is None:
                continue
            again, _ = self._make(evidence.claim, without, {d: f for d, f in witnesses.items() if d != suspect})
            if again is None or again.status == "shipped":
                reason = f"made without the samples of {suspect}: with them {verdict.reason}"
                return again and self._blame(again, {suspect}, reason, left_out={suspect})
        alone = set(devices) if len(set(devices)) == 1 and harmed != set(devices) else set()
        return self._blame(new, alone, new.reason)

    def _back(self, claim: Claim, new: NewVersion) -> NewVersion:
        """In a held version's place the source's values, as a version: what serves is worse than they are."""
        payload = source_payload(self._bundle)
        return back(new, payload, self._sign(payload, claim.head_version + 1, claim.domain))

    def _blame(
        self, new: NewVersion, devices: Collection[str], reason: str, *, left_out: Collection[str] = ()
    ) -> NewVersion:
        """Write down who is to blame, and quarantine who was too often."""
        if not devices:
            return new
        before = [named(entry, BLAMED) for entry in self._ledger.history(limit=self._witnesses.blame_window)]
        apart = [d for d in sorted(devices) if too_often([*before, devices], d, self._witnesses)]
        return quarantining(blaming(new, devices, left_out=left_out, reason=reason), apart)

    def _job(self, evidence: Evidence, *, without: str | None = None) -> AdaptJob | None:
        own = self._domains.replay == "own"
        state = self._ledger.state(evidence.claim.base_version)
        return make_job(evidence, self._config, state=state, own_replay=own, without=without)

    def _tell(self, outcome: Outcome) -> Outcome:
        did = "shipped" if outcome.shipped else "held"
        cohort, version, domain = self._ledger.cohort, outcome.version, outcome.domain
        log.info("cohort %s: version %d of domain %d %s: %s", cohort, version, domain, did, outcome.reason)
        self._on_version(outcome)
        return outcome

    def _make(
        self, claim: Claim, job: AdaptJob, witnesses: Mapping[str, Frame]
    ) -> tuple[NewVersion | None, Verdict | None]:
        """Adapt and gate; no version when the executor was closed meanwhile, so the job stays open."""
        result = _NOTHING_MADE
        try:
            result = self._executor.adapt(job).result()
            verdict = self._check(
                result.payload,
                recent_frames=job.new_frames,
                witnesses=witnesses,
                base_payload=self._ledger.payload_of(claim.base_version),
            )
        except CancelledError:
            return None, None
        except StorageError:
            raise  # nobody's fault but the disk's: the job stays open
        except _OF_THE_JOB as error:
            # The same job would fail the same way again: it is recorded as held, and the next samples get their turn.
            unexpected = not isinstance(error, LittoralError)
            log.error("cohort %s: adaptation failed: %s", self._ledger.cohort, error, exc_info=unexpected)
            return held(f"adaptation failed: {error}", result, {}), None
        if not verdict.passed and not outvoted(verdict.harmed, witnesses):
            return held(verdict.reason, result, verdict.report), verdict
        return shipped(result, verdict, self._sign(result.payload, claim.head_version + 1, claim.domain)), verdict

    def _sign(self, payload: bytes, version: int, domain: int) -> SignedVersion:
        return sign_version(self._ledger, self._key, self._bundle.digest, payload, version, domain)

    def _memory(self) -> ReplayMemory:
        if self._replay is None:
            replay = ReplayMemory(self._config, self._bundle.manifest.input.shape)
            begin_replay(self._ledger, capacity=self._config.replay_capacity, seed=self._config.seed).result()
            replay.load(self._ledger, self._bundle.manifest.input)
            drop_idle_states(self._ledger).result()
            if not self._keep_images:
                self._drop_images(idle_images(self._ledger, kept=replay.digests()), replay)
            self._replay = replay
        return self._replay

    def _drop_images(self, digests: Sequence[bytes], replay: ReplayMemory) -> None:
        if not self._keep_images:
            try:
                drop_images(self._ledger, digests, kept=replay.digests())
            except StorageError as error:  # they are looked for again at the next start
                log.error("cohort %s: images that nobody needs stay: %s", self._ledger.cohort, error)


def _labels_of(samples: Sequence[StoredSample], labels: Sequence[bytes]) -> list[LabelOf]:
    """Whose each of the teacher's answers is; none where the adapter gave none."""
    if len(labels) != len(samples):
        return []
    return [
        LabelOf(device_id=sample.device_id, key=sample_key(sample.image), label=label)
        for sample, label in zip(samples, labels, strict=True)
    ]
