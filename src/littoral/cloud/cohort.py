"""A cohort's loop: when enough samples wait, make the next version of them, gate it, sign it, commit it.

Nothing is remembered here that the record does not hold: the replay memory is filled again from recorded samples, in
their order, and a job that was begun and not finished is done again with the same result. Samples of a version that was
held back are consumed and never enter replay.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from littoral.bundle import Bundle, SignedVersion, SigningKey
from littoral.cloud.adapt import AdaptConfig, AdaptJob, AdaptResult
from littoral.cloud.executors import Executor
from littoral.cloud.images import decode_image
from littoral.cloud.ledger import Claim, Head, Ledger, NewVersion, SampleRange, StoredSample
from littoral.core.arrays import Frame
from littoral.core.replay import ReplayBuffer
from littoral.errors import LittoralError, StorageError

if TYPE_CHECKING:
    from littoral.cloud.gate import Verdict

Check = Callable[[bytes, Frame], "Verdict"]
LEASE_S = 600.0
RETRY_S = 5.0
"""How long the loop waits after the record failed, and between looks at another worker's lease."""

log = logging.getLogger(__name__)


def plan(head: Head, config: AdaptConfig) -> SampleRange | None:
    """What to work on: the job that was begun, else the oldest waiting batches, else nothing.

    A cloud that has fallen behind takes up to ``max_batches_per_job`` whole batches at once. It learns from the newest;
    the others only enter replay, since the devices that sent them may be in another world by now.
    """
    if head.open_job is not None:
        return head.open_job
    batches = min(len(head.waiting) // config.batch_size, config.max_batches_per_job)
    if batches == 0:
        return None
    count = batches * config.batch_size
    return SampleRange(first=head.waiting[0], last=head.waiting[count - 1], num_samples=count)


def replay_count(buffered: int, num_new: int, config: AdaptConfig) -> int:
    """How many replayed frames go with ``num_new`` new ones when ``buffered`` are kept."""
    return min(buffered, config.replay_ratio * num_new) if buffered >= config.replay_after else 0


def job_seeds(seed: int, head_version: int) -> tuple[np.random.Generator, int]:
    """The generator that draws replay for a job, and the seed that the job itself gets."""
    draw, job = np.random.SeedSequence([seed, head_version]).spawn(2)
    return np.random.default_rng(draw), int(job.generate_state(1)[0])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the loop did: version ``version`` was shipped, or held for ``reason``."""

    version: int
    shipped: bool
    reason: str


class Cohort:
    """Works one cohort's samples off. `step` does one job; `start` runs steps in a thread whenever `poke` is called.

    Args:
        check: The gate: ``check(payload, recent_frames)``, called right after the job that made the payload.
        on_version: Called after each commit, from the cohort's thread.
        clock: Seconds since the epoch.
        sole_worker: Nobody else works on this record (the cloud locks its state folder), so an open job is one that a
            worker left when it died and need not wait for its lease.
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
        on_version: Callable[[Outcome], None] = lambda outcome: None,
        clock: Callable[[], float] = time.time,
        sole_worker: bool = True,
    ) -> None:
        self._bundle, self._ledger, self._executor, self._check = bundle, ledger, executor, check
        self._key, self._config, self._on_version, self._clock = key, config, on_version, clock
        self._replay: ReplayBuffer | None = None
        self._sole_worker = sole_worker
        self._wake, self._stop = threading.Event(), threading.Event()
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
            except StorageError as error:
                log.error("cohort %s: %s; trying again in %g s", self._ledger.cohort, error, RETRY_S)
                self._stop.wait(RETRY_S)
            except Exception:
                log.exception("cohort %s: a step failed; trying again in %g s", self._ledger.cohort, RETRY_S)
                self._stop.wait(RETRY_S)

    # -- one job -----------------------------------------------------------------------------------------------------

    def step(self) -> Outcome | None:
        """Do one job if there is one; None when there is not, or when another worker has it.

        Raises:
            StorageError: the record failed; nothing was committed.
        """
        head = self._ledger.head(at_most=self._config.batch_size * self._config.max_batches_per_job)
        samples = plan(head, self._config)
        if samples is None:
            return None
        claim = self._ledger.claim(
            head, samples, now=self._clock(), lease_s=LEASE_S, take_over=self._sole_worker
        ).result()
        return None if claim is None else self._work(claim)

    def _work(self, claim: Claim) -> Outcome | None:
        stored = self._ledger.samples(claim.samples)
        frames = self._decode(stored)
        replay = self._load_replay()
        new_frames = frames[-self._config.batch_size :]
        rng, seed = job_seeds(self._config.seed, claim.head_version)
        job = AdaptJob(
            base_version=claim.base_version,
            state=self._ledger.state(claim.base_version),
            new_frames=new_frames,
            replay_frames=replay.sample(replay_count(len(replay), len(new_frames), self._config), rng),
            seed=seed,
        )
        new = self._make(claim, job)
        if new is None or not self._ledger.commit(claim, new, now=self._clock()).result():
            return None
        if new.status == "shipped":
            _remember(replay, stored, frames)
        outcome = Outcome(version=claim.head_version + 1, shipped=new.status == "shipped", reason=new.reason)
        log.info("cohort %s: version %d %s: %s", self._ledger.cohort, outcome.version, new.status, new.reason)
        self._on_version(outcome)
        return outcome

    def _make(self, claim: Claim, job: AdaptJob) -> NewVersion | None:
        """Adapt and gate; None when the executor was closed meanwhile, so the job stays open."""
        try:
            result = self._executor.adapt(job).result()
        except CancelledError:
            return None
        except (LittoralError, ValueError, ArithmeticError) as error:
            # The same job would fail the same way again: it is recorded as held, and the next samples get their turn.
            log.error("cohort %s: adaptation failed: %s", self._ledger.cohort, error)
            return _held(f"adaptation failed: {error}", AdaptResult(state=b"", payload=b"", report={}), {})
        verdict = self._check(result.payload, job.new_frames)
        if not verdict.passed:
            return _held(verdict.reason, result, verdict.report)
        return NewVersion(
            status="shipped",
            reason=verdict.reason,
            payload=result.payload,
            signed=SignedVersion.make(
                key=self._key,
                cohort=self._ledger.cohort,
                bundle_digest=self._bundle.digest,
                version=claim.head_version + 1,
                payload=result.payload,
            ),
            state=result.state,
            report=_plain(result.report),
            verdict=_plain(verdict.report),
        )

    def _decode(self, stored: Sequence[StoredSample]) -> Frame:
        spec = self._bundle.manifest.input
        return np.stack([decode_image(sample.coding, sample.image, spec) for sample in stored])

    def _load_replay(self) -> ReplayBuffer:
        if self._replay is None:
            replay = ReplayBuffer(
                capacity=self._config.replay_capacity,
                frame_shape=self._bundle.manifest.input.shape,
                seed=self._config.seed,
            )
            for entry in self._ledger.history():
                if entry.status == "shipped":
                    stored = self._ledger.samples(entry.samples)
                    _remember(replay, stored, self._decode(stored))
            self._replay = replay
        return self._replay


def _remember(replay: ReplayBuffer, stored: Sequence[StoredSample], frames: Frame) -> None:
    for sample, frame in zip(stored, frames, strict=True):
        replay.add(frame, device=sample.device_id, label=sample.predicted)


def _held(reason: str, result: AdaptResult, verdict: Mapping[str, float]) -> NewVersion:
    return NewVersion(
        status="held",
        reason=reason,
        payload=result.payload,
        signed=None,
        state=result.state,
        report=_plain(result.report),
        verdict=_plain(verdict),
    )


def _plain(report: Mapping[str, float | str]) -> dict[str, float | str]:
    """A report that JSON can hold: numbers as finite floats, the others as text."""
    out: dict[str, float | str] = {}
    for key, value in report.items():
        number = value if isinstance(value, str) else float(value)
        out[key] = number if isinstance(number, str) or math.isfinite(number) else str(number)
    return out
