"""A frame that was offloaded and may have to be answered by the device: when it goes on, and which answer counts.

offloaded ── waits ── hedge_after_ms ── the device goes on ─────────── its answer ┐
    └──────────────────── the cloud's answer, whenever it comes ──────────────────┴─ the first in time counts,
                                                                                    the other is a label
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


def hedge_after_ms(*, patience_ms: float, remaining_ms: float, rest_ms: float) -> float:
    """How long the device waits for the cloud before it goes on by itself, without ever being late for it.

    Args:
        patience_ms: Within which the answer is expected.
        remaining_ms: Until the deadline, what is kept to spare taken off.
        rest_ms: What the device needs to its own answer, at the most.
    Raises:
        ValueError: the device has not so much time left: there is nothing to hedge with.
    """
    latest = remaining_ms - rest_ms
    if latest < 0:
        raise ValueError(
            f"the device needs {rest_ms} ms of its own and has {remaining_ms} ms; answer with what is there"
        )
    return min(max(patience_ms, 0.0), latest)


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Which answer counts.

    Attributes:
        source: Of the answer that is given: the cloud, what the device ran, or what it had in hand before it asked.
        at_ms: When; all in milliseconds since the frame came.
        degraded: The device answered although the cloud was to.
        in_time: The answer is there by the deadline.
        cloud_is_label: The cloud's answer came after another was given: it teaches, and changes nothing.
    """

    source: Literal["cloud", "device", "in-hand"]
    at_ms: float
    degraded: bool
    in_time: bool
    cloud_is_label: bool


def settle(
    *, cloud_ms: float | None, device_ms: float | None, in_hand: bool, give_up_ms: float, deadline_ms: float
) -> Settled:
    """The first answer counts; what was in hand is given when neither came until ``give_up_ms``.

    Args:
        cloud_ms, device_ms: When the two answers are there; None for never.
        in_hand: An exit had answered before the frame was offloaded.
        give_up_ms: Until when the cloud is waited for, where there is an answer in hand.
    Raises:
        ValueError: no answer at all.
    """
    cloud = math.inf if cloud_ms is None else cloud_ms
    device = math.inf if device_ms is None else device_ms
    first = min(cloud, device)
    if in_hand and first > give_up_ms:
        source: Literal["cloud", "device", "in-hand"] = "in-hand"
        first = give_up_ms
    elif first == math.inf:
        raise ValueError("a frame was offloaded without a way to answer it locally, and the cloud gave no answer")
    else:
        source = "cloud" if cloud <= device else "device"
    return Settled(
        source=source,
        at_ms=first,
        degraded=source != "cloud",
        in_time=first <= deadline_ms,
        cloud_is_label=source != "cloud" and cloud < math.inf,
    )
