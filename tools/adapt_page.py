"""The page and the plot of the adaptation table, from its document. Pure: text in, text out."""

import html
import math
from collections.abc import Callable
from statistics import fmean
from typing import Any

import svg
from result_page import FactsMaker, TableMaker, assemble

Rows = list[dict[str, Any]]
TEACHERS = {"resnet56_augmix": "the robust teacher (ResNet-56, AugMix)", "resnet56": "the plain teacher (ResNet-56)"}
STREAMS = (
    "continual", "per_shift", "mixed", "correlated", "gradual", "recurring", "continual_b1", "continual_b64",
    "continual_b16", "continual_delay50", "continual_delay200", "continual_loss5",
)  # fmt: skip
_STREAM_WORDS = (
    "`continual`: 15 corruptions one after another. `per_shift`: each alone, everything starting anew. `mixed`: all at "
    "once, in random order. `correlated`: one class for a long run of frames. `gradual`: severity climbs and falls. "
    "`recurring`: worlds come back. `_b1`, `_b16`: batches of 1 and 16 frames. `_delay200`: what the cloud "
    "sends is 200 batches late. `_loss5`: 5 % of what is sent is lost."
)
_EXPLAINED = {
    "product_minus_parity_points": "points over the better of the published system's two forms, mean over all streams",
    "product_minus_parity_points_without_delay": "the same mean without the two streams whose versions come late",
    "product_bytes_over_parity": "uplink bytes over those of that form",
    "product_bytes_over_parity_without_delay": "the same without the two streams whose versions come late",
    "num_rows": "rows of the product that `product_minus_parity_points` is of",
    "num_code_states": "different states of the product's code that made these rows",
    "product_minus_three_forms_points": "points over the best of three forms of the published system, the third by "
    "each batch's own statistics, mean over those streams on which all three were run",
    "product_bytes_over_three_forms": "uplink bytes over those of that form, on these streams",
    "three_forms_streams": "how many streams that is of; there are 11",
    "product_minus_roid_continual_points": "points over ROID on the continual stream",
    "product_minus_device_statistics_points": "points over the device's own statistics alone, continual",
    "teacher_gap_closed_fraction": "of the way from the device's own statistics to the teacher adapted on everything "
    "by the same step as the published cloud's, continual; that is no upper bound: in a pilot a larger step gave the "
    "teacher some 1.5 points more, by which about 0.61 of the way would be closed in place of 0.74",
    "product_minus_parity_per_shift_points": "points over the better published form, each corruption alone",
    "worst_stream_minus_source_points": "over the source on the worst of the guarded streams; -1 or more is promised",
    "worst_stream_minus_source_points_unguarded": "the same without the guards",
    "batch1_minus_batch64_points": "frames one by one against batches of 64",
    "recall_sample_fraction": "of the first visit's samples, how many a world that is back has sent until 90 % of the "
    "gain is there",
    "recall_resolution_fraction": "the least value that the key above could have: the samples of one stretch of the "
    "traces",
    "push_bytes_resnet20": "of a version on the wire, manifest and signature included",
    "push_bytes_resnet18": "the same of a ResNet-18",
    "push_loss_points": "points that coding a version in 7 bits costs",
    "cohort_minus_isolated_points": "eight devices in four domains: one cloud against a cloud for each device",
    "cohort_minus_shared_points": "the same against one chain of versions for all",
}
"""What the summary's keys mean; `_seeds` behind one is how many seeds it is of, `_table` the rows that it is of."""
_WIDE_FRAMES = (
    "2,000 frames a shift; 400 where frames come one by one (`continual_b1`) and where the same ones come in batches "
    "of 64 (`continual_b64`)."
)
PLOT = "adapt.svg"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 400, 56, 170, 16, 46
_FIRST_KB = 1.0
"""What sends nothing stands at the left edge of a logarithmic axis."""
_OURS = ("product", "product_unguarded")
"""Whose cloud's seconds were processor time before rows said by which clock they were counted."""
_COLOURS = (
    "#0b6e6e",
    "#c1440e",
    "#d98e04",
    "#5b5ea6",
    "#3a7d44",
    "#8d6a9f",
    "#777777",
    "#a23b72",
    "#2e86ab",
    "#6b4226",
)


def page(name: str, document: dict[str, Any], table: TableMaker, facts: FactsMaker) -> str:
    """The whole page."""
    rows = [row for row in document["rows"] if "accuracy" in row]
    sections = []
    if (plotted := plotted_rows(rows)) and plot(document) is not None:
        sections = ["## Accuracy against bytes", f"![right answers against uplink bytes]({PLOT})", _plot_words(plotted)]
    sections += [part for make in (headline, wide, fleet, ablation) for part in make(rows, table)]
    clock = (
        " Cloud seconds are processor time; where the cell is empty, the rows are older and have wall time, which is "
        "not comparable."
    )
    intro = (
        "CIFAR-10, our own 15 common corruptions at severity 5, ResNet-20 as student. Made by `littoral bench adapt`; "
        "each row has the commit that it was made with. Right answers in percent, means over the seeds; in brackets "
        "how far the highest and the lowest lie apart. A seed draws the frames, their order, the order of the worlds "
        "and the chance in a method. It does not draw the corruptions: the same noise, snow and blur lie on a frame in "
        "every seed, so seeds lie closer together than fresh data would." + clock
    )
    return assemble(
        name, document, intro=intro, sections=sections, table=table, facts=facts, noun="rows", explained=_EXPLAINED
    )


def headline(rows: Rows, table: Callable[..., str]) -> list[str]:
    """What the issue asks first: 10,000 frames a shift."""
    chosen = [row for row in rows if row["table"] in ("headline", "quick")]
    if not chosen:
        return []
    head = ["stream", "teacher", "method", "seeds", "right, %", "sent, %", "up, kB per 1,000", "down, kB per 1,000",
            "device passes, forward", "backward", "cloud seconds per 1,000"]  # fmt: skip
    lines = [[*key, str(len(group)), *_costs(group)] for key, group in _grouped(chosen, "stream", "teacher", "method")]
    frames = " and ".join(f"{count:,}" for count in sorted({row["frames_per_shift"] for row in chosen}, reverse=True))
    return ["## Headline", f"{frames} frames a shift.", table(head, lines)]


def wide(rows: Rows, table: Callable[..., str]) -> list[str]:
    """Every method on every stream."""
    out: list[str] = []
    chosen = [row for row in rows if row["table"] == "wide"]
    for teacher, words in TEACHERS.items():
        mine = [row for row in chosen if row["teacher"] in (teacher, None)]
        if not any(row["teacher"] == teacher for row in mine):
            continue
        there = [stream for stream in STREAMS if any(row["stream"] == stream for row in mine)]
        lines = []
        for (method,), group in _grouped(mine, "method"):
            cells = [[row for row in group if row["stream"] == stream] for stream in there]
            lines.append([method, *(_spread([row["accuracy"] for row in cell]) for cell in cells)])
        out += [f"## Every stream, {words}", f"{_STREAM_WORDS} {_WIDE_FRAMES}", table(["method", *there], lines)]
    return out


def readme_table(document: dict[str, Any], table: TableMaker) -> str:
    """The methods on the continual stream, for people who read one page."""
    told = {
        "source": "nothing adapts",
        "device_statistics": "our device's statistics alone",
        "roid": "ROID, trained on the device",
        "parity_paper": "CEMA, as its paper states it",
        "parity_batch": "CEMA, by each batch's own statistics",
        "parity_shipped": "CEMA, as its code runs",
        "product": "**Littoral**",
        "teacher_everything": "the teacher itself, adapted on every frame by the published cloud's step",
    }
    rows = [row for row in document["rows"] if "accuracy" in row and row["stream"] == "continual"]
    of_teacher = [row for row in rows if row["teacher"] in ("resnet56_augmix", None)]
    needed = set(told) - {"parity_batch"}
    kind = "headline" if {row["method"] for row in of_teacher if row["table"] == "headline"} >= needed else "wide"
    chosen = [row for row in of_teacher if row["table"] == kind]
    if not chosen:
        return "No row of the continual stream is there yet."
    methods = {row["method"] for row in chosen}
    by_method = [{row["seed"] for row in chosen if row["method"] == method} for method in methods]
    common = set.intersection(*by_method)  # means of other seeds would not be alike
    chosen = [row for row in chosen if row["seed"] in common] or chosen
    lines = []
    for method, words in told.items():
        if group := [row for row in chosen if row["method"] == method]:
            ways = [
                f"{fmean(row[to] / row['frames'] for row in group):.0f}" for to in ("uplink_bytes", "downlink_bytes")
            ]
            trains = fmean(row["backward_passes"] for row in group)
            lines.append([words, f"{fmean(row['accuracy'] for row in group):.1f}", *ways, "yes" if trains else "no"])
    seeds = sorted({row["seed"] for row in chosen})
    chance = "" if len(seeds) > 2 else ", so a difference of a point may be chance"
    sent = [row["upload_ratio"] for row in chosen if row["method"] == "product"]
    words = (
        "ResNet-20 on CIFAR-10, 15 corruptions at severity 5 one after another, "
        f"{chosen[0]['frames_per_shift']:,} frames each; the teacher is a ResNet-56 made robust by augmentation. "
        f"Seeds: {', '.join(map(str, seeds))}{chance}."
    )
    if sent:
        words += f" Littoral sent {fmean(sent):.0%} of its frames."
    words += _behind(document["rows"], kind)
    summary = document["summary"]
    words += _third_form(summary)
    if document["config"].get("missing"):
        words += f" The table is not finished: {summary['units_done']} of {summary['units_planned']} rows are there."
    words += (
        " Other streams and fleets: [docs/results/adapt.md](docs/results/adapt.md). Made by `littoral bench adapt`."
    )
    head = ["fifteen worlds in a row", "right, %", "kB up per 1,000 frames", "kB down", "backward passes on the device"]
    return table(head, lines) + "\n\n" + words


def _third_form(summary: dict[str, Any]) -> str:
    """What the published system does with its code's other normalisation, which needs a whole batch to answer."""
    points, share, streams = (
        summary.get(key)
        for key in ("product_minus_three_forms_points", "product_bytes_over_three_forms", "three_forms_streams")
    )
    if points is None:
        return ""
    return (
        " CEMA's code can also normalise each batch by its own statistics, for which a device must wait until 64 "
        f"frames are there. Against the best of all three forms on each of {streams} streams, 2,000 frames a shift, "
        f"Littoral is {points:+.1f} points at {share:.2f} of the bytes up."
    )


def _behind(rows: Rows, kind: str) -> str:
    """On which streams the published system, as its paper states it, is right more often than the product."""
    told = {"mixed": "the worlds mixed at random", "correlated": "classes in long runs"}
    right: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        if row["table"] == kind and row["teacher"] == "resnet56_augmix" and "accuracy" in row:
            right.setdefault(row["stream"], {}).setdefault(row["method"], {})[row["seed"]] = row["accuracy"]
    worse = []
    for stream, found in right.items():
        ours, theirs = found.get("product", {}), found.get("parity_paper", {})
        if common := sorted(ours.keys() & theirs.keys()):
            mine, other = (fmean(each[seed] for seed in common) for each in (ours, theirs))
            worse += [f"{told.get(stream, stream)} ({mine:.1f} against {other:.1f})"] if mine < other else []
    if not worse:
        return ""
    return f" It is behind CEMA as its paper states it in these streams: {', '.join(worse)}."


def fleet(rows: Rows, table: Callable[..., str]) -> list[str]:
    """Eight devices in four domains."""
    chosen = [row for row in rows if row["devices"] > 1]
    if not chosen:
        return []
    lines = [[*key, str(len(group)), *_costs(group)] for key, group in _grouped(chosen, "stream", "method")]
    head = ["fleet", "method", "seeds", "right, %", "sent, %", "up, kB per 1,000", "down, kB per 1,000", "forward",
            "backward", "cloud seconds per 1,000"]  # fmt: skip
    words = (
        "`hostile`: one of the devices knows both networks and has recorded every world of the fleet. In place of its "
        "samples it floods all of these worlds with poison, frames whose gradients point where wrong labels would: "
        "some twenty times what an honest device sends. `hostile_mild`: the same in good weather, the four corruptions "
        "that the product was tuned on at severity 1, where the network as it was shipped is right nine times in ten "
        "and has most to lose. The other devices are scored."
    )
    return ["## Several devices", words, table(head, lines)]


def ablation(rows: Rows, table: Callable[..., str]) -> list[str]:
    """The product with one piece changed at a time, where such rows were run."""
    chosen = [row for row in rows if row["table"] == "ablation"]
    if not chosen:
        return []
    lines = [[*key, str(len(group)), *_costs(group)] for key, group in _grouped(chosen, "stream")]
    words = "On the four corruptions that the product was tuned on, 2,000 frames each."
    return ["## Ablation", words, table(["without", "seeds", "right, %", "sent, %", "up, kB per 1,000",
            "down, kB per 1,000", "forward", "backward", "cloud seconds per 1,000"], lines)]  # fmt: skip


def _grouped(rows: Rows, *keys: str) -> list[tuple[tuple[str, ...], Rows]]:
    groups: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] or "" for key in keys), []).append(row)
    return list(groups.items())


def _costs(group: Rows) -> list[str]:
    def mean(value: Callable[[dict[str, Any]], float]) -> float:
        return fmean(value(row) for row in group)

    return [
        _spread([row["accuracy"] for row in group]),
        f"{100 * mean(lambda row: row['upload_ratio']):.1f}",
        f"{mean(lambda row: row['uplink_bytes'] / row['frames']):.1f}",
        f"{mean(lambda row: row['downlink_bytes'] / row['frames']):.2f}",
        f"{mean(lambda row: row['forward_passes']):.2f}",
        f"{mean(lambda row: row['backward_passes']):.2f}",
        f"{mean(lambda row: row['cloud_seconds_per_1000']):.2f}" if all(map(_of_one_clock, group)) else "",
    ]


def _of_one_clock(row: dict[str, Any]) -> bool:
    """Whether the row's cloud seconds are processor time: older rows of others' methods have wall time."""
    return "cloud_clock" in row or row["method"] in _OURS or row["cloud_seconds_per_1000"] == 0


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    return f"{fmean(values):.2f}" + (f" ({max(values) - min(values):.2f})" if len(values) > 1 else "")


# -- the plot ----------------------------------------------------------------------------------------------------------


def plotted_rows(rows: Rows) -> Rows:
    """The continual stream under the robust teacher, of the table with the most frames that has it."""
    chosen = [row for row in rows if row["stream"] == "continual" and row["teacher"] in (next(iter(TEACHERS)), None)]
    most = max((row["frames"] for row in chosen), default=0)
    return [row for row in chosen if row["frames"] == most]


def plot(document: dict[str, Any]) -> str | None:
    """An SVG of accuracy against uplink bytes, the same bytes for the same document; None without rows."""
    rows = plotted_rows([row for row in document["rows"] if "accuracy" in row])
    points = [
        (method, fmean(r["uplink_bytes"] / r["frames"] for r in group), fmean(r["accuracy"] for r in group))
        for (method,), group in _grouped(rows, "method")
    ]
    if not points:
        return None
    top_kb = 10 ** math.ceil(math.log10(max(_FIRST_KB * 10, *(kb for _, kb, _ in points))))
    low = 10 * math.floor(min(right for *_, right in points) / 10)
    high = 10 * math.ceil(max(right for *_, right in points) / 10)
    high += 10 * (high == low)

    def x(kb: float) -> float:
        share = math.log10(max(kb, _FIRST_KB) / _FIRST_KB) / math.log10(top_kb / _FIRST_KB)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(right: float) -> float:
        return _TOP + (high - right) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    out = svg.begin(_WIDTH, _HEIGHT)
    for right in range(low, high + 1, 10):
        out.append(svg.line(_LEFT, y(right), _WIDTH - _RIGHT, y(right)))
        out.append(svg.text(_LEFT - 8, y(right) + 4, f"{right} %", anchor="end"))
    kb = _FIRST_KB
    while kb <= top_kb:
        out.append(svg.line(x(kb), _TOP, x(kb), _HEIGHT - _BOTTOM))
        words = "nothing" if kb == _FIRST_KB else f"{kb:,.0f}"
        out.append(svg.text(x(kb), _HEIGHT - _BOTTOM + 16, words, anchor="middle"))
        kb *= 10
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    out.append(svg.text(middle, _HEIGHT - 8, "kB up per 1,000 frames", anchor="middle"))
    out += _points(points, x, y)
    return svg.end(out)


def _points(
    points: list[tuple[str, float, float]], x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    """Dots, and their names in a column at the right, in the order of their height, with room between them."""
    out, last = [], -math.inf
    for index, (method, kb, right) in enumerate(sorted(points, key=lambda point: -point[2])):
        colour = _COLOURS[index % len(_COLOURS)]
        size = 7 if method == "product" else 5
        out.append(f'<circle cx="{x(kb):.1f}" cy="{y(right):.1f}" r="{size}" fill="{colour}"/>')
        at = max(y(right), last + 15, _TOP + 6)
        last = at
        edge = _WIDTH - _RIGHT
        out.append(
            f'<polyline points="{x(kb):.1f},{y(right):.1f} {edge:.1f},{y(right):.1f} {edge + 14:.1f},{at:.1f}" '
            f'fill="none" stroke="{colour}" stroke-opacity="0.35"/>'
        )
        weight = ' font-weight="bold"' if method == "product" else ""
        out.append(
            f'<text x="{edge + 18}" y="{at + 4:.1f}" fill="{colour}"{weight}>{html.escape(method)} {right:.1f}</text>'
        )
    return out


def _plot_words(rows: Rows) -> str:
    frames = max(row["frames"] for row in rows)
    return (
        f"The continual stream, {frames:,} frames a seed, the robust teacher. Methods at the left edge send nothing; "
        "which of them need backward passes on the device is in the table below."
    )


def plots(document: dict[str, Any]) -> dict[str, str]:
    """By name of file, what the page shows."""
    return svg.named(PLOT, plot(document))
