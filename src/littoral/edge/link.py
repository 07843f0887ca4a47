"""The device's WebSocket to the cloud: one daemon thread that moves bytes between the outbox and the wire.

What may be said when is `littoral.wire.link.DeviceLink`; this module dials out, keeps trying, checks that the cloud is
the one this device was enrolled with, and counts bytes at the socket. Nothing here is on the path of an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from littoral.bundle import Envelope, SignedVersion
from littoral.edge.counted import CountedConnection
from littoral.edge.identity import Identity, enrol, tls_context, websocket_url
from littoral.edge.outbox import Outbox
from littoral.errors import LinkError, LinkRefused, ProtocolError, StorageError, UpdateRejected
from littoral.wire.envelope import MAX_FRAME_BYTES
from littoral.wire.link import AckedUpTo, Action, Backoff, Close, DeviceLink, GotVersion, Opened, Send
from littoral.wire.messages import HELLO_PURPOSE, Status, Version, Welcome

log = logging.getLogger("littoral.edge.link")

SESSION_PATH = "/v1/session"
_FLUSH_POLL_S = 0.02
_PASSING = ("busy", "storage")
"""Refusals that pass by themselves."""


@dataclass(frozen=True, kw_only=True)
class LinkConfig:
    """How the device keeps in touch.

    ``settled_s``: a session that lasted this long makes the next wait short again, so a cloud that takes devices and
    drops them at once is not stormed. ``refused_retry_s``: how often a device asks again that was told not to.
    """

    status_interval_s: float = 2.0
    ping_interval_s: float = 20.0
    open_timeout_s: float = 10.0
    close_timeout_s: float = 1.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 120.0
    settled_s: float = 10.0
    refused_retry_s: float = 60.0
    peek_bytes: int = 262_144
    ca_file: Path | None = None
    seed: int | None = None
    """Of the jitter; None for one that differs from device to device, as a fleet needs."""


@dataclass(frozen=True, kw_only=True)
class _Ports:
    """What the device gives to its link."""

    bundle_digest: bytes
    state_dir: Path
    outbox: Outbox
    highest_version: Callable[[], int]
    on_envelope: Callable[[Envelope], None]
    on_version: Callable[[SignedVersion], None]
    status: Callable[[], Status]


class _Closed(Exception):
    """Ends a session with the error and what the cloud said about trying again."""

    def __init__(self, error: Exception, retry_after_ms: int | None = None) -> None:
        super().__init__(str(error))
        self.error, self.retry_after_ms = error, retry_after_ms


class CloudLink:
    """The way to one cloud.

    Args:
        url: ``wss://host``; also ws, https and http.
        config: See `LinkConfig`.
        token: Redeemed once when the device is not enrolled yet, or is refused as one that is not.
        name: What people call this device; the host's name when not given.
    Raises:
        ValueError: not a URL of a cloud.
    """

    def __init__(
        self, url: str, *, config: LinkConfig | None = None, token: str | None = None, name: str | None = None
    ) -> None:
        self.url = websocket_url(url)
        self.config = config or LinkConfig()
        self.connected = False
        """True while a session is open and its envelope was verified."""
        self.last_error: str | None = None
        """Why there is no session, or what was wrong last; None once a session is open."""
        self.bytes_up = 0
        """Bytes written to the socket, WebSocket framing included, TLS and TCP not."""
        self.bytes_down = 0
        self._purposes: Counter[str] = Counter()
        self._token, self._name = token, name or socket.gethostname()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()

    @property
    def bytes_by_purpose(self) -> dict[str, int]:
        """Up: hello, status, sample, receipt. Down: version, control. ``overhead``: HTTP, framing, pings."""
        known = dict(self._purposes)
        return {**known, "overhead": max(0, self.bytes_up + self.bytes_down - sum(known.values()))}

    # What the device calls, from any thread.

    def start(
        self,
        *,
        bundle_digest: bytes,
        state_dir: Path,
        outbox: Outbox,
        highest_version: Callable[[], int],
        on_envelope: Callable[[Envelope], None],
        on_version: Callable[[SignedVersion], None],
        status: Callable[[], Status],
    ) -> None:
        """Start the thread. The callables are called from it and must be quick.

        Raises:
            RuntimeError: started before.
        """
        if self._thread is not None:
            raise RuntimeError("a link is started once; make a new one")
        self._ports = _Ports(
            bundle_digest=bundle_digest,
            state_dir=state_dir,
            outbox=outbox,
            highest_version=highest_version,
            on_envelope=on_envelope,
            on_version=on_version,
            status=status,
        )
        outbox.on_stored = self.wake
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="littoral-link", daemon=True)
        self._thread.start()
        self._ready.wait()

    def wake(self) -> None:
        """Say that there is something in the outbox."""
        self._signal(lambda: self._woken.set())

    def stop(self, flush_seconds: float) -> None:
        """Give the outbox ``flush_seconds`` to empty, close the session, end the thread. A second call does nothing."""
        if self._thread is None:
            return
        self._flush_seconds = flush_seconds
        self._signal(lambda: self._stopping.set())
        self._thread.join(flush_seconds + self.config.close_timeout_s + self.config.open_timeout_s)

    def _signal(self, call: Callable[[], None]) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(call)
            except RuntimeError:  # closed in this very moment
                return

    # The link's thread.

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken, self._stopping = asyncio.Event(), asyncio.Event()
        self._ready.set()
        live = asyncio.create_task(self._live())
        await self._stopping.wait()
        deadline = self._loop.time() + self._flush_seconds
        while self._ports.outbox.queued and not live.done() and self._loop.time() < deadline:
            await asyncio.sleep(_FLUSH_POLL_S)
        live.cancel()
        await asyncio.wait([live])
        self._ports.outbox.on_stored = None

    async def _live(self) -> None:
        """Session after session, with a wait between them, until cancelled."""
        backoff = Backoff(
            rng=random.Random(self.config.seed),
            first_s=self.config.first_wait_s,
            longest_s=self.config.longest_wait_s,
        )
        while True:
            began = asyncio.get_running_loop().time()
            retry_after_ms = None
            try:
                await self._session(await self._identity())
            except _Closed as closed:
                self._say(str(closed.error))
                retry_after_ms = closed.retry_after_ms
            except (LinkError, UpdateRejected, ValueError) as error:
                self._say(str(error))
                final = isinstance(error, LinkRefused) and error.code not in _PASSING
                retry_after_ms = 0 if final else None
            except (OSError, WebSocketException) as error:
                self._say(f"the cloud at {self.url} cannot be reached ({error or type(error).__name__})")
                retry_after_ms = _retry_after_ms(error)
            except Exception:
                log.exception("the link failed; it goes on")
                self._say("the link failed; see the log")
            finally:
                was_open, self.connected = self.connected, False
            if was_open and asyncio.get_running_loop().time() - began >= self.config.settled_s:
                backoff.reset()
            wait_s = backoff.next_wait_s(retry_after_ms)
            await asyncio.sleep(self.config.refused_retry_s if wait_s is None else wait_s)

    def _say(self, message: str) -> None:
        if message != self.last_error:
            log.warning("%s", message)
        self.last_error = message

    async def _identity(self) -> Identity:
        state_dir = self._ports.state_dir
        identity = Identity.load(state_dir)
        if identity is None:
            if self._token is None:
                raise LinkRefused("not-enrolled", "this device is not enrolled; run 'littoral enrol' or give a token")
            identity = await self._enrol(self._token)
        return identity

    async def _enrol(self, token: str) -> Identity:
        call = functools.partial(enrol, self.url, token, self._ports.state_dir, self._name, ca_file=self.config.ca_file)
        identity = await asyncio.to_thread(call)
        log.info("enrolled as %s in the cohort %s", identity.device_id, identity.cohort)
        self._token = None
        return identity

    async def _session(self, identity: Identity) -> None:
        """One connection from its opening to its end; always ends by an exception."""
        link = DeviceLink(
            device_id=identity.device_id,
            bundle_digest=self._ports.bundle_digest,
            outbox_stream=self._ports.outbox.stream,
            highest_version=self._ports.highest_version,
            sign=functools.partial(identity.key.sign, HELLO_PURPOSE),
        )
        async with connect(
            websocket_url(self.url, SESSION_PATH),
            ssl=tls_context(self.url, self.config.ca_file),
            compression=None,
            max_size=MAX_FRAME_BYTES,
            open_timeout=self.config.open_timeout_s,
            ping_interval=self.config.ping_interval_s,
            close_timeout=self.config.close_timeout_s,
            create_connection=cast("type[ClientConnection]", functools.partial(CountedConnection, tally=self)),
        ) as connection:
            session = _Session(self, identity, link, connection)
            link.on_connected()
            try:
                async with asyncio.timeout(self.config.open_timeout_s):
                    while link.state != "open":
                        await session.read_one()
            except TimeoutError as error:
                raise LinkError(f"the cloud at {self.url} did not open a session in time") from error
            except _Closed as closed:
                if self._token is not None and closed.retry_after_ms == 0:
                    await self._enrol(self._token)
                    raise _Closed(closed.error) from closed
                raise
            await session.run()


class _Session:
    """One open connection: reads, pumps the outbox, reports."""

    def __init__(self, owner: CloudLink, identity: Identity, link: DeviceLink, connection: ClientConnection) -> None:
        self._owner, self._ports, self._identity = owner, owner._ports, identity
        self._link, self._connection = link, connection

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
        actions = self._link.on_bytes(data)
        got_version = any(isinstance(action, GotVersion) for action in actions)
        self._owner._purposes["version" if got_version else "control"] += len(data)
        await self._do(actions)
        self._owner._woken.set()

    async def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send(data, purpose):
                    self._owner._purposes[purpose] += len(data)
                    await self._connection.send(data)
                case Opened(welcome):
                    await self._open(welcome)
                case AckedUpTo(sequence):
                    self._ports.outbox.ack(sequence)
                case GotVersion(Version(manifest=manifest, signature=signature, payload=payload)):
                    self._ports.on_version(SignedVersion(manifest=manifest, signature=signature, payload=payload))
                case Close(error, retry_after_ms):
                    raise _Closed(error, retry_after_ms)

    async def _open(self, welcome: Welcome) -> None:
        envelope = Envelope.verify(
            welcome.envelope,
            welcome.envelope_signature,
            trust=self._identity.release_key,
            bundle_digest=self._ports.bundle_digest,
        )
        outbox = self._ports.outbox
        if not outbox.acked_sequence <= welcome.acked_sequence <= outbox.last_sequence:
            came, expected = welcome.acked_sequence, f"{outbox.acked_sequence} to {outbox.last_sequence}"
            await asyncio.to_thread(outbox.renew_stream)
            raise LinkError(
                f"the cloud has messages up to {came}, this outbox expected {expected}: one of the two was restored "
                "from an older copy. What is queued is sent again under a new stream"
            )
        self._ports.on_envelope(envelope)
        self._owner.connected, self._owner.last_error = True, None

    async def _pump(self) -> None:
        loop, woken = asyncio.get_running_loop(), self._owner._woken
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
        while room := min(link.can_send(), self._owner.config.peek_bytes):
            try:
                frames = await asyncio.to_thread(outbox.peek, link.sent_sequence, room)
            except StorageError as error:
                self._owner.last_error = str(error)
                return
            if outbox.stream != link.outbox_stream:
                raise LinkError("the outbox began a new stream; the session is opened again")
            actions = link.offer(frames)
            if not actions:
                return
            await self._do(actions)


def _retry_after_ms(error: Exception) -> int | None:
    """What an HTTP answer in place of the upgrade asks for, at least a millisecond so that it never means "stop"."""
    if not isinstance(error, InvalidStatus):
        return None
    text = error.response.headers.get("Retry-After", "")
    return max(1, min(int(text), 3600) * 1000) if text.isascii() and text.isdigit() else None
