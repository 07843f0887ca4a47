"""The deadline batcher under thousands of random arrivals, without a clock: nothing lost, nothing late called ok."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from littoral.core.batching import BatchConfig, DeadlineBatcher, Request
from littoral.core.estimates import BatchTimes, Ewma, RoadEstimate

BatchMs = Callable[[int], float]


@dataclass(frozen=True)
class Arrival:
    at_ms: float
    device: str
    patience_ms: float


@dataclass
class Ran:
    """What became of a schedule."""

    codes: dict[int, list[str]] = field(default_factory=dict)
    """By the arrival's index; each must have exactly one."""
    answered_ms: dict[int, float] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)


def play(arrivals: list[Arrival], config: BatchConfig, batch_ms: BatchMs, *, trusts: bool = False) -> Ran:
    """Run a schedule to its end as the gateway would: look when told to, and after everything that happens.

    ``trusts`` takes everything that has run for an answer in time.
    """
    batcher: DeadlineBatcher[int] = DeadlineBatcher(config)
    ran = Ran(codes={index: [] for index in range(len(arrivals))})
    waiting = sorted(enumerate(arrivals), key=lambda pair: pair[1].at_ms)[::-1]
    running: list[Request[int]] = []
    now_ms, ends_ms = 0.0, float("inf")

    def say(request: Request[int], code: str) -> None:
        ran.codes[request.item].append(code)
        ran.answered_ms[request.item] = now_ms

    while True:
        look_ms = batcher.look_at_ms(now_ms)
        assert look_ms is None or look_ms >= now_ms or batcher.is_running
        due_ms = float("inf") if look_ms is None else max(look_ms, now_ms)
        next_ms = min(due_ms, ends_ms, waiting[-1][1].at_ms if waiting else float("inf"))
        if next_ms == float("inf"):
            assert not len(batcher)
            return ran
        now_ms = next_ms
        if now_ms == ends_ms:
            late = batcher.finished(now_ms)
            for request in running:
                say(request, "late" if request in late and not trusts else "ok")
            running, ends_ms = [], float("inf")
        while waiting and waiting[-1][1].at_ms <= now_ms:
            index, arrival = waiting.pop()
            request = Request(
                item=index,
                device=arrival.device,
                arrived_ms=now_ms,
                deadline_ms=arrival.at_ms + arrival.patience_ms,
            )
            for refused, code in batcher.offer(request, now_ms):
                say(refused, code)
        decision = batcher.take(now_ms)
        for refused, code in decision.refused:
            say(refused, code)
        if decision.batch:
            assert not running, "one batch runs at a time"
            assert len(decision.batch) <= config.max_batch
            running, ends_ms = decision.batch, now_ms + batch_ms(len(decision.batch))
            ran.batches.append(len(running))


def random_schedule(seed: int) -> tuple[list[Arrival], BatchConfig, BatchMs]:
    rng = random.Random(seed)
    config = BatchConfig(
        max_batch=rng.choice([1, 2, 4, 8]),
        max_wait_ms=rng.choice([0.0, 2.0, 50.0]),
        max_queue=rng.choice([1, 4, 32]),
        first_guess_ms=rng.choice([0.0, 5.0, 100.0]),
        probe_ms=rng.choice([0.0, 20.0]),
        is_fair=rng.random() < 0.8,
    )
    spread_ms = rng.choice([5.0, 50.0, 300.0])
    arrivals = [
        Arrival(rng.uniform(0, spread_ms), f"d{rng.randrange(4)}", rng.choice([0.0, 3.0, 20.0, 200.0]))
        for _ in range(rng.randint(1, 24))
    ]
    fixed, each, noise = rng.choice([0.1, 4.0]), rng.choice([0.0, 2.0]), rng.choice([0.0, 1.0])
    return arrivals, config, lambda size: (fixed + each * size) * (1 + noise * rng.random())


def test_in_thousands_of_schedules_everyone_gets_one_code_and_no_late_answer_is_ok() -> None:
    codes: Counter[str] = Counter()
    late_though_run = 0
    for seed in range(2000):
        arrivals, config, batch_ms = random_schedule(seed)
        ran = play(arrivals, config, batch_ms)
        for index, said in ran.codes.items():
            assert len(said) == 1, f"seed {seed}: request {index} got {said}"
            due_ms = arrivals[index].at_ms + arrivals[index].patience_ms
            assert said[0] != "ok" or ran.answered_ms[index] <= due_ms, f"seed {seed}: {index} was late"
            codes[said[0]] += 1
        late_though_run += sum(ran.batches) - sum(said == ["ok"] for said in ran.codes.values())
    assert min(codes[code] for code in ("ok", "late", "overloaded")) > 500, codes
    assert late_though_run > 50, "some must have run in vain, or the guard on them was never asked"


def test_a_gateway_that_trusts_its_predictions_is_caught_by_the_same_schedules() -> None:
    """Negative control."""
    caught = 0
    for seed in range(100):
        arrivals, config, batch_ms = random_schedule(seed)
        ran = play(arrivals, config, batch_ms, trusts=True)
        caught += any(
            said == ["ok"] and ran.answered_ms[index] > arrivals[index].at_ms + arrivals[index].patience_ms
            for index, said in ran.codes.items()
        )
    assert caught > 5


def test_what_can_be_met_is_met() -> None:
    """Light load, and a batch always takes what it took before: nothing is refused, and nothing waits long."""
    arrivals = [Arrival(10.0 * index, f"d{index % 3}", 15.0) for index in range(50)]
    ran = play(arrivals, BatchConfig(max_wait_ms=2.0, first_guess_ms=5.0), lambda size: 5.0)
    assert set(map(tuple, ran.codes.values())) == {("ok",)}
    assert all(ran.answered_ms[index] - arrival.at_ms == pytest.approx(7.0) for index, arrival in enumerate(arrivals))


def test_company_is_not_waited_for_past_the_last_moment() -> None:
    ran = play([Arrival(0.0, "a", 30.0)], BatchConfig(max_wait_ms=1000.0, first_guess_ms=10.0), lambda size: 10.0)
    assert ran.answered_ms == {0: 30.0}
    assert ran.codes == {0: ["ok"]}


def test_those_that_come_together_run_together() -> None:
    arrivals = [Arrival(0.1 * index, f"d{index}", 100.0) for index in range(10)]
    ran = play(arrivals, BatchConfig(max_batch=4, max_wait_ms=5.0), lambda size: 3.0)
    assert ran.batches == [4, 4, 2]


def test_a_deadline_that_cannot_be_met_is_refused_at_once_and_not_at_its_end() -> None:
    arrivals = [Arrival(0.0, "a", 500.0), *(Arrival(1.0, f"d{index}", 100.0) for index in range(20))]
    config = BatchConfig(max_batch=2, max_wait_ms=0.0, first_guess_ms=20.0)
    ran = play(arrivals, config, lambda size: 20.0)
    refused = [index for index, said in ran.codes.items() if said == ["overloaded"]]
    assert len(refused) >= 12
    assert all(ran.answered_ms[index] == 1.0 for index in refused)
    assert all(said in (["ok"], ["overloaded"]) for said in ran.codes.values()), "who was taken was not let down"


def test_one_slow_batch_is_not_believed_for_ever() -> None:
    """The first run of a network may take a second. Later, one request in a while finds out that it has passed."""
    took = iter([1000.0])
    arrivals = [Arrival(50.0 * index, "a", 40.0) for index in range(200)]
    ran = play(arrivals, BatchConfig(probe_ms=500.0), lambda size: next(took, 5.0))
    assert ran.codes[0] == ["late"]
    assert ran.codes[25] == ["overloaded"]
    assert all(ran.codes[index] == ["ok"] for index in range(190, 200))


def test_a_tail_that_hangs_makes_its_queue_refuse() -> None:
    arrivals = [Arrival(float(index), "a", 100.0) for index in range(1000)]
    ran = play(arrivals, BatchConfig(max_queue=256), lambda size: 2000.0)
    late = [index for index, said in ran.codes.items() if said == ["late"]]
    assert max(late) < 200, "who came later was told so at once"
    waited = late[ran.batches[0] :]
    assert all(ran.answered_ms[index] <= arrivals[index].at_ms + 100.0 for index in waited), "and the others in time"


def test_a_tight_deadline_runs_first_where_the_others_can_wait_for_it() -> None:
    config = BatchConfig(max_batch=8, max_wait_ms=0.0)
    lesson = [Arrival(0.0, "a", 200.0), *(Arrival(20.0, f"d{index}", 200.0) for index in range(8))]
    tight = Arrival(100.0, "a", 6.0)

    def then(patience_ms: float) -> Ran:
        others = [Arrival(100.0, f"d{index}", patience_ms) for index in range(7)]
        return play([*lesson, tight, *others], config, lambda size: 4.0 + size)

    patient, pressed = then(50.0), then(13.0)
    assert patient.batches[2:] == [1, 7]
    assert all(said == ["ok"] for said in patient.codes.values())
    assert pressed.codes[len(lesson)] != ["ok"], "it cannot force a batch of its own upon those that cannot wait"
    assert sum(said == ["ok"] for said in pressed.codes.values()) == len(lesson) + 7


# Fairness.


def share_of_the_quiet(*, is_fair: bool) -> float:
    """One device asks for 2 answers a millisecond, five ask for one every 50 ms; how many of theirs are in time."""
    flood = [Arrival(0.5 * index, "flood", 60.0) for index in range(800)]
    quiet = [Arrival(50.0 * index + 7 * device, f"quiet{device}", 60.0) for index in range(8) for device in range(5)]
    config = BatchConfig(max_batch=4, max_queue=32, is_fair=is_fair)
    ran = play([*flood, *quiet], config, lambda size: 8.0)
    return sum(ran.codes[index] == ["ok"] for index in range(len(flood), len(flood) + len(quiet))) / len(quiet)


def test_a_device_that_floods_does_not_starve_the_others() -> None:
    assert share_of_the_quiet(is_fair=True) == 1.0


def test_without_fairness_the_same_flood_starves_them() -> None:
    """Negative control."""
    assert share_of_the_quiet(is_fair=False) < 0.7


def test_tight_deadlines_are_no_way_to_push_ahead() -> None:
    flood = [Arrival(0.5 * index, "flood", 13.0) for index in range(800)]
    quiet = [Arrival(40.0 * index + 7, "quiet", 60.0) for index in range(9)]
    ran = play([*flood, *quiet], BatchConfig(max_batch=4, max_queue=32), lambda size: 8.0)
    assert all(ran.codes[index] == ["ok"] for index in range(len(flood), len(flood) + len(quiet)))


def test_a_full_queue_lets_a_newcomer_in_for_the_least_urgent_of_who_has_most() -> None:
    batcher: DeadlineBatcher[int] = DeadlineBatcher(BatchConfig(max_queue=3, first_guess_ms=1.0))

    def request(number: int, device: str, deadline_ms: float) -> Request[int]:
        return Request(item=number, device=device, arrived_ms=0.0, deadline_ms=deadline_ms)

    held = [request(0, "a", 100.0), request(1, "a", 300.0), request(2, "a", 200.0)]
    for one in held:
        assert batcher.offer(one, 0.0) == []
    extra = request(3, "a", 50.0)
    assert batcher.offer(extra, 0.0) == [(extra, "overloaded")]
    assert batcher.offer(request(4, "b", 100.0), 0.0) == [(held[1], "overloaded")]
    second = request(5, "b", 100.0)
    assert batcher.offer(second, 0.0) == [(second, "overloaded")], "that would only turn the tables"
    assert len(batcher) == 3


def test_a_withdrawn_request_does_not_run() -> None:
    batcher: DeadlineBatcher[int] = DeadlineBatcher(BatchConfig(max_wait_ms=0.0))
    one, two = (Request(item=i, device="a", arrived_ms=0.0, deadline_ms=100.0) for i in range(2))
    batcher.offer(one, 0.0)
    batcher.offer(two, 0.0)
    assert batcher.withdraw(one)
    assert batcher.take(0.0).batch == [two]
    assert not batcher.withdraw(two)
    assert batcher.finished(1.0) == []
    with pytest.raises(ValueError, match="no batch was taken"):
        batcher.finished(2.0)


@pytest.mark.parametrize(
    "wrong", [{"max_batch": 0}, {"max_queue": 0}, {"max_wait_ms": -1.0}, {"probe_ms": -1.0}], ids=str
)
def test_a_config_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|not below 0"):
        BatchConfig(**wrong)  # type: ignore[arg-type]


# Estimates.


def test_a_mean_follows_and_its_deviation_says_how_well() -> None:
    steady, noisy = Ewma(), Ewma()
    assert steady.high(4.0) is None
    for index in range(100):
        steady.add(10.0)
        noisy.add(10.0 + (-1) ** index * 5)
    assert steady.high(4.0) == pytest.approx(10.0)
    assert noisy.mean == pytest.approx(10.0, abs=2.0)
    assert 3.0 < noisy.deviation < 7.0
    with pytest.raises(ValueError, match="weight"):
        Ewma(0.0)


def test_a_size_that_was_not_run_is_taken_to_cost_no_less_than_it_may() -> None:
    times = BatchTimes(first_guess_ms=7.0)
    assert (times.predict_ms(0), times.predict_ms(1), times.predict_ms(64)) == (0.0, 7.0, 7.0)
    times.add(4, 10.0)
    times.add(8, 14.0)
    assert [times.predict_ms(size) for size in (1, 4, 5, 8, 16)] == [10.0, 10.0, 12.5, 14.0, 28.0]
    times.add(8, 900.0)
    assert times.predict_ms(8) == 20.0, "one slow run is not believed against what half of it costs"
    times.restart(1, 3.0)
    assert [times.predict_ms(size) for size in (1, 4)] == [3.0, 12.0]


def test_what_a_size_took_when_the_machine_was_idle_is_not_believed_for_ever() -> None:
    times = BatchTimes(first_guess_ms=7.0, memory=8)
    times.add(16, 5.0)
    for _ in range(8):
        times.add(2, 50.0)
    assert times.predict_ms(2) == 5.0, "16 is still remembered, and 2 cannot take longer"
    times.add(2, 50.0)
    assert [times.predict_ms(size) for size in (1, 2, 16)] == [50.0, 50.0, 400.0]


def test_the_road_is_told_apart_into_round_trip_and_throughput() -> None:
    rng = random.Random(0)
    road = RoadEstimate()
    assert (road.rtt_ms, road.bytes_per_ms, road.predict_ms(10)) == (None, None, None)
    for _ in range(200):
        num_bytes = rng.randint(50, 2000)
        road.add(num_bytes, 40.0 + num_bytes / 125 + rng.uniform(-1, 1))
    assert road.rtt_ms == pytest.approx(40.0, abs=2.0)
    assert road.bytes_per_ms == pytest.approx(125.0, rel=0.15)
    assert road.predict_ms(10_000) == pytest.approx(120.0, rel=0.15)


def test_of_messages_of_one_length_only_the_whole_is_known_and_a_lying_cloud_cannot_make_it_negative() -> None:
    road = RoadEstimate()
    for _ in range(20):
        road.add(100, 50.0)
    assert (road.rtt_ms, road.bytes_per_ms) == (pytest.approx(50.0), None)
    for _ in range(100):
        road.add(100, -1e6)
    assert road.rtt_ms == pytest.approx(0.0, abs=0.1)
    for num_bytes in (10, 5000):
        road.add(num_bytes, 0.0 if num_bytes > 10 else 90.0)
    assert (road.predict_ms(1_000_000) or 0.0) >= 0.0
