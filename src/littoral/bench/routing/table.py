"""`littoral bench loop`: play the units that are missing, and the document of all that are there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from littoral.bench.document import make_document, write_document
from littoral.bench.fingerprint import fingerprint
from littoral.bench.progress import ProgressView
from littoral.bench.routing.averages import averaged, told
from littoral.bench.routing.contenders import FAMILIES
from littoral.bench.routing.plan import DEVICE_MS, full_plan, quick_plan
from littoral.bench.routing.summary import KEYS, WORDS, summarise
from littoral.bench.routing.traces import KINDS, read_trace
from littoral.bench.routing.unit import LoopUnit
from littoral.bench.rows import RunOptions, TableRequest, chosen_by_name, make_units, of_other_code, split_done
from littoral.bench.split.material import check_data
from littoral.bench.store import UnitStore

TABLE = "loop"
MAKE = "littoral.bench.routing.make:make_unit"
OTHERS = ("drift", "labels")
"""Kinds of rows that are made elsewhere, of a device and a cloud in one process: files ``<kind>-*.json``."""
_MODULES = ("littoral.bench.routing.make",)
_WITHOUT = ("littoral.errors", "littoral.bench.document")
_SECONDS_PER_FRAME = 0.00025
_WIDTH = 140


@dataclass(frozen=True, kw_only=True)
class LoopRequest(TableRequest):
    """What the command was asked for."""

    device_ms: float = DEVICE_MS
    epochs: int | None = None
    traces: tuple[Path, ...] = ()


class LoopStore(UnitStore[LoopUnit]):
    """Units under names that people can read."""

    def path(self, unit: LoopUnit) -> Path:
        name = f"{unit.kind}-{unit.trace}-{unit.stream}-{unit.seed}-{unit.device_ms:g}-{unit.key}.json"
        return self.folder / name


def fingerprint_of(unit: LoopUnit) -> str:
    """Of the source files that the unit's numbers come from."""
    return fingerprint(_MODULES, without=_WITHOUT)


def bench_loop(asked: LoopRequest) -> dict[str, Any]:
    """Play the missing units, or list them; print the table and the document.

    Raises:
        LittoralError: the data are not there.
        ValueError: a trace file that is none, or two of one name.
    """
    traces = _kept_traces(asked.traces, asked.work)
    planned = (
        quick_plan(device_ms=asked.device_ms, traces=traces)
        if asked.quick
        else full_plan(device_ms=asked.device_ms, epochs=asked.epochs, traces=traces)
    )
    units = chosen_by_name(planned, asked.only)
    store = LoopStore(asked.rows or asked.work / "rows")
    store.tidy()
    done, left = split_done(units, store, fingerprint_of, any_code=asked.any_code)
    if asked.list_only:
        return _list(units, done, store, asked)
    if left:
        _make(left, asked, store, len(done))
    all_done, _ = split_done(planned, store, fingerprint_of, any_code=asked.any_code)
    document = document_of(planned, all_done, quick=asked.quick, others=list(rows_of_others(store.folder)))
    if asked.out is not None:
        write_document(document, asked.out)
    if not asked.quiet:
        print_table(document)
    print(json.dumps(document))
    return document


def _kept_traces(files: Sequence[Path], work: Path) -> dict[str, str]:
    """Users' traces, checked and copied to where workers find them, by name."""
    kept: dict[str, str] = {}
    for file in files:
        read_trace(file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        if file.stem in kept or file.stem in KINDS:
            raise ValueError(f"there is another trace that is called {file.stem!r}; give {file} another name")
        kept[file.stem] = digest
        folder = work / "loop" / "traces"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / f"{digest}.csv")
    return kept


def _make(left: Sequence[LoopUnit], asked: LoopRequest, store: LoopStore, num_done: int) -> None:
    """The first unit alone: what it trains and times, the others only read."""
    data = check_data(asked.data)
    jobs = asked.jobs or len(os.sched_getaffinity(0))
    begun = time.monotonic()
    with ProgressView(len(left), quiet=asked.quiet) as view:
        view.say(f"{num_done} units are there, {len(left)} to play, {jobs} at a time; the first one makes the tables")
        for some, number in ((left[:1], 1), (left[1:], jobs)):
            budget = asked.budget_minutes
            if budget is not None:
                budget = max(0.0, budget - (time.monotonic() - begun) / 60)
            options = RunOptions(data=data, work=asked.work, jobs=number, budget_minutes=budget, make=MAKE)
            make_units(some, options, store=store, fingerprint_of=fingerprint_of, tell=view.tell)


def rows_of_others(folder: Path) -> Iterator[dict[str, Any]]:
    """Finished units of the kinds that are made elsewhere: their results, with the kind and the commit."""
    for kind in OTHERS:
        for file in sorted(folder.glob(f"{kind}-*.json")):
            try:
                document = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(document, dict) and isinstance(document.get("result"), dict):
                yield {**document["result"], "kind": kind, "commit": str(document.get("commit", "unknown"))[:12]}


def document_of(
    planned: Sequence[LoopUnit],
    done: Mapping[str, Mapping[str, Any]],
    *,
    quick: bool,
    others: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The document of all planned units that are done, in the order of the plan."""
    there = [unit for unit in planned if unit.key in done]
    rows = averaged(row for unit in there for row in flat_rows(unit, done[unit.key]))
    summary = summarise(rows, risk_rows=others)
    first = done[there[0].key]["result"] if there else {}
    return make_document(
        table=TABLE,
        config={
            "quick": quick,
            "missing": [unit.name for unit in planned if unit.key not in done],
            "of_other_code": of_other_code(planned, done, fingerprint_of),
            "stream": {"period_ms": there[0].period_ms, "in_flight": there[0].in_flight,
                       "deadline_ms": there[0].deadline_ms, "device_ms": there[0].device_ms,
                       **there[0].options} if there else {},
            "exits": first.get("exits", []),
            "ways": first.get("ways", []),
            "shares_right": first.get("shares_right", {}),
            "times": first.get("times", {}),
            "chosen": {unit.name: done[unit.key]["result"]["chosen"] for unit in there if unit.kind == "policies"},
            "words": dict(WORDS),
        },
        seeds=sorted({unit.seed for unit in there}),
        rows=[*told(rows), *(_flat(row) for row in others)],
        summary={**summary, "units_done": len(there), "units_planned": len(planned)},
    )  # fmt: skip


def flat_rows(unit: LoopUnit, document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row per policy and phase of a unit."""
    shared = {
        "kind": unit.kind,
        "trace": unit.trace,
        "stream": unit.stream,
        "seed": unit.seed,
        "device_ms": unit.device_ms,
        "commit": document["commit"][:12],
    }
    for point in document["result"]["points"]:
        yield {**shared, **point}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not isinstance(value, (list, dict))}


def _list(units: Sequence[LoopUnit], done: Mapping[str, Any], store: LoopStore, asked: LoopRequest) -> dict[str, Any]:
    """What is there, what is not, and how long it took or takes."""
    listed: list[dict[str, Any]] = []
    for unit in units:
        made = store.read(unit)
        seconds = _SECONDS_PER_FRAME * unit.num_frames if made is None else float(made["seconds"])
        listed.append({"unit": unit.name, "done": unit.key in done, "seconds": round(seconds, 1)})
        if not asked.quiet:
            print(f"{'done   ' if unit.key in done else 'missing'} {seconds:8.0f} s  {unit.name}")
    left = sum(float(entry["seconds"]) for entry in listed if not entry["done"])
    summary = {"units_done": len(done), "units_planned": len(units), "left_seconds_one_core": round(left, 1)}
    if not asked.quiet:
        words = "minutes of one core are left, and what the tables take where they are not there"
        print(f"{len(done)} of {len(units)} units are done; about {left / 60:.0f} {words}")
    print(json.dumps({"units": listed, "summary": summary}))
    return {"units": listed, "summary": summary}


def print_table(document: Mapping[str, Any]) -> None:
    """Every policy on every trace, and the summary."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    columns = (
        "policy",
        "right %",
        "in time %",
        "mean ms",
        "p95",
        "p99",
        "bytes",
        "device ms",
        "exit",
        "finish",
        "cloud",
    )
    whole = [row for row in document["rows"] if row.get("phase") == "all"]
    for kind, trace, stream, device_ms in dict.fromkeys(
        (row["kind"], row["trace"], row["stream"], row["device_ms"]) for row in whole
    ):
        table = Table(title=f"{kind}: {trace}, {stream}, device {device_ms:g} ms", title_justify="left")
        for column in columns:
            table.add_column(column, justify="left" if column == "policy" else "right")
        here = [
            row
            for row in whole
            if (row["kind"], row["trace"], row["stream"], row["device_ms"]) == (kind, trace, stream, device_ms)
        ]
        for row in sorted(here, key=lambda row: FAMILIES.index(row["family"])):
            shares = (f"{row[name]:.0%}" for name in ("exit_rate", "finish_rate", "cloud_rate"))
            table.add_row(
                row["policy"],
                f"{row['accuracy']:.2f}",
                f"{100 * row['deadline_hits']:.2f}",
                *(f"{row[name]:.1f}" for name in ("latency_ms", "latency_ms_p95", "latency_ms_p99")),
                f"{row['bytes_per_frame']:.0f}",
                f"{row['device_ms_per_frame']:.1f}",
                *shares,
            )
        console.print(table)
    summary = document["summary"]
    for name in (*KEYS, *(key for key in summary if key not in KEYS and not key.endswith("_reason"))):
        reason = f" ({summary[f'{name}_reason']})" if summary.get(f"{name}_reason") and summary[name] is None else ""
        console.print(f"{name}: {summary[name]}{reason}", highlight=False, soft_wrap=True)
