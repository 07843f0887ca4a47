"""``littoral.__all__`` is the promise: sorted, documented, complete, and free until it is used."""

from __future__ import annotations

import inspect
import json
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
    assert 5 <= len(face()) <= 30


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


@pytest.mark.parametrize("home", sorted(set(littoral._HOME.values())))
def test_the_names_of_each_module_resolve_in_a_fresh_interpreter(home: str) -> None:
    """Each module as the first that is imported: no name works only because another was used before it."""
    names = [name for name in face() if littoral._HOME[name] == home]
    asked = ", ".join(f"littoral.{name}" for name in names)
    homes = fresh(f"import json, sys, littoral; {asked}; print(json.dumps('{home}' in sys.modules))")
    assert homes is True


def test_the_package_itself_loads_nothing_heavy() -> None:
    loaded = fresh("import json, sys, littoral; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))")
    assert sorted(set(HEAVY) & set(loaded)) == []


def test_the_harness_sees_a_heavy_import() -> None:
    loaded = fresh("import json, sys, onnxruntime; print(json.dumps(sorted(sys.modules)))")
    assert "onnxruntime" in loaded


@pytest.mark.parametrize(
    "name",
    [
        "BudgetConfig",
        "DeviceConfig",
        "OffloadConfig",
        "ProductConfig",
        "RecallConfig",
        "SelectionConfig",
        "StatisticsConfig",
    ],
)
def test_what_a_device_is_configured_with_is_in_the_face_and_loads_nothing_of_the_cloud(name: str) -> None:
    loaded = fresh(f"import json, sys, littoral; littoral.{name}(); print(json.dumps(sorted(sys.modules)))")
    assert littoral._HOME[name] in loaded
    assert [module for module in loaded if module == "torch" or module.startswith("littoral.cloud")] == []


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        littoral.no_such_name  # noqa: B018
