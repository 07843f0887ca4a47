"""The few numbers that people quote, of whatever rows there are: pure, and null where a row is missing.

Every difference is taken seed by seed, on the same frames, and then averaged; ``<key>_seeds`` says over how many seeds
and ``<key>_spread`` how far apart the highest and the lowest lie. A cell without a seed in common makes its key null,
and ``<key>_reason`` says what it lacks.
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
    PARITY_BATCH,
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
    "product_minus_parity_points", "product_minus_parity_points_without_delay", "product_bytes_over_parity",
    "num_rows", "num_code_states", "product_minus_three_forms_points", "product_bytes_over_three_forms",
    "three_forms_streams", "product_minus_roid_continual_points",
    "product_minus_device_statistics_points", "teacher_gap_closed_fraction", "product_minus_parity_per_shift_points",
    "worst_stream_minus_source_points", "worst_stream_minus_source_points_unguarded", "batch1_minus_batch64_points",
    "recall_sample_fraction", "recall_resolution_fraction", "push_bytes_resnet20", "push_bytes_resnet18",
    "push_loss_points", "cohort_minus_isolated_points", "cohort_minus_shared_points",
)  # fmt: skip
"""What issue and docs ask for; the summary has more."""
_PLAIN_TEACHER = "_plain_teacher"
"""Behind a key that is of the plain teacher."""
_EVERY_STREAM = "no seed has product and both forms of parity on every stream"
_THREE_FORMS = "no seed has product and all three forms of parity on any stream"
_NO_RECALL = "no seed has product and device_statistics on the recurring stream, or the first visits gained nothing"
_LACKS = {
    "product_minus_parity_points": _EVERY_STREAM,
    "product_minus_parity_points_without_delay": _EVERY_STREAM,
    "product_bytes_over_parity": _EVERY_STREAM,
    "product_bytes_over_parity_without_delay": _EVERY_STREAM,
    "num_rows": _EVERY_STREAM,
    "num_code_states": f"{_EVERY_STREAM}, or it is not known which code made these rows",
    "product_minus_three_forms_points": _THREE_FORMS,
    "product_bytes_over_three_forms": _THREE_FORMS,
    "three_forms_streams": _THREE_FORMS,
    "product_minus_roid_continual_points": "no seed has product and roid on the continual stream",
    "product_minus_device_statistics_points": "no seed has product and device_statistics on the continual stream",
    "teacher_gap_closed_fraction": "no seed has product, device_statistics and teacher_everything on the continual "
    "stream, or the teacher is not above the device's own statistics",
    "product_minus_parity_per_shift_points": "no seed has product and both forms of parity on the stream per_shift",
    "worst_stream_minus_source_points": "a guarded stream has no seed of product and source",
    "worst_stream_minus_source_points_unguarded": "a guarded stream has no seed of product_unguarded and source",
    "batch1_minus_batch64_points": "no seed has product on the streams continual_b1 and continual_b64",
    "recall_sample_fraction": _NO_RECALL,
    "recall_resolution_fraction": _NO_RECALL,
    "push_bytes_resnet20": "the row push_size is missing",
    "push_bytes_resnet18": "the row push_size is missing",
    "push_loss_points": "the row push_loss is missing, or it shipped no version",
    "cohort_minus_isolated_points": "no seed has product on the streams fleet_cohort and fleet_isolated",
    "cohort_minus_shared_points": "no seed has product on the streams fleet_cohort and fleet_shared",
    "cohort_bytes_over_isolated": "the devices of fleet_isolated sent nothing",
    "cohort_bytes_over_shared": "the devices of fleet_shared sent nothing",
}
"""Why a key may be null."""
_NEEDS_LINK = {stream.name for stream in STREAMS if stream.needs_link}
_DELAYED = {stream.name for stream in STREAMS if stream.delay_batches}


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


def summarise(
    planned: Sequence[Row], results: Mapping[str, Result], *, made_by: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The summary of a document.

    Args:
        planned: All rows that the table should have.
        results: What the finished ones gave, by `Row.key`.
        made_by: The fingerprints of the code that made them, likewise.
    """
    rows = Rows(planned, results)
    out: dict[str, Any] = dict.fromkeys(KEYS)
    for teacher, suffix in ((ROBUST, ""), (PLAIN, _PLAIN_TEACHER)):
        out.update(_against_parity(rows, teacher, suffix, made_by or {}))
        out.update(_headline(rows, teacher, suffix))
    out.update(_against_three_forms(rows))
    out.update(_guards(rows))
    out.update(_of("batch1_minus_batch64_points", _minus(_wide(rows, "continual_b1"), _wide(rows, BATCH64.name))))
    product, device = (rows.cell("wide", method, "recurring", ROBUST) for method in (PRODUCT, DEVICE))
    if (recall := recall_fraction(product, device)) is not None:
        out["recall_sample_fraction"], out["recall_resolution_fraction"] = recall
    out.update(_push(rows))
    out.update(_fleet(rows))
    done = sum(row.key in results for row in planned)
    return {**out, **_reasons(out), "units_done": done, "units_planned": len(planned)}


def _reasons(summary: Mapping[str, Any]) -> dict[str, str]:
    """For every key without a value what it lacks."""
    of = {key: "with the plain teacher " if key.endswith(_PLAIN_TEACHER) else "" for key in summary}
    return {
        f"{key}_reason": of[key] + _LACKS[key.removesuffix(_PLAIN_TEACHER)]
        for key, value in summary.items()
        if value is None
    }


def _against_parity(rows: Rows, teacher: str, suffix: str, made_by: Mapping[str, str]) -> dict[str, Any]:
    """Mean over the streams, against the better of the two forms on each; bytes against that form's.

    Once more without the streams whose versions are late, and how many rows of the product, by how many states of the
    code, all of this is of.
    """
    gaps, sent = dict[str, BySeed](), dict[str, tuple[float, float]]()
    rows_of_seed: dict[int, list[Row]] = {}
    for stream in STREAMS:
        product, better = rows.cell("wide", PRODUCT, stream.name, teacher), _better(rows, "wide", stream.name, teacher)
        if better is None:
            return {}
        gaps[stream.name] = _minus(_accuracies(product), _accuracies(better))
        common = sorted(set(product) & set(better))
        if not common:
            return {}
        ours, theirs = (
            statistics.fmean(cell[seed][1]["uplink_bytes"] for seed in common) for cell in (product, better)
        )
        sent[stream.name] = ours, theirs
        for seed in common:
            rows_of_seed.setdefault(seed, []).append(product[seed][0])
    seeds = sorted(set.intersection(*(set(gap) for gap in gaps.values())))
    out: dict[str, Any] = {}
    for names, behind in ((list(gaps), ""), ([name for name in gaps if name not in _DELAYED], "_without_delay")):
        mean = {seed: statistics.fmean(gaps[name][seed] for name in names) for seed in seeds}
        out.update(_of(f"product_minus_parity_points{behind}{suffix}", mean))
        ours, theirs = (sum(sent[name][way] for name in names) for way in (0, 1))
        out[f"product_bytes_over_parity{behind}{suffix}"] = round(ours / theirs, 4) if theirs else None
    used = [row.key for seed in seeds for row in rows_of_seed[seed]]
    out[f"num_rows{suffix}"] = len(used) or None
    out[f"num_code_states{suffix}"] = len({made_by[key] for key in used if key in made_by}) or None
    return out


def _against_three_forms(rows: Rows) -> dict[str, Any]:
    """As `_against_parity`, but against the best of three forms, and over those streams on which all three were run."""
    gaps, ours, theirs = list[float](), 0.0, 0.0
    for stream in STREAMS:
        product = rows.cell("wide", PRODUCT, stream.name, ROBUST)
        best = _better(rows, "wide", stream.name, ROBUST, (*PARITY, PARITY_BATCH)) or {}
        if gap := _minus(_accuracies(product), _accuracies(best)):
            gaps.append(statistics.fmean(gap.values()))
            ours += statistics.fmean(product[seed][1]["uplink_bytes"] for seed in gap)
            theirs += statistics.fmean(best[seed][1]["uplink_bytes"] for seed in gap)
    return {
        "product_minus_three_forms_points": round(statistics.fmean(gaps), 3) if gaps else None,
        "product_bytes_over_three_forms": round(ours / theirs, 4) if theirs else None,
        "three_forms_streams": len(gaps) or None,
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


def _better(
    rows: Rows, table: str, stream: str, teacher: str, forms: Sequence[str] = PARITY
) -> dict[int, tuple[Row, Result]] | None:
    """Of these forms of parity the one that is right more often on a stream, over the seeds that all have; None where
    there is no such seed."""
    cells = [rows.cell(table, form, stream, teacher) for form in forms]
    common = set.intersection(*(set(cell) for cell in cells))
    if not common:
        return None
    kept = [{seed: cell[seed] for seed in sorted(common)} for cell in cells]
    return max(kept, key=lambda cell: statistics.fmean(_accuracies(cell).values()))


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
