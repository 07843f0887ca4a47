"""`littoral bench adapt`: our adaptation and others' under corruption."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from littoral.bench.adapt.lives import tidy_lives
from littoral.bench.adapt.material import FRAMES, STUDENT, WEIGHTS, check_data
from littoral.bench.adapt.methods import fingerprint_of
from littoral.bench.adapt.plan import full_plan, quick_plan
from littoral.bench.adapt.row import TEACHERS, Row
from littoral.bench.adapt.summary import KEYS, summarise
from littoral.bench.document import make_document
from littoral.bench.rows import TableRequest, of_other_code
from littoral.bench.store import UnitStore
from littoral.bench.table import Done, Failed, UnitTable

_HEAVY = ("by_shift", "trace", "exact_and_coded_accuracy", "notes")
"""What stays in the row's own file."""
_GUESSED_US = {
    "product": 8000.0, "product_unguarded": 8000.0, "device_statistics": 2500.0, "parity_shipped": 1500.0,
    "parity_paper": 1500.0, "parity_batch": 1500.0, "teacher_everything": 5000.0, "teacher_answers": 1500.0,
    "cotta": 20000.0, "source": 400.0,
    "push_loss": 10000.0,
}  # fmt: skip
"""Of one core for a frame, by method."""
_OTHERS_US = 2500.0


class AdaptTable(UnitTable[Row]):
    """Of CIFAR-10 under corruption, a fleet included; ``--quick`` three shifts of 300 frames."""

    keys = KEYS
    make = "littoral.bench.adapt.make:make_row"

    def plan(self, asked: TableRequest) -> list[Row]:
        return quick_plan() if asked.quick else full_plan()

    def fingerprint_of(self, unit: Row) -> str:
        return fingerprint_of(unit)

    def inputs_of(self, unit: Row) -> Sequence[str]:
        teacher = unit.teacher or (TEACHERS[0] if unit.method == "push_loss" else None)  # it plays the whole product
        networks = [STUDENT] if teacher is None else [STUDENT, teacher]
        return [*FRAMES.values(), *(WEIGHTS[name] for name in networks)]

    def check_data(self, asked: TableRequest) -> Path:
        return check_data(asked.data)

    def guess_seconds(self, unit: Row) -> float:
        return unit.num_frames * _GUESSED_US.get(unit.method, _OTHERS_US) / 1e6 + 5.0

    def _make(self, left: Sequence[Row], asked: TableRequest, store: UnitStore[Row], num_done: int) -> Failed:
        failed = super()._make(left, asked, store, num_done)
        tidy_lives(asked.work, [row for row in left if store.read(row) is not None])
        return failed

    def document(self, planned: Sequence[Row], done: Done, asked: TableRequest) -> dict[str, Any]:
        there = [row for row in planned if row.key in done]
        return make_document(
            table="adapt",
            config={
                "quick": asked.quick,
                "missing": missing_of(planned, done),
                "of_other_code": of_other_code(planned, done, self.fingerprint_of),
                "student": "resnet20",
                "severity": 5,
            },
            seeds=sorted({row.seed for row in there}),
            rows=[flat_row(row, done[row.key]) for row in there],
            summary=summarise(
                planned,
                {key: document["result"] for key, document in done.items()},
                made_by={key: document["fingerprint"] for key, document in done.items()},
            ),
        )

    def show(self, document: Mapping[str, Any], console: Console) -> None:
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
        console.print(table)


def missing_of(planned: Sequence[Row], done: Mapping[str, Any]) -> list[str]:
    """Which rows are not there, ``method/stream (count)``."""
    counts: dict[str, int] = {}
    for row in planned:
        if row.key not in done:
            name = f"{row.table} {row.method}/{row.stream}"
            counts[name] = counts.get(name, 0) + 1
    return [f"{name} ({count})" for name, count in counts.items()]


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
