"""Rows of several seeds become one, with its spread. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean, stdev
from typing import Any

Row = dict[str, Any]
BY = ("kind", "trace", "stream", "device_ms", "phase", "family", "policy")
PHASES_OF = "wifi-walk"
"""The trace whose phases the document has; those of the others stay in their units' own files."""
SPREAD = ("accuracy", "latency_ms", "bytes_per_frame")
"""Whose standard deviation over the seeds stands beside the mean, as ``*_sd``."""
BY_SEED = "by_seed"


def averaged(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """A row per policy and phase: means over the seeds, in the order of first appearance.

    A policy that a seed lacks (no price was right often enough there) is the mean of the others; ``num_seeds`` says,
    and `BY_SEED` has what each seed gave, so that policies can be compared on the seeds that both have.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in BY), []).append(row)
    out = []
    for key, group in groups.items():
        made: Row = dict(zip(BY, key, strict=True))
        made |= {"is_real": group[0]["is_real"], "num_seeds": len(group)}
        made["num_frames"] = sum(row["num_frames"] for row in group)
        for name in group[0]:
            if name in BY or name in made or name in ("seed", "commit"):
                continue
            values = [row[name] for row in group if row.get(name) is not None]
            made[name] = round(fmean(values), 5) if values else None
            if name in SPREAD:
                made[f"{name}_sd"] = round(stdev(values), 5) if len(values) > 1 else None
        made[BY_SEED] = {row["seed"]: {name: row[name] for name in SPREAD} for row in group}
        made["commit"] = ", ".join(sorted({row["commit"] for row in group}))
        out.append(made)
    return out


_NOT_TOLD = (BY_SEED, "is_real", "timely_accuracy", "latency_ms_sd", "bytes_per_frame_sd", "num_frames")


def told(rows: Iterable[Row]) -> list[Row]:
    """What the document has of averaged rows: the columns that the page shows, and the phases of one trace.

    With all of it the document of the full table would be too large to be kept.
    """
    return [
        {
            name: round(value, 2 + (value < 2)) if isinstance(value, float) else value
            for name, value in row.items()
            if name not in _NOT_TOLD and not (name.startswith("reason_") and not value)
        }
        for row in rows
        if row["phase"] == "all" or row["trace"] == PHASES_OF
    ]
