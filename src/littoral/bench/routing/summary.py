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
    "latency_over_cheapest_rule_equal_accuracy",
    "bytes_over_cheapest_rule_equal_accuracy",
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
    "right. None where ours is more than "
    f"{SLACK_POINTS:g} points below it.",
    "bytes_over_webp_equal_accuracy": "The same for bytes uplink.",
    "accuracy_over_webp_points": "What ours is above it, in points.",
    "latency_over_cheapest_rule_equal_accuracy": "The most, over the traces with clean frames on which every frame as "
    "WebP is more often right than the device alone: mean latency of the same ours over that of the cheapest fixed "
    f"rule that is as right as WebP, or at most {SLACK_POINTS:g} points below it, as ours may be. Cheapest at ours' "
    "default prices of time and bytes; fixed is whatever does not look at the link: the device alone, exits, a picture "
    "or a payload for every frame, or for those below one confidence.",
    "bytes_over_cheapest_rule_equal_accuracy": "The same for bytes uplink.",
    "cheapest_rules": "Those rules by trace; what ours takes of their time and bytes, and what it is above them.",
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
    out |= _over_rules(main)
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


def _best_webp(rows: Iterable[Row]) -> Row | None:
    """Of every frame as WebP, at the quality that is most often right."""
    webp = [row for row in rows if row["policy"].startswith("always webp ")]
    return max(webp, key=lambda row: row["accuracy"], default=None)


def _webp(rows: Sequence[Row]) -> Summary:
    found = against_webp(rows)
    webp = _best_webp(rows)
    if webp is None:
        return {}
    best = webp["policy"].removeprefix("always ")
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


def cheapest_rules(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Ours at the accuracy of WebP, and the fixed rule that is as right and costs least: by trace with clean frames on
    which every frame as WebP is more often right than the device alone, and ours as often as WebP."""
    out = []
    for trace in KINDS:
        here = of(rows, trace, "clean")
        webp, device = _best_webp(here), named(here, DEVICE)
        if webp is None or device is None or webp["accuracy"] <= device["accuracy"]:
            continue
        ours, least = named(here, f"ours, as right as {webp['policy'].removeprefix('always ')}"), webp["accuracy"]
        right = [row for row in here if row["is_real"] and row["accuracy"] >= round(least - SLACK_POINTS, 5)]
        if ours in right:
            out.append((ours, min((row for row in right if row["family"] != OURS), key=spent)))
    return out


def _over_rules(rows: Sequence[Row]) -> Summary:
    pairs = cheapest_rules(rows)
    if not pairs:
        return {}
    latency_key, bytes_key = KEYS[2:4]
    out: Summary = {latency_key: round(max(ours["latency_ms"] / rule["latency_ms"] for ours, rule in pairs), 4)}
    silent = next((rule for _, rule in pairs if not rule["bytes_per_frame"]), None)
    if silent is None:
        out[bytes_key] = round(max(ours["bytes_per_frame"] / rule["bytes_per_frame"] for ours, rule in pairs), 4)
    else:
        out[f"{bytes_key}_reason"] = f"on {silent['trace']} {silent['policy']} sends nothing"
    told = []
    for ours, rule in pairs:
        time, size = ours["latency_ms"] / rule["latency_ms"], rule["bytes_per_frame"]
        of_bytes = f"{ours['bytes_per_frame'] / size:.2f} of its bytes" if size else "it sends nothing"
        points = f"{ours['accuracy'] - rule['accuracy']:+.2f} points"
        told.append(f"{ours['trace']}: {rule['policy']} ({time:.2f} of its time, {of_bytes}, {points})")
    return {**out, "cheapest_rules": "; ".join(told)}


def spent(row: Row) -> float:
    """Milliseconds and bytes at ours' default prices, as a share of a wrong answer."""
    prices = DEFAULT_SETTING.prices
    return float(prices.ms * row["latency_ms"] + prices.byte * row["bytes_per_frame"])


def loss(row: Row) -> float:
    """Wrong or late answers, milliseconds and bytes at ours' default prices, in points."""
    return 100 - float(row["timely_accuracy"]) + 100 * spent(row)


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
