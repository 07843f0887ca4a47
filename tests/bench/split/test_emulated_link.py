"""The emulated link takes the time that it says, and the steps add up."""

from __future__ import annotations

import socket
import time

import pytest

from littoral.bench.split.link import STEPS, LinkSpec, PlainSocket, Relay, Way, measure_ways

SLOW = LinkSpec(bits_per_second=80_000, round_trip_ms=30)


def echo(kind: int, body: bytes) -> bytes:
    if kind == 2:
        time.sleep(0.02)
    return body


def test_bytes_are_paced_and_packets_delayed_each_way() -> None:
    assert SLOW.seconds_to_send(1000) == pytest.approx(8 * 1040 / 80_000)
    assert SLOW.seconds_to_send(1461) == pytest.approx(8 * (1461 + 80) / 80_000)
    with Relay(SLOW, echo) as relay, PlainSocket(relay.port) as road:
        small, large = (road.ask(1, bytes(size)) for size in (10, 800))
    for reply, size in ((small, 10), (large, 800)):
        assert len(reply.body) == size
        assert reply.arrived - reply.sent >= SLOW.seconds_to_send(size + 5) + 0.015 - 0.002
        assert reply.received - reply.done >= SLOW.seconds_to_send(size) + 0.015 - 0.002
    assert large.arrived - large.sent > small.arrived - small.sent + 0.05


def test_a_link_without_limits_takes_next_to_nothing() -> None:
    with Relay(LinkSpec(bits_per_second=1e12, round_trip_ms=0), echo) as relay, PlainSocket(relay.port) as road:
        fastest = min((r := road.ask(1, bytes(800))).received - r.sent for _ in range(5))
    assert fastest < 0.02


def test_the_steps_of_a_way_are_told_apart_and_add_up() -> None:
    ways = [
        Way(name="quick", kind=1, segment=lambda frame: frame, encode=lambda value: bytes(20)),
        Way(name="slow_tail", kind=2, segment=lambda frame: frame, encode=lambda value: bytes(20)),
    ]
    spec = LinkSpec(bits_per_second=1e9, round_trip_ms=4)
    with Relay(spec, echo) as relay, PlainSocket(relay.port) as road:
        quick, slow = measure_ways(road, ways, [0, 1], rounds=3)
    assert slow["tail_ms"] >= 20 > quick["tail_ms"]
    assert slow["tail_cpu_ms"] < 10, "it slept"
    assert quick["up_ms"] >= 2 - 0.1
    assert quick["down_ms"] >= 2 - 0.1
    assert quick["bytes"] == 20
    assert sum(quick[f"{step}_ms"] for step in STEPS) == pytest.approx(quick["latency_ms"], rel=0.5)


def test_a_cloud_that_is_away_is_a_connection_that_ends_and_nothing_more() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with Relay(SLOW, forward_to=port) as relay, pytest.raises(ConnectionError), PlainSocket(relay.port) as road:
        road.ask(1, b"anyone")
