"""Which offloaded requests are taken, which run together and when: a deadline-ordered dynamic batcher without a clock.

One batch runs at a time. Every request that is offered comes back exactly once: from `offer` or `take` with the code
that it is refused with, or from `take` in a batch; `finished` says which of a batch are late. Times are milliseconds on
whatever clock the caller has.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from littoral.core.estimates import BatchTimes

T = TypeVar("T")

Refused = Literal["overloaded", "late"]


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How requests are put together."""

    max_batch: int = 16
    max_wait_ms: float = 2.0
    """The longest that a request waits for company while nothing runs."""
    max_queue: int = 256
    """Requests that wait, of all devices together."""
    first_guess_ms: float = 10.0
    """How long a batch takes, before one was run."""
    probe_ms: float = 1_000.0
    """After so long without a batch one request is run whatever is predicted, and how long that takes is believed
    alone: a slow first batch does not make the tail refuse for ever."""
    is_fair: bool = True
    """False orders by deadline alone, whatever one device asks for; for comparison."""

    def __post_init__(self) -> None:
        if min(self.max_batch, self.max_queue) < 1:
            raise ValueError(f"max_batch and max_queue are at least 1, got {self.max_batch} and {self.max_queue}")
        if self.max_wait_ms < 0 or self.first_guess_ms < 0 or self.probe_ms < 0:
            raise ValueError("max_wait_ms, first_guess_ms and probe_ms are not below 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class Request(Generic[T]):
    """What waits for its batch. Two are the same only if they are one object."""

    item: T
    device: str
    arrived_ms: float
    deadline_ms: float
    """When the answer must be ready, on the caller's clock."""


class Decision(NamedTuple, Generic[T]):
    """What to do now: tell these that they are refused, and run these together. ``batch`` may be empty."""

    refused: list[tuple[Request[T], Refused]]
    batch: list[Request[T]]


class DeadlineBatcher(Generic[T]):
    """The requests of one tail.

    The order is by rank, then by deadline; a request's rank is how many of the same device are more urgent. So a batch
    takes one of each device before it takes a second of any, and a device that floods waits behind itself.

    Args:
        config: See `BatchConfig`.
    """

    def __init__(self, config: BatchConfig) -> None:
        self.config = config
        self.times = BatchTimes(first_guess_ms=config.first_guess_ms)
        self._waiting: list[Request[T]] = []
        """By deadline."""
        self._running: list[Request[T]] = []
        """The batch that runs."""
        self._started_ms = 0.0
        self._last_run_ms: float | None = None
        self._is_probe = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_running(self) -> bool:
        """A batch was taken that is not `finished`."""
        return bool(self._running)

    # -- who is let in -------------------------------------------------------------------------------------------------

    def offer(self, request: Request[T], now_ms: float) -> list[tuple[Request[T], Refused]]:
        """Let a request wait for its batch, or refuse it at once.

        Returns:
            Whom to tell what: nobody; or the newcomer, because it has expired or would not be ready in time; or, where
            the queue is full, the least urgent one of the device that has the most waiting.
        """
        if request.deadline_ms <= now_ms:
            return [(request, "late")]
        if not self._may_probe(now_ms) and self._predicted_end_ms(request, now_ms) > request.deadline_ms:
            return [(request, "overloaded")]
        refused: list[tuple[Request[T], Refused]] = []
        if len(self._waiting) >= self.config.max_queue:
            loser = self._least_deserving(request)
            if loser is request:
                return [(request, "overloaded")]
            self._waiting.remove(loser)
            refused = [(loser, "overloaded")]
        insort(self._waiting, request, key=lambda request: request.deadline_ms)
        return refused

    def withdraw(self, request: Request[T]) -> bool:
        """Forget a request whose device is gone; False if it does not wait any more."""
        if request not in self._waiting:
            return False
        self._waiting.remove(request)
        return True

    def _may_probe(self, now_ms: float) -> bool:
        """Nothing runs, nothing waits, and nothing was run for long: time to see how long a batch takes now."""
        return not self._waiting and not self.is_running and self._has_rested(now_ms)

    def _has_rested(self, now_ms: float) -> bool:
        return self._last_run_ms is None or now_ms - self._last_run_ms >= self.config.probe_ms

    def _predicted_end_ms(self, request: Request[T], now_ms: float) -> float:
        size = self.config.max_batch
        rank = sum(r.device == request.device and r.deadline_ms <= request.deadline_ms for r in self._waiting)
        place = rank if self.config.is_fair else 0, request.deadline_ms
        batches = sum((other, r.deadline_ms) <= place for other, r in self._ranked()) // size
        own = min(size, len(self._waiting) + 1 - batches * size)
        return self._free_ms(now_ms) + batches * self.times.predict_ms(size) + self.times.predict_ms(own)

    def _free_ms(self, now_ms: float) -> float:
        """When the batch that runs is expected to end. One that is overdue is given as long again as it is overdue."""
        if not self._running:
            return now_ms
        expected_ms = self._started_ms + self.times.predict_ms(len(self._running))
        return max(expected_ms, 2 * now_ms - expected_ms)

    def _least_deserving(self, newcomer: Request[T]) -> Request[T]:
        """Who has to go when the queue is full: of the device that has the most, the newcomer's if in doubt."""
        if not self.config.is_fair:
            return newcomer
        counts = Counter(request.device for request in self._waiting)
        most = max(counts.values())
        if counts[newcomer.device] + 1 >= most:
            return newcomer
        largest = {device for device, count in counts.items() if count == most}
        return max((r for r in self._waiting if r.device in largest), key=lambda r: r.deadline_ms)

    def _ranked(self) -> list[tuple[int, Request[T]]]:
        """All that wait, by deadline, each with how many of its device are more urgent."""
        if not self.config.is_fair:
            return [(0, request) for request in self._waiting]
        ranks: defaultdict[str, int] = defaultdict(int)
        ranked = []
        for request in self._waiting:
            ranked.append((ranks[request.device], request))
            ranks[request.device] += 1
        return ranked

    # -- what runs -----------------------------------------------------------------------------------------------------

    def look_at_ms(self, now_ms: float) -> float | None:
        """When to call `take` next, if nothing happens before; None: not before something does."""
        if not self._waiting:
            return None
        first_deadline_ms = self._waiting[0].deadline_ms
        if self.is_running:
            return first_deadline_ms
        size = min(len(self._waiting), self.config.max_batch)
        if size == self.config.max_batch:
            return now_ms
        company_ms = min(request.arrived_ms for request in self._waiting) + self.config.max_wait_ms
        return max(now_ms, min(company_ms, first_deadline_ms - self.times.predict_ms(size)))

    def take(self, now_ms: float) -> Decision[T]:
        """What is to be done now. After a batch was taken, call `finished` when it has run."""
        late = [request for request in self._waiting if request.deadline_ms <= now_ms]
        for request in late:
            self._waiting.remove(request)
        refused: list[tuple[Request[T], Refused]] = [(request, "late") for request in late]
        at_ms = self.look_at_ms(now_ms)
        if self.is_running or at_ms is None or at_ms > now_ms:
            return Decision(refused, [])
        batch, hopeless = self._choose(now_ms)
        for request in (*batch, *hopeless):
            self._waiting.remove(request)
        refused += [(request, "late") for request in hopeless]
        if batch:
            self._running, self._started_ms = batch, now_ms
        return Decision(refused, batch)

    def finished(self, now_ms: float) -> list[Request[T]]:
        """The batch has run.

        Returns:
            Those of it whose deadline passed meanwhile: they are ``late``, whatever came out.
        """
        if not self._running:
            raise ValueError("no batch was taken that could have finished")
        learn = self.times.restart if self._is_probe else self.times.add
        learn(len(self._running), now_ms - self._started_ms)
        ran, self._running, self._last_run_ms = self._running, [], now_ms
        return [request for request in ran if request.deadline_ms < now_ms]

    def _choose(self, now_ms: float) -> tuple[list[Request[T]], list[Request[T]]]:
        """Those of the next batch that run, and those whom it would help no more.

        Of the first ``max_batch`` in order, so many of the most urgent run at once as bring most answers in time in
        this batch and the one after it; the larger batch if in doubt. So a tight deadline gets a small batch where the
        others can wait for it, and cannot force one upon them where they cannot.
        """
        in_order = sorted(self._ranked(), key=lambda pair: pair[0])
        chosen = [request for _, request in in_order[: self.config.max_batch]]
        candidates = sorted(chosen, key=lambda request: request.deadline_ms)
        deadlines = [request.deadline_ms for request in candidates]
        best, most = len(candidates), -1
        for size in range(len(candidates), 0, -1):
            end_ms = now_ms + self.times.predict_ms(size)
            next_ms = end_ms + self.times.predict_ms(len(candidates) - size)
            in_time = sum(d >= end_ms for d in deadlines[:size]) + sum(d >= next_ms for d in deadlines[size:])
            if in_time > most:
                best, most = size, in_time
        self._is_probe = not most and self._has_rested(now_ms)
        if self._is_probe:
            return candidates[:1], []
        end_ms = now_ms + self.times.predict_ms(best)
        batch = [request for request in candidates[:best] if request.deadline_ms >= end_ms]
        return batch, [request for request in candidates[:best] if request.deadline_ms < end_ms]
