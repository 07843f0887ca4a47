"""Where adaptation runs. An executor only computes: what it is given and what it returns are plain values."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from littoral.cloud.jobs import AdaptJob, AdaptResult


class Adapter(Protocol):
    """What an executor runs: `littoral.cloud.adapt.Worker`, or a stand-in for it."""

    def adapt(self, job: AdaptJob) -> AdaptResult:
        """Make the next state of a cohort from a job; the same job gives the same result."""
        ...


class Executor(Protocol):
    """Somewhere to run jobs. Jobs may run twice or be lost with the executor; the ledger makes both harmless."""

    def adapt(self, job: AdaptJob) -> Future[AdaptResult]:
        """Run a job; the future raises what the worker raised."""
        ...

    def close(self) -> None:
        """Finish what runs, drop what waits. Idempotent."""
        ...


class InlineExecutor:
    """One thread in this process: the default."""

    def __init__(self, worker: Adapter) -> None:
        self._worker = worker
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="littoral-adapt")

    def adapt(self, job: AdaptJob) -> Future[AdaptResult]:
        return self._pool.submit(self._worker.adapt, job)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
