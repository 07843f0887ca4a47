"""The port: a socket, the gateway's event loop in a thread, and how long a stranger may hold a connection."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import threading
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from littoral.cloud.gateway import make_app
from littoral.cloud.hub import Hub, Limits
from littoral.errors import LittoralError
from littoral.wire.envelope import MAX_FRAME_BYTES

PING_INTERVAL_S = 20.0
BACKLOG = 2_048
GRACE_S = 3
"""How long open requests may go on when the cloud stops."""
REQUEST_TIMEOUT_S = 10.0
"""From a connection's opening, or the first byte of a further request, to the end of the request's header; and for the
handshake of TLS before it."""
TAKE_TIMEOUT_S = 30.0
"""For a peer to take something of what waits for it; after it the system ends the connection, where it can."""
SPARE_DESCRIPTORS = 256
"""For files, models and the record."""

log = logging.getLogger(__name__)


class _ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP, for which a peer that never finishes its request would hold its connection for ever."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_request(self) -> None:
        if self._is_answering() or self.transport.get_protocol() is not self:  # a WebSocket has limits of its own
            self._stop_waiting()
        elif self._due is None:
            self._due = self.loop.call_later(REQUEST_TIMEOUT_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._due = None
        if not self._is_answering() and self.transport.get_protocol() is self:
            self.transport.close()


class _EvenProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which reads from a peer that reads nothing: its pongs to it would fill the memory."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_on_or_not()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on_or_not()

    async def receive(self) -> Any:
        event = await super().receive()
        self._read_on_or_not()
        return event

    def _read_on_or_not(self) -> None:
        if self.transport.is_closing():  # over TLS it is not to be touched then
            return
        if self.read_paused or not self.writable.is_set():
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose servers wait for the handshake of TLS no longer than for a request."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = REQUEST_TIMEOUT_S
        return await super().create_server(*args, **options)


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class Listener:
    """The gateway's event loop in a thread.

    Args:
        sock: Listens already (`listen`).
        certificate: PEM chain; with ``key`` the socket speaks TLS.
    """

    def __init__(self, hub: Hub, sock: socket.socket, *, certificate: Path | None, key: Path | None) -> None:
        config = uvicorn.Config(
            make_app(hub),
            http=_ImpatientProtocol,
            ws=_EvenProtocol,
            ws_max_size=MAX_FRAME_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=PING_INTERVAL_S,
            ws_ping_timeout=PING_INTERVAL_S,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_S,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        self._server, self._hub, self._socket = _Server(config), hub, sock
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="littoral-gateway", daemon=True)

    def start(self) -> None:
        """Start and wait until connections are served; `LittoralError` when they cannot be."""
        self._thread.start()
        self._server.ready.wait()
        if self._problem is not None:
            raise LittoralError(
                f"the listener cannot be set up: {self._problem}; check the TLS files"
            ) from self._problem

    def stop(self) -> None:
        """End all sessions and the loop."""
        if self._hub.loop is not None and not self._hub.loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop ended just now
                self._hub.loop.call_soon_threadsafe(self._hub.stop)
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_Loop) as runner:
                runner.run(self._serve())
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- the thread's outermost frame; start() reports it
            log.error("the listener ended: %s", error)
            self._problem = error
        finally:
            self._server.ready.set()

    async def _serve(self) -> None:
        self._hub.begin()
        await self._server.serve(sockets=[self._socket])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that the port is ours before anything else is touched."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        everywhere = address[0] == "::" and socket.has_dualstack_ipv6()  # else a device of IPv4 would not get in
        sock = socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=everywhere)
        if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:  # its connections have it from it
            sock.setsockopt(socket.IPPROTO_TCP, option, round(TAKE_TIMEOUT_S * 1000))
        return sock
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LittoralError(
                f"port {port} on {host} is in use; stop what listens there, or choose another with --port (0: any free)"
            ) from error
        raise LittoralError(f"cannot listen on {host} port {port} ({error}); choose another host or port") from error


def allow_descriptors(limits: Limits) -> None:
    """Let this process have as many sockets as it has promised; a warning where the system does not allow it."""
    wanted = limits.max_sessions + limits.max_handshakes + limits.max_watchers + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        with contextlib.suppress(OSError, ValueError):  # a system with rules of its own; it goes on with what there is
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning(
            "this process may open %d files and sockets, %d sessions need %d; raise the limit (ulimit -n), or set "
            "max_sessions lower",
            allowed,
            limits.max_sessions,
            wanted,
        )
