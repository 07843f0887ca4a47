"""What all tables have that are made unit by unit, on one of two units without data, networks or processes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from littoral.bench import table as tables
from littoral.bench.document import make_document
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
        units: Sequence[ToyUnit], options: RunOptions, *, store: UnitStore[ToyUnit], tell: Tell, **_: Any
    ) -> None:
        for unit in units:
            if unit.fails:
                text = 'ValueError: no such weights\nTraceback (most recent call last):\n  File "/a/b.py"'
                tell(Event(kind="failed", row=unit, worker=0, text=text))
            else:
                made = store.save(unit, "code", {"seconds": 1.0, "result": {}})
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
    assert main(["bench", "adapt", "--work", str(tmp_path), *quiet]) == 1
    out, err = capsys.readouterr()
    assert "FAILED bad: ValueError: no such weights" in err
    assert "/a/b.py" in err
    document = json.loads(out.splitlines()[-1])
    assert document["config"]["failed"] == [{"unit": "bad", "text": "ValueError: no such weights"}]
    assert document["rows"] == [{"unit": "good"}], "the others are made"


@pytest.mark.usefixtures("toy")
def test_a_run_in_which_nothing_fails_ends_with_0_and_says_nothing_where_only_json_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "adapt", "--work", str(tmp_path), "--only", "good", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["config"]["failed"] == []
