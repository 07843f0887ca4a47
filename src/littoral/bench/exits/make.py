"""What a worker process does with a unit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from littoral.bench.exits.chain import Chain
from littoral.bench.exits.learn import STOPS
from littoral.bench.exits.material import LARGE, SMALL, ExitMaterial
from littoral.bench.exits.seen import Seen, frames_of
from littoral.bench.exits.unit import ExitUnit
from littoral.core.personal import PersonalConfig

_materials: dict[tuple[Path, Path], ExitMaterial] = {}
Tell = Callable[..., None]
Result = dict[str, Any]


def make_unit(unit: ExitUnit, data: Path, work: Path, tell: Tell) -> Result:
    """A unit's result: ``points``, flat rows, and what all of them share beside them."""
    torch.set_num_threads(1)
    material = _materials.setdefault((data, work), ExitMaterial(data, work))
    return _MAKERS[unit.kind](unit, material, tell)


def _all_seen(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Iterator[Seen]:
    for number, index in enumerate(range(unit.first, unit.first + unit.count)):
        tell(number * (unit.num_frames // unit.count), unit.num_frames, f"user {index}")
        yield material.seen(unit, index)


def _chain(unit: ExitUnit, material: ExitMaterial) -> Chain:
    return material.chain(unit.network, unit.stems)


def _shape(chain: Chain) -> Result:
    costs, digest = chain.costs(), hashlib.sha256(b"".join(exit.head.digest() for exit in chain.exits))
    return {
        "heads": digest.hexdigest()[:12],
        "full_macs": chain.full_macs,
        "exit_shares": [round(sum(costs.segment_macs[: i + 1]) / chain.full_macs, 4) for i in range(len(chain.exits))],
        "exit_macs": list(costs.head_macs),
    }


def _users(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from littoral.bench.exits.measure import LABELS, user_rows

    chain, points, facts = _chain(unit, material), [], []
    for seen in _all_seen(unit, material, tell):
        options = {"labels": unit.options.get("labels", LABELS), "stops": unit.options.get("stops", STOPS)}
        points += user_rows(chain, seen, **options)
        facts.append(seen.user.facts())
    return {"points": points, "who": facts, **_shape(chain)}


def _fits(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from littoral.bench.exits.measure import user_rows

    chain, points = _chain(unit, material), []
    for seen in _all_seen(unit, material, tell):
        for fit in unit.options["fits"]:
            config = replace(PersonalConfig(), fit=fit)
            rows = user_rows(chain, seen, labels=(0.0, 1.0), stops=(len(seen.personal),), config=config)
            points += [{"fit": fit, **row} for row in rows if row["frames"]]
    return {"points": points}


def _strangers(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from littoral.bench.exits.strangers import removal_row, stranger_row

    chain, points = _chain(unit, material), []
    for seen in _all_seen(unit, material, tell):
        facts = {"user": seen.user.index, "style": seen.user.style, "hard": seen.user.hard}
        points += [{"what": "never shown", **facts, **stranger_row(chain, seen, labels=n)} for n in (0.0, 1.0)]
        if seen.user.index < 3:
            points.append({"what": "day taken back", **facts, **removal_row(chain, seen, labels=0.1)})
    return {"points": points}


def _cost(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from littoral.bench.exits.costs import counted, measured_costs

    chain = _chain(unit, material)
    seen = next(_all_seen(unit, material, tell))
    return {"points": [{**counted(chain), **measured_costs(chain, seen)}]}


def _risk(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from littoral.bench.exits.risk_sim import NUM_CALIBRATIONS, risk_rows

    chain, points = _chain(unit, material), []
    for seen in _all_seen(unit, material, tell):
        points += risk_rows(
            chain,
            seen,
            num_frames=unit.options.get("frames", 400),
            num_calibrations=unit.options.get("calibrations", NUM_CALIBRATIONS),
        )
    return {"points": points}


def _drift(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from littoral.bench.exits.loop_unit import play_unit

    return play_unit(material, unit.network, unit.seed, unit.options, tell)


def _trained(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from torch import nn

    from littoral.bench.exits.trained import MultiExit, fresh_copy, trained_rows

    chain, points = _chain(unit, material), []
    trained = [each for each in material.exits(unit.network).exits if each.stem is not None]

    def make() -> MultiExit:
        exits = []
        for each in trained:
            assert each.stem is not None
            linear = nn.Linear(each.head.num_features, each.head.num_classes)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(each.head.weights_KD))
                linear.bias.copy_(torch.from_numpy(each.head.bias_K))
            exits.append(nn.Sequential(each.stem, linear))
        return fresh_copy(material.network(unit.network), [each.place for each in trained], exits)

    for seen in _all_seen(unit, material, tell):
        points += trained_rows(
            make,
            material.input(unit.network),
            chain.costs(),
            seen,
            material.frames(unit.network)[0],
            **({"num_epochs": unit.options["epochs"]} if "epochs" in unit.options else {}),
        )
    return {"points": points}


def _latency(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from littoral.bench.exits.latency import latency_rows, whole_network

    chain, points = _chain(unit, material), []
    whole = whole_network(material.network(unit.network), material.input(unit.network))
    others = {}
    if unit.network == LARGE:
        others["smaller"] = whole_network(material.network(SMALL), material.input(SMALL))
    frames, _ = material.frames(unit.network)
    for seen in _all_seen(unit, material, tell):
        shown = frames_of(seen.user, frames, "test")[: unit.options["frames"]]
        points += latency_rows(chain, seen, shown, whole, others=others)
    return {"points": points}


def _segmentation(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from littoral.bench.exits.segmentation import SegmentationUnit, make_segmentation

    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in unit.options.items()
    }
    dense = SegmentationUnit(network=unit.network, seed=unit.seed, **options)
    return make_segmentation(dense, material.data, material.work, tell)


def _omniglot(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from littoral.bench.exits.omniglot_unit import OmniglotUnit, make_omniglot, omniglot_points

    made = make_omniglot(OmniglotUnit(seed=unit.seed, **unit.options), material.data, material.work, tell)
    return {"points": omniglot_points(made), **made}


def _labels(unit: ExitUnit, material: ExitMaterial, tell: Tell) -> Result:
    from littoral.bench.exits.cloud_labels import AS_LABELS, cloud_label_rows, gains

    chain, points = _chain(unit, material), []
    cloud = replace(unit, network=unit.options["cloud"])
    for seen in _all_seen(unit, material, tell):
        answers_NK = material.seen(cloud, seen.user.index).personal.deep_NK
        points += cloud_label_rows(chain, seen, answers_NK, own=unit.options["own"], upload=unit.options["upload"])
    by_share = gains(points)
    return {
        "points": points,
        "gain_points_by_own_share": by_share,
        "gain_points_by_own_share_as_labels": gains(points, method=AS_LABELS),
        "cloud_label_gain_points": by_share[f"{unit.options['stated']:g}"],
    }


_MAKERS: dict[str, Callable[[ExitUnit, ExitMaterial, Tell], Result]] = {
    "users": _users,
    "fits": _fits,
    "strangers": _strangers,
    "cost": _cost,
    "risk": _risk,
    "drift": _drift,
    "trained": _trained,
    "latency": _latency,
    "segmentation": _segmentation,
    "omniglot": _omniglot,
    "labels": _labels,
}
_MODULES: dict[str, tuple[str, ...]] = {
    "users": ("measure",),
    "fits": ("measure",),
    "strangers": ("strangers",),
    "cost": ("costs",),
    "risk": ("risk_sim",),
    "drift": ("loop_unit",),
    "trained": ("trained",),
    "latency": ("latency",),
    "segmentation": ("segmentation",),
    "omniglot": ("omniglot_unit",),
    "labels": ("cloud_labels",),
}


def modules_of(unit: ExitUnit) -> list[str]:
    """The modules that a unit's numbers come from."""
    return ["littoral.bench.exits.material", *(f"littoral.bench.exits.{name}" for name in _MODULES[unit.kind])]


def modules_without(unit: ExitUnit) -> list[str]:
    """What they reach and no number comes from."""
    return ["littoral.errors", "littoral.bench.document"]
