"""The frames of a row in the order in which its method sees them.

Corrupted frames are made once per corruption and severity and kept in the work folder: a frame's corruption depends on the
frame alone, so every row sees the same ones. The row's seed chooses which test frames a shift has, in which order they
come, and in which order the shifts come.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from littoral.bench.adapt.fingerprint import fingerprint
from littoral.bench.adapt.material import Material
from littoral.bench.adapt.plan import Row
from littoral.bench.adapt.play import Step
from littoral.bench.method import Labels
from littoral.bench.streams.corruptions import corrupt
from littoral.core.arrays import Frame

CORRUPTION_SEED = 0
CORRELATED_SLOTS = 10
DIRICHLET = 0.1
RAMP = (1, 2, 3, 4, 5, 4, 3, 2, 1)
_SMALL_POOL = 2_000
Chosen = NDArray[np.int64]


class Pool:
    """Corrupted test frames by corruption and severity, memory-mapped from the work folder."""

    def __init__(self, frames: Frame, labels: Labels, folder: Path) -> None:
        self.frames, self.labels, self._folder = frames, labels, folder
        self._code = fingerprint(["littoral.bench.streams.corruptions"])
        self._open: dict[tuple[str, int], Frame] = {}

    def take(self, name: str, severity: int, chosen: Chosen) -> tuple[Frame, Labels]:
        """Corrupted frames and labels of these test frames."""
        key = (name, severity)
        if key not in self._open:
            self._open[key] = self._load(name, severity)
        return np.ascontiguousarray(self._open[key][chosen]), self.labels[chosen]

    def _load(self, name: str, severity: int) -> Frame:
        path = self._folder / f"{name}-{severity}-{len(self.frames)}-{self._code}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.npy")
            np.save(temporary, corrupt(self.frames, name, severity=severity, seed=CORRUPTION_SEED))
            os.replace(temporary, path)
        loaded: Frame = np.load(path, mmap_mode="r")
        return loaded


def pool_of(row: Row, material: Material) -> Pool:
    """The test frames that a row draws from: all 10,000, or fewer where a short row would have to corrupt them all."""
    frames, labels = material.test
    size = len(frames)
    if row.order == "gradual":
        size = max(_SMALL_POOL, row.frames)
    elif row.frames < 1_000:
        size = 4 * row.frames
    size = min(size, len(frames))
    return Pool(frames[:size], labels[:size], material.work / "frames")


def steps_of(row: Row, material: Material) -> Iterator[Step]:
    """The row's stream."""
    order = ORDERS.get(row.order)
    if order is None:
        raise ValueError(f"no order is called {row.order!r}; there are {sorted(ORDERS)}")
    return order(row, pool_of(row, material))


def _choose(rng: np.random.Generator, pool: Pool, count: int) -> Chosen:
    """Test frames without repetition, as long as there are enough."""
    size = len(pool.frames)
    rounds = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(rounds)[:count]


def _batches(
    frames: Frame, labels: Labels, size: int, *, shift: str, device: int = 0, fresh: bool = False
) -> Iterator[Step]:
    for start in range(0, len(frames), size):
        part = slice(start, start + size)
        yield Step(
            frames=frames[part], labels=labels[part], shift=shift, device=device, fresh=fresh and start == 0
        )


def _shuffled(row: Row, rng: np.random.Generator) -> list[str]:
    return [row.corruptions[index] for index in rng.permutation(len(row.corruptions))]


def _one_after_another(row: Row, pool: Pool, *, fresh: bool) -> Iterator[Step]:
    rng = np.random.default_rng([row.seed, 1])
    for name in _shuffled(row, rng):
        frames, labels = pool.take(name, row.severity, _choose(rng, pool, row.frames))
        yield from _batches(frames, labels, row.batch, shift=name, fresh=fresh)


def continual(row: Row, pool: Pool) -> Iterator[Step]:
    """Shift after shift, and the method goes on."""
    return _one_after_another(row, pool, fresh=False)


def per_shift(row: Row, pool: Pool) -> Iterator[Step]:
    """Shift after shift, each with a fresh method; the same frames as `continual`."""
    return _one_after_another(row, pool, fresh=True)


def mixed(row: Row, pool: Pool) -> Iterator[Step]:
    """Frames of all shifts in one shuffle."""
    rng = np.random.default_rng([row.seed, 2])
    chosen = np.concatenate([_choose(rng, pool, row.frames) for _ in row.corruptions])
    world = np.repeat(np.arange(len(row.corruptions)), row.frames)
    order = rng.permutation(len(chosen))
    for start in range(0, len(order), row.batch):
        picked = order[start : start + row.batch]
        parts = [pool.take(row.corruptions[world[i]], row.severity, chosen[i : i + 1]) for i in picked]
        yield Step(
            frames=np.concatenate([part[0] for part in parts]),
            labels=np.concatenate([part[1] for part in parts]),
            shift="",
        )


def correlated(row: Row, pool: Pool) -> Iterator[Step]:
    """As continual, but within a shift the classes come in clumps: Dirichlet 0.1 over ten slots (Gong et al., NOTE)."""
    rng = np.random.default_rng([row.seed, 3])
    for name in _shuffled(row, rng):
        chosen = _choose(rng, pool, row.frames)
        chosen = chosen[clumped(pool.labels[chosen], rng)]
        frames, labels = pool.take(name, row.severity, chosen)
        yield from _batches(frames, labels, row.batch, shift=name)


def clumped(labels: Labels, rng: np.random.Generator) -> Chosen:
    """An order of labels in which each of ten slots has its own mixture of classes."""
    slots: list[list[Chosen]] = [[] for _ in range(CORRELATED_SLOTS)]
    for label in np.unique(labels):
        where = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(CORRELATED_SLOTS, DIRICHLET))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(where)).astype(int)
        for slot, part in zip(slots, np.split(where, cuts), strict=True):
            slot.append(part)
    return np.concatenate([part for slot in slots for part in _in_any_order(slot, rng)])


def _in_any_order(parts: Sequence[Chosen], rng: np.random.Generator) -> list[Chosen]:
    return [parts[index] for index in rng.permutation(len(parts))]


def gradual(row: Row, pool: Pool) -> Iterator[Step]:
    """Each shift comes and goes: severities 1 to 5 and back to 1."""
    rng = np.random.default_rng([row.seed, 4])
    for name in _shuffled(row, rng):
        for part, severity in zip(np.array_split(_choose(rng, pool, row.frames), len(RAMP)), RAMP, strict=True):
            frames, labels = pool.take(name, severity, part)
            yield from _batches(frames, labels, row.batch, shift=name)


def recurring(row: Row, pool: Pool) -> Iterator[Step]:
    """Every world twice: A B C D A B C D, with other frames at the second visit."""
    rng = np.random.default_rng([row.seed, 5])
    worlds = _shuffled(row, rng)
    for visit in (1, 2):
        for name in worlds:
            frames, labels = pool.take(name, row.severity, _choose(rng, pool, row.frames))
            yield from _batches(frames, labels, row.batch, shift=f"{name} {visit}")


def fleet(row: Row, pool: Pool) -> Iterator[Step]:
    """Several devices at once, each in one world all the time; neighbours in number share a world."""
    rng = np.random.default_rng([row.seed, 6])
    streams = []
    for device in range(row.devices):
        name = row.corruptions[device * len(row.corruptions) // row.devices]
        frames, labels = pool.take(name, row.severity, _choose(rng, pool, row.frames))
        streams.append(_batches(frames, labels, row.batch, shift=name, device=device))
    for together in zip(*streams, strict=True):
        yield from together


ORDERS: Mapping[str, Callable[[Row, Pool], Iterator[Step]]] = {
    "continual": continual,
    "per_shift": per_shift,
    "mixed": mixed,
    "correlated": correlated,
    "gradual": gradual,
    "recurring": recurring,
    "fleet": fleet,
}
