"""No module that a unit's maker takes something from is missing behind the unit's fingerprint."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

import littoral

pytest.importorskip("torch", reason="the bench needs its extra")

from littoral.bench.fingerprint import files_of

TABLES = ("split", "exits")
ROOT = Path(littoral.__file__).parent
BENCH = "littoral.bench."
OUTSIDE = [
    ".".join(["littoral", *path.relative_to(ROOT).with_suffix("").parts])
    for path in ROOT.rglob("*.py")
    if "bench" not in path.relative_to(ROOT).parts and path.parent != ROOT
]
"""Modules below the bench: reading them all takes a second, and none of them imports the bench."""


def taken_from(function: FunctionType, home: ModuleType, seen: set[str]) -> set[str]:
    """The bench's modules whose functions and classes a maker uses, and its helpers beside it; what it imports when
    it runs among them."""
    out, todo = set[str](), [function.__code__]
    while todo:
        code = todo.pop()
        todo += [const for const in code.co_consts if isinstance(const, CodeType)]
        for name in code.co_names:
            value = vars(home).get(name)
            module = getattr(value, "__module__", None) or ""
            if name.startswith(BENCH):
                out.add(name)
            elif module != home.__name__:
                out |= {module} if module.startswith(BENCH) else set()
            elif isinstance(value, FunctionType) and name not in seen:
                seen.add(name)
                out |= taken_from(value, home, seen)
    return out


def missing(make: Any, unit: Any, maker: FunctionType) -> set[str]:
    modules = [name for name in make.modules_of(unit) if name.startswith(BENCH)]
    files = files_of(modules, without=[*make.modules_without(unit), *OUTSIDE])
    taken = taken_from(maker, make, set())
    return {name for name in taken if name.removeprefix("littoral.").replace(".", "/") + ".py" not in files}


@pytest.mark.parametrize("table", TABLES)
def test_what_makes_a_unit_is_behind_its_fingerprint(table: str) -> None:
    make, plan = (importlib.import_module(f"littoral.bench.{table}.{name}") for name in ("make", "plan"))
    units = {unit.kind: unit for unit in (*plan.full_plan(), *plan.quick_plan())}
    assert units.keys() == make._MAKERS.keys()
    assert set().union(*(missing(make, units[kind], maker) for kind, maker in make._MAKERS.items())) == set()


def test_a_module_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    make = importlib.import_module("littoral.bench.split.make")
    unit = next(u for u in importlib.import_module("littoral.bench.split.plan").full_plan() if u.kind == "dense_codec")
    monkeypatch.setitem(make._MODULES, "dense_codec", ("dense_rows",))
    assert missing(make, unit, make._MAKERS["dense_codec"]) == {"littoral.bench.split.dense_units"}
