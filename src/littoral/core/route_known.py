"""What a router has measured: times of the device's steps, sizes of payloads, the link, the budgets. No clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from littoral.core.estimates import Ewma
from littoral.core.route_budget import RouteBudget
from littoral.core.route_link import LinkEstimate
from littoral.core.route_words import RouteConfig, Ticket, Way

_WEIGHT = 0.1


@dataclass(frozen=True)
class WaysView:
    """What is thought of the ways until something is measured; lists by way.

    Attributes:
        is_open: False for a picture where the cloud answers none.
        expected_ms: Encoding, and the answer's way there and back.
        high_ms: The same with the deviations of `LatchConfig`; infinite where nothing is known.
        prices: Bytes and energy, in loss.
        affordable: Whether the budgets have so much.
        quickest_high_ms: The least of ``high_ms`` of those that are open; None where nothing is known.
    """

    is_open: list[bool]
    expected_ms: list[float]
    high_ms: list[float]
    prices: list[float]
    affordable: list[bool]
    quickest_high_ms: float | None


class RouteKnown:
    """Estimates and budgets of one device.

    Args:
        ways, step_ms: As `littoral.core.routing.Router` takes them.
    """

    def __init__(self, ways: Sequence[Way], step_ms: Sequence[float], config: RouteConfig) -> None:
        self.config, self.link = config, LinkEstimate()
        self.bytes = RouteBudget(config.byte_budget) if config.byte_budget else None
        self.energy = RouteBudget(config.energy_budget) if config.energy_budget else None
        self._steps = [_started(value) for value in step_ms]
        self._sizes = [_started(way.num_bytes) for way in ways]
        self._encode = [_started(way.encode_ms) for way in ways]
        self._is_picture, self._pictures = [way.is_picture for way in ways], config.pictures
        groups = [None if way.is_picture else way.split for way in ways]
        shared = {group: Ewma() for group in groups}
        self._compute = [shared[group] for group in groups] if len(shared) > 1 else []
        """What the cloud computes for each way: its teacher longer than a tail. One network needs no estimate of its
        own, the link has it."""
        self._out_bytes = 0
        self._ways: WaysView | None = None
        self.step_ms, self.step_high_ms = [0.0] * len(self._steps), [0.0] * len(self._steps)
        """What each step takes, and at most."""
        for step in range(len(self._steps)):
            self._look_at(step)

    def new_frame(self, budget_factor: float) -> None:
        """A frame came: the budgets grow."""
        if self.bytes:
            self.bytes.frame(budget_factor)
        if self.energy:
            self.energy.frame()
        if self.bytes or self.energy:
            self._ways = None

    def set_pictures(self, pictures: bool) -> None:
        """Whether the cloud of now answers pictures; where the configuration has none it does not matter."""
        if (open_now := pictures and self.config.pictures) != self._pictures:
            self._pictures, self._ways = open_now, None

    def ran(self, step: int, took_ms: float) -> None:
        """See `Router.ran`."""
        self._steps[step].add(took_ms)
        self._look_at(step)
        if self.energy:
            self.energy.spend(took_ms * self.config.millijoules_per_ms)
            self._ways = None

    def sent(self, way: int, num_bytes: int, encode_ms: float) -> Ticket:
        """See `Router.sent`."""
        self._sizes[way].add(num_bytes)
        self._encode[way].add(encode_ms)
        if self.bytes:
            self.bytes.spend(num_bytes)
        if self.energy:
            energy = num_bytes * self.config.millijoules_per_byte + encode_ms * self.config.millijoules_per_ms
            self.energy.spend(energy)
        ticket = Ticket(way=way, num_bytes=num_bytes, bytes_ahead=self._out_bytes)
        self._out_bytes += num_bytes
        self._ways = None
        return ticket

    def closed(self, ticket: Ticket) -> None:
        """A request is no longer out."""
        self._out_bytes -= ticket.num_bytes
        self._ways = None

    def computed(self, way: int, compute_ms: float) -> None:
        """The cloud answered, and says how long it computed."""
        if self._compute:
            self._compute[way].add(max(compute_ms, 0.0))
            self._ways = None

    @property
    def energy_price(self) -> float:
        """Of a millijoule, in loss."""
        return self.config.prices.millijoule + (self.energy.price if self.energy else 0.0)

    def step_losses(self) -> tuple[float, ...]:
        """Time and energy of each step, in loss."""
        price = self.config.prices.ms + self.config.millijoules_per_ms * self.energy_price
        return tuple(took * price for took in self.step_ms)

    def size(self, way: int) -> float:
        """The bytes expected of a way."""
        return self._sizes[way].mean or 0.0

    def ways(self) -> WaysView:
        """What is thought of the ways now; the same object until something is measured."""
        if self._ways is not None:
            return self._ways
        config, deviations = self.config, self.config.link.deviations
        byte = config.prices.byte + (self.bytes.price if self.bytes else 0.0)
        millijoule = self.energy_price
        view = WaysView([], [], [], [], [], None)
        for way, (size_ewma, encode_ewma) in enumerate(zip(self._sizes, self._encode, strict=True)):
            view.is_open.append(self._pictures or not self._is_picture[way])
            size, encode = size_ewma.mean or 0.0, encode_ewma.mean or 0.0
            through = int(size) + self._out_bytes  # it waits behind what is still out
            high, more = self.link.high_ms(through, deviations), encode + self._more_compute_ms(way)
            view.expected_ms.append(max(more + (self.link.predict_ms(through) or 0.0), 0.0))
            view.high_ms.append(math.inf if high is None else more + high)
            energy = size * config.millijoules_per_byte + encode * config.millijoules_per_ms
            view.prices.append(size * byte + energy * millijoule)
            can = (not self.bytes or self.bytes.can_spend(size)) and (not self.energy or self.energy.can_spend(energy))
            view.affordable.append(can)
        known = [high for high, is_open in zip(view.high_ms, view.is_open, strict=True) if is_open]
        quickest = min(known, default=math.inf)
        self._ways = replace(view, quickest_high_ms=None if quickest == math.inf else quickest)
        return self._ways

    def _more_compute_ms(self, way: int) -> float:
        """By how much longer the cloud computes for a way than for what it was asked lately."""
        own, all_ways = self._compute[way].mean if self._compute else None, self.link.compute_ms.mean
        return 0.0 if own is None or all_ways is None else own - all_ways

    def _look_at(self, step: int) -> None:
        self.step_ms[step] = self._steps[step].mean or 0.0
        self.step_high_ms[step] = self._steps[step].high(self.config.deviations) or 0.0


def _started(value: float) -> Ewma:
    ewma = Ewma(_WEIGHT)
    ewma.add(value)
    return ewma
