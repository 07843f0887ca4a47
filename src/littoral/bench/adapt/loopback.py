"""A device's link to a cloud in the same process: real wire frames, no socket, and the batch for a clock.

What may be said when is `littoral.wire.link.DeviceLink`, as on a real link. Each way is a `Pipe`: frames arrive in
order, a lost one is sent again a batch later and paid again, and what comes after it waits, as over TCP. Versions take
the road's delay; acknowledgements do not, since they are the road's own and not what the cloud makes of an upload.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from littoral.bench.method import Road
from littoral.bundle import Envelope, SignedVersion
from littoral.core.arrays import Frame
from littoral.edge.identity import Identity
from littoral.edge.link import CloudLink
from littoral.edge.link_session import Ports
from littoral.errors import LinkError
from littoral.wire.envelope import decode_frame, encode_frame
from littoral.wire.link import AckedUpTo, Action, Close, DeviceLink, GotVersion, Opened, Send
from littoral.wire.messages import HELLO_PURPOSE, Sample, Version, from_frame, to_frame

FLUSH_S = 60.0
PEEK_BYTES = 262_144
STATUS_FRAMES = 64
"""A real link reports every two seconds: here, every so many frames."""

Tamper = Callable[[bytes], bytes]


class Far(Protocol):
    """The cloud's end of one session."""

    def deliver(self, frames: Sequence[bytes]) -> None:
        """Take wire frames of the device, in order, and do all that follows from them."""
        ...

    def collect(self) -> list[bytes]:
        """The wire frames for the device since the last call."""
        ...


@dataclass
class _Packet:
    data: bytes
    next_try: int
    arrived: bool = False


class Pipe:
    """One way of a road. ``num_bytes`` counts every attempt."""

    def __init__(self, *, loss: float, rng: np.random.Generator, delay_batches: int = 0) -> None:
        self.num_bytes = 0
        self._loss, self._rng, self._delay = loss, rng, delay_batches
        self._packets: deque[_Packet] = deque()

    def put(self, data: bytes, *, tick: int) -> None:
        """Send a frame, at the earliest at ``tick`` plus the delay."""
        self._packets.append(_Packet(data, tick + self._delay))

    def turn(self, tick: int) -> list[bytes]:
        """Try what has not arrived, and give what has, in order."""
        for packet in self._packets:
            if packet.arrived or packet.next_try > tick:
                continue
            self.num_bytes += len(packet.data)
            packet.arrived = self._loss == 0 or self._rng.random() >= self._loss
            packet.next_try = tick + 1
        out = []
        while self._packets and self._packets[0].arrived:
            out.append(self._packets.popleft().data)
        return out

    def __len__(self) -> int:
        return len(self._packets)


class LoopbackLink(CloudLink):
    """What a `Device` uses of a `CloudLink`, driven by `exchange` and `receive` instead of a thread.

    Args:
        connect: Opens a session at the cloud.
        identity: As the cloud enrolled the device.
        tamper: Changes each outgoing sample's bytes: a hostile device.
    """

    def __init__(
        self,
        connect: Callable[[], Far],
        identity: Identity,
        *,
        road: Road,
        seed: int,
        tamper: Tamper | None = None,
    ) -> None:
        super().__init__("ws://localhost", name="loopback")
        self.rounds = 1
        """How often it exchanges, and the cloud works, per batch."""
        self.samples_sent = self.versions_received = self.largest_version_bytes = 0
        self._connect, self._who, self._tamper = connect, identity, tamper
        up, control, versions = np.random.default_rng([seed, 7]).spawn(3)
        self._up = Pipe(loss=road.loss, rng=up)
        self._control = Pipe(loss=road.loss, rng=control)
        self._versions = Pipe(loss=road.loss, rng=versions, delay_batches=road.delay_batches)
        self._reported_frames = self._tick = 0
        self._counted = (0, 0)

    def start(self, **ports: object) -> None:
        """Connect at once; the opening handshake is paid and not lost."""
        self._ports = Ports(**ports)  # type: ignore[arg-type]
        self._link = DeviceLink(
            device_id=self._who.device_id,
            bundle_digest=self._ports.bundle_digest,
            outbox_stream=self._ports.outbox.stream,
            highest_version=self._ports.highest_version,
            sign=functools.partial(self._who.key.sign, HELLO_PURPOSE),
        )
        self._far = self._connect()
        self._link.on_connected()
        while self._link.state != "open":
            frames = self._far.collect()
            if not frames:
                raise LinkError("the cloud in this process did not open a session")
            for data in frames:
                self.bytes_down += len(data)
                hello = [action.data for action in self._take(data) if isinstance(action, Send)]
                self.bytes_up += sum(map(len, hello))
                self._far.deliver(hello)

    def wake(self) -> None:
        """Nothing: the outbox is drained by `exchange`."""

    def stop(self, flush_s: float) -> None:
        """Nothing: there is no thread."""
        self.connected = False

    # -- the batch clock -----------------------------------------------------------------------------------------------

    def exchange(self, tick: int) -> None:
        """Send what the outbox has and what was lost before, and take the acknowledgements."""
        self._tick = tick
        outbox = self._ports.outbox
        if not outbox.flush(FLUSH_S):
            raise LinkError(f"the outbox was not written within {FLUSH_S:g} s ({outbox.last_error})")
        self._report()
        while True:
            offered = self._offer()
            if arrived := self._up.turn(tick):
                self._far.deliver(arrived)
            self.receive(tick)
            if not offered:
                break
        self._count()

    def receive(self, tick: int) -> None:
        """Take what the cloud has sent and the road has let through by now."""
        self._tick = tick
        for data in self._far.collect():
            pipe = self._versions if decode_frame(data).type == Version.TYPE else self._control
            pipe.put(data, tick=tick)
        for data in (*self._control.turn(tick), *self._versions.turn(tick)):
            self._take(data)
        self._count()

    def _offer(self) -> bool:
        link = self._link
        if not (room := min(link.credit_left_bytes, PEEK_BYTES)):
            return False
        actions = link.offer(self._durable(link.sent_sequence, room))
        for action in actions:
            assert isinstance(action, Send)
            self.samples_sent += action.purpose == "sample"
            self._up.put(action.data, tick=self._tick)
        return bool(actions)

    def _durable(self, after_sequence: int, room: int) -> list[tuple[int, bytes]]:
        """What is to be sent next, with its sequences: at most ``room`` bytes, if the first message fits."""
        frames = self._ports.outbox.peek(after_sequence, room)
        return frames if self._tamper is None else [(sequence, self._tamper(data)) for sequence, data in frames]

    def _acked(self, sequence: int) -> None:
        self._ports.outbox.ack(sequence)

    def _report(self) -> None:
        status = self._ports.status()
        if status.frames - self._reported_frames < STATUS_FRAMES:
            return
        self._reported_frames = status.frames
        for action in self._link.report(status):
            assert isinstance(action, Send)
            self._up.put(action.data, tick=self._tick)

    def _take(self, data: bytes) -> list[Action]:
        actions = self._link.on_bytes(data)
        for action in actions:
            match action:
                case Opened(welcome):
                    envelope = Envelope.verify(
                        welcome.envelope,
                        welcome.envelope_signature,
                        trust=self._who.release_key,
                        bundle_digest=self._ports.bundle_digest,
                    )
                    self._ports.on_envelope(envelope)
                    self.connected, self.last_error = True, None
                case AckedUpTo(sequence):
                    self._acked(sequence)
                case GotVersion(Version(manifest=manifest, signature=signature, payload=payload)):
                    self.versions_received += 1
                    self.largest_version_bytes = max(self.largest_version_bytes, len(data))
                    self._ports.on_version(SignedVersion(manifest=manifest, signature=signature, payload=payload))
                case Close(error):
                    raise error
                case Send():
                    pass
        return actions

    def _count(self) -> None:
        totals = (self._up.num_bytes, self._control.num_bytes + self._versions.num_bytes)
        self.bytes_up += totals[0] - self._counted[0]
        self.bytes_down += totals[1] - self._counted[1]
        self._counted = totals


def garbage(shape: tuple[int, int, int], num_classes: int, *, seed: int) -> Tamper:
    """What a hostile device sends in place of its samples: noise and a constant colour, in turns, labelled sure."""
    rng = np.random.default_rng([seed, 13])
    colour: Frame = np.broadcast_to(rng.integers(0, 256, shape[2], dtype=np.uint8), shape).copy()
    turn = 0

    def tamper(data: bytes) -> bytes:
        nonlocal turn
        frame = decode_frame(data)
        if frame.type != Sample.TYPE:
            return data
        message = from_frame(frame)
        assert isinstance(message, Sample)
        turn += 1
        image = rng.integers(0, 256, shape, dtype=np.uint8) if turn % 2 else colour
        false = replace(message, coding="raw", image=image.tobytes(), predicted=turn % num_classes, entropy_nats=0.0)
        return encode_frame(to_frame(false, stream=frame.stream, sequence=frame.sequence))

    return tamper
