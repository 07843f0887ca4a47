"""`littoral bench exits`: early exits that follow their users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from littoral.bench.adapt.material import WEIGHTS as ADAPTED
from littoral.bench.dense_data import CAMVID
from littoral.bench.document import make_document
from littoral.bench.exits.averaged import averaged, by_user
from littoral.bench.exits.make import modules_of, modules_without
from littoral.bench.exits.material import DIGITS, NEEDED, check_data
from littoral.bench.exits.omniglot import FILES as OMNIGLOT
from littoral.bench.exits.plan import full_plan, quick_plan
from littoral.bench.exits.summary import KEYS, WORDS, summarise
from littoral.bench.exits.unit import ExitUnit
from littoral.bench.fingerprint import fingerprint
from littoral.bench.rows import TableRequest, of_other_code
from littoral.bench.split.dense_networks import network_files
from littoral.bench.table import Done, UnitTable

SECONDS_PER_USER = {
    "users": 45.0, "fits": 60.0, "strangers": 15.0, "cost": 10.0, "risk": 30.0, "drift": 100.0, "trained": 400.0,
    "latency": 12.0, "segmentation": 1_500.0, "omniglot": 400.0,
}  # fmt: skip
"""Of one core, before anything was measured."""


class ExitTable(UnitTable[ExitUnit]):
    """Of CIFAR-10's users, and of Omniglot's and CamVid's; ``--quick`` of digits."""

    keys = KEYS
    make = "littoral.bench.exits.make:make_unit"

    def plan(self, asked: TableRequest) -> list[ExitUnit]:
        return quick_plan() if asked.quick else full_plan()

    def fingerprint_of(self, unit: ExitUnit) -> str:
        return fingerprint(modules_of(unit), without=modules_without(unit))

    def inputs_of(self, unit: ExitUnit) -> Sequence[str]:
        if unit.network == DIGITS:
            return ()
        if unit.kind == "omniglot":
            return [f"omniglot/{name}" for name in OMNIGLOT]
        if unit.kind == "segmentation":
            return (*network_files(unit.network), CAMVID)
        return sorted({*NEEDED, *ADAPTED.values()}) if unit.kind == "drift" else NEEDED

    def check_data(self, asked: TableRequest) -> Path:
        return asked.data or Path() if asked.quick else check_data(asked.data)

    def guess_seconds(self, unit: ExitUnit) -> float:
        return SECONDS_PER_USER[unit.kind] * unit.count

    def document(self, planned: Sequence[ExitUnit], done: Done, asked: TableRequest) -> dict[str, Any]:
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
            table="exits",
            config={
                "quick": asked.quick,
                "missing": [unit.name for unit in planned if unit.key not in done],
                "of_other_code": of_other_code(planned, done, self.fingerprint_of),
                "networks": sorted({unit.network for unit in there}),
                "exits": exits,
                "words": dict(WORDS),
            },
            seeds=sorted({unit.seed for unit in there}),
            rows=[*averaged(flat), *by_user(flat)],
            summary=summarise(planned, {key: document["result"] for key, document in done.items()}),
        )

    def show(self, document: Mapping[str, Any], console: Console) -> None:
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
        console.print(table)


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


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    there = [row for row in rows if key in row]
    if not there:
        return ""
    value = fmean([row[key] for row in there], weights=[row["num_users"] for row in there])
    return f"{value:.3g}" if key.endswith("compute") else f"{value:.1f}"
