"""The demo's report: one HTML file with its plots inside, to be looked at in a browser."""

from __future__ import annotations

import html
import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from littoral.bench.loop import LoopResult
from littoral.bench.streams import PHASES

WINDOW = 150
COLOURS = {"frozen": "#8a8f98", "littoral": "#0b7285", "teacher": "#c2790b"}
NAMES = {"frozen": "frozen twin", "littoral": "Littoral", "teacher": "teacher on every frame"}

_STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1f2328;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem}p.lead{color:#57606a;margin-top:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.7rem;margin:1.2rem 0}
.tile{border:1px solid #d0d7de;border-radius:8px;padding:.6rem .8rem}.tile b{display:block;font-size:1.45rem}
.tile span{color:#57606a;font-size:.85rem}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;border-bottom:1px solid #d8dee4;text-align:right}
th:first-child,td:first-child{text-align:left}td.best{font-weight:600;color:#0b7285}svg{width:100%;height:auto}
footer{color:#57606a;font-size:.8rem;margin-top:2rem}
"""


def write_report(result: LoopResult, path: Path) -> None:
    """Write the report; it needs nothing from the network."""
    summary = result.document["summary"]
    gain = summary["littoral_accuracy"] - summary["frozen_accuracy"]
    tiles = [
        (f"{summary['littoral_accuracy']:.1f} %", "right under drift, Littoral"),
        (f"{summary['frozen_accuracy']:.1f} %", "right under drift, frozen twin"),
        (f"{summary['teacher_accuracy']:.1f} %", "teacher on every frame"),
        (f"{summary['upload_ratio']:.0%}", "of the frames were sent"),
        (f"{summary['uplink_bytes'] / 1e3:.0f} kB", "up, counted at the socket"),
        (f"{summary['downlink_bytes'] / 1e3:.0f} kB", "down"),
        (str(summary["versions_installed"]), "versions installed"),
        (str(summary["versions_rejected"]), "rejected"),
    ]
    body = f"""<h1>The loop, on drifting digits</h1>
<p class="lead">Two devices ran a small network while the world changed around them. Right under drift: {gain:+.1f}
points against a twin that was left alone. Seed {result.config.seed}.</p>
<div class="tiles">{"".join(f'<div class="tile"><b>{b}</b><span>{t}</span></div>' for b, t in tiles)}</div>
<h2>Right answers over time</h2>
<p class="lead">Mean of the devices over {WINDOW} frames. Ticks below: a new version went into service.</p>
{_svg(_over_time(result))}
<h2>By phase</h2>{_table(result)}{_svg(_by_phase(result))}
<h2>What crossed the link</h2>
<p class="lead">Bytes at the devices' sockets since the start, samples and overheads alike.</p>
{_svg(_bytes(result))}
<footer>commit {html.escape(result.document["commit"])}; {html.escape(str(result.document["machine"]))}</footer>"""
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Littoral demo</title><style>{_STYLE}</style>'
    path.write_text(page + body, encoding="utf-8")


def _rolling(right: NDArray[np.float64]) -> NDArray[np.float64]:
    window = min(WINDOW, len(right))
    summed = np.cumsum(np.concatenate([[0.0], right]))
    ends = np.arange(1, len(right) + 1)
    starts = np.maximum(ends - window, 0)
    rolled: NDArray[np.float64] = 100 * (summed[ends] - summed[starts]) / (ends - starts)
    return rolled


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.5, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb")
    axes.set_axisbelow(True)
    return figure, axes


def _shade(axes: Axes, per_phase: int) -> None:
    for index, (name, _) in enumerate(PHASES):
        if index % 2:
            axes.axvspan(index * per_phase, (index + 1) * per_phase, color="#f3f5f7", zorder=0)
        axes.text((index + 0.5) * per_phase, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom")
    axes.set_xlim(0, len(PHASES) * per_phase)
    axes.set_xlabel("frames per device")


def _over_time(result: LoopResult) -> Figure:
    figure, axes = _figure(3.6)
    tracks = result.tracks
    answers = {
        "teacher": list(result.teacher),
        "frozen": [track.frozen for track in tracks],
        "littoral": [track.answers for track in tracks],
    }
    for who, given in answers.items():
        right = np.mean([a == t.stream.labels for a, t in zip(given, tracks, strict=True)], axis=0)
        axes.plot(_rolling(right), color=COLOURS[who], label=NAMES[who], linewidth=2.2 if who == "littoral" else 1.4)
    swaps = np.flatnonzero(np.diff(tracks[0].versions) > 0)
    axes.plot(swaps, np.full(len(swaps), -3.0), "|", color=COLOURS["littoral"], markersize=7)
    _shade(axes, result.config.frames_per_phase)
    axes.set_ylim(-6, 102)
    axes.set_ylabel("right, %")
    axes.legend(loc="lower right", frameon=False, ncols=3)
    return figure


def _by_phase(result: LoopResult) -> Figure:
    figure, axes = _figure(2.6)
    rows = result.document["rows"]
    for index, who in enumerate(("frozen", "littoral", "teacher")):
        heights = [row[f"{who}_accuracy"] for row in rows]
        axes.bar(np.arange(len(rows)) + (index - 1) * 0.27, heights, 0.25, color=COLOURS[who], label=NAMES[who])
    axes.set_xticks(range(len(rows)), [row["phase"] for row in rows])
    axes.set_ylim(0, 102)
    axes.set_ylabel("right, %")
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, ncols=3)
    return figure


def _bytes(result: LoopResult) -> Figure:
    figure, axes = _figure(2.6)
    for index, (name, column) in enumerate((("up", 2), ("down", 3))):
        for number, track in enumerate(result.tracks):
            history = np.array(track.history or [(0, 0, 0, 0)])
            colour, alpha = list(COLOURS.values())[1 + index], 1.0 if number == 0 else 0.5
            axes.plot(history[:, 0], history[:, column] / 1e3, label=f"{track.name} {name}", color=colour, alpha=alpha)
    _shade(axes, result.config.frames_per_phase)
    axes.set_ylabel("kB")
    axes.legend(loc="upper left", frameon=False, ncols=2)
    return figure


def _table(result: LoopResult) -> str:
    heads = "".join(f"<th>{head}</th>" for head in ("phase", "frames", *(NAMES[who] for who in COLOURS)))
    lines = []
    for row in result.document["rows"]:
        cells = "".join(
            f'<td class="{"best" if who == "littoral" else ""}">{row[f"{who}_accuracy"]:.1f}</td>' for who in COLOURS
        )
        lines.append(f"<tr><td>{html.escape(row['phase'])}</td><td>{row['frames']}</td>{cells}</tr>")
    return f"<table><tr>{heads}</tr>{''.join(lines)}</table>"


def _svg(figure: Figure) -> str:
    """The figure as inline SVG, the same bytes for the same data."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "littoral", "svg.fonttype": "none", "font.size": 10}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
