"""What a router is made of, from calibration frames: curves, switcher, thresholds. What a build does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from littoral.bench.routing.channel import VirtualLink
from littoral.bench.routing.halves import Exits
from littoral.bench.routing.policies import Ours
from littoral.bench.routing.run import StreamConfig, play
from littoral.bench.routing.tables import FrameTable
from littoral.bench.routing.traces import make_trace
from littoral.core.arrays import Float64s
from littoral.core.caution import Caution
from littoral.core.exits import disagreement_losses
from littoral.core.risk import learn_then_test, shared_path
from littoral.core.route_plan import ErrorCurves, Prices, fit_curves
from littoral.core.route_words import RouteConfig
from littoral.core.routing import Router
from littoral.core.switcher import ShippedSwitcher, Switcher, fit_switcher
from littoral.train.route_build import cross_scores

RISKS = (0.01, 0.02, 0.05, 0.1)
DELTA = 0.1
EXIT_CHOICE_FRAMES = 5_000
SURELY = 2.0
"""Exits must be better than none by so many standard errors: a stem costs every frame, what it saves is a guess."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a user prefers.

    Attributes:
        risk: Early answers other than at full depth, as a share of the frames, at most: exits are certified for it.

    Which exits the device has follows from that (`FittedSets.exits_for`).
    """

    name: str
    prices: Prices
    risk: float


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Of one set of calibration frames.

    Attributes:
        thresholds: By risk; all off where it could not be certified.
    """

    curves: ErrorCurves
    switcher: ShippedSwitcher
    thresholds: Mapping[float, tuple[float, ...]]
    plain_curves: ErrorCurves
    """By confidence: for a router without a switcher."""

    def ours(
        self,
        table: FrameTable,
        setting: Setting,
        *,
        deadline_ms: float,
        seed: int,
        caution: bool = False,
        switches: bool = True,
        learns: bool = True,
    ) -> Ours:
        """A fresh router for a stream; with ``learns`` its switcher is refitted on the way."""
        config = RouteConfig(deadline_ms=deadline_ms, prices=setting.prices)
        ways = [way.way for way in table.ways]
        curves, switcher = (self.curves, Switcher(self.switcher)) if switches else (self.plain_curves, None)
        router = Router(curves, ways, table.step_ms, config, switcher=switcher)
        thresholds = self.thresholds[setting.risk]
        policy = Ours(
            setting.name, table, router, thresholds=thresholds, caution=Caution() if caution else None, seed=seed
        )
        if not learns:
            policy.refit_every = len(table) + 1
        return policy


class FittedSets:
    """Of a device that may have one of several sets of exits.

    Args:
        tables: Calibration frames by exits, with the ways that the device has.
        config: How frames come.
    """

    def __init__(self, tables: Mapping[Exits, FrameTable], config: StreamConfig) -> None:
        self.tables, self.config = tables, config
        self.by_exits = {exits: fit(table) for exits, table in tables.items()}
        self._found: dict[tuple[Prices, float], Exits] = {}

    def exits_for(self, setting: Setting) -> Exits:
        """The exits with which the calibration frames cost least at these prices over a link that does not change; none
        where that is less than `SURELY` standard errors better than none.

        What the plan itself expects of a frame is no measure for this: it thinks better of a device the more exits
        that has, since a chain of bins makes more of what a look at the frame will tell than it does.
        """
        key = (setting.prices, setting.risk)
        if key not in self._found:
            losses = {exits: self._losses(exits, setting) for exits in self.by_exits}
            best = min(losses, key=lambda exits: float(losses[exits].mean()))
            gain_N = losses[()] - losses[best]
            is_sure = gain_N.mean() > SURELY * gain_N.std() / np.sqrt(len(gain_N))
            self._found[key] = best if is_sure else ()
        return self._found[key]

    def _losses(self, exits: Exits, setting: Setting) -> Float64s:
        table = self.tables[exits].of(slice(0, EXIT_CHOICE_FRAMES))
        policy = self.by_exits[exits].ours(
            table, setting, deadline_ms=self.config.deadline_ms, seed=self.config.seed, learns=False
        )
        played = play(policy, table, VirtualLink(make_trace("fixed")), self.config)
        spent_N = setting.prices.ms * played.latency_ms + setting.prices.byte * played.num_bytes
        return np.asarray(1 - (played.right & played.in_time) + spent_N, dtype=np.float64)


def fit(table: FrameTable, *, risks: Sequence[float] = RISKS) -> Fitted:
    """From calibration frames with labels, as `littoral.train.route_build` does; all ways of the table are its own."""
    assert table.features_NPF is not None
    cloud_right_N = table.cloud_right_NW.mean(axis=1)
    switcher = fit_switcher(table.features_NPF, table.local_right_NP, cloud_right_N)
    scores = cross_scores(table.features_NPF, table.local_right_NP, cloud_right_N)
    wrong, cloud_wrong = 1 - table.local_right_NP, 1 - table.cloud_right_NW
    losses = disagreement_losses(table.answers_NP)

    def certified(risk: float) -> tuple[float, ...]:
        if table.num_points == 1:
            return ()
        path, sure = shared_path(table.num_points), table.confidences_NP
        return learn_then_test(path, sure, losses, level=risk, delta=DELTA, test="binomial").thresholds

    return Fitted(
        curves=fit_curves(table.confidences_NP, wrong, cloud_wrong, scores_NP=scores, gains_NP=1 - scores),
        plain_curves=fit_curves(table.confidences_NP, wrong, cloud_wrong),
        switcher=switcher,
        thresholds={risk: certified(risk) for risk in risks},
    )


def rightness(table: FrameTable) -> dict[str, float]:
    """The share that each answer of the device, and each way, is right on."""
    device = {f"point {p + 1}": float(share) for p, share in enumerate(table.local_right_NP.mean(axis=0))}
    cloud = {way.name: float(share) for way, share in zip(table.ways, table.cloud_right_NW.mean(axis=0), strict=True)}
    return {name: round(100 * float(np.round(share, 6)), 2) for name, share in {**device, **cloud}.items()}
