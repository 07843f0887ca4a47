"""The player's book-keeping: what a device prints, who answered which phase, and the cloud that is taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("torch", reason="the demo needs the cloud extra")

from littoral.bench import play
from littoral.bench.mix import EXIT, FINISH, OFFLOAD, UNANSWERED
from littoral.bench.play import DemoConfig, DeviceTrack, _Breaker, _options, _routed
from littoral.bench.processes import CloudProcess
from littoral.bench.streams.digits import PHASES, Stream

PER_PHASE = 4
COUNT = PER_PHASE * len(PHASES)


def track(name: str = "d") -> DeviceTrack:
    phase = np.repeat(np.arange(len(PHASES)), PER_PHASE)
    stream = Stream(frames=np.zeros((COUNT, 1, 1, 1), np.uint8), labels=np.zeros(COUNT, np.int64), phase=phase)
    nothing = np.full(COUNT, UNANSWERED)
    return DeviceTrack(name, stream, nothing, nothing.copy(), nothing.copy(), num_early=1)


def answer(frame_id: int, **more: Any) -> dict[str, Any]:
    line = {"type": "answer", "frame_id": frame_id, "label": 0, "version": 0, "source": "device", "exit_index": 2}
    return {**line, "latency_ms": 2.0, "degraded": False, "compute_share": 1.0, **more}


def test_a_line_says_who_answered_how_long_it_took_and_whether_it_is_degraded() -> None:
    made = track()
    made.hear(answer(1, exit_index=0, latency_ms=1.0))
    made.hear(answer(3, source="cloud", latency_ms=20.0))
    made.hear(answer(4, degraded=True, label=7))
    assert made.ways[:4].tolist() == [EXIT, UNANSWERED, OFFLOAD, FINISH]
    assert made.latency_ms[:4].tolist() == [1, 0, 20, 2]
    assert made.degraded.nonzero()[0].tolist() == [3]
    assert made.answers[3] == 7
    assert made.answered == 4


def test_a_phase_has_its_own_frames_only() -> None:
    made = track()
    for number in range(1, PER_PHASE + 1):  # a clean phase of exits, then a dim one that lacks an answer
        made.hear(answer(number, exit_index=0, latency_ms=1.0, compute_share=0.2))
    for number in (5, 6, 7):
        made.hear(answer(number, source="cloud", latency_ms=9.0, degraded=number == 7))
    made.history = [(4, 0, 40, 0), (8, 0, 440, 0)]
    clean, dim = (_routed([made], phase) for phase in (0, 1))
    assert (clean["exit_share"], clean["offload_share"], clean["latency_ms"]) == (100.0, 0.0, 1.0)
    assert (clean["uplink_bytes_per_frame"], clean["work_share"], clean["unanswered"]) == (10.0, 20.0, 0)
    assert (dim["exit_share"], dim["offload_share"], dim["latency_ms"]) == (0.0, 100.0, 9.0)
    assert (dim["uplink_bytes_per_frame"], dim["degraded"], dim["unanswered"]) == (100.0, 1, 1)
    assert _routed([made])["unanswered"] == COUNT - 7


class FakeCloud:
    port = 1

    def __init__(self) -> None:
        self.done: list[str] = []

    def pause(self) -> None:
        self.done.append("pause")

    def resume(self) -> None:
        self.done.append("resume")

    def kill(self) -> None:
        self.done.append("kill")


def breaker(cloud: FakeCloud, tracks: list[DeviceTrack], said: list[str], **config: Any) -> _Breaker:
    settings = DemoConfig(frames_per_phase=PER_PHASE, **config)
    return _Breaker(cast(CloudProcess, cloud), Path("bundle"), Path("out"), settings, tracks, said.append)


def test_the_cloud_stands_still_once_in_the_middle_and_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(play.time, "monotonic", lambda: now[0])
    cloud, tracks, said = FakeCloud(), [track("a"), track("b")], []
    made = breaker(cloud, tracks, said, outage_s=5.0)
    made.look()
    assert cloud.done == [], "not yet in the middle"
    tracks[0].played, tracks[0].answered, tracks[1].answered = COUNT // 2, 9, 8
    made.look()
    now[0] += 4.9
    made.look()
    assert cloud.done == ["pause"]
    tracks[0].answered, tracks[1].answered = 14, 12
    now[0] += 0.2
    made.look()
    made.look()
    assert cloud.done == ["pause", "resume"]
    assert made.outage is not None
    assert made.outage.frames == ((9, 14), (8, 12))
    assert made.outage.seconds == pytest.approx(5.1)
    assert "stands still for 5 s" in said[0]
    assert "9 frames were answered meanwhile" in said[1]


def test_a_stream_that_ends_in_an_outage_ends_it() -> None:
    cloud, tracks = FakeCloud(), [track()]
    made = breaker(cloud, tracks, [])
    tracks[0].played = COUNT
    made.look()
    made.end()
    made.end()
    assert cloud.done == ["pause", "resume"]


def test_a_cloud_that_is_killed_is_started_again_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def start(*args: object, **more: object) -> str:
        started.append((args, more))
        return "another"

    monkeypatch.setattr(play, "CloudProcess", start)
    cloud, tracks = FakeCloud(), [track()]
    made = breaker(cloud, tracks, [], kill_cloud=True, seed=3)
    tracks[0].played = COUNT
    made.look()
    assert cast(Any, made.end()) == "another"
    assert cloud.done == ["kill"]
    assert started == [((Path("bundle"), Path("out/cloud")), {"seed": 3, "port": 1})]


def test_without_an_outage_nothing_is_broken() -> None:
    cloud, tracks = FakeCloud(), [track()]
    made = breaker(cloud, tracks, [], outage_s=0.0)
    tracks[0].played = COUNT
    made.look()
    made.end()
    assert (cloud.done, made.outage) == ([], None)


def test_the_devices_are_told_to_route_by_the_configuration() -> None:
    options = _options(DemoConfig(deadline_ms=80.0, price_ms=0.01))
    assert {"--route", "--exits"} <= set(options)
    assert options[options.index("--deadline") + 1] == "80.0"
    assert options[options.index("--price-ms") + 1] == "0.01"
