"""The summary has every key, with a reason where there is no number, and counts as its words say."""

from __future__ import annotations

from typing import Any

import pytest

from littoral.bench.exits.plan import full_plan, quick_plan
from littoral.bench.exits.summary import KEYS, WORDS, summarise
from littoral.bench.exits.unit import ExitUnit
from littoral.bench.rows import chosen_by_name

USERS = ExitUnit(kind="users", network="resnet20", count=4)
LATENCY = ExitUnit(kind="latency", network="resnet20", count=2)


def row(user: int, method: str, labels: float, shipped: float, **values: float) -> dict[str, Any]:
    frames = 0 if method == "generic" else 1000
    facts = {"user": user, "hard": False, "method": method, "labels": labels, "frames": frames}
    return {**facts, "shipped_right": shipped, **values}


def users() -> dict[str, Any]:
    """Of user 0 the shipped network is right on 40 %, of the others on 90 %."""
    points = []
    for user in range(4):
        shipped = 40.0 if user == 0 else 90.0
        points.append(row(user, "generic", 0.0, shipped, right_50=30.0))
        for labels, right in ((0.0, 40.0), (0.1, 45.0), (1.0, 50.0 if user else 70.0)):
            certified = {"cert_d05_right": shipped - 0.5 * user, "cert_x_right": shipped + 1, "full_right": shipped}
            certified["cert_d03_right"] = shipped - 0.3 * user
            points.append(row(user, "personal", labels, shipped, right_50=right, **certified))
            points.append(row(user, "unprotected", labels, shipped, plain_right=shipped - 9))
    return {"points": points}


def test_gains_are_of_the_quarter_whom_the_shipped_network_knows_least_and_worst_users_of_all() -> None:
    times = [
        {"user": u, "hard": bool(u), "way": "personal, labels, certified", "ms": 1.0 + u, "full_ms": 4.0}
        for u in (0, 1)
    ]
    out = summarise([USERS, LATENCY], {USERS.key: users(), LATENCY.key: {"points": times}})
    assert out["gain_points_most_different_users"] == 40.0
    assert out["gain_points_all_users"] == 25.0
    assert out["label_free_share_of_gain"] == pytest.approx(10 / 25)
    assert out["users_improved_fraction"] == 1.0
    assert out["worst_user_points"] == -1.5
    assert out["users_more_than_a_point_below"] == 1
    assert (out["worst_user_points_risk_03"], out["users_more_than_a_point_below_risk_03"]) == (-0.9, 0)
    assert out["gain_points_all_users_tenth_labelled"] == 15.0
    assert out["worst_user_points_unprotected"] == -9.0
    assert out["latency_full_over_exits_certified"] == pytest.approx(8 / 3, abs=1e-3)
    assert out["latency_full_over_exits_certified_mild_styles"] == 4.0
    assert out["latency_full_over_exits_equal_accuracy"] is None
    assert out["resnet20_gain_points_all_users"] == out["gain_points_all_users"]


def test_without_any_unit_every_key_is_null_with_a_reason() -> None:
    out = summarise(full_plan(), {})
    assert all(out[key] is None and out[f"{key}_reason"] for key in KEYS)


def test_every_key_that_is_asked_for_has_words_and_work_is_told_with_a_forward_pass_too() -> None:
    assert set(KEYS) <= set(WORDS)
    unit = ExitUnit(kind="cost", network="resnet56")
    point = {
        "full_over_ours": 206.4, "full_over_ours_with_forward": 13.98, "published_over_ours": 93.56,
        "published_over_ours_with_forward": 6.34, "peak_extra_memory_bytes": 220_560,
    }  # fmt: skip
    out = summarise([unit], {unit.key: {"points": [point]}})
    told = {key for key in out if "flops" in key and not key.startswith("resnet56_")}
    assert told <= set(WORDS)
    assert out["flops_full_finetune_over_ours_with_forward"] == 13.98


def test_units_have_keys_of_their_own_and_are_chosen_by_the_beginning_of_their_names() -> None:
    units = [*full_plan(), *quick_plan()]
    assert len({unit.key for unit in units}) == len(units)
    assert {unit.kind for unit in chosen_by_name(units, ["resnet56/latency"])} == {"latency"}
    assert {unit.seed for unit in chosen_by_name(units, ["*/users/trained/k4/2"])} == {2}
    with pytest.raises(ValueError, match="fits no unit"):
        chosen_by_name(units, ["resnet56/latncy"])
