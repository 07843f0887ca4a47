"""What is measured of a user: personal heads help, hindsight and certificate stay apart, strangers, days taken back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import exit_world
import numpy as np
import pytest

from littoral.bench.exits import latency, measure
from littoral.bench.exits.measure import GENERIC, Case, shipped_heads, user_rows
from littoral.bench.exits.risk_sim import risk_rows
from littoral.bench.exits.scored import Outcome, equal_accuracy, score, split_calibration, within_budget
from littoral.bench.exits.strangers import removal_row, stranger_row
from littoral.core.personal import PersonalConfig


def test_personal_exits_beat_generic_ones_at_equal_work_for_a_user_who_differs() -> None:
    rows = user_rows(exit_world.chain(), exit_world.seen(), labels=(0.0, 1.0), stops=(100, 300))
    last = {(row["method"], row["labels"]): row for row in rows if row["frames"] in (0, 300)}
    generic, personal = last["generic", 0.0], last["personal", 1.0]
    assert personal["personal_heads"] >= 2
    assert personal["right_50"] > generic["right_50"] + 3
    assert personal["eq_compute"] < generic["eq_compute"]
    assert "right_50" not in last["last layer", 1.0]
    assert {row["frames"] for row in rows if row["method"] == "personal"} == {100, 300}


def test_the_frames_that_fit_temperatures_never_certify() -> None:
    calibration = exit_world.seen().calibration
    search, rest = split_calibration(calibration)
    assert len(search) + len(rest) == len(calibration)
    np.testing.assert_array_equal(np.concatenate([search.labels_N, rest.labels_N]), calibration.labels_N)


def outcome(right: float, compute: float) -> Outcome:
    return Outcome(right=right, compute=compute, thresholds=(0.5,), disagreement=0.0, excess=0.0)


def test_hindsight_takes_the_cheapest_that_is_right_enough_and_a_budget_the_most_careful_that_fits() -> None:
    steps = [outcome(90, 1.0), outcome(91, 0.7), outcome(90, 0.5), outcome(80, 0.3)]
    found = equal_accuracy(steps, 90)
    assert found is not None
    assert found.compute == 0.5
    assert equal_accuracy(steps, 95) is None
    found = equal_accuracy([*steps, outcome(89.9, 0.2)], 90)
    assert found is not None
    assert found.compute == 0.5, "a tenth of a point below is not equal"
    assert within_budget(steps, 0.75).compute == 0.7
    assert within_budget(steps, 0.1).compute == 0.3


def test_equal_accuracy_is_that_of_the_shipped_network_wherever_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def equal(outcomes: Any, wanted: float) -> Outcome:
        asked.append(wanted)
        return outcome(90, 0.5)

    for module in (measure, latency):
        monkeypatch.setattr(module, "equal_accuracy", equal)
    chain, seen = exit_world.chain(), exit_world.seen(sizes=(60, 60, 60))
    ways = latency.operating_points(chain, seen)
    shipped = score(shipped_heads(chain), seen.test, (1.0,) * len(chain.exits)).shipped_right
    assert asked == [pytest.approx(shipped)] * (len(ways) // 2)
    asked.clear()
    row = measure.measured(Case(method=GENERIC, heads=shipped_heads(chain), num_frames=0), seen, chain.costs())
    assert asked == pytest.approx([shipped, row["full_right"]], abs=0.01)


def test_the_gate_gives_strangers_back_to_the_shipped_network_and_costs_the_user_little() -> None:
    config = PersonalConfig(label_weight=1.0)
    row = stranger_row(exit_world.chain(), exit_world.seen(sizes=(600, 300, 600)), labels=1.0, config=config)
    assert row["never_gated_to_shipped_right"] > row["never_right"] + 20
    assert row["own_gated_right"] > row["own_right"] - 3
    assert row["never_watched_right"] > row["never_right"]
    assert row["own_watched_right"] > row["own_right"] - 3


def test_a_day_taken_back_leaves_no_trace_in_any_head_and_had_left_one_before() -> None:
    row = removal_row(exit_world.chain(), exit_world.seen(), labels=0.5)
    assert row["largest_difference"] < 1e-9
    assert row["least_moved_by_the_day"] > 1e-3
    assert row["frames_of_the_day_left"] == 0


def test_promises_are_broken_no_more_often_than_they_may_be_and_belief_in_means_breaks_more() -> None:
    rows = risk_rows(exit_world.chain(), exit_world.seen(sizes=(150, 300, 600)), num_frames=100, num_calibrations=20)
    assert len(rows) == 3
    for row in rows:
        assert row["broken"] <= 0.25  # a tenth is allowed, of 20
    assert max(row["broken_if_the_mean_is_believed"] for row in rows) > 0.25


def test_a_part_keeps_its_rows_together() -> None:
    part = exit_world.seen().test
    some = part.take(np.array([3, 1]))
    np.testing.assert_array_equal(some.features[1], part.features[1][[3, 1]])
    np.testing.assert_array_equal(some.labels_N, part.labels_N[[3, 1]])
    assert replace(part, labels_N=part.shipped_N).labels_N.shape == part.labels_N.shape
