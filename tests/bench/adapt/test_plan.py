"""Which rows there are, and what names them."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from littoral.bench.adapt.make import hostile_of
from littoral.bench.adapt.methods import factory_of, modules_of
from littoral.bench.adapt.plan import (
    ALL_METHODS,
    BATCH64,
    EXTRAS,
    GUARD_STREAMS,
    HEADLINE_METHODS,
    LINKED,
    PARITY,
    PARITY_BATCH,
    PRODUCT,
    STREAMS,
    UNGUARDED,
    WITH_TEACHER,
    full_plan,
    quick_plan,
)
from littoral.bench.adapt.row import CORRUPTIONS, PLAIN, ROBUST
from littoral.bench.rows import chosen_by_name

FULL = full_plan()


def test_the_headline_has_both_teachers_three_seeds_and_two_streams() -> None:
    rows = [row for row in FULL if row.table == "headline"]
    teachers = {method: 2 if method in WITH_TEACHER else 1 for method in HEADLINE_METHODS}
    expected = {method: 2 * 3 * count for method, count in teachers.items()}
    assert Counter(row.method for row in rows) == {**expected, PARITY_BATCH: 2}, "the third form of parity once"
    assert {row.frames for row in rows} == {10_000}
    assert {row.corruptions for row in rows} == {CORRUPTIONS}


def test_the_wide_table_has_every_method_on_every_stream_and_three_seeds_of_ours_and_parity() -> None:
    rows = [row for row in FULL if row.table == "wide" and row.teacher != PLAIN]
    counts = Counter((row.method, row.stream) for row in rows)
    for stream in STREAMS:
        for method in ALL_METHODS:
            if method in LINKED or not stream.needs_link:
                seeds = 3 if method in (PRODUCT, *PARITY) else 1
                assert counts[method, stream.name] >= seeds, (method, stream.name)
    assert {row.frames for row in rows if row.batch > 1 and row.stream != BATCH64.name} == {2_000}
    assert {row.frames for row in rows if row.batch == 1 or row.stream == BATCH64.name} == {400}


def test_the_promise_is_made_of_every_guarded_stream_and_of_both_hostile_fleets() -> None:
    assert set(GUARD_STREAMS) == {
        *("mixed", "correlated", "continual_b1", "continual_delay200", "continual_loss5", "hostile", "hostile_mild")
    }
    assert {stream.name for stream in STREAMS if stream.guarded} - {"continual"} < set(GUARD_STREAMS)


def test_the_product_runs_unguarded_wherever_the_promise_is_made() -> None:
    streams = {row.stream for row in FULL if row.method == UNGUARDED}
    assert streams >= set(GUARD_STREAMS)


def test_the_hostile_device_of_good_weather_has_recorded_that_weather_and_nobody_counts_it() -> None:
    rows = [row for row in FULL if row.stream == "hostile_mild" and row.seed == 0]
    assert {row.method for row in rows} == {PRODUCT, UNGUARDED, "device_statistics", "source"}
    for row in rows:
        assert (row.severity, row.corruptions, row.devices) == (1, EXTRAS, 8)
        assert hostile_of(row) == (7,)
        if row.method in (PRODUCT, UNGUARDED):
            assert (row.options["recorded"], row.options["recorded_severity"]) == (list(EXTRAS), row.severity)
    assert all(not hostile_of(row) for row in FULL if not row.stream.startswith("hostile"))


def test_the_most_telling_row_comes_first_and_none_comes_twice() -> None:
    first = FULL[0]
    assert (first.method, first.stream, first.teacher, first.seed) == (PRODUCT, "continual", ROBUST, 0)
    assert len({row.key for row in FULL}) == len(FULL)


def test_every_planned_method_is_written() -> None:
    assert all(modules_of(row) for row in FULL)  # which knows no others


def test_every_planned_row_is_accepted_by_its_method() -> None:
    rows = [row for row in full_plan() if row.table != "special"]
    assert any(row.method == "source" and row.stream == "hostile" for row in rows)
    for row in rows:
        assert callable(factory_of(row)), row


def test_an_option_that_a_method_does_not_have_is_refused() -> None:
    row = next(row for row in full_plan() if row.method == "source")
    with pytest.raises(ValueError, match=r"source takes no options, got \['rate'\]"):
        factory_of(dataclasses.replace(row, options={"rate": 1}))


def test_a_key_names_what_can_change_a_number() -> None:
    row = FULL[0]
    for changes in ({"seed": 7}, {"loss": 0.5}, {"options": {"guarded": False}}, {"batch": 1}):
        assert dataclasses.replace(row, **changes).key != row.key  # type: ignore[arg-type]
    assert dataclasses.replace(row, table="wide").key == row.key


def test_rows_are_chosen_by_method_and_stream() -> None:
    assert {row.method for row in chosen_by_name(FULL, ["roid/*"])} == {"roid"}
    assert chosen_by_name(FULL, ["*/mixed"]) == [row for row in FULL if row.stream == "mixed"]
    assert chosen_by_name(FULL, []) == FULL
    assert {(row.table, row.method) for row in chosen_by_name(FULL, ["wide/roid/*"])} == {("wide", "roid")}


def test_the_quick_plan_is_small() -> None:
    assert sum(row.num_frames for row in quick_plan()) < 15_000
    assert {row.table for row in quick_plan()} == {"quick"}
