"""Finished units of the split table, by what one asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from littoral.bench.split.curves import Curve
from littoral.bench.split.unit import SplitUnit

Result = Mapping[str, Any]
Found = tuple[SplitUnit, Result]


class Units:
    """Finished units by what one asks for."""

    def __init__(self, planned: Sequence[SplitUnit], results: Mapping[str, Result]) -> None:
        self.planned = planned
        self.found: list[Found] = [(unit, results[unit.key]) for unit in planned if unit.key in results]

    def of(self, kind: str, method: str | None = None, variant: str | None = None) -> list[Found]:
        """Those of a kind, and of a method and a variant where they are given."""
        return [
            (unit, result)
            for unit, result in self.found
            if unit.kind == kind
            and (method is None or unit.method == method)
            and (variant is None or unit.variant == variant)
        ]

    def curves(self, found: Iterable[Found], size: str = "bytes", accuracy: str = "accuracy") -> dict[int, Curve]:
        """By seed the curve through all points of these units."""
        points: dict[int, list[tuple[float, float]]] = {}
        for unit, result in found:
            for point in result["points"]:
                if point.get(size) and accuracy in point:
                    points.setdefault(unit.seed, []).append((point[size], point[accuracy]))
        return {seed: Curve.of(of_seed) for seed, of_seed in sorted(points.items())}

    def accuracy(self, kind: str, method: str) -> float | None:
        """Of the only point of a unit."""
        for _, result in self.of(kind, method):
            return float(result["points"][0]["accuracy"])
        return None
