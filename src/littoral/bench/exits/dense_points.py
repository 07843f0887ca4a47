"""What exits of a segmentation network save and cost: points of a curve, and the ways to choose one of them.

Everything here is made of what was counted once per frame and exit. Mean IoU is of a set of frames and no mean over
frames, so a promise is made of the pixel errors, which are; both are in every point.

Axes: N frames, E exits (the last is the whole network), K classes, L steps of a path of thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s
from littoral.core.exits import OFF, ExitCosts, compute_share, exit_indices
from littoral.core.metrics import MeanIoU
from littoral.core.risk import Certified, learn_then_test

POINTS_LOST = 1.0
"""Points of mean IoU that an exit may cost."""
_STEPS = 41


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseSeen:
    """What was counted of each frame at each exit.

    Attributes:
        confusions_NEKK: Pixels by truth (rows) and answer (columns).
        errors_NE: The share of wrong pixels among those with a truth.
        disagreement_NE: The share of pixels with another class than the whole network's.
        sure: By way of counting, ``(N, E)``: how sure an exit is of the frame; 1 for the whole network.
    """

    confusions_NEKK: NDArray[np.int64]
    errors_NE: Float64s
    disagreement_NE: Float64s
    sure: Mapping[str, Float64s]

    def __len__(self) -> int:
        return len(self.errors_NE)

    def take(self, rows: NDArray[np.intp]) -> DenseSeen:
        """Some of the frames."""
        return DenseSeen(
            confusions_NEKK=self.confusions_NEKK[rows],
            errors_NE=self.errors_NE[rows],
            disagreement_NE=self.disagreement_NE[rows],
            sure={name: found[rows] for name, found in self.sure.items()},
        )


@dataclass(frozen=True, kw_only=True)
class DensePoint:
    """What one choice of thresholds does to some frames. Mean IoU and pixel accuracy are in percent."""

    thresholds: tuple[float, ...]
    exit_rates: tuple[float, ...]
    miou: float
    pixel_accuracy: float
    macs: float
    """Mean, per frame."""
    ratio: float
    """The whole network's MACs over these."""

    def row(self) -> dict[str, Any]:
        """As JSON has it; a threshold that is off is None."""
        return {
            "thresholds": [None if each == OFF else round(each, 6) for each in self.thresholds],
            "exit_rates": [round(rate, 4) for rate in self.exit_rates],
            "miou": round(self.miou, 3),
            "pixel_accuracy": round(self.pixel_accuracy, 3),
            "macs": round(self.macs),
            "macs_ratio": round(self.ratio, 4),
        }


def path_of(sure_NE: Float64s, *, steps: int = _STEPS) -> Float64s:
    """One threshold for all exits, from off over the quantiles of these frames' confidences to 0: ``(L, E - 1)``."""
    num_early = sure_NE.shape[1] - 1
    found = np.quantile(sure_NE[:, :num_early], np.linspace(1, 0, steps))
    levels = np.concatenate([[OFF], np.unique(found)[::-1], [0.0]])
    return np.repeat(levels[:, None], num_early, axis=1)


def point_of(seen: DenseSeen, how: str, thresholds: Sequence[float], costs: ExitCosts) -> DensePoint:
    """The frames at these thresholds.

    Raises:
        ValueError: no frame, or thresholds of another number of exits.
    """
    leaving_N = exit_indices(seen.sure[how], thresholds)
    num_exits = seen.errors_NE.shape[1]
    metric = MeanIoU(seen.confusions_NEKK.shape[-1])
    metric.confusion_KK += seen.confusions_NEKK[np.arange(len(seen)), leaving_N].sum(axis=0)
    share = compute_share(leaving_N, costs, thresholds)
    return DensePoint(
        thresholds=tuple(float(each) for each in thresholds),
        exit_rates=tuple((np.bincount(leaving_N, minlength=num_exits) / len(seen)).tolist()),
        miou=100 * metric.value(),
        pixel_accuracy=100 * metric.pixel_accuracy(),
        macs=share * costs.full_macs,
        ratio=1 / share,
    )


def curve_of(seen: DenseSeen, how: str, path_LE: Float64s, costs: ExitCosts) -> list[DensePoint]:
    """A point for each step of a path."""
    return [point_of(seen, how, row.tolist(), costs) for row in path_LE]


def cheapest_within(points: Sequence[DensePoint], *, whole: float, lost: float = POINTS_LOST) -> DensePoint | None:
    """The point of the fewest MACs whose mean IoU is at most ``lost`` points below ``whole``."""
    near = [point for point in points if point.miou >= whole - lost]
    return min(near, key=lambda point: point.macs) if near else None


def whole_of(seen: DenseSeen, how: str, costs: ExitCosts) -> DensePoint:
    """All exits off."""
    return point_of(seen, how, [OFF] * (seen.errors_NE.shape[1] - 1), costs)


def chosen_elsewhere(chosen_on: DenseSeen, test: DenseSeen, how: str, costs: ExitCosts) -> DensePoint:
    """The cheapest point within `POINTS_LOST` on some frames, and what it does to others; all off where there is none.

    Plain: mean IoU on few frames says little of others, and nothing is promised.
    """
    points = curve_of(chosen_on, how, path_of(chosen_on.sure[how]), costs)
    found = cheapest_within(points, whole=points[0].miou) or points[0]
    return point_of(test, how, found.thresholds, costs)


def over_halves(seen: DenseSeen, how: str, costs: ExitCosts, *, splits: int = 200, seed: int = 0) -> dict[str, Any]:
    """Choose on a random half of the frames, look at the other, many times.

    Halves of one set of videos are alike, so this says what choosing on few frames costs, and not what another street
    does.
    """
    rng = np.random.default_rng(seed)
    lost, ratios = [], []
    for _ in range(splits):
        order = rng.permutation(len(seen))
        half, other = seen.take(order[: len(seen) // 2]), seen.take(order[len(seen) // 2 :])
        point = chosen_elsewhere(half, other, how, costs)
        lost.append(whole_of(other, how, costs).miou - point.miou)
        ratios.append(point.ratio)
    return {
        "splits": splits,
        "macs_ratio": round(float(1 / np.mean(1 / np.array(ratios))), 4),
        "points_lost_mean": round(float(np.mean(lost)), 3),
        "points_lost_p90": round(float(np.quantile(lost, 0.9)), 3),
        "more_than_allowed": round(float(np.mean(np.array(lost) > POINTS_LOST)), 4),
    }


def certified_over_halves(
    seen: DenseSeen,
    how: str,
    path_LE: Float64s,
    costs: ExitCosts,
    *,
    losses_NE: Float64s,
    level: float,
    largest: float = 0.2,
    delta: float = 0.1,
    splits: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Certify on a random half of the frames, look at the other, many times.

    Args:
        path_LE: Fixed without these frames.
        losses_NE: Of disagreement, or of the error minus the whole network's.
        largest: A frame's loss counts as at most this, and its gain likewise: of 100 frames no bound over [-1, 1] could
            promise two points, since it must allow for frames that are wrong altogether.
    Returns:
        How often something was certified, what it saves (a calibration without a certificate saves nothing), and how
        often the mean loss of all frames, from which the half was drawn, is above the level all the same.
    """
    rng = np.random.default_rng(seed)
    scaled_NE = np.clip(losses_NE / largest, -1, 1)
    shares, lost, broken, made = [], [], [], []
    for _ in range(splits):
        order = rng.permutation(len(seen))
        rows, rest = order[: len(seen) // 2], seen.take(order[len(seen) // 2 :])
        found = learn_then_test(
            path_LE, seen.sure[how][rows], scaled_NE[rows], level=level / largest, delta=delta, test="betting"
        )
        point = point_of(rest, how, found.thresholds, costs)
        leaving_N = exit_indices(seen.sure[how], found.thresholds)
        made.append(isinstance(found, Certified))
        broken.append(bool(scaled_NE[np.arange(len(seen)), leaving_N].mean() > level / largest))
        lost.append(whole_of(rest, how, costs).miou - point.miou)
        shares.append(1 / point.ratio)
    return {
        "level": level,
        "largest_loss_of_a_frame": largest,
        "delta": delta,
        "splits": splits,
        "certified": round(float(np.mean(made)), 4),
        "macs_ratio": round(float(1 / np.mean(shares)), 4),
        "points_lost_mean": round(float(np.mean(lost)), 3),
        "violations": round(float(np.mean(broken)), 4),
    }
