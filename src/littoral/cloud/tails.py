"""Offloaded requests in the gateway: each waits for its batch, runs with others in a thread, and gets one answer.

What is taken, dropped and run together is decided by `littoral.core.batching`; here are the clock, the futures and the
thread. Everything but `Tails.close` is called from the gateway's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from littoral.bundle.images import Picture
from littoral.cloud.metrics import Metrics
from littoral.core.answers import encode_answer
from littoral.core.arrays import FloatArray
from littoral.core.batching import BatchConfig, DeadlineBatcher, Refused, Request
from littoral.core.tasks import Task
from littoral.errors import LittoralError, PayloadError
from littoral.wire.envelope import MAX_FRAME_BYTES
from littoral.wire.messages import MAX_TEXT_CHARS, Offload, OffloadAnswer

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = MAX_FRAME_BYTES - 1_024
"""Of an answer; a frame has room for it and for all that goes with it."""

_CODE_OF = {
    "damaged": "damaged",
    "too-large": "too-large",
    "other-tables": "other-tables",
    "other-codec": "other-tables",
}
"""The code of an answer, by `PayloadError.code`."""
_WHY = {
    "overloaded": "the cloud would not be ready in time; let the device answer",
    "late": "the deadline passed before the answer was ready",
    "failed": "the cloud's tail failed; its log says why",
}


class RunsTail(Protocol):
    """What finishes frames: a bundle's decoder and tail, its teacher for pictures, or a stand-in for them."""

    def answer(self, payloads: Sequence[Any]) -> Sequence[FloatArray | LittoralError]:
        """Decode each payload and run them as one batch. Called from one thread at a time.

        Args:
            payloads: From untrusted peers: bytes, or a `Picture` each for what answers such.
        Returns:
            For each, in order, the network's output for that frame without the batch, or what is wrong with it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TailConfig:
    """What a tail takes, and how it puts requests together."""

    batch: BatchConfig = field(default_factory=BatchConfig)
    max_payload_bytes: int = 262_144
    """A larger payload is refused before it waits; the codec's own ceilings are far below. A picture has at most as
    many bytes as its frame, too."""
    pictures: bool = True
    """Answer pictures of whole frames with the bundle's teacher, which is loaded for that once more; False tells
    devices that this cloud takes none."""


class Verdict(NamedTuple):
    """What became of one request."""

    code: str
    message: str = ""
    answer: bytes = b""
    queue_ms: float = 0.0
    compute_ms: float = 0.0


def refusal(code: str, message: str = "") -> Verdict:
    """A verdict without an answer."""
    return Verdict(code, (message or _WHY.get(code, code))[:MAX_TEXT_CHARS])


@dataclass(frozen=True, eq=False)
class _Item:
    payload: bytes | Picture
    verdict: asyncio.Future[Verdict]


class TailBatcher:
    """One tail and the requests that wait for it.

    Args:
        tail: See `RunsTail`.
        task: What the network is for.
        config: See `TailConfig`.
        metrics: Where batches are counted.
    """

    def __init__(self, tail: RunsTail, task: Task[Any, Any], config: TailConfig, metrics: Metrics) -> None:
        self._tail, self._task, self._metrics = tail, task, metrics
        self._batcher: DeadlineBatcher[_Item] = DeadlineBatcher(config.batch)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="littoral-tail")
        self._timer: asyncio.TimerHandle | None = None
        self._batches: set[asyncio.Task[None]] = set()

    async def answer(self, payload: bytes | Picture, *, device: str, arrived_ms: float, deadline_ms: float) -> Verdict:
        """What became of a payload; times are the event loop's. Never later than the batch that it ran in."""
        item = _Item(payload, asyncio.get_running_loop().create_future())
        request = Request(item=item, device=device, arrived_ms=arrived_ms, deadline_ms=deadline_ms)
        self._tell(self._batcher.offer(request, _now_ms()))
        self._look()
        try:
            return await item.verdict
        finally:
            self._batcher.withdraw(request)  # in case the device is gone

    def close(self) -> None:
        """Finish the batch that runs. Idempotent."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _tell(self, refused: Sequence[tuple[Request[_Item], Refused]]) -> None:
        for request, code in refused:
            if not request.item.verdict.done():
                request.item.verdict.set_result(refusal(code))

    def _look(self) -> None:
        """Do what is due, and look again when something will be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        decision = self._batcher.take(_now_ms())
        self._tell(decision.refused)
        loop = asyncio.get_running_loop()
        if decision.batch:
            task = loop.create_task(self._run(decision.batch))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)
        at_ms = self._batcher.look_at_ms(_now_ms())
        if at_ms is not None:
            self._timer = loop.call_at(at_ms / 1000, self._look)

    async def _run(self, batch: Sequence[Request[_Item]]) -> None:
        began_ms = _now_ms()
        payloads = [request.item.payload for request in batch]
        try:
            verdicts = await asyncio.get_running_loop().run_in_executor(self._pool, self._work, payloads)
        except RuntimeError:  # the cloud stops
            verdicts = [refusal("failed")] * len(batch)
        ended_ms = _now_ms()
        late = self._batcher.finished(ended_ms)
        waited_ms = [began_ms - request.arrived_ms for request in batch]
        self._metrics.observe_batch(waited_ms, ended_ms - began_ms)
        for request, verdict, queue_ms in zip(batch, verdicts, waited_ms, strict=True):
            if verdict.code == "ok" and request in late:
                verdict = refusal("late")
            if not request.item.verdict.done():
                request.item.verdict.set_result(verdict._replace(queue_ms=queue_ms, compute_ms=ended_ms - began_ms))
        self._look()

    def _work(self, payloads: Sequence[bytes | Picture]) -> list[Verdict]:
        """Run a batch, in the thread. If it fails as a whole, each member gets a run of its own."""
        try:
            outputs = self._tail.answer(payloads)
            if len(outputs) != len(payloads):
                raise ValueError(f"a tail gave {len(outputs)} outputs for {len(payloads)} payloads")
            return [self._verdict(output) for output in outputs]
        except Exception:
            log.exception("a batch of %d requests failed", len(payloads))
        if len(payloads) == 1:
            return [refusal("failed")]
        return [verdict for payload in payloads for verdict in self._work([payload])]

    def _verdict(self, output: FloatArray | LittoralError) -> Verdict:
        if isinstance(output, PayloadError):
            return refusal(_CODE_OF.get(output.code, "failed"), str(output))
        if isinstance(output, LittoralError):
            return refusal("failed", str(output))
        try:
            answer = encode_answer(self._task, output)
            if len(answer) > MAX_ANSWER_BYTES:
                raise ValueError(f"an answer of {len(answer)} bytes is over {MAX_ANSWER_BYTES}; let the device answer")
            return Verdict("ok", answer=answer)
        except (LittoralError, ValueError) as error:
            log.warning("a tail's output is no answer: %s", error)
            return refusal("failed", str(error))


class Tails:
    """All tails of a bundle, by the number of their split point.

    Args:
        tails: Under None what answers pictures.
        max_picture_bytes: A larger picture is refused before it waits: the bytes of a frame.
    """

    def __init__(
        self,
        tails: Mapping[int | None, RunsTail],
        task: Task[Any, Any],
        config: TailConfig,
        metrics: Metrics,
        *,
        max_picture_bytes: int = 0,
    ) -> None:
        self._max_payload_bytes = config.max_payload_bytes
        self._max_picture_bytes = min(max_picture_bytes, config.max_payload_bytes)
        self._batchers = {split: TailBatcher(tail, task, config, metrics) for split, tail in tails.items()}

    @property
    def takes_pictures(self) -> bool:
        """Whether there is something that answers them."""
        return None in self._batchers

    async def answer(self, request: Offload, *, device: str, arrived_ms: float) -> OffloadAnswer:
        """The answer to a request that arrived then; it is ready, or refused, by the request's deadline."""
        is_picture = bool(request.coding)
        batcher = self._batchers.get(None if is_picture else request.split)
        most = self._max_picture_bytes if is_picture else self._max_payload_bytes
        if batcher is None and is_picture:
            verdict = refusal("unknown-split", "this cloud answers no pictures; let the device answer")
        elif batcher is None:
            verdict = refusal("unknown-split", f"there is no split point {request.split} here; install the same bundle")
        elif len(request.payload) > most:
            verdict = refusal("too-large", f"a {'picture' if is_picture else 'payload'} has at most {most} bytes")
        else:
            verdict = await batcher.answer(
                Picture(request.coding, request.payload) if is_picture else request.payload,
                device=device,
                arrived_ms=arrived_ms,
                deadline_ms=arrived_ms + request.deadline_ms,
            )
        return offload_answer(request, verdict)

    def close(self) -> None:
        """Finish the batches that run. Idempotent; from any thread, once the event loop has ended."""
        for batcher in self._batchers.values():
            batcher.close()


def offload_answer(request: Offload, verdict: Verdict) -> OffloadAnswer:
    """The message for a verdict."""
    return OffloadAnswer(
        request=request.request,
        code=verdict.code,
        message=verdict.message,
        answer=verdict.answer,
        queue_ms=max(verdict.queue_ms, 0.0),
        compute_ms=max(verdict.compute_ms, 0.0),
    )


def _now_ms() -> float:
    return asyncio.get_running_loop().time() * 1000
