"""The few numbers that people quote, of whatever units there are: pure, and null with a reason where one is missing.

Of the large network where both are there. All of it is said in `WORDS`, before a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from littoral.bench.exits.drift import DRIFTED
from littoral.bench.exits.material import DIGITS, LARGE, SMALL
from littoral.bench.exits.unit import ExitUnit

Result = Mapping[str, Any]
Rows = list[dict[str, Any]]
KEYS = (
    "gain_points_most_different_users", "users_improved_fraction", "label_free_share_of_gain",
    "flops_full_finetune_over_ours", "flops_published_exits_over_ours", "peak_extra_memory_bytes",
    "latency_full_over_exits_equal_accuracy", "latency_full_over_exits_certified",
    "latency_full_over_exits_label_free", "risk_violation_fraction", "worst_user_points",
    "worst_user_points_unprotected", "seg_macs_ratio",
)  # fmt: skip
"""What the issue asks for; the summary has more."""
WORDS: Mapping[str, str] = {
    "gain_points_most_different_users": "points right at half of the whole network's work, personal exits with labels "
    "less generic exits, mean over the quarter of users of whom the shipped network is least often right",
    "users_improved_fraction": "of users of whom personal exits with labels are more often right than generic ones at "
    "half of the work",
    "label_free_share_of_gain": "that gain over all users without any label, as a share of the gain with labels",
    "flops_full_finetune_over_ours": "counted work of fine-tuning the whole network for five epochs over that of ours, "
    "stems, sums and fits of all exits, for 1,000 personal frames. No forward pass is counted for ours: it learns from "
    "frames that are answered anyway",
    "flops_full_finetune_over_ours_with_forward": "the same with one whole forward pass of each frame counted for ours "
    "too: what it is where the frames are run for learning alone",
    "flops_published_exits_over_ours": "the same of the published exits, the network run again in each of five epochs, "
    "their heads taken as 12 % of its work; no forward pass counted for ours",
    "flops_published_exits_over_ours_with_forward": "the same with one forward pass of each frame counted for ours too",
    "peak_extra_memory_bytes": "the most that one head takes at its fullest, as Python counts it",
    "gain_points_most_different_users_label_free": "the gain over those users without any label",
    "users_improved_fraction_label_free": "the same without any label",
    "gain_points_all_users": "the gain with labels over all users",
    "gain_points_all_users_tenth_labelled": "the same with a tenth of the labels",
    "gain_points_all_users_class_shares_only": "the same of generic exits whose scores are corrected by the user's "
    "class shares, without any label",
    "latency_full_over_exits_equal_accuracy": "mean measured milliseconds of the whole network over those with "
    "personal exits and labels, thresholds with hindsight at the shipped network's accuracy",
    "latency_full_over_exits_certified": "the same with thresholds certified on calibration frames: errs no more often "
    "than the shipped network, delta 0.02",
    "latency_full_over_exits_label_free": "the same as at equal accuracy, without any label; `_in_a_row`: ten frames "
    "at a time go through one way, and not one",
    "risk_violation_fraction": "of 200 calibrations for each of some users, how often the true risk was above the "
    "level, the worst of the three promises",
    "worst_user_points": "of all users, seeds, and 0, 10 and 100 % of labels: the fewest points right over the shipped "
    "network at the certified thresholds",
    "worst_user_points_risk_03": "the same where a disagreement with full depth of 3 % is promised without labels, and "
    "not of 5 %",
    "seg_macs_ratio": "multiply-accumulates of a segmentation network over the mean with an exit, thresholds with "
    "hindsight within 1 point of mIoU on CamVid's test frames; the better of the two networks",
    "worst_user_points_unprotected": "the same with every fitted head serving and thresholds unchecked (0.9)",
}
HALF = "right_50"
_NEVER = (
    "own_right", "own_watched_right", "never_shipped_right", "never_right", "never_full_right", "never_gated_right",
    "never_gated_to_shipped_right", "never_watched_right", "never_watched_full_right",
)  # fmt: skip
_CAREFUL = "worst_user_points_risk_03"
PERSONAL, GENERIC, UNPROTECTED, CORRECTED = "personal", "generic", "unprotected", "corrected"


class Units:
    """Finished units by what one asks for."""

    def __init__(self, planned: Sequence[ExitUnit], results: Mapping[str, Result]) -> None:
        self.found = [(unit, results[unit.key]) for unit in planned if unit.key in results]

    def results(self, kind: str, network: str) -> list[Result]:
        """Of these units."""
        return [result for unit, result in self.found if (unit.kind, unit.network) == (kind, network)]

    def rows(
        self, kind: str, network: str, *, users: tuple[str, ...] = ("k4", "quick"), stems: str = "trained"
    ) -> Rows:
        """All points of these units, with the seed; the main plan's alone."""
        return [
            {"seed": unit.seed, "stream": unit.stream, **point}
            for unit, result in self.found
            if (unit.kind, unit.network, unit.stems) == (kind, network, stems)
            and unit.users in users
            and (kind != "users" or "labels" not in unit.options or unit.users == "quick")
            for point in result["points"]
        ]


def summarise(planned: Sequence[ExitUnit], results: Mapping[str, Result]) -> dict[str, Any]:
    """The summary of a document.

    Args:
        planned: All units that the table should have.
        results: What the finished ones gave, by `ExitUnit.key`.
    """
    units = Units(planned, results)
    out: dict[str, Any] = dict.fromkeys(KEYS)
    networks = [name for name in (LARGE, SMALL, DIGITS) if any(unit.network == name for unit, _ in units.found)]
    for number, network in enumerate(networks):
        found: dict[str, Any] = {}
        for fill in (_gains, _costs, _latency, _risk, _worst, _strangers, _drift):
            found |= fill(units, network)
        kept = {key: value for key, value in found.items() if value is not None}
        if number == 0:
            out |= kept
        for key in KEYS:  # what was not measured of the first network yet is the next one's, and says so
            if number and out[key] is None and key in kept:
                out |= {key: kept[key], f"{key}_reason": f"of {network}: the unit of {networks[0]} is not there"}
        out |= {f"{network}_{key}": value for key, value in kept.items()}
    out |= _segmentation(units)
    for key in KEYS:
        if out[key] is None:
            out[f"{key}_reason"] = "the unit that it comes from is not there"
    return {
        **out,
        "network": networks[0] if networks else None,
        "units_done": len(results),
        "units_planned": len(planned),
    }


def of_users(rows: Rows, method: str, labels: float, key: str) -> dict[tuple[int, int], float]:
    """By seed and user a number after the most personal frames that there are."""
    chosen = [row for row in rows if row["method"] == method and row["labels"] == labels and key in row]
    most = max((row["frames"] for row in chosen), default=0)
    return {(row["seed"], row["user"]): float(row[key]) for row in chosen if row["frames"] == most}


def most_different(rows: Rows) -> list[tuple[int, int]]:
    """The quarter of users of whom the shipped network is least often right."""
    shipped = of_users(rows, GENERIC, 0.0, "shipped_right")
    return sorted(shipped, key=lambda who: (shipped[who], who))[: max(1, len(shipped) // 4)] if shipped else []


def _gains(units: Units, network: str) -> dict[str, Any]:
    rows = units.rows("users", network)
    generic, labels, free = (
        of_users(rows, method, share, HALF) for method, share in ((GENERIC, 0.0), (PERSONAL, 1.0), (PERSONAL, 0.0))
    )
    if not generic or not labels or not free:
        return {}
    gain = {who: labels[who] - generic[who] for who in labels}
    without = {who: free[who] - generic[who] for who in free}
    corrected = of_users(rows, CORRECTED, 0.0, HALF)
    worst = most_different(rows)
    mean = fmean(gain.values())
    return {
        "gain_points_most_different_users": round(fmean(gain[who] for who in worst), 2),
        "gain_points_most_different_users_label_free": round(fmean(without[who] for who in worst), 2),
        "users_improved_fraction": round(fmean(value > 0 for value in gain.values()), 4),
        "users_improved_fraction_label_free": round(fmean(value > 0 for value in without.values()), 4),
        "label_free_share_of_gain": round(fmean(without.values()) / mean, 4) if mean > 0 else None,
        "gain_points_all_users_tenth_labelled": _tenth(rows, generic),
        "gain_points_all_users": round(mean, 2),
        "gain_points_all_users_class_shares_only": (
            round(fmean(corrected[who] - generic[who] for who in corrected), 2) if corrected else None
        ),
        "users": len(gain),
    }


def _tenth(rows: Rows, generic: dict[tuple[int, int], float]) -> float | None:
    tenth = of_users(rows, PERSONAL, 0.1, HALF)
    return round(fmean(tenth[who] - generic[who] for who in tenth), 2) if tenth else None


def _costs(units: Units, network: str) -> dict[str, Any]:
    rows = units.rows("cost", network)
    if not rows:
        return {}
    return {
        "flops_full_finetune_over_ours": rows[0]["full_over_ours"],
        "flops_full_finetune_over_ours_with_forward": rows[0]["full_over_ours_with_forward"],
        "flops_published_exits_over_ours": rows[0]["published_over_ours"],
        "flops_published_exits_over_ours_with_forward": rows[0]["published_over_ours_with_forward"],
        "peak_extra_memory_bytes": rows[0]["peak_extra_memory_bytes"],
    }


def _latency(units: Units, network: str) -> dict[str, Any]:
    rows = units.rows("latency", network)
    out: dict[str, Any] = {}
    for key, way in (
        ("latency_full_over_exits_equal_accuracy", "personal, labels, equal accuracy"),
        ("latency_full_over_exits_certified", "personal, labels, certified"),
        ("latency_full_over_exits_label_free", "personal, no labels, equal accuracy"),
        ("latency_full_over_exits_label_free_certified", "personal, no labels, certified"),
        ("latency_full_over_exits_generic", "generic, equal accuracy"),
        ("latency_full_over_exits_class_shares_only", "corrected, equal accuracy"),
    ):
        found = [row for row in rows if row["way"] == way]
        mild = [row for row in found if not row["hard"]]
        for name, some in ((key, found), (f"{key}_mild_styles", mild)):
            if some:
                out[name] = _times_faster(some)
        if found and all("in_a_row_ms" in row for row in found):
            out[f"{key}_in_a_row"] = _times_faster(found, "in_a_row_")
    smaller = [row for row in rows if row["way"] == "smaller"]
    if smaller:
        out["latency_full_over_smaller_network"] = _times_faster(smaller)
    return out


def _times_faster(rows: Rows, kind: str = "") -> float:
    full, ours = (sum(float(row[f"{kind}{name}"]) for row in rows) for name in ("full_ms", "ms"))
    return round(full / ours, 3)


def _risk(units: Units, network: str) -> dict[str, Any]:
    rows = units.rows("risk", network)
    if not rows:
        return {}

    def worst(key: str) -> float:
        promises = sorted({(row["loss"], row["level"]) for row in rows})
        return max(fmean(r[key] for r in rows if (r["loss"], r["level"]) == promise) for promise in promises)

    return {
        "risk_violation_fraction": round(worst("broken"), 4),
        "risk_violation_fraction_believed": round(worst("broken_if_the_mean_is_believed"), 4),
    }


def _worst(units: Units, network: str) -> dict[str, Any]:
    rows = units.rows("users", network)
    points: dict[str, list[float]] = {"worst_user_points": [], "worst_user_points_unprotected": [], _CAREFUL: []}
    full: list[float] = []
    for labels in (0.0, 0.1, 1.0):
        served = "cert_x_right" if labels else "cert_d05_right"
        for name, method, key in (
            ("worst_user_points", PERSONAL, served),
            ("worst_user_points_unprotected", UNPROTECTED, "plain_right"),
        ):
            right, shipped = (of_users(rows, method, labels, k) for k in (key, "shipped_right"))
            points[name] += [right[who] - shipped[who] for who in right]
        careful = "cert_x_right" if labels else "cert_d03_right"
        right, shipped = (of_users(rows, PERSONAL, labels, k) for k in (careful, "shipped_right"))
        points[_CAREFUL] += [right[who] - shipped[who] for who in right]
        right, shipped = (of_users(rows, PERSONAL, labels, k) for k in ("full_right", "shipped_right"))
        full += [right[who] - shipped[who] for who in right]
    out: dict[str, Any] = {name: round(min(values), 2) if values else None for name, values in points.items()}
    if full:
        below = points["worst_user_points"]
        out["worst_user_points_full_depth"] = round(min(full), 2)
        out["users_more_than_a_point_below"] = sum(value < -1 for value in below)
        out[f"users_more_than_a_point_below{_CAREFUL.removeprefix('worst_user_points')}"] = sum(
            value < -1 for value in points[_CAREFUL]
        )
        out["users_and_label_shares"] = len(below)
        out["users_more_than_a_point_below_unprotected"] = sum(
            value < -1 for value in points["worst_user_points_unprotected"]
        )
    return out


def _strangers(units: Units, network: str) -> dict[str, Any]:
    rows = units.rows("strangers", network)
    out: dict[str, Any] = {}
    for labels, word in ((0.0, "label_free"), (1.0, "labels")):
        found = [row for row in rows if row["what"] == "never shown" and row["labels"] == labels]
        if found:
            for key in _NEVER:
                if all(key in row for row in found):
                    out[f"{key}_{word}"] = round(fmean(row[key] for row in found), 2)
    gone = [row for row in rows if row["what"] == "day taken back"]
    if gone:
        out["largest_difference_after_a_day_is_taken_back"] = max(row["largest_difference"] for row in gone)
    return out


def _drift(units: Units, network: str) -> dict[str, Any]:
    """With the loop closed, after the first world: the share of answers that were not the full depth's, of all frames
    and of those while thresholds were in force, by stream and the worst; and how far the exit rate came back."""
    rows = [r for r in units.rows("drift", network, users=("all", "quick")) if r["cloud"] and r["world"] == DRIFTED]
    out: dict[str, Any] = {}
    for recheck, word in ((True, "with_recheck"), (False, "without_recheck")):
        risks = {}
        for stream in dict.fromkeys(row["stream"] for row in rows):
            found = [row for row in rows if (row["stream"], row["recheck"]) == (stream, recheck)]
            lost, serving = (sum(row[key] for row in found) for key in ("lost", "serving"))
            if found:
                risks[stream] = round(fmean(row["risk"] for row in found), 4)
                out[f"drift_{stream}_risk_{word}"] = risks[stream]
                out[f"drift_{stream}_risk_serving_{word}"] = round(lost / serving, 4) if serving else None
        if risks:
            out[f"drift_risk_{word}"] = max(risks.values())
    key = "exit_rate_recovery_fraction"
    values = [part[key] for part in units.results("drift", network) if part.get(key) is not None]
    if values:
        out[key] = round(fmean(values), 4)
    return out


def _segmentation(units: Units) -> dict[str, Any]:
    """Of each network, and the better one's under the key that is asked for."""
    found = {unit.network: result for unit, result in units.found if unit.kind == "segmentation"}
    if not found:
        return {}
    ratios = {network: float(result["seg_macs_ratio"]) for network, result in found.items()}
    return {
        "seg_macs_ratio": max(ratios.values()),
        **{f"{network}_seg_macs_ratio": ratio for network, ratio in ratios.items()},
        **{f"{name}_seg_macs_ratio_chosen_on_val": r["seg_macs_ratio_chosen_on_val"] for name, r in found.items()},
    }


def mean_of(rows: Rows, key: str, where: Callable[[dict[str, Any]], bool] = lambda row: True) -> float | None:
    """The mean of a number over rows that have it."""
    values = [row[key] for row in rows if where(row) and row.get(key) is not None]
    return fmean(values) if values else None
