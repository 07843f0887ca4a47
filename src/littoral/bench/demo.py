"""`littoral demo` and `littoral bench demo`: run the loop, show it, write the report, print the document."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from littoral.bench.document import make_document, write_document
from littoral.bench.live import LiveView
from littoral.bench.mix import WAYS
from littoral.bench.play import DemoConfig, DemoResult, play_demo
from littoral.bench.report import write_report
from littoral.errors import LittoralError

_OURS = ("bundle", "bundle.tar", "cloud", "cloud.log", "report.html", "result.json")
_WHO = ("frozen", "littoral", "teacher")
_WORST = ("unanswered", "late", "outage_unanswered", "outage_latency_ms_max")
"""Of several seeds, not the mean but the worst."""


def run_demo(config: DemoConfig, out: Path, *, quiet: bool = False) -> dict[str, Any]:
    """The demo: one seed, a live view, a table, ``report.html`` and ``result.json`` in ``out``, and the JSON line.

    Raises:
        LittoralError: ``out`` holds something that is not an earlier demo's.
    """
    _clear(out)
    torch.set_num_threads(1)
    with LiveView(quiet=quiet) as live:
        result = play_demo(config, out, say=live.say, view=live.show, step=live.step)
    write_report(result, out / "report.html")
    write_document(result.document, out / "result.json")
    if not quiet:
        print()
        _print_table(result.document)
        print(f"report: {out / 'report.html'}")
    print(json.dumps(result.document))
    return result.document


def bench_demo(
    seeds: Sequence[int], *, frames_per_phase: int, frames_per_second: float, out: Path | None, quiet: bool
) -> dict[str, Any]:
    """The demo on several seeds; one document with every row, and means and extremes in the summary."""
    torch.set_num_threads(1)
    base = DemoConfig(frames_per_phase=frames_per_phase, frames_per_second=frames_per_second)
    results: list[DemoResult] = []
    with tempfile.TemporaryDirectory() as folder, LiveView(quiet=quiet) as live:
        for seed in seeds:
            live.say(f"seed {seed}")
            where = Path(folder) / str(seed)
            results.append(play_demo(replace(base, seed=seed), where, say=live.say, view=live.show, step=live.step))
    document = make_document(
        table="demo",
        config={key: value for key, value in results[0].document["config"].items() if key != "seed"},
        seeds=seeds,
        rows=[row for result in results for row in result.document["rows"]],
        summary=_summary([result.document["summary"] for result in results]),
    )
    if out is not None:
        write_document(document, out)
    if not quiet:
        _print_table(document)
    print(json.dumps(document))
    return document


def _summary(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and the worst seed of what is promised."""
    merged = {key: round(statistics.fmean(s[key] for s in summaries), 4) for key in summaries[0]}
    merged |= {key: max(s[key] for s in summaries) for key in _WORST if key in merged}
    merged["littoral_minus_frozen_worst_seed"] = _worst(summaries, "littoral_accuracy", "frozen_accuracy")
    merged["littoral_minus_teacher_worst_seed"] = _worst(summaries, "littoral_accuracy", "teacher_accuracy")
    merged["return_minus_source_worst_seed"] = _worst(summaries, "littoral_return_accuracy", "frozen_return_accuracy")
    return merged


def _worst(summaries: Sequence[dict[str, Any]], ours: str, other: str) -> float:
    return round(float(min(s[ours] - s[other] for s in summaries)), 2)


def _clear(out: Path) -> None:
    """Remove an earlier demo's files, and nothing else."""
    if not out.exists():
        return
    names = {path.name for path in out.iterdir()}
    if strange := sorted(name for name in names if name not in _OURS and not name.startswith("device-")):
        raise LittoralError(f"{out} holds {strange[:3]}, which no demo made; give another folder with --out")
    shutil.rmtree(out)


def _print_table(document: dict[str, Any]) -> None:
    several = len(document["seeds"]) > 1
    console = Console()
    table = _table("right answers, percent", several, ("frames", "frozen twin", "Littoral", "teacher"))
    mix = _table("who answered", several, ("exit", "finish", "offload", "degraded", "ms", "bytes up", "work"))
    for row in document["rows"]:
        first = [*([str(row["seed"])] if several else []), row["phase"]]
        table.add_row(*first, str(row["frames"]), *(f"{row[f'{who}_accuracy']:.1f}" for who in _WHO))
        mix.add_row(*first, *_mix_cells(row))
    summary = document["summary"]
    for each, name, cells in (
        (table, "mean under drift", ["", *(f"{summary[f'{who}_accuracy']:.1f}" for who in _WHO)]),
        (mix, "all", _mix_cells(summary)),
    ):
        each.add_section()
        each.add_row(*([""] if several else []), name, *cells, style="bold")
        console.print(each)
    for line in closing_lines(document):
        console.print(line, soft_wrap=not console.is_terminal, highlight=False)


def _table(title: str, several: bool, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in (*(["seed"] if several else []), "phase", *columns):
        table.add_column(column, justify="left" if column == "phase" else "right")
    return table


def _mix_cells(row: dict[str, Any]) -> list[str]:
    shares = [f"{row[f'{name}_share']:.0f} %" for name in WAYS]
    return [
        *shares,
        f"{row['degraded']:.0f}",
        f"{row['latency_ms']:.1f}",
        f"{row['uplink_bytes_per_frame']:.0f}",
        f"{row['work_share']:.0f} %",
    ]


def closing_lines(document: dict[str, Any]) -> list[str]:
    """What the tables do not say, in sentences."""
    summary, seeds, config = document["summary"], len(document["seeds"]), document["config"]
    gain = summary["littoral_accuracy"] - summary["frozen_accuracy"]
    pace = config["device_macs_per_ms"]
    lines = [
        "frozen twin: the same network left alone; teacher: the cloud's large one, adapted on every frame"
        + (f"; below, means of {seeds} seeds" if seeds > 1 else ""),
        f"Under drift Littoral is right on {summary['littoral_accuracy']:.1f} % of the frames, the frozen twin on "
        f"{summary['frozen_accuracy']:.1f} % ({gain:+.0f} points).",
        f"{100 * summary['upload_ratio']:.0f} % of {summary['frames']:.0f} frames were sent for adaptation: with the "
        f"offloads {summary['uplink_bytes'] / 1e3:.0f} kB up, {summary['downlink_bytes'] / 1e3:.0f} kB down; "
        f"the devices installed versions {summary['versions_installed']:.0f} times and rejected "
        f"{summary['versions_rejected']:.0f}.",
        "exit, finish: the device answered early, or after its whole network; offload: the cloud did. ms and bytes up "
        "are means of a frame (samples included); work is that of the device's own answers over the network without "
        "exits: what frames that finish pay for the exits on their way is in it, what runs behind answers is not.",
        f"Played: a link with a round trip of {config['round_trip_ms']:g} ms at {config['bits_per_second'] / 1e6:g} "
        "Mbit/s" + (f", and devices that sleep to be as slow as {pace / 1e6:g} GMAC/s." if pace is not None else "."),
    ]
    if summary.get("picture_share"):
        lines.append(
            f"{summary['picture_share']:.1f} % of the frames were offloaded as pictures of themselves, for the cloud's "
            "whole teacher; the other offloads are features."
        )
    if "outage_frames" in summary:
        away = "was dead" if config["kill_cloud"] else "stood still"
        lines.append(
            f"The cloud {away} for {summary['outage_seconds']:.1f} s: {summary['outage_frames']:.0f} frames came "
            f"meanwhile, {summary['outage_unanswered']:.0f} were not answered, {summary['outage_degraded']:.0f} "
            f"answers say that they are degraded, {summary['outage_accuracy']:.1f} % were right; the slowest took "
            f"{summary['outage_latency_ms_max']:.0f} ms of the {config['deadline_ms']:g} allowed."
        )
    return lines
