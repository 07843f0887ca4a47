"""What a worker process does with a row: load what it needs, choose the method, play the stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from littoral.bench.adapt.lives import LifeStore, life_file
from littoral.bench.adapt.material import Material
from littoral.bench.adapt.methods import factory_of, fingerprint_of, modules_of, modules_without
from littoral.bench.adapt.orders import steps_of
from littoral.bench.adapt.play import play
from littoral.bench.adapt.row import Row
from littoral.bench.fingerprint import changed_since
from littoral.bench.method import Setup

_BEGAN = time.time()
_materials: dict[tuple[Path, Path], Material] = {}


def make_row(row: Row, data: Path, work: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """A row's result."""
    torch.set_num_threads(1)
    material = _materials.setdefault((data, work), Material(data, work))
    if row.method in ("push_loss", "push_size"):
        from littoral.bench.adapt.special import push_loss, push_size

        return push_size(row, material) if row.method == "push_size" else push_loss(row, material, progress)
    setup = material.setup(row)
    return play(
        row,
        setup,
        factory_of(row),
        steps_of(row, material),
        unscored=hostile_of(row),
        kept=_kept(row, setup, work),
        progress=progress,
    )


def _kept(row: Row, setup: Setup, work: Path) -> LifeStore | None:
    """Lives by this code on such a processor; None where the code has changed since this process began to run it."""
    if changed_since(_BEGAN, modules_of(row), without=modules_without(row)):
        return None
    on = f"{setup.torch_device.type} {torch.backends.cpu.get_cpu_capability()}"
    return LifeStore(life_file(work, row), f"{fingerprint_of(row)} on {on}")


def hostile_of(row: Row) -> tuple[int, ...]:
    """Devices whose answers do not count: those that a stream says are not ours, for every method the same."""
    return tuple(row.options.get("hostile", ()))
