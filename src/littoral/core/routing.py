"""Exit here, go on, or offload: one decision per frame and point, from what is known at that moment, with its reason.

    point 0 ── segment 0 ── point 1 (exit 0) ── ... ── point P (the whole network has run)
       │                       ├── exit: the answer in hand is given        │
       └── offload: a payload ─┴── offload                                  ├── finish: its answer is given
                                                                            └── offload

`Router` prices everything as loss (`littoral.core.route_plan`) and takes the least, within rules that no price moves:

- An exit answers only at or above its threshold, unless there is no time for anything else.
- Nothing is chosen that could miss the deadline where another choice meets it: an offload needs an answer in hand, or
  time for the device to make one after waiting (`Decision.hedge_after_ms`), whatever the link does.
- A link that is down, that is too slow for the deadline, or of which nothing recent is known is not used
  (`littoral.core.route_link.LinkGate`); the device answers, and a probe behind such an answer finds out more.
- No byte is spent that the budget has not.

Pure but for its own state: no clock, no random numbers; times and the audit's coin are passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from littoral.core.caution import CALM, Stance
from littoral.core.estimates import Ewma
from littoral.core.exits import leaves
from littoral.core.hedge import hedge_after_ms
from littoral.core.route_budget import RouteBudget
from littoral.core.route_link import LinkEstimate, LinkGate, LinkTrouble, StickyChoice
from littoral.core.route_plan import ErrorCurves, Plan, make_plan
from littoral.core.route_words import Decision, Moment, Reason, RouteConfig, Way
from littoral.core.switcher import Switcher

_SAME_LOSS = 0.002
"""Losses that differ by less do not make a new plan."""


@dataclass(frozen=True, kw_only=True)
class _Offload:
    """The best offload from here: its way and loss, and why there is none."""

    way: int | None
    loss: float
    why_not: Reason


class Router:
    """Decides for the frames of one device, one after another.

    Args:
        curves: Of the bundle's calibration frames.
        ways: As the curves have them.
        step_ms: How long the device takes from each point to the next, at first; what is measured moves it.
        switcher: Says what an offload gains for a frame; without it the curves do.
    """

    def __init__(
        self,
        curves: ErrorCurves,
        ways: Sequence[Way],
        step_ms: Sequence[float],
        config: RouteConfig | None = None,
        *,
        switcher: Switcher | None = None,
    ) -> None:
        if len(ways) != len(curves.cloud_mean) or len(step_ms) != curves.num_points:
            raise ValueError(
                f"{len(ways)} ways and {len(step_ms)} steps came, the curves have {len(curves.cloud_mean)} and "
                f"{curves.num_points}"
            )
        if switcher is not None and switcher.num_points != curves.num_points:
            raise ValueError(f"the switcher has {switcher.num_points} points, the curves {curves.num_points}")
        self.curves, self.ways, self.config, self.switcher = curves, tuple(ways), config or RouteConfig(), switcher
        self.link, self.gate = LinkEstimate(), LinkGate(self.config.link)
        self.bytes = RouteBudget(self.config.byte_budget) if self.config.byte_budget else None
        self.energy = RouteBudget(self.config.energy_budget) if self.config.energy_budget else None
        self.sticky = [
            StickyChoice(self.config.level_margin, self.config.level_hold) for _ in range(curves.num_points + 1)
        ]
        self.num_plans = 0
        self._steps = [Ewma(0.1) for _ in step_ms]
        self._sizes = [Ewma(0.1) for _ in self.ways]
        self._encode = [Ewma(0.1) for _ in self.ways]
        for ewma, value in zip(self._steps, step_ms, strict=True):
            ewma.add(value)
        for way, size, encode in zip(self.ways, self._sizes, self._encode, strict=True):
            size.add(way.num_bytes)
            encode.add(way.encode_ms)
        # In every bin the cloud's error beyond that of the way that errs least: what a level costs.
        self._level_errors = curves.cloud - curves.cloud.min(axis=0) if self.ways else curves.cloud
        self._stance = CALM
        self._wanted = self._frame_wanted = False  # an offload, while the link is in trouble
        self._num_probes = 0
        self._plan: Plan | None = None
        self._plan_of: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float] = ((), (), (), 0.0)

    # -- what happened -------------------------------------------------------------------------------------------------

    def new_frame(self, stance: Stance = CALM) -> None:
        """A frame came; ``stance`` is how careful to be with it."""
        self._stance, self._frame_wanted = stance, False
        if self.bytes:
            self.bytes.frame(stance.budget_factor)
        if self.energy:
            self.energy.frame()

    def ran(self, step: int, took_ms: float) -> None:
        """The device got from a point to the next in so long."""
        self._steps[step].add(took_ms)
        if self.energy:
            self.energy.spend(took_ms * self.config.millijoules_per_ms)

    def sent(self, way: int, num_bytes: int, *, encode_ms: float, now_ms: float, probe: bool = False) -> None:
        """A payload was made and sent."""
        self._sizes[way].add(num_bytes)
        self._encode[way].add(encode_ms)
        if self.bytes:
            self.bytes.spend(num_bytes)
        if self.energy:
            energy = num_bytes * self.config.millijoules_per_byte + encode_ms * self.config.millijoules_per_ms
            self.energy.spend(energy)
        if probe:
            self.gate.probed(now_ms)

    def answered(self, num_bytes: int, elapsed_ms: float, *, queue_ms: float, compute_ms: float, now_ms: float) -> None:
        """The cloud answered ``elapsed_ms`` after sending began."""
        self.link.answered(num_bytes, elapsed_ms, queue_ms=queue_ms, compute_ms=compute_ms, now_ms=now_ms)
        self.gate.answered(in_time=elapsed_ms <= self.config.link.open_margin * self._allowed_ms)

    def refused(self) -> None:
        """The cloud said that it will not answer in time: it is busy, and the road is not to blame."""
        self.gate.failed()

    def gave_up(self, num_bytes: int, waited_ms: float, *, now_ms: float) -> None:
        """Nothing came in so long."""
        self.link.gave_up(num_bytes, waited_ms, now_ms=now_ms)
        self.gate.failed()

    # -- the decision --------------------------------------------------------------------------------------------------

    def route(self, moment: Moment) -> Decision:
        """What to do with a frame now.

        Raises:
            ValueError: there is no such point, or a wrong number of thresholds.
        """
        points = self.curves.num_points
        if not 0 <= moment.point <= points or len(moment.thresholds) != points - 1:
            raise ValueError(
                f"point {moment.point} with {len(moment.thresholds)} thresholds came, expected 0 to {points} with "
                f"{points - 1}"
            )
        point, at_end = moment.point, moment.point == points
        remaining_ms = self.config.deadline_ms - self.config.spare_ms - moment.elapsed_ms
        thresholds = self._stance.thresholds(moment.thresholds)
        trouble = self._trouble(moment)
        plan = self._planned(thresholds, is_shut=trouble is not None)
        b = self.curves.bin_of(point - 1, moment.confidence) if point else 0
        local = min(float(self.curves.local[point - 1, b]) + self._stance.local_extra, 1.0) if point else math.inf
        may_answer = at_end or (point > 0 and leaves(moment.confidence, thresholds[point - 1]))
        answer = local if may_answer else math.inf
        onward = math.inf
        if not at_end and self._step_high(point) <= remaining_ms:
            onward = float(plan.onward[point, b])
        gain = self._gain(moment, b, local)
        offload = self._best_offload(moment, plan, b, local, gain, remaining_ms, trouble)
        here = min(answer, onward)
        if offload.loss < here - self.config.margin:
            return self._offload(moment, offload, gain, remaining_ms)
        if answer <= onward and may_answer:
            reason: Reason = "sure" if not at_end else "asked" if moment.asked else offload.why_not
            return self._answer(moment, reason, offload, gain, trouble, remaining_ms)
        if onward < math.inf:
            return Decision(
                action="go-on",
                reason="asked" if moment.asked else "worth-going-on" if may_answer else "unsure",
                gain=gain,
            )
        if point > 0:
            return self._answer(moment, "no-time", offload, gain, trouble, remaining_ms)
        if offload.way is not None:  # nothing here can be in time; the cloud may be
            return self._offload(moment, offload, gain, remaining_ms)
        return Decision(action="go-on", reason="no-time", degraded=True)

    def _answer(
        self,
        moment: Moment,
        reason: Reason,
        offload: _Offload,
        gain: float | None,
        trouble: LinkTrouble | None,
        remaining_ms: float,
    ) -> Decision:
        """Give the answer in hand, and ask for a label behind it if that is due."""
        at_end = moment.point == self.curves.num_points
        degraded = reason == "no-time" or (at_end and self._frame_wanted and trouble is not None)
        ask, is_probe, propensity = None, False, None
        if not moment.asked and moment.connected:
            if trouble is not None and self._wanted and self.gate.wants_probe(moment.now_ms):
                ask, is_probe = self._probe_way(moment.point), True
                self._wanted = False
            elif trouble is None and moment.coin < self.config.audit_share:
                ask, propensity = offload.way, self.config.audit_share
                ask = self._smallest(moment.point) if ask is None else ask
        if ask is None:
            is_probe, propensity = False, None
        return Decision(
            action="finish" if at_end else "exit",
            reason=reason,
            ask=ask,
            give_up_after_ms=self._allowed_ms if ask is not None else 0.0,
            is_probe=is_probe,
            propensity=propensity,
            degraded=degraded,
            gain=gain,
        )

    def _offload(self, moment: Moment, offload: _Offload, gain: float | None, remaining_ms: float) -> Decision:
        assert offload.way is not None
        hedge, (reached, rest_ms) = None, self._reach(moment.point, remaining_ms)
        if self.config.hedges and reached > moment.point:
            patience = self._encode_ms(offload.way) + self._high_ms(offload.way)
            hedge = hedge_after_ms(patience_ms=patience, remaining_ms=remaining_ms, rest_ms=rest_ms)
        late = reached < self.curves.num_points
        return Decision(
            action="offload",
            reason="device-late" if late else "cloud-better",
            way=offload.way,
            hedge_after_ms=hedge,
            give_up_after_ms=max(remaining_ms, 0.0),
            propensity=1.0,
            gain=gain,
        )

    # -- its parts -----------------------------------------------------------------------------------------------------

    @property
    def _allowed_ms(self) -> float:
        return self.config.deadline_ms - self.config.spare_ms

    def _gain(self, moment: Moment, b: int, local: float) -> float | None:
        """How much likelier the best way's answer is right than the one in hand."""
        if not moment.point or not self.ways:
            return None
        if self.switcher is not None and moment.features is not None:
            return self.switcher.gain(moment.point - 1, moment.features) + self._stance.local_extra
        return local - float(self.curves.cloud[:, moment.point - 1, b].min())

    def _best_offload(
        self,
        moment: Moment,
        plan: Plan,
        b: int,
        local: float,
        gain: float | None,
        remaining_ms: float,
        trouble: LinkTrouble | None,
    ) -> _Offload:
        point = moment.point
        here = [w for w, way in enumerate(self.ways) if way.point <= point]
        if not here or moment.asked:
            return _Offload(way=None, loss=math.inf, why_not="asked" if moment.asked else "no-way")
        errors = {w: self._error_of(w, point, b, local, gain) for w in here}
        if trouble is not None:
            without_link = min(errors[w] + self._price_of(w) for w in here)
            stay = local if point == self.curves.num_points else float(plan.onward[point, b])
            if without_link < min(local, stay) - self.config.margin:
                self._wanted = self._frame_wanted = True
            return _Offload(way=None, loss=math.inf, why_not=trouble)
        losses, why_not = [math.inf] * len(self.ways), "no-budget"
        for w in here:
            if not self._affordable(w):
                continue
            why_not = "link-slow"
            if self._encode_ms(w) + self._high_ms(w) <= remaining_ms:
                losses[w] = errors[w] + self._way_loss(w)
        way = self.sticky[point].choose(losses)
        if way is None:
            return _Offload(way=None, loss=math.inf, why_not="link-slow" if why_not == "link-slow" else "no-budget")
        return _Offload(way=way, loss=losses[way], why_not="device-better")

    def _error_of(self, w: int, point: int, b: int, local: float, gain: float | None) -> float:
        if not point or gain is None:
            return float(self.curves.cloud_mean[w])
        return min(max(local - gain + float(self._level_errors[w, point - 1, b]), 0.0), 1.0)

    def _trouble(self, moment: Moment) -> LinkTrouble | None:
        highs = [high for size in self._sizes if (high := self.link.high_ms(int(size.mean or 0), self._deviations))]
        return self.gate.trouble(
            connected=moment.connected,
            age_ms=self.link.age_ms(moment.now_ms),
            quickest_high_ms=min(highs, default=None),
            allowed_ms=self._allowed_ms,
        )

    @property
    def _deviations(self) -> float:
        return self.config.link.deviations

    def _planned(self, thresholds: tuple[float, ...], *, is_shut: bool) -> Plan:
        steps = tuple(self._step_price(s) for s in range(len(self._steps)))
        ways = tuple(math.inf if is_shut else self._plan_loss(w) for w in range(len(self.ways)))
        key = (steps, ways, thresholds, self._stance.local_extra)
        if self._plan is None or not _alike(key, self._plan_of):
            self._plan, self._plan_of = self._make(steps, ways, thresholds), key
            self.num_plans += 1
        return self._plan

    def _make(self, steps: tuple[float, ...], ways: tuple[float, ...], thresholds: tuple[float, ...]) -> Plan:
        return make_plan(
            self.curves,
            step_losses=steps,
            way_losses=ways,
            way_points=[way.point for way in self.ways],
            thresholds=thresholds,
            local_extra=self._stance.local_extra,
        )

    def _plan_loss(self, w: int) -> float:
        """As `_way_loss`; infinite where the way could not be in time even for a frame that was never delayed."""
        before = sum(step.mean or 0.0 for step in self._steps[: self.ways[w].point])
        late = before + self._encode_ms(w) + self._high_ms(w) > self._allowed_ms
        return math.inf if late or not self._affordable(w) else self._way_loss(w)

    def _way_loss(self, w: int) -> float:
        expected = self.link.predict_ms(int(self._size(w))) or 0.0
        return self.config.prices.ms * (self._encode_ms(w) + expected) + self._price_of(w)

    def _price_of(self, w: int) -> float:
        """Bytes and energy of a way, in loss."""
        size, config = self._size(w), self.config
        energy = size * config.millijoules_per_byte + self._encode_ms(w) * config.millijoules_per_ms
        byte = config.prices.byte + (self.bytes.price if self.bytes else 0.0)
        return size * byte + energy * self._energy_price

    def _step_price(self, step: int) -> float:
        took = self._steps[step].mean or 0.0
        return took * (self.config.prices.ms + self.config.millijoules_per_ms * self._energy_price)

    @property
    def _energy_price(self) -> float:
        return self.config.prices.millijoule + (self.energy.price if self.energy else 0.0)

    def _affordable(self, w: int) -> bool:
        size = self._size(w)
        energy = size * self.config.millijoules_per_byte
        return (not self.bytes or self.bytes.can(size)) and (not self.energy or self.energy.can(energy))

    def _smallest(self, point: int) -> int | None:
        here = [w for w, way in enumerate(self.ways) if way.point <= point and self._affordable(w)]
        return min(here, key=self._size, default=None)

    def _probe_way(self, point: int) -> int | None:
        """The smallest way; every other time one larger by half, so that the throughput is known too."""
        smallest = self._smallest(point)
        self._num_probes += 1
        if smallest is None or self._num_probes % 2:
            return smallest
        here = [w for w, way in enumerate(self.ways) if way.point <= point and self._affordable(w)]
        larger = [w for w in here if self._size(w) >= 1.5 * self._size(smallest)]
        return min(larger, key=self._size, default=smallest)

    def _size(self, w: int) -> float:
        return self._sizes[w].mean or 0.0

    def _encode_ms(self, w: int) -> float:
        return self._encode[w].mean or 0.0

    def _high_ms(self, w: int) -> float:
        high = self.link.high_ms(int(self._size(w)), self._deviations)
        return math.inf if high is None else high

    def _step_high(self, step: int) -> float:
        return self._steps[step].high(self.config.deviations) or 0.0

    def _reach(self, point: int, remaining_ms: float) -> tuple[int, float]:
        """The deepest point that the device is sure to reach in time, and how long that takes it at most."""
        reached, rest_ms = point, 0.0
        for step in range(point, len(self._steps)):
            if rest_ms + self._step_high(step) > remaining_ms:
                break
            reached, rest_ms = step + 1, rest_ms + self._step_high(step)
        return reached, rest_ms


def _alike(
    a: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float],
    b: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float],
) -> bool:
    if len(a[1]) != len(b[1]) or len(a[0]) != len(b[0]) or abs(a[3] - b[3]) > _SAME_LOSS:
        return False
    if any(x != y and not abs(x - y) <= _SAME_LOSS for x, y in zip(a[2], b[2], strict=True)):
        return False
    return all(x == y or abs(x - y) <= _SAME_LOSS for x, y in zip((*a[0], *a[1]), (*b[0], *b[1]), strict=True))
