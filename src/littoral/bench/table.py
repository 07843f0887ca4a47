"""A table that is made unit by unit: what is missing is made, or listed, and the document is of all that is there."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic

from rich.console import Console

from littoral.bench.document import versions_of, write_document
from littoral.bench.inputs import inputs_digest
from littoral.bench.progress import ProgressView
from littoral.bench.rows import Event, RunOptions, TableRequest, chosen_by_name, make_units, split_done
from littoral.bench.store import UnitStore, UnitT
from littoral.bench.unit import TIMED

Done = Mapping[str, Mapping[str, Any]]
"""What units gave, with what they took, by `BenchUnit.key`."""
Failed = list[dict[str, str]]
"""Units that could not be made: ``unit`` is the name, ``text`` what went wrong."""
_WIDTH = 140


class UnitTable(ABC, Generic[UnitT]):
    """What `littoral bench` needs to know of a table.

    Attributes:
        keys: What the summary holds in any case, null where a reason stands beside it.
        make: Who makes a unit in a worker process, ``module:function`` of the form of `littoral.bench.rows.MakeUnit`.
    """

    keys: ClassVar[tuple[str, ...]]
    make: ClassVar[str]

    @abstractmethod
    def plan(self, asked: TableRequest) -> Sequence[UnitT]:
        """All units of the table, in the order in which they are worth having."""

    @abstractmethod
    def fingerprint_of(self, unit: UnitT) -> str:
        """Of the source files that the unit's numbers come from."""

    @abstractmethod
    def inputs_of(self, unit: UnitT) -> Sequence[str]:
        """The files below the data folder that the unit's numbers come from."""

    @abstractmethod
    def check_data(self, asked: TableRequest) -> Path:
        """The data folder.

        Raises:
            LittoralError: it lacks what the table needs.
        """

    @abstractmethod
    def document(self, planned: Sequence[UnitT], done: Done, asked: TableRequest) -> dict[str, Any]:
        """The document of all planned units that are done, in the order of the plan."""

    @abstractmethod
    def show(self, document: Mapping[str, Any], console: Console) -> None:
        """Print the rows as a table."""

    @abstractmethod
    def guess_seconds(self, unit: UnitT) -> float:
        """What a unit may take of one core, before any of its sort was made."""

    def batches(self, units: Sequence[UnitT], jobs: int) -> Iterable[tuple[Sequence[UnitT], int]]:
        """What is made together, and how many at a time."""
        for stage in sorted({unit.stage for unit in units}):
            yield [unit for unit in units if unit.stage == stage], 1 if stage == TIMED else jobs

    def run(self, asked: TableRequest) -> dict[str, Any]:
        """Make the missing units, or list them; print the table and, as the last line, the document.

        Of a unit that fails the others are made all the same; ``config.failed`` of the document names it.

        Raises:
            LittoralError: the data are not there.
            ValueError: a name in ``asked.only`` that fits no unit.
        """
        planned = self.plan(asked)
        units = chosen_by_name(planned, asked.only)
        store = UnitStore[UnitT](rows_of(asked))
        store.tidy()
        inputs_of = partial(self._inputs, asked.data)
        done, left = split_done(units, store, self.fingerprint_of, inputs_of=inputs_of, any_code=asked.any_code)
        if asked.list_only:
            return self._list(units, done, store, asked)
        failed = self._make(left, asked, store, len(done)) if left else []
        all_done, _ = split_done(planned, store, self.fingerprint_of, inputs_of=inputs_of, any_code=asked.any_code)
        document = self.document(planned, all_done, asked)
        document["versions"] = versions_of(all_done.values())
        document["config"]["failed"] = failed
        if asked.out is not None:
            write_document(document, asked.out)
        if not asked.quiet:
            self._print(document)
        print(json.dumps(document))
        return document

    def _inputs(self, data: Path | None, unit: UnitT) -> str | None:
        return inputs_digest(data, self.inputs_of(unit))

    def _make(self, left: Sequence[UnitT], asked: TableRequest, store: UnitStore[UnitT], num_done: int) -> Failed:
        data, jobs, begun = self.check_data(asked), _jobs(asked), time.monotonic()
        failed: Failed = []

        def tell(event: Event) -> None:
            view.tell(event)
            if event.kind == "failed":  # the first line, without folders: what else there is, is of one machine
                text = event.text.strip().partition("\n")[0]
                for folder in (data, asked.work):
                    text = text.replace(f"{folder}{os.sep}", "")
                failed.append({"unit": event.row.name, "text": text})

        with ProgressView(len(left), quiet=asked.quiet) as view:
            view.say(f"{num_done} units are there, {len(left)} to make, {jobs} at a time")
            for units, number in self.batches(left, jobs):
                budget = asked.budget_minutes
                if budget is not None:
                    budget = max(0.0, budget - (time.monotonic() - begun) / 60)
                options = RunOptions(data=data, work=asked.work, jobs=number, budget_minutes=budget, make=self.make)
                inputs_of = partial(self._inputs, data)
                make_units(
                    units, options, store=store, fingerprint_of=self.fingerprint_of, inputs_of=inputs_of, tell=tell
                )
        return failed

    def _list(self, units: Sequence[UnitT], done: Done, store: UnitStore[UnitT], asked: TableRequest) -> dict[str, Any]:
        """What is there, what is not, and how long it took or takes."""
        seconds_of, listed = estimates(units, store, self.guess_seconds), list[dict[str, Any]]()
        for unit in units:
            there, seconds = unit.key in done, seconds_of(unit)
            listed.append({"unit": unit.name, "stage": unit.stage, "done": there, "seconds": round(seconds, 1)})
            if not asked.quiet:
                print(f"{'done   ' if there else 'missing'} {seconds:8.0f} s  {unit.name}")
        left, jobs = sum(entry["seconds"] for entry in listed if not entry["done"]), _jobs(asked)
        summary = {
            "units_done": len(done),
            "units_planned": len(units),
            "left_seconds_one_core": round(left, 1),
            "jobs": jobs,
        }
        if not asked.quiet:
            hours = left / jobs / 3600
            print(f"{len(done)} of {len(units)} units are done; about {hours:.1f} h are left with {jobs} at a time")
        print(json.dumps({"units": listed, "summary": summary}))
        return {"units": listed, "summary": summary}

    def _print(self, document: Mapping[str, Any]) -> None:
        """The table and the summary."""
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH)
        self.show(document, console)
        summary = document["summary"]
        for name in self.keys:
            why = summary.get(f"{name}_reason") if summary[name] is None else None
            console.print(f"{name}: {summary[name]}{f' ({why})' if why else ''}", highlight=False, soft_wrap=True)
        console.print(f"{summary['units_done']} of {summary['units_planned']} units", highlight=False)


def rows_of(asked: TableRequest) -> Path:
    """Where finished units are kept."""
    return asked.rows or asked.work / "rows"


def estimates(
    units: Sequence[UnitT], store: UnitStore[UnitT], guess: Callable[[UnitT], float]
) -> Callable[[UnitT], float]:
    """How many seconds a unit took when it was last made, by whatever code; else by its frames, from others of its
    sort; else as guessed."""
    took = {unit.key: float(made["seconds"]) for unit in units if (made := store.read(unit)) is not None}
    seconds, frames = dict[str, float](), dict[str, int]()
    for unit in units:
        if unit.key in took:
            seconds[unit.sort] = seconds.get(unit.sort, 0.0) + took[unit.key]
            frames[unit.sort] = frames.get(unit.sort, 0) + unit.num_frames

    def estimate(unit: UnitT) -> float:
        if unit.key in took:
            return took[unit.key]
        if frames.get(unit.sort):
            return unit.num_frames * seconds[unit.sort] / frames[unit.sort]
        return guess(unit)

    return estimate


def _jobs(asked: TableRequest) -> int:
    return asked.jobs or len(os.sched_getaffinity(0))
