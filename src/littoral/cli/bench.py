"""``littoral bench``: the tables, each with a JSON document as its last line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

Subparsers = argparse._SubParsersAction


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("bench", help="measure, and print a table and one JSON line")
    tables = parser.add_subparsers(dest="table", required=True, metavar="TABLE")
    demo = tables.add_parser("demo", help="the demo on several seeds: accuracy, uploads, bytes")
    demo.add_argument("--seeds", default="1,2,3", help="by commas")
    demo.add_argument("--frames", type=int, default=1200, help="frames per phase and device")
    demo.add_argument("--fps", type=float, default=50.0, help="frames a second that each device gets")
    runtime = tables.add_parser("runtime", help="what the device adds to a bare ONNX Runtime session; swaps; memory")
    runtime.add_argument("--quick", action="store_true", help="fewer rounds and swaps")
    adapt = tables.add_parser("adapt", help="our adaptation and others' on CIFAR-10 under corruption; resumable")
    adapt.add_argument("--quick", action="store_true", help="three shifts of 300 frames, one seed: a few minutes")
    adapt.add_argument("--data", type=Path, help="the folder with cifar10/ and weights/ (default: LITTORAL_DATA)")
    adapt.add_argument("--work", type=Path, default=Path("build/bench-adapt"), help="for bundles and frames")
    adapt.add_argument("--rows", type=Path, help="where finished rows are kept (default: WORK/rows)")
    adapt.add_argument("--only", action="append", default=[], metavar="[TABLE/]METHOD/STREAM", help="only these; globs")
    adapt.add_argument("--jobs", type=int, help="rows at a time (default: one for each core)")
    adapt.add_argument("--budget-minutes", type=float, help="begin no row after so many minutes")
    adapt.add_argument(
        "--list", action="store_true", help="show which rows are there, and how long the others will take"
    )
    split = tables.add_parser(
        "split", help="bytes against accuracy of our splits and of others' on CIFAR-10; resumable"
    )
    split.add_argument("--quick", action="store_true", help="everything once, hardly trained: a few minutes")
    split.add_argument("--data", type=Path, help="the folder with cifar10/ and weights/ (default: LITTORAL_DATA)")
    split.add_argument("--work", type=Path, default=Path("build/bench-split"), help="for trainings and bundles")
    split.add_argument("--rows", type=Path, help="where finished units are kept (default: WORK/rows)")
    split.add_argument("--epochs", type=int, help="of every training of the full table")
    split.add_argument("--only", action="append", default=[], metavar="[KIND/]METHOD/VARIANT", help="only these; globs")
    split.add_argument("--jobs", type=int, help="units at a time (default: one for each core)")
    split.add_argument("--budget-minutes", type=float, help="begin no unit after so many minutes")
    split.add_argument(
        "--list", action="store_true", help="show which units are there, and how long the others will take"
    )
    exits = tables.add_parser("exits", help="early exits that follow their users, on CIFAR-10; resumable")
    exits.add_argument("--quick", action="store_true", help="everything once, of digits: under three minutes")
    exits.add_argument("--data", type=Path, help="the folder with cifar10/ and weights/ (default: LITTORAL_DATA)")
    exits.add_argument("--work", type=Path, default=Path("build/bench-exits"), help="for trained exits and features")
    exits.add_argument("--rows", type=Path, help="where finished units are kept (default: WORK/rows)")
    exits.add_argument("--only", action="append", default=[], metavar="NETWORK/KIND[/...]", help="only these; globs")
    exits.add_argument("--jobs", type=int, help="units at a time (default: one for each core)")
    exits.add_argument("--budget-minutes", type=float, help="begin no unit after so many minutes")
    exits.add_argument(
        "--list", action="store_true", help="show which units are there, and how long the others will take"
    )
    loop = tables.add_parser(
        "loop", help="exit, finish or offload: the router and others' policies on emulated links; resumable"
    )
    loop.add_argument("--quick", action="store_true", help="everything once, hardly trained: under three minutes")
    loop.add_argument("--data", type=Path, help="the folder with cifar10/ and weights/ (default: LITTORAL_DATA)")
    loop.add_argument("--work", type=Path, default=Path("build/bench-loop"), help="for trainings and what they answer")
    loop.add_argument("--rows", type=Path, help="where finished units are kept (default: WORK/rows)")
    loop.add_argument("--trace", type=Path, action="append", default=[], metavar="FILE", help="also this link; CSV")
    loop.add_argument("--device-ms", type=float, help="what the device's whole network takes: its speed")
    loop.add_argument("--epochs", type=int, help="of the splits' trainings")
    loop.add_argument("--only", action="append", default=[], metavar="KIND/TRACE[/...]", help="only these; globs")
    loop.add_argument("--jobs", type=int, help="units at a time (default: one for each core)")
    loop.add_argument("--budget-minutes", type=float, help="begin no unit after so many minutes")
    loop.add_argument(
        "--list", action="store_true", help="show which units are there, and how long the others will take"
    )
    for table in (adapt, split, exits, loop):
        table.add_argument(
            "--any-code",
            action="store_true",
            help="take what other code made, too; each row says its commit",
        )
    for table in (demo, runtime, adapt, split, exits, loop):
        table.add_argument("--out", type=Path, help="also write the document to this file")
        table.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure the table."""
    if args.table == "demo":
        from littoral.bench.demo import bench_demo

        seeds = [int(seed) for seed in args.seeds.split(",")]
        bench_demo(seeds, frames_per_phase=args.frames, frames_per_second=args.fps, out=args.out, quiet=args.json)
        return 0
    if args.table == "adapt":
        return _adapt(args)
    if args.table == "split":
        return _split(args)
    if args.table == "exits":
        return _exits(args)
    if args.table == "loop":
        return _loop(args)
    from littoral.bench.runtime import bench_runtime

    bench_runtime(quick=args.quick, out=args.out, quiet=args.json)
    return 0


def _adapt(args: argparse.Namespace) -> int:
    from littoral.bench.adapt.table import bench_adapt
    from littoral.bench.rows import TableRequest

    bench_adapt(TableRequest(**_request(args)))
    return 0


def _split(args: argparse.Namespace) -> int:
    from littoral.bench.split.table import SplitBench, bench_split

    bench_split(SplitBench(**_request(args), epochs=args.epochs))
    return 0


def _exits(args: argparse.Namespace) -> int:
    from littoral.bench.exits.table import bench_exits
    from littoral.bench.rows import TableRequest

    bench_exits(TableRequest(**_request(args)))
    return 0


def _loop(args: argparse.Namespace) -> int:
    from littoral.bench.routing.table import LoopRequest, bench_loop

    speed = {} if args.device_ms is None else {"device_ms": args.device_ms}
    bench_loop(LoopRequest(**_request(args), **speed, epochs=args.epochs, traces=tuple(args.trace)))
    return 0


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
