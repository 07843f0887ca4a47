"""Over the wire: a device gets the versions of the domain that it is in, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_peer import FakeWorker, Line, Peer, fetch, fingerprint, running, sample, scene, until, write_bundle

from littoral.bundle import VersionManifest
from littoral.cloud.cloud import Cloud
from littoral.wire.messages import Ack, Message, Version


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture
def cloud(tmp_path: Path, worker: FakeWorker) -> Iterator[Cloud]:
    with running(write_bundle(tmp_path / "bundle"), tmp_path / "state", worker=worker) as cloud:
        yield cloud


class Talk:
    """A device in an open session: counts its messages and scenes, and takes only what is newer, as a device does."""

    def __init__(self, peer: Peer, line: Line, *, sequence: int = 0, number: int = 0, highest: int = 0) -> None:
        self.peer, self.line, self.sequence, self.number, self.highest = peer, line, sequence, number, highest

    def enter(self, world: int, *, version: int = 0) -> None:
        self.number += 1
        self.sequence += 1
        self.line.send(scene(self.number, world, version=version), sequence=self.sequence)

    def send(self, count: int = 4) -> None:
        for _ in range(count):
            self.sequence += 1
            self.line.send(sample(self.sequence, scene=self.number), sequence=self.sequence)

    def got(self) -> VersionManifest:
        """The next version that comes."""
        assert self.line.welcome is not None
        claim = self.peer.verified(self.line.wait(Version), self.line.welcome)
        assert claim.version > self.highest, "a device refuses what is not newer"
        self.highest = claim.version
        return claim

    def hears_nothing(self) -> None:
        """An Ack comes, and no version before it: what is sent is sent in order."""
        self.sequence += 1
        self.line.send(sample(self.sequence, scene=self.number), sequence=self.sequence)
        came = list[Message]()
        self.line.wait(Ack, lambda ack: ack.sequence == self.sequence, came.append)
        assert [message for message in came if isinstance(message, Version)] == []


def versions(cloud: Cloud) -> list[tuple[int, int]]:
    return [(entry.version, entry.domain) for entry in cloud._ledger.history()]


def test_a_device_gets_the_versions_of_its_domain_and_no_others(cloud: Cloud) -> None:
    one, two = Peer(cloud).enrol(), Peer(cloud).enrol()
    with one.session() as line_one, two.session() as line_two:
        first, second = Talk(one, line_one), Talk(two, line_two)
        first.enter(1)
        first.send()
        claim = first.got()
        assert (claim.version, claim.domain, claim.fingerprint) == (1, 1, fingerprint(1).hex())
        second.hears_nothing()
        second.enter(2)
        second.send()
        assert (second.got().version, versions(cloud)) == (2, [(1, 1), (2, 2)])
        first.hears_nothing()


def test_a_device_that_enters_a_known_domain_gets_its_newest_at_once(cloud: Cloud) -> None:
    one, two = Peer(cloud).enrol(), Peer(cloud).enrol()
    with one.session() as line_one, two.session() as line_two:
        first, second = Talk(one, line_one), Talk(two, line_two)
        first.enter(1)
        first.send()
        first.got()
        second.enter(1)
        assert second.got().version == 1
    with two.session(highest_version=0) as line:
        assert Talk(two, line).got().version == 1, "at the next hello its domain is known"
    three = Peer(cloud).enrol()
    with three.session() as line:
        Talk(three, line).hears_nothing()


def test_a_device_that_comes_back_gets_a_reissue_unless_it_remembers(cloud: Cloud) -> None:
    one, two = Peer(cloud).enrol(), Peer(cloud).enrol()
    with one.session() as line_one, two.session() as line_two:
        device, other = Talk(one, line_one), Talk(two, line_two)
        for world in (1, 2):
            device.enter(world, version=world - 1)
            device.send()
            assert device.got().version == world
        other.enter(1)
        assert other.got().version == 1
        device.enter(1, version=1)
        device.hears_nothing()
        device.enter(2, version=1)
        claim = device.got()
        assert (claim.version, claim.domain) == (3, 2), "it forgot the night, and had seen all numbers"
        assert versions(cloud) == [(1, 1), (2, 2), (3, 2)]
        payloads = [cloud._ledger.payload_of(n) for n in (2, 3)]
        assert payloads[0] == payloads[1]
        other.hears_nothing()
        device.enter(1, version=0)
        assert (device.got().version, other.got().version) == (4, 4), "whoever is in the domain may take it"


def test_what_a_restarted_cloud_knows_of_devices_is_in_its_record(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    with running(bundle, tmp_path / "state") as cloud:
        peer = Peer(cloud).enrol()
        with peer.session() as line:
            talk = Talk(peer, line)
            talk.enter(3)
            talk.send()
            talk.got()
    with running(bundle, tmp_path / "state") as again:
        peer.cloud = again
        with peer.session(highest_version=0) as line:
            talk = Talk(peer, line, sequence=talk.sequence, number=talk.number)
            assert talk.got().version == 1
            talk.send()
            assert talk.got().version == 2


def test_the_fleet_shows_the_domains_and_metrics_name_none(cloud: Cloud) -> None:
    one, two = Peer(cloud, name="porch").enrol(), Peer(cloud, name="gate").enrol()
    with one.session() as line_one, two.session() as line_two:
        first, second = Talk(one, line_one), Talk(two, line_two)
        first.enter(1)
        first.send()
        first.got()
        second.enter(1)
        second.got()
        second.enter(2)
        second.send(3)
        second.line.wait(Ack, lambda ack: ack.sequence == second.sequence)
        fleet = until(lambda: (f := json.loads(fetch(f"{cloud.url}/v1/fleet")[1]))["domains"][2:] and f, "two domains")
        page = fetch(f"{cloud.url}/")[1].decode()
        text = fetch(f"{cloud.url}/metrics")[1].decode()
    assert isinstance(fleet, dict)
    assert fleet["domains"] == [
        {"domain": 0, "own_of": None, "scenes": 0, "devices": 0, "shipped_version": 0, "waiting": 0},
        {"domain": 1, "own_of": None, "scenes": 2, "devices": 1, "shipped_version": 1, "waiting": 0},
        {"domain": 2, "own_of": None, "scenes": 1, "devices": 1, "shipped_version": 0, "waiting": 3},
    ]
    assert {d["name"]: d["domain"] for d in fleet["devices"]} == {"porch": 1, "gate": 2}
    assert fleet["versions"][0]["domain"] == 1
    assert "devices in it now" in page
    assert 'littoral_scenes_total{cohort="default"} 3.0' in text
    assert "domain=" not in text
