"""Bytes and accuracy under the common corruptions: what nobody trained for must not blow payloads up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from littoral.bench.split.material import SplitMaterial
from littoral.bench.split.points import split_points
from littoral.bench.split.training import Say, Trained
from littoral.bench.streams.corruptions import corrupt


def robust_points(
    trained: Trained, material: SplitMaterial, *, corruptions: Sequence[str], severity: int, frames: int, tell: Say
) -> list[dict[str, Any]]:
    """A point per corruption and level, and the clean frames first (severity 0)."""
    clean, labels = material.first("test", frames)
    out = []
    for index, name in enumerate(("clean", *corruptions)):
        shown = clean if name == "clean" else corrupt(clean, name, severity=severity, seed=0)
        for point in split_points(trained, shown, labels, subset=frames):
            point = {key: value for key, value in point.items() if not key.startswith("subset_")}
            out.append({"corruption": name, "severity": 0 if name == "clean" else severity, **point})
        tell(index * frames // max(len(corruptions), 1), frames)
    return out
