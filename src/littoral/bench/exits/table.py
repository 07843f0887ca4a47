"""`littoral bench exits`: make the units that are missing, and the document of all that are there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from littoral.bench.document import make_document, write_document
from littoral.bench.exits.averaged import averaged, by_user
from littoral.bench.exits.make import modules_of, modules_without
from littoral.bench.exits.material import check_data
from littoral.bench.exits.plan import full_plan, quick_plan
from littoral.bench.exits.summary import KEYS, WORDS, summarise
from littoral.bench.exits.unit import LAST_STAGE, ExitUnit
from littoral.bench.fingerprint import fingerprint
from littoral.bench.progress import ProgressView
from littoral.bench.rows import RunOptions, TableRequest, chosen_by_name, make_units, of_other_code, split_done
from littoral.bench.store import UnitStore

TABLE = "exits"
MAKE = "littoral.bench.exits.make:make_unit"
_WIDTH = 140
SECONDS_PER_USER = {
    "users": 45.0, "fits": 60.0, "strangers": 15.0, "cost": 10.0, "risk": 30.0, "drift": 100.0, "trained": 400.0,
    "latency": 12.0, "segmentation": 1_500.0, "omniglot": 400.0,
}  # fmt: skip
"""Of one core, before anything was measured."""


class ExitStore(UnitStore[ExitUnit]):
    """Units under names that people can read."""

    def path(self, unit: ExitUnit) -> Path:
        name = f"{unit.kind}-{unit.network}-{unit.stems}-{unit.users}-{unit.seed}-{unit.first}-{unit.key}.json"
        return self.folder / name


def fingerprint_of(unit: ExitUnit) -> str:
    """Of the source files that the unit's numbers come from."""
    return fingerprint(modules_of(unit), without=modules_without(unit))


def bench_exits(asked: TableRequest) -> dict[str, Any]:
    """Make the missing units, or list them; print the table and the document.

    Raises:
        LittoralError: the data are not there.
    """
    planned = quick_plan() if asked.quick else full_plan()
    units = chosen_by_name(planned, asked.only)
    store = ExitStore(asked.rows or asked.work / "rows")
    store.tidy()
    done, left = split_done(units, store, fingerprint_of, any_code=asked.any_code)
    if asked.list_only:
        return _list(units, done, store, asked)
    if left:
        _make(left, asked, store, len(done))
    all_done, _ = split_done(planned, store, fingerprint_of, any_code=asked.any_code)
    document = document_of(planned, all_done, quick=asked.quick)
    if asked.out is not None:
        write_document(document, asked.out)
    if not asked.quiet:
        print_table(document)
    print(json.dumps(document))
    return document


def _make(left: Sequence[ExitUnit], asked: TableRequest, store: ExitStore, num_done: int) -> None:
    """What measures time last, one at a time."""
    data = asked.data or Path() if asked.quick else check_data(asked.data)
    jobs = asked.jobs or len(os.sched_getaffinity(0))
    begun = time.monotonic()
    with ProgressView(len(left), quiet=asked.quiet) as view:
        view.say(f"{num_done} units are there, {len(left)} to make, {jobs} at a time")
        for stage in range(LAST_STAGE + 1):
            budget = asked.budget_minutes
            if budget is not None:
                budget = max(0.0, budget - (time.monotonic() - begun) / 60)
            options = RunOptions(
                data=data, work=asked.work, jobs=1 if stage == LAST_STAGE else jobs, budget_minutes=budget, make=MAKE
            )
            of_stage = [unit for unit in left if unit.stage == stage]
            make_units(of_stage, options, store=store, fingerprint_of=fingerprint_of, tell=view.tell)


def document_of(planned: Sequence[ExitUnit], done: Mapping[str, Mapping[str, Any]], *, quick: bool) -> dict[str, Any]:
    """The document of all planned units that are done, in the order of the plan."""
    there = [unit for unit in planned if unit.key in done]
    exits = {
        f"{unit.network}, {unit.stems}": {
            key: done[unit.key]["result"][key] for key in ("heads", "exit_shares", "exit_macs")
        }
        for unit in there
        if "exit_shares" in done[unit.key]["result"]
    }
    flat = [row for unit in there for row in flat_rows(unit, done[unit.key])]
    return make_document(
        table=TABLE,
        config={
            "quick": quick,
            "missing": [unit.name for unit in planned if unit.key not in done],
            "of_other_code": of_other_code(planned, done, fingerprint_of),
            "networks": sorted({unit.network for unit in there}),
            "exits": exits,
            "words": dict(WORDS),
        },
        seeds=sorted({unit.seed for unit in there}),
        rows=[*averaged(flat), *by_user(flat)],
        summary=summarise(planned, {key: document["result"] for key, document in done.items()}),
    )


def flat_rows(unit: ExitUnit, document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """A row per point of a unit."""
    shared = {
        "kind": unit.kind,
        "network": unit.network,
        "stems": unit.stems,
        "users": unit.users,
        "seed": unit.seed,
        "commit": document["commit"][:12],
        **({"stream": unit.stream} if unit.kind == "drift" else {}),
    }
    for point in document["result"]["points"]:
        yield {**shared, **{name: value for name, value in point.items() if not isinstance(value, (list, dict))}}


def _list(units: Sequence[ExitUnit], done: Mapping[str, Any], store: ExitStore, asked: TableRequest) -> dict[str, Any]:
    """What is there, what is not, and how long it took or takes."""
    listed: list[dict[str, Any]] = []
    for unit in units:
        made = store.read(unit)
        seconds = SECONDS_PER_USER[unit.kind] * unit.count if made is None else float(made["seconds"])
        listed.append({"unit": unit.name, "done": unit.key in done, "seconds": round(seconds, 1)})
        if not asked.quiet:
            print(f"{'done   ' if unit.key in done else 'missing'} {seconds:8.0f} s  {unit.name}")
    left = sum(float(entry["seconds"]) for entry in listed if not entry["done"])
    summary = {"units_done": len(done), "units_planned": len(units), "left_seconds_one_core": round(left, 1)}
    if not asked.quiet:
        print(f"{len(done)} of {len(units)} units are done; about {left / 60:.0f} minutes of one core are left")
    print(json.dumps({"units": listed, "summary": summary}))
    return {"units": listed, "summary": summary}


def print_table(document: Mapping[str, Any]) -> None:
    """Means over users by method, and the summary."""
    table = Table(
        title="means over users; right answers in percent, work as a share of the network's", title_justify="left"
    )
    columns = ("network", "stems", "users", "method", "labels", "frames", "n", "shipped", "full", "at half",
               "equal: work", "certified: work", "right")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in ("network", "stems", "users", "method") else "right")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in document["rows"]:
        if row["kind"] == "users":
            key = tuple(row[name] for name in ("network", "stems", "users", "method", "labels", "frames"))
            groups.setdefault(key, []).append(row)
    for key, rows in groups.items():
        served = "cert_x" if key[4] else "cert_d05"
        numbers = ("shipped_right", "full_right", "right_50", "eq_compute", f"{served}_compute", f"{served}_right")
        num_users = sum(row["num_users"] for row in rows)
        table.add_row(*(str(part) for part in key), str(num_users), *(_mean(rows, name) for name in numbers))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table)
    summary = document["summary"]
    for name in KEYS:
        reason = f" ({summary[f'{name}_reason']})" if summary.get(f"{name}_reason") and summary[name] is None else ""
        console.print(f"{name}: {summary[name]}{reason}", highlight=False, soft_wrap=True)
    console.print(f"{summary['units_done']} of {summary['units_planned']} units", highlight=False)


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    there = [row for row in rows if key in row]
    if not there:
        return ""
    value = fmean([row[key] for row in there], weights=[row["num_users"] for row in there])
    return f"{value:.3g}" if key.endswith("compute") else f"{value:.1f}"
