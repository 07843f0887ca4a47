"""A unit of kind ``drift``: a device with exits plays through worlds, with its cloud or without, one setting of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from littoral.bench.exits.drift import points, recovery
from littoral.bench.exits.loop_bundle import loop_bundle
from littoral.bench.exits.loop_play import LoopDevice, World, play_worlds
from littoral.bench.exits.unit import HARD
from littoral.bench.streams.corruptions import corrupt_at
from littoral.core.exit_control import ControlConfig
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exit_config import ExitConfig

if TYPE_CHECKING:
    from littoral.bench.exits.material import ExitMaterial

CLEAN = "none"
Stream = tuple[tuple[str, int, int], ...]
STREAMS: Mapping[str, Stream] = {
    HARD: ((CLEAN, 0, 600), ("defocus_blur", 5, 900), ("contrast", 5, 900), (CLEAN, 0, 500)),
    "mild": ((CLEAN, 0, 600), ("defocus_blur", 3, 900), ("fog", 3, 900), (CLEAN, 0, 500)),
    "noise": ((CLEAN, 0, 400), ("gaussian_noise", 5, 400), (CLEAN, 0, 300)),
    "abrupt": ((CLEAN, 0, 200), ("frost", 5, 300), ("pixelate", 5, 300), ("impulse_noise", 5, 300)),
    "quick": ((CLEAN, 0, 400), ("contrast", 3, 500), (CLEAN, 0, 400)),
}
"""Worlds, severities and frames, one after another. In ``noise`` and ``abrupt`` early exits are sure and wrong: there
the re-check is what keeps the promise, and little can leave early whatever is done."""
_WORLD_SEED = 5
_TODAY = 0


def play_unit(
    material: ExitMaterial, network: str, seed: int, options: Mapping[str, Any], tell: Callable[..., None]
) -> dict[str, Any]:
    """The rows of one run, and what it took.

    Args:
        seed: Of the order of frames, the device's coin, and the cloud.
        options: ``cloud`` and ``recheck``, which are on; ``shipped``, which is off: begin with the thresholds that the
            build certified; and ``stream``, a key of `STREAMS`.
    """
    cloud, recheck = (bool(options.get(name, True)) for name in ("cloud", "recheck"))
    name = options.get("stream", HARD)
    bundle, worlds = loop_bundle(material, network), _worlds(material, network, STREAMS[name], seed)
    control = ControlConfig(recheck=recheck)
    exits = ExitConfig(
        control=control,
        learning_share=1.0,
        today=lambda: _TODAY,
        seed=seed,
        start_with_shipped=bool(options.get("shipped", False)),
    )
    total = sum(len(world.labels) for world in worlds)
    with LoopDevice(bundle, DeviceConfig(exits=exits), seed=seed, cloud=cloud) as device:
        told = play_worlds(device, worlds, tell=lambda done: tell(done, total))
        spent, full_macs = device.costs(), device.full_macs
    setting = {"cloud": cloud, "recheck": recheck}
    rows = points(told, [world.name for world in worlds], full_macs=full_macs, risk=control.risk)
    found, counts = recovery(rows), cloud and recheck and not exits.start_with_shipped
    everything = {f"all_{key}": value for key, value in rows[-2].items() if key != "world"}
    return {
        **setting,
        "stream": name,
        "network": network,
        "seed": seed,
        "risk_promised": control.risk,
        **(found if counts else {f"{key}_of_others": v for key, v in found.items()}),
        **everything,
        **spent,
        "points": [{**setting, "run": seed, **row} for row in rows],
    }


def _worlds(material: ExitMaterial, network: str, stream: Stream, seed: int) -> list[World]:
    """No frame comes twice, as long as there are enough."""
    frames, labels = material.frames(network)
    total = sum(count for *_, count in stream)
    order = np.resize(np.random.default_rng([seed, 77]).permutation(len(frames)), total)
    out, begin = [], 0
    for name, severity, count in stream:
        places = order[begin : begin + count]
        begin += count
        shown = frames[places]
        if name != CLEAN:
            shown = corrupt_at(shown, places.tolist(), name, severity=severity, seed=_WORLD_SEED)
        out.append(World(name=f"{name} {severity}" if severity else name, frames=shown, labels=labels[places]))
    return out
