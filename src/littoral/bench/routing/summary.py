"""The numbers of the loop table that people quote, from its averaged rows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from littoral.bench.routing.averages import BY_SEED, SPREAD, Row
from littoral.bench.routing.contenders import ABLATION, DEFAULT_SETTING, DEVICE, LOOKS, OURS
from littoral.bench.routing.traces import KINDS

Summary = dict[str, Any]
KEYS = (
    "latency_over_webp_equal_accuracy",
    "bytes_over_webp_equal_accuracy",
    "policies_that_dominate_ours",
    "oracle_gain_fraction_min",
    "deadline_hits_outage",
    "exit_rate_recovery_fraction",
    "cloud_label_gain_points",
)
WIFI = "wifi-walk"
SLACK_POINTS = 0.5
_KNOWS, _KNOWS_ALL = "oracle, priced, two", "oracle, priced"
_TWO = "oracle, two"
WORDS: Mapping[str, str] = {
    "latency_over_webp_equal_accuracy": "Wi-Fi walk, clean: mean latency of ours, its prices chosen on calibration "
    "frames for the accuracy of every frame as WebP, over that of WebP. Of the qualities the one that is most often "
    "right. None where ours is more than half a point below it.",
    "bytes_over_webp_equal_accuracy": "The same for bytes uplink.",
    "accuracy_over_webp_points": "What ours is above it, in points.",
    "policies_that_dominate_ours": "Pairs of one of ours settings and another real policy that on the same trace and "
    "stream has no less accuracy, no more mean latency and no more bytes, and differs.",
    "oracle_gain_fraction_min": "The least, over the five traces with clean frames, of ours at its default prices: its "
    "gain over the device alone as a share of that of an oracle that knows the link and how often frames that look "
    "like this one are got right by each answer. Gain is in loss: wrong answers, ms and bytes at these prices.",
    "oracle_two_fraction_min": "The same, of an oracle that knows which of two answers is right, the whole network's "
    "and the cloud's.",
    "oracle_all_fraction_min": "The same, of an oracle that knows which of all answers are right.",
    "oracle_two_accuracy_fraction_min": "Share of that oracle's gain in right answers alone, time and bytes aside.",
    "oracle_luck_share": "Of the gain of the oracle that knows the right one of two, the share that the one that "
    "looks lacks, mean over the traces: what no look at the frame can tell.",
    "deadline_hits_outage": "The least share of frames answered in time by any setting of ours: on the outage trace, "
    "and when nothing ever gets through.",
    "degraded_share_no_cloud": "Of the frames when nothing ever gets through, the share whose answers say that the "
    "cloud would have been asked.",
    "exit_rate_recovery_fraction": "From the rows of kind drift: the exit rate after adaptation over that before.",
    "cloud_label_gain_points": "From the rows of kind labels.",
}


def summarise(rows: Sequence[Row], *, risk_rows: Iterable[Mapping[str, Any]] = ()) -> Summary:
    """All keys; where one has no number, ``<key>_reason`` says why.

    Args:
        rows: Of `littoral.bench.routing.averages.averaged`.
        risk_rows: Results of kinds ``drift`` and ``labels`` that others made.
    """
    out: Summary = {}
    whole = [row for row in rows if row["phase"] == "all"]
    main = [row for row in whole if row["kind"] == "policies"]
    out |= _webp(of(main, WIFI, "clean"))
    pairs = dominating(main)
    out["policies_that_dominate_ours"] = len(pairs) if main else None
    out["dominating"] = "; ".join(pairs)
    out |= _oracle(main)
    out |= _deadline(whole)
    out |= _from_others(risk_rows)
    for key in KEYS:
        if out.get(key) is None:
            out.setdefault(key, None)
            out.setdefault(f"{key}_reason", "the units that it needs are not there")
    return {**{key: out[key] for key in KEYS}, **{key: value for key, value in out.items() if key not in KEYS}}


def of(rows: Iterable[Row], trace: str, stream: str) -> list[Row]:
    """Those of one trace and stream."""
    return [row for row in rows if row["trace"] == trace and row["stream"] == stream]


def named(rows: Iterable[Row], policy: str) -> Row | None:
    """The row of one policy."""
    return next((row for row in rows if row["policy"] == policy), None)


def settings_of(rows: Iterable[Row]) -> list[Row]:
    """Ours, the ablation left out."""
    return [row for row in rows if row["family"] == OURS and not row["policy"].endswith(ABLATION)]


def dominating(rows: Sequence[Row]) -> list[str]:
    """Pairs in which another real policy is nowhere worse on the seeds that both have, with what it is better by."""
    out = []
    for trace, stream in dict.fromkeys((row["trace"], row["stream"]) for row in rows):
        here = of(rows, trace, stream)
        for one in settings_of(here):
            for other in here:
                better = _better_by(other, one) if other["is_real"] and other["family"] != OURS else ()
                if better and min(better) >= 0 and max(better) > 0:
                    points, ms, size = better
                    by = f"{points:.2f} points, {ms:.2f} ms, {size:.1f} B"
                    out.append(f"{one['policy']} < {other['policy']} ({trace}, {stream}: {by})")
    return out


def _better_by(a: Row, b: Row) -> tuple[float, ...]:
    """What ``a`` has more of accuracy, and less of latency and bytes, on the seeds that both have."""
    seeds = a[BY_SEED].keys() & b[BY_SEED].keys()
    if not seeds:
        return ()

    def mean(row: Row, name: str) -> float:
        return float(sum(row[BY_SEED][seed][name] for seed in seeds) / len(seeds))

    accuracy, *costs = SPREAD
    better = (mean(a, accuracy) - mean(b, accuracy), *(mean(b, cost) - mean(a, cost) for cost in costs))
    return tuple(round(value, 5) for value in better)


def against_webp(rows: Sequence[Row]) -> list[Row]:
    """For each WebP quality what ours at its accuracy takes, as shares; on one trace and stream."""
    out = []
    for webp in (row for row in rows if row["policy"].startswith("always webp ")):
        ours = named(rows, f"ours, as right as {webp['policy'].removeprefix('always ')}")
        if ours is not None:
            points = round(ours["accuracy"] - webp["accuracy"], 3)
            out.append(
                {
                    "picture": webp["policy"].removeprefix("always "),
                    "webp_accuracy": webp["accuracy"],
                    "accuracy_points": points,
                    "latency_share": round(ours["latency_ms"] / webp["latency_ms"], 4),
                    "bytes_share": round(ours["bytes_per_frame"] / webp["bytes_per_frame"], 4),
                    "equal": points >= -SLACK_POINTS,
                }
            )
    return out


def _webp(rows: Sequence[Row]) -> Summary:
    found = against_webp(rows)
    webp = [row for row in rows if row["policy"].startswith("always webp ")]
    if not webp:
        return {}
    best = max(webp, key=lambda row: row["accuracy"])["policy"].removeprefix("always ")
    one = next((each for each in found if each["picture"] == best), None)
    if one is None or not one["equal"]:
        why = "no price was right often enough on calibration frames" if one is None else (
            f"ours is {one['accuracy_points']} points from {best}"
        )  # fmt: skip
        return {f"{key}_reason": why for key in KEYS[:2]}
    return {
        KEYS[0]: one["latency_share"],
        KEYS[1]: one["bytes_share"],
        "accuracy_over_webp_points": one["accuracy_points"],
        "webp_quality": best,
    }


def loss(row: Row) -> float:
    """Wrong or late answers, milliseconds and bytes at ours' default prices, in points."""
    prices = DEFAULT_SETTING.prices
    spent: float = prices.ms * row["latency_ms"] + prices.byte * row["bytes_per_frame"]
    return 100 - float(row["timely_accuracy"]) + 100 * spent


def gain_fraction(rows: Sequence[Row], oracle: str, measure: Callable[[Row], float] = loss) -> float | None:
    """Ours' gain at default prices over the device alone as a share of an oracle's; None where one is missing."""
    one, device, top = (named(rows, name) for name in (DEFAULT_SETTING.name, DEVICE, oracle))
    if one is None or device is None or top is None or measure(device) <= measure(top):
        return None
    return (measure(device) - measure(one)) / (measure(device) - measure(top))


def _oracle(rows: Sequence[Row]) -> Summary:
    traces = [of(rows, trace, "clean") for trace in KINDS]

    def least(oracle: str, measure: Callable[[Row], float] = loss) -> float | None:
        found = [gain_fraction(here, oracle, measure) for here in traces]
        known = [value for value in found if value is not None]
        return round(min(known), 4) if known else None

    lucks = []
    for here in traces:
        device, knows, looks = (named(here, name) for name in (DEVICE, _KNOWS, LOOKS))
        if device and knows and looks and loss(device) > loss(knows):
            lucks.append((loss(looks) - loss(knows)) / (loss(device) - loss(knows)))
    return {
        "oracle_gain_fraction_min": least(LOOKS),
        "oracle_two_fraction_min": least(_KNOWS),
        "oracle_all_fraction_min": least(_KNOWS_ALL),
        "oracle_two_accuracy_fraction_min": least(_TWO, lambda row: 100 - float(row["timely_accuracy"])),
        "oracle_luck_share": round(sum(lucks) / len(lucks), 4) if lucks else None,
    }


def _deadline(rows: Sequence[Row]) -> Summary:
    none = settings_of(row for row in rows if row["kind"] == "no-cloud")
    outage = settings_of(row for row in rows if row["kind"] == "policies" and row["trace"] == "outage")
    hits = [row["deadline_hits"] for row in (*none, *outage)]
    if not none or not outage:
        return {}
    return {
        "deadline_hits_outage": round(min(hits), 5),
        "degraded_share_no_cloud": round(min(row["degraded_rate"] for row in none), 4),
    }


def _from_others(results: Iterable[Mapping[str, Any]]) -> Summary:
    """What the closed loop and personalisation found, if their rows are there."""
    out: Summary = {}
    for key, kind in (("exit_rate_recovery_fraction", "drift"), ("cloud_label_gain_points", "labels")):
        values = [result[key] for result in results if result.get("kind") == kind and result.get(key) is not None]
        if values:
            out[key] = round(sum(values) / len(values), 4)
        else:
            why = "say with --exits where 'littoral bench exits' keeps them, and with --any-code take other code's too"
            out[key], out[f"{key}_reason"] = None, f"there are no rows of kind {kind}; {why}"
    return out
