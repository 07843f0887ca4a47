"""What a worker process does with a unit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch

from littoral.bench.routing.channel import VirtualLink
from littoral.bench.routing.choose import as_right_as
from littoral.bench.routing.compare import Standing, standing
from littoral.bench.routing.contenders import (
    CLOUD,
    DEFAULT_SETTING,
    DEVICE,
    LOOKS,
    OURS,
    SETTINGS,
    Contender,
    oracles,
    others,
    ours,
    webp_ways,
)
from littoral.bench.routing.fitted import FittedSets, rightness
from littoral.bench.routing.halves import Halves, halves
from littoral.bench.routing.measured import LoopMaterial, MeasuredConfig
from littoral.bench.routing.run import StreamConfig, play
from littoral.bench.routing.timed import timed
from littoral.bench.routing.traces import Kind, LinkTrace, make_trace, read_trace
from littoral.bench.routing.unit import LoopUnit

Tell = Callable[..., None]
Result = dict[str, Any]
_fitted: dict[str, FittedSets] = {}
_CHOICE_SEED = 1_000
"""Added to the seed of the trace on which a price is chosen."""


def make_unit(unit: LoopUnit, data: Path, work: Path, tell: Tell) -> Result:
    """A unit's result: ``points``, flat rows of policies, and what all of them share beside them."""
    torch.set_num_threads(1)
    material = LoopMaterial(data, work, MeasuredConfig.of(unit.options["tables"]), tell)
    spent = timed(material, work)
    given = halves(material, spent, stream=unit.stream, seed=unit.seed, device_ms=unit.device_ms)
    given = given.first(unit.options["frames"])
    result = played_unit(unit, given, trace_of(unit, work), tell, kept=_fitted)
    return {**result, "times": spent.row(), "shares_right": rightness(given.unlooked())}


def trace_of(unit: LoopUnit, work: Path) -> Callable[[int], LinkTrace]:
    """The unit's link by seed; a user's file is what it is."""
    if "trace_file" in unit.options:
        trace = read_trace(work / "loop" / "traces" / f"{unit.options['trace_file']}.csv")
        return lambda seed: trace
    assert unit.trace in get_args(Kind)
    return lambda seed: make_trace(cast(Kind, unit.trace), seed)


def played_unit(
    unit: LoopUnit,
    given: Halves,
    trace: Callable[[int], LinkTrace],
    tell: Tell,
    *,
    kept: dict[str, FittedSets] | None = None,
) -> Result:
    """All policies of a unit on its stream.

    Args:
        kept: What was fitted for units with the same calibration frames and the same device, by these.
    """
    config = StreamConfig(
        period_ms=unit.period_ms, in_flight=unit.in_flight, deadline_ms=unit.deadline_ms, seed=unit.seed
    )
    tables = {exits: table.of(slice(None), given.ours) for exits, table in given.calibration.items()}
    key = json.dumps([unit.options["tables"], unit.seed, unit.device_ms, asdict(config)])
    found = (kept or {}).get(key)
    fitted = found if found is not None else FittedSets(tables, config)
    if kept is not None:
        kept[key] = fitted
    contenders, chosen = _contenders(unit, given, fitted, trace, config, tell)
    link = trace(unit.seed).without_cloud() if unit.kind == "no-cloud" else trace(unit.seed)
    points = []
    for number, contender in enumerate(contenders):
        tell(number * len(given.plain), len(contenders) * len(given.plain), contender.name)
        points += _rows(contender, given, link, config, seed=unit.seed)
    return {
        "points": points,
        "chosen": chosen,
        "exits": [
            {"exits": ", ".join(exits), "step_ms": [round(step, 3) for step in given.stream[exits].step_ms],
             "thresholds": {str(risk): [round(t, 4) for t in limits] for risk, limits in found.thresholds.items()},
             "settings": [setting.name for setting in SETTINGS if fitted.exits_for(setting) == exits]}
            for exits, found in fitted.by_exits.items()
        ],
        "ways": [
            {"name": way.name, "mean_bytes": round(float(size), 1),
             "encode_ms": round(way.way.encode_ms, 3), "cloud_ms": round(way.cloud_ms, 3)}
            for way, size in zip(given.plain.ways, given.plain.bytes_NW.mean(axis=0), strict=True)
        ],
    }  # fmt: skip


def _contenders(
    unit: LoopUnit,
    given: Halves,
    fitted: FittedSets,
    trace: Callable[[int], LinkTrace],
    config: StreamConfig,
    tell: Tell,
) -> tuple[list[Contender], list[Result]]:
    """Who plays, and which prices were chosen for the accuracy of which picture."""
    shared: dict[str, Any] = {"deadline_ms": unit.deadline_ms, "seed": unit.seed, "caution": unit.stream == "drift"}
    if unit.kind == "no-cloud":
        return ours(given, fitted, SETTINGS, **shared), []
    tell(0, len(given.plain), "choosing prices")
    chosen = as_right_as(given, fitted, webp_ways(given.plain), trace(unit.seed + _CHOICE_SEED), config)
    settings = [*SETTINGS, *(each.setting for each in chosen if each.setting is not None)]
    rest = others(given, fitted, deadline_ms=unit.deadline_ms)
    if unit.kind == "speed":
        rest = [one for one in rest if one.family in (DEVICE, CLOUD)]
    top = oracles(given, deadline_ms=unit.deadline_ms, prices=DEFAULT_SETTING.prices)
    if unit.kind == "speed":
        top = [one for one in top if one.name == LOOKS]
    return [*rest, *ours(given, fitted, settings, **shared), *top], [each.row() for each in chosen]


def _rows(contender: Contender, given: Halves, link: LinkTrace, config: StreamConfig, *, seed: int) -> list[Result]:
    """A policy's row, and in a stream with phases one for each phase of some of them."""
    policy = contender.make()
    played = play(policy, contender.table, VirtualLink(link, seed=seed), config)
    shared = {"family": contender.family}
    rows = [{**shared, "phase": "all", **_row(standing(played)), **_why(played.reason)}]
    phases = list(dict.fromkeys(given.phases_N.tolist()))
    if len(phases) > 1 and contender.family in (OURS, DEVICE):
        for phase in phases:
            at = np.flatnonzero(given.phases_N == phase)
            rows.append({**shared, "phase": phase, **_row(standing(played, slice(int(at[0]), int(at[-1]) + 1)))})
    return rows


def _row(found: Standing) -> Result:
    """As documents have it: accuracies in percent."""
    row = found.row()
    name = row.pop("name")
    percent = {key: round(100 * row.pop(key), 4) for key in ("accuracy", "timely_accuracy")}
    return {"policy": name, **percent, **row}


def _why(reasons: Sequence[str]) -> Result:
    """The shares of the reasons for which frames were not offloaded though they were hard."""
    wanted = ("link-down", "link-stale", "link-slow", "no-time", "device-late")
    return {f"reason_{name.replace('-', '_')}": round(reasons.count(name) / len(reasons), 5) for name in wanted}
