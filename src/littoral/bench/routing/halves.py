"""Tables of frames for a run: half of the frames calibrate, the other half is the stream. Which is which, and in what
order the stream comes, is drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from littoral.bench.exits.bundles import PLACES
from littoral.bench.routing.measured import SHIFTS, LoopMaterial, World
from littoral.bench.routing.tables import CloudWay, FrameTable
from littoral.bench.routing.timed import Timed, picture_name, way_name
from littoral.bench.split.material import STUDENT
from littoral.core.arrays import Float64s, Indices
from littoral.core.route_words import Way
from littoral.core.switcher import all_switch_features

Exits = tuple[str, ...]
EXIT_SETS: tuple[Exits, ...] = (("layer1.2", "layer2.2"), ("layer1.2",), ("layer2.0",), ())
"""Of the trained exits those that a device may have: a stem costs every frame that passes it, and which are worth
that depends on what time is worth."""
PICTURES_OF_OURS = ("webp 95", "png")
"""The pictures that are ways of ours too, beside the splits: one that loses something, and one that does not."""
STREAMS = ("clean", "drift")
SIGN_AFTER = 64
"""So many frames after a new phase has begun there is a sign of drift; what a device's own signal takes is measured
where there is a device."""


@dataclass(frozen=True, kw_only=True)
class Halves:
    """What a run needs.

    Attributes:
        calibration, stream: By the exits that the device has; steps with what these cost.
        num_splits: So many of the ways, the first ones, are splits; the others are pictures.
        phases_N: The world of each frame of the stream.
    """

    calibration: Mapping[Exits, FrameTable]
    stream: Mapping[Exits, FrameTable]
    num_splits: int
    phases_N: NDArray[np.str_]

    @property
    def splits(self) -> tuple[int, ...]:
        return tuple(range(self.num_splits))

    @property
    def ours(self) -> tuple[int, ...]:
        """The ways of ours: the splits, and pictures for the whole teacher."""
        pictures = [w for w, way in enumerate(self.plain.ways) if way.name in PICTURES_OF_OURS]
        return (*self.splits, *pictures)

    @property
    def plain(self) -> FrameTable:
        """The stream of a device that has no exits."""
        return self.stream[()]

    def unlooked(self) -> FrameTable:
        """The stream with answers of exits that cost nothing: for oracles, which need not look."""
        most = self.stream[EXIT_SETS[0]]
        free = np.array(most.step_ms) * sum(self.plain.step_ms) / sum(most.step_ms)
        return replace(most, step_ms=tuple(free.tolist()))

    def first(self, frames: int) -> Halves:
        """With a stream of at most so many frames."""
        stream = {exits: table.of(slice(0, frames)) for exits, table in self.stream.items()}
        return replace(self, stream=stream, phases_N=self.phases_N[:frames])


def halves(material: LoopMaterial, spent: Timed, *, stream: str, seed: int, device_ms: float) -> Halves:
    """Draw them.

    Args:
        stream: ``clean``, or ``drift``: phases of frames as they are and under `SHIFTS`. Calibration is clean.
        device_ms: What the device's whole network takes without exits: its speed.
    """
    order: Indices = np.random.default_rng([seed, 17]).permutation(material.config.frames)
    cut = len(order) // 2

    def tables(world: World, rows: Indices) -> dict[Exits, FrameTable]:
        made = ((exits, whole_table(material, spent, world, exits=exits, device_ms=device_ms)) for exits in EXIT_SETS)
        return {exits: table.of(rows) for exits, table in made}

    calibration = tables("clean", order[:cut])
    num_splits = len(calibration[()].ways) - len(material.pictures())
    if stream == "clean":
        rows = order[cut:]
        phases: NDArray[np.str_] = np.full(len(rows), "clean")
        return Halves(calibration=calibration, stream=tables("clean", rows), phases_N=phases, num_splits=num_splits)
    rows, phases = _phases(order[cut:], material.groups)
    signs = np.zeros(len(rows), np.bool_)
    for begun in np.flatnonzero(phases[1:] != phases[:-1]) + 1:
        signs[min(int(begun) + SIGN_AFTER, len(rows) - 1)] = True
    shifted = {exits: replace(table, drift_N=signs) for exits, table in tables("shifted", rows).items()}
    return Halves(calibration=calibration, stream=shifted, phases_N=phases, num_splits=num_splits)


def whole_table(material: LoopMaterial, spent: Timed, world: World, *, exits: Exits, device_ms: float) -> FrameTable:
    """All frames of a world, in their own order, for a device with these exits."""
    scale = device_ms / spent.whole_ms
    kept = [PLACES[STUDENT].index(place) for place in exits]
    probabilities_NPK = material.device(world)[:, [*kept, -1]]
    steps = _between(spent.segment_ms, kept) if kept else [spent.whole_ms]
    for number, place in enumerate(kept):
        steps[number] += spent.exit_ms[place]
    ways, answers, sizes = list[CloudWay](), list[Indices](), list[NDArray[np.int64]]()

    def add(name: str, way: Way, found: tuple[Indices, NDArray[np.int64]]) -> None:
        ways.append(CloudWay(name=name, way=way, cloud_ms=spent.cloud_ms[name]))
        answers.append(found[0])
        sizes.append(found[1])

    for split, given in enumerate(material.config.inputs):
        for level, found in enumerate(material.split_way(world, given)):
            name = way_name(given, level)
            add(name, _way(split, level, _point_of(given, exits), found.bytes_N, scale * spent.encode_ms[name]),
                (found.answers_N, found.bytes_N))  # fmt: skip
    for number, (codec, quality) in enumerate(material.pictures()):
        name, found = picture_name(codec, quality), material.picture_way(world, codec, quality)
        encode_ms = scale * spent.encode_ms[name]
        way = replace(_way(0, number, 0, found.bytes_N, encode_ms), coding=name.replace(" ", "-"))
        add(name, way, (found.answers_N, found.bytes_N))
    return FrameTable(
        labels_N=material.labels,
        answers_NP=probabilities_NPK.argmax(axis=2),
        confidences_NP=probabilities_NPK.max(axis=2),
        features_NPF=all_switch_features(probabilities_NPK),
        cloud_answers_NW=np.stack(answers, axis=1),
        bytes_NW=np.stack(sizes, axis=1),
        ways=tuple(ways),
        step_ms=tuple(scale * step for step in steps),
    )


def _way(split: int, level: int, point: int, bytes_N: NDArray[np.int64], encode_ms: float) -> Way:
    return Way(split=split, level=level, point=point, num_bytes=float(bytes_N.mean()), encode_ms=encode_ms)


def _between(segment_ms: Sequence[float], kept: Sequence[int]) -> list[float]:
    """From each exit that is kept to the next, and to the end."""
    edges = [0, *(place + 1 for place in kept), len(segment_ms)]
    return [sum(segment_ms[first:last]) for first, last in pairwise(edges)]


def _point_of(given: str, exits: Exits) -> int:
    """The first point at which what a split starts from is there; modules are named in the order of the network."""
    if given == "pixels":
        return 0
    return next((number + 1 for number, place in enumerate(exits) if place >= given), len(exits) + 1)


def _phases(rows: Indices, groups_N: Indices) -> tuple[Indices, NDArray[np.str_]]:
    """Clean, the shifts one after another, and clean again; each has the frames that are seen so."""
    by_group = {number: rows[groups_N[rows] == number] for number in range(-1, len(SHIFTS))}
    first, last = np.array_split(by_group[-1], 2)
    parts: list[tuple[str, Float64s | Indices]] = [("clean", first)]
    parts += [(name, by_group[number]) for number, name in enumerate(SHIFTS)]
    parts.append(("clean again", last))
    return np.concatenate([part for _, part in parts]), np.repeat(
        [name for name, _ in parts], [len(p) for _, p in parts]
    )
