"""The demo's report: one HTML file with its plots inside, to be looked at in a browser."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from littoral.bench.mix import UNANSWERED, WAYS, rolling_shares
from littoral.bench.play import DemoResult
from littoral.bench.streams.digits import DRIFT_PHASES, PHASES

WINDOW = 100
COLOURS = {"frozen": "#8a8f98", "littoral": "#0b7285", "teacher": "#c2790b"}
NAMES = {"frozen": "frozen twin", "littoral": "Littoral", "teacher": "teacher on every frame"}
MIX_COLOURS = {"exit": "#63c2cd", "finish": "#0b7285", "offload": "#e6a23c"}
MIX_NAMES = {
    "exit": "exit: the device, at an early exit",
    "finish": "finish: the device, after its whole network",
    "offload": "offload: the cloud",
}
LINK_COLOURS = {"up": "#5f3dc4", "down": "#d6336c"}
_DASHES = ("-", "--", ":", "-.")
_INK, _SOFT = "#1f2328", "#57606a"

_STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1f2328;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin:2.4rem 0 .2rem}p{margin:.3rem 0}
p.lead,p.see{color:#57606a}p.see{font-size:.93rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(12rem,1fr));gap:.7rem;margin:1.2rem 0}
.tile{border:1px solid #d0d7de;border-radius:8px;padding:.6rem .8rem}.tile b{display:block;font-size:1.45rem}
.tile span{color:#57606a;font-size:.85rem}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;border-bottom:1px solid #d8dee4;text-align:right}
th:first-child,td:first-child{text-align:left}td.ours{font-weight:600;color:#0b7285}
figure{margin:.6rem 0}figure svg{display:block;width:100%;height:auto}svg text{font-family:inherit!important}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.4rem;font-size:.9rem;margin:.4rem 0 0}
.legend svg{width:1.6rem;height:.7rem;margin-right:.4rem}
footer{color:#57606a;font-size:.8rem;margin-top:2.4rem;overflow-wrap:anywhere}
"""


def write_report(result: DemoResult, path: Path) -> None:
    """Write the report; it needs nothing from the network."""
    summary = result.document["summary"]
    gain = summary["littoral_accuracy"] - summary["frozen_accuracy"]
    tiles = [
        (f"{summary['littoral_accuracy']:.1f} %", "right under drift, Littoral"),
        (f"{summary['frozen_accuracy']:.1f} %", "right under drift, frozen twin"),
        (f"{summary['teacher_accuracy']:.1f} %", "right under drift, teacher on every frame"),
        (f"{100 * summary['upload_ratio']:.0f} %", f"of {summary['frames']} frames were sent for adaptation"),
        (f"{summary['uplink_bytes'] / 1e3:.0f} kB", "up, counted at the devices' sockets"),
        (f"{summary['downlink_bytes'] / 1e3:.0f} kB", "down"),
        (f"{summary['exit_share']:.0f} %", "of the answers left at an early exit"),
        (f"{summary['offload_share']:.0f} %", "of the answers came from the cloud" + _by_pictures(summary)),
        (f"{summary['latency_ms']:.0f} ms", "from a frame's coming to its answer, mean"),
        (str(summary["unanswered"]), f"frames without an answer; {summary['degraded']} answers are degraded"),
        (str(summary["versions_installed"]), f"installs of new versions on {len(result.tracks)} devices"),
        (str(summary["versions_rejected"]), "versions that a device rejected"),
    ]
    answers = _legend([(NAMES[who], COLOURS[who], "-") for who in COLOURS])
    body = f"""<h1>The loop, on drifting digits</h1>
<p class="lead">{len(result.tracks)} devices ran a small network while the world before the camera changed. Each sent
the frames it was unsure of; the cloud's teacher learned from them and sent small corrections back. For each frame a
router chose who answers: the device at an early exit, the device after its whole network, or the cloud. No label left
the scorer. Under drift that made {gain:+.0f} points against a twin that was left alone.</p>
<p class="lead">{html.escape(_played_words(result))}</p>
<div class="tiles">{"".join(f'<div class="tile"><b>{b}</b><span>{t}</span></div>' for b, t in tiles)}</div>
<h2>Right answers over time</h2>{answers}
{_figure_html(_over_time(result), _over_time_words(result))}
<h2>Who answered, over time</h2>{_mix_legend()}
{_figure_html(_mix(result), _mix_words(result))}{_mix_table(result)}
<h2>By phase</h2>{_table(result)}{answers}
{_figure_html(_by_phase(result), _by_phase_words(result))}
<h2>What crossed the link</h2>{_link_legend(result)}
{_figure_html(_bytes(result), _bytes_words(result))}
<footer>{_provenance(result)}</footer>"""
    head = f'<meta name="viewport" content="width=device-width"><title>Littoral demo</title><style>{_STYLE}</style>'
    path.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8">{head}{body}</html>\n', encoding="utf-8")


# -- words -------------------------------------------------------------------------------------------------------------


def _over_time_words(result: DemoResult) -> str:
    return (
        f"Percent right of the last {WINDOW} frames, mean of the devices; the window starts anew with each phase. "
        "A tick below the plot: the device put a new version into service. See how far the grey line falls "
        "where the world changes, how fast the teal one recovers, and whether the two meet again once the world is "
        "clean again: what was learned for the drift should then not be in the way."
    )


def _played_words(result: DemoResult) -> str:
    config = result.config
    link = (
        f"Between devices and cloud lay an emulated link with a round trip of {config.round_trip_ms:g} ms at "
        f"{config.bits_per_second / 1e6:g} Mbit/s"
    )
    if config.device_macs_per_ms is None:
        return link + "."
    pace = config.device_macs_per_ms / 1e6
    return link + f", and the devices slept to be as slow as a board that does {pace:g} GMAC a second."


def _mix_words(result: DemoResult) -> str:
    summary = result.document["summary"]
    words = (
        f"Shares of the last {WINDOW} frames of each device. Where the world changes, the router trusts the device "
        "less and asks the cloud; as corrections come in, the device answers by itself again. Exits are off in a new "
        "world until they are certified in it, which takes some two hundred frames, and less in one that is known. For "
        "answers of its own a "
        f"device did {summary['work_share']:.0f} % of the work of the network without exits; a frame that finishes "
        "pays for the exits on its way."
    )
    if "outage_frames" in summary:
        away = "was dead" if result.config.kill_cloud else "stood still"
        words += (
            f" Between the dashed lines the cloud {away} for {summary['outage_seconds']:.1f} s: of "
            f"{summary['outage_frames']} frames {summary['outage_unanswered']} were not answered, "
            f"{summary['outage_degraded']} answers said that they were degraded (red ticks), and "
            f"{summary['outage_accuracy']:.1f} % were right."
        )
    return words


def _by_phase_words(result: DemoResult) -> str:
    rows = [row for index, row in enumerate(result.document["rows"]) if index in DRIFT_PHASES]
    widest = max(rows, key=lambda row: row["littoral_accuracy"] - row["frozen_accuracy"])
    hardest = max(rows, key=lambda row: row["teacher_accuracy"] - row["littoral_accuracy"])
    return (
        f"Adaptation matters most for {widest['phase']}: {widest['littoral_accuracy']:.1f} % against "
        f"{widest['frozen_accuracy']:.1f} %. Most is left to gain for {hardest['phase']}, where the teacher, seeing "
        f"every frame, has {hardest['teacher_accuracy']:.1f} % and Littoral {hardest['littoral_accuracy']:.1f} %."
    )


def _bytes_words(result: DemoResult) -> str:
    summary = result.document["summary"]
    raw = sum(track.stream.frames.nbytes for track in result.tracks)
    return (
        "Bytes at each device's socket since the start: samples, offloads, versions and all overhead. Where the line "
        "up is steeper, more of what the device saw was new and unsure to it. The devices sent "
        f"{summary['uplink_bytes'] / 1e3:.0f} kB; their frames, raw, are {raw / 1e3:.0f} kB."
    )


def _provenance(result: DemoResult) -> str:
    document = result.document
    machine = document["machine"]
    where = (
        f"{machine.get('processor', 'unknown')}, {machine.get('cores', '?')} cores, "
        f"{machine.get('memory_gib', '?')} GiB, {machine.get('system', 'unknown')}"
    )
    packages = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return html.escape(f"Seed {result.config.seed}; commit {document['commit']}; {where}; {packages}")


def _table(result: DemoResult) -> str:
    heads = "".join(f"<th>{head}</th>" for head in ("phase", "frames", *(f"{NAMES[who]}, %" for who in COLOURS)))
    lines = []
    for row in result.document["rows"]:
        cells = "".join(
            f'<td class="{"ours" if who == "littoral" else "other"}">{row[f"{who}_accuracy"]:.1f}</td>'
            for who in COLOURS
        )
        lines.append(f"<tr><td>{html.escape(row['phase'])}</td><td>{row['frames']}</td>{cells}</tr>")
    return f"<table><tr>{heads}</tr>{''.join(lines)}</table>"


def _by_pictures(summary: dict[str, Any]) -> str:
    share = summary.get("picture_share", 0.0)
    return f", {share:.0f} % by way of a picture" if share else ""


def _mix_table(result: DemoResult) -> str:
    heads = (
        *("phase", *(f"{name}, %" for name in WAYS), "degraded"),
        *("ms, mean", "bytes up a frame", "work, %"),
    )
    lines = []
    summary = result.document["summary"]
    for name, row in (*((row["phase"], row) for row in result.document["rows"]), ("all", summary)):
        cells = [
            *(f"{row[f'{way}_share']:.1f}" for way in WAYS),
            str(row["degraded"]),
            f"{row['latency_ms']:.1f}",
            f"{row['uplink_bytes_per_frame']:.0f}",
            f"{row['work_share']:.0f}",
        ]
        lines.append(f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(lines)}</table>"


def _mix_legend() -> str:
    return _legend([(MIX_NAMES[name], MIX_COLOURS[name], "-") for name in WAYS])


def _legend(entries: Sequence[tuple[str, str, str]]) -> str:
    """Names with their colours, above a plot and not in it; a dash is one of matplotlib's."""
    arrays = {"-": "none", "--": "6 4", ":": "2 3", "-.": "6 3 2 3"}
    items = "".join(
        f'<span><svg viewBox="0 0 26 10"><line x1="0" x2="26" y1="5" y2="5" stroke="{colour}" stroke-width="4" '
        f'stroke-dasharray="{arrays[dash]}"/></svg>{html.escape(name)}</span>'
        for name, colour, dash in entries
    )
    return f'<div class="legend">{items}</div>'


def _link_legend(result: DemoResult) -> str:
    return _legend(
        [
            (f"{track.name} {way}", colour, _DASHES[number % len(_DASHES)])
            for way, colour in LINK_COLOURS.items()
            for number, track in enumerate(result.tracks)
        ]
    )


# -- plots -------------------------------------------------------------------------------------------------------------


def rolling_percent(right: NDArray[np.float64], per_phase: int) -> NDArray[np.float64]:
    """Percent right of the last `WINDOW` frames of the same phase; NaN until a fifth of a window is there.

    Args:
        right: ``(N,)``, the share of devices that were right on each frame.
    """
    rolled = np.full(len(right), np.nan)
    for begin in range(0, len(right), per_phase):
        part = right[begin : begin + per_phase]
        ends = np.arange(min(WINDOW, len(part)) // 5, len(part)) + 1
        starts = np.maximum(ends - WINDOW, 0)
        summed = np.cumsum(np.concatenate([[0.0], part]))
        rolled[begin + ends - 1] = 100 * (summed[ends] - summed[starts]) / (ends - starts)
    return rolled


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c6ccd2")
    axes.tick_params(colors=_SOFT)
    axes.xaxis.label.set_color(_SOFT)
    axes.yaxis.label.set_color(_SOFT)
    axes.grid(axis="y", color="#e6e8eb")
    axes.set_axisbelow(True)


def _phases(axes: Axes, per_phase: int, *, named: bool = True, shaded: bool = True) -> None:
    """Shade every second phase, or part them by lines, and name them above the plot."""
    for index, (name, _) in enumerate(PHASES):
        if index and not shaded:
            axes.axvline(index * per_phase, color="#ffffff", linewidth=1.2)
        if index % 2 and shaded:
            axes.axvspan(index * per_phase, (index + 1) * per_phase, color="#f1f4f6", linewidth=0, zorder=0)
        if named:
            above = axes.get_xaxis_transform()
            axes.text((index + 0.5) * per_phase, 1.02, name, transform=above, ha="center", va="bottom", color=_INK)
    axes.set_xlim(0, len(PHASES) * per_phase)


def _over_time(result: DemoResult) -> Figure:
    figure = Figure(figsize=(9.5, 4.1), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[8, 0.5 + 0.5 * len(result.tracks)])
    tracks, per_phase = result.tracks, result.config.frames_per_phase
    answers = {
        "teacher": list(result.teacher),
        "frozen": [track.frozen for track in tracks],
        "littoral": [track.answers for track in tracks],
    }
    for who, given in answers.items():
        right = np.mean([a == t.stream.labels for a, t in zip(given, tracks, strict=True)], axis=0)
        axes.plot(rolling_percent(right, per_phase), color=COLOURS[who], linewidth=2.4 if who == "littoral" else 1.5)
    for number, track in enumerate(tracks):
        swaps = np.flatnonzero(np.diff(track.versions) > 0) + 1
        below.plot(swaps, np.full(len(swaps), -number), "|", color=COLOURS["littoral"], markersize=8)
    for part in (axes, below):
        _style(part)
        _phases(part, per_phase, named=part is axes)
    axes.set_ylim(0, 103)
    axes.set_ylabel("right, %")
    below.grid(visible=False)
    below.set_ylim(0.6 - len(tracks), 0.6)
    names = [track.name for track in tracks]
    below.set_yticks([-number for number in range(len(tracks))], names, fontsize=8, parse_math=False)
    below.tick_params(axis="y", length=0)
    below.set_xlabel("frames that each device has seen")
    return figure


def _mix(result: DemoResult) -> Figure:
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[8, 0.7])
    tracks = result.tracks
    ends, percent = rolling_shares(np.stack([track.ways for track in tracks]), WINDOW)
    axes.stackplot(ends, percent, colors=[MIX_COLOURS[name] for name in WAYS], linewidth=0)
    degraded = np.flatnonzero(np.any([t.degraded & (t.ways != UNANSWERED) for t in tracks], axis=0))
    below.plot(degraded, np.zeros(len(degraded)), "|", color=LINK_COLOURS["down"], markersize=8, alpha=0.5)
    if result.outage is not None:
        for at in (min(begin for begin, _ in result.outage.frames), max(end for _, end in result.outage.frames)):
            axes.axvline(at, color=_INK, linewidth=1.2, linestyle="--")
    for part in (axes, below):
        _style(part)
        part.grid(visible=False)
    _phases(axes, result.config.frames_per_phase, shaded=False)
    axes.set_ylim(0, 100)
    axes.set_ylabel("answers, %")
    below.set_yticks([0], ["degraded"], fontsize=8)
    below.tick_params(axis="y", length=0)
    below.set_xlabel("frames that each device has seen")
    return figure


def _by_phase(result: DemoResult) -> Figure:
    figure = Figure(figsize=(9.5, 2.9), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    rows = result.document["rows"]
    for index, who in enumerate(COLOURS):
        heights = [row[f"{who}_accuracy"] for row in rows]
        bars = axes.bar(np.arange(len(rows)) + (index - 1) * 0.27, heights, 0.25, color=COLOURS[who])
        axes.bar_label(bars, fmt="%.0f", padding=1, fontsize=8, color=_SOFT)
    axes.set_xticks(range(len(rows)), [row["phase"] for row in rows], color=_INK)
    axes.set_ylim(0, 108)
    axes.set_ylabel("right, %")
    axes.set_xlabel("phase of the stream")
    return figure


def _bytes(result: DemoResult) -> Figure:
    figure = Figure(figsize=(9.5, 2.9), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    for column, (_, colour) in enumerate(LINK_COLOURS.items(), start=2):
        for number, track in enumerate(result.tracks):
            history = np.array([(0, 0, 0, 0), *track.history])
            dash = _DASHES[number % len(_DASHES)]
            axes.plot(history[:, 0], history[:, column] / 1e3, color=colour, linestyle=dash, linewidth=1.8)
    _phases(axes, result.config.frames_per_phase)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("kB since the start")
    axes.set_xlabel("frames that each device has seen")
    return figure


def _figure_html(figure: Figure, words: str) -> str:
    return f'<figure>{_svg(figure)}<figcaption><p class="see">{html.escape(words)}</p></figcaption></figure>'


def _svg(figure: Figure) -> str:
    """The figure as inline SVG, the same bytes for the same data; its text is text, in the page's font."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "littoral", "svg.fonttype": "none", "font.size": 10}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
