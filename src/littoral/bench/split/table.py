"""`littoral bench split`: make the units that are missing, and the document of all that are there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from littoral.bench.document import make_document, write_document
from littoral.bench.fingerprint import fingerprint
from littoral.bench.progress import ProgressView
from littoral.bench.rows import RunOptions, TableRequest, make_units, of_other_code, split_done
from littoral.bench.split.make import modules_of, modules_without
from littoral.bench.split.material import check_data
from littoral.bench.split.plan import chosen, full_plan, quick_plan
from littoral.bench.split.summary import KEYS, summarise
from littoral.bench.split.unit import LAST_STAGE, SplitUnit
from littoral.bench.store import UnitStore

TABLE = "split"
DENSE_KINDS = ("dense_fixed", "dense_codec", "dense_split")
"""Whose accuracy is mIoU or AP50."""
MAKE = "littoral.bench.split.make:make_unit"
_WIDTH = 140


class SplitStore(UnitStore[SplitUnit]):
    """Units under names that people can read."""

    def path(self, unit: SplitUnit) -> Path:
        return self.folder / f"{unit.kind}-{unit.method}-{unit.variant}-{unit.seed}-{unit.key}.json"


@dataclass(frozen=True, kw_only=True)
class SplitBench(TableRequest):
    """What `littoral bench split` was asked for."""

    epochs: int | None = None
    """Of every training of the full plan; None for the plan's own."""


def fingerprint_of(unit: SplitUnit) -> str:
    """Of the source files that the unit's numbers come from."""
    return fingerprint(modules_of(unit), without=modules_without(unit))


def bench_split(asked: SplitBench) -> dict[str, Any]:
    """Make the missing units, or list them; print the table and the document.

    Raises:
        LittoralError: the data are not there.
    """
    planned = quick_plan() if asked.quick else full_plan(epochs=asked.epochs)
    units = chosen(planned, asked.only)
    store = SplitStore(asked.rows or asked.work / "rows")
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


def _make(left: Sequence[SplitUnit], asked: SplitBench, store: SplitStore, num_done: int) -> None:
    """Stage by stage, since what is measured of a training waits for it, and what measures time wants to be alone."""
    data = check_data(asked.data)
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


def document_of(planned: Sequence[SplitUnit], done: Mapping[str, Mapping[str, Any]], *, quick: bool) -> dict[str, Any]:
    """The document of all planned units that are done, in the order of the plan."""
    there = [unit for unit in planned if unit.key in done]
    trained = {unit.training.epochs for unit in there if unit.training is not None}
    return make_document(
        table=TABLE,
        config={
            "quick": quick,
            "missing": [unit.name for unit in planned if unit.key not in done],
            "of_other_code": of_other_code(planned, done, fingerprint_of),
            "student": "resnet20",
            "teacher": sorted({unit.teacher for unit in there if unit.kind not in DENSE_KINDS}),
            "epochs": sorted(trained),
        },
        seeds=sorted({unit.seed for unit in there}),
        rows=[row for unit in there for row in flat_rows(unit, done[unit.key])],
        summary=summarise(planned, {key: document["result"] for key, document in done.items()}),
    )


def flat_rows(unit: SplitUnit, document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """A row per point of a unit."""
    result = document["result"]
    shared = {key: value for key, value in result.items() if key != "points" and not isinstance(value, list)}
    training = unit.training
    for point in result["points"]:
        yield {
            "kind": unit.kind,
            "method": unit.method,
            "variant": unit.variant,
            "seed": unit.seed if training is not None else None,
            "teacher": unit.teacher,
            "test_frames": unit.frames,
            "epochs": None if training is None else training.epochs,
            "train_frames": None if training is None else training.frames,
            **shared,
            **point,
            "seconds": document["seconds"],
            "commit": document["commit"],
        }


def estimate_seconds(unit: SplitUnit, store: SplitStore) -> float | None:
    """How long a unit took when it was last made, by whatever code; None if it never was."""
    document = store.read(unit)
    return None if document is None else float(document["seconds"])


def _list(units: Sequence[SplitUnit], done: Mapping[str, Any], store: SplitStore, asked: SplitBench) -> dict[str, Any]:
    """What is there, what is not, and how long it took or takes."""
    per_frame = _seconds_per_frame(units, store)
    listed: list[dict[str, Any]] = []
    for unit in units:
        seconds = estimate_seconds(unit, store)
        if seconds is None:
            fallback = FALLBACK_MS.get(unit.kind, FALLBACK_MS.get(unit.method, _OTHERS_MS)) / 1e3
            seconds = round(per_frame.get((unit.kind, unit.method), fallback) * unit.num_frames, 1)
        listed.append({"unit": unit.name, "stage": unit.stage, "done": unit.key in done, "seconds": seconds})
        if not asked.quiet:
            print(f"{'done   ' if unit.key in done else 'missing'} {seconds:8.0f} s  {unit.name}")
    jobs = asked.jobs or len(os.sched_getaffinity(0))
    left = sum(float(entry["seconds"]) for entry in listed if not entry["done"])
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


FALLBACK_MS = {
    "product": 10.0, "product_single": 10.0, "parity": 22.0, "end_to_end": 15.0, "channel_reduction": 12.0,
    "rac_shaped": 10.0, "local_only": 2.0, "avif": 60.0, "avif_444": 90.0, "leakage": 100.0, "robust": 120.0,
    "link": 500.0, "timing": 300.0, "dense_fixed": 300.0, "dense_codec": 400.0, "dense_split": 250.0,
}  # fmt: skip
"""Of one core for a frame of `SplitUnit.num_frames`, before anything was measured; ResNet-56 as teacher."""
_OTHERS_MS = 10.0


def _seconds_per_frame(units: Sequence[SplitUnit], store: SplitStore) -> dict[tuple[str, str], float]:
    """By kind and method, of what was made before."""
    seconds: dict[tuple[str, str], float] = {}
    frames: dict[tuple[str, str], int] = {}
    for unit in units:
        document = store.read(unit)
        if document is not None and unit.num_frames:
            of = unit.kind, unit.method
            seconds[of] = seconds.get(of, 0.0) + document["seconds"]
            frames[of] = frames.get(of, 0) + unit.num_frames
    return {of: seconds[of] / frames[of] for of in seconds}


def print_table(document: Mapping[str, Any]) -> None:
    """Every point with bytes or an accuracy, and the summary."""
    table = Table(title="bytes of a frame as sent, and right answers (mIoU, AP50) in percent", title_justify="left")
    for column in ("kind", "method", "variant", "seed", "level", "bytes", "p95", "no header", "right", "encoder MMAC"):
        table.add_column(column, justify="left" if column in ("kind", "method", "variant") else "right")
    for row in document["rows"]:
        if row["kind"] not in ("split", "local_only", "codec", "features", "fixed", "robust", *DENSE_KINDS):
            continue
        macs = row.get("encoder_macs", row.get("network_macs"))
        table.add_row(
            row["kind"],
            row["method"],
            str(row.get("corruption", row["variant"])),
            _text(row["seed"], ".0f"),
            _text(row.get("level", row.get("quality")), ".0f"),
            _text(row.get("bytes"), ",.1f"),
            _text(row.get("bytes_p95"), ",.0f"),
            _text(row.get("bytes_without_header"), ",.1f"),
            _text(row.get("accuracy"), ".2f"),
            _text(None if macs is None else macs / 1e6, ".2f"),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table)
    summary = document["summary"]
    for name in KEYS:
        reason = f" ({summary[f'{name}_reason']})" if summary.get(f"{name}_reason") and summary[name] is None else ""
        console.print(f"{name}: {summary[name]}{reason}", highlight=False, soft_wrap=True)
    console.print(f"{summary['units_done']} of {summary['units_planned']} units", highlight=False)


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
