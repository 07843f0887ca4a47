"""A device and a cloud on a road that fails, in thousands of schedules: nothing is lost, nothing comes twice."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.wire.envelope import decode_frame, encode_frame
from littoral.wire.link import AckedUpTo, Action, Close, DeviceLink, Send
from littoral.wire.messages import (
    NONCE_BYTES,
    Ack,
    Challenge,
    Credit,
    Hello,
    Message,
    Sample,
    Welcome,
    from_frame,
    to_frame,
)

STREAM = 77


def encoded(message: Message, *, sequence: int | None = None) -> bytes:
    if sequence is None:
        return encode_frame(to_frame(message))
    return encode_frame(to_frame(message, stream=STREAM, sequence=sequence))


def sample(frame_id: int) -> Sample:
    return Sample(frame_id=frame_id, version=0, predicted=0, entropy_nats=0.5, coding="raw", image=b"x" * 20, scene=0)


def make_link() -> DeviceLink:
    return DeviceLink(
        device_id="d-1",
        bundle_digest=b"b" * 32,
        outbox_stream=STREAM,
        highest_version=lambda: 4,
        sign=lambda data: data,
    )


@dataclass
class ModelOutbox:
    """What `littoral.edge.outbox.Outbox` promises, in a list."""

    messages: deque[tuple[int, bytes]] = field(default_factory=deque)
    accepted: int = 0
    acked: int = 0
    dropped: int = 0
    forgotten: set[int] = field(default_factory=set)
    """Sequences that were deleted as acked; all of them must be in the cloud."""

    def put(self, capacity: int) -> None:
        self.accepted += 1
        if len(self.messages) >= capacity:
            self.dropped += 1  # the newcomer: what has a sequence may have been sent
            return
        sequence = self.messages[-1][0] + 1 if self.messages else len(self.forgotten) + 1
        self.messages.append((sequence, encoded(sample(self.accepted), sequence=sequence)))

    def peek(self, after: int) -> list[tuple[int, bytes]]:
        return [item for item in self.messages if item[0] > after]

    def ack(self, sequence: int) -> None:
        while self.messages and self.messages[0][0] <= sequence:
            self.forgotten.add(self.messages.popleft()[0])
            self.acked += 1


@dataclass
class ModelCloud:
    """Commits in order, acks after the commit, knows a message by its sequence."""

    committed: int = 0
    applied: list[int] = field(default_factory=list)
    unsynced: list[Sample] = field(default_factory=list)

    def take(self, data: bytes) -> None:
        frame = decode_frame(data)
        message = from_frame(frame)
        if isinstance(message, Hello):
            return
        assert isinstance(message, Sample)
        received = self.committed + len(self.unsynced)
        assert frame.sequence <= received + 1, f"{frame.sequence} came after {received}: a message was skipped"
        if frame.sequence == received + 1:
            self.unsynced.append(message)

    def commit(self) -> None:
        self.applied += [message.frame_id for message in self.unsynced]
        self.committed += len(self.unsynced)
        self.unsynced.clear()


class World:
    """A device, a cloud, and a road that fails; every choice is the random generator's."""

    def __init__(self, rng: random.Random, *, delete_on_send: bool = False) -> None:
        self.rng, self.delete_on_send = rng, delete_on_send
        self.outbox, self.cloud, self.link = ModelOutbox(), ModelCloud(), make_link()
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.sessions = 0

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.up.append(action.data)
                frame = decode_frame(action.data)
                if self.delete_on_send and frame.stream == STREAM:
                    self.outbox.ack(frame.sequence)
            elif isinstance(action, AckedUpTo):
                self.outbox.ack(action.sequence)
            elif isinstance(action, Close):
                raise AssertionError(f"an honest cloud was hung up on: {action.error}")

    def connect(self) -> None:
        if self.link.state != "closed":
            return
        self.sessions += 1
        self.act(self.link.on_connected())
        self.act(self.link.on_bytes(encoded(Challenge(nonce=bytes([self.sessions % 256]) * NONCE_BYTES))))
        credit = self.rng.choice([0, 60, 300, 10_000])
        self.down.append(
            encoded(
                Welcome(acked_sequence=self.cloud.committed, credit_bytes=credit, envelope=b"", envelope_signature=b"")
            )
        )

    def cut(self) -> None:
        self.up.clear()
        self.down.clear()
        self.cloud.unsynced.clear()
        self.act(self.link.on_disconnected())

    def pump(self) -> None:
        if self.link.credit_left_bytes:
            self.act(self.link.offer(self.outbox.peek(self.link.sent_sequence)))

    def deliver_up(self) -> None:
        if self.up:
            data = self.up.popleft()
            for _ in range(self.rng.choice([1, 1, 1, 2])):  # a road that repeats itself
                self.cloud.take(data)

    def deliver_down(self) -> None:
        if self.down:
            self.act(self.link.on_bytes(self.down.popleft()))

    def commit(self) -> None:
        self.cloud.commit()
        if self.link.state == "open" and self.rng.random() < 0.8:  # acks get lost
            self.down.append(encoded(Ack(sequence=self.cloud.committed)))

    def give_credit(self) -> None:
        if self.link.state == "open":
            self.down.append(encoded(Credit(credit_bytes=self.rng.choice([0, 100, 10_000]))))

    def restart_device(self) -> None:
        self.cut()
        self.link = make_link()

    def step(self) -> None:
        action = self.rng.choices(
            [
                lambda: self.outbox.put(capacity=8),
                self.connect,
                self.pump,
                self.deliver_up,
                self.deliver_down,
                self.commit,
                self.give_credit,
                self.cut,
                self.restart_device,
            ],
            weights=[8, 4, 6, 10, 10, 5, 2, 1, 0.5],
        )[0]
        action()
        self.check()

    def check(self) -> None:
        out, cloud = self.outbox, self.cloud
        assert out.accepted == out.acked + len(out.messages) + out.dropped
        assert cloud.applied == sorted(set(cloud.applied)), "an effect came twice or out of order"
        lost = [sequence for sequence in out.forgotten if sequence > cloud.committed]
        assert not lost, f"messages {lost} are gone from the outbox and the cloud has not committed them"

    def settle(self) -> None:
        """The road heals: everything arrives."""
        self.cut()
        self.connect()
        for _ in range(200):
            self.down.append(encoded(Credit(credit_bytes=10_000))) if self.link.state == "open" else None
            self.deliver_down()
            self.pump()
            while self.up:
                self.deliver_up()
            self.cloud.commit()
            if self.link.state == "open":
                self.down.append(encoded(Ack(sequence=self.cloud.committed)))
            if not self.outbox.messages:
                break
        self.check()
        assert not self.outbox.messages
        assert len(self.cloud.applied) == self.outbox.accepted - self.outbox.dropped


def run_schedule(seed: int, *, delete_on_send: bool = False) -> None:
    rng = random.Random(seed)
    world = World(rng, delete_on_send=delete_on_send)
    for _ in range(rng.randint(5, 80)):
        world.step()
    world.settle()


def test_thousands_of_fault_schedules_lose_nothing_and_repeat_nothing() -> None:
    for seed in range(2500):
        run_schedule(seed)


def test_a_link_that_deletes_on_send_is_caught_by_the_same_schedules() -> None:
    """Negative control."""
    caught = 0
    for seed in range(50):
        try:
            run_schedule(seed, delete_on_send=True)
        except (AssertionError, ValueError):
            caught += 1
    assert caught > 25


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_at_every_frame_boundary(direction: str) -> None:
    for boundary in range(20):
        world = World(random.Random(boundary))
        for _ in range(6):
            world.outbox.put(capacity=8)
        delivered = {"up": 0, "down": 0}
        world.connect()
        for _ in range(60):
            world.down.append(encoded(Credit(credit_bytes=200))) if world.link.state == "open" else None
            world.pump()
            for way, deliver in (("up", world.deliver_up), ("down", world.deliver_down)):
                if delivered[way] == boundary and way == direction:
                    world.cut()
                    world.connect()
                delivered[way] += 1
                deliver()
            world.cloud.commit()
            if world.link.state == "open":
                world.down.append(encoded(Ack(sequence=world.cloud.committed)))
            world.check()
        world.settle()
        assert world.cloud.applied == [1, 2, 3, 4, 5, 6]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("ppppccmmuuuuddddkkgxr"), max_size=60), st.integers(0, 2**32))
def test_any_schedule_at_all(letters: list[str], seed: int) -> None:
    """As above, but hypothesis chooses the order and shrinks what fails."""
    world = World(random.Random(seed))
    steps = {
        "p": lambda: world.outbox.put(capacity=5),
        "c": world.connect,
        "m": world.pump,
        "u": world.deliver_up,
        "d": world.deliver_down,
        "k": world.commit,
        "g": world.give_credit,
        "x": world.cut,
        "r": world.restart_device,
    }
    for letter in letters:
        steps[letter]()
        world.check()
    world.settle()
