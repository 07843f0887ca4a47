"""``littoral enrol``: make one-time tokens, redeem them, shut devices out, end their quarantine."""

from __future__ import annotations

import argparse
import json
import socket
from pathlib import Path

from littoral.cli.ranges import whole

Subparsers = argparse._SubParsersAction


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("enrol", help="make and redeem one-time device tokens; list and revoke devices")
    parser.add_argument("--json", action="store_true", help="print JSON")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="on the cloud's machine: make tokens, each for one device")
    make.add_argument("--state", type=Path, required=True, help="the cloud's state folder")
    make.add_argument("--count", type=whole(1), default=1, help="how many tokens")
    redeem = actions.add_parser("redeem", help="on the device: enrol with a token")
    redeem.add_argument("token", help="the token, lit1-...")
    redeem.add_argument("--cloud", required=True, help="the cloud's address, such as https://cloud.example:8600")
    redeem.add_argument("--state", type=Path, required=True, help="the device's state folder")
    redeem.add_argument("--ca-file", type=Path, help="PEM certificates to trust instead of the system's")
    redeem.add_argument("--name", default=socket.gethostname(), help="what people will call this device")
    listing = actions.add_parser("list", help="on the cloud's machine: the enrolled devices")
    listing.add_argument("--state", type=Path, required=True, help="the cloud's state folder")
    revoke = actions.add_parser("revoke", help="on the cloud's machine: shut a device out for good")
    revoke.add_argument("device_id", help="as 'enrol list' shows it")
    revoke.add_argument("--state", type=Path, required=True, help="the cloud's state folder")
    revoke.add_argument("--reason", default="", help="kept in the record")
    release = actions.add_parser("release", help="on the cloud's machine: end a device's quarantine")
    release.add_argument("device_id", help="as 'enrol list' shows it")
    release.add_argument("--state", type=Path, required=True, help="the cloud's state folder")
    release.add_argument("--reason", default="", help="kept in the record")
    for action in actions.choices.values():  # before or after the action: both are natural
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    return {"make": _make, "redeem": _redeem, "list": _list, "revoke": _revoke, "release": _release}[args.action](args)


def _make(args: argparse.Namespace) -> int:
    from littoral.cloud.admin import new_token

    tokens = [new_token(args.state) for _ in range(args.count)]
    print(json.dumps({"tokens": tokens}) if args.json else "\n".join(tokens))
    return 0


def _redeem(args: argparse.Namespace) -> int:
    from littoral.edge.identity import enrol

    identity = enrol(args.cloud, args.token, args.state, args.name, ca_file=args.ca_file)
    told = {"device_id": identity.device_id, "cohort": identity.cohort, "release_key": identity.release_key.fingerprint}
    text = f"enrolled as {identity.device_id} in cohort {identity.cohort!r}; trusts release key {told['release_key']}"
    print(json.dumps(told) if args.json else text)
    return 0


def _list(args: argparse.Namespace) -> int:
    from littoral.cloud.admin import list_devices

    devices = list_devices(args.state)
    rows = [
        {
            "device_id": d.id,
            "name": d.name,
            "cohort": d.cohort,
            "revoked": d.revoked_at is not None,
            "quarantined": d.quarantined_at is not None,
        }
        for d in devices
    ]
    if args.json:
        print(json.dumps({"devices": rows}))
        return 0
    for row in rows:
        state = "revoked" if row["revoked"] else "quarantined" if row["quarantined"] else ""
        print(f"{row['device_id']}  {row['cohort']:<12} {state:<12}{row['name']}")
    return 0


def _revoke(args: argparse.Namespace) -> int:
    from littoral.cloud.admin import revoke

    done = revoke(args.state, args.device_id, reason=args.reason)
    text = "revoked" if done else "was revoked before"
    print(json.dumps({"device_id": args.device_id, "revoked_now": done}) if args.json else f"{args.device_id} {text}")
    return 0


def _release(args: argparse.Namespace) -> int:
    from littoral.cloud.admin import release

    done = release(args.state, args.device_id, reason=args.reason)
    text = "shares again from its next scene on" if done else "was not quarantined"
    print(json.dumps({"device_id": args.device_id, "released_now": done}) if args.json else f"{args.device_id} {text}")
    return 0
