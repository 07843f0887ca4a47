"""Rows of hundreds of users as a table can carry them: means over the users of a seed. The units' files have them all.

Pure. ``num_users`` says of how many a row is the mean; rows of the kind ``user`` keep what is seen user by user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

Row = dict[str, Any]
AVERAGED = ("users", "fits", "trained", "latency", "drift", "labels")
_NAMES = ("kind", "network", "stems", "users", "seed", "commit", "hard", "method", "labels", "frames", "fit", "way",
          "stream", "cloud", "recheck", "world", "own_share")  # fmt: skip
"""What tells rows apart; of all other columns that are numbers the mean is taken."""
_GONE = ("user", "style", "run")
_NOT_TOLD = (
    "_held",
    "_risk",
    "eqfull_compute",
    "first_exit_right",
    "plain_compute",
    "patience_compute",
    "patience_right",
)
"""How columns end that no page has: a document of a hundred units would be too large with them."""
_PLACES = 4
SERVED = {False: "cert_d05_right", True: "cert_x_right"}
"""The certified column without and with labels."""


def averaged(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Flat rows, those of the kinds in `AVERAGED` as means, in the order in which they first come."""
    out: list[Row] = []
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] not in AVERAGED:
            out.append(dict(row))
            continue
        key = tuple(row.get(name) for name in _NAMES)
        if key not in groups:
            out.append({"group": key})
        groups.setdefault(key, []).append(row)
    return [_mean(groups[row["group"]]) if "group" in row else row for row in out]


def by_user(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """A row of the kind ``user`` for each: points over the generic exits at half of the work, after the most frames."""
    generic: dict[tuple[Any, ...], float] = {}
    found: dict[tuple[Any, ...], Row] = {}
    last: dict[tuple[Any, ...], int] = {}
    for row in rows:
        if row["kind"] != "users" or "right_50" not in row:
            continue
        who = tuple(row[name] for name in ("network", "stems", "users", "seed", "user"))
        if row["method"] == "generic":
            generic[who] = row["right_50"]
            head = {name: row[name] for name in ("network", "stems", "users", "seed", "user", "style", "hard")}
            found[who] = {"kind": "user", **head, "shipped_right": row["shipped_right"]}
        for name, labels in (("no_labels", 0.0), ("labels", 1.0)):
            if (row["method"], row["labels"]) == ("personal", labels) and row["frames"] >= last.get((who, name), 0):
                last[who, name] = row["frames"]
                found[who][f"points_{name}"] = round(row["right_50"] - generic[who], 2)
    return list(found.values())


def _mean(group: list[Mapping[str, Any]]) -> Row:
    first = group[0]
    row: Row = {name: first[name] for name in _NAMES if name in first}
    row["num_users"] = len(group)
    for name in first:
        values = [each[name] for each in group if isinstance(each.get(name), (int, float))]
        if name not in row and name not in _GONE and values and not name.endswith(_NOT_TOLD):
            row[name] = round(fmean(values), _PLACES)
    served = SERVED[bool(first.get("labels"))]
    points = [each[served] - each["shipped_right"] for each in group if served in each]
    if points:
        row["lowest_points"] = round(min(points), 2)
    return row
