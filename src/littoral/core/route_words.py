"""The words of the router: what it is told about a frame, what it decides, and every reason that it may give."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from littoral.core.arrays import Float64s
from littoral.core.route_budget import RouteBudgetConfig
from littoral.core.route_link import LatchConfig
from littoral.core.route_plan import Prices

Action = Literal["exit", "go-on", "finish", "offload"]
Reason = Literal[
    "sure",
    "unsure",
    "worth-going-on",
    "cloud-better",
    "device-late",
    "device-better",
    "asked",
    "no-way",
    "no-budget",
    "no-time",
    "link-down",
    "link-stale",
    "link-slow",
]
REASONS: Final[dict[Reason, str]] = {
    "sure": "the exit is as sure as its threshold asks, and nothing else is worth more",
    "unsure": "the exit is not as sure as its threshold asks",
    "worth-going-on": "a deeper answer is worth its time",
    "cloud-better": "the cloud's answer is worth its time and bytes",
    "device-late": "the device cannot finish in time, the cloud can",
    "device-better": "an offload would not be worth its time and bytes",
    "asked": "the cloud was asked for this frame, and the device goes on meanwhile",
    "no-way": "there is no way to offload this frame from here",
    "no-budget": "an offload would cost more bytes or energy than there is",
    "no-time": "nothing better than this is there before the deadline",
    "link-down": "there is no session with the cloud, or it does not answer",
    "link-stale": "nothing recent is known of the link",
    "link-slow": "no answer of the cloud would be there in time",
}
"""Every reason that a decision may give, in words."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of offloading: a split point at a level, or a picture of the frame.

    Attributes:
        split, level: As `littoral.edge.encoder` takes them; of a picture split is 0, and level counts its codings.
        point: The first point at which what it encodes is there; 0 for frames.
        num_bytes: Of a payload, at first; what is sent moves it.
        encode_ms: At first; what is measured moves it.
        coding: Of a picture, for the cloud's whole teacher, as `littoral.bundle.images.encode_image` takes it; empty
            for a split point's payload.
    """

    split: int
    level: int
    point: int
    num_bytes: float
    encode_ms: float = 0.0
    coding: str = ""

    def __post_init__(self) -> None:
        if self.point < 0 or self.num_bytes <= 0 or self.encode_ms < 0:
            raise ValueError(f"a way needs point >= 0, num_bytes > 0 and encode_ms >= 0, got {self}")
        if self.coding and self.point:
            raise ValueError(f"a picture is of the frame, which is there at point 0, got {self}")

    @property
    def is_picture(self) -> bool:
        """Whether the frame itself is sent, as a picture."""
        return bool(self.coding)


@dataclass(frozen=True, kw_only=True)
class RouteConfig:
    """What answers are worth, and what must hold."""

    deadline_ms: float = 200.0
    """From the frame's coming to its answer."""
    spare_ms: float = 2.0
    """Kept back for the change of threads."""
    prices: Prices = field(default_factory=Prices)
    byte_budget: RouteBudgetConfig | None = None
    energy_budget: RouteBudgetConfig | None = None
    """In millijoules; None: only the price counts."""
    millijoules_per_ms: float = 0.0
    """Of the device's computing: its power in watts."""
    millijoules_per_byte: float = 0.0
    """Of sending."""
    audit_share: float = 0.01
    """The share of the frames answered here for which the cloud is asked all the same, as a label."""
    margin: float = 0.005
    """An offload must be better by so much loss."""
    level_margin: float = 0.1
    level_hold: int = 8
    """See `StickyChoice`."""
    deviations: float = 4.0
    """How many of its deviations the device's own time is kept from the deadline."""
    pictures: bool = True
    """Send pictures of whole frames too, where the bundle's tables have such ways and the cloud answers them."""
    hedges: bool = True
    """False waits for the cloud with nothing to fall back on: the negative control."""
    link: LatchConfig = field(default_factory=LatchConfig)

    def __post_init__(self) -> None:
        if not (self.deadline_ms > self.spare_ms >= 0 and 0 <= self.audit_share <= 1 and self.deviations >= 0):
            raise ValueError("deadline_ms > spare_ms >= 0, audit_share in [0, 1] and deviations >= 0 must hold")
        if min(self.margin, self.millijoules_per_ms, self.millijoules_per_byte) < 0:
            raise ValueError("margin and millijoules are not below 0")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is known of a frame at a point.

    Attributes:
        point: How many segments have run; P when the whole network has.
        confidence: Of the answer in hand; not a number where its logits are not. Not looked at at point 0.
        features: `littoral.core.switcher.switch_features` of the answer in hand; None: the curves alone say what an
            offload gains.
        elapsed_ms: Since the frame came.
        now_ms: On the device's clock.
        thresholds: Of the early exits, as certified.
        coin: Drawn from [0, 1) once for the frame, before anything was looked at.
        connected: Whether there is a session.
        pictures: Whether its cloud answers pictures; True without a session, when nobody says that it does not.
        asked: The cloud was asked for this frame already.
    """

    point: int
    elapsed_ms: float
    now_ms: float
    thresholds: tuple[float, ...]
    confidence: float = math.nan
    features: Float64s | None = None
    coin: float = 1.0
    connected: bool = True
    pictures: bool = True
    asked: bool = False


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do with a frame at a point, and why.

    Attributes:
        action: ``exit`` and ``finish`` give the answer in hand; ``go-on`` runs to the next point, where it is decided
            anew; ``offload`` asks the cloud.
        reason: One of `REASONS`.
        way: Of an offload, which.
        hedge_after_ms: Of an offload: the device goes on by itself when no answer has come in so long; None: it waits
            until ``give_up_after_ms`` and then gives what it has in hand.
        give_up_after_ms: From now, until when the cloud's answer counts.
        ask: The way by which the cloud is asked for a label after this answer was given: an audit, or a ping.
        is_ping: Whether that is a ping. Its frames are not drawn at random: the switcher learns nothing of them.
        propensity: The chance that this frame had of being asked for; None where it was not, or as a ping.
        degraded: The cloud would have been asked, and could not be; or there was no time for the right answer.
        until: Of ``go-on``: the point to run to. At those before it the exits are off, and looking costs time; None:
            the next one.
        gain: By how much an offload was thought to make a right answer likelier; None at point 0.
    """

    action: Action
    reason: Reason
    way: int | None = None
    hedge_after_ms: float | None = None
    give_up_after_ms: float = 0.0
    ask: int | None = None
    is_ping: bool = False
    propensity: float | None = None
    degraded: bool = False
    until: int | None = None
    gain: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A request that is out: `Router.sent` gives it, and what became of it is told with it.

    Attributes:
        way, num_bytes: What was sent.
        bytes_ahead: Of the device's own earlier requests that were still out: it waits behind them.
    """

    way: int
    num_bytes: int
    bytes_ahead: int = 0
