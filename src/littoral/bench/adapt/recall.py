"""How fast a world that comes back is as good as it was: pure, from the traces of the recurring stream.

Axes: T stretches of a visit, in order.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARE = 0.9
_LAST = 0.25
"""The share of the first visit that the final gain is measured over."""
_VISIT = re.compile(r"(.+) (\d+)")
Cell = Mapping[int, tuple[Any, Mapping[str, Any]]]
Curve = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A world's frames of one visit, up to the end of each stretch that both traces tell apart."""

    frames_T: Curve
    gained_T: Curve
    """Right answers more than the device has by its own statistics."""
    sent_T: Curve
    """Samples."""

    def at(self, frames_T: Curve) -> Visit:
        """At these ends alone."""
        kept = np.isin(self.frames_T, frames_T)
        return Visit(frames_T=self.frames_T[kept], gained_T=self.gained_T[kept], sent_T=self.sent_T[kept])


def recall_fraction(product: Cell, device: Cell) -> tuple[float, float] | None:
    """The share of the first visit's samples that were sent until 90 % of its final gain is there at the second.

    The gain is over the device's own statistics, on the same frames, in the mean over worlds and seeds; the final gain
    is that of the first visit's last quarter. It is there by the end of the first stretch that has 90 % of it, if the
    stretches from that one on have so, too, in the mean. Samples are counted to the end of that stretch, so the least
    value is what is sent in one stretch. Where traces are coarser in some rows, all are taken as coarse.

    Args:
        product, device: By seed (row, result), result with ``trace``.
    Returns:
        The share, 1 when it is never there, and the least value that these traces can show. None without a seed in
        common, or without a gain to recall.
    """
    found = [
        _visits(product[seed][1]["trace"]["0"], device[seed][1]["trace"]["0"])
        for seed in sorted(set(product) & set(device))
    ]
    both = [(of[1], of[2]) for worlds in found for of in worlds.values() if 1 in of and 2 in of]
    if not both:
        return None
    sent_at_first = float(np.mean([first.sent_T[-1] for first, _ in both]))
    ends = functools.reduce(np.intersect1d, [visit.frames_T for pair in both for visit in pair])
    first, second = (_mean([pair[number].at(ends) for pair in both]) for number in (0, 1))
    final = float(_gains(first, max(1, round(_LAST * len(ends))))[-1]) if len(ends) else 0.0
    if final <= 0 or sent_at_first <= 0:
        return None
    shares = np.minimum(second.sent_T / sent_at_first, 1.0).round(4)
    for at, gain in enumerate(_gains(second, 1)):
        if min(gain, _gains(second, len(ends) - at)[-1]) >= SHARE * final:
            return float(shares[at]), float(shares[0])
    return 1.0, float(shares[0])


def _visits(product: list[list[Any]], device: list[list[Any]]) -> dict[str, dict[int, Visit]]:
    """Per world and number of the visit."""
    out: dict[str, dict[int, Visit]] = {}
    before = 0.0
    for shift in dict.fromkeys(stretch[0] for stretch in product):
        named = _VISIT.fullmatch(shift)
        ours, theirs = (
            np.array([stretch[1:] for stretch in trace if stretch[0] == shift], float).reshape(-1, 3)
            for trace in (product, device)
        )
        sent, before = ours[:, 2] - before, ours[-1, 2]
        right, other = ours[:, :2].cumsum(axis=0), theirs[:, :2].cumsum(axis=0)
        if named is None or not len(other) or right[-1, 0] != other[-1, 0]:
            continue
        ends, mine, its = np.intersect1d(right[:, 0], other[:, 0], return_indices=True)
        visit = Visit(frames_T=ends, gained_T=right[mine, 1] - other[its, 1], sent_T=sent[mine])
        out.setdefault(named[1], {})[int(named[2])] = visit
    return out


def _mean(visits: list[Visit]) -> Visit:
    """The mean of visits with the same ends."""
    gained, sent = (np.mean([getattr(visit, name) for visit in visits], axis=0) for name in ("gained_T", "sent_T"))
    return Visit(frames_T=visits[0].frames_T, gained_T=gained, sent_T=sent)


def _gains(visit: Visit, window: int) -> Curve:
    """Points gained in so many stretches together, for each that ends them and has so many behind it."""
    frames, gained = (np.concatenate([[0.0], curve]) for curve in (visit.frames_T, visit.gained_T))
    gains: Curve = 100 * (gained[window:] - gained[:-window]) / (frames[window:] - frames[:-window])
    return gains
