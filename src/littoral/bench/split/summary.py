"""The few numbers that people quote, of whatever units there are: pure, and null with a reason where one is missing.

What depends on chance is taken seed by seed and then averaged. ``<key>_reason`` says why a key is null.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from littoral.bench.split.dense_split import bytes_over
from littoral.bench.split.found import Found, Result, Units
from littoral.bench.split.plan import (
    CAMVID_NETWORK,
    COCO_NETWORK,
    DENSE,
    DEVICE_ONLY,
    FEATURES,
    FITTED,
    INPUTS,
    LOCAL,
    LOSSLESS,
    PIXELS,
    PRODUCT,
)
from littoral.bench.split.rates import RIVALS, TRAINED, distances, multi_rate, over_parity, ratio
from littoral.bench.split.steps import steps_taken
from littoral.bench.split.unit import SplitUnit

KEYS = (
    "bytes_product_over_parity_at_91", "bytes_product_over_parity", "bytes_product_over_webp_at_91",
    "product_best_top1", "encoder_macs_over_resnet20", "device_macs_over_resnet20",
    "points_over_local_only_at_equal_macs", "multi_rate_over_single_rate_bytes",
    "codec_overhead_fraction", "codec_reference_ms_2000_symbols", "codec_speedup_over_compressai",
    "seg_bytes_over_webp", "det_bytes_over_webp", "link_latency_split_over_webp", "link_road_split_over_webp",
    "link_work_split_over_webp",
)  # fmt: skip
"""What issue and docs ask for; the summary has more."""
DERIVED = ("timing", "link", "leakage", "robust")
"""Kinds of units that measure a split which a unit of kind ``split`` has the bytes of."""
LINK_PARTS: Mapping[str, tuple[str, ...]] = {
    "latency": ("latency_ms",),
    "road": ("up_ms", "down_ms"),
    "work": ("segment_ms", "encode_ms", "queue_ms", "tail_ms"),
}
"""Of the way to an answer and back: all of it, what the link is to blame for, and what is computed at its ends."""
ANOTHER_CODEC = "another than the split row's, or not known"


def default_input(units: Units) -> str | None:
    """Of the two inputs of the encoder the one whose encoder is cheaper, of those that were run."""
    macs = {unit.variant: result["encoder_macs"] for unit, result in units.of("split", PRODUCT)}
    return min(macs, key=lambda given: macs[given], default=None)


def summarise(planned: Sequence[SplitUnit], results: Mapping[str, Result]) -> dict[str, Any]:
    """The summary of a document.

    Args:
        planned: All units that the table should have.
        results: What the finished ones gave, by `SplitUnit.key`.
    """
    units = Units(planned, results)
    given = default_input(units)
    out: dict[str, Any] = dict.fromkeys(KEYS)
    if given is not None:
        out["default_input"] = given
        out.update(_product(units, given, ""))
        for other in INPUTS:
            if units.of("split", PRODUCT, other):
                out.update(_product(units, other, f"_{other}"))
    out.update(multi_rate(units))
    out.update(_codec(units))
    out.update(_exactness(units))
    out.update(_link(units, given))
    out.update(_codecs(units, out))
    for method, key in ((DEVICE_ONLY, "device_only_top1"), (LOSSLESS, "cloud_lossless_top1")):
        out[key] = units.accuracy("fixed", method)
    for network, key in ((CAMVID_NETWORK, "seg"), (COCO_NETWORK, "det")):
        out.update(_dense(units, network, key))
    for key in KEYS:
        if out[key] is None:
            out.setdefault(f"{key}_reason", "the units that it is of are not there")
    out["units_done"], out["units_planned"] = len(units.found), len(planned)
    return out


def _product(units: Units, given: str, suffix: str) -> dict[str, Any]:
    product = units.of("split", PRODUCT, given)
    out: dict[str, Any] = over_parity(units, given, suffix)
    on_subset = units.curves(product, "subset_bytes", "subset_accuracy")
    for size, name in (("bytes_without_header", ""), ("bytes", "_with_header")):
        webp = units.curves(units.of("codec", "webp"), size)
        same = {seed: webp[0] for seed in on_subset} if webp else {}
        out.update(ratio(f"bytes_product_over_webp{name}_at_91{suffix}", on_subset, same, "WebP"))
        if not name:
            out.update(distances(f"product_over_webp{suffix}", on_subset, same))
    for kind in reversed(TRAINED):  # where both have a distance the longer training's stays
        ours = units.curves(units.of(kind, PRODUCT, given))
        for rival in RIVALS:
            out.update(distances(f"product_over_{rival}{suffix}", ours, units.curves(units.of(kind, rival))))
    out[f"product_best_top1{suffix}"] = _mean(
        max(point["accuracy"] for point in result["points"]) for _, result in product
    )
    out[f"product_seeds{suffix}"] = len(product)
    (_, one), *_ = product
    resnet20 = [result["points"][0]["network_macs"] for _, result in units.of("fixed", DEVICE_ONLY)]
    out[f"encoder_macs{suffix}"], out[f"segment_macs{suffix}"] = one["encoder_macs"], one["segment_macs"]
    both = one["encoder_macs"] + one["segment_macs"]
    for name, macs in (("encoder", one["encoder_macs"]), ("device", both)):
        out[f"{name}_macs_over_resnet20{suffix}"] = round(macs / resnet20[0], 4) if resnet20 else None
    out.update(_over_local(units, product, both, f"points_over_local_only_at_equal_macs{suffix}"))
    if one["segment_macs"]:
        out.update(_over_local(units, product, one["encoder_macs"], f"points_over_local_only_at_added_macs{suffix}"))
    return out


def _over_local(units: Units, product: Sequence[Found], budget_macs: int, key: str) -> dict[str, float | str | None]:
    """At the level where it is least, by how much the product is above the better network that sends nothing.

    ``<key>_shapes`` says of how many of the planned networks that is, where some are not there; ``<key>_steps`` how
    many steps they were trained for, and of how many of the product's, where that is fewer.
    """
    local: dict[int, float] = {}
    steps: list[int] = []
    for unit, result in units.of("local_only", LOCAL):
        if unit.options["budget_macs"] == budget_macs:
            right = float(result["points"][0]["accuracy"])
            local[unit.seed] = max(right, local.get(unit.seed, 0.0))
            steps += _steps([(unit, result)])
    gaps = []
    seeds = {unit.seed for unit, _ in product} & set(local)
    wanted = [u for u in units.planned if u.kind == "local_only" and u.options["budget_macs"] == budget_macs]
    there = {unit.key for unit, _ in units.of("local_only", LOCAL)}
    shapes = [unit.key in there for unit in wanted if unit.seed in seeds]
    for unit, result in product:
        if unit.seed in local:
            gaps.append(min(point["accuracy"] for point in result["points"]) - local[unit.seed])
    found: dict[str, float | str | None] = {key: _mean(gaps)}
    if gaps:
        found[f"{key}_best_level"] = _mean(
            max(point["accuracy"] for point in result["points"]) - local[unit.seed]
            for unit, result in product
            if unit.seed in local
        )
        if min(steps) < (ours := max(_steps(product), default=0)):
            found[f"{key}_steps"] = f"{min(steps):,} of {ours:,}"
    if not all(shapes):
        found[f"{key}_shapes"] = f"{sum(shapes)} of {len(shapes)}"
    return found


def _steps(found: Iterable[Found]) -> list[int]:
    return [steps_taken(unit.training, result) for unit, result in found if unit.training is not None]


def _codec(units: Units) -> dict[str, Any]:
    for _, result in units.of("codec_speed"):
        (point,) = result["points"]
        out = {
            "codec_overhead_fraction": point["overhead_fraction"],
            "codec_overhead_bytes": point["overhead_bytes"],
            "codec_within_promise": point["within_promise"],
            "codec_reference_ms_2000_symbols": round(point["encode_ms_reference"] + point["decode_ms_reference"], 4),
            "codec_contexts_reference_ms_2000_symbols": _both_ways(point, "contexts_", "reference"),
            "codec_contexts_accelerator_ms_2000_symbols": _both_ways(point, "contexts_", "accelerator"),
            "codec_contexts_within_promise": point.get("contexts_within_promise"),
            "codec_speedup_over_compressai": point["speedup_over_compressai"],
            "codec_speedup_over_reference": point["speedup_over_reference"],
        }
        if "compressai_reason" in point:
            out["codec_speedup_over_compressai_reason"] = point["compressai_reason"]
        return out
    return {}


def _both_ways(point: Mapping[str, Any], kind: str, coder: str) -> float | None:
    """Milliseconds there and back; None in a row that is older than the kind, or without that coder."""
    found = [point.get(f"{kind}{way}_ms_{coder}") for way in ("encode", "decode")]
    return None if None in found else round(sum(found), 4)  # type: ignore[arg-type]


def _exactness(units: Units) -> dict[str, Any]:
    for _, result in units.of("codec_exact"):
        (point,) = result["points"]
        names = ("round_trips", "mismatches", "damaged_payloads", "accepted")
        return {f"codec_{name}": point[name] for name in names}
    return {}


def _link(units: Units, given: str | None) -> dict[str, Any]:
    """The split's medians over WebP's, by round trip: of the whole and its two parts, each at the level where it is
    most."""
    out: dict[str, Any] = {}
    for unit, result in units.of("link"):
        by_way: dict[str, list[Mapping[str, Any]]] = {}
        for point in result["points"]:
            by_way.setdefault(point["way"], []).append(point)
        pairs = list(zip(by_way["split"], by_way["webp"], strict=True))
        worst = {
            f"link_{part}_split_over_webp": max(
                round(_ms(ours, steps) / _ms(theirs, steps), 4) for ours, theirs in pairs
            )
            for part, steps in LINK_PARTS.items()
        }
        variant, trip = unit.variant.rsplit("-", 1)
        if whole := by_way.get("split, device to cloud"):
            slowest = max(point["latency_ms"] for point in whole)
            least = min(point["latency_ms"] for point in by_way["webp"])
            out[f"link_latency_device_over_webp_{variant}_{trip}"] = round(slowest / least, 4)
        out |= {f"{key}_{variant}_{trip}": over for key, over in worst.items()}
        if trip == "40ms" and (variant == given or "link_latency_split_over_webp" not in out):
            out |= {**worst, "link_latency_split_over_webp_input": variant}
    return out


def _ms(point: Mapping[str, Any], steps: Iterable[str]) -> float:
    return sum(float(point[step]) for step in steps)


def _codecs(units: Units, summary: Mapping[str, Any]) -> dict[str, str]:
    """``<kind>_<variant>_codec`` of each derived unit that measured another codec than the split's own unit has, or
    does not say which; and the same of the number over the link that is quoted."""
    digests = {unit.training.key: result.get("codec_digest") for unit, result in units.of("split") if unit.training}
    out = {}
    for kind in DERIVED:
        for unit, result in units.of(kind):
            digest = result.get("codec_digest")
            if digest is None or unit.training is None or digest != digests.get(unit.training.key):
                out[codec_key(kind, unit.variant)] = ANOTHER_CODEC
    key = "link_latency_split_over_webp"
    if codec_key("link", f"{summary.get(f'{key}_input')}-40ms") in out:
        out[f"{key}_codec"] = ANOTHER_CODEC
    return out


def codec_key(kind: str, variant: str) -> str:
    """Under which the summary says that a derived unit's codec is another."""
    return f"{kind}_{variant.replace('-', '_')}_codec"


def _dense(units: Units, network: str, task: str) -> dict[str, Any]:
    """A dense task's splits against WebP: trained on features, as fitted to them, and trained on pixels."""
    webp = [point for _, result in units.of("dense_codec", "webp", network) for point in result["points"]]
    out: dict[str, Any] = {}
    for unit, result in units.of("dense_fixed", variant=network):
        out[f"{task}_{unit.method}_accuracy"] = result["points"][0]["accuracy"]
    for method, given, suffix in ((DENSE, FEATURES, ""), (FITTED, FEATURES, "_fitted"), (DENSE, PIXELS, "_pixels")):
        found = units.of("dense_split", method, f"{network}-{given}")
        ours = [point for _, result in found for point in result["points"]]
        if ours and webp:
            out.update(_over_webp(ours, webp, f"{task}_bytes_over_webp{suffix}"))
    return out


def _over_webp(ours: list[dict[str, Any]], webp: list[dict[str, Any]], named: str) -> dict[str, Any]:
    """The split's bytes over WebP's at equal accuracy, of the points that lie on WebP's curve: the most, and the least.

    Accuracy is mIoU or AP50. WebP without what a blank frame costs, and as sent.
    """
    out: dict[str, Any] = {}
    bare = [{**point, "bytes": point["bytes_without_header"]} for point in webp]
    for reference, name in ((bare, ""), (webp, "_with_header")):
        key = f"{named}{name}"
        over = [each["over"] for each in bytes_over(ours, reference) if each["over"] is not None]
        out[key] = max(over, default=None)
        if over:
            out[f"{key}_least"], out[f"{key}_points"] = min(over), len(over)
        else:
            spans = [
                f"{who} spans {min(p['accuracy'] for p in points):.2f} to {max(p['accuracy'] for p in points):.2f} %"
                for who, points in (("the split", ours), ("WebP", webp))
            ]
            out[f"{key}_reason"] = f"no point of the split is on WebP's curve: {', '.join(spans)}"
    return out


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(statistics.fmean(found), 3) if found else None
