"""``littoral demo``: the whole loop on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

Subparsers = argparse._SubParsersAction


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("demo", help="the whole loop on this machine: a cloud, two devices, a drifting stream")
    parser.add_argument("--seed", type=int, default=0, help="seed of training, stream and adaptation")
    parser.add_argument("--frames", type=int, default=1200, help="frames per phase and device")
    parser.add_argument("--fps", type=float, default=50.0, help="frames a second that each device gets")
    parser.add_argument(
        "--kill-cloud",
        action="store_true",
        help="kill -9 the cloud in the middle and start it again; without this it is only stopped for 5 s",
    )
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for report, bundle and state")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo, write the report, print the table and the JSON line."""
    from littoral.bench.demo import run_demo
    from littoral.bench.play import DemoConfig

    config = DemoConfig(
        seed=args.seed, frames_per_phase=args.frames, frames_per_second=args.fps, kill_cloud=args.kill_cloud
    )
    run_demo(config, args.out, quiet=args.json)
    return 0
