"""The summary's numbers, worked by hand on a few rows."""

from __future__ import annotations

from typing import Any

import pytest

from littoral.bench.routing.averages import averaged
from littoral.bench.routing.contenders import DEFAULT_SETTING
from littoral.bench.routing.summary import KEYS, dominating, gain_fraction, loss, summarise

Row = dict[str, Any]


def row(policy: str, family: str, accuracy: float, latency_ms: float, num_bytes: float, **more: Any) -> Row:
    return {
        "kind": "policies", "trace": "wifi-walk", "stream": "clean", "device_ms": 8.0, "phase": "all", "seed": 0,
        "policy": policy, "family": family, "is_real": family != "oracle", "accuracy": accuracy, "num_frames": 100,
        "timely_accuracy": accuracy, "latency_ms": latency_ms, "bytes_per_frame": num_bytes, "deadline_hits": 1.0,
        "degraded_rate": 0.0, "commit": "c", **more,
    }  # fmt: skip


DEVICE = row("device only", "device only", 90.0, 10.0, 0.0)
WEBP = row("always webp 95", "cloud only", 93.0, 40.0, 800.0)
COARSE = row("always webp 80", "cloud only", 89.0, 39.0, 400.0)
OURS = row(DEFAULT_SETTING.name, "ours", 93.5, 12.0, 50.0)
LIKE_WEBP = row("ours, as right as webp 95", "ours", 92.6, 10.0, 40.0)
LOOK = row("oracle, by look", "oracle", 94.0, 10.0, 30.0)
TWO = row("oracle, priced, two", "oracle", 97.0, 9.0, 30.0)
ALL_ROWS = [DEVICE, WEBP, COARSE, OURS, LIKE_WEBP, LOOK, TWO]


def test_shares_of_webps_time_and_bytes_at_its_accuracy() -> None:
    found = summarise(averaged(ALL_ROWS))
    assert list(found)[: len(KEYS)] == list(KEYS)
    assert found["webp_quality"] == "webp 95"  # the one that is most often right
    assert found["latency_over_webp_equal_accuracy"] == pytest.approx(0.25)
    assert found["bytes_over_webp_equal_accuracy"] == pytest.approx(0.05)
    assert found["accuracy_over_webp_points"] == pytest.approx(-0.4)


def test_more_than_half_a_point_below_webp_is_no_equal_accuracy_and_says_so() -> None:
    far = {**LIKE_WEBP, "accuracy": 92.4}
    found = summarise(averaged([DEVICE, WEBP, OURS, far]))
    assert found["latency_over_webp_equal_accuracy"] is None
    assert "-0.6 points from webp 95" in found["latency_over_webp_equal_accuracy_reason"]
    none = summarise(averaged([DEVICE, WEBP, OURS]))
    assert "no price was right often enough" in none["bytes_over_webp_equal_accuracy_reason"]


BELOW = row("below 0.7 webp 95", "offload by confidence", 92.6, 9.0, 20.0)
DEAR = row("below 0.9 webp 95", "offload by confidence", 92.6, 30.0, 10.0)
FAR = row("below 0.5 webp 95", "offload by confidence", 92.4, 8.0, 5.0)
TIME, BYTES = "latency_over_cheapest_rule_equal_accuracy", "bytes_over_cheapest_rule_equal_accuracy"


def on(trace: str, *rows: Row, **changed: Any) -> list[Row]:
    return [{**each, "trace": trace, **changed} for each in rows]


def test_at_webp_s_accuracy_ours_is_held_against_the_cheapest_fixed_rule_too() -> None:
    found = summarise(averaged([*ALL_ROWS, BELOW, DEAR, FAR]))
    assert found[TIME] == pytest.approx(10 / 9, abs=1e-4)
    assert found[BYTES] == pytest.approx(40 / 20)
    assert found["cheapest_rules"] == (
        "wifi-walk: below 0.7 webp 95 (1.11 of its time, 2.00 of its bytes, +0.00 points)"
    )
    assert summarise(averaged(ALL_ROWS))[TIME] == pytest.approx(0.25), "WebP itself is a fixed rule"


def test_the_worst_link_is_quoted_and_one_where_webp_is_no_better_than_the_device_is_not_counted() -> None:
    lte = [*on("lte-drive", *ALL_ROWS), *on("lte-drive", BELOW, latency_ms=5.0, bytes_per_frame=30.0)]
    lost = on("outage", *ALL_ROWS, BELOW, latency_ms=1.0)
    lost = [{**each, "accuracy": 70.0} if each["family"] == "cloud only" else each for each in lost]
    found = summarise(averaged([*ALL_ROWS, BELOW, *lte, *lost]))
    assert found[TIME] == pytest.approx(10 / 5)
    assert found[BYTES] == pytest.approx(40 / 20)
    assert [each.split(":")[0] for each in found["cheapest_rules"].split("; ")] == ["wifi-walk", "lte-drive"]


def test_a_rule_that_sends_nothing_leaves_no_share_of_bytes_and_says_so() -> None:
    found = summarise(averaged([*ALL_ROWS, row("exits, risk 0.1", "static exits", 92.9, 5.0, 0.0)]))
    assert found[TIME] == pytest.approx(2.0)
    assert found[BYTES] is None
    assert found[f"{BYTES}_reason"] == "on wifi-walk exits, risk 0.1 sends nothing"
    far = {**LIKE_WEBP, "accuracy": 92.4}
    assert summarise(averaged([DEVICE, WEBP, BELOW, far]))[TIME] is None, "ours is not as right"


def test_a_policy_that_is_nowhere_worse_is_named_with_its_trace() -> None:
    better = row("below 0.9 split", "offload by confidence", 93.5, 12.0, 49.0)
    elsewhere = {**better, "trace": "fixed"}

    def dominating_of(*rows: Row) -> list[str]:
        return dominating(averaged([*ALL_ROWS, *rows]))

    assert dominating_of() == []
    by = "wifi-walk, clean: 0.00 points, 0.00 ms, 1.0 B"
    assert dominating_of(better) == [f"{DEFAULT_SETTING.name} < below 0.9 split ({by})"]
    assert dominating_of(elsewhere) == []
    ablation = {**better, "policy": "x, no switcher", "family": "ours", "bytes_per_frame": 500.0}
    assert dominating_of({**better, "accuracy": 93.4}, ablation) == []
    assert dominating_of({**better, "is_real": False}) == []
    # A seed that ours lacks says nothing about the two.
    assert dominating_of({**better, "accuracy": 93.4}, {**better, "accuracy": 99.0, "seed": 1}) == []
    assert dominating_of({**better, "seed": 1}) == []


def test_gain_is_in_wrong_answers_time_and_bytes_at_the_default_prices() -> None:
    prices = DEFAULT_SETTING.prices
    assert loss(DEVICE) == pytest.approx(10 + 100 * prices.ms * 10)
    by_hand = (loss(DEVICE) - loss(OURS)) / (loss(DEVICE) - loss(LOOK))
    assert gain_fraction(ALL_ROWS, "oracle, by look") == pytest.approx(by_hand)
    found = summarise(averaged(ALL_ROWS))
    assert found["oracle_gain_fraction_min"] == pytest.approx(by_hand, abs=1e-4)
    luck = (loss(LOOK) - loss(TWO)) / (loss(DEVICE) - loss(TWO))
    assert found["oracle_luck_share"] == pytest.approx(luck, abs=1e-4)
    assert gain_fraction([DEVICE, OURS], "oracle, by look") is None


def test_deadline_hits_are_the_least_of_ours_on_the_outage_and_with_no_cloud() -> None:
    outage = {**OURS, "trace": "outage", "deadline_hits": 0.999}
    none = {**OURS, "trace": "outage", "kind": "no-cloud", "deadline_hits": 0.995, "degraded_rate": 0.12}
    found = summarise(averaged([*ALL_ROWS, outage, none]))
    assert found["deadline_hits_outage"] == pytest.approx(0.995)
    assert found["degraded_share_no_cloud"] == pytest.approx(0.12)
    assert summarise(averaged([*ALL_ROWS, outage]))["deadline_hits_outage"] is None


def test_seeds_become_one_row_with_their_spread() -> None:
    seeds = [{**OURS, "seed": seed, "accuracy": 93.0 + seed} for seed in range(3)]
    (one,) = averaged(seeds)
    assert (one["num_seeds"], one["num_frames"], one["accuracy"], one["accuracy_sd"]) == (3, 300, 94.0, 1.0)
    assert "seed" not in one
    assert len(averaged([*seeds, {**OURS, "phase": "fog"}])) == 2
