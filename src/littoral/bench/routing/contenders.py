"""All policies that meet on a stream: what others ship, oracles, and ours at several prices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from littoral.bench.routing.fitted import RISKS, FittedSets, Setting
from littoral.bench.routing.halves import EXIT_SETS, Exits, Halves
from littoral.bench.routing.look import PricedOracle, looked_at
from littoral.bench.routing.policies import (
    CloudOnly,
    ConfidenceOffload,
    DeviceOnly,
    Oracle,
    Policy,
    StaticSplit,
)
from littoral.bench.routing.tables import FrameTable
from littoral.core.route_plan import Prices

DEVICE, EXITS, CLOUD, SPLIT, CONFIDENCE, ORACLE, OURS = (
    "device only", "static exits", "cloud only", "static split", "offload by confidence", "oracle", "ours",
)  # fmt: skip
FAMILIES = (DEVICE, EXITS, CLOUD, SPLIT, CONFIDENCE, OURS, ORACLE)
ABLATION = ", no switcher"
LOOKS = "oracle, by look"
LEAST_SURE = (0.5, 0.7, 0.9, 0.97)
EXIT_RISK = 0.05
"""Of the exits of policies that have exits and offload."""
SETTINGS = (
    Setting(name="ours, careful", prices=Prices(ms=1e-4, byte=1e-7), risk=0.01),
    Setting(name="ours, default prices", prices=Prices(), risk=0.02),
    Setting(name="ours, few bytes", prices=Prices(ms=1e-4, byte=1e-4), risk=0.02),
    Setting(name="ours, quick", prices=Prices(ms=2e-3, byte=1e-6), risk=0.05),
    Setting(name="ours, very quick", prices=Prices(ms=6e-3, byte=1e-5), risk=0.1),
)
DEFAULT_SETTING = SETTINGS[1]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One policy, made fresh for a run.

    Attributes:
        family: One of `FAMILIES`.
        table: What it is played on: its device's steps, its ways.
    """

    name: str
    family: str
    table: FrameTable
    make: Callable[[], Policy]


def others(given: Halves, fitted: FittedSets, *, deadline_ms: float) -> list[Contender]:
    """The policies that others ship."""
    plain = given.plain
    out: list[Contender] = []

    def add(name: str, family: str, on: FrameTable, make: Callable[[str], Policy]) -> None:
        out.append(Contender(name=name, family=family, table=on, make=lambda: make(name)))

    add(DEVICE, DEVICE, plain, lambda name: DeviceOnly(name, plain, deadline_ms=deadline_ms))
    for exits, table in given.stream.items():
        for risk in RISKS if exits else ():
            limits = fitted.by_exits[exits].thresholds[risk]
            add(f"exits {', '.join(exits)}, risk {risk:g}", EXITS, table,
                lambda name, table=table, limits=limits: DeviceOnly(  # type: ignore[misc]
                    name, table, deadline_ms=deadline_ms, thresholds=limits))  # fmt: skip
    for w, way in enumerate(plain.ways):
        policy, family = (StaticSplit, SPLIT) if w < given.num_splits else (CloudOnly, CLOUD)
        add(f"always {way.name}", family, _as_split(plain, w, given),
            lambda name, w=w, policy=policy: policy(  # type: ignore[misc]
                name, _as_split(plain, w, given), w, deadline_ms=deadline_ms))  # fmt: skip
    for w, exits in _offloads(given):
        table, limits = given.stream[exits], fitted.by_exits[exits].thresholds[EXIT_RISK]
        for sure in LEAST_SURE:
            name = f"below {sure:g} {table.ways[w].name}" + (f", exits risk {EXIT_RISK:g}" if exits else "")
            add(name, CONFIDENCE, table, lambda name, w=w, table=table, limits=limits, sure=sure: ConfidenceOffload(  # type: ignore[misc]
                    name, table, w, least_sure=sure, deadline_ms=deadline_ms, thresholds=limits))  # fmt: skip
    return out


def _as_split(plain: FrameTable, way: int, given: Halves) -> FrameTable:
    """A device that always splits stops where the split starts: the steps up to there and behind it, and no exit."""
    if plain.ways[way].way.point == 0:
        return plain
    cut = given.stream[EXIT_SETS[0]]
    free = np.array(cut.step_ms) * sum(plain.step_ms) / sum(cut.step_ms)
    return replace(cut, step_ms=tuple(free.tolist()))


def _offloads(given: Halves) -> list[tuple[int, Exits]]:
    """Which ways are taken below a confidence: the finest and the coarsest level of the first split, the best WebP, and
    what loses nothing, since ours has that too."""
    names = [way.name for way in given.plain.ways]
    levels = [w for w in given.splits if names[w].rsplit(" ", 1)[0] == names[0].rsplit(" ", 1)[0]]
    webp = webp_ways(given.plain)
    pictures = [*webp[-1:], *(w for w, name in enumerate(names) if name == "png")]
    return [(levels[-1], ()), (levels[-1], EXIT_SETS[1]), (levels[0], ()), *((w, ()) for w in pictures)]


def webp_ways(table: FrameTable) -> list[int]:
    """The ways that are WebP pictures, the coarsest first."""
    return [w for w, way in enumerate(table.ways) if way.name.startswith("webp ")]


def oracles(given: Halves, *, deadline_ms: float, prices: Prices) -> list[Contender]:
    """What could be had: with ours' ways, its exits, and the prices of its default."""
    table = given.unlooked().of(slice(None), given.ours)
    last = table.num_points - 1
    local, cloud = 1 - table.local_right_NP, 1 - table.cloud_right_NW
    likely, cloud_likely = looked_at(table)

    def priced(name: str, wrong: tuple[object, object], first: int) -> Contender:
        def make() -> Policy:
            return PricedOracle(
                name,
                table,
                wrong_NP=wrong[0],  # type: ignore[arg-type]
                wrong_NW=wrong[1],  # type: ignore[arg-type]
                prices=prices,
                deadline_ms=deadline_ms,
                first_point=first,
            )

        return Contender(name=name, family=ORACLE, table=table, make=make)

    return [
        Contender(name="oracle, all", family=ORACLE, table=table,
                  make=lambda: Oracle("oracle, all", table, deadline_ms=deadline_ms)),
        Contender(name="oracle, two", family=ORACLE, table=table,
                  make=lambda: Oracle("oracle, two", table, deadline_ms=deadline_ms, among="two")),
        priced("oracle, priced", (local, cloud), 0),
        priced("oracle, priced, two", (local, cloud), last),
        priced(LOOKS, (likely, cloud_likely), 0),
    ]  # fmt: skip


def ours(
    given: Halves, fitted: FittedSets, settings: Sequence[Setting], *, deadline_ms: float, seed: int, caution: bool
) -> list[Contender]:
    """Ours at these settings, with splits and pictures as its ways and the exits that are worth most."""

    def one(setting: Setting, *, switches: bool = True) -> Contender:
        exits = fitted.exits_for(setting)
        table = given.stream[exits].of(slice(None), given.ours)

        def make() -> Policy:
            policy = fitted.by_exits[exits].ours(
                table, setting, deadline_ms=deadline_ms, seed=seed, caution=caution, switches=switches
            )
            policy.name = name
            return policy

        name = setting.name if switches else f"{setting.name}{ABLATION}"
        return Contender(name=name, family=OURS, table=table, make=make)

    return [*(one(setting) for setting in settings), one(DEFAULT_SETTING, switches=False)]
