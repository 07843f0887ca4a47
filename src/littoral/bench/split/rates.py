"""Rate curves of splits against each other and against codecs': bytes at equal accuracy. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from littoral.bench.split.curves import Curve, bytes_at, delta_accuracy, delta_rate
from littoral.bench.split.found import Found, Units
from littoral.bench.split.plan import PARITY, PARITY_FIRST_STAGE, PRODUCT, SINGLE

AT = 91.0
"""Percent: where bytes are compared."""
TRAINED = ("split", "compared")
"""Kinds whose units are a split's rate curve, the longer training first."""
CUTS = (PARITY, PARITY_FIRST_STAGE)
"""Entropic Student's."""
RIVALS = (*CUTS, "rac_shaped", "end_to_end", "channel_reduction")


def over_parity(units: Units, given: str, suffix: str) -> dict[str, Any]:
    """The product's bytes over Entropic Student's, of the longest training with which there is a number, at the cut
    that is harder to beat: where both are right on `AT` percent, and where Entropic Student has its points.
    ``<key>_epochs`` says how long the training was."""
    at, own = f"bytes_product_over_parity_at_91{suffix}", f"bytes_product_over_parity{suffix}"
    told_at: list[dict[str, Any]] = []
    told_own: list[dict[str, Any]] = []
    for kind in TRAINED:
        ours = units.curves(units.of(kind, PRODUCT, given))
        cuts = [units.of(kind, method) for method in CUTS]
        told_at.append(_hardest(at, [(ratio(at, ours, units.curves(cut), "parity"), cut) for cut in cuts]))
        told_own.append(_hardest(own, [(_at_their_points(own, ours, cut, units.curves(cut)), cut) for cut in cuts]))
    return _first(at, told_at) | _first(own, told_own)


def _hardest(key: str, tried: Sequence[tuple[dict[str, Any], list[Found]]]) -> dict[str, Any]:
    """The largest number, with the length of its training; without one as `_first`."""
    found = [told | {f"{key}_epochs": _epochs(units)} for told, units in tried if told[key] is not None]
    return max(found, key=lambda told: float(told[key])) if found else _first(key, [told for told, _ in tried])


def _epochs(found: Iterable[Found]) -> int:
    return max(unit.training.epochs for unit, _ in found if unit.training is not None)


def _first(key: str, tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first that has a number, else the one that says most of why there is none."""
    return next((told for told in tried if told[key] is not None), max(tried, key=len))


def _at_their_points(
    key: str, ours: Mapping[int, Curve], theirs: Iterable[Found], their_curves: Mapping[int, Curve]
) -> dict[str, Any]:
    """The most that ours takes of their bytes, of their points that lie on our curve; and how many these are."""
    over = [
        size / point["bytes"]
        for unit, result in theirs
        for point in result["points"]
        if unit.seed in ours and (size := bytes_at(ours[unit.seed], point["accuracy"])) is not None
    ]
    if over:
        return {key: round(max(over), 4), f"{key}_points": len(over)}
    if not ours or not their_curves:
        return {key: None}
    return {key: None, f"{key}_reason": f"no point is on the product's curve: {_spans(ours, their_curves, 'parity')}"}


def ratio(key: str, ours: Mapping[int, Curve], theirs: Mapping[int, Curve], name: str) -> dict[str, Any]:
    """Bytes over bytes at `AT`, the mean over the seeds that both have."""
    ratios = []
    for seed in sorted(set(ours) & set(theirs)):
        a, b = bytes_at(ours[seed], AT), bytes_at(theirs[seed], AT)
        if a is not None and b is not None:
            ratios.append(a / b)
    if ratios:
        more = {f"{key}_spread": round(max(ratios) - min(ratios), 4)} if len(ratios) > 1 else {}
        return {key: round(statistics.fmean(ratios), 4), f"{key}_seeds": len(ratios), **more}
    if not ours or not theirs:
        return {key: None}
    return {key: None, f"{key}_reason": f"not both reach over {AT:g} %: {_spans(ours, theirs, name)}"}


def _spans(ours: Mapping[int, Curve], theirs: Mapping[int, Curve], name: str) -> str:
    return ", ".join(
        f"{who} spans {min(c.accuracy[0] for c in curves.values()):.2f} to "
        f"{max(c.accuracy[-1] for c in curves.values()):.2f} %"
        for who, curves in (("product", ours), (name, theirs))
    )


def distances(key: str, ours: Mapping[int, Curve], theirs: Mapping[int, Curve]) -> dict[str, Any]:
    """Mean distances of two curves, over the seeds that both have."""
    common = sorted(set(ours) & set(theirs))
    points = [d for seed in common if (d := delta_accuracy(ours[seed], theirs[seed])) is not None]
    rates = [d for seed in common if (d := delta_rate(ours[seed], theirs[seed])) is not None]
    out = {}
    if points:
        out[f"{key}_delta_points"] = round(statistics.fmean(points), 3)
    if rates:
        out[f"{key}_delta_rate"] = round(statistics.fmean(rates), 4)
    return out


def multi_rate(units: Units) -> dict[str, Any]:
    """The most that one model for all rates costs at the accuracy of a model of one rate, both without deadzones."""
    key = "multi_rate_over_single_rate_bytes"
    singles = units.of("compared", SINGLE)
    ratios: dict[str, list[float]] = {}
    outside = []
    for unit, result in singles:
        given = unit.variant.split("-")[0]
        product = units.of("compared", PRODUCT, given)
        curve = units.curves(product, "nearest_bytes", "nearest_accuracy").get(unit.seed)
        (point,) = result["points"]
        if curve is None:
            continue
        ours = bytes_at(curve, point["accuracy"])
        if ours is None:
            outside.append(f"{unit.variant} at {point['accuracy']:.2f} %")
        else:
            ratios.setdefault(unit.variant, []).append(ours / point["bytes"])
    out: dict[str, Any] = {key: None}
    if ratios:
        means = {variant: statistics.fmean(values) for variant, values in ratios.items()}
        out |= {key: round(max(means.values()), 4), f"{key}_epochs": _epochs(singles)}
        out |= {f"{key}_{variant.replace('-', '_')}": round(value, 4) for variant, value in sorted(means.items())}
    if outside:
        out[f"{key}_outside"] = ", ".join(outside)
        if not ratios:
            out[f"{key}_reason"] = "no single-rate point lies on the curve of the model for all rates"
    return out
