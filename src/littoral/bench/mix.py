"""Who answered, and what that cost: shares of exit, finish and offload, latency, bytes, work, and a cloud's outage.

Axes: N frames of a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from littoral.bundle import Bundle
from littoral.bundle.exits import exit_costs
from littoral.bundle.route_tables import early_exits

if TYPE_CHECKING:
    from littoral.bench.play import DeviceTrack

EXIT, FINISH, OFFLOAD = range(3)
UNANSWERED = -1
WAYS = ("exit", "finish", "offload")
"""The first: at an early exit; then after the whole network; then by the cloud."""
Ways = NDArray[np.int8]
_MOST_POINTS = 1_000


def way_of(line: Mapping[str, Any], num_early: int) -> int:
    """Who gave an answer that a device printed."""
    if line["source"] == "cloud":
        return OFFLOAD
    return EXIT if line["exit_index"] < num_early else FINISH


def shares(ways: Ways) -> dict[str, float]:
    """In percent of the frames that were answered."""
    given = ways[ways != UNANSWERED]
    return {name: 100 * float((given == way).mean()) if len(given) else 0.0 for way, name in enumerate(WAYS)}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What answers cost the device, in multiply-accumulates.

    Attributes:
        exit_macs: Of a frame that leaves at each early exit, the exits before it included.
        finish_macs: Of one that is answered after the whole network, with all exits on its way.
        plain_macs: Of the network without exits.
    """

    exit_macs: tuple[int, ...]
    finish_macs: int
    plain_macs: int

    @classmethod
    def of(cls, bundle: Bundle) -> Work:
        """Of a bundle with exits."""
        manifest = bundle.manifest
        costs = exit_costs(early_exits(manifest), manifest.segment_macs)
        so_far = np.cumsum(np.add(costs.segment_macs, costs.head_macs)).tolist()
        return cls(exit_macs=tuple(so_far[:-1]), finish_macs=so_far[-1], plain_macs=costs.full_macs)

    def share(self, ways: Ways, exits: NDArray[np.int8]) -> float:
        """The mean work for an answer of the device's own over that of the network without exits; 0 without any.

        Of frames that the cloud answered it is not known how far the device had come when it asked. What runs behind
        answers, to check the exits, is not in it.
        """
        macs = np.full(len(ways), self.finish_macs, dtype=np.float64)
        early, own = ways == EXIT, (ways == EXIT) | (ways == FINISH)
        macs[early] = np.array(self.exit_macs, dtype=np.float64)[exits[early]]
        return float(macs[own].mean()) / self.plain_macs if own.any() else 0.0


@dataclass(frozen=True, kw_only=True)
class Outage:
    """While the cloud stood still.

    Attributes:
        frames: Of each device, the first frame that was answered meanwhile and the first one after; a frame that found
            no answer lies between them.
        seconds: How long.
    """

    frames: tuple[tuple[int, int], ...]
    seconds: float

    def summary(self, tracks: Sequence[DeviceTrack]) -> dict[str, Any]:
        """What became of the frames whose turn came meanwhile."""
        parts = [slice(*bounds) for bounds in self.frames]
        answers = np.concatenate([t.answers[part] for t, part in zip(tracks, parts, strict=True)])
        labels = np.concatenate([t.stream.labels[part] for t, part in zip(tracks, parts, strict=True)])
        latency = np.concatenate([t.latency_ms[part] for t, part in zip(tracks, parts, strict=True)])
        degraded = np.concatenate([t.degraded[part] for t, part in zip(tracks, parts, strict=True)])
        given = answers != UNANSWERED
        return {
            "outage_seconds": round(self.seconds, 2),
            "outage_frames": len(answers),
            "outage_unanswered": int((~given).sum()),
            "outage_degraded": int(degraded.sum()),
            "outage_accuracy": round(100 * float((answers == labels).mean()), 2) if len(answers) else 0.0,
            "outage_latency_ms_max": round(float(latency[given].max()), 2) if given.any() else 0.0,
        }


def bytes_between(history: Sequence[tuple[int, int, int, int]], begin: int, end: int) -> float:
    """Bytes up while a device saw frames ``begin`` to ``end``, between its reports in a straight line."""
    seen = np.array([(0, 0, 0, 0), *history], dtype=np.float64)
    at = np.interp([begin, end], seen[:, 0], seen[:, 2])
    return float(at[1] - at[0])


def rolling_shares(ways_TN: NDArray[np.int8], window: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The mix over time, all devices together: frames at which it is given, and ``(3, points)`` percent.

    The first window grows from a fifth.

    Args:
        ways_TN: Of each device; a frame without an answer counts for none.
    """
    given_N = (ways_TN != UNANSWERED).sum(axis=0)
    totals = np.concatenate([[0], np.cumsum(given_N)])
    count = ways_TN.shape[1]
    ends = np.unique(np.linspace(min(window // 5, count), count, min(_MOST_POINTS, count)).astype(np.int64))
    starts = np.maximum(ends - window, 0)
    seen = np.maximum(totals[ends] - totals[starts], 1)
    percent = []
    for way in range(len(WAYS)):
        sums = np.concatenate([[0], np.cumsum((ways_TN == way).sum(axis=0))])
        percent.append(100 * (sums[ends] - sums[starts]) / seen)
    return ends, np.array(percent)
