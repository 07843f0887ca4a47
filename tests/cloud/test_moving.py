"""A fleet that moves to the cloud of another bundle, one device after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cloud_peer import Peer, enrolled, fetch, running, sample, write_bundle

from littoral.bundle import Bundle
from littoral.cloud import admin
from littoral.cloud.keys import KEYS_FOLDER
from littoral.cloud.moving import take_fleet
from littoral.cloud.store import Store
from littoral.errors import LinkRefused, LittoralError
from littoral.wire.messages import Ack, Challenge, Refusal


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "old", name="old")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "new", name="new")


def fleet(url: str) -> dict[str, dict[str, object]]:
    return {device["id"]: device for device in json.loads(fetch(f"{url}/v1/fleet")[1])["devices"]}


def test_devices_move_one_by_one_and_nobody_is_enrolled_again(old: Path, new: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    with running(old, before) as first:
        mover, stayer, thief = (Peer(first, name=name).enrol() for name in ("mover", "stayer", "thief"))
        admin.revoke(before, thief.device_id, reason="stolen")
        spare = first.new_token()
        with mover.session() as line:
            line.send(sample(1), sequence=1)
            line.wait(Ack)
        with running(new, after, fleet_from=before) as second:
            assert Bundle.open(new).signer() == Bundle.open(old).signer(), "the key that the devices know"
            known = fleet(second.url)
            assert set(known) == {mover.device_id, stayer.device_id, thief.device_id}
            assert known[thief.device_id]["revoked_at"] is not None
            assert known[mover.device_id]["samples"] == 0, "they are the old bundle's"
            mover.cloud, mover.digest = second, second.bundle.digest
            with mover.session() as line, stayer.session() as other:
                assert line.welcome.acked_sequence == 1
                line.send(sample(2), sequence=2)
                assert line.wait(Ack).sequence == 2
                other.send(sample(3), sequence=1)
                assert other.wait(Ack).sequence == 1
            thief.cloud, thief.digest = second, second.bundle.digest
            with thief.dial() as line:
                line.send(thief.hello(line.get(Challenge).nonce))
                assert line.get(Refusal).code == "revoked"
            Peer(second, name="late").enrol(spare)
        before.rename(tmp_path / "archived")
        with running(new, after, fleet_from=before) as again:  # a service is started with the same command
            assert len(fleet(again.url)) == 4
            assert fleet(again.url)[mover.device_id]["samples"] == 1


def test_without_it_the_same_device_is_nobody_there(old: Path, new: Path, tmp_path: Path) -> None:
    """The negative control."""
    with running(old, tmp_path / "before") as first, running(new, tmp_path / "after") as second:
        peer = Peer(first).enrol()
        peer.cloud, peer.digest = second, second.bundle.digest
        with peer.dial() as line:
            line.send(peer.hello(line.get(Challenge).nonce))
            assert line.get(Refusal).code == "not-enrolled"


def test_who_is_apart_stays_apart_and_a_dashboard_says_why(old: Path, new: Path, tmp_path: Path) -> None:
    with running(old, tmp_path / "before") as first:
        peer = Peer(first).enrol()
        first._store.write(
            lambda db: db.execute("UPDATE devices SET quarantined_at = 3.0 WHERE id = ?", (peer.device_id,)).rowcount
        ).result()
        first._store.audit("device-quarantined", peer.device_id, "version 7: it harms", now=3.0).result()
        with running(new, tmp_path / "after", fleet_from=tmp_path / "before") as second:
            told = fleet(second.url)[peer.device_id]
    assert (told["quarantined_at"], told["quarantined_for"]) == (3.0, "version 7: it harms")


def test_a_record_with_devices_of_its_own_takes_none(old: Path, tmp_path: Path) -> None:
    digest = Bundle.open(old).digest
    first, second = (Store(tmp_path / name, bundle_digest=digest) for name in ("one", "two"))
    enrolled(first, 1)
    mine = enrolled(second, 2)
    with pytest.raises(LittoralError, match="has devices of its own; take a fleet into a new state folder"):
        take_fleet(second, tmp_path / "one", cohort="default").result()
    assert [device.id for device in second.devices()] == [mine.id]
    for store in (first, second):
        store.close()


def test_a_fleet_of_another_cohort_is_not_taken_and_refused_one_by_one(old: Path, new: Path, tmp_path: Path) -> None:
    with running(old, tmp_path / "before") as first:
        Peer(first).enrol()
    told = "are of cohort 'default', this cloud is for 'harbour'"
    wrong = running(new, tmp_path / "after", fleet_from=tmp_path / "before", cohort="harbour")
    with pytest.raises(LittoralError, match=told), wrong:
        pass
    with running(new, tmp_path / "after", fleet_from=tmp_path / "before") as second:
        assert len(fleet(second.url)) == 1, "nothing was half done"


def test_keys_are_not_replaced_and_a_folder_that_is_none_is_refused(old: Path, new: Path, tmp_path: Path) -> None:
    for bundle, state in ((old, "before"), (new, "after")):
        with running(bundle, tmp_path / state):
            pass
    keys = {path.name: path.read_bytes() for path in (tmp_path / "after" / KEYS_FOLDER).iterdir()}
    for wrong, told in (
        ("before", "is another key than"),
        ("after", "is this cloud's own state folder"),
        ("nowhere", "cannot be read .*give a cloud's state folder"),
    ):
        with pytest.raises(LittoralError, match=told), running(new, tmp_path / "after", fleet_from=tmp_path / wrong):
            pass
    assert {path.name: path.read_bytes() for path in (tmp_path / "after" / KEYS_FOLDER).iterdir()} == keys


def test_a_token_that_was_used_is_used_there_too(old: Path, new: Path, tmp_path: Path) -> None:
    with running(old, tmp_path / "before") as first:
        token = first.new_token()
        Peer(first).enrol(token)
        with running(new, tmp_path / "after", fleet_from=tmp_path / "before") as second:
            body = {"token": token, "name": "again", "public_key": Peer(second).key.public.hex}
            status, answer, _ = fetch(f"{second.url}/v1/enrol", body)
    assert (status, json.loads(answer)["code"]) == (403, LinkRefused("bad-token", "").code)
