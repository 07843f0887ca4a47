"""The teacher's answers go back to whoever sent the samples: to no one else, once, in nobody's way, not for ever."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cloud_peer import SMALL, FakeGate, FakeWorker, Peer, enrolled, fetch, image, running, sample, until, write_bundle

from littoral.bundle import Bundle, SigningKey
from littoral.cloud.adapt import Worker
from littoral.cloud.cloud import Cloud
from littoral.cloud.cohort import Cohort
from littoral.cloud.executors import InlineExecutor
from littoral.cloud.jobs import AdaptConfig, AdaptJob, AdaptResult
from littoral.cloud.labels import LabelDesk, LabelOf
from littoral.cloud.ledger import Ledger
from littoral.cloud.store import EnrolledDevice, Store
from littoral.core.arrays import FloatArray
from littoral.core.heads import softmax64
from littoral.core.sample_labels import MAX_LABELS, decode_labels, encode_label, sample_key
from littoral.wire.messages import TAKES_LABELS, Ack, Labels, Message, Offload, OffloadAnswer, Refusal, Version

SURE = [encode_label(row) for row in np.eye(10)]


def key(number: int) -> bytes:
    return sample_key(image(number).tobytes())


def said(number: int) -> int:
    """What `Teaching` says of a frame."""
    return int(image(number).sum()) % 10


class Teaching(FakeWorker):
    """Answers each new frame with a class that only its pixels tell."""

    def adapt(self, job: AdaptJob) -> AdaptResult:
        labels = tuple(SURE[int(frame.sum()) % 10] for frame in job.new_frames)
        return replace(super().adapt(job), labels=labels)


# The desk.


def labels_for(device: str, first: int, count: int) -> list[LabelOf]:
    return [LabelOf(device_id=device, key=key(n), label=SURE[n % 10]) for n in range(first, first + count)]


def keys_in(taken: tuple[bytes, int] | None) -> list[bytes]:
    if taken is None:
        return []
    labels = decode_labels(taken[0], 10)
    assert taken[1] == len(labels)
    return [label.key for label in labels]


def test_labels_are_given_to_their_device_in_order_once_and_so_many_at_a_time() -> None:
    desk = LabelDesk()
    assert desk.put([*labels_for("a", 0, 70), *labels_for("b", 100, 2)], 0.0) == {"a", "b"}
    assert ("a" in desk, "c" in desk) == (True, False)
    assert keys_in(desk.take("b", 1.0)) == [key(100), key(101)]
    assert desk.take("b", 1.0) is None
    assert keys_in(desk.take("a", 1.0)) == [key(n) for n in range(MAX_LABELS)]
    assert keys_in(desk.take("a", 1.0)) == [key(n) for n in range(MAX_LABELS, 70)]
    assert desk.take("a", 1.0) is None
    assert (len(desk), desk.num_dropped, "a" in desk) == (0, 0, False)


def test_what_waits_too_long_goes() -> None:
    desk = LabelDesk(keep_s=10)
    desk.put(labels_for("a", 0, 2), 0.0)
    desk.put(labels_for("a", 2, 1), 5.0)
    assert keys_in(desk.take("a", 12.0)) == [key(2)]
    assert desk.num_dropped == 2


def test_a_device_that_stays_away_and_a_fleet_that_does_so_take_bounded_memory() -> None:
    desk = LabelDesk(per_device=3, in_all=5)
    desk.put(labels_for("a", 0, 5), 0.0)
    assert (len(desk), desk.num_dropped) == (3, 2)
    desk.put(labels_for("b", 10, 2), 1.0)
    assert desk.put(labels_for("c", 20, 1), 2.0) == {"c"}, "a was given something longest ago, and loses it"
    assert (len(desk), desk.num_dropped) == (3, 5)
    assert desk.take("a", 2.0) is None
    assert keys_in(desk.take("b", 2.0)) == [key(10), key(11)]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_no_label_is_given_twice_and_all_are_accounted_for(seed: int) -> None:
    rng, desk, now = random.Random(seed), LabelDesk(keep_s=5, per_device=8, in_all=20), 0.0
    given: list[bytes] = []
    num_put = 0
    for _ in range(300):
        now += rng.random()
        device = rng.choice("abcd")
        step = rng.random()
        if step < 0.5:
            count = rng.randrange(1, 6)
            desk.put(labels_for(device, num_put, count), now)
            num_put += count
        elif step < 0.95:
            given += keys_in(desk.take(device, now))
        else:
            desk.forget(device)
        assert len(desk) <= 20
    assert len(set(given)) == len(given)
    assert num_put == len(given) + len(desk) + desk.num_dropped
    assert given, "something was given at all"


@pytest.mark.parametrize("wrong", [{"keep_s": 0}, {"per_device": 0}, {"per_device": 5, "in_all": 4}], ids=str)
def test_a_desk_without_room_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected keep_s > 0"):
        LabelDesk(**wrong)  # type: ignore[arg-type]


# The cohort.


class Bench:
    """A cohort over a record whose worker teaches."""

    def __init__(self, store: Store, bundle: Bundle, worker: FakeWorker, config: AdaptConfig = SMALL) -> None:
        self.gate, self.labels, self.told = FakeGate(), list[LabelOf](), list[str]()
        self.ledger = Ledger(store, "default")
        self.executor = InlineExecutor(worker)
        self.cohort = Cohort(
            bundle=bundle,
            ledger=self.ledger,
            executor=self.executor,
            check=self.gate.check,
            key=SigningKey(b"c" * 32),
            config=config,
            on_version=lambda outcome: self.told.append("version"),
            on_labels=self._on_labels,
            clock=lambda: 100.0,
        )

    def _on_labels(self, labels: list[LabelOf]) -> None:
        self.told.append("labels")
        self.labels += labels

    def work(self) -> None:
        while self.cohort.step() is not None:
            pass
        self.executor.close()


def upload(store: Store, device: EnrolledDevice, numbers: Sequence[int]) -> None:
    store.record(device.id, 7, [(i, sample(n)) for i, n in enumerate(numbers, 1)], now=5.0).result()


def test_each_device_gets_what_the_teacher_said_of_its_own_samples(store: Store, opened: Bundle) -> None:
    first, second = enrolled(store, 1), enrolled(store, 2)
    upload(store, first, [1, 2])
    upload(store, second, [3, 4])
    bench = Bench(store, opened, Teaching())
    bench.work()
    assert [(each.device_id, each.key, each.label) for each in bench.labels] == [
        (device.id, key(n), SURE[said(n)]) for device, n in ((first, 1), (first, 2), (second, 3), (second, 4))
    ]
    assert bench.told == ["version", "labels"]


def test_of_a_job_that_is_behind_only_what_the_teacher_saw_has_labels(
    store: Store, opened: Bundle, device: EnrolledDevice
) -> None:
    upload(store, device, range(1, 13))
    bench = Bench(store, opened, Teaching(), replace(SMALL, max_batches_per_job=3))
    bench.work()
    assert [each.key for each in bench.labels] == [key(n) for n in range(9, 13)]


def test_a_version_that_is_held_back_brings_no_label(store: Store, opened: Bundle, device: EnrolledDevice) -> None:
    """And with the gate open it does: the control."""
    bench = Bench(store, opened, Teaching())
    bench.gate.hold = {1}
    upload(store, device, range(1, 9))
    bench.work()
    assert [each.key for each in bench.labels] == [key(n) for n in range(5, 9)]


@pytest.mark.parametrize("labels", [(), (SURE[0],)], ids=["none", "too-few"])
def test_an_adapter_that_does_not_say_what_the_teacher_said_teaches_nobody(
    store: Store, opened: Bundle, device: EnrolledDevice, labels: tuple[bytes, ...]
) -> None:
    class Silent(FakeWorker):
        def adapt(self, job: AdaptJob) -> AdaptResult:
            return replace(super().adapt(job), labels=labels)

    upload(store, device, range(1, 5))
    bench = Bench(store, opened, Silent())
    bench.work()
    assert (bench.labels, len(bench.ledger.newest_shipped())) == ([], 1)


def test_the_workers_labels_are_the_teachers_answers(tiny_bundle: Path) -> None:
    tiny = Bundle.open(tiny_bundle, require_cloud=True)
    worker = Worker(tiny, AdaptConfig(inner_steps=1, augment=False, settled_nats=0.0), device="cpu")
    frames = (np.resize(tiny.probe[0], (16, *tiny.manifest.input.shape)) // 2).astype(np.uint8)
    job = AdaptJob(base_version=0, state=b"", new_frames=frames, replay_frames=frames[:0], seed=1)
    labels = worker.adapt(job).labels
    teacher = worker.logits(frames, role="teacher")
    for label, logits in zip(labels, teacher, strict=True):
        (heard,) = decode_labels(b"T\x01" + bytes(8) + label, 10)
        expected = softmax64(logits.astype(np.float64))
        assert heard.label == expected.argmax()
        np.testing.assert_allclose(softmax64(heard.scores_K)[heard.label], expected.max(), atol=1e-3)


# Over a socket.


class Slow:
    """A tail that waits to be told."""

    def __init__(self) -> None:
        self.hold = threading.Event()

    def answer(self, payloads: Sequence[bytes]) -> list[FloatArray]:
        assert self.hold.wait(20)
        return [np.zeros(10, np.float32)] * len(payloads)


@pytest.fixture
def tail() -> Slow:
    return Slow()


@pytest.fixture
def cloud(tmp_path: Path, tail: Slow) -> Iterator[Cloud]:
    with running(write_bundle(tmp_path / "bundle"), tmp_path / "state", worker=Teaching(), tail=tail) as cloud:
        yield cloud
        tail.hold.set()


def heard(message: Labels) -> dict[bytes, int]:
    return {label.key: label.label for label in decode_labels(message.labels, 10)}


def test_labels_come_down_after_the_ack_and_the_version_to_a_device_that_takes_them(cloud: Cloud) -> None:
    peer, before = Peer(cloud).enrol(), list[Message]()
    with peer.session(takes=TAKES_LABELS) as line:
        for number in range(1, 5):
            line.send(sample(number), sequence=number)
        labels = line.wait(Labels, between=before.append)
    assert heard(labels) == {key(n): said(n) for n in range(1, 5)}
    assert [type(each) for each in before if not isinstance(each, Ack)] == [Version]
    assert any(isinstance(each, Ack) and each.sequence == 4 for each in before)
    metrics = cloud._hub.metrics
    until(lambda: metrics.num_labels == {"sent": 4, "dropped": 0}, "the count")
    assert metrics.num_bytes["down"]["labels"] == 19 + 2 + 4 * 13, "the envelope, the header, and 13 bytes a label"
    assert 'littoral_labels_total{cohort="default",outcome="sent"} 4.0' in metrics.exposition().decode()
    assert json.loads(fetch(f"{cloud.url}/v1/fleet")[1])["totals"]["labels_sent"] == 4
    assert "4 labels sent back" in fetch(f"{cloud.url}/")[1].decode()


def test_a_device_of_before_gets_none_and_nothing_waits_for_it(cloud: Cloud) -> None:
    peer = Peer(cloud).enrol()
    with peer.session() as line:
        line.upload(1, 4)
        line.wait(Version)
        until(lambda: cloud._hub.metrics.num_labels["dropped"] == 4, "the labels to be dropped")
        line.send(sample(5), sequence=5)
        assert line.get(Ack).sequence == 5, "the next that comes"
    assert len(cloud._hub.labels) == 0


def test_a_device_that_was_away_gets_them_when_it_is_back(cloud: Cloud) -> None:
    peer, other = Peer(cloud).enrol(), Peer(cloud, name="attic").enrol()
    other.stream = 8
    with peer.session(takes=TAKES_LABELS) as line:
        line.upload(1, 3)
    with other.session(takes=TAKES_LABELS) as line:
        line.send(sample(9), sequence=1)
        assert heard(line.wait(Labels)) == {key(9): said(9)}
    with peer.session(takes=TAKES_LABELS, highest_version=2**62) as line:
        assert heard(line.wait(Labels)) == {key(n): said(n) for n in (1, 2, 3)}
    with peer.session(takes=TAKES_LABELS, highest_version=2**62) as line:
        line.send(sample(20), sequence=4)
        assert line.get(Ack).sequence == 4, "what was sent is not sent again"


def test_labels_wait_while_a_request_is_answered_and_hold_up_no_version_and_no_ack(cloud: Cloud, tail: Slow) -> None:
    peer, before = Peer(cloud).enrol(), list[Message]()
    with peer.session(takes=TAKES_LABELS) as line:
        line.send(Offload(request=1, split=0, version=0, payload=b"x", deadline_ms=20_000))
        for number in range(1, 5):
            line.send(sample(number), sequence=number)
        line.wait(Version, between=before.append)
        line.send(sample(5), sequence=5)
        line.wait(Ack, lambda ack: ack.sequence == 5, between=before.append)
        until(lambda: len(cloud._hub.labels) == 4, "labels that wait")
        tail.hold.set()
        line.wait(OffloadAnswer, between=before.append)
        assert not any(isinstance(each, Labels) for each in before)
        assert heard(line.wait(Labels)).keys() == {key(n) for n in range(1, 5)}


def test_a_revoked_device_gets_no_label(cloud: Cloud) -> None:
    peer, before = Peer(cloud).enrol(), list[Message]()
    with peer.session(takes=TAKES_LABELS, highest_version=2**62) as line:
        line.upload(1, 3)
        cloud._store.revoke(peer.device_id, reason="stolen", now=1.0).result()
        cloud._hub.labels_made(labels_for(peer.device_id, 1, 1))
        assert line.wait(Refusal, between=before.append).code == "revoked"
    assert not before
