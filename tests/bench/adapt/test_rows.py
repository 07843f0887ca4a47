"""A run that is stopped at any moment goes on where it was; what other code made is made again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from run_rows import rows_of

from littoral.bench.adapt import rows as rows_module
from littoral.bench.adapt.row import Row
from littoral.bench.adapt.rows import Event, RunOptions, make_rows, split_done
from littoral.bench.adapt.store import RowStore, estimate_seconds, us_per_frame
from littoral.bench.rows import of_other_code

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def rows_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started here take seconds to import PyTorch, and `row_maker` has no use for it."""
    monkeypatch.syspath_prepend(HERE / "without_torch")


def options(work: Path, **changes: object) -> RunOptions:
    return RunOptions(**{"data": work, "work": work, "make": "row_maker:make_row", **changes})  # type: ignore[arg-type]


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
    done, left = split_done(wanted, RowStore(tmp_path / "rows"))
    assert sorted(document["result"]["accuracy"] for document in done.values()) == [1.0, 2.0]
    assert [row.seed for row in left] == [3]
    made = make_rows(left, options(tmp_path))
    assert [document["result"]["accuracy"] for document in made.values()] == [3.0]
    assert [seed for seed in begun(tmp_path) if seed != 9] == [1, 2, 3]


def test_a_row_that_fails_is_told_of_and_the_others_are_made(tmp_path: Path) -> None:
    events: list[Event] = []
    made = make_rows(rows_of([8, 1]), options(tmp_path), events.append)
    assert [document["result"]["accuracy"] for document in made.values()] == [1.0]
    (failed,) = [event for event in events if event.kind == "failed"]
    assert failed.row.seed == 8
    assert "a row that cannot be made" in failed.text


def test_a_budget_that_is_spent_begins_no_row(tmp_path: Path) -> None:
    assert make_rows(rows_of([1]), options(tmp_path, budget_minutes=0.0)) == {}


def test_a_row_made_by_other_code_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, (row,) = RowStore(tmp_path), rows_of([1])
    store.save(row, "then", {"seconds": 1.0, "cpu_seconds": 1.0, "result": {"accuracy": 1.0, "frames": 1}})
    monkeypatch.setattr(rows_module, "fingerprint_of", lambda row: "then")
    assert list(split_done([row], store)[0]) == [row.key]
    monkeypatch.setattr(rows_module, "fingerprint_of", lambda row: "now")
    assert split_done([row], store) == ({}, [row])


def test_a_row_made_by_other_code_counts_where_that_is_asked_for_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (one, two) = RowStore(tmp_path), rows_of([1, 2])
    store.save(one, "then", {"result": {}})
    store.save(two, "now", {"result": {}})
    monkeypatch.setattr(rows_module, "fingerprint_of", lambda row: "now")
    done, left = split_done([one, two], store, any_code=True)
    assert (sorted(done), left) == (sorted([one.key, two.key]), [])
    assert of_other_code([one, two], done, rows_module.fingerprint_of) == [one.name]


def test_a_file_that_is_damaged_counts_as_missing(tmp_path: Path) -> None:
    store, (row,) = RowStore(tmp_path), rows_of([1])
    store.save(row, "now", {"result": {}})
    path = store.path(row)
    path.write_text(path.read_text()[:-5])
    assert store.load(row, "now") is None
    path.write_text(json.dumps({"key": "another", "fingerprint": "now"}))
    assert store.load(row, "now") is None


def test_what_is_left_is_reckoned_from_what_was_done() -> None:
    documents = [{"config": {"method": "roid"}, "cpu_seconds": 4.0, "result": {"frames": 1_000}}]
    measured = us_per_frame(documents)
    assert measured == {"roid": 4_000.0}
    fields = {"table": "wide", "stream": "continual", "order": "continual", "teacher": None, "seed": 0}
    row = Row(method="roid", frames=2_000, **fields)
    assert row.num_frames == 30_000
    assert estimate_seconds(row, measured) == pytest.approx(125.0)
