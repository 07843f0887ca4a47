"""A device's process holds only what a device needs. A fresh interpreter says so, against an allow-list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

DEVICE_PACKAGES = ("littoral.core", "littoral.bundle", "littoral.wire", "littoral.edge")
ALLOWED = frozenset(
    {
        "littoral",
        *("numpy", "msgpack", "safetensors"),  # the base
        *("onnxruntime", "flatbuffers", "google", "packaging"),  # the engine and what its Python side imports
        *("PIL", "defusedxml", "olefile"),  # images, and what Pillow takes when it is there
        *("cryptography", "_openssl", "cffi", "_cffi_backend", "pycparser"),
        *("websockets",),
    }
)
FORBIDDEN = ("torch", "onnx", "onnxscript", "scipy", "sklearn", "sympy", "matplotlib", "starlette", "uvicorn")

HARNESS = """
import importlib, json, pkgutil, sys
before = set(sys.modules)
sys.path[:0] = sys.argv[2:]
for name in json.loads(sys.argv[1]):
    root = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(root, "__path__", []), name + "."):
        importlib.import_module(module.name)
top = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
# Modules that Cython makes in memory, one for each of its versions.
print(json.dumps(sorted(name for name in top if not name.startswith(("_cython_", "cython_runtime")))))
"""


def loaded_by(*names: str, beside: Path | None = None) -> set[str]:
    """Top-level modules outside the standard library that a fresh interpreter loads for these packages.

    Args:
        beside: A folder with packages that come before the installed ones.
    """
    words = [sys.executable, "-I", "-c", HARNESS, json.dumps(names), *([] if beside is None else [str(beside)])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_device_loads_nothing_beyond_the_allow_list() -> None:
    loaded = loaded_by(*DEVICE_PACKAGES)
    assert {"littoral", "numpy", "onnxruntime"} <= loaded, "the harness must see what is surely loaded"
    assert sorted(loaded - ALLOWED) == []


def test_core_needs_numpy_alone() -> None:
    assert loaded_by("littoral.core") <= {"littoral", "numpy"}


def test_the_wire_needs_msgpack_alone() -> None:
    assert loaded_by("littoral.wire") <= {"littoral", "msgpack"}


def test_the_allow_list_names_nothing_of_the_clouds() -> None:
    assert ALLOWED.isdisjoint(FORBIDDEN)


def test_the_harness_reports_torch_when_it_is_imported(tmp_path: Path) -> None:
    """An empty package of that name, since the harness goes by names and the real one takes seconds."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").touch()
    assert "torch" in loaded_by("littoral.core", "torch.version", beside=tmp_path) - ALLOWED
