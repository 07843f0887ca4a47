"""Policies on a table that is worked by hand, and ours on one that is drawn: promises with their negative controls."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from routing_tables import SPLIT, WEBP, by_hand, drawn, plain_trace

from littoral.bench.routing.channel import VirtualLink
from littoral.bench.routing.compare import Standing, oracle_gain_fraction, policies_that_dominate, standing
from littoral.bench.routing.policies import (
    LOST_AFTER_MS,
    CloudOnly,
    ConfidenceOffload,
    DeviceOnly,
    Oracle,
    Ours,
    Policy,
    StaticSplit,
)
from littoral.bench.routing.run import Played, StreamConfig, play
from littoral.bench.routing.tables import FrameTable
from littoral.bench.routing.traces import LinkTrace, make_trace
from littoral.core.caution import Caution
from littoral.core.route_link import LatchConfig
from littoral.core.route_plan import ErrorCurves, Prices, fit_curves
from littoral.core.route_words import RouteConfig
from littoral.core.routing import Router
from littoral.core.switcher import ShippedSwitcher, Switcher, fit_switcher

HAND = by_hand()
STILL = StreamConfig(period_ms=200, deadline_ms=100, jitter=0)
LIMIT_MS = 100.0
# On the plain link: a picture is 7 packets and 10 ms each way, 5 in the cloud, 2 to encode; a payload 1 packet.
WEBP_MS = 2 + 10.28 + 10 + 5 + 10
SPLIT_MS = 10 + 1 + 1.04 + 10 + 5 + 10


def on_the_plain_link(policy: Policy, config: StreamConfig = STILL) -> Played:
    return play(policy, HAND, VirtualLink(plain_trace()), config)


def test_device_only_and_a_static_exit_on_the_table_by_hand() -> None:
    whole = on_the_plain_link(DeviceOnly("d", HAND, deadline_ms=LIMIT_MS))
    assert whole.right.tolist() == [True, True, False, False]
    assert whole.latency_ms == pytest.approx([30] * 4)
    assert whole.device_ms == pytest.approx([30] * 4)
    early = on_the_plain_link(DeviceOnly("e", HAND, deadline_ms=LIMIT_MS, thresholds=(0.8,)))
    assert early.right.tolist() == [True, True, False, False]
    assert early.latency_ms == pytest.approx([10, 30, 30, 10])
    assert early.source == ("exit", "finish", "finish", "exit")
    assert early.depth.tolist() == [1, 2, 2, 1]


def test_cloud_only_and_a_static_split_on_the_table_by_hand() -> None:
    cloud = on_the_plain_link(CloudOnly("c", HAND, WEBP, deadline_ms=LIMIT_MS))
    assert cloud.right.tolist() == [True, True, True, False]
    assert cloud.latency_ms == pytest.approx([WEBP_MS] * 4, abs=0.01)
    assert cloud.num_bytes.tolist() == [10_000] * 4
    assert cloud.device_ms == pytest.approx([2] * 4)
    split = on_the_plain_link(StaticSplit("s", HAND, SPLIT, deadline_ms=LIMIT_MS))
    assert split.right.all()
    assert split.latency_ms == pytest.approx([SPLIT_MS] * 4, abs=0.01)


def test_offload_by_confidence_on_the_table_by_hand() -> None:
    policy = ConfidenceOffload("o", HAND, SPLIT, least_sure=0.6, deadline_ms=LIMIT_MS, thresholds=(0.92,))
    played = on_the_plain_link(policy)
    assert played.source == ("exit", "finish", "cloud", "cloud")
    assert played.right.all()
    assert played.latency_ms == pytest.approx([10, 30, SPLIT_MS + 20, SPLIT_MS + 20], abs=0.01)


def test_the_oracle_takes_the_soonest_right_answer() -> None:
    played = on_the_plain_link(Oracle("best", HAND, deadline_ms=LIMIT_MS))
    assert played.source == ("exit", "finish", "cloud", "cloud")
    assert played.latency_ms == pytest.approx([10, 30, min(WEBP_MS, SPLIT_MS), SPLIT_MS], abs=0.01)
    two = on_the_plain_link(Oracle("two", HAND, deadline_ms=LIMIT_MS, among="two"))
    assert two.source == ("finish", "finish", "cloud", "cloud")


def test_the_oracle_is_never_less_right_than_anyone_else_in_time() -> None:
    table, config = STREAM.of(slice(0, 200)), PLAYED
    trace = make_trace("lte-drive", 2)

    def timely(policy: Policy) -> float:
        return standing(play(policy, table, VirtualLink(trace, seed=1), config)).timely_accuracy

    best = timely(Oracle("best", table, deadline_ms=LIMIT_MS))
    others = [DeviceOnly("d", table, deadline_ms=LIMIT_MS), StaticSplit("s", table, 2, deadline_ms=LIMIT_MS)]
    assert best >= max(timely(policy) for policy in others)


def test_without_a_cloud_the_split_falls_back_in_time_and_the_cloud_alone_loses_every_frame() -> None:
    dead = plain_trace().without_cloud()
    split = play(StaticSplit("s", HAND, SPLIT, deadline_ms=LIMIT_MS), HAND, VirtualLink(dead), STILL)
    assert split.in_time.all()
    assert split.degraded.all()
    assert split.right.tolist() == [True, True, False, False]
    config = replace(STILL, period_ms=LOST_AFTER_MS)
    cloud = play(CloudOnly("c", HAND, WEBP, deadline_ms=LIMIT_MS), HAND, VirtualLink(dead), config)
    assert cloud.source == ("none",) * 4
    assert not cloud.right.any()
    assert cloud.latency_ms == pytest.approx([LOST_AFTER_MS] * 4)


def test_frames_wait_for_the_device_and_not_for_each_others_answers_where_several_may_be_out() -> None:
    busy = replace(STILL, period_ms=10)
    one = on_the_plain_link(CloudOnly("c", HAND, WEBP, deadline_ms=LIMIT_MS), busy)
    many = on_the_plain_link(CloudOnly("c", HAND, WEBP, deadline_ms=LIMIT_MS), replace(busy, in_flight=4))
    assert one.latency_ms == pytest.approx([WEBP_MS + i * (WEBP_MS - 10) for i in range(4)], abs=0.05)
    assert many.latency_ms[3] < WEBP_MS + 3
    device = on_the_plain_link(DeviceOnly("d", HAND, deadline_ms=LIMIT_MS), replace(busy, in_flight=4))
    assert device.latency_ms == pytest.approx([30, 50, 70, 90])  # one computes at a time, the oldest first


# -- ours --------------------------------------------------------------------------------------------------------------

CALIBRATION, STREAM = drawn(3000, 1), drawn(300, 2)
ROUTES = RouteConfig(deadline_ms=LIMIT_MS, prices=Prices(ms=0.0005, byte=2e-6))
PLAYED = StreamConfig(period_ms=60, deadline_ms=LIMIT_MS, in_flight=8)
THRESHOLDS = (0.97, 0.97)


@functools.cache
def calibrated() -> tuple[ShippedSwitcher, ErrorCurves]:
    table = CALIBRATION
    assert table.features_NPF is not None
    shipped = fit_switcher(table.features_NPF, table.local_right_NP, table.cloud_right_NW[:, 2])
    scores = Switcher(shipped).scores(table.features_NPF)
    curves = fit_curves(table.confidences_NP, 1 - table.local_right_NP, 1 - table.cloud_right_NW, scores_NP=scores)
    return shipped, curves


def ours(
    table: FrameTable = STREAM,
    config: RouteConfig = ROUTES,
    caution: Caution | None = None,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Ours:
    shipped, curves = calibrated()
    router = Router(curves, [way.way for way in table.ways], table.step_ms, config, switcher=Switcher(shipped))
    return Ours("ours", table, router, thresholds=thresholds, caution=caution)


def test_the_same_arguments_give_the_same_run() -> None:
    short, trace = STREAM.of(slice(0, 150)), make_trace("wifi-walk", 1, duration_ms=9_000)
    first, second = (play(ours(short), short, VirtualLink(trace), PLAYED) for _ in range(2))
    assert (first.latency_ms == second.latency_ms).all()
    assert first.reason == second.reason


def test_ours_gains_most_of_what_there_is_and_no_other_policy_is_better_in_everything() -> None:
    def stand(policy: Policy) -> Standing:
        return standing(play(policy, STREAM, VirtualLink(make_trace("fixed")), PLAYED))

    one = stand(ours())
    device = stand(DeviceOnly("device", STREAM, deadline_ms=LIMIT_MS))
    others = [
        device,
        stand(DeviceOnly("exits", STREAM, deadline_ms=LIMIT_MS, thresholds=THRESHOLDS)),
        stand(CloudOnly("webp", STREAM, 3, deadline_ms=LIMIT_MS)),
        stand(StaticSplit("split/2", STREAM, 2, deadline_ms=LIMIT_MS)),
        stand(ConfidenceOffload("sure", STREAM, 2, least_sure=0.7, deadline_ms=LIMIT_MS, thresholds=THRESHOLDS)),
    ]
    assert policies_that_dominate(one, others) == []
    oracle = stand(Oracle("two", STREAM, deadline_ms=LIMIT_MS, among="two"))
    assert (oracle_gain_fraction(one, device_only=device, oracle=oracle) or 0) > 0.6
    assert one.bytes_per_frame < others[2].bytes_per_frame / 5


@pytest.mark.parametrize("kind", ["outage", "lte-drive", "saturated"])
def test_a_bad_link_never_costs_a_frame_its_answer(kind: str) -> None:
    played = play(ours(), STREAM, VirtualLink(make_trace(kind, 1, duration_ms=20_000)), PLAYED)
    assert played.in_time.mean() >= 0.99
    assert "none" not in played.source


def test_with_no_cloud_at_all_every_frame_is_answered_in_time_and_says_that_it_is_degraded() -> None:
    played = play(ours(), STREAM, VirtualLink(make_trace("fixed").without_cloud()), PLAYED)
    assert played.in_time.all()
    finished = np.array(played.source) == "finish"
    assert played.degraded[finished].mean() > 0.5
    assert played.num_bytes.sum() < 50_000


def seldom_on_a_link_that_comes_and_goes(max_age_ms: float) -> Played:
    """A frame each 30 s; the link is there at four and away at the next. Nothing is hedged: only age can help."""
    two, zero = np.ones(2), np.zeros(2)
    trace = LinkTrace(
        name="comes and goes",
        time_ms=np.array([0.0, 119_000.0]),
        up_kbit_s=np.array([8_000.0, 0.0]),
        down_kbit_s=np.array([8_000.0, 0.0]),
        one_way_ms=5 * two,
        loss=zero,
        cloud_queue_ms=zero,
        duration_ms=150_000.0,
    )
    link = LatchConfig(max_age_ms=max_age_ms, answers_to_open=1, open_margin=1.0)
    config = replace(ROUTES, hedges=False, prices=Prices(ms=0.02, byte=0.0), link=link)
    table = STREAM.of(slice(0, 20))
    table = replace(table, ways=tuple(replace(way, way=replace(way.way, point=0)) for way in table.ways))
    always = VirtualLink(trace, notice_ms=1e9)
    return play(ours(table, config), table, always, replace(PLAYED, period_ms=30_000))


def test_stale_estimates_are_not_trusted_and_would_miss_deadlines_if_they_were() -> None:
    assert seldom_on_a_link_that_comes_and_goes(10_000.0).in_time.all()
    assert not seldom_on_a_link_that_comes_and_goes(1e12).in_time.all()


def test_after_a_sign_of_drift_frames_leave_later_for_a_while() -> None:
    drift = np.zeros(len(STREAM), dtype=np.bool_)
    drift[150] = True
    table = replace(STREAM, drift_N=drift)
    link = make_trace("fixed")
    dear = replace(ROUTES, prices=Prices(ms=0.01))
    low = (0.5,) * len(THRESHOLDS)
    calm = play(ours(config=dear, thresholds=low), STREAM, VirtualLink(link), PLAYED)
    careful = play(ours(table, dear, Caution(), low), table, VirtualLink(link), PLAYED)
    before, after = slice(0, 150), slice(150, 300)
    assert standing(careful, before).exit_rate == standing(calm, before).exit_rate
    assert standing(careful, before).cloud_rate == standing(calm, before).cloud_rate
    assert standing(calm, after).exit_rate > 0.1
    assert standing(careful, after).exit_rate < standing(calm, after).exit_rate - 0.05


def test_a_table_whose_parts_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="has shapes"):
        replace(HAND, step_ms=(1.0,))
    with pytest.raises(ValueError, match="there is no way 'png'"):
        HAND.way_named("png")
    assert HAND.of(slice(0, 2), [SPLIT]).ways[0].name == "split"
