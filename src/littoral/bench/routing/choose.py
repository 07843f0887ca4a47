"""At which prices is ours as often right as a picture of every frame? Chosen on calibration frames, on another trace.

Each half of the calibration frames is played at some prices and risks by a router that the other half made; the
quickest that is surely near enough is taken. No frame of the stream is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.bench.routing.channel import VirtualLink
from littoral.bench.routing.fitted import Fitted, FittedSets, Setting, fit
from littoral.bench.routing.halves import Exits, Halves
from littoral.bench.routing.policies import CloudOnly
from littoral.bench.routing.run import StreamConfig, play
from littoral.bench.routing.traces import LinkTrace
from littoral.core.route_plan import Prices

MS_PRICES = (2e-4, 5e-4, 1e-3, 2e-3, 4e-3)
BYTE_PRICES = (1e-6,)
RISKS = (0.01, 0.05)
NEAR = 0.005
"""A price is right often enough where it is by so little less often than the picture: half a point."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What was found for one picture.

    Attributes:
        setting: None where no price was right often enough.
        accuracy, latency_ms: On the calibration frames that were played.
        wanted: The picture's accuracy there.
    """

    way: str
    setting: Setting | None
    accuracy: float | None
    latency_ms: float | None
    wanted: float

    def row(self) -> dict[str, Any]:
        """For a document."""
        setting = None if self.setting is None else asdict(self.setting)
        return {**asdict(self), "setting": setting}


def as_right_as(
    given: Halves, fitted: FittedSets, ways: Sequence[int], trace: LinkTrace, config: StreamConfig
) -> list[Chosen]:
    """Choose prices for the accuracy of each of these ways, taken for every frame.

    Args:
        fitted: Of all calibration frames: says which exits go with which prices.
    """
    own = {exits: table.of(slice(None), given.ours) for exits, table in given.calibration.items()}
    count = len(own[()])
    halves = (slice(0, count // 2), slice(count // 2, count))
    routers: dict[tuple[Exits, int], Fitted] = {}
    tried: list[tuple[Setting, NDArray[np.bool_], float]] = []
    for ms, byte, risk in product(MS_PRICES, BYTE_PRICES, RISKS) if ways else ():
        setting = Setting(name="", prices=Prices(ms=ms, byte=byte), risk=risk)
        exits = fitted.exits_for(setting)
        played = []
        for number, rows in enumerate(halves):
            key = exits, 1 - number  # each half by a router of the other one
            routers.setdefault(key, fit(own[exits].of(halves[1 - number])))
            table = own[exits].of(rows)
            policy = routers[key].ours(table, setting, deadline_ms=config.deadline_ms, seed=config.seed)
            played.append(play(policy, table, VirtualLink(trace), config))
        latency_ms = float(np.mean(np.concatenate([each.latency_ms for each in played])))
        tried.append((setting, np.concatenate([each.right for each in played]), latency_ms))
    out = []
    for way in ways:
        whole = given.calibration[()]
        name = whole.ways[way].name
        picture = play(CloudOnly(name, whole, way, deadline_ms=config.deadline_ms), whole, VirtualLink(trace), config)
        good = [each for each in tried if _surely_near(each[1], picture.right)]
        wanted = float(picture.right.mean())
        if not good:
            out.append(Chosen(way=name, setting=None, accuracy=None, latency_ms=None, wanted=wanted))
            continue
        setting, right_N, latency_ms = min(good, key=lambda each: each[2])
        setting = replace(setting, name=f"ours, as right as {name}")
        found = float(right_N.mean())
        out.append(Chosen(way=name, setting=setting, accuracy=found, latency_ms=latency_ms, wanted=wanted))
    return out


def _surely_near(right_N: NDArray[np.bool_], wanted_N: NDArray[np.bool_]) -> bool:
    """Whether it is less often right by no more than `NEAR`, one standard error of the difference taken off."""
    differs_N = right_N.astype(np.float64) - wanted_N
    return float(differs_N.mean() - differs_N.std() / np.sqrt(len(differs_N))) >= -NEAR
