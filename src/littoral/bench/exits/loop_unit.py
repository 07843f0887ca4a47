"""A unit of kind ``drift``: a device with exits plays through worlds, with its cloud or without, one setting of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from littoral.bench.exits.drift import points, recovery
from littoral.bench.exits.loop_bundle import loop_bundle
from littoral.bench.exits.loop_play import LoopDevice, World, play_worlds
from littoral.bench.streams.corruptions import corrupt_at
from littoral.core.exit_control import ControlConfig
from littoral.edge.device import DeviceConfig
from littoral.edge.exit_config import ExitConfig

if TYPE_CHECKING:
    from littoral.bench.exits.material import ExitMaterial

CLEAN = "none"
WORLDS: tuple[tuple[str, int], ...] = ((CLEAN, 0), ("defocus_blur", 5), ("contrast", 5), (CLEAN, 0))
FRAMES = (600, 900, 900, 500)
QUICK_WORLDS: tuple[tuple[str, int], ...] = ((CLEAN, 0), ("contrast", 3), (CLEAN, 0))
QUICK_FRAMES = (400, 500, 400)
_WORLD_SEED = 5
_TODAY = 0


def play_unit(
    material: ExitMaterial, network: str, seed: int, options: Mapping[str, Any], tell: Callable[..., None]
) -> dict[str, Any]:
    """The rows of one run, and what it took.

    Args:
        seed: Of the order of frames, the device's coin, and the cloud.
        options: ``cloud`` and ``recheck``, which are on; ``quick``, which is off.
    """
    cloud, recheck, quick = (bool(options.get(name, name != "quick")) for name in ("cloud", "recheck", "quick"))
    named = list(zip(QUICK_WORLDS, QUICK_FRAMES, strict=True) if quick else zip(WORLDS, FRAMES, strict=True))
    bundle, worlds = loop_bundle(material, network), _worlds(material, network, named, seed)
    control = ControlConfig(recheck=recheck)
    exits = ExitConfig(control=control, learning_share=1.0, today=lambda: _TODAY, seed=seed)
    total = sum(len(world.labels) for world in worlds)
    with LoopDevice(bundle, DeviceConfig(exits=exits), seed=seed, cloud=cloud) as device:
        told = play_worlds(device, worlds, tell=lambda done: tell(done, total, worlds[told_world(done, named)].name))
        spent, full_macs = device.costs(), device.full_macs
    setting = {"cloud": cloud, "recheck": recheck}
    rows = points(told, [world.name for world in worlds], full_macs=full_macs, risk=control.risk)
    found = recovery(rows)
    everything = {f"all_{key}": value for key, value in rows[-2].items() if key != "world"}
    return {
        **setting,
        "network": network,
        "seed": seed,
        "risk_promised": control.risk,
        **(found if cloud and recheck else {f"{key}_of_control": value for key, value in found.items()}),
        **everything,
        **spent,
        "points": [{**setting, "run": seed, **row} for row in rows],
    }


def told_world(done: int, named: Sequence[tuple[tuple[str, int], int]]) -> int:
    """The world of the last of so many frames."""
    ends = np.cumsum([count for _, count in named])
    return int(np.searchsorted(ends, min(done, int(ends[-1]))))


def _worlds(
    material: ExitMaterial, network: str, named: Sequence[tuple[tuple[str, int], int]], seed: int
) -> list[World]:
    """No frame comes twice, as long as there are enough."""
    frames, labels = material.frames(network)
    total = sum(count for _, count in named)
    order = np.resize(np.random.default_rng([seed, 77]).permutation(len(frames)), total)
    out, begin = [], 0
    for (name, severity), count in named:
        places = order[begin : begin + count]
        begin += count
        shown = frames[places]
        if name != CLEAN:
            shown = corrupt_at(shown, places.tolist(), name, severity=severity, seed=_WORLD_SEED)
        out.append(World(name=f"{name} {severity}" if severity else name, frames=shown, labels=labels[places]))
    return out
