"""Who answered, and what that cost: shares of exit, finish and offload, latency, bytes, work, and a cloud's outage.

Axes: N frames of a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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


def work_share(ways: Ways, compute: NDArray[np.float32]) -> float:
    """The mean work for an answer of the device's own over that of the network without exits; 0 without any.

    What an answer of the cloud's had cost the device by then is not in it, nor what runs behind answers to check exits.

    Args:
        compute: Of each frame, as its answer said (`littoral.edge.answer.Answer`).
    """
    own = (ways == EXIT) | (ways == FINISH)
    return float(compute[own].mean()) if own.any() else 0.0


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
