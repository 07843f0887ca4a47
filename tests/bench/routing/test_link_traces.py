"""Traces are reproducible, users' files are read or refused with a hint, and the virtual link does its sums right."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from routing_tables import plain_trace

from littoral.bench.routing.channel import VirtualLink
from littoral.bench.routing.traces import KINDS, Kind, LinkTrace, make_trace, read_trace, write_trace


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_trace_and_it_survives_a_file(kind: Kind, tmp_path: Path) -> None:
    trace = make_trace(kind, 3, duration_ms=30_000)
    again = make_trace(kind, 3, duration_ms=30_000)
    assert (trace.up_kbit_s == again.up_kbit_s).all()
    if kind not in ("fixed", "outage"):
        assert (trace.up_kbit_s != make_trace(kind, 4, duration_ms=30_000).up_kbit_s).any()
    write_trace(trace, tmp_path / "mine.csv")
    read = read_trace(tmp_path / "mine.csv")
    assert read.name == "mine"
    assert read.duration_ms == trace.duration_ms
    assert read.up_kbit_s == pytest.approx(trace.up_kbit_s, rel=1e-4)


def test_the_kinds_differ_as_their_names_say() -> None:
    traces = {kind: make_trace(kind, 1) for kind in KINDS}
    assert np.ptp(traces["fixed"].up_kbit_s) == 0
    assert (traces["outage"].up_kbit_s == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert traces["saturated"].up_kbit_s.max() < 2_000 < np.median(traces["lte-drive"].up_kbit_s)
    assert (traces["lte-drive"].up_kbit_s == 40).any()
    walk = traces["wifi-walk"].up_kbit_s
    assert walk[:20].mean() > 10 * walk[290:310].mean()


GOOD = "# a walk\ntime_ms,up_kbit_s,down_kbit_s,one_way_ms,loss\n0,1000,2000,5,0\n50,0,0,5,0.1\n"


def test_a_users_file_may_leave_out_the_clouds_queue_and_hold_words_for_people(tmp_path: Path) -> None:
    (tmp_path / "walk.csv").write_text(GOOD)
    trace = read_trace(tmp_path / "walk.csv")
    assert trace.duration_ms == 100
    assert trace.cloud_queue_ms.tolist() == [0, 0]
    assert trace.index_at(160.0) == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("up_kbit_s", "up_mbit_s", r"walk.csv:2: .*missing: up_kbit_s"),
        ("50,0,0,5,0.1", "50,0,0,5", r"walk.csv:4: 4 values, the header has 5"),
        ("50,0", "0,0", r"walk.csv:4: time_ms does not rise"),
        ("\n0,1000", "\n7,1000", "begins at 7; subtract that"),
        ("2000,5", "2000,five", r"walk.csv:3: one_way_ms is 'five'; write a number"),
        ("0.1", "1", r"loss is 1; it is a share below 1 \(0.02 for 2 %\)"),
        ("1000", "-1", "not below 0"),
        ("1000", "inf", "finite"),
        (GOOD, "", "no rows; expected a header"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_what_to_do(tmp_path: Path, old: str, new: str, says: str) -> None:
    (tmp_path / "walk.csv").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=says):
        read_trace(tmp_path / "walk.csv")


def test_a_request_takes_its_bytes_the_road_and_the_cloud() -> None:
    link = VirtualLink(plain_trace(bytes_per_ms=100.0))
    request = link.send(2920, 5.0, compute_ms=7.0)
    # Two packets of 1,460 and 40 more each: 30 ms; 10 ms each way; 7 in the cloud.
    assert request.received_ms == pytest.approx(5 + 30 + 10 + 7 + 10, abs=0.01)
    assert (request.queue_ms, request.compute_ms, link.bytes_up) == (0, 7, 2920)


def test_a_request_waits_behind_those_before_it_and_the_cloud_does_one_at_a_time() -> None:
    link = VirtualLink(plain_trace(bytes_per_ms=100.0))
    first, second = (link.send(1460, 0.0, compute_ms=50.0) for _ in range(2))
    assert second.received_ms - first.received_ms == pytest.approx(50, abs=0.01)
    assert second.queue_ms == pytest.approx(35, abs=0.01)


def test_bytes_wait_for_the_end_of_an_outage_and_never_pass_a_dead_link() -> None:
    trace = make_trace("outage", duration_ms=10_000)
    caught = VirtualLink(trace).send(1000, 5_000.0, compute_ms=0.0)
    assert caught.received_ms == pytest.approx(6_500 + 17, abs=2)
    dead = VirtualLink(trace.without_cloud())
    assert dead.send(1000, 0.0, compute_ms=0.0).received_ms == math.inf
    assert not dead.connected(20_000.0)
    assert VirtualLink(trace).connected(6_000.0)  # it is not noticed at once
    assert not VirtualLink(make_trace("outage", duration_ms=100_000)).connected(50_000.0)


def test_a_request_given_up_before_it_began_costs_nothing_and_one_that_began_holds_up_the_next() -> None:
    link = VirtualLink(plain_trace(bytes_per_ms=10.0))
    link.send(1460, 0.0, compute_ms=0.0, expires_ms=20.0)
    late = link.send(1460, 10.0, compute_ms=0.0, expires_ms=100.0)
    assert late.num_bytes == 0
    assert link.bytes_up == 1460
    assert link.send(1460, 20.0, compute_ms=0.0).received_ms > 300


def test_the_cloud_refuses_at_once_what_it_cannot_do_in_time() -> None:
    link = VirtualLink(plain_trace())
    request = link.send(1000, 0.0, compute_ms=50.0, deadline_ms=30.0)
    assert request.refused
    assert request.received_ms < 25


def test_lost_packets_cost_round_trips() -> None:
    def mean(loss: float) -> float:
        link = VirtualLink(plain_trace(loss=loss), seed=1)
        return float(np.mean([link.send(1000, 1000.0 * i, compute_ms=0.0).received_ms - 1000 * i for i in range(400)]))

    assert mean(0.2) - mean(0.0) == pytest.approx(2 * 0.25 * 20, rel=0.3)  # of 1.25 tries, each way


def test_the_lane_agrees_with_a_sum_in_small_steps() -> None:
    rng = np.random.default_rng(2)
    times = np.concatenate([[0], np.cumsum(rng.integers(1, 50, 20))]).astype(float)
    rates = np.where(rng.random(21) < 0.3, 0, rng.random(21) * 400)
    zero = np.zeros(21)
    trace = LinkTrace(
        name="t",
        time_ms=times,
        up_kbit_s=rates,
        down_kbit_s=np.full(21, 1e9),
        one_way_ms=zero,
        loss=zero,
        cloud_queue_ms=zero,
        duration_ms=float(times[-1] + 10),
    )
    for begun, size in ((3.0, 100), (123.4, 1400), (700.0, 5000)):
        now, left = begun, size + 40.0 * max(math.ceil(size / 1460), 1)
        while left > 0:
            left -= 0.01 * trace.up_kbit_s[trace.index_at(now)] / 8
            now += 0.01
        assert VirtualLink(trace).send(size, begun, compute_ms=0.0).received_ms == pytest.approx(now, abs=0.2)
