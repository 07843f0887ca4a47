"""What a router is made of, from calibration frames: curves, switcher, thresholds. What a build does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from littoral.bench.routing.policies import Ours
from littoral.bench.routing.tables import FrameTable
from littoral.core.caution import Caution
from littoral.core.exits import disagreement_losses
from littoral.core.risk import learn_then_test, shared_path
from littoral.core.route_plan import ErrorCurves, Prices, fit_curves
from littoral.core.route_words import RouteConfig
from littoral.core.routing import Router
from littoral.core.switcher import ShippedSwitcher, Switcher, fit_switcher

RISKS = (0.01, 0.02, 0.05, 0.1)
DELTA = 0.1


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a user prefers.

    Attributes:
        risk: Early answers other than at full depth, as a share of the frames, at most: exits are certified for it.
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


def fit(table: FrameTable, *, best_way: int, risks: Sequence[float] = RISKS) -> Fitted:
    """From calibration frames with labels.

    Args:
        best_way: Whose answers the switcher takes for the cloud's.
    """
    assert table.features_NPF is not None
    switcher = fit_switcher(table.features_NPF, table.local_right_NP, table.cloud_right_NW[:, best_way])
    scores = Switcher(switcher).scores(table.features_NPF)
    wrong, cloud_wrong = 1 - table.local_right_NP, 1 - table.cloud_right_NW
    losses = disagreement_losses(table.answers_NP)
    path = shared_path(table.num_points)
    return Fitted(
        curves=fit_curves(table.confidences_NP, wrong, cloud_wrong, scores_NP=scores),
        plain_curves=fit_curves(table.confidences_NP, wrong, cloud_wrong),
        switcher=switcher,
        thresholds={
            risk: learn_then_test(
                path, table.confidences_NP, losses, level=risk, delta=DELTA, test="binomial"
            ).thresholds
            for risk in risks
        },
    )


def rightness(table: FrameTable) -> dict[str, float]:
    """The share that each answer of the device, and each way, is right on."""
    device = {f"point {p + 1}": float(share) for p, share in enumerate(table.local_right_NP.mean(axis=0))}
    cloud = {way.name: float(share) for way, share in zip(table.ways, table.cloud_right_NW.mean(axis=0), strict=True)}
    return {name: round(100 * float(np.round(share, 6)), 2) for name, share in {**device, **cloud}.items()}
