"""``littoral.__all__`` is the promise: sorted, documented, complete, and free until it is used."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

import littoral

HEAVY = ("numpy", "onnxruntime", "torch", "onnx", "PIL", "cryptography", "websockets", "starlette")


def face() -> list[str]:
    """The public names, and none before the face is written: `test_there_is_a_face` says so."""
    return list(getattr(littoral, "__all__", []))


def fresh(code: str) -> Any:
    """What a fresh interpreter prints as JSON."""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_there_is_a_face_of_a_size_to_remember() -> None:
    assert 5 <= len(face()) <= 33


def test_the_face_is_sorted_and_names_nothing_twice() -> None:
    assert face() == sorted(set(face()))


def test_what_is_visible_is_what_is_promised() -> None:
    """``dir`` shows the promised names; beyond them only submodules that somebody imported."""
    visible = {name for name in dir(littoral) if not name.startswith("_") and name != "annotations"}
    promised = {name for name in face() if not name.startswith("_")}
    beyond = {name for name in visible - promised if not isinstance(getattr(littoral, name), ModuleType)}
    assert promised <= visible
    assert beyond == set()


@pytest.mark.parametrize("name", face())
def test_each_name_resolves_and_says_what_it_is(name: str) -> None:
    value = getattr(littoral, name)
    if not name.startswith("__") and (inspect.isclass(value) or callable(value)):
        # `getdoc` would also take a base class's words, so a class must have its own.
        assert (value.__doc__ if inspect.isclass(value) else inspect.getdoc(value)) or "", f"{name} has no docstring"


FRESH_FOR_EACH = """
import importlib, json, os, sys, traceback
for package in sys.argv[2].split():  # imported once, where it takes seconds; of ours there is nothing yet
    try:
        importlib.import_module(package)
    except ImportError:
        pass
assert not [name for name in sys.modules if name.startswith("littoral")]
said = {}
for key, code in json.loads(sys.argv[1]).items():
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            exec(code, {"__name__": "__main__"})
            answer = [sorted(sys.modules), ""]
        except BaseException:
            answer = [sorted(sys.modules), traceback.format_exc()]
        with open(write, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        answer = pipe.read()
    ended = os.waitpid(child, 0)[1]
    said[key] = json.loads(answer) if answer and not ended else [[], "the interpreter died"]
print(json.dumps(said))
"""


def each_in_a_fresh_one(code: dict[str, str], *, before: str = "") -> dict[str, tuple[list[str], str]]:
    """What interpreters that had none of ours have loaded after some code, one for each; and how it failed, or "".

    Args:
        before: Packages that each of them has from the start.
    """
    words = [sys.executable, "-I", "-c", FRESH_FOR_EACH, json.dumps(code), before]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return {key: (loaded, failed) for key, (loaded, failed) in json.loads(done.stdout).items()}


def resolved(homes: dict[str, list[str]], *, before: str = "") -> dict[str, str]:
    """For each module, in an interpreter that has none of ours, what is wrong with its names; "" for nothing."""
    code = {
        home: "; ".join(["import littoral", *(f"littoral.{name}" for name in names)]) for home, names in homes.items()
    }
    found = each_in_a_fresh_one(code, before=before)
    return {home: failed or ("" if home in loaded else "not loaded") for home, (loaded, failed) in found.items()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_names_of_each_module_resolve_in_a_fresh_interpreter() -> None:
    """Each module as the first of ours that is imported: no name works only because another was used before it."""
    homes = {home: [name for name in face() if littoral._HOME[name] == home] for home in littoral._HOME.values()}
    said = resolved(homes, before="numpy onnxruntime torch")
    assert sorted(said) == sorted(homes)
    assert {home: wrong for home, wrong in said.items() if wrong} == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_name_that_does_not_resolve_and_a_home_that_is_not_loaded_are_seen() -> None:
    said = resolved({"littoral.errors": ["no_such_name"], "littoral.wire": ["LinkError"], "littoral.core": []})
    assert "no_such_name" in said["littoral.errors"]
    assert said["littoral.wire"] == "not loaded", "nor does an interpreter see what another one loaded"


def test_the_package_itself_loads_nothing_heavy() -> None:
    loaded = fresh("import json, sys, littoral; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))")
    assert sorted(set(HEAVY) & set(loaded)) == []


def test_the_harness_sees_a_heavy_import() -> None:
    loaded = fresh("import json, sys, onnxruntime; print(json.dumps(sorted(sys.modules)))")
    assert "onnxruntime" in loaded


CONFIGS = (
    "BudgetConfig",
    "DeviceConfig",
    "LinkConfig",
    "OffloadConfig",
    "ProductConfig",
    "RecallConfig",
    "RouteConfig",
    "SelectionConfig",
    "StatisticsConfig",
)


def of_the_cloud(loaded: list[str]) -> list[str]:
    return [module for module in loaded if module == "torch" or module.startswith("littoral.cloud")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_device_is_configured_with_is_in_the_face_and_loads_nothing_of_the_cloud() -> None:
    found = each_in_a_fresh_one({name: f"import littoral; littoral.{name}()" for name in CONFIGS}, before="numpy")
    assert sorted(found) == sorted(CONFIGS)
    for name, (loaded, failed) in found.items():
        assert failed == "", name
        assert littoral._HOME[name] in loaded
        assert of_the_cloud(loaded) == [], name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_interpreter_that_loads_the_cloud_is_seen_and_the_next_one_does_not_have_it() -> None:
    cloud = "import littoral; littoral.CloudConfig()"
    found = each_in_a_fresh_one({"cloud": cloud, "device": "import littoral; littoral.BudgetConfig()"}, before="numpy")
    assert of_the_cloud(found["cloud"][0])
    assert not of_the_cloud(found["device"][0])


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        littoral.no_such_name  # noqa: B018
