"""What is known of a link grows old, its latch opens slowly and shuts at once, a choice among ways is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest

from littoral.core.route_budget import RouteBudget, RouteBudgetConfig
from littoral.core.route_link import LatchConfig, LinkEstimate, LinkLatch, StickyChoice


def test_the_estimate_finds_round_trip_throughput_and_the_clouds_time() -> None:
    link = LinkEstimate()
    for i in range(30):
        size = (500, 4000)[i % 2]
        link.answered(size, 30 + size / 100 + 8, queue_ms=3.0, compute_ms=5.0, now_ms=float(i))
    assert link.predict_ms(2000) == pytest.approx(58, abs=1)
    assert link.high_ms(2000, 2.0) == pytest.approx(58, abs=6)
    assert link.age_ms(40.0) == 11.0


def test_a_throughput_that_was_learned_is_not_forgotten_while_one_length_is_sent() -> None:
    link = LinkEstimate()
    for i in range(10):
        size = (500, 4000)[i % 2]
        link.answered(size, 30 + size / 100, queue_ms=0.0, compute_ms=0.0, now_ms=float(i))
    for i in range(200):
        link.answered(500, 35.0, queue_ms=0.0, compute_ms=0.0, now_ms=float(i))
    assert link.predict_ms(4000) == pytest.approx(70, abs=3)
    assert link.road.predict_ms(4000) == pytest.approx(35, abs=1)  # alone it would think that length is free


def test_nothing_is_predicted_before_the_first_answer_and_silence_raises_what_is() -> None:
    link = LinkEstimate()
    assert link.predict_ms(100) is None
    assert link.high_ms(100, 1.0) is None
    link.answered(100, 20.0, queue_ms=0.0, compute_ms=0.0, now_ms=0.0)
    link.gave_up(100, 150.0, now_ms=1.0)
    assert (link.high_ms(100, 1.0) or 0) > 100


def test_the_first_answer_after_silence_starts_afresh() -> None:
    link = LinkEstimate()
    link.answered(100, 20.0, queue_ms=0.0, compute_ms=0.0, now_ms=0.0)
    for i in range(5):
        link.gave_up(100, 500.0, now_ms=float(i))
    link.answered(100, 25.0, queue_ms=0.0, compute_ms=0.0, now_ms=9.0)
    assert link.predict_ms(100) == pytest.approx(25.0)


def latch_changes(config: LatchConfig) -> int:
    """The quickest way's time wavers around the limit."""
    rng = np.random.default_rng(0)
    latch = LinkLatch(config)
    for _ in range(300):
        latch.answered()
        latch.trouble(connected=True, age_ms=0.0, quickest_high_ms=float(rng.uniform(90, 101)), allowed_ms=100.0)
    return latch.num_changes


def test_a_link_at_the_edge_of_being_useful_does_not_make_the_latch_flap_and_does_without_hysteresis() -> None:
    steady = latch_changes(LatchConfig(open_margin=0.9, answers_to_open=2))
    flapping = latch_changes(LatchConfig(open_margin=1.0, answers_to_open=1))
    assert steady <= 2
    assert flapping > 20


def test_the_latch_shuts_by_silence_and_tells_why() -> None:
    latch = LinkLatch()
    known = {"age_ms": 0.0, "quickest_high_ms": 20.0, "allowed_ms": 100.0}
    assert latch.trouble(connected=True, **known) == "link-stale"
    latch.answered()
    latch.answered()
    assert latch.trouble(connected=True, **known) is None
    for _ in range(3):
        latch.failed()
    assert latch.trouble(connected=True, **known) == "link-down"
    latch.answered()
    latch.answered()
    assert latch.trouble(connected=True, **(known | {"quickest_high_ms": 95.0})) == "link-slow"
    assert latch.trouble(connected=True, **known) is None
    assert latch.trouble(connected=False, **known) == "link-down"


def test_pings_of_a_dead_link_become_rare() -> None:
    latch, sent = LinkLatch(), 0
    for now in range(0, 60_000, 10):
        if latch.wants_ping(float(now)):
            latch.pinged(float(now))
            latch.failed()
            sent += 1
    assert 8 <= sent <= 14


def test_a_choice_is_kept_until_another_is_better_by_a_margin_for_a_while() -> None:
    choice = StickyChoice(margin=0.1, hold=3)
    assert choice.choose([1.0, 2.0]) == 0
    assert [choice.choose([1.0, 0.95]) for _ in range(10)] == [0] * 10
    assert [choice.choose([1.0, 0.5]) for _ in range(3)] == [0, 0, 1]
    assert choice.choose([0.6, math.inf]) == 0  # at once
    assert choice.choose([math.inf, math.inf]) is None


def test_the_price_holds_the_mean_at_the_budget() -> None:
    budget = RouteBudget(RouteBudgetConfig(per_frame=100.0, burst_frames=50, step=0.01))
    rng = np.random.default_rng(0)
    spent = []
    for worth in rng.random(4000):
        budget.frame()
        takes = worth > budget.price * 400 and budget.can_spend(400.0)
        if takes:
            budget.spend(400.0)
        spent.append(400.0 * takes)
    assert np.mean(spent[1000:]) == pytest.approx(100, rel=0.1)
    assert budget.price * 400 == pytest.approx(0.75, abs=0.15)  # what the best quarter is worth


def test_no_stretch_of_frames_spends_more_than_the_bucket() -> None:
    budget, spent = RouteBudget(RouteBudgetConfig(per_frame=10.0, burst_frames=20)), 0.0
    for _ in range(100):
        budget.frame(2.0)
        if budget.can_spend(35.0):
            budget.spend(35.0)
            spent += 35.0
    assert spent <= 10 * (20 + 2 * 100)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: LatchConfig(open_margin=0.0),
        lambda: LatchConfig(max_age_ms=0.0),
        lambda: StickyChoice(hold=0),
        lambda: RouteBudgetConfig(per_frame=0.0),
    ],
)
def test_settings_out_of_range_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"must hold|at least 1"):
        bad()  # type: ignore[operator]
