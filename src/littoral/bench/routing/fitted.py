"""What a router is made of, from calibration frames: curves, switcher, thresholds. What a build does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from littoral.bench.routing.halves import Exits
from littoral.bench.routing.policies import Ours
from littoral.bench.routing.tables import FrameTable
from littoral.core.caution import Caution
from littoral.core.exits import disagreement_losses
from littoral.core.risk import learn_then_test, shared_path
from littoral.core.route_plan import ErrorCurves, Prices, fit_curves, make_plan
from littoral.core.route_words import RouteConfig
from littoral.core.routing import Router
from littoral.core.switcher import ShippedSwitcher, Switcher, fit_switcher
from littoral.train.route_build import cross_scores

RISKS = (0.01, 0.02, 0.05, 0.1)
DELTA = 0.1
NOMINAL_MS = 40.0
"""What an offload takes beside its encoder, where it is decided which exits a device has."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a user prefers.

    Attributes:
        risk: Early answers other than at full depth, as a share of the frames, at most: exits are certified for it.

    Which exits the device has follows from that: those with which the plan is worth most (`FittedSets.exits_for`).
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

    def worth(self, table: FrameTable, setting: Setting) -> float:
        """The loss that the plan expects of a frame before anything has run."""
        prices = setting.prices
        ways = [way.way for way in table.ways]
        plan = make_plan(
            self.curves,
            step_losses=[prices.ms * step for step in table.step_ms],
            way_losses=[prices.ms * (way.encode_ms + NOMINAL_MS) + prices.byte * way.num_bytes for way in ways],
            way_points=[way.point for way in ways],
            thresholds=self.thresholds[setting.risk],
        )
        return float(min(plan.onward[0].min(), plan.offload[:, 0].min()))

    def ours(
        self,
        table: FrameTable,
        setting: Setting,
        *,
        deadline_ms: float,
        seed: int,
        caution: bool = False,
        switches: bool = True,
    ) -> Ours:
        """A fresh router for a stream. Its ways are the table's first ones."""
        config = RouteConfig(deadline_ms=deadline_ms, prices=setting.prices)
        ways = [way.way for way in table.ways]
        curves, switcher = (self.curves, Switcher(self.switcher)) if switches else (self.plain_curves, None)
        router = Router(curves, ways, table.step_ms, config, switcher=switcher)
        thresholds = self.thresholds[setting.risk]
        return Ours(
            setting.name, table, router, thresholds=thresholds, caution=Caution() if caution else None, seed=seed
        )


@dataclass(frozen=True, kw_only=True)
class FittedSets:
    """Of a device that may have one of several sets of exits."""

    by_exits: Mapping[Exits, Fitted]
    tables: Mapping[Exits, FrameTable]

    def exits_for(self, setting: Setting) -> Exits:
        """The exits that are worth most at these prices over a link of `NOMINAL_MS`."""
        return min(self.by_exits, key=lambda exits: self.by_exits[exits].worth(self.tables[exits], setting))


def fit_sets(tables: Mapping[Exits, FrameTable]) -> FittedSets:
    """`fit` for each set of exits."""
    return FittedSets(by_exits={exits: fit(table) for exits, table in tables.items()}, tables=tables)


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
        curves=fit_curves(table.confidences_NP, wrong, cloud_wrong, scores_NP=scores),
        plain_curves=fit_curves(table.confidences_NP, wrong, cloud_wrong),
        switcher=switcher,
        thresholds={risk: certified(risk) for risk in risks},
    )


def rightness(table: FrameTable) -> dict[str, float]:
    """The share that each answer of the device, and each way, is right on."""
    device = {f"point {p + 1}": float(share) for p, share in enumerate(table.local_right_NP.mean(axis=0))}
    cloud = {way.name: float(share) for way, share in zip(table.ways, table.cloud_right_NW.mean(axis=0), strict=True)}
    return {name: round(100 * float(np.round(share, 6)), 2) for name, share in {**device, **cloud}.items()}
