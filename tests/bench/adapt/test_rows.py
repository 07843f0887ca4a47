"""A run that is stopped at any moment goes on where it was; what other code made is made again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_rows import make_rows, rows_of

from littoral.bench.adapt.methods import fingerprint_of
from littoral.bench.adapt.row import Row
from littoral.bench.document import versions
from littoral.bench.rows import Event, chosen_by_name, of_other_code, split_done
from littoral.bench.store import UnitStore
from littoral.bench.table import estimates

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def rows_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started here take seconds to import PyTorch, and `row_maker` has no use for it."""
    monkeypatch.syspath_prepend(HERE / "without_torch")


def begun(work: Path) -> list[int]:
    return [int(line) for line in (work / "begun").read_text().split()]


def test_a_killed_run_keeps_its_rows_and_the_next_goes_on_with_the_others(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "run_rows.py"), str(tmp_path), "1", "2", "9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "started 9\n":
                os.kill(process.pid, signal.SIGKILL)
                break
    wanted = rows_of([1, 2, 3])
    done, left = split_done(wanted, UnitStore(tmp_path / "rows"), fingerprint_of)
    assert sorted(document["result"]["accuracy"] for document in done.values()) == [1.0, 2.0]
    assert [row.seed for row in left] == [3]
    made = make_rows(left, tmp_path)
    assert [document["result"]["accuracy"] for document in made.values()] == [3.0]
    assert [seed for seed in begun(tmp_path) if seed != 9] == [1, 2, 3]


def test_a_row_that_fails_is_told_of_and_the_others_are_made(tmp_path: Path) -> None:
    events: list[Event] = []
    made = make_rows(rows_of([8, 1]), tmp_path, events.append)
    (row,) = made.values()
    assert row["result"]["accuracy"] == 1.0
    assert (row["inputs"], row["versions"]) == ("data of 1", versions())
    (failed,) = [event for event in events if event.kind == "failed"]
    assert failed.row.seed == 8
    assert "a row that cannot be made" in failed.text


def test_what_an_earlier_run_spent_on_a_row_counts(tmp_path: Path) -> None:
    whole, gone_on = make_rows(rows_of([1, 7]), tmp_path).values()
    assert whole["seconds"] < 100 < 1000 <= gone_on["seconds"] < 1100
    assert whole["cpu_seconds"] < 100 < 900 <= gone_on["cpu_seconds"] < 1000
    assert "took_before" not in gone_on["result"]


def test_a_budget_that_is_spent_begins_no_row(tmp_path: Path) -> None:
    assert make_rows(rows_of([1]), tmp_path, budget_minutes=0.0) == {}


def test_a_row_made_by_other_code_is_made_again(tmp_path: Path) -> None:
    store, (row,) = UnitStore(tmp_path), rows_of([1])
    store.save(row, "then", {"seconds": 1.0, "cpu_seconds": 1.0, "result": {"accuracy": 1.0, "frames": 1}})
    assert list(split_done([row], store, lambda row: "then")[0]) == [row.key]
    assert split_done([row], store, lambda row: "now") == ({}, [row])


def test_a_row_made_by_other_code_counts_where_that_is_asked_for_and_is_named(tmp_path: Path) -> None:
    store, (one, two) = UnitStore(tmp_path), rows_of([1, 2])
    store.save(one, "then", {"result": {}})
    store.save(two, "now", {"result": {}})
    done, left = split_done([one, two], store, lambda row: "now", any_code=True)
    assert (sorted(done), left) == (sorted([one.key, two.key]), [])
    assert of_other_code([one, two], done, lambda row: "now") == [one.name]


@pytest.mark.parametrize("any_code", [False, True])
def test_a_row_made_of_other_data_is_made_again_whatever_code_counts(any_code: bool, tmp_path: Path) -> None:
    store, rows = UnitStore[Row](tmp_path), rows_of([1, 2, 3])
    for row, inputs in zip(rows, ({"inputs": "these"}, {"inputs": "others"}, {}), strict=True):
        store.save(row, "now", {"result": {}, **inputs})

    def left(inputs: str | None) -> list[int]:
        found = split_done(rows, store, lambda row: "now", inputs_of=lambda row: inputs, any_code=any_code)
        return [row.seed for row in found[1]]

    assert left("these") == [2], "one that says nothing of its data counts"
    assert left(None) == [], "nor can anything be said where there are no data"


def test_a_file_that_is_damaged_counts_as_missing(tmp_path: Path) -> None:
    store, (row,) = UnitStore(tmp_path), rows_of([1])
    store.save(row, "now", {"result": {}})
    path = store.path(row)
    path.write_text(path.read_text()[:-5])
    assert store.load(row, "now") is None
    path.write_text(json.dumps({"key": "another", "fingerprint": "now"}))
    assert store.load(row, "now") is None


def test_what_is_left_is_reckoned_from_what_was_done_of_its_sort_and_else_guessed(tmp_path: Path) -> None:
    fields = {"table": "wide", "stream": "continual", "order": "continual", "teacher": None, "seed": 0}
    made, more = (Row(method="roid", frames=frames, **fields) for frames in (1_000, 2_000))
    other = Row(method="sar", frames=1_000, **fields)
    store = UnitStore[Row](tmp_path)
    store.save(made, "then", {"seconds": 60.0, "result": {}})
    seconds_of = estimates([made, more, other], store, lambda row: 7.0)
    assert [seconds_of(row) for row in (made, more, other)] == [60.0, 120.0, 7.0]


def test_units_are_chosen_by_globs_of_which_the_first_part_and_the_end_may_be_left_out() -> None:
    fields = {"order": "continual", "teacher": None, "seed": 0, "frames": 10}
    rows = [
        Row(table=table, method=method, stream=stream, **fields)
        for table, method, stream in (("wide", "roid", "mixed"), ("wide", "sar", "mixed"), ("headline", "roid", "b1"))
    ]
    assert chosen_by_name(rows, ["roid/*"]) == [rows[0], rows[2]]
    assert chosen_by_name(rows, ["wide"]) == rows[:2]
    assert chosen_by_name(rows, ["wide/roid/*", "sar/mixed"]) == rows[:2]
    assert chosen_by_name(rows, []) == rows
    with pytest.raises(ValueError, match="--only 'sar/b1' fits no unit; there are headline/roid/b1, wide/roid/mixed"):
        chosen_by_name(rows, ["sar/b1"])
