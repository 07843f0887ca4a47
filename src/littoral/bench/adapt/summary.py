"""The few numbers that people quote, of whatever rows there are: pure, and null where a row is missing.

Every difference is taken seed by seed, on the same frames, and then averaged; ``<key>_seeds`` says over how many seeds
and ``<key>_spread`` how far apart the highest and the lowest lie. A cell without a seed in common makes its key null.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from littoral.bench.adapt.plan import (
    BATCH64,
    CEILING,
    DEVICE,
    GUARD_STREAMS,
    PARITY,
    PRODUCT,
    ROID,
    SOURCE,
    STREAMS,
    UNGUARDED,
)
from littoral.bench.adapt.recall import recall_fraction
from littoral.bench.adapt.row import PLAIN, ROBUST, Row

Result = Mapping[str, Any]
BySeed = dict[int, float]
KEYS = (
    "product_minus_parity_points", "product_bytes_over_parity", "product_minus_roid_continual_points",
    "product_minus_device_statistics_points", "teacher_gap_closed_fraction", "product_minus_parity_per_shift_points",
    "worst_stream_minus_source_points", "worst_stream_minus_source_points_unguarded", "batch1_minus_batch64_points",
    "recall_sample_fraction", "push_bytes_resnet20", "push_bytes_resnet18", "push_loss_points",
    "cohort_minus_isolated_points", "cohort_minus_shared_points",
)  # fmt: skip
"""What issue and docs ask for; the summary has more."""
_NEEDS_LINK = {stream.name for stream in STREAMS if stream.needs_link}


class Rows:
    """Finished rows by what one asks for."""

    def __init__(self, planned: Sequence[Row], results: Mapping[str, Result]) -> None:
        self._found: dict[tuple[str, str, str, str], dict[int, tuple[Row, Result]]] = {}
        for row in planned:
            if row.key in results:
                kind = "headline" if row.table == "headline" else "wide"
                for table in (kind,) if row.table != "quick" else ("headline", "wide"):
                    cell = self._found.setdefault((table, row.method, row.stream, row.teacher or ""), {})
                    cell[row.seed] = (row, results[row.key])

    def cell(self, table: str, method: str, stream: str, teacher: str) -> dict[int, tuple[Row, Result]]:
        """By seed; a method without a teacher is found under any."""
        found = self._found.get((table, method, stream, teacher)) or self._found.get((table, method, stream, ""))
        return found or {}

    def all_of(self, method: str) -> list[Result]:
        """Every finished row of a method."""
        return [
            result for (_, name, _, _), cell in self._found.items() if name == method for _, result in cell.values()
        ]

    def accuracy(self, table: str, method: str, stream: str, teacher: str) -> BySeed:
        """Percent right by seed. A method that no road touches has its continual row for a stream with a road."""
        cell = self.cell(table, method, stream, teacher)
        if not cell and stream in _NEEDS_LINK and method in (SOURCE, DEVICE):
            cell = self.cell(table, method, "continual", teacher)
        return {seed: float(result["accuracy"]) for seed, (_, result) in cell.items()}


def summarise(planned: Sequence[Row], results: Mapping[str, Result]) -> dict[str, Any]:
    """The summary of a document.

    Args:
        planned: All rows that the table should have.
        results: What the finished ones gave, by `Row.key`.
    """
    rows = Rows(planned, results)
    out: dict[str, Any] = dict.fromkeys(KEYS)
    for teacher, suffix in ((ROBUST, ""), (PLAIN, "_plain_teacher")):
        out.update(_against_parity(rows, teacher, suffix))
        out.update(_headline(rows, teacher, suffix))
    out.update(_guards(rows))
    out.update(_of("batch1_minus_batch64_points", _minus(_wide(rows, "continual_b1"), _wide(rows, BATCH64.name))))
    out["recall_sample_fraction"] = recall_fraction(
        rows.cell("wide", PRODUCT, "recurring", ROBUST), rows.cell("wide", DEVICE, "recurring", ROBUST)
    )
    out.update(_push(rows))
    out.update(_fleet(rows))
    done = sum(row.key in results for row in planned)
    return {**out, "units_done": done, "units_planned": len(planned)}


def _against_parity(rows: Rows, teacher: str, suffix: str) -> dict[str, Any]:
    """Mean over the streams, against the better of the two forms on each; bytes against that form's."""
    gaps: list[BySeed] = []
    ours = theirs = 0.0
    for stream in STREAMS:
        product, better = rows.cell("wide", PRODUCT, stream.name, teacher), _better(rows, "wide", stream.name, teacher)
        if better is None:
            return {}
        gaps.append(_minus(_accuracies(product), _accuracies(better)))
        common = sorted(set(product) & set(better))
        if not common:
            return {}
        ours += statistics.fmean(product[seed][1]["uplink_bytes"] for seed in common)
        theirs += statistics.fmean(better[seed][1]["uplink_bytes"] for seed in common)
    seeds = set.intersection(*(set(gap) for gap in gaps))
    mean = {seed: statistics.fmean(gap[seed] for gap in gaps) for seed in sorted(seeds)}
    return {
        **_of(f"product_minus_parity_points{suffix}", mean),
        f"product_bytes_over_parity{suffix}": round(ours / theirs, 4) if theirs else None,
    }


def _headline(rows: Rows, teacher: str, suffix: str) -> dict[str, Any]:
    """Of the headline rows; what these lack, of the wide table's, which have fewer frames: ``<key>_table`` says so."""
    out, wide = (_long_streams(rows, table, teacher, suffix) for table in ("headline", "wide"))
    for key in [key for key, value in out.items() if value is None and wide[key] is not None]:
        out |= {name: value for name, value in wide.items() if name.startswith(key)} | {f"{key}_table": "wide"}
    return out


def _long_streams(rows: Rows, table: str, teacher: str, suffix: str) -> dict[str, Any]:
    def of(method: str) -> BySeed:
        return rows.accuracy(table, method, "continual", teacher)

    product, device, ceiling = of(PRODUCT), of(DEVICE), of(CEILING)
    better = _better(rows, table, "per_shift", teacher)
    per_shift = rows.accuracy(table, PRODUCT, "per_shift", teacher)
    room = {s: v for s, v in _minus(ceiling, device).items() if s in product}
    gained = {seed: product[seed] - device[seed] for seed in room}
    closed = sum(gained.values()) / sum(room.values()) if room and sum(room.values()) > 0 else None
    return {
        **_of(f"product_minus_roid_continual_points{suffix}", _minus(product, of(ROID))),
        **_of(f"product_minus_device_statistics_points{suffix}", _minus(product, device)),
        f"teacher_gap_closed_fraction{suffix}": None if closed is None else round(closed, 4),
        **_of(
            f"product_minus_parity_per_shift_points{suffix}",
            {} if better is None else _minus(per_shift, _accuracies(better)),
        ),
    }


def _guards(rows: Rows) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for method, suffix in ((PRODUCT, ""), (UNGUARDED, "_unguarded")):
        gaps = {
            stream: _minus(rows.accuracy("wide", method, stream, ROBUST), rows.accuracy("wide", SOURCE, stream, ROBUST))
            for stream in GUARD_STREAMS
        }
        if not all(gaps.values()):
            continue
        means = {stream: statistics.fmean(gap.values()) for stream, gap in gaps.items()}
        worst = min(means, key=lambda stream: means[stream])
        out.update(_of(f"worst_stream_minus_source_points{suffix}", gaps[worst]))
        out[f"worst_stream{suffix}"] = worst
    return out


def _push(rows: Rows) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for _, result in rows.cell("wide", "push_size", "none", "").values():
        out["push_bytes_resnet20"] = int(result["push_bytes_resnet20"])
        out["push_bytes_resnet18"] = int(result["push_bytes_resnet18"])
    for _, result in rows.cell("wide", "push_loss", "push_loss", ROBUST).values():
        out["push_loss_points"] = result["push_loss_points"]
    if "push_bytes_resnet20" in out:  # what crossed the wire counts, where it was more than we reckoned
        seen = [r["notes"].get("push_frame_bytes_max", 0) for r in rows.all_of(PRODUCT)]
        out["push_bytes_resnet20"] = int(max([out["push_bytes_resnet20"], *seen]))
    return out


def _fleet(rows: Rows) -> dict[str, Any]:
    cohort = rows.cell("wide", PRODUCT, "fleet_cohort", ROBUST)
    out: dict[str, Any] = {}
    for other in ("isolated", "shared"):
        cell = rows.cell("wide", PRODUCT, f"fleet_{other}", ROBUST)
        out.update(_of(f"cohort_minus_{other}_points", _minus(_accuracies(cohort), _accuracies(cell))))
        common = set(cohort) & set(cell)
        if common:
            ours, theirs = (sum(c[seed][1]["uplink_bytes"] for seed in common) for c in (cohort, cell))
            out[f"cohort_bytes_over_{other}"] = round(ours / theirs, 4) if theirs else None
    return out


def _wide(rows: Rows, stream: str) -> BySeed:
    return rows.accuracy("wide", PRODUCT, stream, ROBUST)


def _better(rows: Rows, table: str, stream: str, teacher: str) -> dict[int, tuple[Row, Result]] | None:
    """Of the two forms of parity the one that is right more often on a stream; None unless both were run."""
    cells = [rows.cell(table, form, stream, teacher) for form in PARITY]
    if not all(cells):
        return None
    return max(cells, key=lambda cell: statistics.fmean(_accuracies(cell).values()))


def _accuracies(cell: Mapping[int, tuple[Row, Result]]) -> BySeed:
    return {seed: float(result["accuracy"]) for seed, (_, result) in cell.items()}


def _minus(a: BySeed, b: BySeed) -> BySeed:
    return {seed: a[seed] - b[seed] for seed in sorted(set(a) & set(b))}


def _of(key: str, by_seed: BySeed, digits: int = 3) -> dict[str, Any]:
    """The mean over seeds under its key, with how many there were and how far they lie apart."""
    if not by_seed:
        return {key: None}
    values = list(by_seed.values())
    out: dict[str, Any] = {key: round(statistics.fmean(values), digits), f"{key}_seeds": len(values)}
    if len(values) > 1:
        out[f"{key}_spread"] = round(max(values) - min(values), digits)
    return out
