"""``littoral versions``: which versions a cloud has made, and back to one before."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from littoral.cli.ranges import whole

Subparsers = argparse._SubParsersAction


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("versions", help="list a cloud's versions; take a domain back to one before")
    parser.add_argument("--json", action="store_true", help="print JSON")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="the versions of all domains, oldest first")
    back = actions.add_parser("roll-back", help="while the cloud is stopped: take a domain back to a version before")
    back.add_argument("bundle", type=Path, help="the bundle that the cloud serves")
    back.add_argument("--domain", type=whole(0), required=True, help="whose devices go back, as 'versions list' shows")
    back.add_argument(
        "--to",
        type=whole(0),
        default=0,
        metavar="VERSION",
        help="one of the domain's older shipped versions; 0: the source's values",
    )
    back.add_argument("--reason", default="", help="kept in the record")
    for action in actions.choices.values():
        action.add_argument("--state", type=Path, required=True, help="the cloud's state folder")
        action.add_argument("--cohort", default="default", help="name of the cloud's cohort")
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    return {"list": _list, "roll-back": _roll_back}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from littoral.cloud.admin import list_versions

    fields = ("version", "domain", "base_version", "status", "reason", "payload_bytes", "num_samples", "created_at")
    rows = [
        {field: getattr(entry, field) for field in fields} for entry in list_versions(args.state, cohort=args.cohort)
    ]
    if args.json:
        print(json.dumps({"versions": rows}))
        return 0
    for row in rows:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created_at"]))
        print(f"{row['version']:>6}  domain {row['domain']:<5} {row['status']:<8} {when}  {row['reason']}")
    return 0


def _roll_back(args: argparse.Namespace) -> int:
    from littoral.cloud.admin import roll_back

    number = roll_back(args.bundle, args.state, args.domain, to=args.to, cohort=args.cohort, reason=args.reason)
    where = f"version {args.to}" if args.to else "the source's values"
    text = f"version {number} takes domain {args.domain} back to {where}; devices get it once the cloud runs again"
    told = {"version": number, "domain": args.domain, "to": args.to}
    print(json.dumps(told) if args.json else text)
    return 0
