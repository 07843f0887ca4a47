"""`littoral bench split`: bytes against accuracy of our splits and of others'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from littoral.bench.dense_data import CAMVID, COCO, IMAGENET
from littoral.bench.document import make_document
from littoral.bench.fingerprint import fingerprint
from littoral.bench.rows import TableRequest, of_other_code
from littoral.bench.split.dense_networks import network_files
from littoral.bench.split.make import modules_of, modules_without
from littoral.bench.split.material import NEEDED, check_data
from littoral.bench.split.plan import full_plan, quick_plan
from littoral.bench.split.rates import TRAINED
from littoral.bench.split.steps import steps_taken
from littoral.bench.split.summary import KEYS, summarise
from littoral.bench.split.unit import SplitUnit
from littoral.bench.table import Done, UnitTable

DENSE_KINDS = ("dense_fixed", "dense_codec", "dense_split")
"""Whose accuracy is mIoU or AP50."""
_SHOWN = (*TRAINED, "local_only", "codec", "features", "fixed", "robust", *DENSE_KINDS)
"""Kinds of rows that are printed."""
_OF_NO_FILES = ("codec_speed", "codec_exact")
"""Kinds that draw their symbols."""
_GUESSED_MS = {
    "product": 10.0, "product_single": 10.0, "parity": 22.0, "parity_first_stage": 26.0, "end_to_end": 15.0,
    "channel_reduction": 12.0, "rac_shaped": 10.0, "local_only": 2.0, "avif": 60.0, "avif_444": 90.0, "leakage": 100.0,
    "robust": 120.0, "link": 500.0, "timing": 300.0, "dense_fixed": 300.0, "dense_codec": 400.0, "dense_split": 250.0,
}  # fmt: skip
"""Of one core for a frame of `BenchUnit.num_frames`, by method or kind; ResNet-56 as teacher."""
_OTHERS_MS = 10.0


@dataclass(frozen=True, kw_only=True)
class SplitTable(UnitTable[SplitUnit]):
    """Of CIFAR-10, CamVid and COCO; ``--quick`` everything once, hardly trained."""

    epochs: int | None = None
    """Of every training of the full plan; None for the plan's own."""
    keys = KEYS
    make = "littoral.bench.split.make:make_unit"

    def plan(self, asked: TableRequest) -> list[SplitUnit]:
        return quick_plan() if asked.quick else full_plan(epochs=self.epochs)

    def fingerprint_of(self, unit: SplitUnit) -> str:
        return fingerprint(modules_of(unit), without=modules_without(unit))

    def inputs_of(self, unit: SplitUnit) -> Sequence[str]:
        if unit.kind in _OF_NO_FILES:
            return ()
        if unit.kind not in DENSE_KINDS:
            return NEEDED
        files = network_files(unit.teacher)
        if files[0].startswith("weights/camvid"):
            return (*files, CAMVID)
        return (*files, COCO, IMAGENET) if unit.kind == "dense_split" else (*files, COCO)

    def check_data(self, asked: TableRequest) -> Path:
        return check_data(asked.data)

    def guess_seconds(self, unit: SplitUnit) -> float:
        of_kind = _GUESSED_MS.get(unit.kind, _GUESSED_MS.get(unit.method, _OTHERS_MS))
        return unit.num_frames * of_kind / 1e3

    def document(self, planned: Sequence[SplitUnit], done: Done, asked: TableRequest) -> dict[str, Any]:
        there = [unit for unit in planned if unit.key in done]
        trained = {unit.training.epochs for unit in there if unit.training is not None}
        return make_document(
            table="split",
            config={
                "quick": asked.quick,
                "missing": [unit.name for unit in planned if unit.key not in done],
                "of_other_code": of_other_code(planned, done, self.fingerprint_of),
                "student": "resnet20",
                "teacher": sorted({unit.teacher for unit in there if unit.kind not in DENSE_KINDS}),
                "epochs": sorted(trained),
            },
            seeds=sorted({unit.seed for unit in there}),
            rows=[row for unit in there for row in flat_rows(unit, done[unit.key])],
            summary=summarise(planned, {key: document["result"] for key, document in done.items()}),
        )

    def show(self, document: Mapping[str, Any], console: Console) -> None:
        table = Table(title="bytes of a frame as sent, and right answers (mIoU, AP50) in percent", title_justify="left")
        left, right = (
            ("kind", "method", "variant"),
            ("seed", "level", "bytes", "p95", "no header", "right", "encoder MMAC"),
        )
        for column in (*left, *right):
            table.add_column(column, justify="left" if column in left else "right")
        for row in document["rows"]:
            if row["kind"] not in _SHOWN:
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
        console.print(table)


def flat_rows(unit: SplitUnit, document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """A row per point of a unit."""
    result = document["result"]
    shared = {key: value for key, value in result.items() if key != "points" and not isinstance(value, list)}
    training = unit.training
    if training is not None and unit.kind in (*TRAINED, "local_only"):
        shared["steps"] = steps_taken(training, result)
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
            **({"cpu_seconds": document["cpu_seconds"]} if "cpu_seconds" in document else {}),
            "commit": document["commit"],
        }


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
