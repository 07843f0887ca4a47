"""The device's WebSocket against a small cloud in this process: what is promised holds whatever the road does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from certificates import self_signed
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.sync.server import Server, ServerConnection, serve
from websockets.utils import accept_key

from attacks.target import COHORT, RELEASE, STRANGER, make_bundle, make_envelope, make_version, sign_envelope
from littoral.bundle import Bundle, Envelope, SignedVersion, SigningKey
from littoral.edge.identity import ENROLMENT_FILE, KEY_FILE, Identity
from littoral.edge.link import CloudLink, LinkConfig, _retry_after_ms
from littoral.edge.outbox import Outbox
from littoral.errors import LinkError, StorageError
from littoral.wire.envelope import Frame, decode_frame, encode_frame
from littoral.wire.messages import (
    HELLO_PURPOSE,
    Ack,
    Challenge,
    Credit,
    Hello,
    Message,
    Refusal,
    Sample,
    Status,
    Version,
    Welcome,
    from_frame,
    hello_message,
    to_frame,
)

WAIT_S = 10.0
FAST = LinkConfig(
    first_wait_s=0.01, longest_wait_s=0.02, refused_retry_s=0.02, status_interval_s=0.05, close_timeout_s=0.2, seed=1
)


@dataclass
class TinyCloud:
    """One device's cloud. What it does wrong is set by the test; what it got is kept across connections."""

    bundle: Bundle
    release: SigningKey = RELEASE
    cohort: str = COHORT
    credit_bytes: int = 1_000_000
    refusal: Refusal | None = None
    text: str | None = None
    garbage: bytes | None = None
    cut_after: int | None = None
    lose_acks: bool = False
    acked_sequence: int = 0
    version: SignedVersion | None = None
    rules: threading.Condition = field(default_factory=threading.Condition)
    hellos: list[Hello] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    applied: dict[tuple[int, int], int] = field(default_factory=dict)
    statuses: list[Status] = field(default_factory=list)
    closed: int = 0
    socket: ServerConnection | None = None

    def handle(self, socket: ServerConnection) -> None:
        try:
            self._session(socket)
        except ConnectionClosed:
            pass
        finally:
            with self.rules:
                self.closed += 1
                self.rules.notify_all()

    def _session(self, socket: ServerConnection) -> None:
        if self.text is not None:
            socket.send(self.text)
        if self.garbage is not None:
            socket.send(self.garbage)
        nonce = os.urandom(32)
        send(socket, Challenge(nonce=nonce))
        hello = receive(socket)
        assert isinstance(hello, Hello)
        self.nonce = nonce
        with self.rules:
            self.hellos.append(hello)
            self.rules.notify_all()
        if self.refusal is not None:
            send(socket, self.refusal)
            return
        envelope, signature = sign_envelope(make_envelope(self.bundle, cohort=self.cohort), self.release)
        send(
            socket,
            Welcome(
                acked_sequence=self.acked_sequence,
                credit_bytes=self.credit_bytes,
                envelope=envelope,
                envelope_signature=signature,
            ),
        )
        self.socket = socket
        if self.version is not None:
            v = self.version
            send(socket, Version(manifest=v.manifest, signature=v.signature, payload=v.payload))
        while True:
            self._take(socket, decode_frame(socket.recv()))  # type: ignore[arg-type]

    def _take(self, socket: ServerConnection, frame: Frame) -> None:
        message = from_frame(frame)
        with self.rules:
            if isinstance(message, Status):
                self.statuses.append(message)
            else:
                self.frames.append(frame)
                self.applied.setdefault((frame.stream, frame.sequence), message.frame_id)  # type: ignore[union-attr]
                self.acked_sequence = max(self.acked_sequence, frame.sequence)
            self.rules.notify_all()
            if self.cut_after is not None and len(self.frames) >= self.cut_after:
                self.cut_after = None
                socket.socket.close()
                raise ConnectionClosed(None, None)
        if not isinstance(message, Status) and not self.lose_acks:
            send(socket, Ack(sequence=frame.sequence))

    def wait(self, condition: Callable[[], Any]) -> None:
        with self.rules:
            assert self.rules.wait_for(condition, WAIT_S), "the cloud waited in vain"


def send(socket: ServerConnection, message: Message) -> None:
    socket.send(encode_frame(to_frame(message)))


def receive(socket: ServerConnection) -> Message:
    data = socket.recv(timeout=WAIT_S)
    assert isinstance(data, bytes)
    return from_frame(decode_frame(data))


@contextmanager
def serving(cloud: TinyCloud, port: int = 0, **kwargs: Any) -> Iterator[str]:
    server: Server = serve(cloud.handle, "127.0.0.1", port, compression=None, max_size=2**20, **kwargs)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
        thread.join()
        if cloud.socket is not None:
            cloud.socket.close()


@dataclass
class TinyDevice:
    """A link with its outbox, and what the device would get from it."""

    bundle: Bundle
    state_dir: Path
    envelopes: list[Envelope] = field(default_factory=list)
    versions: list[SignedVersion] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.state_dir / "outbox.db", capacity_bytes=10_000_000)

    def start(self, url: str, *, config: LinkConfig = FAST, token: str | None = None) -> CloudLink:
        self.link = CloudLink(url, config=config, token=token, name="porch")
        self.link.start(
            bundle_digest=self.bundle.digest,
            state_dir=self.state_dir,
            outbox=self.outbox,
            highest_version=lambda: 7,
            on_envelope=lambda envelope: self._note(self.envelopes, envelope),
            on_version=lambda version: self._note(self.versions, version),
            status=lambda: Status(version=1, frames=2, selected=3, queued=4, dropped=5, statistics_resets=6),
        )
        return self.link

    def _note(self, where: list[Any], what: Any) -> None:
        with self.changed:
            where.append(what)
            self.changed.notify_all()

    def put(self, *frame_ids: int, num_bytes: int = 100) -> None:
        for frame_id in frame_ids:
            image = bytes(num_bytes)
            sample = Sample(
                frame_id=frame_id, version=0, predicted=0, entropy_nats=0.1, coding="raw", image=image, scene=0
            )
            self.outbox.put(sample, value=1.0)

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait for something that is not announced: an attribute of the link."""
        pause = threading.Event()
        for _ in range(int(WAIT_S / 0.005)):
            if condition():
                return
            pause.wait(0.005)
        raise AssertionError(f"the device waited in vain; the link says {self.link.last_error}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def cloud(bundle: Bundle) -> TinyCloud:
    return TinyCloud(bundle)


@pytest.fixture
def device(bundle: Bundle, tmp_path: Path) -> Iterator[TinyDevice]:
    enrolled(tmp_path)
    device = TinyDevice(bundle, tmp_path)
    yield device
    if hasattr(device, "link"):
        device.link.stop(0.0)
        assert not device.link._thread.is_alive()  # type: ignore[union-attr]
    device.outbox.close()


def enrolled(state_dir: Path) -> Identity:
    key = SigningKey.load_or_make(state_dir / KEY_FILE)
    identity = Identity(device_id="d-1", cohort="harbour", cloud_url="ws://cloud", release_key=RELEASE.public, key=key)
    identity.save(state_dir)
    return identity


def test_a_session_is_opened_signed_and_carries_everything(cloud: TinyCloud, device: TinyDevice) -> None:
    cloud.version = make_version(cloud.bundle, 8)
    device.put(*range(20))
    with serving(cloud) as url:
        link = device.start(url)
        device.wait(lambda: device.outbox.acked == 20)
        device.wait(lambda: device.versions)
        cloud.wait(lambda: cloud.statuses)
        assert link.connected
        assert link.last_error is None
        known = Identity.load(device.state_dir)
        assert known is not None
        assert known.bundle_digests == (device.bundle.digest.hex(),), (
            "the release key has spoken for it in the envelope"
        )
        hello = cloud.hellos[0]
        claim = hello_message(cloud.nonce, "d-1", cloud.bundle.digest, device.outbox.stream)
        identity = Identity.load(device.state_dir)
        assert identity is not None
        assert identity.key.public.verifies(HELLO_PURPOSE, claim, hello.signature)
        assert (hello.highest_version, hello.outbox_stream) == (7, device.outbox.stream)
        assert [frame.sequence for frame in cloud.frames] == list(range(1, 21))
        assert list(cloud.applied.values()) == list(range(20))
        assert device.envelopes == [make_envelope(cloud.bundle)]
        assert device.versions == [cloud.version]


def test_bytes_are_counted_at_the_socket_by_purpose(cloud: TinyCloud, device: TinyDevice) -> None:
    cloud.version = make_version(cloud.bundle, 8)
    device.put(*range(5), num_bytes=10_000)
    with serving(cloud) as url:
        link = device.start(url)
        device.wait(lambda: device.outbox.acked == 5 and device.versions)
        link.stop(1.0)
    purposes = link.bytes_by_purpose
    sent = sum(len(encode_frame(frame)) for frame in cloud.frames)
    assert purposes["sample"] == sent > 50_000
    assert link.bytes_up > sent
    assert purposes["version"] > len(cloud.version.payload)
    assert purposes["overhead"] < 2_000
    assert sum(purposes.values()) == link.bytes_up + link.bytes_down
    assert not link.connected


@pytest.mark.parametrize("turns", range(6))
def test_a_session_that_is_woken_in_the_moment_it_is_ended_still_ends(
    cloud: TinyCloud, device: TinyDevice, turns: int
) -> None:
    with serving(cloud) as url:
        link = device.start(url, config=LinkConfig(status_interval_s=3600.0, close_timeout_s=0.2))
        cloud.wait(lambda: cloud.statuses)

        async def wake_and_end() -> bool:
            (pump,) = [t for t in asyncio.all_tasks() if getattr(t.get_coro(), "__name__", "") == "_pump"]
            link.woken.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            pump.cancel()
            await asyncio.wait([pump], timeout=2.0)
            return pump.done()

        assert link._loop is not None
        assert asyncio.run_coroutine_threadsafe(wake_and_end(), link._loop).result(WAIT_S)


def test_what_is_put_later_is_sent_without_waiting_for_the_status(cloud: TinyCloud, device: TinyDevice) -> None:
    with serving(cloud) as url:
        device.start(url, config=LinkConfig(status_interval_s=3600.0, close_timeout_s=0.2))
        cloud.wait(lambda: cloud.statuses)
        device.put(1)
        cloud.wait(lambda: cloud.frames)
        device.link.wake()


@pytest.mark.parametrize("cut_after", [1, 3, 9])
@pytest.mark.parametrize("lose_acks", [False, True], ids=["acks", "no-acks"])
def test_a_cut_session_resumes_without_a_gap_or_a_double_effect(
    cloud: TinyCloud, device: TinyDevice, cut_after: int, lose_acks: bool
) -> None:
    cloud.cut_after, cloud.lose_acks = cut_after, lose_acks
    device.put(*range(10))
    with serving(cloud) as url:
        device.start(url)
        cloud.wait(lambda: len(cloud.hellos) >= 2)
        cloud.lose_acks = False
        device.put(10)
        device.wait(lambda: device.outbox.acked == 11)
    assert list(cloud.applied.values()) == list(range(11))
    assert device.outbox.dropped == 0


def test_no_more_is_in_flight_than_the_credit(cloud: TinyCloud, device: TinyDevice) -> None:
    cloud.credit_bytes, cloud.lose_acks = 2_500, True
    device.put(*range(10), num_bytes=1000)
    with serving(cloud) as url:
        device.start(url)
        cloud.wait(lambda: len(cloud.frames) == 3)
        statuses = len(cloud.statuses)
        cloud.wait(lambda: len(cloud.statuses) >= statuses + 3)  # time passes, nothing more comes
        assert len(cloud.frames) == 3
        assert cloud.socket is not None
        send(cloud.socket, Credit(credit_bytes=4_500))
        cloud.wait(lambda: len(cloud.frames) == 5)
        send(cloud.socket, Ack(sequence=5))
        cloud.wait(lambda: len(cloud.frames) == 10)


def test_a_cloud_that_pings_and_reads_no_pong_is_hung_up_on(device: TinyDevice) -> None:
    """A device answers each ping, and what is not read of it would fill its memory."""
    ping, sent = b"\x89\x7d" + bytes(125), 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        link = device.start(f"ws://127.0.0.1:{listener.getsockname()[1]}")
        hostile, _ = listener.accept()
        with hostile:
            request = hostile.recv(4_096).decode()
            key = request.partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0]
            accepted = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(key)}"
            hostile.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{accepted}\r\n\r\n".encode())
            hostile.settimeout(5.0)
            with contextlib.suppress(ConnectionError):
                while sent < 32 << 20:
                    sent += hostile.send((ping * 2_000)[sent % len(ping) :])
    assert sent < 28 << 20
    device.wait(lambda: link.last_error is not None)


def test_an_envelope_of_another_cohort_is_refused_so_that_no_recorded_one_makes_a_device_forget(
    cloud: TinyCloud, device: TinyDevice
) -> None:
    cloud.cohort = "lagoon"
    cloud.version = make_version(cloud.bundle, 8, cohort="lagoon")
    with serving(cloud) as url:
        link = device.start(url)
        cloud.wait(lambda: cloud.closed >= 2)
        device.wait(lambda: link.last_error is not None)
        assert "the envelope is for the cohort 'lagoon', this device is in 'harbour'" in str(link.last_error)
        assert not link.connected
    assert (device.envelopes, device.versions) == ([], [])


def test_a_cloud_whose_envelope_is_not_signed_by_the_pinned_key_gets_nothing(
    cloud: TinyCloud, device: TinyDevice
) -> None:
    cloud.release = STRANGER
    cloud.version = make_version(cloud.bundle, 8)
    device.put(1)
    with serving(cloud) as url:
        link = device.start(url)
        cloud.wait(lambda: cloud.closed >= 2)
        device.wait(lambda: link.last_error is not None)
        assert "not signed by the release key" in str(link.last_error)
        known = Identity.load(device.state_dir)
        assert known is not None
        assert known.bundle_digests == ()
        assert not link.connected
    assert (cloud.frames, device.envelopes, device.versions) == ([], [], [])
    assert device.outbox.queued == 1


def test_a_revoked_device_says_so_and_asks_again_slowly(cloud: TinyCloud, device: TinyDevice) -> None:
    cloud.refusal = Refusal(code="revoked", message="by the operator", retry_after_ms=0)
    slow = LinkConfig(first_wait_s=0.01, longest_wait_s=0.01, refused_retry_s=3600.0, close_timeout_s=0.2)
    device.put(1)
    with serving(cloud) as url:
        link = device.start(url, config=slow)
        device.wait(lambda: link.last_error is not None)
        assert "revoked" in str(link.last_error)
        assert "by the operator" in str(link.last_error)
        link.stop(0.0)
    assert len(cloud.hellos) == 1
    assert cloud.frames == []


def test_a_busy_cloud_is_asked_again(cloud: TinyCloud, device: TinyDevice) -> None:
    cloud.refusal = Refusal(code="busy", message="later", retry_after_ms=10)
    device.put(1)
    with serving(cloud) as url:
        device.start(url)
        cloud.wait(lambda: len(cloud.hellos) >= 2)
        cloud.refusal = None
        device.wait(lambda: device.outbox.acked == 1)


@pytest.mark.parametrize(
    ("text", "wait_ms"),
    [("0", 1), ("30", 30_000), ("9" * 5000, 3_600_000), ("-1", None), ("soon", None)],
    ids=["none", "half-a-minute", "many-digits", "negative", "words"],
)
def test_whatever_an_http_answer_asks_for_the_link_goes_on(text: str, wait_ms: int | None) -> None:
    response = Response(503, "Service Unavailable", Headers({"Retry-After": text}))
    assert _retry_after_ms(InvalidStatus(response)) == wait_ms


@pytest.mark.parametrize(
    "wrong",
    [
        {"garbage": b""},
        {"garbage": os.urandom(500)},
        {"garbage": b"\x99" * 1000},
        {"garbage": encode_frame(to_frame(Ack(sequence=5)))},
        {"garbage": encode_frame(to_frame(Challenge(nonce=b"short")))},
        {"garbage": bytes(2**20 + 1)},
        {"text": "hello"},
    ],
    ids=["empty", "random", "arrays", "out-of-turn", "short-nonce", "too-large", "text"],
)
def test_garbage_ends_the_session_and_not_the_device(
    cloud: TinyCloud, device: TinyDevice, wrong: dict[str, Any]
) -> None:
    for name, value in wrong.items():
        setattr(cloud, name, value)
    device.put(1)
    with serving(cloud) as url:
        link = device.start(url)
        device.wait(lambda: link.last_error is not None)
        cloud.wait(lambda: cloud.closed >= 2)
        cloud.garbage = cloud.text = None
        device.wait(lambda: device.outbox.acked == 1)
        assert link.last_error is None


def test_an_outbox_that_could_not_be_read_for_once_leaves_no_error(
    cloud: TinyCloud, device: TinyDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    peek, fails = device.outbox.peek, [True]

    def peeked(after_sequence: int, max_bytes: int) -> list[tuple[int, bytes]]:
        if fails:
            raise StorageError("the disk is busy")
        return peek(after_sequence, max_bytes)

    monkeypatch.setattr(device.outbox, "peek", peeked)
    with serving(cloud) as url:
        link = device.start(url)
        device.wait(lambda: link.last_error == "the disk is busy")
        fails.clear()
        device.put(1)
        device.wait(lambda: device.outbox.acked == 1)
        assert link.last_error is None


def test_a_state_folder_that_became_read_only_costs_no_session(
    cloud: TinyCloud, device: TinyDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("littoral.edge.link_session.trust_bundle", fails)
    device.put(1)
    with serving(cloud) as url:
        link = device.start(url)
        device.wait(lambda: device.outbox.acked == 1)
        assert link.connected


def test_a_link_that_cannot_run_says_so_and_holds_nobody_up(
    device: TinyDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("asyncio.events.new_event_loop", no_descriptor)
    with pytest.raises(LinkError, match=r"cannot run: .*Too many open files"):
        device.start("ws://127.0.0.1:1")


def test_a_cloud_that_is_away_is_found_when_it_comes_back(cloud: TinyCloud, device: TinyDevice) -> None:
    with serving(cloud) as url:
        port = int(url.rsplit(":", 1)[1])
    device.put(1, 2)
    link = device.start(url)
    device.wait(lambda: link.last_error is not None)
    assert "cannot be reached" in str(link.last_error)
    with serving(cloud, port):
        device.wait(lambda: device.outbox.acked == 2)
        assert link.connected
        assert link.last_error is None
    device.wait(lambda: not link.connected)


def test_a_cloud_restored_from_an_older_copy_gets_a_new_stream(cloud: TinyCloud, device: TinyDevice) -> None:
    device.put(1, 2, 3)
    with serving(cloud) as url:
        device.start(url)
        device.wait(lambda: device.outbox.acked == 3)
        stream = device.outbox.stream
        cloud.acked_sequence = 1
        assert cloud.socket is not None
        cloud.socket.socket.close()
        cloud.wait(lambda: len(cloud.hellos) >= 2)
        cloud.acked_sequence = 0
        device.put(4)
        device.wait(lambda: device.outbox.acked == 4)
    assert device.outbox.stream != stream
    assert cloud.hellos[-1].outbox_stream == device.outbox.stream
    assert cloud.applied[device.outbox.stream, 1] == 4


def test_stop_gives_the_outbox_time_to_empty(cloud: TinyCloud, device: TinyDevice) -> None:
    with serving(cloud) as url:
        link = device.start(url)
        device.put(*range(50))
        link.stop(WAIT_S)
        assert device.outbox.acked == 50
        link.stop(0.0)
        link.wake()


def test_a_device_without_enrolment_says_so_until_someone_enrols_it(
    cloud: TinyCloud, bundle: Bundle, tmp_path: Path
) -> None:
    device = TinyDevice(bundle, tmp_path)
    device.put(1)
    with serving(cloud) as url:
        link = device.start(url)
        device.wait(lambda: link.last_error is not None)
        assert "not enrolled" in str(link.last_error)
        assert cloud.hellos == []
        enrolled(tmp_path)
        device.wait(lambda: device.outbox.acked == 1)
        link.stop(0.0)
    device.outbox.close()


@pytest.mark.parametrize("known", [False, True], ids=["never-enrolled", "refused"])
def test_a_token_is_redeemed_when_the_device_is_not_enrolled_or_refused(
    cloud: TinyCloud, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    redeemed: list[str] = []

    def fake_enrol(url: str, token: str, state_dir: Path, name: str, **_: Any) -> Identity:
        redeemed.append(f"{token} {name}")
        cloud.refusal = None
        return enrolled(state_dir)

    monkeypatch.setattr("littoral.edge.link.enrol", fake_enrol)
    if known:
        enrolled(tmp_path)
        cloud.refusal = Refusal(code="not-enrolled", message="who?", retry_after_ms=0)
    device = TinyDevice(bundle, tmp_path)
    device.put(1)
    with serving(cloud) as url:
        device.start(url, token="lit1-A-0123456789abcdef")
        device.wait(lambda: device.outbox.acked == 1)
        device.link.stop(0.0)
    device.outbox.close()
    assert redeemed == ["lit1-A-0123456789abcdef porch"]
    assert (tmp_path / ENROLMENT_FILE).exists()


@pytest.mark.parametrize(("flush_s", "num_said"), [(1.0, 2), (0.0, 1)], ids=["flushed", "at-once"])
def test_the_last_counters_are_said_at_the_end_where_there_is_time(
    cloud: TinyCloud, device: TinyDevice, flush_s: float, num_said: int
) -> None:
    with serving(cloud) as url:
        link = device.start(url, config=replace(FAST, status_interval_s=3_600.0))
        cloud.wait(lambda: cloud.statuses)
        link.stop(flush_s)
        if num_said > 1:
            cloud.wait(lambda: len(cloud.statuses) == num_said)
    assert len(cloud.statuses) == num_said


def test_a_callback_that_raises_does_not_end_the_link(cloud: TinyCloud, device: TinyDevice) -> None:
    calls: list[int] = []

    def status() -> Status:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("a mistake of the device's")
        return Status(version=0, frames=0, selected=0, queued=0, dropped=0, statistics_resets=0)

    with serving(cloud) as url:
        link = device.link = CloudLink(url, config=FAST)
        link.start(
            bundle_digest=cloud.bundle.digest,
            state_dir=device.state_dir,
            outbox=device.outbox,
            highest_version=lambda: 0,
            on_envelope=lambda _: None,
            on_version=lambda _: None,
            status=status,
        )
        cloud.wait(lambda: cloud.statuses)


def test_a_url_of_another_kind_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="URL looks like"):
        CloudLink("ftp://host")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://cloud.example", True),
        ("ws://192.0.2.7:8600", True),
        ("https://cloud.example", False),
        ("http://127.0.0.1:8600", False),
        ("ws://[::1]:8600", False),
        ("http://localhost", False),
    ],
)
def test_a_way_without_tls_over_a_network_is_warned_of(url: str, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    CloudLink(url)
    assert ("no TLS" in caplog.text) == told


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for this machine, as the file to trust and as the server's settings."""
    chain, key = self_signed(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return chain, context


def test_tls_with_an_own_authority(cloud: TinyCloud, device: TinyDevice, tmp_path: Path) -> None:
    ca_file, context = certificate(tmp_path)
    device.put(1)
    with serving(cloud, ssl=context) as url:
        device.start(url.replace("ws:", "https:"), config=replace(FAST, ca_file=ca_file))
        device.wait(lambda: device.outbox.acked == 1)


def test_a_cloud_with_an_unknown_certificate_is_not_spoken_to(
    cloud: TinyCloud, device: TinyDevice, tmp_path: Path
) -> None:
    _, context = certificate(tmp_path)
    device.put(1)
    with serving(cloud, ssl=context) as url:
        link = device.start(url.replace("ws:", "wss:"))
        device.wait(lambda: link.last_error is not None)
        assert "CERTIFICATE_VERIFY_FAILED" in str(link.last_error)
        assert str(link.last_error).startswith(f"the cloud at {link.url} cannot be reached (")
        assert str(link.last_error).endswith("; give the certificates to trust with --ca-file")
    assert cloud.hellos == []
