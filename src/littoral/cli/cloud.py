"""``littoral cloud``: serve a bundle's cloud side."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from littoral.cli.ranges import whole

if TYPE_CHECKING:
    from littoral.cloud.cloud import Cloud

Subparsers = argparse._SubParsersAction  # argparse has no public name for it


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("cloud", help="serve a bundle's cloud side: adapt, gate, sign, answer devices")
    parser.add_argument("bundle", type=Path, help="the bundle's directory, with its cloud part")
    parser.add_argument("--state", type=Path, required=True, help="folder for keys and record; made if missing")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=whole(0, 65_535), default=8600, help="port to listen on, 0 for any free one")
    parser.add_argument("--cohort", default="default", help="name of the cohort that this cloud serves")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where torch runs; auto: CUDA where torch has it",
    )
    parser.add_argument("--parity", action="store_true", help="adapt exactly as published, not as we recommend")
    parser.add_argument("--seed", type=int, default=0, help="seed of replay draws and of adaptation")
    parser.add_argument(
        "--tls-certificate", type=Path, help="PEM certificate chain; with --tls-key the port speaks TLS"
    )
    parser.add_argument("--tls-key", type=Path, help="PEM private key of the certificate")
    parser.add_argument("--new-token", action="store_true", help="print a one-time enrolment token at start")
    parser.add_argument(
        "--no-pictures",
        action="store_true",
        help="finish splits only: answer no pictures of whole frames, and load no second teacher for them",
    )
    parser.add_argument(
        "--release-key",
        type=Path,
        metavar="FILE",
        help="the release key that signed the bundle, as of 'build --key': copied into a new state folder (default: "
        "one is made for a bundle that nobody has signed)",
    )
    parser.add_argument(
        "--fleet-from",
        type=Path,
        metavar="FOLDER",
        help="for a fleet's new bundle: begin with the keys and the devices of this cloud's state folder",
    )
    parser.add_argument(
        "--first-version",
        type=int,
        default=1,
        metavar="NUMBER",
        help="number the next version so at least: after the record was restored from an older copy, as the log says",
    )
    parser.add_argument(
        "--max-record-bytes",
        type=int,
        metavar="BYTES",
        help="the most that the record may grow to; then devices keep what they would send (default: no limit)",
    )
    parser.add_argument(
        "--keep-images",
        action="store_true",
        help="keep samples' images for ever, also those that no job and no replay needs any more",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    if (args.tls_certificate is None) != (args.tls_key is None):
        print("littoral cloud: TLS needs both --tls-certificate and --tls-key", file=sys.stderr)
        return 2
    from dataclasses import replace

    from littoral.cloud.cloud import Cloud, CloudConfig
    from littoral.cloud.jobs import AdaptConfig
    from littoral.cloud.tails import TailConfig

    adapt = replace(AdaptConfig.parity() if args.parity else AdaptConfig(), seed=args.seed)
    config = CloudConfig(
        host=args.host,
        port=args.port,
        cohort=args.cohort,
        device=args.device,
        tls_certificate=args.tls_certificate,
        tls_key=args.tls_key,
        release_key=args.release_key,
        fleet_from=args.fleet_from,
        first_version=args.first_version,
        max_record_bytes=args.max_record_bytes,
        keep_images=args.keep_images,
        adapt=adapt,
        tails=TailConfig(pictures=not args.no_pictures),
    )
    cloud = Cloud(args.bundle, args.state, config)
    token = cloud.new_token() if args.new_token else None
    print(f"loading the networks of bundle {cloud.bundle.short_digest}", file=sys.stderr, flush=True)
    cloud.serve(ready=lambda: _tell(cloud, token, args))
    return 0


def _tell(cloud: Cloud, token: str | None, args: argparse.Namespace) -> None:
    manifest = cloud.bundle.manifest
    if args.json:
        told = {"url": cloud.url, "bundle": cloud.bundle.digest.hex(), "token": token, "adapts": manifest.adapts}
        print(json.dumps(told), flush=True)
        return
    print(f"cloud for bundle {cloud.bundle.short_digest} at {cloud.url} (dashboard there too); stop with Ctrl-C")
    print(f"token: {token}" if token else f"enrol devices: littoral enrol make --state {args.state}", flush=True)
    if not manifest.adapts:
        print(f"the bundle is for {manifest.task}: nothing is adapted, offloaded frames are answered", flush=True)
