"""The summary on made-up rows: each figure as the issue defines it, and null where a row is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from littoral.bench.adapt.plan import UNGUARDED, full_plan
from littoral.bench.adapt.recall import recall_fraction
from littoral.bench.adapt.row import PLAIN, Row
from littoral.bench.adapt.summary import KEYS, summarise

PLAN = full_plan()
RIGHT = {
    "product": 70.0, "product_unguarded": 60.0, "parity_shipped": 50.0, "parity_paper": 64.0, "parity_batch": 67.0,
    "roid": 69.0, "device_statistics": 66.0, "teacher_everything": 76.0, "source": 55.0, "push_loss": 0.0,
    "push_size": 0.0,
}  # fmt: skip
BYTES = {"product": 400, "parity_shipped": 500, "parity_paper": 1000, "parity_batch": 800}


def visit(name: str, gains: list[int], before: int) -> list[list[Any]]:
    """Stretches of 100 frames, ten samples each, with so many more right than 50."""
    return [[name, 100, 50 + gain, before + 10 * (i + 1)] for i, gain in enumerate(gains)]


def trace(first: list[int], second: list[int]) -> dict[str, Any]:
    return {"0": visit("fog 1", first, 0) + visit("fog 2", second, 10 * len(first))}


MADE_BY = {row.key: "older" if row.stream == "mixed" else "newest" for row in PLAN}
STILL = trace([0] * 8, [0] * 8)


def result(row: Row, **changes: Any) -> dict[str, Any]:
    fleet = {"fleet_cohort": 3.0, "fleet_shared": 1.0, "hostile": -20.0 if row.method == UNGUARDED else 0.0}
    accuracy = RIGHT.get(row.method, 60.0) + fleet.get(row.stream, 0.0) + 0.1 * row.seed * (row.method == "product")
    learned = trace([0, 2, 4, 6, 8, 10, 10, 10], [4, 9, 10, 10, 10, 10, 10, 10])
    return {
        "accuracy": accuracy,
        "uplink_bytes": BYTES.get(row.method, 0),
        "notes": {"push_frame_bytes_max": 1_900.0},
        "trace": learned if row.method == "product" else STILL,
        "push_bytes_resnet20": 1_800,
        "push_bytes_resnet18": 10_200,
        "push_loss_points": 0.02,
        **changes,
    }


def results(keep: Callable[[Row], bool] = lambda row: True) -> dict[str, dict[str, Any]]:
    return {row.key: result(row) for row in PLAN if keep(row)}


def test_every_figure_is_there_when_every_row_is() -> None:
    made = summarise(PLAN, results(), made_by=MADE_BY)
    assert [key for key in KEYS if made[key] is None] == []
    assert [key for key in made if key.endswith("_reason")] == []
    assert made["units_done"] == made["units_planned"] == len(PLAN)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("product_minus_parity_points", 6.1),
        ("product_minus_parity_points_spread", 0.2),
        ("product_minus_parity_points_seeds", 3),
        ("product_minus_parity_points_without_delay", 6.1),
        ("product_bytes_over_parity", 0.4),
        ("product_bytes_over_parity_without_delay", 0.4),
        ("num_rows", 33),
        ("num_code_states", 2),
        ("product_minus_roid_continual_points", 1.1),
        ("product_minus_device_statistics_points", 4.1),
        ("teacher_gap_closed_fraction", 0.41),
        ("product_minus_parity_per_shift_points", 6.1),
        ("worst_stream_minus_source_points", 15.0),
        ("worst_stream_minus_source_points_unguarded", -15.0),
        ("worst_stream_unguarded", "hostile"),
        ("batch1_minus_batch64_points", 0.0),
        ("push_bytes_resnet20", 1_900),
        ("push_bytes_resnet18", 10_200),
        ("push_loss_points", 0.02),
        ("cohort_minus_isolated_points", 3.0),
        ("cohort_minus_shared_points", 2.0),
        ("cohort_bytes_over_isolated", 1.0),
    ],
)
def test_a_figure_is_what_it_says(key: str, value: float | str) -> None:
    found = summarise(PLAN, results(), made_by=MADE_BY)[key]
    assert found == (pytest.approx(value) if not isinstance(value, str) else value)


@pytest.mark.parametrize("stream", ["correlated", "continual_b1", "mixed", "hostile_mild"])
def test_the_worst_stream_may_be_any_of_which_something_is_promised(stream: str) -> None:
    worst = {r.key: result(r, accuracy=50.0) for r in PLAN if r.stream == stream and r.method == "product"}
    made = summarise(PLAN, {**results(), **worst})
    assert (made["worst_stream"], made["worst_stream_minus_source_points"]) == (stream, pytest.approx(-5.0))


def test_the_better_form_is_looked_for_on_each_stream_and_its_bytes_are_taken() -> None:
    shipped = [r for r in PLAN if r.method == "parity_shipped" and r.stream in ("gradual", "per_shift")]
    made = summarise(PLAN, {**results(), **{r.key: result(r, accuracy=66.0) for r in shipped}})
    assert made["product_minus_parity_points"] == pytest.approx((9 * 6.1 + 2 * 4.1) / 11, abs=1e-3)
    assert made["product_bytes_over_parity"] == pytest.approx(11 * 400 / (9 * 1_000 + 2 * 500), abs=1e-4)
    assert made["product_minus_parity_per_shift_points"] == pytest.approx(4.1)


def test_late_versions_weigh_on_the_mean_and_not_on_the_one_without_them() -> None:
    late = {row.key: row for row in PLAN if row.stream in ("continual_delay50", "continual_delay200")}
    of_ours = {
        key: result(row, accuracy=64.0, uplink_bytes=4_000) for key, row in late.items() if row.method == "product"
    }
    made = summarise(PLAN, {**results(), **of_ours})
    assert made["product_minus_parity_points"] == pytest.approx((9 * 6.1 + 2 * 0) / 11, abs=1e-3)
    assert made["product_minus_parity_points_without_delay"] == pytest.approx(6.1)
    assert made["product_bytes_over_parity"] == pytest.approx(11_600 / 11_000, abs=1e-4)
    assert made["product_bytes_over_parity_without_delay"] == pytest.approx(0.4)


def test_states_of_the_code_are_of_the_rows_that_the_mean_uses_alone() -> None:
    other = {**MADE_BY, **{row.key: row.key for row in PLAN if row.method != "product" or row.table == "headline"}}
    assert summarise(PLAN, results(), made_by=other)["num_code_states"] == 2
    one_seed = summarise(PLAN, results(lambda row: row.seed == 0), made_by=MADE_BY)
    assert (one_seed["num_rows"], one_seed["num_code_states"]) == (11, 2)


def test_the_third_form_counts_where_it_was_run_and_says_on_how_many_streams() -> None:
    made = summarise(PLAN, results())
    asked = ("product_minus_three_forms_points", "product_bytes_over_three_forms", "three_forms_streams")
    assert [made[key] for key in asked] == [pytest.approx(3.0), 0.5, 11]
    assert made["product_minus_parity_points"] > 6, "the issue's two forms are not touched by it"
    two = ("recurring", "mixed")
    made = summarise(PLAN, results(lambda row: row.method != "parity_batch" or row.stream in two))
    assert [made[key] for key in asked] == [pytest.approx(3.0), 0.5, 2]
    one_gone = results(lambda row: row.method != "parity_paper" or row.stream != "mixed")
    assert summarise(PLAN, one_gone)["three_forms_streams"] == 10


def test_forms_are_compared_on_the_seeds_that_all_of_them_have() -> None:
    """A further seed on which one form alone was run, and very well, makes it no better."""
    found = results(lambda row: row.seed == 0)
    for row in PLAN:
        if (row.table, row.method, row.stream, row.seed) == ("wide", "parity_shipped", "mixed", 1):
            found[row.key] = result(row, accuracy=100.0)
    assert summarise(PLAN, found)["product_minus_parity_points"] == pytest.approx(6.0)


def test_nothing_is_guessed_from_no_rows() -> None:
    made = summarise(PLAN, {})
    assert {key: made[key] for key in KEYS} == dict.fromkeys(KEYS)
    assert {key for key, value in made.items() if value is None and not made.get(f"{key}_reason")} == set()
    assert (made["units_done"], made["units_planned"]) == (0, len(PLAN))


@pytest.mark.parametrize(
    ("missing", "nulls"),
    [
        (lambda row: row.method == "parity_paper" and row.stream == "gradual", {"product_minus_parity_points"}),
        (lambda row: row.method == "roid", {"product_minus_roid_continual_points"}),
        (lambda row: row.method == "teacher_everything", {"teacher_gap_closed_fraction"}),
        (lambda row: row.method == "source" and row.stream == "hostile", {"worst_stream_minus_source_points"}),
        (lambda row: row.method == "source" and row.stream == "hostile_mild", {"worst_stream_minus_source_points"}),
        (lambda row: row.stream == "fleet_isolated", {"cohort_minus_isolated_points"}),
        (lambda row: row.method == "push_size", {"push_bytes_resnet20", "push_bytes_resnet18"}),
        (
            lambda row: row.stream == "recurring" and row.method == "product",
            {"recall_sample_fraction", "recall_resolution_fraction"},
        ),
    ],
)
def test_a_missing_row_makes_its_figure_null_and_no_other(missing: Callable[[Row], bool], nulls: set[str]) -> None:
    made = summarise(PLAN, results(lambda row: not missing(row)), made_by=MADE_BY)
    parity = {
        key for key in KEYS if key.startswith(("product_minus_parity_points", "product_bytes_over_parity", "num_"))
    }
    hangs_on = {
        "product_minus_parity_points": parity,
        "worst_stream_minus_source_points": {"worst_stream_minus_source_points_unguarded"},
        "recall_sample_fraction": parity,
    }
    expected = nulls.union(*(hangs_on.get(key, set()) for key in nulls))
    assert {key for key in KEYS if made[key] is None} == expected
    assert {key.removesuffix("_reason") for key in made if key.endswith("_reason")} >= expected


def test_a_key_of_the_plain_teacher_without_a_row_says_so() -> None:
    made = summarise(PLAN, results(lambda row: row.teacher != PLAIN))
    assert made["teacher_gap_closed_fraction_plain_teacher"] is None
    assert "teacher_everything" in made["teacher_gap_closed_fraction_plain_teacher_reason"]
    assert made["teacher_gap_closed_fraction_plain_teacher_reason"].startswith("with the plain teacher")
    assert "teacher_gap_closed_fraction_reason" not in made


def test_the_plain_teacher_has_figures_of_its_own() -> None:
    made = summarise(PLAN, {**results(), **{r.key: result(r, accuracy=80.0) for r in PLAN if r.teacher == PLAIN}})
    assert made["product_minus_parity_points_plain_teacher"] == 0
    assert made["product_minus_parity_points"] == pytest.approx(6.1)


def test_differences_are_taken_on_seeds_in_common() -> None:
    made = summarise(PLAN, results(lambda row: not (row.method == "roid" and row.seed > 0)))
    assert made["product_minus_roid_continual_points"] == pytest.approx(1.0)
    assert made["product_minus_roid_continual_points_seeds"] == 1


def test_the_wide_table_stands_in_for_headline_rows_and_says_so() -> None:
    made = summarise(PLAN, results(lambda row: row.table != "headline" or (row.method != "roid" and row.seed == 0)))
    assert made["product_minus_roid_continual_points_table"] == "wide"
    assert made["product_minus_roid_continual_points"] == pytest.approx(1.0)
    assert made["product_minus_device_statistics_points"] == pytest.approx(4.0)
    others = {key for key in made if key.endswith("_table") and "roid" not in key}
    assert others == set()
    assert "product_minus_device_statistics_points_spread" not in made, "of one seed there is none, whatever wide has"


def fraction(first: list[int], second: list[int]) -> tuple[float, float] | None:
    row = PLAN[0]
    return recall_fraction({0: (row, {"trace": trace(first, second)})}, {0: (row, {"trace": STILL})})


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ([10] * 8, 0.125),
        ([0, 0, *[10] * 6], 0.375),
        ([0] * 8, 1.0),
        ([8, *[10] * 7], 0.25),
        ([9, *[10] * 7], 0.125),
        ([10, *[0] * 5, 10, 10], 0.875),
    ],
    ids=["at once", "after a quarter", "never", "a little less", "nine tenths", "by chance, and then not"],
)
def test_recall_is_the_share_of_the_first_visits_samples_at_the_end_of_the_stretch_that_has_the_gain(
    second: list[int], expected: float
) -> None:
    assert fraction([0, 2, 4, 6, 8, 10, 10, 10], second) == pytest.approx((expected, 0.125))


def test_recall_of_finer_traces_can_be_less_and_among_coarse_ones_they_are_as_coarse() -> None:
    first, second = [0, 2, 4, 6, 8, 10, 10, 10], [10] * 8
    halves = [[name, 50, (right + half) // 2, sent - 5 * (1 - half)]
              for name, _, right, sent in trace(first, second)["0"] for half in (0, 1)]  # fmt: skip
    still = [[name, 50, 25, 0] for name, *_ in halves]
    row, fine, coarse = PLAN[0], {"trace": {"0": halves}}, {"trace": trace(first, second)}
    assert recall_fraction({0: (row, fine)}, {0: (row, {"trace": {"0": still}})}) == pytest.approx((1 / 16, 1 / 16))
    assert recall_fraction({0: (row, fine)}, {0: (row, {"trace": STILL})}) == pytest.approx((1 / 8, 1 / 8))
    both = recall_fraction({0: (row, fine), 1: (row, coarse)}, dict.fromkeys((0, 1), (row, {"trace": STILL})))
    assert both == pytest.approx((1 / 8, 1 / 8))


def test_where_nothing_was_gained_there_is_nothing_to_recall() -> None:
    assert fraction([0] * 8, [5] * 8) is None
