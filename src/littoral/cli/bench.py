"""``littoral bench``: the tables, each with a JSON document as its last line."""

from __future__ import annotations

import argparse
from pathlib import Path

Subparsers = argparse._SubParsersAction


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("bench", help="measure, and print a table and one JSON line")
    tables = parser.add_subparsers(dest="table", required=True, metavar="TABLE")
    loop = tables.add_parser("loop", help="the demo on several seeds: accuracy, uploads, bytes")
    loop.add_argument("--seeds", default="1,2,3", help="by commas")
    loop.add_argument("--frames", type=int, default=1200, help="frames per phase and device")
    loop.add_argument("--fps", type=float, default=50.0, help="frames a second that each device gets")
    runtime = tables.add_parser("runtime", help="what the device adds to a bare ONNX Runtime session; swaps; memory")
    runtime.add_argument("--quick", action="store_true", help="fewer rounds and swaps")
    for table in (loop, runtime):
        table.add_argument("--out", type=Path, help="also write the document to this file")
        table.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure the table."""
    if args.table == "loop":
        from littoral.bench.demo import bench_loop

        seeds = [int(seed) for seed in args.seeds.split(",")]
        bench_loop(seeds, frames_per_phase=args.frames, frames_per_second=args.fps, out=args.out, quiet=args.json)
        return 0
    from littoral.bench.runtime import bench_runtime

    bench_runtime(quick=args.quick, out=args.out, quiet=args.json)
    return 0
