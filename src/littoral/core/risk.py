"""Thresholds that keep a risk at a level the user names, with a guarantee that holds for any number of frames.

A *path* is a list of threshold vectors from the most careful (all exits off) to the fastest. It is fixed before the
calibration frames are looked at: by hand (`shared_path`), or found on other frames (`searched_path`). Along it:

- `learn_then_test` tests "the risk is above the level" step by step and stops at the first step that it cannot refuse.
  ``P(risk <= level) >= 1 - delta`` over the draw of the calibration frames, whatever the losses do along the path.
- `control_expected_risk` (conformal risk control) holds the *expected* loss of the next frame at the level.
- `best_in_hindsight` takes what was best on the frames at hand. It promises nothing, and it has a type of its own, so
  that no table and no device takes it for a promise.

All that is promised is about frames exchangeable with the calibration frames, on which nothing was fitted.
Source: Angelopoulos et al. 2021 (learn then test), 2022 (conformal risk control); Bates et al. 2021 (the
Hoeffding-Bentkus bound); Waudby-Smith and Ramdas 2020 (betting). Departure: the step *before* the first one that fails
is taken; published code for early exits takes the one that failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from littoral.core.arrays import Float64s
from littoral.core.exits import OFF, ExitCosts, compute_share, exit_indices

Test = Literal["binomial", "hoeffding-bentkus", "betting"]
_MOST_BET = 0.8
"""Of what would lose all at the worst loss."""
_AUDITS_REMEMBERED = 30


@dataclass(frozen=True, kw_only=True)
class Certified:
    """Thresholds with a promise.

    Attributes:
        thresholds: One for each exit but the deepest.
        level: The risk that is promised.
        delta: The promise fails for at most this share of calibrations; None where the promise is of the expected loss.
        procedure: What made it.
        num_frames: It was made from.
        empirical_risk: On these frames.
        step: On the path; the larger the faster.
    """

    thresholds: tuple[float, ...]
    level: float
    delta: float | None
    procedure: str
    num_frames: int
    empirical_risk: float
    step: int


@dataclass(frozen=True, kw_only=True)
class NotCertified:
    """No promise can be made at this level with these frames; ``thresholds`` are all off.

    Attributes:
        why: What is missing, for a person.
    """

    thresholds: tuple[float, ...]
    why: str


@dataclass(frozen=True, kw_only=True)
class Hindsight:
    """Thresholds chosen by what they did on the very frames that they are judged by. No promise."""

    thresholds: tuple[float, ...]
    empirical_risk: float
    compute_share: float
    num_frames: int
    step: int


def shared_path(num_exits: int, confidences: Sequence[float] | None = None) -> Float64s:
    """One threshold for all early exits, falling: ``(L, E - 1)``, the first row off.

    Args:
        confidences: Falling; by default 60 values from 0.9999 to 0.2, closer together near 1, where answers are.
    Raises:
        ValueError: fewer than two exits, or values that do not fall.
    """
    levels = 1 - np.geomspace(1e-4, 0.8, 60) if confidences is None else np.asarray(confidences, dtype=np.float64)
    if num_exits < 2 or levels.ndim != 1 or not (np.diff(levels) < 0).all():
        raise ValueError("a path needs at least 2 exits and thresholds that fall")
    return np.repeat(np.concatenate([[OFF], levels])[:, None], num_exits - 1, axis=1)


def searched_path(
    confidences_NE: Float64s, losses_NE: Float64s, costs: ExitCosts, *, num_candidates: int = 12
) -> Float64s:
    """A path with a threshold of its own for each exit, found greedily on frames that certify nothing afterwards.

    From all off, each step lowers the one threshold (to the next of its exit's quantiles) that saves most for the loss
    it adds. The frames must not be among those that go to `learn_then_test` or `control_expected_risk`.

    Returns:
        ``(L, E - 1)``; steps that save nothing are left out.
    """
    _check(confidences_NE, losses_NE)
    num_early = confidences_NE.shape[1] - 1
    shares = np.linspace(1, 0, num_candidates + 1)[1:]
    candidates = [np.quantile(confidences_NE[:, i], shares) for i in range(num_early)]
    at = [0] * num_early
    now = [OFF] * num_early
    loss, cost = _mean_loss_and_share(confidences_NE, losses_NE, costs, now)
    path = [tuple(now)]
    while True:
        best: tuple[float, int, float, float] | None = None
        for i in range(num_early):
            if at[i] == num_candidates:
                continue
            tried = [*now[:i], float(candidates[i][at[i]]), *now[i + 1 :]]
            tried_loss, tried_cost = _mean_loss_and_share(confidences_NE, losses_NE, costs, tried)
            worth = (cost - tried_cost) / (max(tried_loss - loss, 0.0) + 1 / (2 * len(losses_NE)))
            if best is None or worth > best[0]:
                best = (worth, i, tried_loss, tried_cost)
        if best is None:
            break
        worth, i, loss, cost = best
        now[i] = float(candidates[i][at[i]])
        at[i] += 1
        if worth > 0:
            path.append(tuple(now))
    return np.array(path, dtype=np.float64)


def losses_along(path_LE: Float64s, confidences_NE: Float64s, losses_NE: Float64s) -> Float64s:
    """The loss of each frame at each step of a path: ``(L, N)``."""
    _check(confidences_NE, losses_NE)
    rows = np.arange(len(losses_NE))
    out = np.empty((len(path_LE), len(losses_NE)))
    for i, thresholds in enumerate(path_LE):
        out[i] = losses_NE[rows, exit_indices(confidences_NE, thresholds)]
    return out


def binomial_p_value(num_errors: int, num_frames: int, level: float) -> float:
    """``P(Bin(num_frames, level) <= num_errors)``: how likely so few errors are if the risk is the level. Exact."""
    _check_level(level, lowest_allowed=False)
    if not 0 <= num_errors <= num_frames:
        raise ValueError(f"{num_errors} errors of {num_frames} frames")
    k = np.arange(num_errors + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num_frames + 1)))])
    terms = logs[num_frames] - logs[k] - logs[num_frames - k] + k * math.log(level)
    terms += (num_frames - k) * math.log1p(-level)
    return min(math.fsum(np.exp(terms)), 1.0)


def errors_allowed(num_frames: int, level: float, delta: float) -> int | None:
    """The most errors with which a binomial test promises the level; None when there are too few frames for any."""
    allowed = None
    for errors in range(num_frames + 1):
        if binomial_p_value(errors, num_frames, level) > delta:
            break
        allowed = errors
    return allowed


def hoeffding_bentkus_p_value(losses_N: Float64s, level: float) -> float:
    """For losses in [0, 1]: the smaller of Hoeffding's bound in its tight form and Bentkus's."""
    _check_level(level, lowest_allowed=False)
    n = len(losses_N)
    total = math.fsum(losses_N)
    risk = min(total / n, level)
    divergence = (risk * math.log(risk / level) if risk > 0 else 0.0) + (1 - risk) * math.log((1 - risk) / (1 - level))
    bentkus = math.e * binomial_p_value(min(math.ceil(total), n), n, level)
    return min(math.exp(-n * divergence), bentkus, 1.0)


def betting_p_value(losses_N: Float64s, level: float) -> float:
    """For losses in [-1, 1] and any level of 0 or more: one over the most that a bettor against "above the level" had.

    Each bet is made from earlier losses alone, so by Ville's inequality it is a p-value in any order of the frames.
    """
    _check_level(level, lowest_allowed=True)
    before = np.arange(len(losses_N)) + 1.0  # with one imagined loss of 0 and a variance of 1/4
    sums = np.concatenate([[0.0], np.cumsum(losses_N)[:-1]])
    squares = np.concatenate([[0.0], np.cumsum(losses_N**2)[:-1]])
    mean = sums / before
    var = np.maximum((0.25 + squares) / before - mean**2, 1e-6)
    gap = level - mean
    bets = np.clip(gap / (var + gap**2), 0, _MOST_BET)
    wealth = np.cumsum(np.log1p(-bets * (losses_N - level)))
    return math.exp(-max(float(wealth.max()), 0.0))


def p_value(losses_N: Float64s, level: float, *, test: Test) -> float:
    """Of the hypothesis that the mean loss is above the level.

    Raises:
        ValueError: losses that the test does not allow, no frame, or a level outside its range.
    """
    if len(losses_N) == 0:
        raise ValueError("no calibration frame")
    if test == "binomial":
        if not np.isin(losses_N, (0, 1)).all():
            raise ValueError("the binomial test needs losses of 0 and 1; use 'hoeffding-bentkus' or 'betting'")
        return binomial_p_value(int(losses_N.sum()), len(losses_N), level)
    lowest = -1 if test == "betting" else 0
    if not ((losses_N >= lowest) & (losses_N <= 1)).all():
        raise ValueError(f"the {test} test needs losses from {lowest} to 1, got {losses_N.min()} to {losses_N.max()}")
    if test == "betting":
        return betting_p_value(losses_N, level)
    if test == "hoeffding-bentkus":
        return hoeffding_bentkus_p_value(losses_N, level)
    raise ValueError(f"test is 'binomial', 'hoeffding-bentkus' or 'betting', got {test!r}")


def learn_then_test(
    path_LE: Float64s,
    confidences_NE: Float64s,
    losses_NE: Float64s,
    *,
    level: float,
    delta: float = 0.1,
    test: Test = "binomial",
) -> Certified | NotCertified:
    """The fastest step of a path up to which every step is certified: ``P(risk <= level) >= 1 - delta``.

    Args:
        path_LE: Fixed without these frames; the most careful step first.
        confidences_NE: Finite, ``(N, E)``; the deepest exit's are not looked at.
        losses_NE: Of each exit's answer, as the test allows.
    Raises:
        ValueError: shapes that do not fit, a loss or confidence that is not finite, a level or delta out of range.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta lies between 0 and 1, got {delta}")
    _check(confidences_NE, losses_NE)
    rows, passed, risk = np.arange(len(losses_NE)), -1, math.nan
    for step, thresholds in enumerate(path_LE):
        losses_N = losses_NE[rows, exit_indices(confidences_NE, thresholds)]
        failed = p_value(losses_N, level, test=test) > delta
        if step == 0 or not failed:
            risk = float(losses_N.mean())
        if failed:
            break
        passed = step
    if passed < 0:
        why = f"a risk of {level} cannot be promised with delta {delta} ({test})"
        return _none(path_LE, why, num_frames=len(rows), risk=risk)
    return Certified(
        thresholds=tuple(path_LE[passed].tolist()),
        level=level,
        delta=delta,
        procedure=f"learn-then-test, {test}",
        num_frames=len(rows),
        empirical_risk=risk,
        step=passed,
    )


def control_expected_risk(
    path_LE: Float64s, confidences_NE: Float64s, losses_NE: Float64s, *, level: float
) -> Certified | NotCertified:
    """Conformal risk control: the fastest step at which the next frame's *expected* loss is at most the level.

    The loss of a frame need not grow along the path (a later exit may err where an earlier did not), and the theorem
    needs that; so each loss is replaced by the largest so far on the path, which only makes the promise stronger.

    Args:
        losses_NE: In [0, 1].
    """
    _check_level(level, lowest_allowed=False)
    if not ((losses_NE >= 0) & (losses_NE <= 1)).all():
        raise ValueError("conformal risk control needs losses from 0 to 1")
    losses_LN = losses_along(path_LE, confidences_NE, losses_NE)
    num_frames = losses_LN.shape[1]
    bound_L = (np.maximum.accumulate(losses_LN, axis=0).sum(axis=1) + 1) / (num_frames + 1)
    passing = np.flatnonzero(bound_L <= level)
    if len(passing) == 0:
        why = f"an expected loss of {level} cannot be promised"
        return _none(path_LE, why, num_frames=num_frames, risk=float(losses_LN[0].mean()))
    step = int(passing[-1])
    return Certified(
        thresholds=tuple(path_LE[step].tolist()),
        level=level,
        delta=None,
        procedure="conformal risk control",
        num_frames=num_frames,
        empirical_risk=float(losses_LN[step].mean()),
        step=step,
    )


def best_in_hindsight(
    path_LE: Float64s, confidences_NE: Float64s, losses_NE: Float64s, costs: ExitCosts, *, max_risk: float
) -> Hindsight | None:
    """The cheapest step whose mean loss on these very frames is at most ``max_risk``; None when no step's is.

    On calibration frames this is the plug-in rule, the usual one, which oversteps its level about every second time.
    """
    # A device's memory: all steps at once would take L times as much.
    risks = np.array([losses_along(row[None], confidences_NE, losses_NE).mean() for row in path_LE])
    found = None
    for step in np.flatnonzero(risks <= max_risk):
        thresholds = tuple(path_LE[step].tolist())
        share = compute_share(exit_indices(confidences_NE, thresholds), costs, thresholds)
        if found is None or share < found.compute_share:
            found = Hindsight(
                thresholds=thresholds,
                empirical_risk=float(risks[step]),
                compute_share=share,
                num_frames=len(losses_NE),
                step=int(step),
            )
    return found


def delta_of_recalibration(delta: float, number: int) -> float:
    """The part of ``delta`` that the ``number``-th calibration may spend (from 1), so that all together spend delta."""
    if number < 1:
        raise ValueError(f"calibrations are counted from 1, got {number}")
    return delta / (number * (number + 1))


@dataclass
class RiskAlarm:
    """Watches the losses of frames that left early and were finished all the same, as a check.

    A bettor grows rich if the risk is above the level. While it is not, the alarm ever rings with a chance of at most
    ``delta``, however long it watches. Once it rings it stays on.
    """

    level: float
    delta: float
    recent_risk: float | None = None
    """A moving average, by which the bets are made; None before the first audit."""
    log_wealth: float = 0.0
    rings: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and 0 < self.delta < 1):
            raise ValueError(f"level and delta lie between 0 and 1, got {self.level} and {self.delta}")

    def add(self, loss: float) -> bool:
        """Count one audited frame's loss, 0 to 1; True when the alarm rings, now or before."""
        if not 0 <= loss <= 1:
            raise ValueError(f"a loss lies between 0 and 1, got {loss}")
        mean = min(2 * self.level, 1.0) if self.recent_risk is None else self.recent_risk
        gap = mean - self.level
        # No bet while all is well: else a long good time would use up the stake, and the alarm would come late.
        bet = min(max(gap / (mean * (1 - mean) + gap**2 + 1e-12), 0.0), _MOST_BET / self.level)
        self.log_wealth += math.log1p(bet * (loss - self.level))
        self.recent_risk = mean + (loss - mean) / _AUDITS_REMEMBERED
        self.rings = self.rings or self.log_wealth >= math.log(1 / self.delta)
        return self.rings


def _none(path_LE: Float64s, why: str, *, num_frames: int, risk: float) -> NotCertified:
    seen = f"with {num_frames} frames, on which the first step's risk is {risk:.4f}"
    return NotCertified(thresholds=(OFF,) * path_LE.shape[1], why=f"{why} {seen}; all exits stay off")


def _mean_loss_and_share(
    confidences_NE: Float64s, losses_NE: Float64s, costs: ExitCosts, thresholds: Sequence[float]
) -> tuple[float, float]:
    leaving = exit_indices(confidences_NE, thresholds)
    loss = float(losses_NE[np.arange(len(losses_NE)), leaving].mean())
    return loss, compute_share(leaving, costs, thresholds)


def _check(confidences_NE: Float64s, losses_NE: Float64s) -> None:
    if confidences_NE.ndim != 2 or confidences_NE.shape != losses_NE.shape or confidences_NE.shape[1] < 2:
        raise ValueError(
            f"expected (N, E) confidences and losses of at least 2 exits, got {confidences_NE.shape}, {losses_NE.shape}"
        )
    if len(losses_NE) == 0:
        raise ValueError("no calibration frame")
    if not (np.isfinite(losses_NE).all() and np.isfinite(confidences_NE[:, :-1]).all()):
        raise ValueError("a loss or a confidence is not finite; such frames never leave early, calibrate without them")


def _check_level(level: float, *, lowest_allowed: bool) -> None:
    if not (0 < level < 1 or (lowest_allowed and level == 0)):
        raise ValueError(f"a risk level lies between 0 and 1, got {level}")
