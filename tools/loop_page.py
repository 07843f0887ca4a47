"""The page and the plot of the loop table, from its document. Pure: text in, text out."""

import html
import math
from collections.abc import Callable
from typing import Any

import svg
from result_page import FactsMaker, TableMaker, assemble

Rows = list[dict[str, Any]]
PLOT = "loop.svg"
_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP, _GAP = 900, 250, 56, 210, 34, 76
_MARKS = {
    "device only": ("#777777", "square"),
    "static exits": ("#777777", "dot"),
    "cloud only": ("#c1440e", "square"),
    "static split": ("#d98e04", "dot"),
    "offload by confidence": ("#5b5ea6", "dot"),
    "ours": ("#0b6e6e", "diamond"),
    "oracle": ("#3a7d44", "cross"),
}
_TRACES = ("fixed", "wifi-walk", "lte-drive", "outage", "saturated")
_ABLATION = ", no switcher"
_MOST_MS_OVER = 1.15
"""The axis of time ends at so many times the slowest of the policies that answer in time."""


def page(name: str, document: dict[str, Any], table: TableMaker, facts: FactsMaker) -> str:
    """The whole page."""
    rows, stream = document["rows"], document["config"].get("stream", {})
    sections = []
    if plot(document) is not None:
        sections = ["## The frontier", f"![right answers against mean latency, and against bytes, by trace]({PLOT})"]
    sections += against_webp(document, table)
    sections += oracles(rows, table)
    for kind, trace, stream_name, device_ms in _groups(rows):
        title = f"{trace}, {stream_name}" + (f", a device of {device_ms:g} ms" if kind == "speed" else "")
        title += ", nothing gets through" if kind == "no-cloud" else ""
        sections += [f"## {title}", policies(_of(rows, kind, trace, stream_name, device_ms), table)]
    sections += by_phase(rows, table)
    intro = (
        "Streams of CIFAR-10's test frames in virtual time over emulated links: real networks' answers, real payloads, "
        "measured times. Made by `littoral bench loop`; [how it is counted](../../benchmarks/README.md), "
        "[the router](../methods/routing.md). "
        f"The device takes {stream.get('device_ms', '?')} ms for its whole network, a frame comes each "
        f"{stream.get('period_ms', '?')} ms, the deadline is {stream.get('deadline_ms', '?')} ms. Right answers are in "
        "percent; means over the seeds, what they spread behind ±."
    )
    return assemble(name, document, intro=intro, sections=sections, table=table, facts=facts)


def policies(rows: Rows, table: Callable[..., str]) -> str:
    """All policies of one trace."""
    head = ["policy", "right", "in time", "mean ms", "p50", "p95", "p99", "bytes", "device ms", "exit", "finish",
            "cloud", "by pictures", "degraded"]  # fmt: skip
    shown = any("picture_rate" in row for row in rows)  # rows of before have none
    head = head if shown else [name for name in head if name != "by pictures"]
    rates = ("exit", "finish", "cloud", *(["picture"] if shown else []), "degraded")
    lines = []
    for row in sorted(rows, key=lambda row: list(_MARKS).index(row["family"])):
        lines.append(
            [row["policy"], _spread(row, "accuracy", 2), f"{100 * row['deadline_hits']:.2f} %",
             _spread(row, "latency_ms", 1), *(f"{row[f'latency_ms_p{p}']:.1f}" for p in (50, 95, 99)),
             _spread(row, "bytes_per_frame", 0), f"{row['device_ms_per_frame']:.1f}",
             *(f"{row.get(f'{name}_rate', 0):.0%}" for name in rates)]
        )  # fmt: skip
    return table(head, lines)


def against_webp(document: dict[str, Any], table: Callable[..., str]) -> list[str]:
    """Ours at the accuracy of every frame as WebP, on every trace, for every speed of the device."""
    rows, lines = document["rows"], []
    for kind, trace, stream, device_ms in _groups(rows):
        here = _of(rows, kind, trace, stream, device_ms)
        by_name = {row["policy"]: row for row in here}
        for row in here:
            quality = row["policy"].removeprefix("always ")
            ours = by_name.get(f"ours, as right as {quality}")
            if not quality.startswith("webp ") or ours is None:
                continue
            lines.append(
                [trace, stream, f"{device_ms:g}", quality, f"{row['accuracy']:.2f}",
                 f"{ours['accuracy'] - row['accuracy']:+.2f}", f"{row['latency_ms']:.1f}", f"{ours['latency_ms']:.1f}",
                 f"{ours['latency_ms'] / row['latency_ms']:.2f}",
                 f"{ours['bytes_per_frame'] / row['bytes_per_frame']:.3f}"]
            )  # fmt: skip
    if not lines:
        return []
    head = ["trace", "stream", "device ms", "picture", "right", "ours, points", "ms", "ours, ms", "latency share",
            "bytes share"]  # fmt: skip
    near = document["config"].get("near_points")
    less = "" if near is None else f", less {near:g} points at most"
    words = (
        "Prices of ours were chosen on calibration frames, on a trace of another seed, for the accuracy of every frame "
        f"as WebP at this quality{less}."
    )
    if rules := document["summary"].get("cheapest_rules"):
        words += (
            " One threshold on the device's confidence spares WebP's time and bytes too. The cheapest fixed rules that "
            f"are as right as the best WebP, and what ours takes of theirs: {rules}."
        )
    return ["## At the accuracy of WebP", words, table(head, lines)]


def oracles(rows: Rows, table: Callable[..., str]) -> list[str]:
    """What the oracles gain over the device alone, and ours at its default prices."""
    wanted = ("ours, default prices", "oracle, by look", "oracle, priced, two", "oracle, priced", "oracle, two",
              "oracle, all")  # fmt: skip
    lines = []
    for kind, trace, stream, device_ms in _groups(rows):
        by_name = {row["policy"]: row for row in _of(rows, kind, trace, stream, device_ms)}
        if kind == "policies" and "device only" in by_name and wanted[0] in by_name:
            base = by_name["device only"]
            found = [by_name[name] for name in wanted if name in by_name]
            points = [f"{row['accuracy'] - base['accuracy']:+.2f} in {row['latency_ms']:.1f} ms" for row in found]
            lines.append([trace, stream, f"{base['accuracy']:.2f} in {base['latency_ms']:.1f} ms", *points])
    if not lines:
        return []
    words = (
        "Points over the device alone, and mean latency. *By look* knows the link, and how often frames that look "
        "like this one are got right; the others know which answers are right: of two (the whole network's and the "
        "cloud's), or of all. *Priced* ones take what is worth most at ours' default prices, the last two the soonest "
        "right answer. What they gain over *by look* is luck: it cannot be seen on a frame."
    )
    return ["## Oracles", words, table(["trace", "stream", "device only", *wanted], lines)]


def by_phase(rows: Rows, table: Callable[..., str]) -> list[str]:
    """Ours and the device alone under drift."""
    chosen = [row for row in rows if row.get("phase", "all") != "all" and row["trace"] == "wifi-walk"]
    lines = [
        [row["policy"], row["phase"], f"{row['accuracy']:.2f}", f"{row['latency_ms']:.1f}",
         f"{row['bytes_per_frame']:.0f}", *(f"{row[f'{name}_rate']:.0%}" for name in ("exit", "finish", "cloud"))]
        for row in chosen
    ]  # fmt: skip
    if not lines:
        return []
    head = ["policy", "phase", "right", "mean ms", "bytes", "exit", "finish", "cloud"]
    words = (
        "Nothing adapts here: exits, curves and thresholds are those of clean frames, and only the switcher learns "
        "from what the cloud answers. The closed loop has its own rows."
    )
    return ["## Under drift, by phase (Wi-Fi walk)", words, table(head, lines)]


def _groups(rows: Rows) -> list[tuple[str, str, str, float]]:
    whole = [row for row in rows if row.get("phase") == "all"]
    return list(dict.fromkeys((row["kind"], row["trace"], row["stream"], row["device_ms"]) for row in whole))


def _of(rows: Rows, kind: str, trace: str, stream: str, device_ms: float) -> Rows:
    wanted = (kind, trace, stream, device_ms, "all")
    return [
        row
        for row in rows
        if row.get("phase") and (row["kind"], row["trace"], row["stream"], row["device_ms"], row["phase"]) == wanted
    ]


def _spread(row: dict[str, Any], name: str, digits: int) -> str:
    spread = row.get(f"{name}_sd")
    return f"{row[name]:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def plot(document: dict[str, Any]) -> str | None:
    """For each trace with clean frames two panels side by side: right answers against mean latency and against bytes.

    The same bytes for the same document; None without a row.
    """
    groups = [group for group in _groups(document["rows"]) if group[0] == "policies" and group[2] == "clean"]
    if not groups:
        return None
    order = sorted(groups, key=lambda group: _TRACES.index(group[1]) if group[1] in _TRACES else len(_TRACES))
    out = svg.begin(_WIDTH, _TOP + len(order) * (_PANEL + _GAP))
    half = (_WIDTH - _RIGHT - _LEFT) // 2
    for number, group in enumerate(order):
        rows = [row for row in _of(document["rows"], *group) if not row["policy"].endswith(_ABLATION)]
        top = _TOP + number * (_PANEL + _GAP)
        out += _panel(rows, top, _LEFT, half - 40, "latency_ms", f"{group[1]}: right, %, against mean ms")
        out += _panel(rows, top, _LEFT + half + 10, half - 40, "bytes_per_frame", "and against bytes a frame (log)")
        out += _legend(rows, top)
    return svg.end(out)


def _panel(rows: Rows, top: int, left: int, wide: int, name: str, title: str) -> list[str]:
    """One picture of points; what lies outside is drawn on the edge."""
    logarithmic = name == "bytes_per_frame"
    real = [row for row in rows if row["family"] != "oracle"]
    known: list[float] = [row[name] for row in real if row["deadline_hits"] >= 0.9] or [1.0]
    last = max(known) * _MOST_MS_OVER

    def scale(value: float) -> float:
        return math.log10(1 + value) if logarithmic else value

    device: float = next((row["accuracy"] for row in rows if row["family"] == "device only"), 0.0)
    low = math.floor(min(min((row["accuracy"] for row in rows if row["family"] == "ours"), default=device), device)) - 1
    high = math.ceil(max(row["accuracy"] for row in rows))

    def x(value: float) -> float:
        return left + min(scale(value) / scale(last), 1.0) * wide

    def y(value: float) -> float:
        return float(top + (high - max(value, low)) / (high - low) * _PANEL)

    out = [svg.text(left, top - 10, title, "start")]
    for tick in range(low, high + 1, max(1, (high - low) // 6)):
        out += [svg.line(left, y(tick), left + wide, y(tick)), svg.text(left - 8, y(tick) + 4, str(tick), "end")]
    ticks = [value for value in (0.0, 10.0, 100.0, 1_000.0) if value <= last] if logarithmic else _round_ticks(last)
    for value in ticks:
        out += [svg.line(x(value), top, x(value), y(low)), svg.text(x(value), y(low) + 16, f"{value:g}", "middle")]
    for row in sorted(rows, key=lambda row: row["family"] == "ours"):
        colour, shape = _MARKS[row["family"]]
        out.append(_mark(x(row[name]), y(row["accuracy"]), colour, shape, row["policy"]))
    return out


def _round_ticks(last: float) -> list[float]:
    step = 10 ** math.floor(math.log10(last))
    step = step if last / step >= 3 else step / 2 if last / step >= 1.5 else step / 4
    return [step * i for i in range(int(last / step) + 1)]


def _mark(x: float, y: float, colour: str, shape: str, name: str) -> str:
    title = f"<title>{html.escape(name)}</title>"
    if shape == "square":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}">{title}</rect>'
    if shape == "dot":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{colour}" fill-opacity="0.75">{title}</circle>'
    if shape == "diamond":
        places = f"{x:.1f},{y - 6.5:.1f} {x + 6.5:.1f},{y:.1f} {x:.1f},{y + 6.5:.1f} {x - 6.5:.1f},{y:.1f}"
        return f'<polygon points="{places}" fill="{colour}" stroke="#ffffff">{title}</polygon>'
    drawn = f"M{x - 4:.1f},{y - 4:.1f} l8,8 m0,-8 l-8,8"
    return f'<path d="{drawn}" stroke="{colour}" stroke-width="2" fill="none">{title}</path>'


def _legend(rows: Rows, top: int) -> list[str]:
    out, at = [], top + 8
    for family, (colour, shape) in _MARKS.items():
        if any(row["family"] == family for row in rows):
            out += [_mark(_WIDTH - _RIGHT + 16, at, colour, shape, family)]
            out.append(svg.text(_WIDTH - _RIGHT + 30, at + 4, family, "start"))
            at += 20
    return out


def readme_table(document: dict[str, Any], table: Callable[..., str]) -> str:
    """A few policies on the Wi-Fi walk, for people who read one page."""
    here = [
        row
        for row in document["rows"]
        if row.get("phase") == "all"
        and (row["kind"], row["trace"], row["stream"]) == ("policies", "wifi-walk", "clean")
    ]
    summary = document["summary"]
    best = f"webp {summary['webp_quality'].split()[-1]}" if "webp_quality" in summary else "webp 100"
    rules = [f"below {share} {way}" for way in (best, "split layer2.1 3") for share in (0.7, 0.9)]
    wanted = ("device only", f"always {best}", "always png", *rules, "below 0.9 png", "ours, default prices",
              "ours, quick", f"ours, as right as {best}", "oracle, by look")  # fmt: skip
    by_name = {row["policy"]: row for row in here}
    lines = [
        [name, f"{row['accuracy']:.1f}", f"{row['latency_ms']:.1f}", f"{row['latency_ms_p99']:.0f}",
         f"{row['bytes_per_frame']:.0f}", " / ".join(f"{row[f'{to}_rate']:.0%}" for to in ("exit", "finish", "cloud"))]
        for name in wanted
        if (row := by_name.get(name)) is not None
    ]  # fmt: skip
    head = ["a walk through a Wi-Fi cell", "right, %", "mean ms", "p99 ms", "bytes a frame", "exit / finish / cloud"]
    stream = document["config"].get("stream", {})
    seeds = ", ".join(map(str, document["seeds"]))
    words = (
        f"CIFAR-10, seeds {seeds}, means, in virtual time over an emulated link: a device that takes "
        f"{stream.get('device_ms', '?')} ms for ResNet-20, a ResNet-56 in the cloud. *Always*: the cloud answers every "
        "frame from such a picture. *Below 0.9*: the device answers, but where its confidence is below that the cloud "
        "does, from the split's payload or from a picture. *Ours*: the router, at several prices of time and bytes. "
        "*Oracle, by look*: it knows the link, and how often frames that look like this one are got right; it wants "
        "the best answer for its price, not the most right ones."
    )
    words += _better_than_ours(here, summary) + _over_rules(summary, f"ours, as right as {best}")
    words += " All policies and links: [docs/results/loop.md](docs/results/loop.md). Made by `littoral bench loop`."
    return table(head, lines) + "\n\n" + words


def _better_than_ours(here: Rows, summary: dict[str, Any]) -> str:
    """Which fixed rules are in nothing worse than the router at its default prices, and how often that is so."""
    ours = next((row for row in here if row["policy"] == "ours, default prices"), None)
    if ours is None:
        return ""
    better = [
        row["policy"]
        for row in here
        if row["family"] not in ("ours", "oracle")
        and row["accuracy"] >= ours["accuracy"]
        and row["latency_ms"] <= ours["latency_ms"]
        and row["bytes_per_frame"] <= ours["bytes_per_frame"]
    ]
    words = ""
    if better:
        names = " and ".join(f"*{name}*" for name in better)
        words = f" At its default prices the router does not win here: {names} is no less right, in less time, with "
        words += "fewer bytes."
    if pairs := summary.get("policies_that_dominate_ours"):
        words += f" Over all links and settings of the router there are {pairs:.0f} such pairs."
    if ours["exit_rate"] < 0.005:
        words += " At these prices no early exit of so small a network pays, and it uses none."
    return words


def _over_rules(summary: dict[str, Any], ours: str) -> str:
    """What ours at the accuracy of WebP takes of the cheapest fixed rule that is as right."""
    time, size = (summary.get(f"{name}_over_cheapest_rule_equal_accuracy") for name in ("latency", "bytes"))
    if time is None:
        return ""
    of_bytes = "" if size is None else f" and {size:.1f} times its bytes"
    return (
        f" Against the cheapest fixed rule that is as right as WebP, *{ours}* takes {time:.2f} times the "
        f"time{of_bytes} on its worst link."
    )


def plots(document: dict[str, Any]) -> dict[str, str]:
    """By name of file, what the page shows."""
    return svg.named(PLOT, plot(document))
