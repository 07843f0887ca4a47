"""What all tables have that are made unit by unit, on one of two units without data, networks or processes."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from littoral.bench import inputs
from littoral.bench import table as tables
from littoral.bench.document import make_document, versions_of
from littoral.bench.inputs import inputs_digest
from littoral.bench.rows import Event, RunOptions, TableRequest, Tell
from littoral.bench.store import UnitStore
from littoral.bench.table import Done, UnitTable
from littoral.bench.unit import BenchUnit
from littoral.cli import bench as command
from littoral.cli.main import main


@dataclass(frozen=True, kw_only=True)
class ToyUnit(BenchUnit):
    """One that is made, or fails."""

    word: str
    fails: bool = False

    @property
    def name(self) -> str:
        return self.word

    @property
    def short(self) -> str:
        return self.word

    @property
    def slug(self) -> str:
        return self.word

    @property
    def num_frames(self) -> int:
        return 1


class ToyTable(UnitTable[ToyUnit]):
    """The unit ``good`` and the unit ``bad``."""

    keys = ()
    make = "nowhere:nothing"

    def plan(self, asked: TableRequest) -> Sequence[ToyUnit]:
        return [ToyUnit(word="good"), ToyUnit(word="bad", fails=True)]

    def fingerprint_of(self, unit: ToyUnit) -> str:
        return "code"

    def inputs_of(self, unit: ToyUnit) -> Sequence[str]:
        return ("weights",)

    def check_data(self, asked: TableRequest) -> Path:
        return asked.data or Path()

    def document(self, planned: Sequence[ToyUnit], done: Done, asked: TableRequest) -> dict[str, Any]:
        summary = {"units_done": len(done), "units_planned": len(planned)}
        rows = [{"unit": unit.name} for unit in planned if unit.key in done]
        return make_document(table="toy", config={}, seeds=[], rows=rows, summary=summary)

    def show(self, document: Mapping[str, Any], console: Console) -> None:
        """Nothing."""

    def guess_seconds(self, unit: ToyUnit) -> float:
        return 1.0


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyTable:
    """The table, its units made here; what ``littoral bench adapt`` makes."""

    def make_units(
        units: Sequence[ToyUnit],
        options: RunOptions,
        *,
        store: UnitStore[ToyUnit],
        inputs_of: Callable[[ToyUnit], str | None],
        tell: Tell,
        **_: Any,
    ) -> None:
        for unit in units:
            if unit.fails:
                where = f"{options.data / 'weights'} and {options.work / 'bundle'}"
                text = f'ValueError: {where} are empty\nTraceback (most recent call last):\n  File "/a/b.py"'
                tell(Event(kind="failed", row=unit, worker=0, text=text))
            else:
                stamp = {"versions": {"numpy": "1"}, "inputs": inputs_of(unit)}
                made = store.save(unit, "code", {"seconds": 1.0, "result": {}, **stamp})
                tell(Event(kind="done", row=unit, worker=0, document=made))

    def toy_table(args: argparse.Namespace) -> ToyTable:
        return table

    table = ToyTable()
    monkeypatch.setattr(tables, "make_units", make_units)
    monkeypatch.setattr(command, "_table", toy_table)
    return table


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("quiet", [["--json"], []], ids=["json", "plain"])
def test_a_unit_that_fails_is_told_of_named_and_seen_in_the_exit_status(
    quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    assert main(["bench", "adapt", "--data", str(data), "--work", str(work), *quiet]) == 1
    out, err = capsys.readouterr()
    assert f"FAILED bad: ValueError: {data / 'weights'} and {work / 'bundle'} are empty" in err
    assert "/a/b.py" in err
    document = json.loads(out.splitlines()[-1])
    assert document["config"]["failed"] == [{"unit": "bad", "text": "ValueError: weights and bundle are empty"}]
    assert document["rows"] == [{"unit": "good"}], "the others are made"


@pytest.mark.usefixtures("toy")
def test_a_run_in_which_nothing_fails_ends_with_0_and_says_nothing_where_only_json_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "adapt", "--work", str(tmp_path), "--only", "good", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["config"]["failed"] == []


def test_a_unit_is_made_again_when_its_weights_have_changed_and_not_for_a_list_without_data(
    toy: ToyTable, tmp_path: Path
) -> None:
    def missing(data: Path | None) -> int:
        asked = TableRequest(data=data, work=tmp_path, only=("good",), list_only=True, quiet=True, jobs=1)
        return sum(not unit["done"] for unit in toy.run(asked)["units"])

    weights = tmp_path / "weights"
    weights.write_bytes(b"1")
    asked = TableRequest(data=tmp_path, work=tmp_path, only=("good",), quiet=True)
    assert toy.run(asked)["versions"] == [{"units": 1, "numpy": "1"}]
    assert missing(tmp_path) == 0
    weights.write_bytes(b"22")
    assert missing(tmp_path) == 1
    assert missing(None) == 0
    weights.unlink()
    assert missing(tmp_path) == 0, "of what is not there nothing can be said"


def test_a_document_shows_the_different_versions_of_its_units_and_none_for_older_ones() -> None:
    one, other = {"numpy": "1", "torch": "2"}, {"numpy": "1", "torch": "3"}
    units = [{"versions": one}, {"versions": other}, {}, {"versions": one}]
    assert versions_of(units) == [{"units": 2, **one}, {"units": 1, **other}]
    assert versions_of([{}]) == []


def test_files_are_read_again_when_their_size_or_time_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    plain = inputs.hashlib.file_digest
    monkeypatch.setattr(inputs.hashlib, "file_digest", lambda *args: reads.append(args) or plain(*args))
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    first = inputs_digest(tmp_path, ["a", "b"])
    assert (first, len(reads)) == (inputs_digest(tmp_path, ["b", "a"]), 2)
    assert first != inputs_digest(tmp_path, ["a"]), "a name more"
    (tmp_path / "a").write_bytes(b"2")
    os.utime(tmp_path / "a", ns=(0, 0))
    assert inputs_digest(tmp_path, ["a", "b"]) != first
    assert len(reads) == 3
    assert inputs_digest(tmp_path, []) is None
