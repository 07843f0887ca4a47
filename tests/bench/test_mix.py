"""Who answered and what it cost, of made-up answers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the demo needs the cloud extra")

from littoral.bench.mix import (
    EXIT,
    FINISH,
    OFFLOAD,
    UNANSWERED,
    Outage,
    bytes_between,
    rolling_shares,
    shares,
    way_of,
    work_share,
)
from littoral.bench.play import DeviceTrack
from littoral.bench.streams.digits import Stream


@pytest.mark.parametrize(
    ("source", "exit_index", "way"),
    [("device", 0, EXIT), ("device", 1, EXIT), ("device", 2, FINISH), ("device", 3, FINISH), ("cloud", 3, OFFLOAD)],
    ids=["first exit", "last early exit", "deep exit", "network", "cloud"],
)
def test_an_answer_is_the_devices_early_its_whole_networks_or_the_clouds(
    source: str, exit_index: int, way: int
) -> None:
    assert way_of({"source": source, "exit_index": exit_index}, num_early=2) == way


def test_shares_are_of_what_was_answered() -> None:
    ways = np.array([EXIT, FINISH, FINISH, OFFLOAD, UNANSWERED], np.int8)
    assert shares(ways) == {"exit": 25.0, "finish": 50.0, "offload": 25.0}
    assert set(shares(ways[-1:]).values()) == {0.0}


def test_work_is_of_the_devices_own_answers_as_they_said() -> None:
    ways = np.array([EXIT, EXIT, FINISH, OFFLOAD, UNANSWERED], np.int8)
    compute = np.array([0.3, 0.7, 1.1, 0.4, 0.0], np.float32)
    assert work_share(ways, compute) == pytest.approx(0.7)
    assert work_share(ways[3:], compute[3:]) == 0


def test_a_track_takes_what_an_answer_cost_from_the_line_that_the_device_printed() -> None:
    made = track(np.array([0, 0]))
    said = {"label": 1, "version": 0, "source": "device", "exit_index": 0, "latency_ms": 2.0, "degraded": False}
    made.hear({"type": "answer", "frame_id": 2, "compute_share": 0.25, **said})
    assert made.compute.tolist() == [0.0, 0.25]


def test_bytes_lie_on_straight_lines_between_reports() -> None:
    history = [(100, 0, 1_000, 0), (200, 0, 5_000, 0)]
    assert bytes_between(history, 0, 50) == pytest.approx(500)
    assert bytes_between(history, 50, 150) == pytest.approx(500 + 2_000)
    assert bytes_between(history, 200, 300) == 0, "nothing was reported after"
    assert bytes_between([], 0, 10) == 0


def track(answers: np.ndarray, latency: float = 1.0) -> DeviceTrack:
    n = len(answers)
    stream = Stream(frames=np.zeros((n, 1, 1, 1), np.uint8), labels=np.zeros(n, np.int64), phase=np.zeros(n, np.int64))
    made = DeviceTrack("d", stream, answers, answers, np.zeros(n, np.int64))
    made.latency_ms[:] = latency
    return made


def test_an_outage_counts_the_frames_whose_turn_came_meanwhile_and_no_others() -> None:
    first, second = track(np.array([1, 0, 0, 1, 0])), track(np.array([0, UNANSWERED, 0, 0, 0]), latency=9.0)
    first.degraded[:3] = True
    second.latency_ms[1], second.latency_ms[4] = 1e6, 1e6
    found = Outage(frames=((1, 4), (0, 3)), seconds=5.004).summary([first, second])
    assert found == {
        "outage_seconds": 5.0,
        "outage_frames": 6,
        "outage_unanswered": 1,
        "outage_degraded": 2,
        "outage_accuracy": round(400 / 6, 2),
        "outage_latency_ms_max": 9.0,
    }


def test_the_mix_over_time_adds_up_and_follows_a_change() -> None:
    ways = np.concatenate([np.full((2, 500), EXIT), np.full((2, 500), OFFLOAD)], axis=1).astype(np.int8)
    ends, percent = rolling_shares(ways, 100)
    assert percent.sum(axis=0) == pytest.approx(100)
    assert percent[EXIT][ends <= 500] == pytest.approx(100)
    assert percent[OFFLOAD][ends >= 600] == pytest.approx(100)
    assert percent[OFFLOAD][np.searchsorted(ends, 550)] == pytest.approx(50, abs=1)


def test_frames_without_an_answer_make_no_mix() -> None:
    ends, percent = rolling_shares(np.full((1, 30), UNANSWERED, np.int8), 100)
    assert ends.tolist() == list(range(20, 31)), "from a fifth of the window on"
    assert not percent.any()
