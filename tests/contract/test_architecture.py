"""Arrows point down, and the machine that says so can see a wrong one.

The negative controls run the very contracts of pyproject.toml on a package of the same shape with one bad import.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"
LAYERS = ("cli", "bench", "edge", "cloud", "train", "models", "bundle", "wire", "core")


def lint_imports(folder: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LINT_IMPORTS), "--no-logo", "--cache-dir", str(cache)], cwd=folder, capture_output=True, text=True
    )


def our_contracts() -> str:
    """The import-linter tables of pyproject.toml, word for word."""
    text = (ROOT / "pyproject.toml").read_text()
    sections = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    return "".join(part for part in sections if re.match(r"\[+tool\.importlinter\b", part))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An empty package ``littoral`` with our layers and our contracts; the folder above it."""
    (tmp_path / "pyproject.toml").write_text(our_contracts())
    for layer in LAYERS:
        folder = tmp_path / "littoral" / layer
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    (tmp_path / "littoral" / "__init__.py").write_text("")
    (tmp_path / "littoral" / "errors.py").write_text("")
    return tmp_path


def test_the_contracts_hold_for_littoral(tmp_path: Path) -> None:
    done = lint_imports(ROOT, tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_a_package_with_no_bad_import_keeps_the_contracts(package: Path) -> None:
    done = lint_imports(package, package / "cache")
    assert done.returncode == 0, done.stdout + done.stderr


FORBIDDEN = (
    ("core", "import littoral.wire", "littoral.wire", "arrows point down"),
    ("wire", "import littoral.edge", "littoral.edge", "arrows point down"),
    ("models", "from littoral import train", "littoral.train", "arrows point down"),
    ("edge", "import littoral.cloud", "littoral.cloud", "arrows point down"),
    ("cloud", "import littoral.edge", "littoral.edge", "arrows point down"),
    ("bench", "import littoral.cli", "littoral.cli", "arrows point down"),
    ("errors", "import littoral.core", "littoral.core", "arrows point down"),
    ("edge", "def later():\n    import torch\n", "torch", "the edge never learns the word torch"),
    ("bundle", "import onnx", "onnx", "the edge never learns the word torch"),
    ("core", "import torch", "torch", "the edge never learns the word torch"),
    ("core", "import onnxruntime", "onnxruntime", "arrays in, arrays out"),
    ("core", "def now():\n    from time import time\n    return time()\n", "time", "arrays in, arrays out"),
    ("core", "import threading", "threading", "arrays in, arrays out"),
    ("wire", "import socket", "socket", "the wire does no I/O"),
    ("wire", "import websockets", "websockets", "the wire does no I/O"),
)
"""A layer, a module of it, what that must not import, and the contract that says so."""


def broken(told: str) -> dict[str, set[tuple[str, str]]]:
    """The imports that import-linter lists below each contract."""
    parts = re.split(r"^(.+)\n-{5,}$", told, flags=re.MULTILINE)[1:]
    return {
        title: set(re.findall(r"^-\s+(\S+) -> (\S+) \(l\.\d+\)$", text, flags=re.MULTILINE))
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def test_each_forbidden_import_is_caught_by_the_contract_that_forbids_it(package: Path) -> None:
    """All in one run, each in a module of its own, by which it is told."""
    wanted = []
    for number, (layer, code, imported, contract) in enumerate(FORBIDDEN):
        module = layer if layer == "errors" else f"{layer}.bad_{number}"
        (package / "littoral" / f"{module.replace('.', '/')}.py").write_text(code)
        wanted.append((contract, (f"littoral.{module}", imported)))
    done = lint_imports(package, package / "cache")
    assert done.returncode == 1, done.stdout + done.stderr
    found = broken(done.stdout)
    assert [each for each in wanted if each[1] not in found.get(each[0], ())] == [], done.stdout
    for contract in {contract for contract, _ in wanted}:
        assert f"{contract} BROKEN" in done.stdout


def test_what_no_contract_forbids_is_not_among_what_is_told(package: Path) -> None:
    (package / "littoral" / "core" / "bad.py").write_text("import threading")
    (package / "littoral" / "cloud" / "good.py").write_text("import threading, torch\nimport littoral.core")
    done = lint_imports(package, package / "cache")
    assert done.returncode == 1, done.stdout + done.stderr
    told = {each for imports in broken(done.stdout).values() for each in imports}
    assert told == {("littoral.core.bad", "threading")}
