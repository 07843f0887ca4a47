"""What became of early exits while the world changed: by world, after adaptation, and whether the promise was kept.

Pure: from what `littoral.bench.exits.loop_play` saw of each frame. The promise is relative: of the frames that come
while thresholds are in force, at most a share `risk` gets another answer than the device would give at full depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from littoral.bench.exits.loop_play import Told
from littoral.core.exit_control import risk_at_most
from littoral.core.risk import binomial_p_value

Point = dict[str, Any]
SETTLED = 300
"""The last frames of a world: the device has adapted by then."""
WINDOW = 250
DOUBT = 0.05
"""A bound counts as broken where what was seen, or worse, had at most this probability while it held."""
ALL, DRIFTED = "all", "all but the first"


def points(told: Sequence[Told], worlds: Sequence[str], *, full_macs: int, risk: float) -> list[Point]:
    """A row per world, then all of them and all but the first; windows of `WINDOW` frames go into these two.

    Args:
        told: Frame by frame; ``world`` counts these worlds.
        full_macs: Of the network without exits.
        risk: What is promised.
    """
    of_world = [[each for each in told if each.world == number] for number in range(len(worlds))]
    rows = [
        {
            "world": f"{number + 1} {name}",
            **_counted(frames, full_macs, risk),
            **_counted(frames[-SETTLED:], full_macs, risk, tag="settled_"),
        }
        for number, (name, frames) in enumerate(zip(worlds, of_world, strict=True))
    ]
    for name, chosen in ((ALL, of_world), (DRIFTED, of_world[1:])):
        flat = [each for frames in chosen for each in frames]
        settled = [each for frames in chosen for each in frames[-SETTLED:]]
        rows.append(
            {
                "world": name,
                **_counted(flat, full_macs, risk),
                **_counted(settled, full_macs, risk, tag="settled_"),
                **_windows(chosen, risk),
                "rechecks": told[-1].rechecks,
                "alarms": told[-1].alarms,
            }
        )
    return rows


def recovery(rows: Sequence[Point]) -> dict[str, float | None]:
    """The exit rate at the end of each world over that at the end of the first: the least, the mean, and the last."""
    worlds = [row for row in rows if row["world"] not in (ALL, DRIFTED)]
    clean = worlds[0]["settled_early"]
    if not clean or len(worlds) < 3:
        return {"exit_rate_recovery_fraction": None}
    shares = [row["settled_early"] / clean for row in worlds[1:]]
    return {
        "exit_rate_recovery_fraction": round(float(np.mean(shares[:-1])), 4),
        "exit_rate_recovery_fraction_worst": round(min(shares[:-1]), 4),
        "exit_rate_recovery_fraction_back": round(shares[-1], 4),
        "exit_rate_clean": clean,
    }


def _counted(frames: Sequence[Told], full_macs: int, risk: float, *, tag: str = "") -> Point:
    count = len(frames)
    lost = [each.answer != each.full for each in frames]
    early, serving = sum(each.early for each in frames), sum(each.serving for each in frames)
    lost_serving = sum(wrong and each.serving for wrong, each in zip(lost, frames, strict=True))
    row = {
        "frames": count,
        "early": round(early / count, 4),
        "checking": round(1 - serving / count, 4),
        "risk": round(sum(lost) / count, 4),
        "macs_share": round(sum(each.macs for each in frames) / (count * full_macs), 4),
        "right": round(100 * sum(each.answer == each.label for each in frames) / count, 2),
        "full_right": round(100 * sum(each.full == each.label for each in frames) / count, 2),
        **promise(lost_serving, serving, risk),
    }
    if not tag:
        row |= {
            "risk_among_early": round(sum(lost) / max(early, 1), 4),
            "early_right": _percent([each.answer == each.label for each in frames if each.early]),
            "early_full_right": _percent([each.full == each.label for each in frames if each.early]),
            "versions": frames[-1].version,
        }
    return {f"{tag}{key}": value for key, value in row.items()}


def promise(lost: int, serving: int, risk: float) -> Point:
    """Whether so many lost answers, of so many frames while thresholds were in force, speak against the promise.

    ``risk_low`` and ``risk_high`` bound the true share, each with a probability of 95 % (Clopper and Pearson);
    ``p_broken`` is how likely so many or more were if the share were what is promised.
    """
    if not serving:
        return {"serving": 0, "lost": 0, "risk_serving": None, "risk_low": None, "risk_high": None, "p_broken": None}
    low = 0.0 if not lost else 1 - risk_at_most(serving - lost, serving, DOUBT)
    return {
        "serving": serving,
        "lost": lost,
        "risk_serving": round(lost / serving, 4),
        "risk_low": round(low, 4),
        "risk_high": round(risk_at_most(lost, serving, DOUBT), 4),
        "p_broken": round(1.0 if not lost else binomial_p_value(serving - lost, serving, 1 - risk), 4),
    }


def _windows(worlds: Sequence[Sequence[Told]], risk: float) -> Point:
    """Over windows in which thresholds were in force for at least half of the frames."""
    found = []
    for frames in worlds:
        for start in range(0, len(frames), WINDOW):
            part = [each for each in frames[start : start + WINDOW] if each.serving]
            if 2 * len(part) >= WINDOW:
                found.append(promise(sum(each.answer != each.full for each in part), len(part), risk))
    over = sum(each["risk_serving"] > risk for each in found)
    return {
        "windows": len(found),
        "windows_over": over,
        "windows_broken": sum(each["p_broken"] <= DOUBT / len(found) for each in found),
        "worst_window_risk": max((each["risk_serving"] for each in found), default=None),
    }


def _percent(right: Sequence[bool]) -> float | None:
    return round(100 * sum(right) / len(right), 2) if right else None
