"""What policies cost and give, and how they stand to each other. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from littoral.bench.routing.run import Played


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A policy on a trace.

    Attributes:
        accuracy: The share of all frames answered rightly; a frame without an answer is wrong, a late one is not.
        timely_accuracy: The same, a late answer being wrong.
        deadline_hits: The share answered in time.
        bytes_per_frame, device_ms_per_frame: Means.
        exit_rate, finish_rate, cloud_rate, degraded_rate: Shares of the frames.
        picture_rate: Of the frames that the cloud answered from a picture; they are in ``cloud_rate``.
    """

    name: str
    is_real: bool
    num_frames: int
    accuracy: float
    timely_accuracy: float
    latency_ms: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    deadline_hits: float
    bytes_per_frame: float
    device_ms_per_frame: float
    exit_rate: float
    finish_rate: float
    cloud_rate: float
    degraded_rate: float
    picture_rate: float = 0.0

    def row(self) -> dict[str, Any]:
        """For the document, rounded."""
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(self).items()}


def standing(played: Played, frames: slice = slice(None)) -> Standing:
    """Sum up, all frames or some."""
    right, in_time, latency = played.right[frames], played.in_time[frames], played.latency_ms[frames]
    if len(right) == 0:
        raise ValueError("no frame: there is nothing to sum up")
    source = np.array(played.source)[frames]
    p50, p95, p99 = (float(value) for value in np.percentile(latency, (50, 95, 99)))
    return Standing(
        name=played.name,
        is_real=played.is_real,
        num_frames=len(right),
        accuracy=float(right.mean()),
        timely_accuracy=float((right & in_time).mean()),
        latency_ms=float(latency.mean()),
        latency_ms_p50=p50,
        latency_ms_p95=p95,
        latency_ms_p99=p99,
        deadline_hits=float(in_time.mean()),
        bytes_per_frame=float(played.num_bytes[frames].mean()),
        device_ms_per_frame=float(played.device_ms[frames].mean()),
        exit_rate=float(np.isin(source, ("exit", "in-hand")).mean()),
        finish_rate=float((source == "finish").mean()),
        cloud_rate=float((source == "cloud").mean()),
        degraded_rate=float(played.degraded[frames].mean()),
        picture_rate=float(played.picture[frames].mean()),
    )


def dominates(a: Standing, b: Standing) -> bool:
    """Whether ``a`` is nowhere worse in accuracy, mean latency and bytes, and better in one of them at least."""
    better = (a.accuracy - b.accuracy, b.latency_ms - a.latency_ms, b.bytes_per_frame - a.bytes_per_frame)
    return min(better) >= 0 and max(better) > 0


def policies_that_dominate(ours: Standing, others: Iterable[Standing]) -> list[str]:
    """The names of those that could be built and dominate ours; an oracle does not count."""
    return [other.name for other in others if other.is_real and dominates(other, ours)]


def oracle_gain_fraction(
    ours: Standing,
    *,
    device_only: Standing,
    oracle: Standing,
    measure: Callable[[Standing], float] = lambda standing: standing.timely_accuracy,
) -> float | None:
    """Which share of the oracle's gain over the device alone ours has; None where the oracle gains nothing.

    Args:
        measure: What is gained; more is better.
    """
    most = measure(oracle) - measure(device_only)
    return None if most <= 0 else (measure(ours) - measure(device_only)) / most


def loss_of(*, ms_price: float, byte_price: float = 0.0) -> Callable[[Standing], float]:
    """A measure for `oracle_gain_fraction` in the router's own currency, the other way about: more is better."""

    def measure(standing: Standing) -> float:
        return standing.timely_accuracy - ms_price * standing.latency_ms - byte_price * standing.bytes_per_frame

    return measure


def at_accuracy_of(
    reference: Standing, ours: Sequence[Standing], *, slack: float = 0.005
) -> tuple[Standing, float, float] | None:
    """The quickest of our settings that is within ``slack`` of another policy's accuracy.

    Returns:
        It, its mean latency and its bytes as shares of the other's; None where none of ours is so accurate.
    """
    good = [one for one in ours if one.accuracy >= reference.accuracy - slack]
    if not good:
        return None
    best = min(good, key=lambda one: (one.latency_ms / reference.latency_ms, one.bytes_per_frame))
    return best, best.latency_ms / reference.latency_ms, best.bytes_per_frame / reference.bytes_per_frame


def recovery(before: float, after: float) -> float:
    """A rate after adaptation as a share of what it was before the drift.

    Raises:
        ValueError: it was 0 before.
    """
    if before <= 0:
        raise ValueError("an exit rate of 0 before the drift cannot be recovered; are the exits off?")
    return after / before
