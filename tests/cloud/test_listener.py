"""How long a stranger may hold a connection, and how many the process may have."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from certificates import self_signed
from cloud_peer import fetch, running, write_bundle
from uvicorn.server import ServerState

from littoral.cloud import listener
from littoral.cloud.hub import Limits

PATIENCE_S = 0.3
OURS = listener._Loop
UPGRADE = (
    b"GET /v1/session HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def dial(url: str) -> socket.socket:
    host, port = url.partition("://")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "],
    ids=["nothing", "half-a-line", "half-a-header"],
)
def test_who_never_finishes_a_request_is_shut_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT_S", PATIENCE_S)
    with running(write_bundle(tmp_path / "b"), tmp_path / "s") as cloud, dial(cloud.url) as stranger:
        begun = time.monotonic()
        stranger.sendall(said)
        assert stranger.recv(100) == b""
        assert time.monotonic() - begun > PATIENCE_S / 2
        assert fetch(f"{cloud.url}/healthz")[0] == 200


@pytest.mark.parametrize("loop", [OURS, asyncio.SelectorEventLoop], ids=["ours", "pythons-own"])
def test_who_never_begins_tls_is_shut_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: type[asyncio.SelectorEventLoop]
) -> None:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(listener, "_Loop", loop)
    certificate, key = self_signed(tmp_path)
    config = {"tls_certificate": certificate, "tls_key": key}
    with running(write_bundle(tmp_path / "b"), tmp_path / "s", **config) as cloud, dial(cloud.url) as stranger:
        stranger.settimeout(3 * PATIENCE_S)
        with contextlib.nullcontext() if loop is OURS else pytest.raises(TimeoutError):
            assert stranger.recv(100) == b""


def test_uvicorn_alone_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without our protocol the same stranger keeps its connection."""
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(listener, "_ImpatientProtocol", listener.H11Protocol)
    with running(write_bundle(tmp_path / "b"), tmp_path / "s") as cloud, dial(cloud.url) as stranger:
        stranger.sendall(b"GET /healthz HT")
        stranger.settimeout(3 * PATIENCE_S)
        with pytest.raises(TimeoutError):
            stranger.recv(100)


def test_a_further_request_that_is_never_finished_ends_the_connection_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT_S", PATIENCE_S)
    with running(write_bundle(tmp_path / "b"), tmp_path / "s") as cloud, dial(cloud.url) as stranger:
        stranger.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"ok\n"):  # header and body may come apart
            answer += (came := stranger.recv(1000))
            assert came
        stranger.sendall(b"GET /hea")
        assert stranger.recv(1000) == b""


def test_who_is_slow_and_finishes_is_answered(tmp_path: Path) -> None:
    with running(write_bundle(tmp_path / "b"), tmp_path / "s") as cloud, dial(cloud.url) as slow:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
            slow.sendall(bytes([byte]))
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_long_answer_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT_S", PATIENCE_S)
    with running(write_bundle(tmp_path / "b"), tmp_path / "s") as cloud, dial(cloud.url) as watcher:
        watcher.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        ends, data = time.monotonic() + 4 * PATIENCE_S + 1, b""
        while time.monotonic() < ends:
            data += (came := watcher.recv(65_536))
            assert came
            if data.count(b"data:") >= 3:
                break
        assert data.count(b"data:") >= 2


def sent_in_pings(url: str) -> int:
    """How many bytes of pings a cloud takes from a peer that reads none of its pongs, in MiB; 32 at most."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stranger.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
        stranger.sendall(UPGRADE)
        assert stranger.recv(12) == b"HTTP/1.1 101"
        stranger.settimeout(1.0)
        ping, num_bytes = b"\x89\xfd" + bytes(4 + 125), 0
        pings = ping * 2_000
        with contextlib.suppress(TimeoutError):
            while num_bytes < 32 << 20:
                num_bytes += stranger.send(pings[num_bytes % len(ping) :])
        return num_bytes >> 20


def test_who_pings_and_reads_no_pong_is_not_read_any_more(tmp_path: Path) -> None:
    with running(write_bundle(tmp_path / "b"), tmp_path / "s") as cloud:
        assert sent_in_pings(cloud.url) < 24
        assert fetch(f"{cloud.url}/healthz")[0] == 200


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system cannot end such a connection")
@pytest.mark.parametrize("timeout_s", [0.3, 30.0], ids=["short", "longer-than-the-test"])
def test_who_takes_no_answer_is_shut_out_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: float
) -> None:
    ended, lost = threading.Event(), listener._ImpatientProtocol.connection_lost
    monkeypatch.setattr(listener, "TAKE_TIMEOUT_S", timeout_s)
    monkeypatch.setattr(listener, "GRACE_S", 0)
    monkeypatch.setattr(listener._ImpatientProtocol, "connection_lost", lambda *gone: (lost(*gone), ended.set()))
    with running(write_bundle(tmp_path / "b"), tmp_path / "s") as cloud, socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stranger.connect(("127.0.0.1", int(cloud.url.rsplit(":", 1)[1])))
        stranger.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 3_000)
        assert ended.wait(5.0 if timeout_s < 1 else 1.0) == (timeout_s < 1)


@pytest.mark.parametrize(
    ("limits", "set_to"), [((1_024, 4_096), 3_000), ((1_024, -1), 3_000), ((-1, -1), None), ((3_500, 4_096), None)]
)
def test_the_process_may_have_as_many_sockets_as_sessions(
    limits: tuple[int, int], set_to: int | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: asked.append(new))
    listener.allow_descriptors(
        Limits(max_sessions=2_000, max_handshakes=700, max_watchers=300 - listener.SPARE_DESCRIPTORS)
    )
    assert asked == ([] if set_to is None else [(set_to, limits[1])])
    assert not caplog.records


def test_where_the_system_allows_fewer_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 4_096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: asked.append(new))
    with caplog.at_level(logging.WARNING):
        listener.allow_descriptors(Limits(max_sessions=10_000))
    assert asked == [(4_096, 4_096)]
    assert "may open 4096 files and sockets, 10000 sessions need" in caplog.text


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: object = None
        self.closed = False

    def get_protocol(self) -> object:  # type: ignore[override]
        return self.protocol

    def write(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def app(scope: object, receive: object, send: object) -> None:
    """Answers nothing for as long as the test goes on."""
    await asyncio.sleep(3600)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[listener._ImpatientProtocol, Wire]]:
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    protocol, wire = listener._ImpatientProtocol(config, ServerState(), {}), Wire()
    wire.protocol = protocol
    protocol.connection_made(wire)
    yield protocol, wire
    for task in protocol.tasks:
        task.cancel()


def test_time_runs_only_while_a_request_is_waited_for() -> None:
    async def play() -> None:
        async with connected() as (protocol, wire):
            assert protocol._due is not None, "from the first moment"
            protocol.data_received(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert protocol._due is None, "an answer takes as long as it takes"
            protocol._give_up()  # a timer that had fired before it could be cancelled
            assert not wire.closed
            protocol.cycle.response_complete = True
            protocol.data_received(b"GET /b")
            assert protocol._due is not None
            protocol._give_up()
            assert wire.closed

    asyncio.run(play())


def test_a_connection_that_is_gone_or_has_become_another_protocols_has_no_time() -> None:
    async def play() -> None:
        async with connected() as (protocol, wire):
            protocol.connection_lost(None)
            assert protocol._due is None
        async with connected() as (protocol, wire):
            wire.protocol = object()
            protocol._give_up()
            assert not wire.closed
        async with connected() as (protocol, wire):
            wire.protocol = object()
            protocol._wait_for_request()
            assert protocol._due is None

    asyncio.run(play())


def test_all_addresses_of_ipv6_are_those_of_ipv4_too() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this system has no IPv6")
    if not socket.has_dualstack_ipv6():
        pytest.skip("this system has not both at once")
    with listener.listen("::", 0) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=5).close()
