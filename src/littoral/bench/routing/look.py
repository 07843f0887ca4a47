"""Oracles in the router's own currency: they know the link, and what is right; or only how often such frames are.

How much an oracle gains is no measure of a router by itself: where two networks err on different frames, an oracle is
right wherever either is, and which of them that is cannot be seen on a frame. So there is a second one, which knows the
link as well, and of each frame only the chance that each answer is right, by all that the device could see of it. What
the first gains over the second is luck.
"""

from __future__ import annotations

import numpy as np

from littoral.bench.routing.policies import Foreseen, Peek
from littoral.bench.routing.tables import FrameTable
from littoral.core.arrays import Float64s
from littoral.core.route_plan import Prices
from littoral.core.switcher import fit_logistic

_RIDGE = 1.0
_FOLDS = 5


class PricedOracle(Foreseen):
    """Takes for each frame what is worth most under prices, knowing what the link is about to do.

    Args:
        wrong_NP, wrong_NW: How likely each answer of the device, and of each way, is wrong; 0 or 1 where it is known.
        first_point: The first answer of the device that it takes: 0 for all, the last for the whole network's alone.
    """

    is_real = False

    def __init__(
        self,
        name: str,
        table: FrameTable,
        *,
        wrong_NP: Float64s,
        wrong_NW: Float64s,
        prices: Prices,
        deadline_ms: float,
        first_point: int = 0,
    ) -> None:
        super().__init__(name, table, deadline_ms=deadline_ms, first_point=first_point)
        self.wrong_NP, self.wrong_NW, self.prices = wrong_NP, wrong_NW, prices

    def _choose(self, frame: int, elapsed_ms: float, now_ms: float, peek: Peek) -> None:
        ready = elapsed_ms + self._reached[1:]
        losses = self.wrong_NP[frame] + self.prices.ms * ready + (ready > self.deadline_ms)
        self._leave = self._first + int(losses[self._first :].argmin())
        self._way, least = None, float(losses[self._leave])
        for w, cloud in enumerate(self.table.ways):
            spent = float(self.prices.byte * self.table.bytes_NW[frame, w] + self.wrong_NW[frame, w])
            if spent >= least:
                continue
            request = peek(w, float(self._reached[cloud.way.point]))
            back_ms = elapsed_ms + request.received_ms - now_ms
            loss = spent + self.prices.ms * back_ms
            if not request.refused and back_ms <= self.deadline_ms and loss < least:
                self._way, least = w, loss


def looked_at(table: FrameTable) -> tuple[Float64s, Float64s]:
    """How likely each answer is wrong for a frame that looks like this one: ``(N, P)`` and ``(N, W)``.

    Logistic regressions on the features of all points and their squares, fitted with labels on the other frames of this
    very stream: cross-fitted in `_FOLDS`. No router has these frames, nor the later points' features at an early one.
    """
    assert table.features_NPF is not None
    n = len(table)
    flat = table.features_NPF.reshape(n, -1)
    scaled = (flat - flat.mean(axis=0)) / np.maximum(flat.std(axis=0), 1e-9)
    x = np.column_stack([scaled, scaled**2, np.ones(n)])
    precision = np.diag([_RIDGE] * (x.shape[1] - 1) + [1e-3])
    folds = np.random.default_rng(0).permutation(n) % _FOLDS

    def wrong(right_NA: Float64s) -> Float64s:
        out = np.zeros(right_NA.shape)
        for fold in range(_FOLDS):
            mine, rest = folds == fold, folds != fold
            for a, right_N in enumerate(right_NA.T):
                beta, _ = fit_logistic(
                    x[rest],
                    1 - right_N[rest],
                    np.ones(int(rest.sum())),
                    mean_F=np.zeros(x.shape[1]),
                    precision_FF=precision,
                )
                out[mine, a] = 1 / (1 + np.exp(-np.clip(x[mine] @ beta, -30, 30)))
        return out

    return wrong(table.local_right_NP), wrong(table.cloud_right_NW)
