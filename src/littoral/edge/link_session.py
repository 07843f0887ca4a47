"""One open connection of the device's link: what is read, what is sent, and in which order.

Interactive frames go before durable ones. A durable frame that is being written is not interrupted, but none is begun
while an interactive one is on its way to the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from littoral.bundle import Envelope, SignedVersion
from littoral.edge.identity import Identity, trust_bundle
from littoral.edge.outbox import Outbox
from littoral.errors import LinkError, ProtocolError, StorageError, UpdateRejected
from littoral.wire.link import (
    AckedUpTo,
    Action,
    Answered,
    Close,
    DeviceLink,
    GotLabels,
    GotVersion,
    Opened,
    RequestFailed,
    Send,
)
from littoral.wire.messages import Offload, OffloadAnswer, Status, Version, Welcome

if TYPE_CHECKING:
    from littoral.edge.link import CloudLink

_UNSENT_BYTES = 16_384
"""What the system may hold that it has not sent: nothing that is in there can be overtaken."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What the device gives to its link."""

    bundle_digest: bytes
    state_dir: Path
    outbox: Outbox
    highest_version: Callable[[], int]
    on_envelope: Callable[[Envelope], None]
    on_version: Callable[[SignedVersion], None]
    status: Callable[[], Status]
    on_labels: Callable[[bytes], None] | None = None
    """None: the device takes no labels."""


Outcome = OffloadAnswer | str
"""What becomes of a request: the cloud's word, or the code of a failure on this side: ``away``, ``timeout``, ``busy``
(too many pending), ``too-large`` (for a frame), ``no-pictures`` (this cloud answers none)."""


class FrameWriter:
    """Hands frames to a socket, the interactive ones first.

    Args:
        send: Hands over one frame and waits until the socket takes more.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._urgent = 0
        self._turn = asyncio.Lock()
        self._clear = asyncio.Event()
        self._clear.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def send_interactive(self, data: bytes, begins: Callable[[], bool] = lambda: True) -> None:
        """Send before anything durable that was not begun. Returns at once; a lost connection shows to the reader.

        Args:
            begins: Called when its turn has come; False drops it: nobody waits for it any more, and on a slow road it
                would hold up those that come after it.
        """
        self._urgent += 1
        self._clear.clear()
        task = asyncio.create_task(self._send_now(data, begins))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_now(self, data: bytes, begins: Callable[[], bool]) -> None:
        try:
            with contextlib.suppress(ConnectionClosed):
                async with self._turn:
                    if begins():
                        await self._send(data)
        finally:
            self._urgent -= 1
            if not self._urgent:
                self._clear.set()

    async def send(self, data: bytes) -> None:
        """Send when nothing interactive waits."""
        while self._urgent:
            await self._clear.wait()
        await self._send(data)


class Closed(Exception):
    """Ends a session with the error and what the cloud said about trying again."""

    def __init__(self, error: Exception, retry_after_ms: int | None = None) -> None:
        super().__init__(str(error))
        self.error, self.retry_after_ms = error, retry_after_ms


class LinkSession:
    """One open connection: reads, pumps the outbox, reports."""

    def __init__(self, owner: CloudLink, identity: Identity, link: DeviceLink, connection: ClientConnection) -> None:
        self._owner, self._ports, self._identity = owner, owner._ports, identity
        self._link, self._connection = link, connection
        self._writer = FrameWriter(connection.send)
        self._asked: dict[int, tuple[Callable[[Outcome], None], asyncio.TimerHandle]] = {}
        self._last_offload_s = -math.inf
        _keep_little_unsent(connection)

    async def run(self) -> None:
        """Read and pump until either ends, which is by an exception."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._pump())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            await self.read_one()

    async def read_one(self) -> None:
        """Take one message from the socket and do what follows from it."""
        try:
            data = await self._connection.recv()
        except ConnectionClosed as error:
            raise LinkError(f"the cloud at {self._owner.url} closed the session ({error})") from error
        if isinstance(data, str):
            raise ProtocolError("a text message came; the cloud at this URL does not speak Littoral's wire format")
        ignored = self._link.ignored_answers
        actions = self._link.on_bytes(data)
        purpose = "control" if self._link.ignored_answers == ignored else "answer"
        for action in actions:
            purpose = "version" if isinstance(action, GotVersion) else purpose
            purpose = "labels" if isinstance(action, GotLabels) else purpose
            purpose = "answer" if isinstance(action, Answered) else purpose
        self._owner.count(purpose, data)
        await self._do(actions)
        self._owner.woken.set()

    async def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send(data, purpose):
                    self._owner.count(purpose, data)
                    await self._writer.send(data)
                case Opened(welcome):
                    await self._open(welcome)
                case AckedUpTo(sequence):
                    self._ports.outbox.ack(sequence)
                case GotVersion(Version(manifest=manifest, signature=signature, payload=payload)):
                    self._ports.on_version(SignedVersion(manifest=manifest, signature=signature, payload=payload))
                case GotLabels(labels):
                    assert self._ports.on_labels is not None
                    self._ports.on_labels(labels)
                case Answered(answer):
                    self._tell(answer.request, answer)
                case RequestFailed(request, code):
                    self._tell(request, code)
                case Close(error, retry_after_ms):
                    raise Closed(error, retry_after_ms)

    # -- interactive ---------------------------------------------------------------------------------------------------

    def offload(self, request: Offload, *, wait_s: float, done: Callable[[Outcome], None], keep_s: float = 0.0) -> None:
        """Send a request before everything durable; ``done`` is called once, from this thread, and must be quick."""
        loop = asyncio.get_running_loop()
        self._last_offload_s = now_s = loop.time()
        over_s = now_s + wait_s + keep_s
        try:
            actions = self._link.offload(request, expires_ms=over_s * 1000)
        except ProtocolError:
            return done("too-large")
        timer = loop.call_at(over_s, self._expire, over_s)
        self._asked[request.request] = done, timer
        for action in actions:
            if isinstance(action, Send):
                begins = functools.partial(self._begins, request.request, action, now_s + wait_s)
                self._writer.send_interactive(action.data, begins)
            elif isinstance(action, RequestFailed):
                self._tell(action.request, action.code)

    def _begins(self, request: int, send: Send, until_s: float) -> bool:
        """Whether a request is still waited for now that the socket takes it; its bytes count only then."""
        if request not in self._asked or asyncio.get_running_loop().time() > until_s:
            return False
        self._owner.count(send.purpose, send.data)
        return True

    def _expire(self, at_s: float) -> None:
        """What was to end then ends: the loop calls this up to one step of its clock too early."""
        for action in self._link.expire(at_s * 1000):
            assert isinstance(action, RequestFailed)
            self._tell(action.request, action.code)

    def _tell(self, request: int, outcome: Outcome) -> None:
        done, timer = self._asked.pop(request)
        timer.cancel()
        done(outcome)

    def fail_pending(self) -> None:
        """The connection is gone: tell everyone who waits."""
        for action in self._link.on_disconnected():
            if isinstance(action, RequestFailed):
                self._tell(action.request, action.code)

    # -- durable -------------------------------------------------------------------------------------------------------

    async def _open(self, welcome: Welcome) -> None:
        envelope = Envelope.verify(
            welcome.envelope,
            welcome.envelope_signature,
            trust=self._identity.release_key,
            bundle_digest=self._ports.bundle_digest,
        )
        if envelope.cohort != self._identity.cohort:  # one of before, sent again, would have it forget what it has seen
            raise UpdateRejected(
                "other-cohort",
                f"the envelope is for the cohort {envelope.cohort!r}, this device is in {self._identity.cohort!r}; "
                "to move it, enrol it again",
            )
        outbox = self._ports.outbox
        if not outbox.acked_sequence <= welcome.acked_sequence <= outbox.last_sequence:
            came, expected = welcome.acked_sequence, f"{outbox.acked_sequence} to {outbox.last_sequence}"
            await asyncio.to_thread(outbox.renew_stream)
            raise LinkError(
                f"the cloud has messages up to {came}, this outbox expected {expected}: one of the two was restored "
                "from an older copy. What is queued is sent again under a new stream"
            )
        if (digest := self._ports.bundle_digest.hex()) not in self._identity.bundle_digests:
            with contextlib.suppress(OSError):  # then its signature is asked for at the next start
                await asyncio.to_thread(trust_bundle, self._ports.state_dir, self._identity, digest)
        self._ports.on_envelope(envelope)
        self._owner.opened(self, takes_pictures=self._link.takes_pictures)

    async def report(self) -> None:
        """Say the counters as a last word; that the connection is lost or too slow matters to nobody any more."""
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(self._owner.config.close_timeout_s):
                await self._do(self._link.report(self._ports.status()))

    async def _pump(self) -> None:
        loop, woken = asyncio.get_running_loop(), self._owner.woken
        report_at = loop.time()
        while True:
            woken.clear()
            await self._send_durable()
            if loop.time() >= report_at:
                report_at = loop.time() + self._owner.config.status_interval_s
                await self._do(self._link.report(self._ports.status()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(report_at):  # wait_for may swallow the cancellation that ends the session
                    await woken.wait()

    async def _send_durable(self) -> None:
        outbox, link = self._ports.outbox, self._link
        while room := self._room():
            try:
                frames = await asyncio.to_thread(outbox.peek, link.sent_sequence, room)
            except StorageError as error:
                self._owner.last_error = str(error)
                return
            self._owner.last_error = None
            if outbox.stream != link.outbox_stream:
                raise LinkError("the outbox began a new stream; the session is opened again")
            actions = link.offer(frames)
            if not actions:
                return
            await self._do(actions)

    def _room(self) -> int:
        """Durable bytes that may be sent now: few while requests are offloaded, which wait behind those on the road."""
        config, link = self._owner.config, self._link
        room = min(link.credit_left_bytes, config.peek_bytes)
        if asyncio.get_running_loop().time() - self._last_offload_s < config.shared_s:
            room = min(room, max(config.shared_bytes - link.in_flight_bytes, 0))
        return room


def _keep_little_unsent(connection: ClientConnection) -> None:
    """Where the system can, keep what it has not sent yet in our hands, so that a request does not wait behind it."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    raw = connection.transport.get_extra_info("socket")
    if option is not None and raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)
