"""The device's WebSocket to the cloud: one daemon thread that moves bytes between the outbox and the wire.

What may be said when is `littoral.wire.link.DeviceLink`; this module dials out, keeps trying, checks that the cloud is
the one this device was enrolled with, and counts bytes at the socket. Nothing here is on the path of an answer.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from littoral.bundle import Envelope, SignedVersion
from littoral.edge.counted import CountedConnection
from littoral.edge.identity import Identity, enrol, tls_context, warn_if_in_the_clear, websocket_url, why_unreachable
from littoral.edge.link_session import Closed, LinkSession, Outcome, Ports
from littoral.edge.outbox import Outbox
from littoral.errors import LinkError, LinkRefused, StorageError, UpdateRejected
from littoral.wire.envelope import MAX_FRAME_BYTES
from littoral.wire.link import MAX_RETRY_AFTER_MS, Backoff, DeviceLink
from littoral.wire.messages import HELLO_PURPOSE, TAKES_LABELS, Offload, Status

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
    ``shared_bytes``: how many durable bytes may be unacknowledged while requests are offloaded, that is for
    ``shared_s`` after each: a request waits behind what is on the road already.
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
    shared_bytes: int = 16_384
    shared_s: float = 1.0
    ca_file: Path | None = None
    seed: int | None = None
    """Of the jitter; None for one that differs from device to device, as a fleet needs."""


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
        warn_if_in_the_clear(url)
        self.config = config or LinkConfig()
        self.connected = False
        """True while a session is open and its envelope was verified."""
        self.last_error: str | None = None
        """Why there is no session, or what was wrong last; None once a session is open."""
        self.takes_pictures = False
        """Whether the cloud of the open session answers pictures."""
        self.bytes_up = 0
        """Bytes written to the socket, WebSocket framing included, TLS and TCP not."""
        self.bytes_down = 0
        self._purposes: Counter[str] = Counter()
        self.token = token
        """A secret, for as long as it is not redeemed; None after that."""
        self._name = name or socket.gethostname()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._serving: LinkSession | None = None
        """The session that is open, its envelope verified."""
        self._requests = itertools.count(1)

    @property
    def bytes_by_purpose(self) -> dict[str, int]:
        """Up: hello, status, sample, receipt, scene, offload. Down: version, labels, control, answer.

        ``overhead`` is HTTP, framing and pings, both ways.
        """
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
        on_labels: Callable[[bytes], None] | None = None,
    ) -> None:
        """Start the thread. The callables are called from it and must be quick.

        Args:
            on_labels: Given what comes of the teacher's answers; without it the cloud is not asked to send any.
        Raises:
            RuntimeError: started before.
            LinkError: the thread cannot run, such as for want of file descriptors.
        """
        if self._thread is not None:
            raise RuntimeError("a link is started once; make a new one")
        self._ports = Ports(
            bundle_digest=bundle_digest,
            state_dir=state_dir,
            outbox=outbox,
            highest_version=highest_version,
            on_envelope=on_envelope,
            on_version=on_version,
            status=status,
            on_labels=on_labels,
        )
        outbox.on_stored = self.wake
        self._thread = threading.Thread(target=self._run, name="littoral-link", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._loop is None:
            raise LinkError(f"the link to {self.url} cannot run: {self.last_error}")

    def wake(self) -> None:
        """Say that there is something in the outbox."""
        self._signal(lambda: self.woken.set())

    def offload(
        self,
        payload: bytes,
        *,
        split: int,
        version: int,
        deadline_ms: int,
        wait_s: float,
        done: Callable[[Outcome], None],
        keep_s: float = 0.0,
        coding: str = "",
    ) -> None:
        """Ask the cloud to finish a frame. Returns at once.

        Args:
            payload: What the encoder of the split point made, or a picture of the frame.
            split: The split point's number in the bundle, 0 to 255.
            version: The affine version that the segments before it ran with.
            deadline_ms: From its arrival in the cloud to the sending of the answer, 1 to 3,600,000.
            wait_s: After so long it is not sent any more, where the socket has not taken it.
            keep_s: So long after that the request is forgotten, and an answer is ignored.
            coding: Of a picture (`littoral.bundle.images.encode_image`); a cloud that does not take any is not sent it,
                which ends in ``no-pictures``.
            done: Called with what became of it, from the link's thread or from here; must be quick. It is not called
                when the link is stopped in this very moment, so wait with a limit of your own.
        """

        def ask() -> None:
            session = self._serving
            if session is None:
                return done("away")
            request = Offload(
                request=next(self._requests),
                split=split,
                version=version,
                payload=payload,
                deadline_ms=deadline_ms,
                coding=coding,
            )
            session.offload(request, wait_s=wait_s, keep_s=keep_s, done=done)

        if not self.connected or not self._signal(ask):
            done("away")

    def stop(self, flush_s: float) -> None:
        """Give the outbox ``flush_s`` to empty, close the session, end the thread. A second call does nothing."""
        if self._thread is None:
            return
        self._flush_s = flush_s
        self._signal(lambda: self._stopping.set())
        self._thread.join(flush_s + self.config.close_timeout_s + self.config.open_timeout_s)

    def _signal(self, call: Callable[[], None]) -> bool:
        """Have the link's thread call this; False if there is none any more."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return False
        try:
            loop.call_soon_threadsafe(call)
        except RuntimeError:  # closed in this very moment
            return False
        return True

    # The link's thread.

    def count(self, purpose: str, data: bytes) -> None:
        """Bytes of a message, by what it is for."""
        self._purposes[purpose] += len(data)

    def opened(self, session: LinkSession, *, takes_pictures: bool) -> None:
        """A session is open, its envelope verified."""
        self._serving, self.takes_pictures = session, takes_pictures
        self.connected, self.last_error = True, None

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.get_loop()  # it is made here, before there is a coroutine that nobody would run
                runner.run(self._main())
        except OSError as error:  # no descriptor for an event loop
            self._say(str(error))
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.woken, self._stopping = asyncio.Event(), asyncio.Event()
        self._ready.set()
        live = asyncio.create_task(self._live())
        await self._stopping.wait()
        deadline = self._loop.time() + self._flush_s
        while self._ports.outbox.queued and not live.done() and self._loop.time() < deadline:
            await asyncio.sleep(_FLUSH_POLL_S)
        if self._serving is not None and self._flush_s > 0:
            await self._serving.report()
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
            except Closed as closed:
                self._say(str(closed.error))
                retry_after_ms = closed.retry_after_ms
            except (OSError, WebSocketException) as error:  # before ValueError, which a certificate's error is as well
                self._say(why_unreachable(self.url, error))
                retry_after_ms = _retry_after_ms(error)
            except (LinkError, UpdateRejected, StorageError, ValueError) as error:
                self._say(str(error))
                final = isinstance(error, LinkRefused) and error.code not in _PASSING
                retry_after_ms = 0 if final else None
            except Exception:
                log.exception("the link failed; it goes on")
                self._say("the link failed; see the log")
            finally:
                was_open, self.connected, self.takes_pictures = self.connected, False, False
                self._serving = None
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
            if self.token is None:
                raise LinkRefused("not-enrolled", "not enrolled yet; run 'littoral enrol redeem', or give a token")
            identity = await self._enrol(self.token)
        return identity

    async def _enrol(self, token: str) -> Identity:
        call = functools.partial(enrol, self.url, token, self._ports.state_dir, self._name, ca_file=self.config.ca_file)
        identity = await asyncio.to_thread(call)
        log.info("enrolled as %s in the cohort %s", identity.device_id, identity.cohort)
        self.token = None
        return identity

    async def _session(self, identity: Identity) -> None:
        """One connection from its opening to its end; always ends by an exception."""
        link = DeviceLink(
            device_id=identity.device_id,
            bundle_digest=self._ports.bundle_digest,
            outbox_stream=self._ports.outbox.stream,
            highest_version=self._ports.highest_version,
            sign=functools.partial(identity.key.sign, HELLO_PURPOSE),
            takes=0 if self._ports.on_labels is None else TAKES_LABELS,
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
            session = LinkSession(self, identity, link, connection)
            link.on_connected()
            try:
                async with asyncio.timeout(self.config.open_timeout_s):
                    while link.state != "open":
                        await session.read_one()
            except TimeoutError as error:
                raise LinkError(f"the cloud at {self.url} did not open a session in time") from error
            except Closed as closed:
                if self.token is not None and closed.retry_after_ms == 0:
                    await self._enrol(self.token)
                    raise Closed(closed.error) from closed
                raise
            try:
                await session.run()
            finally:
                session.fail_pending()


def _retry_after_ms(error: Exception) -> int | None:
    """What an HTTP answer in place of the upgrade asks for, at least a millisecond so that it never means "stop"."""
    if not isinstance(error, InvalidStatus):
        return None
    text = error.response.headers.get("Retry-After", "")
    if not (text.isascii() and text.isdigit()):
        return None
    return max(1, min(int(text[:9]) * 1000, MAX_RETRY_AFTER_MS))  # Python refuses to read thousands of digits
