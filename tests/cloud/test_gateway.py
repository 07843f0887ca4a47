"""The gateway over a real WebSocket: who gets in, what is kept, what is answered."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import urlsplit

import msgpack
import numpy as np
import pytest
from cloud_peer import (
    DEADLINE_S,
    SHAPE,
    FakeGate,
    FakeWorker,
    Line,
    Peer,
    fetch,
    image,
    png,
    running,
    sample,
    scene,
    until,
    write_bundle,
)
from websockets.exceptions import ConnectionClosed

from littoral.bundle import Manifest, SigningKey
from littoral.cloud import admin
from littoral.cloud.cloud import Cloud
from littoral.cloud.intake import check_message
from littoral.cloud.session import INLINE_BODY_BYTES, Session
from littoral.errors import StorageError
from littoral.wire.envelope import MAX_FRAME_BYTES, Frame, encode_frame
from littoral.wire.messages import (
    Ack,
    Challenge,
    DurableMessage,
    Receipt,
    Refusal,
    Sample,
    Scene,
    Status,
    Version,
    to_frame,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def cloud(folder: Path) -> Iterator[Cloud]:
    """One cloud for the tests that need nothing special; each enrols devices of its own."""
    with running(write_bundle(folder / "bundle"), folder / "state") as cloud:
        yield cloud


@pytest.fixture
def peer(cloud: Cloud) -> Peer:
    return Peer(cloud).enrol()


def fleet(cloud: Cloud) -> dict[str, object]:
    status, body, _ = fetch(f"{cloud.url}/v1/fleet")
    assert status == 200
    document: dict[str, object] = json.loads(body)
    return document


def metrics(cloud: Cloud) -> str:
    return fetch(f"{cloud.url}/metrics")[1].decode()


def halves(*values: float) -> bytes:
    return np.array(values, dtype="<f2").tobytes()


def device_entry(cloud: Cloud, peer: Peer) -> dict[str, object]:
    return next(d for d in fleet(cloud)["devices"] if d["id"] == peer.device_id)  # type: ignore[attr-defined]


def everything(cloud: Cloud) -> list[tuple[object, ...]]:
    """All that the record holds, to see that nothing changed."""
    with sqlite3.connect(cloud.state_dir / "record.sqlite3") as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        found = [row for table in tables for row in db.execute(f"SELECT * FROM {table}")]
    db.close()
    return found


# -- a session that goes well ------------------------------------------------------------------------------------------


def test_samples_are_acknowledged_in_order_and_a_session_resumes_where_the_last_ended(peer: Peer) -> None:
    with peer.session() as line:
        assert line.welcome is not None
        assert (line.welcome.acked_sequence, line.welcome.credit_bytes) == (0, 262_144)
        line.upload(1, 2)
    with peer.session() as line:
        assert line.welcome is not None
        assert line.welcome.acked_sequence == 2
        line.send(sample(2), sequence=2)
        assert line.wait(Ack).sequence == 2, "a duplicate is acknowledged"
        line.send(sample(3, coding="png", image=png(image(3))), sequence=3)
        assert line.wait(Ack).sequence == 3
    assert device_entry(peer.cloud, peer)["samples"] == 3


def test_a_version_that_devices_can_verify_is_sent_when_it_ships_and_again_at_the_next_hello(peer: Peer) -> None:
    with peer.session() as line:
        line.upload(1, 8)
        version = line.wait(Version)
        assert line.welcome is not None
        claim = peer.verified(version, line.welcome)
        newest = until(lambda: peer.cloud._hub.newest.get(0), "a version")
    with peer.session(highest_version=claim.version - 1) as line:
        assert line.welcome is not None
        assert peer.verified(line.wait(Version), line.welcome).version >= claim.version
    with peer.session(highest_version=2**63) as line:
        line.upload(9, 1)  # the Ack is the only thing that comes
    status, payload, headers = fetch(f"{peer.cloud.url}/v1/artefacts/{claim.payload_sha256}")
    assert (status, payload) == (200, version.payload)
    assert headers["etag"] == f'"{claim.payload_sha256}"'
    assert newest.version >= 1


def test_receipts_and_status_are_seen_in_the_fleet(peer: Peer) -> None:
    with peer.session() as line:
        line.send(Receipt(version=4, outcome="rejected", code="probe", reason="kept 3 of 32"), sequence=1)
        line.wait(Ack)
        line.send(Status(version=4, frames=99, selected=7, queued=1, dropped=2, statistics_resets=3))
        entry = until(lambda: (e := device_entry(peer.cloud, peer))["status"] and e, "the status")
        assert isinstance(entry, dict)
        assert entry["online"] is True
        assert entry["status"]["frames"] == 99
        assert entry["last_receipt"]["code"] == "probe"
    until(lambda: device_entry(peer.cloud, peer)["online"] is False, "the device to be offline")


def test_a_second_session_replaces_the_first(peer: Peer) -> None:
    with peer.session() as first, peer.session() as second:
        refusal = first.wait(Refusal)
        assert (refusal.code, refusal.retry_after_ms > 0) == ("busy", True)
        second.upload(1, 1)
        assert device_entry(peer.cloud, peer)["online"] is True
        assert "has a copy of this one's state folder" in refusal.message
    until(lambda: device_entry(peer.cloud, peer)["online"] is False, "the end of both")
    assert device_entry(peer.cloud, peer)["refused"] is None, "it was let in"


# -- who does not get in -----------------------------------------------------------------------------------------------


def refused(line: Line) -> Refusal:
    """The Refusal, after which the cloud closes."""
    refusal = line.wait(Refusal)
    with pytest.raises(ConnectionClosed):
        line.socket.recv(timeout=10)
    return refusal


def test_a_device_that_was_not_enrolled_gets_a_refusal_and_changes_nothing(cloud: Cloud) -> None:
    before = everything(cloud)
    peer = Peer(cloud)
    with peer.dial() as line:
        line.send(peer.hello(line.get(Challenge).nonce))
        assert refused(line).code == "not-enrolled"
    assert everything(cloud) == before


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"signature": bytes(64)}, "bad-signature", id="no-signature"),
        pytest.param({"outbox_stream": 8}, "bad-signature", id="another-stream-than-signed"),
        pytest.param({"bundle_digest": b"x" * 32}, "bad-signature", id="another-bundle-than-signed"),
    ],
)
def test_a_hello_must_be_signed_by_the_devices_key(peer: Peer, changes: dict[str, object], code: str) -> None:
    before = everything(peer.cloud)
    with peer.dial() as line:
        line.send(peer.hello(line.get(Challenge).nonce, **changes))
        assert refused(line).code == code
    assert everything(peer.cloud) == before


def test_a_hello_recorded_in_another_session_is_refused(peer: Peer) -> None:
    with peer.dial() as line:
        old = peer.hello(line.get(Challenge).nonce)
        line.send(old)
    with peer.dial() as line:
        line.get(Challenge)
        line.send(old)
        assert refused(line).code == "bad-signature"


def test_a_device_of_another_bundle_is_refused(peer: Peer) -> None:
    peer.digest = b"x" * 32
    with peer.dial() as line:
        line.send(peer.hello(line.get(Challenge).nonce))
        refusal = refused(line)
    assert (refusal.code, refusal.retry_after_ms) == ("other-bundle", 0)


def test_people_see_which_device_is_refused_and_why_until_it_is_let_in(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    ours, peer.digest = peer.digest, b"x" * 32
    for _ in range(3):
        with peer.dial() as line:
            line.send(peer.hello(line.get(Challenge).nonce))
            refused(line)
    lines = [r.getMessage() for r in caplog.records if "other-bundle" in r.getMessage()]
    assert len(lines) == 1, "the same again is no news"
    assert lines[0].startswith(f"device {peer.device_id}: refused (other-bundle): this cloud serves bundle ")
    entry = device_entry(peer.cloud, peer)
    assert (entry["refused"]["code"], entry["online"]) == ("other-bundle", False)  # type: ignore[index]
    page = fetch(f"{peer.cloud.url}/")[1].decode()
    assert '<span class="badge held">refused</span>' in page
    assert "(other-bundle): this cloud serves bundle " in page
    peer.digest = ours
    with peer.session():
        assert device_entry(peer.cloud, peer)["refused"] is None
    until(lambda: device_entry(peer.cloud, peer)["online"] is False, "its end")
    assert device_entry(peer.cloud, peer)["refused"] is None


def test_a_stranger_is_named_in_the_log_as_it_names_itself_and_nowhere_else(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    with peer.dial() as line:
        line.send(peer.hello(line.get(Challenge).nonce, signature=bytes(64)))
        refused(line)
    with peer.dial() as line:
        line.send(peer.hello(line.get(Challenge).nonce, device_id="me\nERROR forged"))
        refused(line)
    lines = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    assert lines[0].startswith(f"device that says it is '{peer.device_id}': refused (bad-signature)")
    assert lines[1].startswith(r"device that says it is 'me\nERROR forged': refused (not-enrolled)")
    assert device_entry(peer.cloud, peer)["refused"] is None, "whoever knows its name could say so of it"


def test_a_revoked_device_is_shut_out_of_an_open_session_and_of_the_next(peer: Peer) -> None:
    with peer.session() as line:
        assert admin.revoke(peer.cloud.state_dir, peer.device_id, reason="stolen")
        before = everything(peer.cloud)
        line.send(sample(1), sequence=1)
        assert refused(line).code == "revoked"
    with peer.dial() as line:
        line.send(peer.hello(line.get(Challenge).nonce))
        assert refused(line).code == "revoked"
    assert everything(peer.cloud) == before


def test_a_revoked_device_that_only_reports_is_shut_out_too(peer: Peer) -> None:
    with peer.session() as line:
        line.send(Status(version=0, frames=0, selected=0, queued=0, dropped=0, statistics_resets=0))
        assert admin.revoke(peer.cloud.state_dir, peer.device_id, reason="stolen")
        line.send(Status(version=0, frames=0, selected=0, queued=0, dropped=0, statistics_resets=0))
        assert refused(line).code == "revoked"


def test_anything_before_a_hello_is_refused(peer: Peer) -> None:
    with peer.dial() as line:
        line.get(Challenge)
        line.send(Status(version=0, frames=0, selected=0, queued=0, dropped=0, statistics_resets=0))
        assert refused(line).code == "protocol"


# -- what a device may not send ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(sample(1, image=bytes(3)), id="raw-of-another-size"),
        pytest.param(sample(1, predicted=10), id="a-class-that-does-not-exist"),
        pytest.param(sample(1, coding="png", image=b"not a png"), id="not-a-png"),
        pytest.param(sample(1, coding="png", image=png(image(1), "RGB")), id="other-channels"),
        pytest.param(sample(1, coding="raw", image=bytes(500_000)), id="large"),
        pytest.param(sample(1, scene=2**63), id="scene-of-a-sample-too-large"),
        pytest.param(Receipt(version=1, outcome="thrown away", code="", reason=""), id="unknown-outcome"),
        pytest.param(scene(0, 1), id="scene-0"),
        pytest.param(scene(2**63, 1), id="scene-too-large"),
        pytest.param(scene(1, 1, version=2**63), id="version-of-a-scene-too-large"),
        pytest.param(Scene(scene=1, version=0, fingerprint=b""), id="no-fingerprint"),
        pytest.param(Scene(scene=1, version=0, fingerprint=bytes(7)), id="fingerprint-cut-short"),
        pytest.param(Scene(scene=1, version=0, fingerprint=bytes(900_000)), id="fingerprint-of-a-megabyte"),
        pytest.param(Scene(scene=1, version=0, fingerprint=halves(np.nan, 0, 1, 1)), id="fingerprint-of-nan"),
        pytest.param(Scene(scene=1, version=0, fingerprint=halves(0, np.inf, 1, 1)), id="fingerprint-of-infinity"),
        pytest.param(Scene(scene=1, version=0, fingerprint=halves(0, 0, 1, -1)), id="variance-below-zero"),
        pytest.param(Frame(type=Sample.TYPE, body=msgpack.packb([1, 0, 0, 0.5, "raw", b""])), id="no-scene-field"),
        pytest.param(
            Frame(type=Sample.TYPE, body=msgpack.packb([1, 0, 0, float("nan"), "raw", b"", 0])), id="entropy-of-nan"
        ),
        pytest.param(Frame(type=Scene.TYPE, body=b"\xc1"), id="scene-that-is-not-msgpack"),
    ],
)
def test_malformed_content_is_acknowledged_audited_and_dropped_and_holds_nothing_up(peer: Peer, bad: object) -> None:
    frame = bad if isinstance(bad, Frame) else to_frame(bad)  # type: ignore[arg-type]
    with peer.session(highest_version=2**63) as line:
        line.socket.send(encode_frame(dataclasses.replace(frame, stream=line.stream, sequence=1)))
        line.wait(Ack, lambda ack: ack.sequence == 1)
        line.socket.send(encode_frame(dataclasses.replace(frame, stream=line.stream, sequence=1)))
        line.send(sample(2), sequence=2)
        line.wait(Ack, lambda ack: ack.sequence == 2)
    entry = device_entry(peer.cloud, peer)
    assert (entry["samples"], entry["malformed"], entry["domain"]) == (1, 1, 0), "counted once, and nothing of it kept"
    with admin.open_record(peer.cloud.state_dir) as store:
        audit = [e for e in store.audit_entries() if e[2] == peer.device_id and e[1] == "malformed"]
        assert len(audit) == 1
        assert audit[0][3].split(" ")[0] in ("sample", "receipt", "scene")
        assert len(audit[0][3]) > len("sample 1: "), "with its reason"
        told = "SELECT count(*) FROM scenes WHERE device_id = ?1", "SELECT count(*) FROM receipts WHERE device_id = ?1"
        assert [store.read(sql, peer.device_id)[0][0] for sql in told] == [0, 0]
    purpose = audit[0][3].split(" ")[0]
    assert f'littoral_malformed_total{{cohort="default",purpose="{purpose}"}}' in metrics(peer.cloud)


def test_a_malformed_message_out_of_order_ends_the_session_as_any_other(peer: Peer) -> None:
    with peer.session() as line:
        line.send(sample(1, predicted=10), sequence=2)
        assert refused(line).code == "protocol"
    assert device_entry(peer.cloud, peer)["malformed"] == 0


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"\xc1", id="not-msgpack"),
        pytest.param(encode_frame(Frame(type=99)), id="unknown-type"),
        pytest.param(encode_frame(to_frame(Ack(sequence=1))), id="what-only-the-cloud-sends"),
        pytest.param(encode_frame(to_frame(sample(1), stream=8, sequence=1)), id="another-stream"),
        pytest.param(encode_frame(to_frame(sample(1), stream=7, sequence=0)), id="sequence-0"),
        pytest.param(encode_frame(to_frame(sample(1), stream=7, sequence=2**63)), id="sequence-too-large"),
        pytest.param(encode_frame(to_frame(sample(1), stream=7, sequence=2)), id="gap"),
        pytest.param("text", id="text"),
    ],
)
def test_bytes_that_break_the_protocol_end_the_session(peer: Peer, frame: bytes | str) -> None:
    with peer.session() as line:
        line.socket.send(frame)
        refusal = refused(line)
    assert (refusal.code, refusal.retry_after_ms > 0) == ("protocol", True)
    assert device_entry(peer.cloud, peer)["samples"] == 0


def test_sessions_that_break_the_protocol_again_and_again_do_not_fill_the_audit(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("littoral.cloud.hub.MAX_AUDITED", 2)
    for _ in range(4):
        with peer.session() as line:
            line.socket.send("text")
            assert refused(line).code == "protocol"
    audited = [kind for _, kind, device, _ in peer.cloud._store.audit_entries() if device == peer.device_id]
    assert audited.count("protocol") == 2


def test_an_oversized_frame_is_refused_by_the_listener(peer: Peer) -> None:
    with peer.session() as line:
        line.socket.send(bytes(MAX_FRAME_BYTES + 1))
        with pytest.raises(ConnectionClosed) as caught:
            line.wait(Ack)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
    assert fetch(f"{peer.cloud.url}/healthz")[:2] == (200, b"ok\n")


# -- time, credit, storage ---------------------------------------------------------------------------------------------


def test_a_silent_peer_is_closed(tmp_path: Path) -> None:
    with running(write_bundle(tmp_path / "b"), tmp_path / "s", idle_timeout_s=0.2) as cloud:
        peer = Peer(cloud).enrol()
        with peer.session() as line, pytest.raises(ConnectionClosed):
            line.wait(Ack)


def test_too_many_sessions_are_told_to_come_back(tmp_path: Path) -> None:
    with running(write_bundle(tmp_path / "b"), tmp_path / "s", max_sessions=1) as cloud:
        with Peer(cloud).enrol().session(), Peer(cloud).enrol().dial() as line:
            refusal = refused(line)
        assert (refusal.code, refusal.retry_after_ms > 0) == ("busy", True)


def test_a_full_record_refuses_and_acknowledges_nothing(tmp_path: Path) -> None:
    with running(write_bundle(tmp_path / "b"), tmp_path / "s", max_record_bytes=220_000) as cloud:
        peer = Peer(cloud).enrol()
        acked = 0
        with peer.session() as line:
            line.socket.send(encode_frame(to_frame(sample(1), stream=7, sequence=1)))
            acked = line.wait(Ack).sequence
            for sequence in range(2, 4_000):
                line.send(sample(sequence), sequence=sequence)
                answer = line.wait((Ack, Refusal))  # what taught already may become a version meanwhile
                if isinstance(answer, Refusal):
                    break
                acked = answer.sequence
            assert isinstance(answer, Refusal)
            assert (answer.code, answer.retry_after_ms > 0) == ("storage", True)
        with admin.open_record(cloud.state_dir) as store:
            assert store.acked_sequence(peer.device_id, peer.stream) == acked


class SlowRecord:
    """A store whose commits finish when the test says so."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        self.gate = threading.Event()
        real = cloud._store.record

        def record(device_id: str, stream: int, entries: list[tuple[int, object]], **more: object) -> Future[int]:
            self.asked += [sequence for sequence, _ in entries]
            hold: Future[bool] = cloud._store.write(lambda db: self.gate.wait(20))
            assert hold is not None
            return real(device_id, stream, entries, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(cloud._store, "record", record)


def test_no_ack_leaves_before_the_commit(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowRecord(peer.cloud, monkeypatch)
    with peer.session(highest_version=2**63) as line:
        line.send(sample(1), sequence=1)
        until(lambda: slow.asked == [1], "the commit to be asked for")
        with pytest.raises(TimeoutError):
            line.socket.recv(timeout=0.1)
        slow.gate.set()
        assert line.wait(Ack).sequence == 1


def test_a_device_over_its_credit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(write_bundle(tmp_path / "b"), tmp_path / "s", credit_bytes=200) as cloud:
        peer = Peer(cloud).enrol()
        slow = SlowRecord(cloud, monkeypatch)
        with peer.session() as line:
            assert line.welcome is not None
            assert line.welcome.credit_bytes == 200
            large = sample(1, image=bytes(300_000))  # not a frame of the bundle: acknowledged and dropped
            for number in range(1, 8):
                line.send(large, sequence=number)
            until(lambda: slow.asked, "the first commit")
            session: Session = cloud._hub.sessions[peer.device_id]
            until(lambda: not session._room.is_set(), "the credit and one frame more to be used up")
            one_more = len(encode_frame(to_frame(large, stream=7, sequence=1)))
            assert session._in_flight_bytes < 200 + MAX_FRAME_BYTES + one_more
            slow.gate.set()
            line.wait(Ack, lambda ack: ack.sequence == 7)


def test_a_message_that_is_checked_while_the_one_before_it_is_committed_is_committed_too(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_is_acked = threading.Event()

    def check(message: DurableMessage, manifest: Manifest) -> None:
        if len(getattr(message, "image", b"")) > INLINE_BODY_BYTES:
            first_is_acked.wait(DEADLINE_S)
        check_message(message, manifest)

    monkeypatch.setattr("littoral.cloud.session.check_message", check)
    with peer.session() as line:
        line.send(sample(1), sequence=1)
        line.send(sample(2, image=bytes(INLINE_BODY_BYTES + 1)), sequence=2)
        assert line.wait(Ack).sequence == 1
        first_is_acked.set()
        line.wait(Ack, lambda ack: ack.sequence == 2)


@pytest.mark.parametrize("side", [100, 1_000], ids=["small", "large"])
def test_a_large_frame_of_few_bytes_is_not_decoded_where_all_devices_wait(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    threads = []
    manifest = peer.cloud._hub.manifest
    large = dataclasses.replace(manifest, input=dataclasses.replace(manifest.input, height=side, width=side))
    monkeypatch.setattr(peer.cloud._hub, "manifest", large)
    checked = "littoral.cloud.session.check_message"
    monkeypatch.setattr(checked, lambda *_: threads.append(threading.current_thread().name))
    with peer.session() as line:
        line.send(sample(1, coding="webp", image=b"a blank frame in 40 bytes"), sequence=1)
        line.wait(Ack)
    assert (threads == ["littoral-gateway"]) == (side == 100)
    assert len(threads) == 1


def test_a_device_that_has_seen_more_than_the_record_has_is_told_of_once(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    newest = peer.cloud._hub.shipped_version
    for more in (0, 57, 58):
        with peer.session(highest_version=newest + more):
            pass
    entries = peer.cloud._store.audit_entries()
    told = [detail for _, kind, who, detail in entries if (kind, who) == ("record-behind", peer.device_id)]
    assert len(told) == 1
    assert f"has seen version {newest + 57}, this record's newest is {newest}" in told[0]
    assert f"--first-version {newest + 58}" in caplog.text


def test_once_numbers_were_passed_over_nobody_is_told_to_do_it_again(tmp_path: Path) -> None:
    with running(write_bundle(tmp_path / "b"), tmp_path / "s", first_version=58) as cloud:
        hub, device = cloud._hub, Peer(cloud).enrol().device_id
        assert hub.behind(device, 57) == ""
        assert "--first-version 59" in hub.behind(device, 58)


def test_a_cloud_begins_with_the_version_that_it_is_told(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    with running(bundle, tmp_path / "s", first_version=58) as cloud:
        assert cloud._ledger.head().version == 57
    with running(bundle, tmp_path / "s", first_version=58) as cloud:
        assert [entry.version for entry in cloud._ledger.history()] == [57]
        status, body, _ = fetch(f"{cloud.url}/v1/fleet")
        assert (status, json.loads(body)["shipped_version"]) == (200, 0)


def test_a_failing_record_refuses_the_session_with_storage(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def record(*_: object, **__: object) -> Future[int]:
        raise StorageError("disk on fire")

    monkeypatch.setattr(peer.cloud._store, "record", record)
    with peer.session() as line:
        line.send(sample(1), sequence=1)
        refusal = refused(line)
    assert (refusal.code, refusal.retry_after_ms > 0) == ("storage", True)
    assert "fire" not in refusal.message
    assert any("refused (storage): disk on fire" in record.getMessage() for record in caplog.records)


# -- HTTP --------------------------------------------------------------------------------------------------------------


def test_enrolment_answers_with_what_a_device_must_know(cloud: Cloud) -> None:
    token, key = cloud.new_token(), SigningKey.generate()
    body = {"token": token, "name": "porch", "public_key": key.public.hex}
    status, answer, _ = fetch(f"{cloud.url}/v1/enrol", body)
    assert status == 200
    assert json.loads(answer) == {
        "device_id": key.public.fingerprint,
        "cohort": "default",
        "release_key": cloud._keys.release.public.hex,
        "bundle_digest": cloud.bundle.digest.hex(),
    }
    other = {**body, "public_key": SigningKey.generate().public.hex}
    status, answer, _ = fetch(f"{cloud.url}/v1/enrol", other)
    assert (status, json.loads(answer)["code"]) == (403, "bad-token")
    assert token.split("-")[1].encode() not in (cloud.state_dir / "record.sqlite3").read_bytes()


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        pytest.param(b"{", 400, "bad-request", id="not-json"),
        pytest.param(b"[" * 4000, 400, "bad-request", id="nested"),
        pytest.param(b"[]", 400, "bad-request", id="not-an-object"),
        pytest.param(b'{"token": 1, "name": "a", "public_key": "00"}', 400, "bad-request", id="wrong-type"),
        pytest.param(b'{"token": "x", "name": "a", "public_key": "00"}', 400, "bad-request", id="short-key"),
        pytest.param(
            b'{"token": "x", "name": "a\\u0007", "public_key": "%s"}' % (b"0" * 64), 400, "bad-request", id="bell"
        ),
        pytest.param(b'{"token": "x", "name": "a", "public_key": "%s"}' % (b"0" * 64), 403, "bad-token", id="token"),
        pytest.param(b" " * 5000, 413, "too-large", id="too-large"),
    ],
)
def test_a_bad_enrolment_gets_a_clear_error(cloud: Cloud, raw: bytes, status: int, code: str) -> None:
    before = everything(cloud)
    came, body, _ = fetch(f"{cloud.url}/v1/enrol", raw=raw)
    answer = json.loads(body)
    assert (came, answer["code"]) == (status, code)
    assert answer["message"]
    assert everything(cloud) == before


def test_who_goes_away_in_the_middle_of_an_enrolment_leaves_nothing_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(write_bundle(tmp_path / "b"), tmp_path / "s") as cloud:
        caplog.clear()
        host, port = cloud.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.sendall(b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
            assert fetch(f"{cloud.url}/healthz")[0] == 200, "the half of a request is being read"
    assert caplog.messages == []


@pytest.mark.parametrize(("name", "status"), [("zz", 400), ("00" * 32, 404), ("..%2f..%2fcloud.json", 404)])
def test_an_artefact_that_is_not_there_is_an_error(cloud: Cloud, name: str, status: int) -> None:
    assert fetch(f"{cloud.url}/v1/artefacts/{name}")[0] == status


def test_metrics_are_labelled_by_cohort_and_never_by_device(peer: Peer) -> None:
    with peer.session() as line:
        line.upload(1, 1)
    status, body, _ = fetch(f"{peer.cloud.url}/metrics")
    text = body.decode()
    assert status == 200
    assert 'littoral_link_bytes_total{cohort="default",direction="up",purpose="sample"}' in text
    assert "littoral_samples_total" in text
    assert peer.device_id not in text


def test_the_dashboard_escapes_what_devices_say_and_needs_no_other_host(tmp_path: Path) -> None:
    gate = FakeGate()
    gate.hold = {2}
    with running(write_bundle(tmp_path / "b"), tmp_path / "s", gate=gate) as cloud:
        peer = Peer(cloud, name="<script>alert(1)</script>").enrol()
        with peer.session() as line:
            line.upload(1, 8)
            until(lambda: fleet(cloud)["head_version"] == 2, "two versions")
            line.send(Receipt(version=1, outcome="rejected", code="<i>", reason='"><img src=x>'), sequence=9)
            line.wait(Ack)
            status, body, headers = fetch(f"{cloud.url}/")
    page = body.decode()
    assert '<td class="number"><span class="held">1 rejected</span></td>' in page, "short: a column is narrow"
    assert re.search(
        r"<span>version 1 rejected \d+ s ago: &lt;i&gt;: &quot;&gt;&lt;img src=x&gt;</span></td></tr>", page
    )
    assert status == 200
    for said in ("<script>alert", "<b>collapse", "<i>", "<img"):
        assert said not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;collapse" in page
    assert 'class="badge held"' in page
    assert 'class="badge shipped"' in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "default-src 'none'" in headers["content-security-policy"]


def test_the_dashboard_tells_of_a_device_that_routes_who_answered_and_of_others_nothing(peer: Peer) -> None:
    plain = Status(version=0, frames=200, selected=7, queued=0, dropped=0, statistics_resets=0)
    routed = dataclasses.replace(
        plain, offloaded=60, early=100, exit_state="serving", finished=40, hedged=3, labels=9, asked=8,
        payload_bytes=24_000,
    )  # fmt: skip

    def page_with(status: Status) -> str:
        line.send(status)
        until(lambda: device_entry(peer.cloud, peer)["status"] == dataclasses.asdict(status), "the status")
        return fetch(f"{peer.cloud.url}/")[1].decode()

    with peer.session() as line:
        assert "routed:" not in page_with(plain)
        page = page_with(routed)
    assert "routed: 50% left early, 20% finished on the device, 30% by the cloud" in page
    assert "3 hedged, 9 labels, 8 asked for behind an answer, 120 B of payloads a frame" in page
    table = page[page.index('id="devices"') :]
    table = table[: table.index("</table>")]
    assert table.count("<th>") == 1 + int(table.split('colspan="')[1].split('"')[0])


def test_the_dashboards_sections_come_as_events(cloud: Cloud) -> None:
    parts = urlsplit(cloud.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.request("GET", "/v1/events")
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    sections = json.loads(answer.readline().decode().removeprefix("data: "))
    assert set(sections) == {"summary", "chart", "domains", "versions", "devices"}
    answer.readline()
    assert answer.readline().startswith(b"data: "), "another one a second later"
    connection.close()
    until(lambda: cloud._hub.num_watchers == 0, "the stream to end")


def test_the_gateway_itself_does_not_import_torch() -> None:
    code = "import sys, littoral.cloud.gateway; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}, timeout=60).returncode == 0


def test_devices_at_once_are_all_served(cloud: Cloud) -> None:
    begun = time.monotonic()

    def work(failures: list[BaseException]) -> None:
        try:
            with Peer(cloud).enrol().session() as line:
                line.upload(1, 5)
        except BaseException as error:  # noqa: BLE001 -- a thread's outermost frame
            failures.append(error)

    failures: list[BaseException] = []
    threads = [threading.Thread(target=work, args=(failures,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert time.monotonic() - begun < 20


def test_a_worker_is_asked_for_what_devices_sent(tmp_path: Path) -> None:
    worker = FakeWorker()
    with running(write_bundle(tmp_path / "b"), tmp_path / "s", worker=worker) as cloud:
        with Peer(cloud).enrol().session() as line:
            line.upload(1, 4)
            line.wait(Version)
        assert worker.jobs[0].new_frames.shape == (4, *SHAPE)
