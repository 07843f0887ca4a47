"""``littoral bench``: the tables, each with a JSON document as its last line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from littoral.cli.ranges import number, whole, wholes

if TYPE_CHECKING:
    from littoral.bench.table import UnitTable

Subparsers = argparse._SubParsersAction
_RESUMABLE: Mapping[str, Mapping[str, str]] = {
    "adapt": {
        "help": "our adaptation and others' on CIFAR-10 under corruption",
        "quick": "three shifts of 300 frames, one seed: a few minutes",
        "work": "folder for bundles and corrupted frames",
        "only": "[TABLE/]METHOD/STREAM",
    },
    "split": {
        "help": "bytes against accuracy of our splits and of others' on CIFAR-10",
        "quick": "everything once, hardly trained: a few minutes",
        "work": "folder for trainings and bundles",
        "only": "[KIND/]METHOD/VARIANT",
    },
    "exits": {
        "help": "early exits that follow their users, on CIFAR-10",
        "quick": "everything once, of digits: under three minutes",
        "work": "folder for trained exits and users' features",
        "only": "NETWORK/KIND[/...]",
    },
    "loop": {
        "help": "exit, finish or offload: the router and others' policies on emulated links",
        "quick": "everything once, hardly trained: under three minutes",
        "work": "folder for trainings and what the networks answer",
        "only": "KIND/TRACE[/...]",
    },
}


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("bench", help="measure, and print a table and one JSON line")
    tables = parser.add_subparsers(dest="table", required=True, metavar="TABLE")
    demo = tables.add_parser("demo", help="the demo on several seeds: accuracy, uploads, bytes")
    demo.add_argument("--seeds", type=wholes(0), default="1,2,3", help="seeds, by commas")
    demo.add_argument("--frames", type=whole(1), default=1200, help="frames per phase and device")
    demo.add_argument("--fps", type=number(above=True), default=50.0, help="frames a second that each device gets")
    runtime = tables.add_parser("runtime", help="what the device adds to a bare ONNX Runtime session; swaps; memory")
    runtime.add_argument("--quick", action="store_true", help="fewer rounds and swaps")
    resumable = {name: _add_resumable(tables, name, words) for name, words in _RESUMABLE.items()}
    for name, least, trained in (
        ("split", 2, "the full table's long trainings (default: 20)"),
        ("loop", 1, "the full table's splits (default: 20)"),
    ):
        resumable[name].add_argument("--epochs", type=whole(least), help=f"epochs of {trained}; not with --quick")
    loop = resumable["loop"]
    loop.add_argument(
        "--trace",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="also play this link, a CSV file; repeatable",
    )
    loop.add_argument(
        "--device-ms",
        type=number(above=True),
        help="milliseconds that the device's whole network takes: its speed (default: 8)",
    )
    loop.add_argument(
        "--exits",
        type=Path,
        help="where 'bench exits' keeps its units (default: where it does by default; with --rows: exits beside ROWS)",
    )
    for table in (demo, runtime, *resumable.values()):
        table.add_argument("--out", type=Path, help="also write the document to this file")
        table.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure the table."""
    if args.table == "demo":
        from littoral.bench.demo import bench_demo

        bench_demo(args.seeds, frames_per_phase=args.frames, frames_per_second=args.fps, out=args.out, quiet=args.json)
        return 0
    if args.table == "runtime":
        from littoral.bench.runtime import bench_runtime

        bench_runtime(quick=args.quick, out=args.out, quiet=args.json)
        return 0
    if problem := _cannot_be(args):
        print(f"littoral bench {args.table}: {problem}", file=sys.stderr)
        return 2
    from littoral.bench.rows import TableRequest

    document = _table(args).run(TableRequest(**_request(args)))
    return 1 if document.get("config", {}).get("failed") else 0


def _cannot_be(args: argparse.Namespace) -> str | None:
    """What is wrong with these options together; None if nothing is."""
    if args.list and args.out is not None:
        return "--list makes no document, so there is nothing to write to --out; leave out one of them"
    if args.list and args.budget_minutes is not None:
        return "--list makes no unit, so there is nothing to end after --budget-minutes; leave out one of them"
    if args.quick and getattr(args, "epochs", None) is not None:
        return "--quick has epochs of its own; leave out one of --quick and --epochs"
    return None


def _table(args: argparse.Namespace) -> UnitTable[Any]:
    """The resumable table that was named; each brings the imports of its own."""
    if args.table == "adapt":
        from littoral.bench.adapt.table import AdaptTable

        return AdaptTable()
    if args.table == "exits":
        from littoral.bench.exits.table import ExitTable

        return ExitTable()
    if args.table == "split":
        from littoral.bench.split.table import SplitTable

        return SplitTable(epochs=args.epochs)
    from littoral.bench.routing.table import LoopTable

    speed = {} if args.device_ms is None else {"device_ms": args.device_ms}
    return LoopTable(**speed, epochs=args.epochs, traces=tuple(args.trace), exits=args.exits)


def _add_resumable(
    tables: Subparsers[argparse.ArgumentParser], name: str, words: Mapping[str, str]
) -> argparse.ArgumentParser:
    """A table that is made unit by unit, with the options that all of these have."""
    table = tables.add_parser(name, help=f"{words['help']}; resumable")
    table.add_argument("--quick", action="store_true", help=words["quick"])
    table.add_argument(
        "--data", type=Path, help="the folder with cifar10/ and weights/ (default: the variable LITTORAL_DATA)"
    )
    table.add_argument("--work", type=Path, default=Path(f"build/bench-{name}"), help=words["work"])
    table.add_argument("--rows", type=Path, help="where finished units are kept (default: WORK/rows)")
    table.add_argument(
        "--only", action="append", default=[], metavar=words["only"], help="only these units; a glob; repeatable"
    )
    table.add_argument("--jobs", type=whole(1), help="units at a time (default: one for each core)")
    table.add_argument(
        "--budget-minutes", type=number(), help="begin no unit after so many minutes; finish those that run"
    )
    table.add_argument(
        "--any-code", action="store_true", help="count units that other code made, too; each row says its commit"
    )
    table.add_argument(
        "--list", action="store_true", help="show which units are there, and how long the others will take"
    )
    return table


def _request(args: argparse.Namespace) -> dict[str, Any]:
    """What `littoral.bench.rows.TableRequest` takes."""
    return {
        "data": _data(args),
        "work": args.work,
        "rows": args.rows,
        "quick": args.quick,
        "only": tuple(args.only),
        "jobs": args.jobs,
        "budget_minutes": args.budget_minutes,
        "list_only": args.list,
        "any_code": args.any_code,
        "out": args.out,
        "quiet": args.json,
    }


def _data(args: argparse.Namespace) -> Path | None:
    from_environment = os.environ.get("LITTORAL_DATA")
    return args.data or (Path(from_environment) if from_environment else None)
