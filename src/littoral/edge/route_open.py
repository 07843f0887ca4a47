"""Makes what a device routes with: from the bundle's tables, and from what its own steps take."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from littoral.bundle import Bundle, RouteTables
from littoral.edge.encoder import PictureEncoder, SplitEncoder
from littoral.edge.exits import ExitRuntime
from littoral.edge.route import Routing
from littoral.edge.route_learning import RouteLearning
from littoral.edge.route_requests import Request, Requests, clock_ms
from littoral.edge.route_walk import Trail, Walk
from littoral.edge.session import Model
from littoral.errors import LittoralError
from littoral.wire.messages import MAX_DEADLINE_MS

if TYPE_CHECKING:
    from littoral.edge.device_config import DeviceConfig
    from littoral.edge.link import CloudLink
    from littoral.edge.maintenance import Maintenance

_WARM_RUNS = 4
"""The first of which is slower than all that come after it, and is not counted."""


def open_tables(bundle: Bundle, config: DeviceConfig, link: CloudLink | None) -> RouteTables | None:
    """The bundle's tables; None for a device that does not route.

    Raises:
        BundleError: the bundle has none, or they are not for its exits and splits.
        ValueError: there is no link, the bundle's exits are left out, or the deadline is longer than the wire's.
    """
    route = config.route
    if route is None:
        return None
    if link is None:
        raise ValueError("a device that routes needs a link to a cloud, and a state_dir; else give exits alone")
    if not bundle.manifest.adapts:
        raise ValueError(f"a router is for classification, this bundle is for {bundle.manifest.task}; offload instead")
    if config.exits is None and bundle.manifest.exits:
        raise ValueError(
            "the router of this bundle counts on its exits; give DeviceConfig(route=..., exits=ExitConfig())"
        )
    if route.deadline_ms > MAX_DEADLINE_MS:
        raise ValueError(f"deadline_ms is {route.deadline_ms}, expected at most {MAX_DEADLINE_MS}")
    return RouteTables.open(bundle)


def open_routing(
    m: Maintenance, tables: RouteTables, *, state_dir: Path | None, later: Callable[[Callable[[], None]], None]
) -> Routing:
    """What a device routes with.

    Its steps and encoders are run a few times, so that the router knows from the first frame on how long they take.

    Args:
        m: Its link, its exits and its model in service are there.
        tables: See `open_tables`.
        later: Runs a task in the background thread.
    """
    bundle, exits, link, session, config = m.bundle, m.exits, m.link, m.config.session, m.config.route
    assert exits is not None
    assert link is not None
    assert state_dir is not None
    assert config is not None
    encoders = {index: SplitEncoder(bundle, index, session) for index in range(len(bundle.manifest.splits))}
    kept = frozenset(each.segment for each in encoders.values() if each.segment is not None)
    trail = Trail(exits.parts.all, exits.parts.num_segments, kept, exits.parts.stem_shares)
    timed: dict[int | str, SplitEncoder | PictureEncoder] = dict(encoders.items())
    timed |= {way.coding: PictureEncoder(way.coding) for way in tables.ways if way.is_picture}
    steps, encode_ms = _measure(bundle, trail, m.model, exits, timed)
    router = replace(
        tables,
        step_ms=tuple(statistics.median(took) for took in steps),
        ways=tuple(
            replace(way, encode_ms=encode_ms.get(way.coding or way.split, way.encode_ms)) for way in tables.ways
        ),
    ).router(config)
    for point, times in enumerate(steps):
        for took_ms in times:
            router.ran(point, took_ms)

    routing: Routing

    def learn(request: Request) -> None:
        routing.learn(request)

    requests = Requests(link, router, encoders, bundle.manifest.make_task(), keep_ms=config.deadline_ms, learn=learn)
    learning = RouteLearning(router.switcher, teach=exits.teach, folder=state_dir / "route", later=later)
    if tables.wrong_by == "teacher" and m.labels is not None:
        m.labels.settle_for(learning)
    routing = Routing(
        router,
        requests,
        trail,
        exits=exits,
        learning=learning,
        later=later,
        clock=clock_ms,
        connected=lambda: link.connected,
        broken=m.not_finite,
        seed=exits.config.seed,
    )
    return routing


def _measure(
    bundle: Bundle,
    trail: Trail,
    model: Model,
    exits: ExitRuntime,
    encoders: Mapping[int | str, SplitEncoder | PictureEncoder],
) -> tuple[list[list[float]], dict[int | str, float]]:
    """What each step takes, in several runs, and each split's encoder at its finest level, in milliseconds.

    Args:
        encoders: By split point, and of pictures by coding. These are timed on noise, of which none takes longer.
    """
    policy, row = exits.policy, np.zeros(exits.recent.features.shape[1], dtype=np.float16)
    steps: list[list[float]] = [[] for _ in trail.ends]
    encode: dict[int | str, list[float]] = {index: [] for index in encoders}
    frame = np.zeros(bundle.manifest.input.shape, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, size=(1, *frame.shape), dtype=np.uint8)
    for run in range(_WARM_RUNS):
        walk = Walk(trail, model, frame, policy, row)
        while not walk.is_whole:
            point, began_ms = walk.point, clock_ms()
            walk.step()
            if run:
                steps[point].append(clock_ms() - began_ms)
        for index, encoder in encoders.items():
            began_ms = clock_ms()
            with contextlib.suppress(LittoralError):  # the codec may refuse what no camera sees
                if isinstance(encoder, PictureEncoder):
                    encoder.encode(noise, 0)
                else:
                    encoder.encode(walk.input_of(encoder.segment), encoder.num_levels - 1)
                if run:
                    encode[index].append(clock_ms() - began_ms)
    return steps, {index: statistics.median(took) for index, took in encode.items() if took}
