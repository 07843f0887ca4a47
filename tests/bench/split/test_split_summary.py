"""The numbers that people quote, of results made up by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from littoral.bench.rows import TableRequest
from littoral.bench.split.plan import ENCODER_MACS, PIXELS, SEGMENT, SEGMENT_MACS, full_plan
from littoral.bench.split.summary import ANOTHER_CODEC, KEYS, summarise
from littoral.bench.split.table import SplitTable, flat_rows
from littoral.bench.split.unit import SplitUnit
from littoral.bench.store import UnitStore

PLAN = full_plan()


def points(*pairs: tuple[float, float], **more: Any) -> dict[str, Any]:
    made = [
        {"bytes": b, "accuracy": a, "subset_bytes": b, "subset_accuracy": a, "level": level}
        for level, (b, a) in enumerate(pairs)
    ]
    return {"points": made, "encoder_macs": ENCODER_MACS[PIXELS], "segment_macs": 0, **more}


def units(kind: str, method: str, variant: str | None = None, seed: int = 0) -> list[SplitUnit]:
    return [
        u for u in PLAN if u.kind == kind and u.method == method and u.seed == seed and variant in (None, u.variant)
    ]


@pytest.fixture
def results() -> dict[str, dict[str, Any]]:
    """At 91 % the product has 100 bytes in seed 0 and 120 in seed 1, parity 400, WebP 500 of which 100 are header."""
    made = {
        units("split", "product", PIXELS)[0].key: points((50, 90.0), (200, 92.0)),
        units("split", "product", PIXELS, seed=1)[0].key: points((60, 90.0), (240, 92.0)),
        units("codec", "webp")[0].key: {
            "points": [
                {"bytes": 500.0, "bytes_without_header": 400.0, "accuracy": 91.0, "quality": 60},
                {"bytes": 600.0, "bytes_without_header": 500.0, "accuracy": 92.0, "quality": 70},
            ]
        },
        units("fixed", "device_only")[0].key: {
            "points": [{"accuracy": 91.5, "network_macs": 4 * ENCODER_MACS[PIXELS], "subset_accuracy": 91.5}]
        },
    }
    for seed in (0, 1):
        for beta, pair in (("beta1.28", (200, 90.0)), ("beta0.32", (800, 92.0))):
            made[units("split", "parity", beta, seed)[0].key] = points(pair)
    for unit, right in zip(units("local_only", "local_only"), (88.0, 89.0), strict=False):
        assert unit.options["budget_macs"] == ENCODER_MACS[PIXELS] + SEGMENT_MACS[PIXELS]
        made[unit.key] = {"points": [{"accuracy": right, "bytes": 0.0}]}
    return made


def test_ratios_are_taken_seed_by_seed_at_ninety_one_percent(results: dict[str, dict[str, Any]]) -> None:
    summary = summarise(PLAN, results)
    assert summary["bytes_product_over_parity_at_91"] == pytest.approx((100 / 400 + 120 / 400) / 2, abs=1e-4)
    assert summary["bytes_product_over_parity_at_91_seeds"] == 2
    assert summary["bytes_product_over_webp_at_91"] == pytest.approx((100 / 400 + 120 / 400) / 2, abs=1e-4)
    assert summary["bytes_product_over_webp_with_header_at_91"] == pytest.approx(0.22, abs=1e-4)
    assert summary["product_best_top1"] == 92.0
    assert summary["encoder_macs_over_resnet20"] == 0.25
    assert summary["product_over_parity_delta_rate"] == pytest.approx(-0.725, abs=0.01)


def test_entropic_student_is_held_against_the_product_of_the_longest_budget_that_both_have(
    results: dict[str, dict[str, Any]],
) -> None:
    at, own = "bytes_product_over_parity_at_91", "bytes_product_over_parity"
    summary = summarise(PLAN, results)
    assert summary[own] == pytest.approx(0.3), "240 of 800 at 92 %; 50 of 200 at 90 %"
    assert (summary[f"{own}_points"], summary[f"{own}_epochs"], summary[f"{at}_epochs"]) == (4, 20, 20)
    for unit in PLAN:
        if unit.method == "parity" and unit.kind == "split":
            results.pop(unit.key, None)
    results[units("compared", "product", PIXELS)[0].key] = points((100, 86.0), (400, 90.0))
    results[units("compared", "parity", "beta0.08")[0].key] = points((800, 88.0))
    results[units("compared", "parity", "beta0.02")[0].key] = points((900, 99.0))
    summary = summarise(PLAN, results)
    assert summary[own] == pytest.approx(0.25), "where the product is not as right there is nothing to compare"
    assert (summary[f"{own}_points"], summary[f"{own}_epochs"]) == (1, 4)
    assert summary[at] is None
    assert "product spans 86.00 to 90.00 %" in summary[f"{at}_reason"]
    results[units("compared", "parity_first_stage", "beta1.28")[0].key] = points((500, 88.0))
    assert summarise(PLAN, results)[own] == pytest.approx(0.4), "the cut that is harder to beat"
    del results[units("compared", "parity_first_stage", "beta1.28")[0].key]
    for beta in ("beta0.08", "beta0.02"):
        results[units("compared", "parity", beta)[0].key] = points((170, 54.0))
    summary = summarise(PLAN, results)
    assert summary[own] is None
    assert summary[f"{own}_reason"].endswith("product spans 86.00 to 90.00 %, parity spans 54.00 to 54.00 %")


def test_the_product_is_held_against_the_better_local_network_at_its_worst_level(
    results: dict[str, dict[str, Any]],
) -> None:
    summary = summarise(PLAN, results)
    assert summary["points_over_local_only_at_equal_macs"] == pytest.approx(1.0)
    assert summary["points_over_local_only_at_equal_macs_best_level"] == pytest.approx(3.0)


def test_the_better_local_network_counts_whichever_shape_it_has(results: dict[str, dict[str, Any]]) -> None:
    first, second = units("local_only", "local_only")[:2]
    results[first.key], results[second.key] = results[second.key], results[first.key]
    assert summarise(PLAN, results)["points_over_local_only_at_equal_macs"] == pytest.approx(1.0)


def test_a_local_network_that_had_fewer_steps_than_the_product_says_so(results: dict[str, dict[str, Any]]) -> None:
    key = "points_over_local_only_at_equal_macs_steps"
    assert summarise(PLAN, results)[key] == "7,800 of 15,620", "of rows that are older than their steps"
    for unit in units("local_only", "local_only"):
        if unit.key in results:
            results[unit.key]["steps"] = 15_620
    assert key not in summarise(PLAN, results)


def test_what_a_split_adds_and_what_its_device_pays_stand_apart(results: dict[str, dict[str, Any]]) -> None:
    results[units("split", "product", SEGMENT)[0].key] = points((50, 90.0), (200, 92.0)) | {
        "encoder_macs": ENCODER_MACS[SEGMENT],
        "segment_macs": SEGMENT_MACS[SEGMENT],
    }
    summary = summarise(PLAN, results)
    assert summary["default_input"] == SEGMENT
    whole = 4 * ENCODER_MACS[PIXELS]
    assert summary["encoder_macs_over_resnet20"] == pytest.approx(ENCODER_MACS[SEGMENT] / whole, abs=1e-4)
    both = ENCODER_MACS[SEGMENT] + SEGMENT_MACS[SEGMENT]
    assert summary["device_macs_over_resnet20"] == pytest.approx(both / whole, abs=1e-4)
    assert summary["device_macs_over_resnet20_pixels"] == summary["encoder_macs_over_resnet20_pixels"] == 0.25


def test_a_local_network_that_is_not_there_is_counted_as_missing(results: dict[str, dict[str, Any]]) -> None:
    key = "points_over_local_only_at_equal_macs"
    assert f"{key}_shapes" not in summarise(PLAN, results)
    del results[units("local_only", "local_only")[1].key]
    summary = summarise(PLAN, results)
    assert summary[key] == pytest.approx(2.0)
    assert summary[f"{key}_shapes"] == "1 of 2"
    del results[units("local_only", "local_only")[0].key]
    assert f"{key}_shapes" not in summarise(PLAN, results), "without a number there is nothing to say"


def test_one_model_for_all_rates_is_told_by_the_rate_at_which_it_costs_most(results: dict[str, dict[str, Any]]) -> None:
    product = points((20, 89.0), (60, 91.9))  # with deadzones, which the others do not have
    for point, size, right in zip(product["points"], (50, 200), (90.0, 92.0), strict=True):
        point |= {"nearest_bytes": size, "nearest_accuracy": right}
    results[units("compared", "product", SEGMENT)[0].key] = product
    results[units("split", "product", SEGMENT)[0].key] = points((10, 90.0), (20, 92.0))  # of another budget
    for rate, pair in enumerate([(40, 90.0), (100, 91.0)]):
        results[units("compared", "product_single", f"{SEGMENT}-rate{rate}")[0].key] = points(pair)
    summary = summarise(PLAN, results)
    assert summary["multi_rate_over_single_rate_bytes"] == pytest.approx(50 / 40)
    assert summary["multi_rate_over_single_rate_bytes_epochs"] == 4
    assert summary["multi_rate_over_single_rate_bytes_layer2.1_rate1"] == pytest.approx(1.0)


def test_what_was_not_measured_is_null_and_says_why(results: dict[str, dict[str, Any]]) -> None:
    for found in (results, {}):
        summary = summarise(PLAN, found)
        assert set(KEYS) <= set(summary)
        missing = [key for key in KEYS if summary[key] is None]
        assert "seg_bytes_over_webp" in missing
        assert all(summary[f"{key}_reason"] for key in missing)
    assert summarise(PLAN, {})["bytes_product_over_parity_at_91"] is None


def test_dense_bytes_are_told_by_the_point_that_does_worst_against_webp(results: dict[str, dict[str, Any]]) -> None:
    webp = [(1100.0, 40.0), (2100.0, 50.0), (4100.0, 60.0)]
    for network, share in (("cgnet", 0.4), ("yolox_nano", 0.1)):
        (codec,), (split,) = units("dense_codec", "webp", network), units("dense_split", "dense", f"{network}-features")
        results[codec.key] = {
            "points": [
                {"bytes": b, "bytes_without_header": b - 100, "accuracy": a, "ap50": a, "quality": 1} for b, a in webp
            ]
        }
        results[split.key] = {
            "points": [
                {"bytes": b, "accuracy": a, "ap50": a, "level": 0}
                for b, a in ((100.0, 30.0), (share * 1000, 40.0), (share * 1000, 50.0))
            ]
        }
        for unit in units("dense_fixed", "device_only", network):
            results[unit.key] = {"points": [{"accuracy": 64.0, "bytes": 0.0}]}
    summary = summarise(PLAN, results)
    assert summary["seg_bytes_over_webp"] == pytest.approx(0.4)
    assert summary["seg_bytes_over_webp_least"] == pytest.approx(0.2)
    assert summary["seg_bytes_over_webp_points"] == 2
    assert summary["seg_bytes_over_webp_with_header"] == pytest.approx(400 / 1100, abs=1e-4)
    assert summary["det_bytes_over_webp"] == pytest.approx(0.1)
    assert summary["seg_device_only_accuracy"] == 64.0
    (fitted,) = units("dense_split", "dense_fitted", "cgnet-features")
    results[fitted.key] = {"points": [{"bytes": 500.0, "accuracy": 40.0, "miou": 40.0}]}
    assert summarise(PLAN, results)["seg_bytes_over_webp_fitted"] == pytest.approx(0.5)
    results[units("dense_split", "dense", "cgnet-features")[0].key] = {
        "points": [{"bytes": 9.0, "accuracy": 5.0, "ap50": 5.0}]
    }
    summary = summarise(PLAN, results)
    assert summary["seg_bytes_over_webp"] is None
    assert "the split spans 5.00 to 5.00 %, WebP spans 40.00 to 60.00 %" in summary["seg_bytes_over_webp_reason"]


def test_a_product_that_never_reaches_ninety_one_percent_says_what_it_reaches(
    results: dict[str, dict[str, Any]],
) -> None:
    for seed in (0, 1):
        results[units("split", "product", PIXELS, seed)[0].key] = points((50, 80.0), (200, 85.0))
    summary = summarise(PLAN, results)
    assert summary["bytes_product_over_parity_at_91"] is None
    assert "80.00 to 85.00 %" in summary["bytes_product_over_parity_at_91_reason"]


STEPS = {"segment_ms": 2.0, "encode_ms": 3.0, "up_ms": 25.0, "queue_ms": 1.0, "tail_ms": 34.0, "down_ms": 35.0}


def test_over_the_link_the_level_that_does_worst_against_webp_is_quoted(results: dict[str, dict[str, Any]]) -> None:
    (unit,) = units("link", "link", f"{PIXELS}-40ms")
    times = {"split": (80.0, 90.0, 70.0), "webp": (100.0, 100.0, 100.0), "split, device to cloud": (95.0, 110.0, 85.0)}
    steps = {way: STEPS for way in times} | {"split": {"up_ms": 30.0, "down_ms": 36.0, "tail_ms": 4.0}}
    results[unit.key] = {
        "points": [
            {**STEPS, **steps[way], "way": way, "latency_ms": ms, "level": level}
            for way, row in times.items()
            for level, ms in enumerate(row)
        ]
    }
    results[unit.key]["points"][1]["up_ms"] = 24.0  # level 1 of the split
    summary = summarise(PLAN, results)
    assert summary["link_latency_split_over_webp"] == pytest.approx(0.9)
    assert summary["link_latency_split_over_webp_pixels_40ms"] == pytest.approx(0.9)
    assert summary["link_latency_device_over_webp_pixels_40ms"] == pytest.approx(1.1)
    for part, over in (("road", 66 / 60), ("work", 10 / 40)):
        assert summary[f"link_{part}_split_over_webp"] == pytest.approx(over, abs=1e-4), "what the link itself gains"
        assert summary[f"link_{part}_split_over_webp_pixels_40ms"] == pytest.approx(over, abs=1e-4)


def with_digests(results: dict[str, dict[str, Any]], split: str | None, derived: str | None) -> dict[str, Any]:
    """The summary with a split and all that derives from it, each with the digest of its codec; None: without one."""
    for kind in ("timing", "link", "leakage", "robust"):
        for unit in units(kind, kind):
            if unit.variant.startswith(PIXELS):
                ways = [{**STEPS, "way": way, "latency_ms": 1.0, "level": 0} for way in ("split", "webp")]
                results[unit.key] = {"points": ways, **({} if derived is None else {"codec_digest": derived})}
    if split is not None:
        results[units("split", "product", PIXELS)[0].key]["codec_digest"] = split
    return summarise(PLAN, results)


@pytest.mark.parametrize(("split", "derived"), [("a", "b"), ("a", None), (None, "b"), (None, None)])
def test_what_derives_from_a_split_says_where_its_codec_is_another(
    results: dict[str, dict[str, Any]], split: str | None, derived: str | None
) -> None:
    summary = with_digests(results, split, derived)
    told = {key for key, value in summary.items() if value == ANOTHER_CODEC}
    derived_keys = {"timing_pixels", "link_pixels_40ms", "link_pixels_80ms", "leakage_pixels", "robust_pixels"}
    assert told == {f"{key}_codec" for key in (*derived_keys, "link_latency_split_over_webp")}


def test_what_derives_from_a_split_with_its_codec_says_nothing(results: dict[str, dict[str, Any]]) -> None:
    summary = with_digests(results, "a", "a")
    assert summary["link_latency_split_over_webp"] == 1.0
    assert ANOTHER_CODEC not in summary.values()


def test_the_document_has_a_flat_row_for_every_point(results: dict[str, dict[str, Any]]) -> None:
    done = {key: {"result": result, "seconds": 1.0, "commit": "abc"} for key, result in results.items()}
    document = SplitTable().document(PLAN, done, TableRequest(data=None, work=Path()))
    assert len(document["rows"]) == sum(len(result["points"]) for result in results.values())
    assert all(not isinstance(value, list | dict) for row in document["rows"] for value in row.values())
    assert len(document["config"]["missing"]) == len(PLAN) - len(results)
    unit = units("split", "product", PIXELS)[0]
    first, _ = flat_rows(unit, done[unit.key])
    assert (first["method"], first["variant"], first["bytes"], first["seed"]) == ("product", PIXELS, 50, 0)
    assert "cpu_seconds" not in first, "of an old unit"
    assert first["steps"] == 19 * 781 + 781, "as the code of its time had it"
    (told, *_) = flat_rows(unit, {**done[unit.key], "result": {**results[unit.key], "steps": 7}})
    assert told["steps"] == 7
    (webp,) = units("codec", "webp")
    assert all("steps" not in row for row in flat_rows(webp, done[webp.key]))
    (timed, *_) = flat_rows(unit, done[unit.key] | {"cpu_seconds": 0.5})
    assert (timed["seconds"], timed["cpu_seconds"]) == (1.0, 0.5)


def test_a_list_says_what_is_there_and_needs_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (unit,) = units("split", "product", PIXELS)
    made = {"result": points((50, 90.0)), "seconds": 77.0, "cpu_seconds": 70.0, "commit": "abc"}
    UnitStore(tmp_path / "rows").save(unit, SplitTable().fingerprint_of(unit), made)
    asked = TableRequest(data=None, work=tmp_path, only=("split/product/pixels",), list_only=True, jobs=1)
    SplitTable().run(asked)
    *lines, last = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("done          77 s  split product/pixels")
    assert [entry["done"] for entry in json.loads(last)["units"]] == [True, False, False]
    assert json.loads(last)["summary"]["left_seconds_one_core"] == pytest.approx(2 * 77)
