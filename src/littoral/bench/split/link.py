"""Device to cloud to device over a socket with an emulated slow link, with the part that each step takes.

The link is a relay between two loopback sockets: each way it lets bytes through at a rate, one after another, and each
packet arrives a fixed time after it has left. The delay is half the round trip each way. A packet has 1,460 bytes at
most and pays 40 more for the headers of IP and TCP. Requests are made one at a time, so device, relay and cloud, in one
process, do not run at once; frames are sent by split and by picture in turns.

What is sent goes through an `Ask`, so that another wire can be put in the place of the plain socket.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

PACKET_BYTES, HEADER_BYTES = 1460, 40
_HEAD = struct.Struct("<BI")
_REPLY = struct.Struct("<dddd")
Answer = Callable[[int, bytes], bytes]
"""A kind of request and its body to the reply's body: the cloud."""


@dataclass(frozen=True, kw_only=True)
class LinkSpec:
    """An emulated link."""

    bits_per_second: float = 1e6
    round_trip_ms: float = 40.0

    def seconds_to_send(self, num_bytes: int) -> float:
        """Until the last bit has left."""
        packets = math.ceil(num_bytes / PACKET_BYTES)
        return 8 * (num_bytes + HEADER_BYTES * packets) / self.bits_per_second


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply and when it was where, in seconds of `time.perf_counter`.

    Attributes:
        cpu_s: What the thread that answered had of a processor between ``begun`` and ``done``.
    """

    body: bytes
    sent: float
    arrived: float
    begun: float
    done: float
    received: float
    cpu_s: float


class Ask(Protocol):
    """A way to the cloud and back."""

    def ask(self, kind: int, body: bytes) -> Reply:
        """Send a request and wait for its reply."""


class Relay:
    """An emulated link between two loopback sockets, in a thread of its own; a context manager.

    Args:
        answer: The cloud, in the same thread behind the link.
        forward_to: Without ``answer``, the port of the cloud.
    """

    def __init__(self, spec: LinkSpec, answer: Answer | None = None, *, forward_to: int = 0) -> None:
        self._spec, self._answer, self._cloud_port = spec, answer, forward_to
        self._ready: threading.Event = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        servers = []
        if self._answer is not None:
            servers.append(await asyncio.start_server(self._cloud, "127.0.0.1", 0))
            self._cloud_port = servers[0].sockets[0].getsockname()[1]
        relay = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = relay.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        for server in (relay, *servers):
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _kept(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._kept(asyncio.current_task())
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._cloud_port)
        except OSError:  # the cloud is away
            writer.close()
            return
        for end in (writer, far_writer):
            end.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.gather(self._way(reader, far_writer), self._way(far_reader, writer))
        except (asyncio.CancelledError, ConnectionError):
            pass  # the relay is stopped, or an end broke off
        finally:
            writer.close()
            far_writer.close()

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, free = asyncio.get_running_loop(), 0.0
        while data := await reader.read(1 << 16):
            free = max(free, loop.time()) + self._spec.seconds_to_send(len(data))
            loop.call_at(free + self._spec.round_trip_ms / 2e3, _deliver, writer, data)
        loop.call_at(max(free, loop.time()) + self._spec.round_trip_ms / 2e3, writer.close)

    async def _cloud(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._kept(asyncio.current_task())
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        try:
            while True:
                kind, size = _HEAD.unpack(await reader.readexactly(_HEAD.size))
                body = await reader.readexactly(size)
                arrived = time.perf_counter()
                reply, *times = await loop.run_in_executor(None, self._timed, kind, body)
                writer.write(_HEAD.pack(kind, len(reply)) + reply + _REPLY.pack(arrived, *times))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the device has left, or the relay is stopped
        finally:
            writer.close()

    def _timed(self, kind: int, body: bytes) -> tuple[bytes, float, float, float]:
        assert self._answer is not None
        begun, spent = time.perf_counter(), time.thread_time()
        reply = self._answer(kind, body)
        return reply, begun, time.perf_counter(), time.thread_time() - spent


def _deliver(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)


class PlainSocket:
    """An `Ask` over a TCP connection: a byte of kind, four of length, the body; a context manager."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, kind: int, body: bytes) -> Reply:
        """See `Ask`."""
        sent = time.perf_counter()
        self._socket.sendall(_HEAD.pack(kind, len(body)) + body)
        _, size = _HEAD.unpack(self._read(_HEAD.size))
        reply = self._read(size)
        arrived, begun, done, cpu_s = _REPLY.unpack(self._read(_REPLY.size))
        received = time.perf_counter()
        return Reply(body=reply, sent=sent, arrived=arrived, begun=begun, done=done, received=received, cpu_s=cpu_s)

    def _read(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = self._socket.recv(size - len(parts))
            if not part:
                raise ConnectionError("the cloud ended the connection")
            parts += part
        return parts


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a frame gets to its answer: what the device does before it sends, in two steps, and the kind of request."""

    name: str
    kind: int
    segment: Callable[[Any], Any]
    encode: Callable[[Any], bytes]


STEPS = ("segment", "encode", "up", "queue", "tail", "down")


def measure_ways(
    road: Ask,
    ways: Sequence[Way],
    frames: Sequence[Any],
    *,
    rounds: int,
    tell: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Per way the median of the whole and of each step in milliseconds, and the bytes sent; ways take turns.

    ``tail_cpu_ms`` is what the tail had of a processor: where its own time is more, other programs took turns with it.

    Args:
        tell: Hears how many rounds are done.
    """
    times: dict[str, list[list[float]]] = {way.name: [] for way in ways}
    sizes: dict[str, list[int]] = {way.name: [] for way in ways}
    cpu: dict[str, list[float]] = {way.name: [] for way in ways}
    for index in range(rounds + 2):
        for way in ways[:: -1 if index % 2 else 1]:
            frame = frames[index % len(frames)]
            started = time.perf_counter()
            value = way.segment(frame)
            cut = time.perf_counter()
            body = way.encode(value)
            reply = road.ask(way.kind, body)
            if index < 2:
                continue
            marks = [started, cut, reply.sent, reply.arrived, reply.begun, reply.done, reply.received]
            times[way.name].append([1e3 * (b - a) for a, b in pairwise(marks)])
            sizes[way.name].append(len(body))
            cpu[way.name].append(1e3 * reply.cpu_s)
        tell(max(0, index - 1))
    out = []
    for way in ways:
        steps = np.array(times[way.name])
        whole = steps.sum(axis=1)
        out.append(
            {
                "way": way.name,
                "latency_ms": round(float(np.median(whole)), 3),
                "latency_ms_p95": round(float(np.percentile(whole, 95)), 3),
                **{f"{step}_ms": round(float(np.median(steps[:, i])), 3) for i, step in enumerate(STEPS)},
                "tail_cpu_ms": round(float(np.median(cpu[way.name])), 3),
                "bytes": round(float(np.mean(sizes[way.name])), 1),
                "rounds": rounds,
            }
        )
    return out
