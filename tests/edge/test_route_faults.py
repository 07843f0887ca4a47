"""Promise 4 for a device that routes: each frame has one answer, in time, whatever becomes of link and cloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from route_cases import STEP_MS
from route_rigs import EAGER, Rig, reply

from littoral.core.route_plan import Prices
from littoral.core.route_words import REASONS, RouteConfig
from littoral.wire.messages import OffloadAnswer

JITTER = 0.1
HASTY = Prices(ms=0.003, byte=0.0)
"""So dear a millisecond that frames are offloaded before anything has run."""
NUM_SCHEDULES, FRAMES = 1000, 8


@dataclass
class Faults:
    """What becomes of each request, drawn from a seed."""

    rng: np.random.Generator
    deadline_ms: float

    def __call__(self, asked: dict[str, Any]) -> list[tuple[float, OffloadAnswer | str]]:
        late_ms = float(self.rng.exponential(0.5 * self.deadline_ms))
        answer = reply(int(self.rng.integers(4)))
        kind = int(self.rng.integers(10))
        if kind < 4:
            return [(late_ms, answer)]
        if kind == 4:
            return []  # the link's thread itself is gone
        if kind == 5:
            return [(1000 * (asked["wait_s"] + asked["keep_s"]), "timeout")]
        if kind == 6:
            return [(late_ms, "away")]
        if kind == 7:
            return [(late_ms, reply(code=str(self.rng.choice(["overloaded", "late", "damaged", "news"]))))]
        if kind == 8:
            return [(late_ms, reply(answer=self.rng.bytes(int(self.rng.integers(0, 40)))))]
        return [(late_ms, answer), (late_ms + 1, answer), (late_ms + 2, "timeout")]


def play(monkeypatch: pytest.MonkeyPatch, seed: int, **config: Any) -> list[tuple[float, float, str, bool, str, int]]:
    """A device's life among faults. Of each frame: latency, deadline, source, degraded, reason, requests for it."""
    rng = np.random.default_rng([seed, 7])
    deadline_ms = float(rng.uniform(STEP_MS[0] * (1 + JITTER) + 6, 120))
    prices = EAGER if rng.random() < 0.5 else HASTY
    made = RouteConfig(deadline_ms=deadline_ms, prices=prices, audit_share=0.1, **config)
    rig = Rig(
        monkeypatch,
        made,
        num_frames=FRAMES,
        seed=seed,
        jitter=JITTER,
        thresholds=(float(rng.uniform(0.5, 1)),) * 2,
        checking=bool(rng.random() < 0.3),
        switcher=bool(rng.random() < 0.5),
        link_warm_ms=float(rng.uniform(2, 40)) if rng.random() < 0.9 else None,
    )
    rig.link.fate = Faults(rng, deadline_ms)
    rig.refused = set(np.flatnonzero(rng.random(FRAMES) < 0.1).tolist())
    rows = []
    for number in range(FRAMES):
        rig.link.connected = bool(rng.random() < 0.9)
        if rng.random() < 0.1:
            rig.model.version += 1
        if rng.random() < 0.1:
            rig.routing.world(bool(rng.integers(2)))
        before = len(rig.link.asked)
        behind = bool(rng.random() < 0.7)
        routed, took_ms = rig.infer(number, gap_ms=float(rng.uniform(0, 40)), behind=behind)
        asked = sum(each["number"] == number for each in rig.link.asked[before:])
        rows.append((took_ms, deadline_ms, routed.source, routed.degraded, routed.reason, asked))
        assert routed.found.logits_K.shape == (4,)
        assert routed.found.label == routed.found.logits_K.argmax()
    rig.settle()
    rig.routing.requests.listen()
    counters = rig.routing.counters
    assert counters.offloaded == sum(row[2] == "cloud" for row in rows)
    assert counters.degraded == sum(row[3] for row in rows)
    assert counters.offloaded + sum(rig.exits.frames_by_exit) == FRAMES
    assert 0 <= counters.labels <= rig.routing.requests.num_sent
    return rows


def test_each_frame_has_one_answer_in_time_through_a_thousand_schedules_of_faults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources, degraded, offloaded = set(), 0, 0
    for seed in range(NUM_SCHEDULES):
        for took_ms, deadline_ms, source, is_degraded, reason, asked in play(monkeypatch, seed):
            assert took_ms <= deadline_ms, f"schedule {seed}"
            assert reason in REASONS
            assert asked <= 1
            sources.add(source)
            degraded += is_degraded
            offloaded += source == "cloud"
    assert sources == {"device", "cloud"}
    assert degraded > NUM_SCHEDULES / 4, "the faults are felt"
    assert offloaded > NUM_SCHEDULES / 4, "and the cloud is used all the same"


def test_a_device_that_waits_with_nothing_to_fall_back_on_is_caught_by_the_same_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control."""
    late = 0
    for seed in range(NUM_SCHEDULES // 10):
        late += sum(row[0] > row[1] for row in play(monkeypatch, seed, hedges=False))
    assert late > 10
