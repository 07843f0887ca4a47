"""Enrolment: one token, one key, one cloud."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from certificates import self_signed

from littoral.bundle.signing import SigningKey
from littoral.edge.identity import (
    ENROLMENT_FILE,
    KEY_FILE,
    Identity,
    Token,
    enrol,
    http_url,
    tls_context,
    websocket_url,
    why_unreachable,
)
from littoral.errors import LinkError, LinkRefused, ProtocolError, StorageError

RELEASE = SigningKey(b"r" * 32)
TOKEN = f"lit1-ABCDEFGH234567-{RELEASE.public.fingerprint}"
ANSWER = {"device_id": "d-1", "cohort": "north", "release_key": RELEASE.public.hex, "bundle_digest": "00" * 32}


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An HTTP server that gives one answer to all, and what it was asked."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({**request, "path": self.path})
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_a_port_where_something_else_than_a_cloud_answers_is_a_link_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                connection.recv(65_536)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        with pytest.raises(LinkError, match="cannot be reached"):
            enrol(f"ws://127.0.0.1:{server.getsockname()[1]}", TOKEN, tmp_path, "porch")
        thread.join(10.0)


def test_a_state_folder_that_cannot_be_written_is_not_the_clouds_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot hold the device's key and enrolment .*; make it writable"):
        enrol("http://127.0.0.1:1", "lit1-abcdefgh-0123456789abcdef", tmp_path / "file", "porch")


@pytest.mark.parametrize("damage", [b"", b"??", b"\xff\xfe", b"00" * 31], ids=["empty", "text", "bytes", "short"])
def test_a_damaged_key_says_which_file_it_is_and_what_to_do(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(damage)
    with pytest.raises(ValueError, match=rf"{KEY_FILE} is no key.*remove it"):
        enrol("ws://127.0.0.1:1", TOKEN, tmp_path, "porch")


def test_what_a_token_was_traded_for_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename is on the disk when its folder is: it is synced after each of the two files has its name."""
    synced: list[set[str]] = []

    def watched(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            synced.append({path.name for path in tmp_path.iterdir()})

    monkeypatch.setattr(os, "fsync", watched)
    with answering(200, json.dumps(ANSWER).encode()) as (url, asked):
        enrol(url, TOKEN, tmp_path, "porch")
    assert len(asked) == 1
    assert [KEY_FILE in names for names in synced] == [True, True]
    assert ENROLMENT_FILE in synced[-1]


def test_an_enrolled_device_finds_its_identity_again(tmp_path: Path) -> None:
    assert Identity.load(tmp_path) is None
    with answering(200, json.dumps(ANSWER).encode()) as (url, asked):
        identity = enrol(url, TOKEN, tmp_path, "porch")
    assert asked == [{"token": TOKEN, "name": "porch", "public_key": identity.key.public.hex, "path": "/v1/enrol"}]
    again = Identity.load(tmp_path)
    assert again is not None
    assert (again.device_id, again.cohort, again.cloud_url) == ("d-1", "north", url)
    assert again.release_key == RELEASE.public
    assert again.key.public == identity.key.public
    assert os.stat(tmp_path / KEY_FILE).st_mode & 0o077 == 0


def test_a_cloud_with_another_release_key_than_the_tokens_is_refused(tmp_path: Path) -> None:
    other = {**ANSWER, "release_key": SigningKey(b"o" * 32).public.hex}
    with (
        answering(200, json.dumps(other).encode()) as (url, _),
        pytest.raises(LinkRefused, match="another cloud") as caught,
    ):
        enrol(url, TOKEN, tmp_path, "porch")
    assert caught.value.code == "bad-token"
    assert Identity.load(tmp_path) is None


def test_the_clouds_no_carries_its_code(tmp_path: Path) -> None:
    body = json.dumps({"code": "bad-token", "message": "the token was used"}).encode()
    with answering(403, body) as (url, _), pytest.raises(LinkRefused, match="was used") as caught:
        enrol(url, TOKEN, tmp_path, "porch")
    assert caught.value.code == "bad-token"


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        pytest.param(502, b"<html>bad gateway", LinkError, id="proxy-page"),
        pytest.param(200, b"<html>log in to the hotel", ProtocolError, id="captive-portal"),
        pytest.param(200, b"[" * 60_000, ProtocolError, id="deep"),
        pytest.param(200, b" " * 70_000, ProtocolError, id="large"),
        pytest.param(200, b"[1]", ProtocolError, id="no-object"),
        pytest.param(200, b'{"device_id": 3}', ProtocolError, id="missing-fields"),
        pytest.param(200, json.dumps({**ANSWER, "release_key": "zz"}).encode(), ProtocolError, id="no-key"),
    ],
)
def test_a_strange_answer_is_an_error_with_nothing_kept(
    tmp_path: Path, status: int, body: bytes, error: type[Exception]
) -> None:
    with answering(status, body) as (url, _), pytest.raises(error):
        enrol(url, TOKEN, tmp_path, "porch")
    assert not (tmp_path / ENROLMENT_FILE).exists()


def test_a_cloud_that_is_away_is_a_link_error(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="cannot be reached"):
        enrol("http://127.0.0.1:1", TOKEN, tmp_path, "porch")


@contextmanager
def hanging_up(chain: tuple[Path, Path] | None) -> Iterator[int]:
    """The port of a server that takes one connection, reads and hangs up; with TLS if it has a certificate."""
    tls = None
    if chain is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*chain)
    with socket.create_server(("", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                if not connection.recv(65_536).startswith(b"POST"):
                    connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10.0)


@pytest.mark.parametrize(
    ("scheme", "tls", "trusted", "hint"),
    [
        pytest.param("https", True, False, "; give the certificates to trust with --ca-file", id="untrusted"),
        pytest.param(
            "http", True, False, r"; does it speak TLS\? Then its address begins with https", id="http-to-tls"
        ),
        pytest.param(
            "https",
            False,
            False,
            r"; does it speak TLS\? Without it its address begins with http$",
            id="https-to-plain",
        ),
        pytest.param("https", True, True, r"not valid for '127.0.0.2'.*\); dial one of", id="another-name"),
    ],
)
def test_where_the_two_do_not_agree_on_tls_it_is_said_what_to_do(
    tmp_path: Path, scheme: str, tls: bool, trusted: bool, hint: str
) -> None:
    chain = self_signed(tmp_path)
    host = "127.0.0.2" if trusted else "127.0.0.1"
    with hanging_up(chain if tls else None) as port, pytest.raises(LinkError, match=hint) as caught:
        enrol(f"{scheme}://{host}:{port}", TOKEN, tmp_path, "porch", ca_file=chain[0] if trusted else None)
    assert "tried again" not in str(caught.value), "nobody does"


@pytest.mark.parametrize(("code", "asks"), [(9, True), (10, True), (23, False)], ids=["early", "expired", "revoked"])
def test_where_a_certificates_time_is_not_now_a_person_is_asked_for_the_clock(code: int, asks: bool) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.reason = code, "CERTIFICATE_VERIFY_FAILED"
    said = why_unreachable("https://cloud.example:8600", error)
    assert said.endswith("; is the clock of this machine right?") == asks


@pytest.mark.parametrize(
    "text", ["", "lit1-abc", "lit2-ABC-0123456789abcdef", "lit1-ABC-0123456789ABCDEF", "lit1--" + "0" * 16]
)
def test_a_token_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a token looks like"):
        Token.parse(text)


def test_a_token_does_not_show_its_secret() -> None:
    assert "ABCDEFGH" not in repr(Token.parse(TOKEN))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"device_id": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_record_means_not_enrolled(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ENROLMENT_FILE).write_bytes(content)
    assert Identity.load(tmp_path) is None


@pytest.mark.parametrize(
    ("url", "http", "websocket"),
    [
        ("ws://host:8080", "http://host:8080/x", "ws://host:8080/x"),
        ("http://host:8080/", "http://host:8080/x", "ws://host:8080/x"),
        ("wss://host/below", "https://host/below/x", "wss://host/below/x"),
        ("https://[::1]:9", "https://[::1]:9/x", "wss://[::1]:9/x"),
    ],
)
def test_both_kinds_of_scheme_are_accepted(url: str, http: str, websocket: str) -> None:
    assert http_url(url, "/x") == http
    assert websocket_url(url, "/x") == websocket


@pytest.mark.parametrize("url", ["", "host:80", "ftp://host", "ws://"])
def test_what_is_no_url_of_a_cloud_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL looks like"):
        http_url(url)


def test_only_secure_urls_have_tls_and_it_checks_names() -> None:
    assert tls_context("ws://host") is None
    context = tls_context("wss://host")
    assert context is not None
    assert context.check_hostname


def test_a_record_without_its_key_means_not_enrolled(tmp_path: Path) -> None:
    with answering(200, json.dumps(ANSWER).encode()) as (url, _):
        enrol(url, TOKEN, tmp_path, "porch")
    (tmp_path / KEY_FILE).unlink()
    assert Identity.load(tmp_path) is None
    assert not (tmp_path / KEY_FILE).exists()
