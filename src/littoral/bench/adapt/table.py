"""`littoral bench adapt`: make the rows that are missing, and the document of all that are there."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from littoral.bench.adapt.material import check_data
from littoral.bench.adapt.methods import is_there
from littoral.bench.adapt.plan import chosen, full_plan, quick_plan
from littoral.bench.adapt.row import Row
from littoral.bench.adapt.rows import RunOptions, fingerprint_of, make_rows, split_done
from littoral.bench.adapt.store import RowStore, estimate_seconds, us_per_frame
from littoral.bench.adapt.summary import KEYS, summarise
from littoral.bench.document import make_document, write_document
from littoral.bench.progress import ProgressView
from littoral.bench.rows import TableRequest, of_other_code

TABLE = "adapt"
_WIDTH = 140
_HEAVY = ("by_shift", "trace", "exact_and_coded_accuracy", "notes")
"""What stays in the row's own file."""


def bench_adapt(asked: TableRequest) -> dict[str, Any]:
    """Make the missing rows, or list them; print the table and the document.

    Raises:
        LittoralError: the data are not there.
    """
    planned = quick_plan() if asked.quick else full_plan()
    rows = [row for row in chosen(planned, asked.only) if is_there(row)]
    store = RowStore(asked.rows or asked.work / "rows")
    store.tidy()
    done, left = split_done(rows, store, any_code=asked.any_code)
    if asked.list_only:
        return _list(rows, done, store, asked)
    if left:
        data = check_data(asked.data)
        jobs = asked.jobs or len(os.sched_getaffinity(0))
        with ProgressView(len(left), quiet=asked.quiet) as view:
            view.say(f"{len(done)} rows are there, {len(left)} to make, {jobs} at a time")
            options = RunOptions(
                data=data, work=asked.work, rows=store.folder, jobs=jobs, budget_minutes=asked.budget_minutes
            )
            done.update(make_rows(left, options, view.tell))
    all_done, _ = split_done([row for row in planned if is_there(row)], store, any_code=asked.any_code)
    document = document_of(planned, all_done, quick=asked.quick)
    if asked.out is not None:
        write_document(document, asked.out)
    if not asked.quiet:
        print_table(document)
    print(json.dumps(document))
    return document


def document_of(planned: Sequence[Row], done: Mapping[str, Mapping[str, Any]], *, quick: bool) -> dict[str, Any]:
    """The document of all planned rows that are done, in the order of the plan."""
    there = [row for row in planned if row.key in done]
    return make_document(
        table=TABLE,
        config={
            "quick": quick,
            "missing": missing_of(planned, done),
            "of_other_code": of_other_code(planned, done, fingerprint_of),
            "student": "resnet20",
            "severity": 5,
        },
        seeds=sorted({row.seed for row in there}),
        rows=[flat_row(row, done[row.key]) for row in there],
        summary=summarise(planned, {key: document["result"] for key, document in done.items()}),
    )


def missing_of(planned: Sequence[Row], done: Mapping[str, Any]) -> list[str]:
    """Which rows are not there, ``method/stream: count``."""
    counts: dict[str, int] = {}
    for row in planned:
        if row.key not in done:
            name = f"{row.table} {row.method}/{row.stream}"
            counts[name] = counts.get(name, 0) + 1
    return [f"{name}: {count}" for name, count in counts.items()]


def flat_row(row: Row, document: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the document: flat, with the notes among its columns."""
    result = document["result"]
    config = {key: value for key, value in row.config().items() if key not in ("corruptions", "options", "order")}
    config["frames_per_shift"] = config.pop("frames")
    return {
        "table": row.table,
        **config,
        **{key: value for key, value in result.items() if key not in _HEAVY},
        **{key: round(value, 3) for key, value in result.get("notes", {}).items()},
        "seconds": document["seconds"],
        "cpu_seconds": document["cpu_seconds"],
        "commit": document["commit"],
    }


def _list(rows: Sequence[Row], done: Mapping[str, Any], store: RowStore, asked: TableRequest) -> dict[str, Any]:
    """What is there, what is not, and how long that will take."""
    old = [document for row in rows if (document := store.read(row)) is not None]
    measured, jobs = us_per_frame(old), asked.jobs or len(os.sched_getaffinity(0))
    listed: list[dict[str, Any]] = []
    for row in rows:
        seconds = done[row.key]["seconds"] if row.key in done else round(estimate_seconds(row, measured), 1)
        listed.append({"row": row.name, "table": row.table, "done": row.key in done, "seconds": seconds})
        if not asked.quiet:
            print(f"{'done   ' if row.key in done else 'missing'} {seconds:8.0f} s  {row.table:<9} {row.name}")
    left = sum(float(entry["seconds"]) for entry in listed if not entry["done"])
    summary = {
        "rows_done": len(done),
        "rows_planned": len(rows),
        "left_seconds_one_core": round(left, 1),
        "left_hours": round(left / jobs / 3600, 2),
        "jobs": jobs,
        "us_per_frame": {method: round(us) for method, us in sorted(measured.items())},
    }
    if not asked.quiet:
        hours = summary["left_hours"]
        print(f"{len(done)} of {len(rows)} rows are done; about {hours:.1f} h are left with {jobs} at a time")
    print(json.dumps({"rows": listed, "summary": summary}))
    return {"rows": listed, "summary": summary}


def print_table(document: Mapping[str, Any]) -> None:
    """Means over the seeds, one line per table, stream, teacher and method."""
    table = Table(title="right answers, percent; bytes on the wire", title_justify="left")
    for column in ("table", "stream", "method", "teacher", "seeds", "right", "sent", "up kB", "down kB", "passes"):
        left = column in ("table", "stream", "method", "teacher")
        table.add_column(column, justify="left" if left else "right")
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in document["rows"]:
        if "accuracy" in row:
            key: tuple[str, ...] = (row["table"], row["stream"], row["method"], row["teacher"] or "-")
            groups.setdefault(key, []).append(row)
    for named, rows in groups.items():

        def mean(column: str, rows: list[Mapping[str, Any]] = rows) -> float:
            return statistics.fmean(row[column] for row in rows)

        table.add_row(
            *named,
            str(len(rows)),
            f"{mean('accuracy'):.2f}",
            f"{100 * mean('upload_ratio'):.1f} %",
            f"{mean('uplink_bytes') / 1e3:,.0f}",
            f"{mean('downlink_bytes') / 1e3:,.0f}",
            f"{mean('forward_passes'):.2f}" + (f" + {b:.2f} back" if (b := mean("backward_passes")) else ""),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table)
    summary = document["summary"]
    for name in KEYS:
        console.print(f"{name}: {summary[name]}", highlight=False, soft_wrap=True)
    console.print(f"{summary['rows_done']} of {summary['rows_planned']} rows", highlight=False)


__all__ = ["TableRequest", "bench_adapt", "document_of", "fingerprint_of"]
