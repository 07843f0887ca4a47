"""``littoral data``: which data sets the benches know, which are here, and how to get the others."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

Subparsers = argparse._SubParsersAction

VARIABLE = "LITTORAL_DATA"


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("data", help="data sets of the benches: what is here, and how to get the rest")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="data sets, their terms, and which of them a folder has")
    listed.add_argument("--folder", type=Path, help=f"where to look (default: the variable {VARIABLE})")
    fetched = actions.add_parser("fetch", help="download from a data set's own home, check, and unpack")
    fetched.add_argument("name", help="one that 'list' names")
    fetched.add_argument("--to", type=Path, help=f"folder for it, made if missing (default: the variable {VARIABLE})")
    fetched.add_argument("--part", action="append", default=[], help="only this archive; may be repeated")
    for action in (listed, fetched):
        action.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    if args.action == "list":
        return _list(_folder(args.folder), as_json=args.json)
    folder = _folder(args.to)
    if folder is None:
        raise ValueError(f"no folder to fetch to; give --to, or set {VARIABLE}")
    return _fetch(args.name, folder, tuple(args.part), as_json=args.json)


def _folder(given: Path | None) -> Path | None:
    if given is not None:
        return given
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def _list(folder: Path | None, *, as_json: bool) -> int:
    from littoral.bench.datasets import DATA_SETS, size

    if folder is not None and not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one that has data sets, or none to see only what there is")
    present = {known.name: folder is not None and known.is_in(folder) for known in DATA_SETS}
    if as_json:
        rows = [
            {
                "name": known.name,
                "title": known.title,
                "present": present[known.name],
                "licence": known.licence,
                "home": known.home,
                "parts": {archive.part: archive.url for archive in known.archives},
                "bytes": sum(archive.max_bytes for archive in known.archives),
            }
            for known in DATA_SETS
        ]
        print(json.dumps({"folder": None if folder is None else str(folder), "data_sets": rows}))
        return 0
    if folder is None:
        print(f"no folder given: set {VARIABLE}, or give --folder, to see what is there")
    for known in DATA_SETS:
        state = "" if folder is None else f", in {folder}" if present[known.name] else f", not in {folder}"
        print(f"{known.name}{state}\n  {known.title}\n  licence: {known.licence}\n  home: {known.home}")
        if present[known.name]:
            continue
        print(f"  get it: littoral data fetch {known.name} --to FOLDER   ({size(known)})")
        for archive in known.archives:
            below = f"FOLDER/{known.into}".rstrip("/")
            part = f" (--part {archive.part})" if len(known.archives) > 1 else ""
            print(f"  or unpack {archive.url} in {below}{part}")
    return 0


def _fetch(name: str, folder: Path, parts: tuple[str, ...], *, as_json: bool) -> int:
    from littoral.bench.datasets import find
    from littoral.bench.fetch import fetch

    data_set = find(name)
    quiet = as_json or not sys.stderr.isatty()
    shown = -1

    def progress(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total
        if percent > shown and not quiet:
            print(f"\r{percent:3d} % of {total / 1e6:,.0f} MB", end="", file=sys.stderr, flush=True)
        shown = percent

    def say(line: str) -> None:
        if not as_json:
            lead = "" if quiet or shown < 0 else "\n"
            print(f"{lead}{line}", file=sys.stderr)

    made = fetch(data_set, folder, parts=parts, say=say, progress=progress)
    if as_json:
        print(json.dumps({"name": name, "folder": str(folder), "unpacked": [str(path) for path in made]}))
    elif made:
        print(f"{name} is in {folder}: {', '.join(path.name for path in made)} ({data_set.licence})")
    else:
        print(f"{name} was in {folder} already")
    return 0
