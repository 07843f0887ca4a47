"""A link and a cloud in virtual time: when is the answer to a request back? Nothing sleeps, there is no clock.

Each way is one lane: bytes go out one after another at the rate of the trace, in packets that pay for their headers,
and arrive after the delay of the moment. A lost packet is sent again a round trip later. The cloud answers one request
after another, behind the queue that the trace says, and refuses at once what it could not answer in time, as ours does
(docs/adr/0016). A request that was given up before its first byte went out costs nothing; one that has begun goes on,
and what comes after it waits.

Since nothing overtakes, all that will become of a request is known when it is sent; a simulation of thousands of frames
takes as long as its arithmetic.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np

from littoral.bench.routing.traces import LinkTrace
from littoral.core.arrays import Float64s

PACKET_BYTES, HEADER_BYTES = 1460, 40
_MOST_ROUNDS = 12


@dataclass(frozen=True, kw_only=True)
class Request:
    """What becomes of one request; times in milliseconds of the simulation.

    Attributes:
        num_bytes: That went out, without headers; 0 for one that was given up before it began.
        received_ms: When the answer, or the refusal, is back; infinite for never.
        refused: The cloud had no time for it.
        queue_ms, compute_ms: What the cloud says that it spent.
    """

    num_bytes: int
    received_ms: float
    refused: bool
    queue_ms: float
    compute_ms: float


class _Lane:
    """One way: bytes at the rate of the trace."""

    def __init__(self, trace: LinkTrace, kbit_s: Float64s) -> None:
        lengths = np.diff(np.append(trace.time_ms, trace.duration_ms))
        rate = kbit_s / 8  # bytes in a millisecond
        # As lists: each is asked for one number at a time, some thousand times a second.
        self._times: list[float] = trace.time_ms.tolist()
        self._rate: list[float] = rate.tolist()
        self._before: list[float] = [0.0, *np.cumsum(lengths * rate).tolist()]
        self._period_ms = float(trace.duration_ms)
        self.free_ms = 0.0

    def done_ms(self, begun_ms: float, num_bytes: float) -> float:
        """When so many bytes have gone out that began then; infinite when nothing ever passes."""
        period_bytes = self._before[-1]
        if period_bytes <= 0:
            return math.inf
        periods, at_ms = divmod(begun_ms, self._period_ms)
        i = bisect_right(self._times, at_ms) - 1
        target = self._before[i] + (at_ms - self._times[i]) * self._rate[i] + num_bytes
        more, target = divmod(target, period_bytes)
        j = max(bisect_left(self._before, target) - 1, 0)
        rate = self._rate[j]
        inside = (target - self._before[j]) / rate if rate > 0 else 0.0
        return max(begun_ms, (periods + more) * self._period_ms + self._times[j] + inside)


class VirtualLink:
    """The link of one device, and its cloud.

    Args:
        trace: What the link can do.
        seed: Of the losses.
        notice_ms: After so long without a byte passing the device knows that there is no session.
    """

    def __init__(self, trace: LinkTrace, *, seed: int = 0, notice_ms: float = 5_000.0) -> None:
        self.trace = trace
        self.bytes_up = 0
        """Without headers, of all that went out."""
        self._up, self._down = _Lane(trace, trace.up_kbit_s), _Lane(trace, trace.down_kbit_s)
        self._rng = np.random.default_rng([seed, 7])
        self._cloud_free_ms = 0.0
        self._notice_ms = notice_ms

    def connected(self, now_ms: float) -> bool:
        """Whether the device thinks that there is a session: an outage is noticed after a while only."""
        return self._up.done_ms(max(now_ms - self._notice_ms, 0.0), 1e-6) <= max(now_ms, self._notice_ms)

    def send(
        self,
        num_bytes: int,
        now_ms: float,
        *,
        compute_ms: float,
        expires_ms: float = math.inf,
        deadline_ms: float = math.inf,
        answer_bytes: int = 64,
    ) -> Request:
        """Send a request; times never run backwards.

        Args:
            compute_ms: What the cloud takes for it.
            expires_ms: If it has not begun to go out by then, it never does.
            deadline_ms: What the cloud has, from arrival to answer; it refuses what it cannot do in that.
        """
        begun_ms = max(now_ms, self._up.free_ms)
        if begun_ms >= expires_ms:
            return Request(num_bytes=0, received_ms=math.inf, refused=False, queue_ms=0.0, compute_ms=0.0)
        self.bytes_up += num_bytes
        self._up.free_ms, arrived_ms = self._through(self._up, begun_ms, num_bytes)
        if arrived_ms == math.inf:
            return Request(num_bytes=num_bytes, received_ms=math.inf, refused=False, queue_ms=0.0, compute_ms=0.0)
        queue_ms = float(self.trace.cloud_queue_ms[self.trace.index_at(arrived_ms)])
        queue_ms += max(self._cloud_free_ms - arrived_ms, 0.0)
        refused = queue_ms + compute_ms > deadline_ms
        answered_ms = arrived_ms
        if refused:
            queue_ms = compute_ms = 0.0
        else:
            answered_ms += queue_ms + compute_ms
            self._cloud_free_ms = max(self._cloud_free_ms, arrived_ms) + compute_ms
        begins_ms = max(answered_ms, self._down.free_ms)
        self._down.free_ms, received_ms = self._through(self._down, begins_ms, answer_bytes)
        return Request(
            num_bytes=num_bytes, received_ms=received_ms, refused=refused, queue_ms=queue_ms, compute_ms=compute_ms
        )

    def save(self) -> tuple[object, ...]:
        """Where it stands, for `restore`: to look at what a request would do."""
        return (self.bytes_up, self._up.free_ms, self._down.free_ms, self._cloud_free_ms, self._rng.bit_generator.state)

    def restore(self, state: tuple[Any, ...]) -> None:
        """Back to where it stood."""
        self.bytes_up, self._up.free_ms, self._down.free_ms, self._cloud_free_ms, drawn = state
        self._rng.bit_generator.state = drawn

    def _through(self, lane: _Lane, begun_ms: float, num_bytes: int) -> tuple[float, float]:
        """When the lane is free again, and when the last byte is at the other end."""
        packets = max(math.ceil(num_bytes / PACKET_BYTES), 1)
        done_ms = lane.done_ms(begun_ms, num_bytes + HEADER_BYTES * packets)
        if done_ms == math.inf:
            return math.inf, math.inf
        free_ms = done_ms
        for _ in range(_MOST_ROUNDS):
            i = self.trace.index_at(done_ms)
            one_way, loss = float(self.trace.one_way_ms[i]), float(self.trace.loss[i])
            packets = int(self._rng.binomial(packets, loss)) if loss > 0 else 0
            if packets == 0:
                break
            done_ms = lane.done_ms(done_ms + 2 * one_way, packets * (PACKET_BYTES + HEADER_BYTES))
            if done_ms == math.inf:
                return free_ms, math.inf
        return free_ms, done_ms + float(self.trace.one_way_ms[self.trace.index_at(done_ms)])
