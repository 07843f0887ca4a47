"""Offloaded requests in the cloud: one bad payload harms no other, nothing late is called ok, everyone gets a code."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloud_peer import Line, Peer, running, sample, until, write_bundle
from websockets.exceptions import ConnectionClosed

from attacks import hostile_answers
from littoral.cloud.cloud import Cloud
from littoral.cloud.metrics import Metrics
from littoral.cloud.tails import RunsTail, TailBatcher, TailConfig, Tails
from littoral.core.answers import decode_answer, encode_answer
from littoral.core.arrays import FloatArray
from littoral.core.batching import BatchConfig
from littoral.core.tasks import Classification
from littoral.edge.link import CloudLink, LinkConfig
from littoral.edge.offload import Offloading
from littoral.edge.offload_config import OffloadConfig
from littoral.edge.outbox import Outbox
from littoral.errors import LittoralError, ModelOutputError, PayloadError
from littoral.wire.envelope import MAX_FRAME_BYTES, encode_frame
from littoral.wire.messages import Ack, Offload, OffloadAnswer, Refusal, Status, to_frame

TASK = Classification(num_classes=10)


def scores(number: int) -> FloatArray:
    return (np.eye(10)[number % 10] * 5).astype(np.float32)


class FakeTail:
    """The first byte of a payload is the answer; some are refused, some break the whole batch."""

    def __init__(self, hold: threading.Event | None = None) -> None:
        self.hold = hold
        self.batches: list[list[bytes]] = []

    def answer(self, payloads: Sequence[bytes]) -> list[FloatArray | LittoralError]:
        self.batches.append(list(payloads))
        if self.hold is not None:
            assert self.hold.wait(20)
        return [self._one(payload) for payload in payloads]

    def _one(self, payload: bytes) -> FloatArray | LittoralError:
        if payload == b"bomb":
            raise RuntimeError("a mistake of the tail's")
        if payload == b"nan":
            return np.full(10, np.nan, np.float32)
        if payload == b"shape":
            return np.zeros(3, np.float32)
        if payload == b"diverges":
            return ModelOutputError("not finite")
        if not payload or payload[0] > 9 or len(payload) > 1:
            code = payload.decode() if payload in (b"too-large", b"other-tables", b"other-codec") else "damaged"
            return PayloadError(code, "it is not a payload")
        return scores(payload[0])


def batch(
    tail: RunsTail, payloads: Sequence[bytes], config: TailConfig | None = None, *, deadline_ms: float = 10_000.0
) -> tuple[list[str], Metrics]:
    """What becomes of payloads that arrive together, in one batch unless the config says otherwise."""
    config = config or TailConfig(batch=BatchConfig(max_batch=len(payloads), max_wait_ms=5_000.0))

    async def ask() -> tuple[list[str], Metrics]:
        metrics = Metrics("harbour")
        batcher = TailBatcher(tail, TASK, config, metrics)
        now_ms = asyncio.get_running_loop().time() * 1000
        asked = [
            batcher.answer(payload, device=f"d{n}", arrived_ms=now_ms, deadline_ms=now_ms + deadline_ms)
            for n, payload in enumerate(payloads)
        ]
        verdicts = await asyncio.gather(*asked)
        batcher.close()
        for payload, verdict in zip(payloads, verdicts, strict=True):
            if verdict.code == "ok":
                np.testing.assert_array_equal(decode_answer(TASK, verdict.answer), scores(payload[0]))  # type: ignore[arg-type]
                assert verdict.message == ""
            else:
                assert verdict.answer == b""
                assert verdict.message
        return [verdict.code for verdict in verdicts], metrics

    return asyncio.run(ask())


def test_those_that_come_together_run_together_and_are_counted_without_their_names() -> None:
    tail = FakeTail()
    config = TailConfig(batch=BatchConfig(max_batch=4, max_wait_ms=5_000.0))
    codes, metrics = batch(tail, [bytes([n]) for n in range(8)], config)
    assert codes == ["ok"] * 8
    assert [len(one) for one in tail.batches] == [4, 4]
    text = metrics.exposition().decode()
    assert 'littoral_tail_batch_size_count{cohort="harbour"} 2.0' in text
    assert 'littoral_tail_queue_seconds_count{cohort="harbour"} 8.0' in text
    assert 'littoral_tail_compute_seconds_count{cohort="harbour"} 2.0' in text
    assert "d0" not in text


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"", "damaged"),
        (b"too-large", "too-large"),
        (b"other-tables", "other-tables"),
        (b"other-codec", "other-tables"),
        (b"diverges", "failed"),
        (b"nan", "failed"),
        (b"shape", "failed"),
        (b"bomb", "failed"),
    ],
)
def test_a_payload_that_fails_does_not_fail_the_others_of_its_batch(bad: bytes, code: str) -> None:
    tail = FakeTail()
    codes, _ = batch(tail, [b"\x01", bad, b"\x02"])
    assert codes == ["ok", code, "ok"]
    assert len(tail.batches[0]) == 3


@pytest.mark.parametrize("name", hostile_answers.PAYLOADS)
def test_a_hostile_payload_gets_a_code_and_leaves_the_tail_whole(name: str) -> None:
    codes, _ = batch(FakeTail(), [hostile_answers.PAYLOADS[name], b"\x03"])
    assert codes == ["damaged", "ok"]


def test_an_answer_that_no_frame_holds_is_refused_and_not_left_unsaid() -> None:
    """Of more classes than a frame has room for; a noisy label map of a large frame is the same."""
    many = Classification(num_classes=MAX_FRAME_BYTES // 4)

    class Wide(FakeTail):
        def _one(self, payload: bytes) -> FloatArray | LittoralError:
            return np.zeros(many.num_classes, np.float32)

    async def ask() -> OffloadAnswer:
        tails = Tails({0: Wide()}, many, TailConfig(), Metrics("harbour"))
        request = Offload(request=1, split=0, version=0, payload=b"any", deadline_ms=10_000)
        answer = await tails.answer(request, device="d", arrived_ms=asyncio.get_running_loop().time() * 1000)
        tails.close()
        return answer

    answer = asyncio.run(ask())
    assert answer.code == "failed"
    assert "let the device answer" in answer.message
    encode_frame(to_frame(answer))


def test_a_tail_that_gives_the_wrong_number_of_outputs_answers_nobody_falsely() -> None:
    class Short:
        def answer(self, payloads: Sequence[bytes]) -> list[FloatArray | LittoralError]:
            return [scores(1)] * (len(payloads) - 1)

    assert batch(Short(), [b"\x01", b"\x02"])[0] == ["failed", "failed"]


def test_an_answer_that_is_ready_too_late_is_not_ok() -> None:
    class Slow(FakeTail):
        def answer(self, payloads: Sequence[bytes]) -> list[FloatArray | LittoralError]:
            threading.Event().wait(0.08)
            return super().answer(payloads)

    config = TailConfig(batch=BatchConfig(max_wait_ms=0.0, first_guess_ms=0.0))
    assert batch(Slow(), [b"\x01"], config, deadline_ms=30.0)[0] == ["late"]
    assert batch(Slow(), [b"\x01"], config)[0] == ["ok"], "the deadline makes the difference"


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_who_expires_behind_a_batch_that_hangs_is_told_so_in_time() -> None:
    async def scenario() -> None:
        hold = threading.Event()
        loop = asyncio.get_running_loop()
        config = TailConfig(batch=BatchConfig(max_batch=1, max_wait_ms=0.0, first_guess_ms=1.0))
        batcher = TailBatcher(FakeTail(hold), TASK, config, Metrics("harbour"))
        now_ms = loop.time() * 1000
        first = asyncio.create_task(batcher.answer(b"\x01", device="a", arrived_ms=now_ms, deadline_ms=now_ms + 10_000))
        await asyncio.sleep(0)
        second = await batcher.answer(b"\x02", device="b", arrived_ms=now_ms, deadline_ms=now_ms + 200)
        waited_ms = loop.time() * 1000 - now_ms
        assert (second.code, waited_ms >= 200) == ("late", True)
        hold.set()
        assert (await first).code == "ok"
        batcher.close()

    run(scenario)


def test_a_device_that_is_gone_takes_its_request_with_it() -> None:
    async def scenario() -> None:
        hold, tail = threading.Event(), FakeTail()
        tail.hold = hold
        batcher = TailBatcher(tail, TASK, TailConfig(batch=BatchConfig(max_batch=1)), Metrics("harbour"))
        now_ms = asyncio.get_running_loop().time() * 1000
        asked = [
            asyncio.create_task(
                batcher.answer(bytes([n]), device=f"d{n}", arrived_ms=now_ms, deadline_ms=now_ms + 10_000)
            )
            for n in range(3)
        ]
        await asyncio.sleep(0.01)
        asked[1].cancel()
        await asyncio.sleep(0)
        hold.set()
        assert (await asked[2]).code == "ok"
        assert asked[1].cancelled()
        assert tail.batches == [[b"\x00"], [b"\x02"]]
        batcher.close()

    run(scenario)


def request(number: int, payload: bytes = b"\x07", *, split: int = 0, deadline_ms: int = 10_000) -> Offload:
    return Offload(request=number, split=split, version=0, payload=payload, deadline_ms=deadline_ms)


def test_a_split_point_that_is_not_and_a_payload_without_end_are_refused_before_they_wait() -> None:
    async def scenario() -> None:
        tail = FakeTail()
        tails = Tails({0: tail}, TASK, TailConfig(max_payload_bytes=100), Metrics("harbour"))
        for asked, code in ((request(1, split=1), "unknown-split"), (request(2, bytes(101)), "too-large")):
            answer = await tails.answer(asked, device="a", arrived_ms=0.0)
            assert (answer.request, answer.code, answer.answer) == (asked.request, code, b"")
        tails.close()
        assert tail.batches == []

    run(scenario)


# Over a socket.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tails")


@pytest.fixture(scope="module")
def tail() -> FakeTail:
    return FakeTail()


@pytest.fixture(scope="module")
def cloud(folder: Path, tail: FakeTail) -> Iterator[Cloud]:
    with running(write_bundle(folder / "bundle"), folder / "state", tail=tail) as cloud:
        yield cloud


@pytest.fixture
def held(tail: FakeTail) -> Iterator[threading.Event]:
    """While it is not set the tail hangs."""
    tail.batches.clear()
    tail.hold = threading.Event()
    yield tail.hold
    tail.hold.set()
    tail.hold = None


@pytest.fixture
def peer(cloud: Cloud) -> Peer:
    return Peer(cloud).enrol()


def codes(line: Line, count: int) -> dict[int, str]:
    answers = [line.wait(OffloadAnswer) for _ in range(count)]
    return {answer.request: answer.code for answer in answers}


def test_a_request_is_answered_though_a_commit_hangs(peer: Peer, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    never: Future[int] = Future()
    monkeypatch.setattr(cloud._store, "record", lambda *_, **__: never)
    with peer.session() as line:
        line.send(sample(1), sequence=1)
        line.send(request(5, b"\x04"))
        answer = line.wait(OffloadAnswer)
        assert (answer.request, answer.code) == (5, "ok")
        assert answer.answer == encode_answer(TASK, scores(4))
        assert answer.compute_ms > 0
        never.set_result(1)
        assert line.wait(Ack).sequence == 1
    text = cloud._hub.metrics.exposition().decode()
    assert 'littoral_offloads_total{code="ok",cohort="default"}' in text
    assert cloud._hub.metrics.num_bytes["up"]["offload"] > 0
    assert cloud._hub.metrics.num_bytes["down"]["answer"] > 0
    assert peer.device_id not in text


def test_a_device_has_so_many_requests_in_flight_and_the_next_is_refused_at_once(
    peer: Peer, cloud: Cloud, held: threading.Event
) -> None:
    limit = cloud._hub.limits.max_requests
    with peer.session() as line:
        for number in range(1, limit + 3):
            line.send(request(number))
        assert codes(line, 2) == {limit + 1: "overloaded", limit + 2: "overloaded"}
        held.set()
        assert Counter(codes(line, limit).values()) == {"ok": limit}
        line.send(request(100))
        assert codes(line, 1) == {100: "ok"}


def test_a_session_that_ends_takes_its_requests_along(peer: Peer, tail: FakeTail, held: threading.Event) -> None:
    with peer.session() as line:
        line.send(request(1, b"\x01"))
        until(lambda: tail.batches, "the first batch")
        line.send(request(2, b"\x02"))
        line.send(Status(version=0, frames=1, selected=0, queued=0, dropped=0, statistics_resets=0))
        until(lambda: peer.cloud._hub.presence[peer.device_id].status, "the request before the status to be taken")
    until(lambda: peer.device_id not in peer.cloud._hub.sessions, "the session to end")
    held.set()
    with peer.session() as line:
        line.send(request(3, b"\x03"))
        assert codes(line, 1) == {3: "ok"}
    assert b"\x02" not in [payload for one in tail.batches for payload in one]


def test_a_revoked_device_gets_nothing(peer: Peer, cloud: Cloud, tail: FakeTail) -> None:
    with peer.session() as line:
        line.send(request(1))
        assert codes(line, 1) == {1: "ok"}
        cloud._store.revoke(peer.device_id, reason="stolen", now=1.0).result()
        tail.batches.clear()
        line.send(request(2))
        assert line.wait(Refusal).code == "revoked"
        with pytest.raises(ConnectionClosed):
            line.socket.recv(timeout=10)
    assert tail.batches == []


def test_a_cloud_without_tails_says_so(folder: Path) -> None:
    with running(write_bundle(folder / "bare"), folder / "bare-state") as cloud, Peer(cloud).enrol().session() as line:
        line.send(request(1))
        assert codes(line, 1) == {1: "unknown-split"}


class StubModel:
    """Answers 3 by itself."""

    version = 0

    def run_until(self, segment: int | None, frames: np.ndarray) -> np.ndarray:
        return frames

    def run_from(self, segment: int | None, value: np.ndarray) -> np.ndarray:
        return scores(3)[None]


class StubEncoder:
    segment = None

    def encode(self, value: np.ndarray, level: int) -> bytes:
        return bytes([int(value.flat[0])])


def test_from_a_device_to_the_cloud_and_back_over_a_real_socket(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    outbox = Outbox(tmp_path / "outbox.sqlite", capacity_bytes=1_000_000)
    link = CloudLink(cloud.url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
    idle = Status(version=0, frames=0, selected=0, queued=0, dropped=0, statistics_resets=0)
    link.start(
        bundle_digest=cloud.bundle.digest,
        state_dir=tmp_path,
        outbox=outbox,
        highest_version=lambda: 2**62,
        on_envelope=lambda _: None,
        on_version=lambda _: None,
        status=lambda: idle,
    )
    offloading = Offloading(
        link,
        StubEncoder(),
        TASK,
        OffloadConfig(mode="always", deadline_ms=5_000.0),
        model=StubModel(),  # type: ignore[arg-type]
        shape=(4, 5, 1),
    )
    try:
        until(lambda: link.connected, "a session")
        found = []
        for shade in (0, 6, 9, 200):
            frame = np.full((4, 5, 1), shade, np.uint8)
            finished = offloading.answer(StubModel(), frame, time.perf_counter())  # type: ignore[arg-type]
            found.append((int(finished.answer.argmax()), finished.source, finished.reason))  # type: ignore[union-attr]
    finally:
        link.stop(0.0)
        outbox.close()
    assert found == [(0, "cloud", ""), (6, "cloud", ""), (9, "cloud", ""), (3, "device", "damaged")]
    assert offloading.road.num_measured == 4
    assert link.bytes_by_purpose["answer"] > 0
