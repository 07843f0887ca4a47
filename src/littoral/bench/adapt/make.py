"""What a worker process does with a row: load what it needs, choose the method, play the stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from littoral.bench.adapt.material import Material
from littoral.bench.adapt.methods import factory_of, fingerprint_of
from littoral.bench.adapt.orders import steps_of
from littoral.bench.adapt.play import LifeStore, play
from littoral.bench.adapt.row import Row

_materials: dict[tuple[Path, Path], Material] = {}


def make_row(row: Row, data: Path, work: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """A row's result."""
    torch.set_num_threads(1)
    material = _materials.setdefault((data, work), Material(data, work))
    if row.method in ("push_loss", "push_size"):
        from littoral.bench.adapt.special import push_loss, push_size

        return push_size(row, material) if row.method == "push_size" else push_loss(row, material, progress)
    kept = LifeStore(work / "lives" / f"{row.slug}-{row.key}.json", fingerprint_of(row))
    result = play(
        row,
        material.setup(row),
        factory_of(row),
        steps_of(row, material),
        unscored=hostile_of(row),
        kept=kept,
        progress=progress,
    )
    kept.clear()
    return result


def hostile_of(row: Row) -> tuple[int, ...]:
    """Devices whose answers do not count: those that a stream says are not ours, for every method the same."""
    return tuple(row.options.get("hostile", ()))
