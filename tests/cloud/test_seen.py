"""A cloud that was started again still says since when a device is silent."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cloud_peer import Peer, enrolled, fetch, running, sample, until, write_bundle

from littoral.cloud.cloud import Cloud
from littoral.cloud.seen import last_seen
from littoral.cloud.store import EnrolledDevice, Store


def entry(cloud: Cloud, peer: Peer) -> Any:
    fleet = json.loads(fetch(f"{cloud.url}/v1/fleet")[1])
    return next(device for device in fleet["devices"] if device["id"] == peer.device_id)


def test_who_was_here_is_known_after_a_restart(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    with running(bundle, tmp_path / "s") as cloud:
        here, never = Peer(cloud).enrol(), Peer(cloud, name="pier").enrol()
        with here.session():
            pass
        until(lambda: entry(cloud, here)["online"] is False, "the end of its session")
        seen = entry(cloud, here)["last_seen"]
    with running(bundle, tmp_path / "s") as cloud:
        assert entry(cloud, here)["last_seen"] == pytest.approx(seen, abs=1.0)
        assert entry(cloud, never)["last_seen"] is None
        page = fetch(f"{cloud.url}/")[1].decode()
    assert "not seen yet" in page


def test_what_a_device_sends_is_enough_where_the_cloud_is_killed(store: Store, device: EnrolledDevice) -> None:
    assert last_seen(store) == {}
    store.record(device.id, 7, [(1, sample(1))], now=50.0).result()
    assert last_seen(store) == {device.id: 50.0}


def test_a_record_from_before_gets_the_table(store: Store, device: EnrolledDevice, tmp_path: Path) -> None:
    store.close()
    with sqlite3.connect(store.path) as db:
        db.execute("DROP TABLE seen")
    db.close()
    again = Store(store.path.parent, bundle_digest=None)
    assert last_seen(again) == {}
    assert enrolled(again, 2).id
    again.close()
