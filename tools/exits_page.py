"""The page and the plot of the exits table, from its document. Pure: text in, text out."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import svg
from result_page import FactsMaker, TableMaker, assemble

Rows = list[dict[str, Any]]
PLOT = "exits.svg"
_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP, _GAP = 820, 260, 56, 190, 30, 74
_COLOURS = ("#777777", "#d98e04", "#5b5ea6", "#0b6e6e", "#c1440e", "#3a7d44")
_WORK = (25, 35, 50, 75)
_MAIN = ("k4", "quick")
_HINDSIGHT = (
    "Two ways of choosing thresholds stand apart. *Hindsight*: the cheapest at which the test frames themselves are as "
    "often right as with the shipped network, what papers mean by \"at the same accuracy\"; no device can do this. "
    "*Certified*: from 400 calibration frames on which nothing was fitted, at a level named before, delta 0.1 "
    "without labels and 0.02 with them; what a device does."
)  # fmt: skip


def page(name: str, document: dict[str, Any], table: TableMaker, facts: FactsMaker) -> str:
    """The whole page."""
    sections = []
    if plot(document) is not None:
        sections = ["## In pictures", f"![right answers against work and frames, and users]({PLOT})"]
    for make in (methods, styles, latency, trained, fits, cost, risk, drift, strangers, cloud):
        sections += make(document["rows"], table)
    intro = (
        "Users of CIFAR-10: a few classes unevenly shared, seen through one camera, all from *test* images. Made by "
        "`littoral bench exits`; each row has the commit that it was made with. Settings were chosen on "
        "users of another seed ([the card](../methods/exits.md)). Right answers are in percent, work is a share of the "
        "whole network's multiply-accumulates, heads and stems included."
    )
    return assemble(name, document, intro=intro, sections=sections, table=table, facts=facts)


def methods(rows: Rows, table: Callable[..., str]) -> list[str]:
    """Means over users of every method."""
    lines = []
    for key, group in grouped(of(rows, "users"), "network", "stems", "users", "method", "labels", "frames"):
        served = "cert_x" if key[4] else "cert_d05"
        names = ("shipped_right", "full_right", "right_25", "right_50")
        lines.append(
            [*key, people(group), *(mean(group, name, 1) for name in names),
             mean(group, "eq_compute", 3), mean(group, f"{served}_compute", 3), mean(group, f"{served}_right", 1),
             lowest(group)]
        )  # fmt: skip
    if not lines:
        return []
    head = ["network", "stems", "users", "method", "labels", "frames", "n", "shipped", "full depth", "at 25 %",
            "at 50 %", "hindsight: work", "certified: work", "certified: right", "worst user"]  # fmt: skip
    words = (
        "`generic`: the shipped exits. `corrected`: the same with the user's class shares, found without labels. "
        "`personal`: heads that follow the user and serve where held-back frames speak for it; `unprotected`: serve "
        "whatever they do. `frames`: personal frames so far. `full depth`: no frame leaves early. `at 25 %`: the most "
        "careful thresholds within that mean work. Certified without labels: an answer other than at full depth for at "
        "most 5 %; with labels: errs no more often than the shipped network. `worst user`: points over the shipped "
        "network at the certified thresholds. " + _HINDSIGHT
    )
    return ["## Methods", words, table(head, lines)]


def styles(rows: Rows, table: Callable[..., str]) -> list[str]:
    """Apart for mild and hard cameras."""
    chosen = [row for row in of(rows, "users") if row["users"] in _MAIN and row["frames"] in (0, most_frames(rows))]
    lines = []
    for key, group in grouped(chosen, "network", "stems", "hard", "method", "labels"):
        if "right_50" in group[0]:
            names = ("shipped_right", "full_right", "right_50")
            lines.append([*key, people(group), *(mean(group, n, 1) for n in names), mean(group, "eq_compute", 3)])
    if not lines:
        return []
    head = ["network", "stems", "hard camera", "method", "labels", "n", "shipped", "full depth", "at 50 %",
            "hindsight: work"]  # fmt: skip
    return ["## Mild and hard cameras", "After all personal frames.", table(head, lines)]


def latency(rows: Rows, table: Callable[..., str]) -> list[str]:
    """Measured milliseconds."""
    lines = []
    for key, group in grouped(of(rows, "latency"), "network", "way"):
        ms, full = (average(group, name) for name in ("ms", "full_ms"))
        lines.append([*key, people(group), f"{ms:.3f}", f"{full:.3f}", f"{full / ms:.2f}", mean(group, "right", 1),
                      mean(group, "shipped_right", 1), mean(group, "compute", 3)])  # fmt: skip
    if not lines:
        return []
    head = ["network", "way", "users", "ms", "whole network ms", "whole over this", "right", "shipped", "work"]
    words = (
        "Means over users of the mean over their test frames; batch 1, one thread, every way in turns with the whole "
        "network in one session. Each frame leaves where it leaves: segments, stems and heads as on the device. "
        "`smaller`: ResNet-20 in the place of ResNet-56. " + _HINDSIGHT
    )
    return ["## Measured latency", words, table(head, lines)]


def readme_table(document: dict[str, Any], table: TableMaker) -> str:
    """What leaving early gives a user, for people who read one page."""
    rows, network = document["rows"], document["summary"].get("network", "resnet56")
    told = {
        "smaller": "ResNet-20 in its place",
        "generic": "exits as shipped",
        "corrected": "the user's class shares alone",
        "personal, no labels": "exits that follow the user, no labels",
        "personal, labels": "exits that follow the user, all frames labelled",
    }
    timed, lines = of(rows, "latency"), []
    for way, words in told.items():
        found = {
            kind: [row for row in timed if (row["network"], row["way"]) == (network, f"{way}{kind}")]
            for kind in ("", ", equal accuracy", ", certified")
        }
        if not any(found.values()):
            continue
        hindsight, certified = found[""] or found[", equal accuracy"], found[", certified"]
        if way == "smaller" and (small := mean([r for r in timed if r["network"] == "resnet20"], "shipped_right", 1)):
            words += f", right on {small} %"
        lines.append([words, _speed(hindsight), _speed(certified), mean(certified, "right", 1)])
    head = ["ResNet-56 on one thread", "times as fast, with hindsight", "times as fast, certified", "then right, %"]
    timed = [row for row in timed if row["network"] == network]
    shipped, users = mean(timed, "shipped_right", 1), people([row for row in timed if row["way"] == "whole"])
    words = (
        f"Means over {users} users, each with four classes of CIFAR-10 and a simulated camera; the whole ResNet-56, as "
        f"shipped, is right on {shipped} %. *With hindsight*: the fastest thresholds with which answers are as often "
        "right as that; papers report it, and no device can choose so. *Certified*: the thresholds that a device finds "
        "by 400 calibration frames, with a promise; the last column says how often its answers are right then. "
        "Measured in turns on an idle machine. All of it: [docs/results/exits.md](docs/results/exits.md). Made by "
        "`littoral bench exits`."
    )
    return table(head, lines) + "\n\n" + words


def _speed(group: Rows) -> str:
    return f"{average(group, 'full_ms') / average(group, 'ms'):.2f}" if group else ""


def trained(rows: Rows, table: Callable[..., str]) -> list[str]:
    """Rivals that train networks."""
    lines = [
        [*key, people(group), mean(group, "shipped_right", 1), mean(group, "full_right", 1), mean(group, "right_50", 1),
         mean(group, "eq_compute", 3), mean(group, "cert_x_compute", 3), mean(group, "training_cpu_seconds", 1)]
        for key, group in grouped(of(rows, "trained"), "network", "method", "labels")
    ]  # fmt: skip
    if not lines:
        return []
    head = ["network", "method", "labels", "users", "shipped", "full depth", "at 50 %", "hindsight: work",
            "certified: work", "CPU seconds"]  # fmt: skip
    return ["## What trains networks", "For a few users, five epochs of SGD.", table(head, lines)]


def fits(rows: Rows, table: Callable[..., str]) -> list[str]:
    """The ways of fitting a head."""
    chosen = [row for row in of(rows, "fits") if row["method"] in ("personal", "unprotected")]
    lines = [
        [*key, people(group), *(mean(group, k, 1) for k in ("full_right", "right_50")), mean(group, "eq_compute", 3)]
        for key, group in grouped(chosen, "network", "fit", "method", "labels")
    ]
    if not lines:
        return []
    return [
        "## Fits",
        table(["network", "fit", "method", "labels", "n", "full depth", "at 50 %", "hindsight: work"], lines),
    ]


def cost(rows: Rows, table: Callable[..., str]) -> list[str]:
    """What personalising costs."""
    chosen = of(rows, "cost")
    if not chosen:
        return []
    skip = ("kind", "stems", "users", "seed", "commit", "network")
    keys = [key for key in chosen[0] if key not in skip]
    lines = [[key, *(row.get(key) for row in chosen)] for key in keys]
    words = (
        "Counted for 1,000 personal frames; `with_forward` adds one whole forward pass for each of them, which a "
        "device that answers them anyway does not need. Published exits: as a re-implementation would have them, 12 % "
        "of the network's work, the network run again in each of five epochs; and with our stems in their place. "
        "`peak_extra_memory_bytes`: one head at its fullest, as Python counts it."
    )
    return ["## Cost", words, table(["what", *(row["network"] for row in chosen)], lines)]


def risk(rows: Rows, table: Callable[..., str]) -> list[str]:
    """How often promises are broken."""
    names = ("broken", "not_certified", "mean_risk", "broken_if_the_mean_is_believed")
    lines = [
        [*key, len(group), *(mean(group, name, 4) for name in names)]
        for key, group in grouped(of(rows, "risk"), "network", "loss", "level", "labels")
    ]
    if not lines:
        return []
    words = (
        "A user calibrated 200 times from random frames; the others say what the risk is. `broken`: how often it is "
        "above the level; 0.1 is allowed, 0.02 with labels. Last: what believing the calibration frames' mean does."
    )
    return ["## Promises", words, table(["network", "loss", "level", "labels", "users", *names], lines)]


def drift(rows: Rows, table: Callable[..., str]) -> list[str]:
    """Under drift, the loop closed or cut, with the re-check and without."""
    names = (
        "early", "settled_early", "checking", "risk", "serving", "lost", "risk_serving", "risk_low", "risk_high",
        "p_broken", "windows", "windows_over", "windows_broken", "right", "full_right", "macs_share",
    )  # fmt: skip
    whole = {"serving", "lost", "windows", "windows_over", "windows_broken"}
    lines = [
        [key[0], *("yes" if yes else "no" for yes in key[1:3]), key[3], people(group)]
        + [mean(group, name, 0 if name in whole else 3) for name in names]
        for key, group in grouped(of(rows, "drift"), "stream", "cloud", "recheck", "world")
    ]
    if not lines:
        return []
    words = (
        "A real device and its real cloud in one process, one world after another; promised is that of the frames that "
        "come while thresholds are in force at most 0.05 get another answer than at full depth. `early`: of all "
        "frames, those that left early; `settled_early`: of the last 300 of a world. `risk`: of all frames, early "
        "answers other than at full depth. `serving`: frames while thresholds were in force, `lost` of them; their "
        "share, its "
        "one-sided 95 % bounds, and how likely so many or more would be at 0.05. `windows`: of 250 frames, more than "
        "half of them serving; those over 0.05, and those that break it (5 % over all windows together)."
    )
    return ["## Under drift", words, table(["stream", "cloud", "re-check", "world", "runs", *names], lines)]


def strangers(rows: Rows, table: Callable[..., str]) -> list[str]:
    """Classes that a user never showed, and days taken back."""
    chosen = of(rows, "strangers")
    never = [row for row in chosen if row["what"] == "never shown"]
    out: list[str] = []
    if never:
        names = [f"{who}_{what}" for who in ("own", "never") for what in
                 ("shipped_right", "full_right", "right", "gated_to_shipped_right", "passes", "watched_full_right",
                  "watched_right")]  # fmt: skip
        lines = [[*key, len(group), *(mean(group, name, 2) for name in names)]
                 for key, group in grouped(never, "network", "labels")]  # fmt: skip
        words = (
            "`own`: test frames of the user's classes; `never`: of classes that the user never showed. `gated`: an "
            "exit lets no frame leave that lies further from what was shown than 95 % of the held-back frames; "
            "`gated_to_shipped`: and such a frame gets the shipped network's answer at the end. `watched`: the same if "
            "the shipped head is surer than of 99 % of the held-back frames that its class was never shown."
        )
        out += ["## Classes that were never shown", words, table(["network", "labels", "users", *names], lines)]
    gone = [row for row in chosen if row["what"] == "day taken back"]
    if gone:
        names = ["largest_difference", "least_moved_by_the_day", "frames_of_the_day_left"]
        lines = [[row["network"], row["user"], *(row[name] for name in names)] for row in gone]
        words = "A head that gave a day back against one that never had it: the largest difference of any weight."
        out += ["## A day taken back", words, table(["network", "user", *names], lines)]
    return out


# -- rows --------------------------------------------------------------------------------------------------------------


def cloud(rows: Rows, table: Callable[..., str]) -> list[str]:
    """What the cloud's answers to uploaded frames teach."""
    chosen = of(rows, "labels")
    if not chosen:
        return []
    names = ("cloud_right_on_uploaded", "shipped_right", "full_right", "right_50", "cert_right")
    works = ("uploaded_share", "cert_compute")
    lines = [
        [*key, people(group), *(mean(group, name, 2) for name in names), *(mean(group, name, 3) for name in works)]
        for key, group in grouped(chosen, "network", "own_share", "method")
    ]
    words = (
        "A device uploads a share of its frames, those of which it is least sure, and the cloud's ResNet-56 answers "
        "them. `own`: heads learn from the user's labels (`own_share` of the frames) and the device's answers; `own "
        "and cloud`: the cloud's probabilities teach in the place of the device's where a frame went up; `as labels`: "
        "its answers count as the user's word. The same frames go up in all three."
    )
    header = ["network", "own share", "what teaches", "users", *names, *works]
    return ["## The cloud's answers to uploaded frames", words, table(header, lines)]


def of(rows: Rows, kind: str) -> Rows:
    """Those of a kind."""
    return [row for row in rows if row["kind"] == kind]


def grouped(rows: Rows, *keys: str) -> list[tuple[tuple[Any, ...], Rows]]:
    """In the order in which the groups first come."""
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.items())


def mean(group: Rows, key: str, digits: int) -> str:
    """As it stands in a table; empty where no row has it."""
    there = [row for row in group if row.get(key) is not None]
    return f"{average(there, key):.{digits}f}" if there else ""


def average(group: Rows, key: str) -> float:
    """Over users: a row may be the mean of several."""
    return fmean([row[key] for row in group], weights=[row.get("num_users", 1) for row in group])


def people(group: Rows) -> int:
    """Of how many users, or runs, these rows are."""
    return sum(row.get("num_users", 1) for row in group)


def lowest(group: Rows) -> str:
    """The fewest points over the shipped network."""
    values = [row["lowest_points"] for row in group if "lowest_points" in row]
    return f"{min(values):+.1f}" if values else ""


def most_frames(rows: Rows) -> int:
    """The most personal frames of the main users."""
    return max((row["frames"] for row in of(rows, "users") if row["users"] in _MAIN), default=0)


# -- the plot ----------------------------------------------------------------------------------------------------------

SERIES = (
    ("generic", "generic", 0.0),
    ("class shares", "corrected", 0.0),
    ("personal, no labels", "personal", 0.0),
    ("personal, 10 % labels", "personal", 0.1),
    ("personal, labels", "personal", 1.0),
)


def plot(document: dict[str, Any]) -> str | None:
    """Three panels of one SVG, the same bytes for the same document; None without a user.

    Right answers against work, gains against personal frames, and how many users gain how much.
    """
    networks = [row["network"] for row in of(document["rows"], "users")]
    if not networks:
        return None
    network = max(sorted(set(networks)), key=lambda name: (name == "resnet56", networks.count(name)))
    rows, users = (
        [row for row in of(document["rows"], kind)
         if row["network"] == network and row["stems"] == "trained" and row["users"] in _MAIN]
        for kind in ("users", "user")
    )  # fmt: skip
    if not rows:
        return None
    out = svg.begin(_WIDTH, _TOP + 3 * (_PANEL + _GAP))
    out += _against_work(rows, network, _TOP)
    out += _against_frames(rows, _TOP + _PANEL + _GAP)
    out += _histogram(users, _TOP + 2 * (_PANEL + _GAP))
    return svg.end(out)


def _against_work(rows: Rows, network: str, top: int) -> list[str]:
    curves = {}
    for label, method, labels in SERIES:
        group = _last(rows, method, labels)
        if group:
            ends = [(float(work), average(group, f"right_{work}")) for work in _WORK]
            curves[label] = [*ends, (100.0, average(group, "full_right"))]
    return _lines(
        curves, top, f"{network}: right, %, against mean work, % of the whole network's", (25.0, 50.0, 75.0, 100.0)
    )


def _against_frames(rows: Rows, top: int) -> list[str]:
    base = [row for row in rows if row["method"] == "generic"]
    curves = {}
    for label, method, labels in SERIES[1:] if base else ():
        group = [row for row in rows if row["method"] == method and row["labels"] == labels]
        found = []
        for (frames,), some in sorted(grouped(group, "frames"), key=lambda each: each[0]):
            found.append((math.log10(frames), average(some, "right_50") - average(base, "right_50")))
        if found:
            curves[label] = found
    ticks = tuple(sorted({x for found in curves.values() for x, _ in found}))
    title = "points over the generic exits at half of the work, against personal frames"
    return _lines(curves, top, title, ticks, lambda x: f"{10**x:,.0f}")


def _histogram(users: Rows, top: int) -> list[str]:
    bars: dict[str, dict[int, int]] = {}
    for label, key in ((SERIES[2][0], "points_no_labels"), (SERIES[4][0], "points_labels")):
        counts: dict[int, int] = {}
        for row in users:
            if key in row:
                bin_ = 5 * math.floor(row[key] / 5)
                counts[bin_] = counts.get(bin_, 0) + 1
        bars[label] = counts
    bins = [bin_ for counts in bars.values() for bin_ in counts]
    if not bins:
        return []
    low, high, most = min(bins), max(bins) + 5, max(max(counts.values(), default=0) for counts in bars.values())
    wide = (_WIDTH - _LEFT - _RIGHT) / (high - low)
    out = [svg.text(_LEFT, top - 8, "users by their points over the generic exits at half of the work", "start")]
    for number, (label, counts) in enumerate(bars.items()):
        colour = _COLOURS[2 + 2 * number]
        for bin_, count in sorted(counts.items()):
            tall = count / most * (_PANEL - 44)
            x = _LEFT + (bin_ - low + 2.4 * number) * wide
            out.append(
                f'<rect x="{x:.1f}" y="{top + _PANEL - 20 - tall:.1f}" width="{2.3 * wide:.1f}" height="{tall:.1f}" '
                f'fill="{colour}"/>'
            )
            out.append(svg.text(x + 1.2 * wide, top + _PANEL - 24 - tall, str(count), "middle"))
        out.append(svg.text(_WIDTH - _RIGHT + 24, top + 20 + 18 * number, label, "start"))
        out.append(
            f'<rect x="{_WIDTH - _RIGHT + 8}" y="{top + 10 + 18 * number}" width="10" height="10" fill="{colour}"/>'
        )
    for bin_ in range(low, high + 1, 5):
        out.append(svg.text(_LEFT + (bin_ - low) * wide, top + _PANEL - 4, f"{bin_:+d}", "middle"))
    return out


def _last(rows: Rows, method: str, labels: float) -> Rows:
    chosen = [row for row in rows if row["method"] == method and row["labels"] == labels]
    most = max((row["frames"] for row in chosen), default=0)
    return [row for row in chosen if row["frames"] == most]


def _lines(
    curves: dict[str, list[tuple[float, float]]],
    top: int,
    title: str,
    ticks: Sequence[float],
    word: Callable[[float], str] = lambda x: f"{x:g}",
) -> list[str]:
    values = [y for found in curves.values() for _, y in found]
    if not values or not ticks:
        return []
    low, high = 10 * math.floor(min(values) / 10), 10 * math.ceil(max(values) / 10)
    high += 10 * (high == low)
    first, last = min(ticks), max(ticks)
    last += last == first

    def x(value: float) -> float:
        return _LEFT + (value - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (_PANEL - 20)

    out = [svg.text(_LEFT, top - 8, title, "start")]
    for tick in range(low, high + 1, 10):
        out += [svg.line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick)), svg.text(_LEFT - 8, y(tick) + 4, str(tick), "end")]
    for place in ticks:
        out += [svg.line(x(place), top, x(place), y(low)), svg.text(x(place), y(low) + 16, word(place), "middle")]
    placed = -math.inf
    order = sorted(curves.items(), key=lambda item: -item[1][-1][1])
    names = [label for label, _, _ in SERIES]
    for label, found in order:
        colour = _COLOURS[names.index(label)]
        drawn = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in found)
        out.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        placed = max(y(found[-1][1]) + 4, placed + 15)
        out.append(
            f'<text x="{_WIDTH - _RIGHT + 8}" y="{placed:.1f}" fill="{colour}">{label} {found[-1][1]:.1f}</text>'
        )
    return out


def plots(document: dict[str, Any]) -> dict[str, str]:
    """By name of file, what the page shows."""
    return svg.named(PLOT, plot(document))
