"""A device that routes: which answer it gives, what it says of it, and what the exits' coin and the router's share."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from route_rigs import CALM, EAGER, SEGMENT_MS, FakeEncoder, Rig, reply

from littoral.core.calibration_ring import NO_LABEL
from littoral.core.exit_control import Purpose
from littoral.core.exits import OFF
from littoral.core.route_plan import Prices
from littoral.core.route_words import RouteConfig
from littoral.edge.recent import SeenFrame

CONFIG = RouteConfig(deadline_ms=100.0, prices=EAGER, audit_share=0.0)
MIXED = replace(CONFIG, prices=Prices(ms=0.002, byte=1e-5))
"""Some frames are worth the cloud's time, some are not."""
NEVER_ASKS = replace(CONFIG, prices=Prices(ms=0.02, byte=1.0))
FULL_MS = sum(SEGMENT_MS)
UNREACHED = (1.5, 1.5)
"""Exits that are asked, and never sure enough."""


def answering(after_ms: float, label: int = 2) -> Any:
    return lambda asked: [(after_ms, reply(label))]


def tosses(rig: Rig, *purposes: Purpose) -> None:
    """Have the exits' coin say this, over and over."""
    coming = [*purposes]

    def purpose(*, checking: bool) -> Purpose:
        coming.append(coming.pop(0))
        return coming[-1]

    rig.exits.control.purpose = purpose  # type: ignore[method-assign]


# Who answers.


def test_the_clouds_answer_is_given_when_it_comes_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    tosses(rig, Purpose.NOTHING)
    rig.link.fate = answering(12.0)
    routed, took_ms = rig.infer(0)
    assert (routed.source, routed.degraded, routed.reason) == ("cloud", False, "cloud-better")
    assert (routed.found.label, routed.found.exit_index) == (2, 3)
    point = max(segment for _, segment in rig.segments) + 1
    assert took_ms == pytest.approx(sum(SEGMENT_MS[:point]) + 1 + 12)
    (asked,) = rig.link.asked
    assert asked["version"] == 0
    assert 1 <= asked["deadline_ms"] <= 1000 * asked["wait_s"] <= 98


def test_a_sure_exit_answers_without_the_cloud_and_without_the_rest_of_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, NEVER_ASKS, thresholds=(0.0, 0.0))
    tosses(rig, Purpose.NOTHING)
    routed, took_ms = rig.infer(0)
    assert (routed.source, routed.degraded, routed.reason) == ("device", False, "sure")
    assert (routed.found.exit_index, took_ms, rig.segments) == (0, SEGMENT_MS[0], [(0, 0)])
    assert rig.exits.frames_by_exit == [1, 0, 0, 0]


def test_what_the_cloud_does_not_answer_the_device_finishes_and_says_that_it_is_degraded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    rig.offloads_at(1)
    routed, took_ms = rig.infer(0)
    assert (routed.source, routed.degraded, routed.reason) == ("device", True, "asked")
    assert routed.found.exit_index == 3
    assert took_ms == SEGMENT_MS[0] + 60 + sum(SEGMENT_MS[1:])
    assert rig.routing.counters.hedged == 1


def test_with_the_whole_network_run_the_cloud_is_waited_for_until_the_answer_in_hand_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    rig.offloads_at(3, hedge_after_ms=None)
    routed, took_ms = rig.infer(0)
    assert (routed.source, routed.degraded, routed.reason) == ("device", True, "cloud-better")
    assert took_ms == pytest.approx(CONFIG.deadline_ms - CONFIG.spare_ms)
    assert rig.routing.counters.hedged == 0


@pytest.mark.parametrize("outcome", ["away", reply(code="overloaded"), reply(answer=b"\x00")], ids=["cut", "no", "odd"])
def test_a_refusal_or_a_cut_link_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    rig.link.fate = lambda asked: [(3.0, outcome)]
    routed, took_ms = rig.infer(0)
    assert (routed.source, routed.degraded) == ("device", True)
    assert took_ms == pytest.approx(FULL_MS + 1 + 3)


def test_a_payload_that_cannot_be_made_costs_no_answer_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    rig.offloads_at(1)
    rig.refused = {0}
    routed, took_ms = rig.infer(0)
    assert (routed.source, routed.degraded, routed.reason) == ("device", True, "no-way")
    assert (took_ms, rig.link.asked) == (FULL_MS + 1, [])
    assert rig.routing.counters.hedged == 0


def test_an_answer_that_comes_while_the_device_goes_on_stops_it_between_two_segments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    rig.offloads_at(1, hedge_after_ms=10.0)
    tosses(rig, Purpose.NOTHING)
    rig.link.fate = answering(10.0 + SEGMENT_MS[1] + 0.5)
    routed, took_ms = rig.infer(0)
    assert (routed.source, routed.degraded, routed.reason) == ("cloud", False, "cloud-better")
    assert [segment for _, segment in rig.segments] == [0, 1, 2], "the last one is spared"
    assert took_ms == pytest.approx(sum(SEGMENT_MS[:3]) + 10)
    assert rig.routing.counters.hedged == 1


def test_with_no_time_for_more_the_exit_in_hand_answers_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, replace(NEVER_ASKS, deadline_ms=11.0), thresholds=(OFF, OFF))
    routed, took_ms = rig.infer(0)
    assert (routed.reason, routed.degraded, routed.found.exit_index) == ("no-time", True, 0)
    assert took_ms < 11


def test_no_frame_leaves_under_a_version_that_the_heads_are_not_of_and_nothing_is_kept_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, NEVER_ASKS, thresholds=(0.0, 0.0))
    rig.model.version = 5
    routed, _ = rig.infer(0)
    assert routed.found.exit_index == 3
    assert rig.exits.recent.get(1) is None
    assert not rig.exits.queue


def test_exits_that_are_off_are_not_asked_and_the_answer_says_what_it_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {}
    for name, thresholds in (("off", (OFF, OFF)), ("asked", UNREACHED), ("second", (OFF, 0.0)), ("first", (0.0, 0.0))):
        rig = Rig(monkeypatch, NEVER_ASKS, thresholds=thresholds)
        tosses(rig, Purpose.NOTHING)
        steps: list[int] = []
        monkeypatch.setattr(rig.router, "ran", lambda step, ms, steps=steps: steps.append(step))
        routed, took_ms = rig.infer(0)
        shares[name] = routed.found.compute_share
        assert steps == list(range(len(steps))), "each step is timed by itself"
        if name == "off":
            assert (took_ms, routed.found.exit_index, rig.exits.recent.get(1).num_seen) == (FULL_MS, 3, 0)  # type: ignore[union-attr]
    assert shares == {"off": 1.0, "asked": 403 / 401, "second": 201 / 401, "first": 101 / 401}


def test_with_little_time_exits_that_are_off_are_asked_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else there were no answer in hand when the time is up."""
    rig = Rig(monkeypatch, replace(NEVER_ASKS, deadline_ms=11.0), thresholds=(OFF, OFF))
    tosses(rig, Purpose.NOTHING)
    routed, took_ms = rig.infer(0)
    assert (routed.reason, routed.found.exit_index, took_ms < 11) == ("no-time", 0, True)


def test_a_frame_that_the_coin_picked_asks_all_exits_behind_its_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rig = Rig(monkeypatch, NEVER_ASKS, thresholds=(OFF, OFF), state=tmp_path)
    tosses(rig, Purpose.RING)
    routed, took_ms = rig.infer(0)
    assert (took_ms, routed.found.compute_share) == (FULL_MS, 1.0)
    rig.infer(1)
    rig.settle()
    rig.exits.take()
    kept = {frame.frame_id: frame for frame in rig.exits.ring.frames()}
    np.testing.assert_allclose(kept[1].features, rig.world.features[:, 0].ravel(), atol=2e-2)


# Behind the answer.


def test_an_audit_is_asked_behind_the_answer_and_its_answer_is_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Rig(monkeypatch, NEVER_ASKS, thresholds=(0.5, 0.5))
    rig = Rig(monkeypatch, replace(NEVER_ASKS, audit_share=0.5), thresholds=(0.5, 0.5))
    rig.link.fate = answering(12.0)
    taken = [(plain.infer(number)[1], rig.infer(number, gap_ms=20)[1]) for number in range(40)]
    rig.infer(40)
    assert all(without == with_audits for without, with_audits in taken), "an audit takes an answer no time"
    counters = rig.routing.counters
    assert 10 < counters.audits < 30
    assert (counters.labels, counters.offloaded, counters.pings) == (counters.audits, 0, 0)


def test_a_device_that_knows_nothing_of_its_link_pings_behind_its_answers_and_then_offloads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF), link_warm_ms=None)
    rig.link.fate = answering(8.0)
    routed, took_ms = rig.infer(0)
    assert (routed.source, routed.reason, routed.degraded, took_ms) == ("device", "link-stale", True, FULL_MS)
    answers = [rig.infer(number, gap_ms=30)[0] for number in range(1, 10)]
    assert answers[-1].source == "cloud"
    assert 2 <= rig.routing.counters.pings < 9


def test_a_ping_that_goes_wrong_in_the_background_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError("no room for a payload")

    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF), link_warm_ms=None)
    rig.link.fate = answering(8.0)
    with monkeypatch.context() as broken:
        broken.setattr(FakeEncoder, "encode", fail)
        with pytest.raises(MemoryError):
            rig.infer(0)
    rig.clock.runs = True
    answers = [rig.infer(number, gap_ms=30)[0] for number in range(1, 12)]
    assert answers[-1].source == "cloud"


def test_only_one_ping_is_on_its_way_to_the_encoder_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF), link_warm_ms=None)
    for number in range(3):
        rig.infer(number, behind=False)
    assert len(rig.tasks) - len(rig.exits.queue) <= 2
    rig.settle()
    assert len(rig.link.asked) == 1


def test_an_answer_that_comes_when_the_device_has_answered_is_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    rig.link.fate = answering(CONFIG.deadline_ms + 30)
    first, _ = rig.infer(0, gap_ms=60)
    rig.link.fate = answering(5.0)
    rig.infer(1)
    counters = rig.routing.counters
    assert (first.source, first.degraded) == ("device", True)
    assert (counters.answered, counters.offloaded, counters.labels) == (2, 1, 1)
    assert rig.link.asked[0]["keep_s"] == 0.1


@pytest.mark.parametrize("comes", [True, False], ids=["late", "never"])
def test_of_an_answer_that_came_too_late_the_router_hears_that_none_came_in_time(
    monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    told: list[tuple[str, float]] = []
    for name in ("answered", "gave_up", "refused"):
        monkeypatch.setattr(rig.router, name, lambda ticket, ms=0.0, name=name, **more: told.append((name, round(ms))))
    if comes:
        rig.link.fate = answering(CONFIG.deadline_ms + 30)
    rig.infer(0, gap_ms=60)
    rig.routing.requests.listen()
    (asked,) = rig.link.asked
    assert told == [("gave_up", round(1000 * asked["wait_s"]))]
    assert rig.routing.counters.labels == comes


def test_a_camera_may_use_its_buffer_again_while_the_frame_runs_behind_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    rig.offloads_at(0)
    tosses(rig, Purpose.RING)
    rig.link.fate = answering(12.0)
    buffer = np.array(7, dtype=np.int64)
    routed = rig.routing.answer(rig.model, buffer, 1, rig.clock.now_ms)  # type: ignore[arg-type]
    buffer[...] = 8
    rig.settle()
    assert (routed.source, rig.segments) == ("cloud", [(7, segment) for segment in range(4)])


@pytest.mark.parametrize("late_ms", [0.0, 4.0], ids=["in-time", "late"])
def test_a_machine_that_wakes_threads_late_is_waited_on_less(monkeypatch: pytest.MonkeyPatch, late_ms: float) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    rig.offloads_at(3, hedge_after_ms=None)
    inbox = rig.routing.requests.inbox
    wait = inbox.wait
    monkeypatch.setattr(inbox, "wait", lambda timeout_ms: wait(timeout_ms + late_ms))
    took = [rig.infer(number, gap_ms=200)[1] for number in range(8)]
    assert took[0] == pytest.approx(CONFIG.deadline_ms - CONFIG.spare_ms + late_ms)
    assert all(CONFIG.deadline_ms - 12 < each <= CONFIG.deadline_ms for each in took[1:])
    if late_ms:
        assert took[0] > CONFIG.deadline_ms, "else nothing is shown"


# The two coins (docs/adr/0022).


def lives(monkeypatch: pytest.MonkeyPatch, *, coin: bool) -> tuple[list[Any], list[Any], Rig]:
    rig = Rig(monkeypatch, replace(MIXED, audit_share=0.2), num_frames=300, thresholds=(0.8, 0.8))
    rig.exits.control._limit = rig.exits.control._limit if coin else 0
    rig.link.fate = answering(12.0)
    rows = []
    for number in range(300):
        routed, took_ms = rig.infer(number)
        found = routed.found
        rows.append((found.label, found.exit_index, routed.source, routed.degraded, routed.reason, took_ms))
    return rows, [(each["number"], each["split"], each["deadline_ms"]) for each in rig.link.asked], rig


def test_the_exits_coin_changes_no_answer_no_request_and_no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("littoral.core.exit_control.RiskAlarm.add", lambda self, loss: False)
    rows, asked, rig = lives(monkeypatch, coin=True)
    without, asked_without, other = lives(monkeypatch, coin=False)
    assert (rows, asked) == (without, asked_without)
    assert (rig.exits.control.num_audits > 15, other.exits.control.num_audits) == (True, 0)
    assert {row[2] for row in rows} == {"device", "cloud"}
    assert len(rig.segments) > len(other.segments), "what the coin costs runs behind"


def test_what_calibrates_is_like_the_whole_traffic_whoever_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its negative control: frames that were not offloaded are the easy ones."""
    monkeypatch.setattr("littoral.core.exit_control.RiskAlarm.add", lambda self, loss: False)
    control = replace(CALM, audit_share=0.5, ring_frames=400, min_calibration=400)
    rig = Rig(monkeypatch, MIXED, num_frames=1200, thresholds=(0.95, 0.95), control=control)
    rig.link.fate = answering(12.0, 0)
    by_cloud = np.array([rig.infer(number, gap_ms=20)[0].source == "cloud" for number in range(1200)])
    logits = rig.world.heads().heads[0].logits(rig.world.features[0])
    two = np.partition(logits, -2, axis=1)[:, -2:]
    hard = two[:, 1] - two[:, 0] < 2
    ring = [frame.frame_id - 1 for frame in rig.exits.ring.frames()]
    assert len(ring) > 250
    assert 0.2 < by_cloud.mean() < 0.5
    assert by_cloud[ring].mean() == pytest.approx(by_cloud.mean(), abs=0.08)
    assert hard[ring].mean() == pytest.approx(hard.mean(), abs=0.07)
    assert hard[~by_cloud].mean() < hard.mean() - 0.15, "the control"


def test_no_segment_runs_twice_for_a_frame_whatever_is_made_of_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, replace(CONFIG, audit_share=0.3), num_frames=200, thresholds=(0.7, 0.7))
    rig.link.fate = lambda asked: [(12.0, reply(0))] if asked["number"] % 3 else []
    for number in range(200):
        rig.infer(number, behind=bool(number % 5))
    rig.settle()
    assert len(rig.segments) == len(set(rig.segments))


def test_a_frame_that_the_coin_picked_calibrates_although_the_cloud_answered_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF), state=tmp_path)
    rig.offloads_at(1)
    tosses(rig, Purpose.RING)
    rig.link.fate = answering(12.0, label=3)
    routed, took_ms = rig.infer(0)
    assert (routed.source, took_ms) == ("cloud", SEGMENT_MS[0] + 13)
    assert [segment for _, segment in rig.segments] == [0, 1, 2, 3]
    rig.infer(1)  # what ran behind is taken up with the next frame
    rig.settle()
    rig.routing.learning.take()
    rig.exits.take()
    kept = {frame.frame_id: frame for frame in rig.exits.ring.frames()}
    network = rig.world.heads().heads[-1].logits(rig.world.features[-1, 0])
    assert (kept[1].shipped, kept[1].label) == (int(network.argmax()), NO_LABEL)
    np.testing.assert_allclose(kept[1].features, rig.world.features[:, 0].ravel(), atol=2e-2)
    assert len(rig.exits._pending or ()) == 0, "the cloud's word on a frame of the ring teaches nobody"


def test_where_too_much_runs_behind_no_coin_is_tossed(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, CONFIG, checking=True)
    rig.offloads_at(1)
    rig.link.fate = answering(12.0)
    for number in range(10):
        rig.infer(number, behind=False)
    assert rig.exits.control.num_frames == 4
    rig.settle()
    rig.infer(10)
    assert rig.exits.control.num_frames == 5


def test_an_audit_of_the_exits_sees_what_ran_behind_and_the_alarm_is_a_sign_of_drift(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control = replace(CALM, audit_share=1.0, risk=0.2)
    rig = Rig(monkeypatch, NEVER_ASKS, num_frames=400, control=control, checking=True, noise=0.5)
    number = 0
    while rig.exits.policy.checking and number < 300:
        rig.infer(number)
        number += 1
    assert rig.exits.state == "serving"
    rig.routing.requests.listen()
    assert rig.routing.caution.num_signals == 0
    wrong = replace(rig.exits.policy.exits[0].head, bias_K=np.float32([0, 0, 0, 1e4]))
    broken = replace(rig.exits.policy.exits[0], head=wrong, threshold=0.5)
    rig.exits.policy = replace(rig.exits.policy, exits=(broken, *rig.exits.policy.exits[1:]))
    seen = []
    for step in range(60):
        seen.append(rig.infer(number + step % 60)[0].found.exit_index)
        if rig.exits.control.num_alarms:
            break
    assert 0 in seen, "they left early and were answered so"
    rig.infer(number)
    assert (rig.exits.control.num_alarms, rig.routing.caution.num_signals) == (1, 1)
    assert rig.exits.state == "checking"


def test_an_audit_counts_a_sure_exit_that_is_wrong_although_the_frame_left_at_one_that_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, NEVER_ASKS, thresholds=(0.0, 0.0), noise=0.2)
    tosses(rig, Purpose.RING)
    losses: list[float] = []
    rig.exits.control.audit = lambda loss: bool(losses.append(loss))  # type: ignore[method-assign, func-returns-value]
    exits = rig.exits.policy.exits
    wrong = replace(exits[1], head=replace(exits[1].head, bias_K=np.float32([0, 0, 0, 1e4])))
    rig.exits.policy = replace(rig.exits.policy, exits=(exits[0], wrong, exits[2]))
    number = int(np.flatnonzero(rig.world.labels != 3)[0])
    routed, _ = rig.infer(number)
    rig.infer(number)
    assert (routed.found.exit_index, routed.found.label) == (0, rig.world.labels[number])
    assert losses == [1.0]


def test_a_certificate_calms_the_router(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, NEVER_ASKS, num_frames=300, control=replace(CALM, risk=0.2), checking=True, noise=0.5)
    rig.routing.world(True)
    rig.infer(0)
    assert rig.routing.caution.frame().level == 1.0
    number = 1
    while rig.exits.policy.checking and number < 300:
        rig.infer(number)
        number += 1
    rig.infer(0)
    assert rig.exits.state == "serving"
    assert rig.routing.caution.frame().level == 0.0


def test_a_network_that_is_not_finite_behind_an_answer_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    rig.offloads_at(1)
    tosses(rig, Purpose.RING)
    rig.model.broken = {0}
    rig.link.fate = answering(12.0)
    rig.infer(0)
    rig.infer(1)
    rig.settle()
    rig.exits.take()
    assert rig.broken == [0]
    assert 1 not in rig.exits.ring


def test_a_frame_of_the_world_before_a_recheck_does_not_come_into_the_new_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=(OFF, OFF))
    rig.offloads_at(1)
    tosses(rig, Purpose.RING)
    rig.link.fate = answering(12.0)
    rig.infer(0, behind=False)
    rig.exits.recheck("a test")
    rig.infer(1)
    rig.infer(2)
    rig.settle()
    rig.exits.take()
    assert 1 not in rig.exits.ring
    assert 2 in rig.exits.ring


# Labels.


@pytest.mark.parametrize("user_first", [False, True], ids=["cloud-first", "user-first"])
def test_the_clouds_answer_teaches_the_heads_and_the_users_own_label_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user_first: bool
) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=UNREACHED, state=tmp_path)
    tosses(rig, Purpose.NOTHING)
    rig.link.fate = answering(12.0, label=3)
    for number in range(8):
        rig.infer(number, behind=False)
        if user_first and number < 4:
            rig.exits.feedback(number + 1, 1)
    rig.settle()
    if not user_first:
        for number in range(4):
            rig.exits.feedback(number + 1, 1)
        rig.settle()
    frames: dict[int, SeenFrame] = {frame.frame_id: frame for frame in rig.exits._pending or ()}
    assert set(frames) == set(range(1, 9))
    for frame_id, frame in frames.items():
        assert frame.label == (1 if frame_id <= 4 else NO_LABEL)
        assert (frame.stands_for, frame.by_cloud) == (1.0, True)
        assert frame.logits_K is not None
        assert frame.logits_K.argmax() == 3


def test_a_late_answer_takes_the_place_of_the_networks_own_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rig = Rig(monkeypatch, CONFIG, thresholds=UNREACHED, state=tmp_path)
    tosses(rig, Purpose.NOTHING)
    rig.link.fate = answering(CONFIG.deadline_ms + 30, label=3)
    rig.infer(0, gap_ms=60)
    rig.link.fate = answering(5.0, label=3)
    for number in range(1, 12):
        rig.infer(number)
    rig.routing.learning.take()
    rig.exits.take()
    first = next(frame for frame in rig.exits._pending or () if frame.frame_id == 1)
    assert (first.by_cloud, first.num_seen) == (True, 3)


def test_the_switcher_learns_with_the_chance_that_each_frame_had_and_nothing_of_pings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(MIXED, prices=Prices(ms=0.005, byte=1e-5), audit_share=0.25)
    rig = Rig(monkeypatch, config, num_frames=240, thresholds=(0.6, 0.6), switcher=True, link_warm_ms=None)
    rig.link.fate = answering(9.0)
    for number in range(240):
        rig.infer(number, gap_ms=20)
    rig.routing.close()
    learner = rig.routing.learning._learner
    assert learner is not None
    assert learner.num_refits >= 1
    agrees = learner._outcome[: learner.size] == 0
    assert set(learner._weights[: learner.size][agrees].tolist()) == {1.0, 4.0}
    assert learner._weights[: learner.size].max() == 4.0, "where they differ it is shared by two"
    counters = rig.routing.counters
    assert counters.pings > 0
    assert counters.audits > 0
    serving = rig.router.switcher
    assert serving is not None
    np.testing.assert_array_equal(serving.coefficients, learner.coefficients)
    assert not math.isclose(float(np.abs(serving.coefficients - serving.shipped.coefficients).max()), 0.0)
