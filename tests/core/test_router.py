"""The router: its rules hold whatever the prices say, and each guard is missed when it is off."""

from __future__ import annotations

import math
import typing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from route_cases import CONFIG, CURVES, STEP_MS, THRESHOLDS, WAYS, at, hear, opened, router, whole_frame

from littoral.core.caution import Stance
from littoral.core.exits import OFF
from littoral.core.route_budget import RouteBudgetConfig
from littoral.core.route_link import LatchConfig
from littoral.core.route_plan import Prices, fit_curves
from littoral.core.route_words import REASONS, Reason, RouteConfig, Way
from littoral.core.routing import Router


def test_a_sure_frame_leaves_early_an_unsure_one_goes_to_the_cloud_and_a_middling_one_goes_on() -> None:
    made = opened()
    assert [d.action for d in whole_frame(made, (0.97, 0.99, 0.99))] == ["go-on", "exit"]
    unsure = whole_frame(made, (0.2, 0.1, 0.1))[-1]
    assert (unsure.action, unsure.reason) == ("offload", "cloud-better")
    without_link = router()
    assert [d.action for d in whole_frame(without_link, (0.6, 0.97, 0.99))] == ["go-on", "go-on", "exit"]


def test_every_reason_has_its_sentence() -> None:
    assert set(typing.get_args(Reason)) == set(REASONS)


def test_an_exit_below_its_threshold_does_not_answer_however_dear_time_is() -> None:
    made = router(replace(CONFIG, prices=Prices(ms=0.2)))
    assert made.route(at(1, 0.89)).action == "go-on"
    assert made.route(at(1, 0.91)).action == "exit"
    assert made.route(at(1, 0.999, thresholds=(OFF, 0.9))).action == "go-on"
    assert made.route(at(1, math.nan)).action == "go-on"


@pytest.mark.parametrize(
    ("thresholds", "deadline_ms", "until"),
    [
        ((0.9, 0.9), 1e3, 1), ((OFF, 0.9), 1e3, 2), ((OFF, OFF), 1e3, 3),
        ((OFF, OFF), sum(STEP_MS[:2]) + 2, 1),
    ],
    ids=["in-force", "first-off", "all-off", "hardly-any-time"],
)  # fmt: skip
def test_a_frame_runs_past_exits_that_are_off_while_there_is_time(
    thresholds: tuple[float, float], deadline_ms: float, until: int
) -> None:
    """With little time it looks at each, for an answer in hand."""
    made = router(replace(CONFIG, prices=Prices(ms=0.001), deadline_ms=deadline_ms))
    decision = made.route(at(0, math.nan, thresholds=thresholds))
    assert (decision.action, decision.until) == ("go-on", until)
    made.new_frame(Stance(level=0.5))
    assert made.route(at(0, math.nan, thresholds=thresholds)).until == 1, "the world has just changed"


def test_before_anything_is_known_of_the_link_the_device_finishes_and_says_so() -> None:
    last = whole_frame(router(), (0.2, 0.1, 0.1))[-1]
    assert (last.action, last.reason, last.degraded) == ("finish", "link-stale", True)
    assert last.ask == 0
    assert last.is_ping
    assert last.propensity is None


def test_without_a_session_nothing_is_asked() -> None:
    last = whole_frame(opened(), (0.2, 0.1, 0.1), connected=False)[-1]
    assert (last.action, last.reason, last.ask) == ("finish", "link-down", None)


def test_a_sure_frame_is_not_degraded_by_a_link_that_is_down() -> None:
    last = whole_frame(router(), (0.97, 0.99, 0.99), connected=False)[-1]
    assert last.action == "exit"
    assert not last.degraded


def deadline_is_met_if_the_cloud_never_answers(config: RouteConfig, ways: tuple[Way, ...], seed: int) -> bool:
    """Play one frame on a device whose steps take as long as measured; the link swallows everything."""
    rng = np.random.default_rng(seed)
    made = opened(config, ways=ways)
    made.new_frame()
    now = float(rng.uniform(0, 70))  # it waited so long for its turn
    point, asked, give_up = 0, False, math.inf
    while True:
        confidence = float(rng.random())
        decision = made.route(at(point, confidence, elapsed_ms=now, now_ms=now, asked=asked))
        if decision.action == "offload":
            asked, give_up = True, now + decision.give_up_after_ms
            if decision.hedge_after_ms is None:
                return point > 0 and give_up <= config.deadline_ms  # what is in hand is given then
            now += decision.hedge_after_ms
        elif decision.action == "go-on":
            now += STEP_MS[point]
            point += 1
        else:
            return now <= config.deadline_ms


FROM_THE_FRAME = tuple(replace(way, point=0, encode_ms=0.0) for way in WAYS)
"""Ways that need nothing of the device, so that frames are offloaded before anything has run."""
HASTY = replace(CONFIG, prices=Prices(ms=0.008, byte=0.0))


@pytest.mark.parametrize(("config", "ways"), [(CONFIG, WAYS), (HASTY, FROM_THE_FRAME)], ids=["calm", "hasty"])
def test_the_deadline_is_met_although_the_cloud_never_answers(config: RouteConfig, ways: tuple[Way, ...]) -> None:
    assert all(deadline_is_met_if_the_cloud_never_answers(config, ways, seed) for seed in range(80))


def test_without_the_hedge_a_cloud_that_never_answers_costs_deadlines() -> None:
    config = replace(HASTY, hedges=False)
    assert not all(deadline_is_met_if_the_cloud_never_answers(config, FROM_THE_FRAME, seed) for seed in range(80))


def test_a_frame_that_cannot_be_finished_in_time_is_answered_with_what_is_in_hand() -> None:
    late = router().route(at(2, 0.3, elapsed_ms=95.0))
    assert (late.action, late.reason, late.degraded) == ("exit", "no-time", True)


def test_a_device_too_slow_for_the_deadline_offloads_with_no_hedge_to_the_end() -> None:
    made = opened(replace(CONFIG, deadline_ms=60.0))
    decision = made.route(at(1, 0.3, elapsed_ms=55.0))
    assert decision.action == "exit"  # the cloud could not be in time either
    slow = Router(CURVES, WAYS, (200.0, 200.0, 200.0), CONFIG)
    for i in range(4):
        hear(slow, i % 2, rtt_ms=20.0, now_ms=float(i))
    assert slow.route(at(0, elapsed_ms=0.0, now_ms=5.0)).reason == "device-late"


def frames_offloaded(config: RouteConfig, now_ms: float) -> int:
    made = opened(config)
    return sum(whole_frame(made, (0.2, 0.1, 0.1), now_ms=now_ms)[-1].action == "offload" for _ in range(5))


def test_what_was_measured_long_ago_is_not_trusted_and_is_where_the_guard_is_off() -> None:
    trusting = replace(CONFIG, link=LatchConfig(max_age_ms=math.inf))
    assert frames_offloaded(CONFIG, now_ms=5_000.0) == 5
    assert frames_offloaded(CONFIG, now_ms=60_000.0) == 0
    assert frames_offloaded(trusting, now_ms=60_000.0) == 5


def test_a_slow_link_lowers_the_level_and_then_shuts() -> None:
    quick, thin = opened(), opened(bytes_per_ms=20.0)
    assert quick.route(at(1, 0.1)).way == 1
    assert thin.route(at(1, 0.1)).way == 0
    dead = opened(rtt_ms=200.0)
    assert dead.route(at(1, 0.1)).action == "go-on"


def levels_on_a_wavering_link(config: RouteConfig) -> int:
    """The throughput goes up and down around where two levels are worth the same."""
    made = opened(config, bytes_per_ms=40.0)
    rng = np.random.default_rng(3)
    for i in range(150):
        for way in (0, 1):
            hear(made, way, rtt_ms=20.0, bytes_per_ms=float(rng.choice((16.0, 40.0))), now_ms=float(i))
        made.new_frame()
        made.route(at(1, 0.1, now_ms=float(i)))
    return made.sticky[1].num_changes


def test_the_level_does_not_flap_with_hysteresis_and_flaps_without() -> None:
    prices = Prices(ms=0.0007, byte=0.0)
    steady = levels_on_a_wavering_link(replace(CONFIG, prices=prices))
    flapping = levels_on_a_wavering_link(replace(CONFIG, prices=prices, level_margin=0.0, level_hold=1))
    assert steady <= 3
    assert flapping > 5 * max(steady, 1)


def test_no_byte_is_spent_that_the_budget_has_not() -> None:
    made = opened(replace(CONFIG, byte_budget=RouteBudgetConfig(per_frame=30.0, burst_frames=400)))
    spent = 0
    for i in range(400):
        decision = whole_frame(made, (0.2, 0.1, 0.1), now_ms=float(i))[-1]
        if decision.action == "offload":
            assert decision.way is not None
            spent += int(WAYS[decision.way].num_bytes)
            hear(made, decision.way, rtt_ms=20.0, now_ms=float(i))
        else:
            assert decision.reason in ("device-better", "no-budget")
    assert 0.5 * 400 * 30 < spent <= 800 * 30


def test_a_coin_asks_for_a_label_behind_an_answer_and_the_chance_of_that_is_said() -> None:
    made = opened(replace(CONFIG, audit_share=0.25))
    audited = whole_frame(made, (0.97, 0.99, 0.99), coin=0.2)[-1]
    assert audited.action == "exit"
    assert audited.ask is not None
    assert audited.propensity == 0.25
    assert whole_frame(made, (0.97, 0.99, 0.99), coin=0.3)[-1].ask is None
    assert whole_frame(made, (0.2, 0.1, 0.1), coin=0.3)[-1].propensity == 1.0


def test_while_the_world_has_just_changed_frames_leave_later_and_at_the_end_are_offloaded_no_sooner() -> None:
    calm, careful = opened(), opened()
    stance = Stance(level=1.0, exit_extra=0.2, tighten=0.5)
    calm.new_frame()
    careful.new_frame(stance)
    assert calm.route(at(1, 0.93)).action == "exit"
    assert careful.route(at(1, 0.93)).action != "exit"
    assert calm.route(at(3, 0.9)).action == "finish"
    assert careful.route(at(3, 0.9)).action == "finish"  # what shook the device shook the cloud as well


def test_requests_that_are_still_out_are_waited_for_in_the_estimate() -> None:
    made = opened(bytes_per_ms=50.0)
    before = made.known.ways().expected_ms[0]
    ticket = made.sent(2, 3000, encode_ms=2, now_ms=0.0)
    assert made.known.ways().expected_ms[0] == pytest.approx(before + 60, rel=0.1)
    made.answered(ticket, 80.0, queue_ms=0, compute_ms=0, now_ms=80.0)
    assert made.known.ways().expected_ms[0] == pytest.approx(before, rel=0.1)


def test_energy_that_is_dear_keeps_frames_from_the_deep_end() -> None:
    dear = replace(CONFIG, prices=Prices(ms=0.0, byte=0.0, millijoule=0.02), millijoules_per_ms=2.0)
    actions = [d.action for d in whole_frame(opened(dear), (0.55, 0.6, 0.9))]
    free = [d.action for d in whole_frame(opened(replace(dear, prices=Prices(ms=0.0))), (0.55, 0.6, 0.9))]
    assert len(actions) < len(free)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.floats(0, 1), st.floats(0, 150), st.booleans(), st.booleans(), st.floats(1, 300))
def test_whatever_comes_a_decision_is_one_of_the_vocabulary(
    point: int, sure: float, elapsed: float, connected: bool, asked: bool, rtt: float
) -> None:
    made = opened(rtt_ms=rtt)
    decision = made.route(at(point, sure, elapsed_ms=elapsed, connected=connected, asked=asked))
    assert decision.reason in REASONS
    assert (decision.way is not None) == (decision.action == "offload")
    assert not (asked and decision.action == "offload")
    assert decision.action != "exit" or 0 < point < 3
    assert (decision.action == "finish") <= (point == 3)


def test_a_bundle_without_exits_and_one_without_a_split_are_routed_too() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random((500, 1))
    wrong = (rng.random((500, 1)) > sure).astype(float)
    cloud = (rng.random((500, 1)) < 0.1).astype(float)
    no_exit = Router(fit_curves(sure, wrong, cloud), WAYS[2:], (10.0,), CONFIG)
    for i in range(4):
        ticket = no_exit.sent(0, 6000, encode_ms=2, now_ms=float(i))
        no_exit.answered(ticket, 20.0, queue_ms=0, compute_ms=0, now_ms=float(i))
    moment = replace(at(1, 0.1), thresholds=(), now_ms=5.0)
    assert no_exit.route(replace(moment, point=0)).action in ("go-on", "offload")
    assert no_exit.route(moment).action == "offload"
    assert no_exit.route(replace(moment, confidence=0.99)).action == "finish"
    no_way = Router(fit_curves(sure, wrong, np.zeros((500, 0))), (), (10.0,), CONFIG)
    alone = no_way.route(moment)
    assert (alone.action, alone.reason, alone.ask) == ("finish", "no-way", None)


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="2 ways and 3 steps came, the curves have 3 and 3"):
        Router(CURVES, WAYS[:2], STEP_MS, CONFIG)
    with pytest.raises(ValueError, match="deadline_ms > spare_ms"):
        RouteConfig(deadline_ms=1.0)
    with pytest.raises(ValueError, match="num_bytes > 0"):
        Way(split=0, level=0, point=0, num_bytes=0)


@pytest.mark.parametrize(("point", "thresholds"), [(4, THRESHOLDS), (-1, THRESHOLDS), (1, (0.9,))])
def test_a_point_that_is_not_there_is_refused(point: int, thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected 0 to 3 with 2"):
        router().route(replace(at(0), thresholds=thresholds, point=point))


# Pictures of whole frames.

PICTURED = (WAYS[0], WAYS[1], replace(WAYS[2], split=0, num_bytes=40, coding="webp-90"))
"""The picture is the smallest of the ways, so that whoever may take it does."""


def ways_taken(made: Router, **changes: object) -> set[int | None]:
    """By frames of all kinds: offloaded, audited and pinged."""
    taken: set[int | None] = set()
    for number in range(60):
        now_ms = 40.0 * number
        made.new_frame()
        for point in range(4):
            decision = made.route(at(point, 0.1 + 0.8 * (number % 2), now_ms=now_ms, coin=0.0, **changes))
            taken |= {decision.way, decision.ask}
            if decision.action == "offload":
                hear(made, decision.way or 0, rtt_ms=20.0, now_ms=now_ms)
            if decision.action != "go-on":
                break
    return taken - {None}


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "not-yet"])
def test_a_picture_goes_neither_as_an_offload_nor_as_an_audit_nor_as_a_ping_to_a_cloud_that_answers_none(
    is_open: bool,
) -> None:
    config = replace(CONFIG, audit_share=1.0)

    def made(config: RouteConfig = config) -> Router:
        return opened(config, ways=PICTURED) if is_open else router(config, PICTURED)

    assert 2 in ways_taken(made()), "it is taken where it may be"
    assert 2 not in ways_taken(made(), pictures=False)
    assert 2 not in ways_taken(made(replace(config, pictures=False))), "the user's word"


def test_where_pictures_are_the_only_ways_a_cloud_that_answers_none_leaves_no_way() -> None:
    only = tuple(
        replace(way, split=0, level=level, point=0, coding=f"webp-{90 + level}") for level, way in enumerate(WAYS)
    )
    last = whole_frame(opened(ways=only), (0.2, 0.1, 0.1), pictures=False)[-1]
    assert (last.action, last.reason, last.degraded) == ("finish", "no-way", False)
    asked = whole_frame(opened(ways=only), (0.2, 0.1, 0.1))[-1]
    assert (asked.action, asked.reason) == ("offload", "cloud-better")
    down = whole_frame(opened(ways=only), (0.2, 0.1, 0.1), connected=False)[-1]
    assert (down.reason, down.degraded) == ("link-down", True)


def test_a_picture_that_cannot_be_taken_does_not_hold_the_link_for_quick() -> None:
    """The latch asks for the quickest way; here the payloads are too slow for the deadline and the picture is not."""
    slow = tuple(replace(way, encode_ms=0.0 if way.is_picture else 200.0) for way in PICTURED)
    made = opened(ways=slow)
    for pictures, why in ((True, None), (False, "link-slow")):
        made.new_frame()
        made.route(at(0, pictures=pictures))
        assert made._trouble(at(0, pictures=pictures)) == why


def test_a_picture_is_of_the_frame() -> None:
    with pytest.raises(ValueError, match="there at point 0"):
        Way(split=0, level=0, point=1, num_bytes=10, coding="png")


def test_the_teacher_is_expected_to_take_as_long_as_it_took_and_a_tail_not_so_long() -> None:
    made = router(ways=PICTURED)
    for number in range(40):
        way, compute_ms = (0, 3.0) if number % 2 else (2, 60.0)
        now_ms = 10.0 * number
        ticket = made.sent(way, 100, encode_ms=1.0, now_ms=now_ms)
        made.answered(ticket, 20.0 + compute_ms, queue_ms=0.0, compute_ms=compute_ms, now_ms=now_ms)
    expected = made.known.ways().expected_ms
    assert expected[2] - expected[0] == pytest.approx(57.0, abs=3.0)
    assert expected[1] == pytest.approx(expected[0], abs=3.0), "one tail serves all levels of a split"
    alone = router(ways=(*WAYS[:2], replace(WAYS[2], split=0, level=2)))
    assert alone.known._compute == [], "one network needs no estimate beside the link's"


def test_which_level_goes_is_kept_and_whether_a_picture_goes_is_decided_for_each_frame() -> None:
    """Unsure frames are right by the picture alone; the others by any way. Hysteresis would stay with the payload."""
    rng = np.random.default_rng(5)
    n = 20_000
    hard = rng.random(n) < 0.3
    sure = np.where(hard, 0.2, 0.8)[:, None] + 0.1 * rng.random((n, 3))
    wrong = (rng.random((n, 3)) < np.where(hard, 0.6, 0.4)[:, None]).astype(float)
    tail = rng.random(n) < np.where(hard, 0.5, 0.05)
    cloud = np.stack([tail, tail, rng.random(n) < 0.05], axis=1).astype(float)
    curves = fit_curves(sure, wrong, cloud, num_bins=4)
    ways = (WAYS[0], WAYS[1], replace(WAYS[2], split=0, num_bytes=20_000, coding="png"))
    made = Router(curves, ways, STEP_MS, replace(CONFIG, prices=Prices(ms=0.0001, byte=1e-6)))
    for number in range(6):
        made.new_frame()
        hear(made, number % 2, rtt_ms=10.0, now_ms=-60.0 + 10 * number)

    def way_of(confidence: float) -> int | None:
        made.new_frame()
        return made.route(at(3, confidence)).way

    assert [way_of(0.85) for _ in range(20)] == [0] * 20
    assert way_of(0.25) == 2, "the first frame that needs the teacher"
    assert way_of(0.85) == 0, "and the next that does not"
