"""Sums, dominance and shares, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from littoral.bench.routing.compare import (
    Standing,
    at_accuracy_of,
    dominates,
    loss_of,
    oracle_gain_fraction,
    policies_that_dominate,
    recovery,
    standing,
)
from littoral.bench.routing.run import Played

PLAYED = Played(
    name="p",
    is_real=True,
    right=np.array([True, True, False, True]),
    in_time=np.array([True, False, True, True]),
    latency_ms=np.array([10.0, 210.0, 20.0, 40.0]),
    num_bytes=np.array([0, 100, 0, 300]),
    device_ms=np.array([10.0, 2.0, 20.0, 8.0]),
    source=("exit", "cloud", "finish", "in-hand"),
    depth=np.array([1, 0, 3, 1]),
    degraded=np.array([False, False, False, True]),
    reason=("sure", "cloud-better", "device-better", "cloud-better"),
    picture=np.array([False, True, False, False]),
)
OURS = standing(PLAYED)


def other(accuracy: float, latency_ms: float, num_bytes: float, *, is_real: bool = True) -> Standing:
    return replace(
        OURS,
        name=f"{accuracy}",
        is_real=is_real,
        accuracy=accuracy,
        timely_accuracy=accuracy,
        latency_ms=latency_ms,
        bytes_per_frame=num_bytes,
    )


def test_the_sums_by_hand() -> None:
    assert (OURS.accuracy, OURS.timely_accuracy, OURS.deadline_hits) == (0.75, 0.5, 0.75)
    assert (OURS.latency_ms, OURS.latency_ms_p50, OURS.bytes_per_frame) == (70, 30, 100)
    assert (OURS.exit_rate, OURS.finish_rate, OURS.cloud_rate, OURS.degraded_rate) == (0.5, 0.25, 0.25, 0.25)
    assert OURS.device_ms_per_frame == 10
    assert standing(PLAYED, slice(0, 1)).accuracy == 1
    assert OURS.row()["latency_ms_p99"] == pytest.approx(204.9)


@pytest.mark.parametrize(
    ("better", "expected"),
    [
        (other(0.75, 70, 100), False),
        (other(0.75, 70, 99), True),
        (other(0.76, 60, 90), True),
        (other(0.76, 60, 101), False),
        (other(0.74, 1, 1), False),
    ],
)
def test_one_dominates_that_is_nowhere_worse_and_somewhere_better(better: Standing, expected: bool) -> None:
    assert dominates(better, OURS) is expected


def test_an_oracle_is_no_policy_that_could_dominate() -> None:
    assert policies_that_dominate(OURS, [other(1.0, 1, 0, is_real=False), other(0.8, 60, 90), OURS]) == ["0.8"]


def test_the_share_of_the_oracles_gain() -> None:
    device, oracle = other(0.6, 30, 0), other(0.8, 20, 10)
    assert oracle_gain_fraction(other(0.75, 30, 10), device_only=device, oracle=oracle) == pytest.approx(0.75)
    assert oracle_gain_fraction(other(0.75, 30, 10), device_only=device, oracle=device) is None
    by_loss = loss_of(ms_price=0.01)
    expected = (0.75 - 0.3 - 0.3) / (0.8 - 0.2 - 0.3)
    assert oracle_gain_fraction(
        other(0.75, 30, 10), device_only=device, oracle=oracle, measure=by_loss
    ) == pytest.approx(expected)


def test_the_quickest_of_ours_at_anothers_accuracy() -> None:
    webp = other(0.9, 90, 5000)
    ours = [other(0.91, 60, 900), other(0.896, 30, 500), other(0.88, 10, 100)]
    found = at_accuracy_of(webp, ours)
    assert found is not None
    assert found[0].accuracy == 0.896
    assert found[1:] == pytest.approx((1 / 3, 0.1))
    assert at_accuracy_of(webp, ours[2:]) is None


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match="are the exits off"):
        recovery(0.0, 0.5)
    assert recovery(0.5, 0.45) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="no frame"):
        standing(PLAYED, slice(9, 9))
