"""At which prices is ours as often right as a picture of every frame? Chosen on calibration frames, on another trace.

Half of the calibration frames make a router, the other half is played at each of some prices and risks; the quickest
whose accuracy is near enough is taken. No frame of the stream is looked at.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from littoral.bench.routing.channel import VirtualLink
from littoral.bench.routing.compare import standing
from littoral.bench.routing.fitted import Setting, fit_sets
from littoral.bench.routing.halves import Halves
from littoral.bench.routing.policies import CloudOnly
from littoral.bench.routing.run import StreamConfig, play
from littoral.bench.routing.traces import LinkTrace
from littoral.core.route_plan import Prices

MS_PRICES = (2e-4, 5e-4, 1e-3, 2e-3, 4e-3)
BYTE_PRICES = (1e-6, 5e-5)
RISKS = (0.01, 0.05)
AIM = 0.0025
"""As often right but for so much; what may be missing on the stream is twice that."""


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


def as_right_as(given: Halves, way: int, trace: LinkTrace, config: StreamConfig) -> Chosen:
    """Choose prices for the accuracy of one way, taken for every frame."""
    cut, name = len(given.calibration[()]) // 2, given.plain.ways[way].name
    splits = {exits: table.of(slice(None), given.splits) for exits, table in given.calibration.items()}
    fitted = fit_sets({exits: table.of(slice(0, cut)) for exits, table in splits.items()})
    whole = given.calibration[()].of(slice(cut, None))
    picture = CloudOnly(name, whole, way, deadline_ms=config.deadline_ms)
    wanted = standing(play(picture, whole, VirtualLink(trace), config)).accuracy
    best: Chosen | None = None
    for ms, byte, risk in product(MS_PRICES, BYTE_PRICES, RISKS):
        setting = Setting(name=f"ours, as right as {name}", prices=Prices(ms=ms, byte=byte), risk=risk)
        exits = fitted.exits_for(setting)
        if not exits and risk != RISKS[0]:
            continue  # without exits their risk makes no difference
        table = splits[exits].of(slice(cut, None))
        policy = fitted.by_exits[exits].ours(table, setting, deadline_ms=config.deadline_ms, seed=config.seed)
        found = standing(play(policy, table, VirtualLink(trace), config))
        if found.accuracy >= wanted - AIM and (best is None or found.latency_ms < (best.latency_ms or 0)):
            best = Chosen(
                way=name, setting=setting, accuracy=found.accuracy, latency_ms=found.latency_ms, wanted=wanted
            )
    return best or Chosen(way=name, setting=None, accuracy=None, latency_ms=None, wanted=wanted)
