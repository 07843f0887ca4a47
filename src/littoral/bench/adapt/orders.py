"""The stream of a row, from `littoral.bench.streams`: the row's seed draws the frames and the order of the shifts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from littoral.bench.adapt.material import Material
from littoral.bench.adapt.play import Step
from littoral.bench.adapt.row import Row
from littoral.bench.streams import orders
from littoral.bench.streams.pools import CorruptedPool, Pool
from littoral.bench.streams.stream import Stream

FLEET_PERIODS = 4
DEVICES_PER_DOMAIN = 2
VISITS = 2
_SMALL_POOL = 2_000
_FEW_FRAMES = 1_000


def pool_of(row: Row, material: Material) -> CorruptedPool:
    """The test frames that a row draws from: all 10,000, or fewer where a small row would have to corrupt them all.

    Corrupted by one seed whatever the row's, so that a frame is corrupted and kept once: rows of different seeds share
    the corruption that lies on a frame.
    """
    frames, labels = material.test
    size = len(frames)
    if row.frames < _FEW_FRAMES:
        size = 4 * row.frames
    elif row.order == "gradual":  # at five severities
        size = max(_SMALL_POOL, row.frames)
    size = min(size, len(frames))
    return CorruptedPool(frames=frames[:size], labels=labels[:size], cache=material.work / "frames")


def stream_of(row: Row, pool: Pool) -> Stream:
    """The row's stream.

    Raises:
        ValueError: no order of this name.
    """
    make = ORDERS.get(row.order)
    if make is None:
        raise ValueError(f"no order is called {row.order!r}; there are {sorted(ORDERS)}")
    order = np.random.default_rng([row.seed, 1]).permutation(len(row.corruptions))
    return make(row, pool, [row.corruptions[index] for index in order])


def steps_of(row: Row, material: Material) -> Iterator[Step]:
    """The row's stream, batch by batch."""
    yield from steps(row, stream_of(row, pool_of(row, material)))


def steps(row: Row, stream: Stream) -> Iterator[Step]:
    """Batches with the name of their first frame's shift; of a recurring one with the visit behind it."""
    for batch in stream.batches(row.batch):
        shift = int(batch.shift[0])
        name = "" if row.order == "mixed" else stream.names[shift]
        if row.order == "recurring":
            name = f"{name} {1 + shift // len(row.corruptions)}"
        yield Step(frames=batch.frames, labels=batch.labels, shift=name, device=batch.device, fresh=batch.begins)


Make = Callable[[Row, Pool, Sequence[str]], Stream]


def _continual(row: Row, pool: Pool, names: Sequence[str]) -> Stream:
    return orders.continual(pool, names, frames_per_shift=row.frames, seed=row.seed, severity=row.severity)


def _per_shift(row: Row, pool: Pool, names: Sequence[str]) -> Stream:
    return orders.per_shift(pool, names, frames_per_shift=row.frames, seed=row.seed, severity=row.severity)


def _mixed(row: Row, pool: Pool, names: Sequence[str]) -> Stream:
    return orders.mixed(pool, names, frames_per_shift=row.frames, seed=row.seed, severity=row.severity)


def _correlated(row: Row, pool: Pool, names: Sequence[str]) -> Stream:
    return orders.correlated(pool, names, frames_per_shift=row.frames, seed=row.seed, severity=row.severity)


def _gradual(row: Row, pool: Pool, names: Sequence[str]) -> Stream:
    return orders.gradual(pool, names, frames_per_shift=row.frames, seed=row.seed)


def _recurring(row: Row, pool: Pool, names: Sequence[str]) -> Stream:
    options = {"frames_per_visit": row.frames, "visits": VISITS, "severity": row.severity}
    return orders.recurring(pool, names, seed=row.seed, **options)


def _fleet(row: Row, pool: Pool, names: Sequence[str]) -> Stream:
    return orders.fleet(
        pool,
        names,
        frames_per_visit=max(row.frames // FLEET_PERIODS, 1),
        seed=row.seed,
        severity=row.severity,
        periods=FLEET_PERIODS,
        num_domains=row.devices // DEVICES_PER_DOMAIN,
        devices_per_domain=DEVICES_PER_DOMAIN,
    )


ORDERS: Mapping[str, Make] = {
    "continual": _continual,
    "per_shift": _per_shift,
    "mixed": _mixed,
    "correlated": _correlated,
    "gradual": _gradual,
    "recurring": _recurring,
    "fleet": _fleet,
}
