"""A device whose samples harm the others: left out, blamed, and put apart with chains of its own; and let in again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from cloud_peer import FakeGate, enrolled, image
from test_chains import Rig

from littoral.bundle import Bundle
from littoral.cloud.dashboard import render_sections
from littoral.cloud.gate import Verdict
from littoral.cloud.store import EnrolledDevice, Store
from littoral.cloud.verdicts import BLAMED, LEFT_OUT, QUARANTINED, named
from littoral.cloud.witnesses import WitnessConfig
from littoral.core.arrays import Frame

BAD = 666
"""The number of the frames that harm."""
ONCE = WitnessConfig(frames=4, min_frames=2, blames=1)


class Sees(FakeGate):
    """Says that a version harms every witness without bad frames, once bad ones are among the job's new frames."""

    def check(
        self, payload: bytes, *, recent_frames: Frame, witnesses: Mapping[str, Frame], base_payload: bytes
    ) -> Verdict:
        super().check(payload, recent_frames=recent_frames, witnesses=witnesses, base_payload=base_payload)
        bad = image(BAD)
        harmed = ()
        if any(np.array_equal(frame, bad) for frame in recent_frames):
            harmed = tuple(sorted(d for d, frames in witnesses.items() if not (frames == bad).all()))
        return Verdict(passed=not harmed, reason="it costs them" if harmed else "", report={}, harmed=harmed)


@pytest.fixture
def rig(store: Store, opened: Bundle) -> Iterator[Rig]:
    rig = Rig(store, opened)
    rig.gate = Sees()
    rig.restart()
    yield rig
    rig.executor.close()


@pytest.fixture
def bad(rig: Rig, device: EnrolledDevice) -> EnrolledDevice:
    """A device beside an honest one, in its domain, which has already learned something."""
    other = enrolled(rig.store, 2)
    rig.enter(device, 1)
    rig.enter(other, 1)
    rig.send(device)
    rig.work()
    return other


def history(rig: Rig, key: str) -> list[tuple[str, ...]]:
    return [named(entry, key) for entry in rig.ledger.history()]


def test_a_version_that_harms_is_made_again_without_whom_it_comes_from(
    rig: Rig, device: EnrolledDevice, bad: EnrolledDevice
) -> None:
    rig.send(device, 2)
    rig.send(bad, 2, number=BAD)
    [made] = rig.work()
    assert made.shipped
    assert made.quarantined == ()
    assert f"made without the samples of {bad.id}: with them it costs them" in made.reason
    assert [len(job.new_frames) for job in rig.worker.jobs] == [4, 4, 2]
    assert history(rig, BLAMED)[-1] == history(rig, LEFT_OUT)[-1] == (bad.id,)
    rig.send(device)
    rig.work()
    bad_frame = image(BAD).tobytes()
    assert bad_frame not in {frame.tobytes() for frame in rig.worker.jobs[-1].replay_frames}, "nor is it remembered"


def test_one_that_comes_of_a_single_device_is_held_and_that_one_blamed(
    rig: Rig, device: EnrolledDevice, bad: EnrolledDevice
) -> None:
    rig.send(bad, number=BAD)
    [made] = rig.work()
    assert (made.shipped, history(rig, BLAMED)[-1]) == (False, (bad.id,))


def test_what_the_gate_refuses_for_the_probes_sake_is_made_again_too(
    rig: Rig, device: EnrolledDevice, bad: EnrolledDevice
) -> None:
    rig.gate.check = lambda payload, **asked: Verdict(  # type: ignore[method-assign]
        passed=not any(np.array_equal(frame, image(BAD)) for frame in asked["recent_frames"]),
        reason="it keeps too little",
        report={},
    )
    rig.restart()
    rig.send(device, 2)
    rig.send(bad, 2, number=BAD)
    rig.send(bad, number=BAD)
    made = rig.work()
    assert [m.shipped for m in made] == [True, False]
    assert history(rig, BLAMED)[-2:] == [(bad.id,), (bad.id,)]


def test_a_lone_witness_against_two_is_blamed_itself_and_the_version_ships(
    rig: Rig, device: EnrolledDevice, bad: EnrolledDevice
) -> None:
    third = enrolled(rig.store, 3)
    rig.enter(third, 1)
    for _ in range(2):
        rig.send(device)
        rig.send(third)
    rig.work()
    rig.gate.check = lambda payload, **asked: (
        Verdict(  # type: ignore[method-assign]
            passed=False, reason="it costs one", report={}, harmed=tuple(d for d in asked["witnesses"] if d == bad.id)
        )
        if bad.id in asked["witnesses"]
        else Verdict(passed=True, reason="", report={})
    )
    rig.send(bad, 4)
    rig.send(device, 4)
    rig.restart()
    made = rig.work()
    assert made[-1].shipped
    assert "outvoted by the other devices" in made[-1].reason
    assert history(rig, BLAMED)[-1] == (bad.id,)


def apart(rig: Rig, bad: EnrolledDevice) -> None:
    """Send what harms until the device is quarantined."""
    rig.witnesses = ONCE
    rig.restart()
    rig.send(bad, number=BAD)
    [made] = rig.work()
    assert made.quarantined == (bad.id,)


def test_who_is_blamed_too_often_learns_alone_and_nobody_learns_from_it(
    rig: Rig, device: EnrolledDevice, bad: EnrolledDevice
) -> None:
    rig.send(bad, 2, number=BAD)  # these wait, and are withdrawn
    apart(rig, bad)
    known = rig.store.device(bad.id)
    assert known is not None
    assert known.quarantined_at == 100.0
    assert known.domain == 2 != 1
    rig.send(bad, number=BAD)
    rig.send(device)
    made = rig.work()
    assert {(m.domain, m.shipped) for m in made} == {(1, True), (2, True)}
    newest = rig.ledger.newest_shipped()
    assert set(newest) == {1, 2}
    by_domain = {m.domain: job for m, job in zip(made, rig.worker.jobs[-2:], strict=True)}
    bad_frame = image(BAD).tobytes()
    assert {f.tobytes() for f in by_domain[2].new_frames} == {bad_frame}
    seen = {f.tobytes() for f in (*by_domain[1].new_frames, *by_domain[1].replay_frames)}
    assert bad_frame not in seen
    assert rig.manifest(2)["fingerprint"] == rig.manifest(1)["fingerprint"], "it is the same world"


def test_its_next_scene_of_that_world_is_of_its_own_domain_and_anothers_is_not(
    rig: Rig, device: EnrolledDevice, bad: EnrolledDevice
) -> None:
    apart(rig, bad)
    third = enrolled(rig.store, 3)
    for who, expected in ((bad, 2), (third, 1), (device, 1)):
        rig.enter(who, 1)
        known = rig.store.device(who.id)
        assert known is not None
        assert known.domain == expected
    rig.enter(bad, 2)
    rig.enter(device, 2)
    domains = {d.number: (d.own_of, d.known) for d in rig.ledger.domains()}
    assert domains == {1: (None, True), 2: (1, False), 3: (None, True), 4: (3, False)}


def test_a_new_domain_of_others_does_not_start_from_what_it_learned(
    rig: Rig, device: EnrolledDevice, bad: EnrolledDevice
) -> None:
    apart(rig, bad)
    rig.send(bad, number=BAD)
    rig.work()
    alone = rig.ledger.newest_shipped()[2].version
    rig.enter(device, 2)
    rig.send(device)
    rig.work()
    assert rig.ledger.history()[-1].base_version not in (0, alone)


def test_what_it_had_taught_is_forgotten_and_the_domain_begins_afresh(
    rig: Rig, device: EnrolledDevice, bad: EnrolledDevice
) -> None:
    rig.send(bad, number=9)
    rig.work()
    apart(rig, bad)
    rig.send(device)
    rig.send(device)
    assert all(made.shipped for made in rig.work())
    first, second = rig.ledger.history()[-2:]
    assert (first.base_version, rig.worker.jobs[-2].state) == (0, b"")
    assert second.base_version == first.version
    assert image(9).tobytes() not in {frame.tobytes() for frame in rig.worker.jobs[-2].replay_frames}


def test_a_restart_and_a_reread_record_change_nothing(
    rig: Rig, store: Store, device: EnrolledDevice, bad: EnrolledDevice
) -> None:
    apart(rig, bad)
    jobs = []
    for _ in range(2):
        rig.send(device)
        rig.send(bad, number=BAD)
        replay = rig.cohort._memory()
        again = rig.make(rig.executor)._memory()
        assert again.ids == replay.ids
        assert again.buffer.counts() == replay.buffer.counts()
        rig.work()
        jobs.append(rig.worker.jobs[-1])
    assert history(rig, QUARANTINED).count((bad.id,)) == 1


def test_released_it_shares_again_from_its_next_scene_on(rig: Rig, device: EnrolledDevice, bad: EnrolledDevice) -> None:
    apart(rig, bad)
    assert rig.store.release(bad.id, reason="a wet lens", now=7.0).result()
    assert not rig.store.release(bad.id, reason="", now=7.0).result()
    with pytest.raises(ValueError, match="no device 'x' is enrolled"):
        rig.store.release("x", reason="", now=7.0).result()
    rig.enter(bad, 1)
    known = rig.store.device(bad.id)
    assert known is not None
    assert (known.domain, known.quarantined_at) == (1, None)
    kinds = [kind for _, kind, subject, _ in rig.store.audit_entries() if subject == bad.id]
    assert kinds[-2:] == ["device-quarantined", "device-released"]


def test_without_domains_its_samples_are_kept_and_not_learned_from(rig: Rig, device: EnrolledDevice) -> None:
    other = enrolled(rig.store, 2)
    rig.send(device)
    rig.work()
    apart(rig, other)
    rig.send(other, number=BAD)
    assert rig.work() == []
    rig.send(device)
    assert [made.shipped for made in rig.work()] == [True]


def test_without_blames_no_device_is_ever_quarantined(rig: Rig, device: EnrolledDevice, bad: EnrolledDevice) -> None:
    """The negative control: the same device goes on costing the others their versions."""
    rig.witnesses = WitnessConfig(frames=4, min_frames=2, blames=0)
    rig.restart()
    for _ in range(5):
        rig.send(bad, number=BAD)
    assert [made.shipped for made in rig.work()] == [False] * 5
    known = rig.store.device(bad.id)
    assert known is not None
    assert known.quarantined_at is None


def test_the_dashboard_says_who_is_apart_and_why() -> None:
    device = {
        "id": "d1", "name": "<pier>", "online": True, "revoked_at": None, "last_seen": 1.0, "status": None,
        "samples": 3, "malformed": 0, "domain": 2, "refused": None, "last_receipt": None, "last_revert": None,
        "quarantined_at": 90.0, "quarantined_for": "version 9: <it> costs d2",
    }  # fmt: skip
    document = {
        "now": 100.0, "started_at": 0.0, "shipped_version": 0, "head_version": 0, "versions": [],
        "bundle": {"name": "b", "digest": "00"}, "link_bytes": {"up": {}, "down": {}}, "samples_per_second": [0],
        "last_sample_at": 40.0,
        "totals": {
            "devices": 1, "online": 1, "samples": 3, "sample_bytes": 0, "labels_sent": 0, "quarantined": 1
        },
        "devices": [device],
        "domains": [{"domain": 2, "own_of": 1, "scenes": 1, "devices": 1, "waiting": 0, "shipped_version": 0}],
    }  # fmt: skip
    shown = render_sections(document)
    assert '<span class="badge held">quarantined</span>' in shown["devices"]
    assert "quarantined 10 s ago: it learns alone, and nobody from it. " in shown["devices"]
    assert "version 9: &lt;it&gt; costs d2." in shown["devices"]
    assert "1 quarantined" in shown["summary"]
    assert "the newest 1 min ago; 0 B of images" in shown["summary"]
    assert "of one device, beside 1" in shown["domains"]
