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
  (`littoral.core.route_link.LinkLatch`); the device answers, and a ping behind such an answer finds out more.
- No byte is spent that the budget has not.
- No picture is sent to a cloud that answers none.

Pure but for its own state: no clock, no random numbers; times and the audit's coin are passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from littoral.core.caution import CALM, Stance
from littoral.core.exits import OFF, leaves
from littoral.core.hedge import hedge_after_ms
from littoral.core.route_known import RouteKnown, WaysView
from littoral.core.route_link import LinkLatch, LinkTrouble, StickyChoice
from littoral.core.route_plan import ErrorCurves, Plan, make_plan
from littoral.core.route_words import Decision, Moment, Reason, RouteConfig, Ticket, Way
from littoral.core.switcher import Switcher, switch_score

_PlanKey = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float]
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
        curves: Of the bundle's calibration frames; with a switcher, by `littoral.core.switcher.switch_score`.
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
        self.known, self.latch = RouteKnown(ways, step_ms, self.config), LinkLatch(self.config.link)
        self.sticky = [
            StickyChoice(self.config.level_margin, self.config.level_hold) for _ in range(curves.num_points + 1)
        ]
        self._stance = CALM
        self._wanted = self._frame_wanted = False  # an offload, while the link is in trouble
        self._num_pings = 0
        self._plan: Plan | None = None
        self._plan_key: _PlanKey = ((), (), (), 0.0)
        self._plan_seen: tuple[WaysView, tuple[tuple[float, ...], tuple[float, ...], bool, float]] | None = None

    # -- what happened -------------------------------------------------------------------------------------------------

    def new_frame(self, stance: Stance = CALM) -> None:
        """A frame came; ``stance`` is how careful to be with it."""
        self._stance, self._frame_wanted = stance, False
        self.known.new_frame(stance.budget_factor)

    def ran(self, step: int, took_ms: float) -> None:
        """The device got from a point to the next in so long."""
        self.known.ran(step, took_ms)

    def sent(self, way: int, num_bytes: int, *, encode_ms: float, now_ms: float, ping: bool = False) -> Ticket:
        """A payload was made and sent. Say what became of it: `answered`, `refused` or `gave_up`."""
        if ping:
            self.latch.pinged(now_ms)
        return self.known.sent(way, num_bytes, encode_ms)

    def answered(self, ticket: Ticket, elapsed_ms: float, *, queue_ms: float, compute_ms: float, now_ms: float) -> None:
        """The cloud answered ``elapsed_ms`` after sending began."""
        self.known.closed(ticket)
        through = ticket.num_bytes + ticket.bytes_ahead
        self.known.link.answered(through, elapsed_ms, queue_ms=queue_ms, compute_ms=compute_ms, now_ms=now_ms)
        self.known.computed(ticket.way, compute_ms)
        self.latch.answered(in_time=elapsed_ms <= self.config.link.open_margin * self._allowed_ms)

    def refused(self, ticket: Ticket) -> None:
        """The cloud said that it will not answer in time: it is busy, and the road is not to blame."""
        self.known.closed(ticket)
        self.latch.failed("link-slow")

    def gave_up(self, ticket: Ticket, waited_ms: float, *, now_ms: float) -> None:
        """Nothing came in so long."""
        self.known.closed(ticket)
        self.known.link.gave_up(ticket.num_bytes + ticket.bytes_ahead, waited_ms, now_ms=now_ms)
        self.latch.failed()

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
        self.known.set_pictures(moment.pictures)
        point, at_end = moment.point, moment.point == points
        remaining_ms = self.config.deadline_ms - self.config.spare_ms - moment.elapsed_ms
        thresholds = self._stance.thresholds(moment.thresholds)
        trouble = self._trouble(moment)
        plan = self._planned(thresholds, is_shut=trouble is not None)
        gain, score = self._gain_and_score(moment)
        b = self.curves.bin_of(point - 1, score) if point else 0
        extra = 0.0 if at_end else self._stance.exit_extra  # what shakes the whole network shakes the cloud as well
        local = min(float(self.curves.local[point - 1, b]) + extra, 1.0) if point else math.inf
        may_answer = at_end or (point > 0 and leaves(moment.confidence, thresholds[point - 1]))
        answer = local if may_answer else math.inf
        onward = math.inf
        if not at_end and self.known.step_high_ms[point] <= remaining_ms:
            onward = float(plan.onward[point, b])
        if gain is None and point and (open_ways := self._open_from(points)):
            gain = local - float(self.curves.cloud[open_ways, point - 1, b].min())
        offload = self._best_offload(moment, plan, b, local, remaining_ms, trouble)
        here = min(answer, onward)
        if offload.loss < here - self.config.margin:
            return self._offload(moment, offload, gain, remaining_ms)
        if answer <= onward and may_answer:
            reason: Reason = "sure" if not at_end else "asked" if moment.asked else offload.why_not
            return self._answer(moment, reason, offload, gain, trouble)
        if onward < math.inf:
            return Decision(
                action="go-on",
                reason="asked" if moment.asked else "unsure" if point and not may_answer else "worth-going-on",
                until=self._stop(moment, remaining_ms),
                gain=gain,
            )
        if point > 0:
            return self._answer(moment, "no-time", offload, gain, trouble)
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
    ) -> Decision:
        """Give the answer in hand, and ask for a label behind it if that is due."""
        at_end = moment.point == self.curves.num_points
        degraded = reason == "no-time" or (at_end and self._frame_wanted and trouble is not None)
        ask, is_ping, propensity = None, False, None
        if not moment.asked and moment.connected:
            if trouble is not None and self._wanted and self.latch.wants_ping(moment.now_ms):
                ask, is_ping = self._ping_way(moment.point), True
                self._wanted = False
            elif trouble is None and moment.coin < self.config.audit_share:
                ask, propensity = offload.way, self.config.audit_share
                ask = self._smallest(moment.point) if ask is None else ask
        if ask is None:
            is_ping, propensity = False, None
        return Decision(
            action="finish" if at_end else "exit",
            reason=reason,
            ask=ask,
            give_up_after_ms=self._allowed_ms if ask is not None else 0.0,
            is_ping=is_ping,
            propensity=propensity,
            degraded=degraded,
            gain=gain,
        )

    def _offload(self, moment: Moment, offload: _Offload, gain: float | None, remaining_ms: float) -> Decision:
        assert offload.way is not None
        hedge, (reached, rest_ms) = None, self._reach(moment.point, remaining_ms)
        if self.config.hedges and reached > moment.point:
            patience = self.known.ways().high_ms[offload.way]
            if gain is None or gain > self.config.prices.ms * (remaining_ms - patience):
                patience = math.inf  # the cloud's answer is worth waiting for as long as there is time
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

    def _stop(self, moment: Moment, remaining_ms: float) -> int:
        """The next point with an exit in force, or the end; the next of all where it may be too late for more, and
        while the world has just changed: there it tells of the network's own trouble whether exits agree with it."""
        rest_ms, points = 0.0, self.curves.num_points
        if self._stance.level > 0:
            return moment.point + 1
        for step in range(moment.point, points):
            rest_ms += self.known.step_high_ms[step]
            if rest_ms > remaining_ms:
                break
            if step + 1 == points or moment.thresholds[step] != OFF:
                return step + 1
        return moment.point + 1

    # -- its parts -----------------------------------------------------------------------------------------------------

    @property
    def _allowed_ms(self) -> float:
        return self.config.deadline_ms - self.config.spare_ms

    def _gain_and_score(self, moment: Moment) -> tuple[float | None, float]:
        """What the switcher says that an offload gains, and where the frame lies on the curves."""
        if not moment.point or self.switcher is None or moment.features is None:
            return None, moment.confidence
        gain = self.switcher.gain(moment.point - 1, moment.features)
        return gain, switch_score(gain)

    def _best_offload(
        self, moment: Moment, plan: Plan, b: int, local: float, remaining_ms: float, trouble: LinkTrouble | None
    ) -> _Offload:
        point, view = moment.point, self.known.ways()
        here = self._open_from(point)
        if not here or moment.asked:
            return _Offload(way=None, loss=math.inf, why_not="asked" if moment.asked else "no-way")
        errors = self.curves.cloud[:, point - 1, b].tolist() if point else self.curves.cloud_mean.tolist()
        if trouble is not None:
            without_link = min(errors[w] + view.prices[w] for w in here)
            stay = local if point == self.curves.num_points else float(plan.onward[point, b])
            if without_link < min(local, stay) - self.config.margin:
                self._wanted = self._frame_wanted = True
            return _Offload(way=None, loss=math.inf, why_not=trouble)
        losses: list[float] = [math.inf] * len(self.ways)
        why_not: Reason = "no-budget"
        for w in here:
            if not view.affordable[w]:
                continue
            why_not = "link-slow"
            if view.high_ms[w] <= remaining_ms:
                losses[w] = errors[w] + self.config.prices.ms * view.expected_ms[w] + view.prices[w]
        way = self._kept_or_picture(point, losses)
        if way is None:
            return _Offload(way=None, loss=math.inf, why_not=why_not)
        return _Offload(way=way, loss=losses[way], why_not="device-better")

    def _kept_or_picture(self, point: int, losses: list[float]) -> int | None:
        """The best way: of a split's levels the one in use, by hysteresis; a picture wherever it is worth more.

        Which level is best hangs on the link, and wanders. Whether the teacher is needed hangs on the frame, as whether
        the cloud is: it is decided for each.
        """
        pictures = [w for w, way in enumerate(self.ways) if way.is_picture and losses[w] < math.inf]
        levels = [math.inf if way.is_picture else loss for way, loss in zip(self.ways, losses, strict=True)]
        kept = self.sticky[point].choose(levels)
        return min((*pictures, *([] if kept is None else [kept])), key=lambda w: losses[w], default=None)

    def _trouble(self, moment: Moment) -> LinkTrouble | None:
        return self.latch.trouble(
            connected=moment.connected,
            age_ms=self.known.link.age_ms(moment.now_ms),
            quickest_high_ms=self.known.ways().quickest_high_ms,
            allowed_ms=self._allowed_ms,
        )

    def _planned(self, thresholds: tuple[float, ...], *, is_shut: bool) -> Plan:
        """The plan of before, unless something has moved that makes a difference."""
        view, steps, extra = self.known.ways(), self.known.step_losses(), self._stance.exit_extra
        seen, now = self._plan_seen, (steps, thresholds, is_shut, extra)
        if self._plan is not None and seen is not None and seen[0] is view and seen[1] == now:
            return self._plan
        self._plan_seen = view, now
        key = (steps, self._way_losses(view, is_shut), thresholds, extra)
        if self._plan is None or not _alike(key, self._plan_key):
            self._plan_key = key
            self._plan = make_plan(
                self.curves,
                step_losses=key[0],
                way_losses=key[1],
                way_points=[way.point for way in self.ways],
                thresholds=thresholds,
                exit_extra=extra,
            )
        return self._plan

    def _way_losses(self, view: WaysView, is_shut: bool) -> tuple[float, ...]:
        """What the ways cost in a plan: infinite where one could not be in time even for a frame never delayed."""
        losses = []
        for w, way in enumerate(self.ways):
            late = sum(self.known.step_ms[: way.point]) + view.high_ms[w] > self._allowed_ms
            shut = is_shut or late or not view.affordable[w] or not view.is_open[w]
            losses.append(math.inf if shut else self.config.prices.ms * view.expected_ms[w] + view.prices[w])
        return tuple(losses)

    def _open_from(self, point: int) -> list[int]:
        """The ways that can be taken at a point."""
        is_open = self.known.ways().is_open
        return [w for w, way in enumerate(self.ways) if way.point <= point and is_open[w]]

    def _smallest(self, point: int, least_bytes: float = 0.0) -> int | None:
        affordable, size = self.known.ways().affordable, self.known.size
        here = [w for w in self._open_from(point) if affordable[w] and size(w) >= least_bytes]
        return min(here, key=size, default=None)

    def _ping_way(self, point: int) -> int | None:
        """The smallest way; every other time one larger by half, so that the throughput is known too."""
        smallest = self._smallest(point)
        self._num_pings += 1
        if smallest is None or self._num_pings % 2:
            return smallest
        larger = self._smallest(point, 1.5 * self.known.size(smallest))
        return smallest if larger is None else larger

    def _reach(self, point: int, remaining_ms: float) -> tuple[int, float]:
        """The deepest point that the device is sure to reach in time, and how long that takes it at most."""
        reached, rest_ms, highs = point, 0.0, self.known.step_high_ms
        for step in range(point, len(highs)):
            if rest_ms + highs[step] > remaining_ms:
                break
            reached, rest_ms = step + 1, rest_ms + highs[step]
        return reached, rest_ms


def _alike(a: _PlanKey, b: _PlanKey) -> bool:
    if len(a[1]) != len(b[1]) or len(a[0]) != len(b[0]) or abs(a[3] - b[3]) > _SAME_LOSS:
        return False
    if any(x != y and not abs(x - y) <= _SAME_LOSS for x, y in zip(a[2], b[2], strict=True)):
        return False
    return all(x == y or abs(x - y) <= _SAME_LOSS for x, y in zip((*a[0], *a[1]), (*b[0], *b[1]), strict=True))
