"""Milliseconds of a frame, measured: one thread, one frame at a time, in turns with the whole network in one session.

The exits run as on the device: a session for each segment, run only if no exit before it was sure; then a stem's
session and a head in NumPy; all in memory that stays. What is compared is the mean over a user's own test frames, each
of which leaves where it leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from torch import nn

from littoral.bench.exits.chain import Chain, Step, step_of
from littoral.bench.exits.learn import learn
from littoral.bench.exits.measure import CORRECTED, GENERIC, PERSONAL, Case, policy_of, shipped_heads
from littoral.bench.exits.scored import Outcome, Policy, certified, equal_accuracy, outcome, outcomes_of, score
from littoral.bench.exits.seen import Seen
from littoral.bundle import InputSpec
from littoral.core.arrays import Frame
from littoral.core.exit_policy import ServedExit
from littoral.core.exits import OFF
from littoral.core.personal import PersonalConfig
from littoral.core.selection import judge_one
from littoral.edge.bound import BoundModel, FramePath
from littoral.train.export import export_model, external_names

Row = dict[str, Any]
RISK = 0.05
IN_A_ROW = 10


def whole_network(network: nn.Module, spec: InputSpec) -> Step:
    """The network in one session, as it would be shipped without exits."""
    exported = export_model(network, spec)
    graph = exported.graph
    names = external_names(graph)
    return step_of(
        graph.SerializeToString(), names, exported.tensors, graph.graph.input[0].name, graph.graph.output[0].name
    )


class Runner:
    """One frame through a chain, as far as it has to go: the device's path (`littoral.edge.exits`), step by step.

    Args:
        path: What runs; of all runners of a chain the same, as a device has one.
        thresholds: Of all exits but the deepest.
    """

    def __init__(self, chain: Chain, path: FramePath, policy: Policy, thresholds: Sequence[float]) -> None:
        parts = zip(policy.heads, policy.temperatures, (*thresholds, 0.0), strict=True)
        served = [ServedExit(head=head, temperature=t, threshold=limit) for head, t, limit in parts]
        ends = [exit.segment + 1 for exit in chain.exits]
        *self._early, self._deep = zip(range(len(ends)), ends, served, strict=True)
        self._path, self._end = path, len(chain.segments)

    def __call__(self, frame_1HWC: Frame) -> int:
        """Answer a frame; at which exit, the end being the last."""
        path, position = self._path, 0
        value: Any = frame_1HWC
        for i, after, each in self._early:
            value = path.through(position, after, value)
            position = after
            if each.threshold == OFF:
                continue
            spoken = each.answer(path.pooled(i, value))
            if spoken.confidence >= each.threshold:
                _ = spoken.logits_K  # an answer has them
                return i
        i, after, deep = self._deep
        value = path.through(position, after, value)
        features = path.pooled(i, value)
        judge_one(path.through(after, self._end, value)[0])  # the network's own word, which the device watches
        _ = deep.answer(features).logits_K
        return i


def frame_path(chain: Chain) -> FramePath:
    """A chain's segments and stems as a device runs them."""
    return FramePath(
        BoundModel([step.for_one_frame() for step in chain.segments]),
        [None if exit.stem is None else exit.stem.for_one_frame() for exit in chain.exits],
    )


def operating_points(
    chain: Chain, seen: Seen, *, config: PersonalConfig | None = None
) -> list[tuple[str, Policy, Outcome, float]]:
    """Name, policy, thresholds with what they do, and how often the shipped network is right: what is timed."""
    costs, config, shipped = chain.costs(), config or PersonalConfig(), shipped_heads(chain)
    end = (len(seen.personal),)
    free, full = (
        learn(chain, seen.personal, config=config, labels=labels, seed=seen.user.index, stops=end)[-1]
        for labels in (0.0, 1.0)
    )
    cases = [
        Case(method=GENERIC, heads=shipped, num_frames=0),
        Case(method=CORRECTED, heads=free.corrected, num_frames=end[0]),
        Case(method=f"{PERSONAL}, no labels", heads=free.serving, num_frames=end[0]),
        Case(method=f"{PERSONAL}, labels", heads=full.serving, num_frames=end[0], labels=1.0),
    ]
    out = []
    for case in cases:
        policy, rest = policy_of(case, seen.calibration, costs)
        test = score(case.heads, seen.test, policy.temperatures)
        right = test.shipped_right
        same = equal_accuracy(outcomes_of(policy, test), right) or outcome(
            policy, test, (OFF,) * len(policy.path_LE[0])
        )
        out.append((f"{case.method}, equal accuracy", policy, same, right))
        loss, level = ("excess", 0.0) if case.labels else ("disagreement", RISK)
        calibration = score(case.heads, rest, policy.temperatures)
        out.append(
            (
                f"{case.method}, certified",
                policy,
                certified(policy, calibration, test, loss=loss, level=level)[0],
                right,
            )
        )
    return out


def latency_rows(
    chain: Chain,
    seen: Seen,
    frames: Frame,
    whole: Step,
    *,
    config: PersonalConfig | None = None,
    others: dict[str, Step] | None = None,
) -> list[Row]:
    """Means over these test frames, every way in turns with the whole network.

    Args:
        frames: The user's test frames; as many as shall be timed.
        others: Whole networks to be timed beside, by name: a static smaller model.
    """
    points, path = operating_points(chain, seen, config=config), frame_path(chain)
    ways: dict[str, Callable[[Frame], Any]] = {"whole": whole, **(others or {})}
    ways |= {name: Runner(chain, path, policy, found.thresholds) for name, policy, found, _ in points}
    turns, rows_of = timed(ways, frames), timed(ways, frames, in_a_row=IN_A_ROW)
    facts = {"user": seen.user.index, "style": seen.user.style, "hard": seen.user.hard}
    times = {
        name: {
            "ms": round(turns[name], 4),
            "full_ms": round(turns["whole"], 4),
            "in_a_row_ms": round(rows_of[name], 4),
            "in_a_row_full_ms": round(rows_of["whole"], 4),
        }
        for name in ways
    }
    rows = [{**facts, "way": name, **times[name]} for name in ("whole", *(others or {}))]
    for name, _, found, right in points:
        right_too = {"right": round(found.right, 2), "shipped_right": round(right, 2)}
        rows.append({**facts, "way": name, **times[name], **right_too, "compute": round(found.compute, 4)})
    return rows


def timed(
    ways: dict[str, Callable[[Frame], Any]],
    frames: Frame,
    *,
    in_a_row: int = 1,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, float]:
    """Milliseconds of each way over all frames, in turns: so many frames go through one way, then through the next.

    With 1 each frame finds the processor's caches full of another way's weights: a device that does other work between
    two frames. With more it is one that answers frame after frame.

    Of the frames that leave at the same place the median counts for each: then another job on the machine, which is in
    the way of a long call more often than of a short one, does not decide the ratio.
    """
    for way in ways.values():
        for frame in frames[:5]:
            way(frame[None])
    spent: dict[str, dict[int, list[int]]] = {name: {} for name in ways}
    names = list(ways)
    for number, start in enumerate(range(0, len(frames), in_a_row)):
        some = [np.ascontiguousarray(frame[None]) for frame in frames[start : start + in_a_row]]
        for turn in range(len(names)):
            name = names[(turn + number) % len(names)]
            way, times = ways[name], spent[name]
            for frame in some:
                begun = clock_ns()
                out = way(frame)
                took = clock_ns() - begun
                times.setdefault(out if isinstance(out, int) else 0, []).append(took)
    return {
        name: sum(len(values) * median(values) for values in places.values()) / len(frames) / 1e6
        for name, places in spent.items()
    }
