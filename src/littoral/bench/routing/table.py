"""`littoral bench loop`: the router and others' policies on emulated links."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from littoral.bench.document import make_document
from littoral.bench.exits.plan import full_plan as full_plan_of_exits
from littoral.bench.exits.table import ExitTable
from littoral.bench.exits.unit import ExitUnit
from littoral.bench.fingerprint import fingerprint
from littoral.bench.routing.averages import averaged, told
from littoral.bench.routing.choose import NEAR
from littoral.bench.routing.contenders import FAMILIES
from littoral.bench.routing.measured import CODE_WITHOUT
from littoral.bench.routing.plan import DEVICE_MS, full_plan, quick_plan
from littoral.bench.routing.summary import KEYS, WORDS, summarise
from littoral.bench.routing.traces import KINDS, read_trace
from littoral.bench.routing.unit import LoopUnit
from littoral.bench.rows import TableRequest, of_other_code, split_done
from littoral.bench.split.material import NEEDED, check_data
from littoral.bench.store import UnitStore
from littoral.bench.table import Done, UnitTable

OTHERS = ("drift", "labels")
"""Kinds of units of `littoral bench exits` whose rows are here too: of a device and a cloud in one process."""
_MODULES = ("littoral.bench.routing.make",)
_SECONDS_PER_FRAME = 0.00025


@dataclass(frozen=True, kw_only=True)
class LoopTable(UnitTable[LoopUnit]):
    """Of CIFAR-10's frames in virtual time; what happens under drift and what the cloud's labels teach is of
    `littoral bench exits`, a real device and cloud in one process."""

    device_ms: float = DEVICE_MS
    epochs: int | None = None
    """Of the splits' trainings; None for the plan's own."""
    traces: tuple[Path, ...] = ()
    """Files of users' links."""
    exits: Path | None = None
    """Where `littoral bench exits` keeps its finished units; None is where it does while both tables are left to their
    defaults, and where the loop's own are told, ``exits`` beside these."""
    keys = KEYS
    make = "littoral.bench.routing.make:make_unit"

    def plan(self, asked: TableRequest) -> list[LoopUnit]:
        traces = kept_traces(self.traces, asked.work)
        if asked.quick:
            return quick_plan(device_ms=self.device_ms, traces=traces)
        return full_plan(device_ms=self.device_ms, epochs=self.epochs, traces=traces)

    def fingerprint_of(self, unit: LoopUnit) -> str:
        return fingerprint(_MODULES, without=CODE_WITHOUT)

    def inputs_of(self, unit: LoopUnit) -> Sequence[str]:
        return NEEDED

    def check_data(self, asked: TableRequest) -> Path:
        return check_data(asked.data)

    def guess_seconds(self, unit: LoopUnit) -> float:
        return _SECONDS_PER_FRAME * unit.num_frames

    def batches(self, units: Sequence[LoopUnit], jobs: int) -> Iterator[tuple[Sequence[LoopUnit], int]]:
        """The first unit alone: what it trains and times, the others only read."""
        yield units[:1], 1
        yield units[1:], jobs

    def document(self, planned: Sequence[LoopUnit], done: Done, asked: TableRequest) -> dict[str, Any]:
        units, theirs = done_by_others(self._exits_folder(asked), any_code=asked.any_code)
        others = list(rows_of_others(units, theirs))
        there = [unit for unit in planned if unit.key in done]
        rows = averaged(row for unit in there for row in flat_rows(unit, done[unit.key]))
        summary = summarise(rows, risk_rows=others)
        first = done[there[0].key]["result"] if there else {}
        return make_document(
            table="loop",
            config={
                "quick": asked.quick,
                "missing": [unit.name for unit in planned if unit.key not in done],
                "of_other_code": [
                    *of_other_code(planned, done, self.fingerprint_of),
                    *of_other_code(units, theirs, ExitTable().fingerprint_of),
                ],
                "stream": {"period_ms": there[0].period_ms, "in_flight": there[0].in_flight,
                           "deadline_ms": there[0].deadline_ms, "device_ms": there[0].device_ms,
                           **there[0].options} if there else {},
                "exits": first.get("exits", []),
                "ways": first.get("ways", []),
                "shares_right": first.get("shares_right", {}),
                "times": first.get("times", {}),
                "chosen": {unit.name: done[unit.key]["result"]["chosen"] for unit in there if unit.kind == "policies"},
                "near_points": 100 * NEAR,
                "words": dict(WORDS),
            },
            seeds=sorted({unit.seed for unit in there}),
            rows=[*told(rows), *(_flat(row) for row in others)],
            summary={**summary, "units_done": len(there), "units_planned": len(planned)},
        )  # fmt: skip

    def _exits_folder(self, asked: TableRequest) -> Path:
        if self.exits is not None:
            return self.exits
        return asked.work.with_name("bench-exits") / "rows" if asked.rows is None else asked.rows.parent / "exits"

    def show(self, document: Mapping[str, Any], console: Console) -> None:
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


def kept_traces(files: Sequence[Path], work: Path) -> dict[str, str]:
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


def done_by_others(folder: Path, *, any_code: bool) -> tuple[list[ExitUnit], dict[str, dict[str, Any]]]:
    """The units of `OTHERS` of the full table of exits, and of these the finished ones by key."""
    units = [unit for unit in full_plan_of_exits() if unit.kind in OTHERS]
    done, _ = split_done(units, UnitStore[ExitUnit](folder), ExitTable().fingerprint_of, any_code=any_code)
    return units, done


def rows_of_others(units: Sequence[ExitUnit], done: Done) -> Iterator[dict[str, Any]]:
    """Results of the finished units that are made elsewhere, with the kind and the commit."""
    for unit in units:
        if unit.key in done:
            document = done[unit.key]
            yield {**document["result"], "kind": unit.kind, "commit": document["commit"][:12]}


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
