"""How fast a world that comes back is as good as it was: pure, from the traces of the recurring stream."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARE = 0.9
_LAST = 0.25
"""The share of a visit that its final gain is measured over, and the window that must reach it again."""
_VISIT = re.compile(r"(.+) (\d+)")
Cell = Mapping[int, tuple[Any, Mapping[str, Any]]]
Curve = NDArray[np.float64]


def recall_fraction(product: Cell, device: Cell) -> float | None:
    """The share of the first visit's samples after which 90 % of its final gain is there at the second.

    The gain is over the device's own statistics, on the same frames. Both curves are means over the worlds and the
    seeds; the final gain is that of the first visit's last quarter, and it counts as there from the first stretch on
    whose quarter reaches 90 % of it.

    Args:
        product, device: By seed (row, result), result with ``trace``.
    Returns:
        0 when it is there at once, 1 when it never is; None without a seed in common, or without a gain to recall.
    """
    curves = [
        _gains(product[seed][1]["trace"]["0"], device[seed][1]["trace"]["0"])
        for seed in sorted(set(product) & set(device))
    ]
    visits = [c for curve in curves for c in curve.values() if 1 in c and 2 in c]
    if not visits:
        return None
    first, second = (_mean([visit[number][0] for visit in visits]) for number in (1, 2))
    sent_first = float(np.mean([visit[1][1][-1] for visit in visits]))
    sent_before = _mean([np.concatenate([[0.0], visit[2][1][:-1]]) for visit in visits])
    window = max(1, round(_LAST * len(first)))
    final = float(first[-window:].mean())
    if final <= 0 or sent_first <= 0:
        return None
    for start in range(len(second) - window + 1):
        if second[start : start + window].mean() >= SHARE * final:
            return round(min(float(sent_before[start]) / sent_first, 1.0), 4)
    return 1.0


def _gains(product: list[list[Any]], device: list[list[Any]]) -> dict[str, dict[int, tuple[Curve, Curve]]]:
    """Per world and visit: the gain of each stretch in points, and the samples sent in the visit up to its end."""
    out: dict[str, dict[int, tuple[Curve, Curve]]] = {}
    before = 0.0
    for shift in dict.fromkeys(stretch[0] for stretch in product):
        named = _VISIT.fullmatch(shift)
        ours, theirs = ([s for s in trace if s[0] == shift] for trace in (product, device))
        sent = np.array([stretch[3] for stretch in ours], float) - before
        before += sent[-1]
        if named is None or len(ours) != len(theirs):
            continue
        gain = np.array([100 * (a[2] - b[2]) / a[1] for a, b in zip(ours, theirs, strict=True)])
        out.setdefault(named[1], {})[int(named[2])] = (gain, sent)
    return out


def _mean(curves: list[Curve]) -> Curve:
    """The mean of curves as far as the shortest."""
    length = min(map(len, curves))
    mean: Curve = np.mean([curve[:length] for curve in curves], axis=0)
    return mean
