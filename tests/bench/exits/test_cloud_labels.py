"""The cloud's answers to uploaded frames teach a user's heads; who uploads what does not depend on who learns."""

from __future__ import annotations

import exit_world
import numpy as np
import pytest

from littoral.bench.exits.cloud_labels import AS_LABELS, BOTH, OWN, cloud_label_rows, gains, uploaded
from littoral.bench.exits.make import make_unit
from littoral.bench.exits.plan import full_plan


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_no_more_is_uploaded_than_the_budget_has_at_any_time_and_what_goes_is_what_is_unsure(share: float) -> None:
    unsure = np.random.default_rng(0).uniform(size=1000)
    went = uploaded(unsure, share)
    assert (np.cumsum(went) <= share * np.arange(1, 1001)).all()
    assert went.mean() > 0.7 * share
    assert unsure[went].min() > 1 - 2 * share
    np.testing.assert_array_equal(uploaded(unsure[:300], share), went[:300])  # nothing that comes later counts


def test_a_cloud_that_knows_helps_a_user_without_labels_and_one_that_errs_does_not() -> None:
    chain, seen = exit_world.chain(), exit_world.seen()
    num_classes = len(exit_world.MEANS[0])
    gained = {}
    for name, answers in (("knows", seen.personal.labels_N), ("errs", (seen.personal.labels_N + 1) % num_classes)):
        rows = cloud_label_rows(chain, seen, np.eye(num_classes)[answers], own=(0.0, 1.0), upload=0.5)
        assert [row["method"] for row in rows] == [OWN, BOTH, AS_LABELS] * 2
        gained[name] = gains(rows, key="right_50")
        assert gained[name]["1"] == 0, "where the user labels everything the cloud has nothing to say"
    assert gained["knows"]["0"] > gained["errs"]["0"]
    assert gained["knows"]["0"] > 0


def test_the_unit_is_planned_once_and_can_be_made() -> None:
    (unit,) = [unit for unit in full_plan() if unit.kind == "labels"]
    assert unit.options["stated"] in unit.options["own"]
    assert callable(make_unit)
