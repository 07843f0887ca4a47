"""A small world for the router's tests: two exits and the whole network, two levels of a split and a picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from littoral.core.route_plan import ErrorCurves, Prices, fit_curves
from littoral.core.route_words import Decision, Moment, RouteConfig, Way
from littoral.core.routing import Router

THRESHOLDS = (0.9, 0.9)
STEP_MS = (5.0, 5.0, 10.0)
WAYS = (
    Way(split=0, level=0, point=1, num_bytes=300, encode_ms=1),
    Way(split=0, level=1, point=1, num_bytes=1500, encode_ms=1),
    Way(split=1, level=0, point=0, num_bytes=6000, encode_ms=2),
)
CONFIG = RouteConfig(deadline_ms=100, prices=Prices(ms=0.002, byte=1e-6), audit_share=0.0)


def small_curves(seed: int = 1, num_frames: int = 30_000) -> ErrorCurves:
    """Unsure frames are wrong here and right there."""
    rng = np.random.default_rng(seed)
    hard = rng.random((num_frames, 1))
    sure = np.clip(1 - hard * np.array([1.0, 0.9, 0.8]) + 0.05 * rng.standard_normal((num_frames, 3)), 0, 1)
    wrong = (rng.random((num_frames, 3)) < hard * np.array([0.6, 0.55, 0.5])).astype(float)
    cloud = (rng.random((num_frames, 3)) < np.array([0.08, 0.04, 0.03])).astype(float)
    return fit_curves(sure, wrong, cloud, num_bins=6)


CURVES = small_curves()


def router(config: RouteConfig = CONFIG, ways: tuple[Way, ...] = WAYS) -> Router:
    return Router(CURVES, ways, STEP_MS, config)


def opened(
    config: RouteConfig = CONFIG, *, rtt_ms: float = 20.0, bytes_per_ms: float = 1000.0, ways: tuple[Way, ...] = WAYS
) -> Router:
    """A router that has heard from the cloud a few times until now = 0."""
    made = router(config, ways)
    for i in range(6):
        made.new_frame()
        hear(made, (0, 1)[i % 2], rtt_ms=rtt_ms, bytes_per_ms=bytes_per_ms, now_ms=-60.0 + 10 * i)
    return made


def hear(made: Router, way: int, *, rtt_ms: float, bytes_per_ms: float = 1000.0, now_ms: float) -> None:
    """A request and its answer."""
    size = int(WAYS[way].num_bytes)
    ticket = made.sent(way, size, encode_ms=WAYS[way].encode_ms, now_ms=now_ms)
    elapsed_ms = rtt_ms + size / bytes_per_ms
    made.answered(ticket, elapsed_ms, queue_ms=0.0, compute_ms=0.0, now_ms=now_ms)


def at(point: int, confidence: float = float("nan"), **changes: object) -> Moment:
    spent = sum(STEP_MS[:point])
    moment = Moment(point=point, confidence=confidence, elapsed_ms=spent, now_ms=spent, thresholds=THRESHOLDS)
    return replace(moment, **changes)  # type: ignore[arg-type]


def whole_frame(made: Router, confidences: tuple[float, float, float], **changes: object) -> list[Decision]:
    """The decisions until the frame is answered or offloaded."""
    made.new_frame()
    out: list[Decision] = []
    for point in range(4):
        out.append(made.route(at(point, confidences[point - 1] if point else float("nan"), **changes)))
        if out[-1].action != "go-on":
            break
    return out
