"""What an operator can put an alert on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cloud_peer import Peer, enrolled, fetch, running, sample, until, write_bundle

from littoral.cloud.cloud import Cloud
from littoral.cloud.store import PAGE_BYTES, Store
from littoral.errors import StorageError
from littoral.wire.messages import Challenge, Refusal, Status

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "keep-a-cloud.md"


def exposed(cloud: Cloud) -> dict[str, float]:
    status, body, _ = fetch(f"{cloud.url}/metrics")
    assert status == 200
    lines = [line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#")]
    return {name.replace('cohort="default"', "").replace(",}", "}").replace("{,", "{"): float(n) for name, n in lines}


def test_what_is_alerted_on_is_there_before_it_happens_and_tells_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(write_bundle(tmp_path / "b"), tmp_path / "s") as cloud:
        first = exposed(cloud)
        for name in (
            'littoral_versions_total{status="held"}',
            'littoral_refusals_total{code="storage"}',
            'littoral_malformed_total{purpose="sample"}',
            "littoral_samples_total{}",
            "littoral_devices_enrolled{}",
            "littoral_samples_waiting{}",
        ):
            assert first[name] == 0
        assert "littoral_last_sample_timestamp_seconds{}" not in first
        assert first["littoral_record_bytes{}"] > 0
        assert first["littoral_record_room_bytes{}"] > 0
        assert first["process_resident_memory_bytes"] > 0

        peer, other = Peer(cloud).enrol(), Peer(cloud).enrol()
        other.digest = b"x" * 32
        with peer.session() as line, other.dial() as refused:
            line.upload(1, 9)
            line.send(Status(version=0, frames=9, selected=9, queued=7, dropped=0, statistics_resets=0))
            refused.send(other.hello(refused.get(Challenge).nonce))
            refused.wait(Refusal)
            until(lambda: exposed(cloud)["littoral_outbox_messages{}"] == 7, "the status")
            until(lambda: exposed(cloud)["littoral_samples_waiting{}"] == 1, "two jobs")
            now = exposed(cloud)
            assert (now["littoral_devices_enrolled{}"], now["littoral_devices_refused{}"]) == (2, 1)
            assert now['littoral_refusals_total{code="other-bundle"}'] == 1
            assert now["littoral_last_sample_timestamp_seconds{}"] == pytest.approx(cloud._hub.clock(), abs=60)
            assert now["littoral_last_shipped_timestamp_seconds{}"] == pytest.approx(cloud._hub.clock(), abs=60)

        def unreadable() -> tuple[int, int]:
            raise StorageError("disk on fire")

        monkeypatch.setattr(cloud._store, "size", unreadable)
        assert exposed(cloud)["littoral_devices_enrolled{}"] == 2, "as it was"


def test_every_metric_that_the_how_to_names_is_there(tmp_path: Path) -> None:
    named = set(re.findall(r"\b(?:littoral|process)_\w+", HOW_TO.read_text(encoding="utf-8")))
    with running(write_bundle(tmp_path / "b"), tmp_path / "s") as cloud:
        text = fetch(f"{cloud.url}/metrics")[1].decode()
    assert len(named) > 8
    assert named <= set(re.findall(r"# TYPE (\w+) ", text))


def test_room_is_what_is_left_below_the_limit_and_what_is_used_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", bundle_digest=bytes(32), max_bytes=100 * PAGE_BYTES)
    before, room = store.size()
    assert 0 < room < 100 * PAGE_BYTES
    device = enrolled(store)
    store.record(device.id, 7, [(n, sample(n)) for n in range(1, 200)], now=5.0).result()
    after, less = store.size()
    assert after > before
    assert less < room
    store.write(lambda db: db.execute("DELETE FROM samples")).result()
    store.write(lambda db: db.execute("DELETE FROM blobs")).result()
    assert store.size()[1] > less
    store.close()
    free = Store(tmp_path / "s", bundle_digest=bytes(32))
    assert free.size()[1] > 100 * PAGE_BYTES, "as much as the disk has"
    free.close()
