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


@pytest.mark.parametrize(
    ("module", "code", "broken"),
    [
        ("core/bad.py", "import littoral.wire", "arrows point down"),
        ("wire/bad.py", "import littoral.edge", "arrows point down"),
        ("models/bad.py", "from littoral import train", "arrows point down"),
        ("edge/bad.py", "import littoral.cloud", "arrows point down"),
        ("cloud/bad.py", "import littoral.edge", "arrows point down"),
        ("bench/bad.py", "import littoral.cli", "arrows point down"),
        ("errors.py", "import littoral.core", "arrows point down"),
        ("edge/bad.py", "def later():\n    import torch\n", "the edge never learns the word torch"),
        ("bundle/bad.py", "import onnx", "the edge never learns the word torch"),
        ("core/bad.py", "import torch", "the edge never learns the word torch"),
        ("core/bad.py", "import onnxruntime", "arrays in, arrays out"),
        ("core/bad.py", "def now():\n    from time import time\n    return time()\n", "arrays in, arrays out"),
        ("core/bad.py", "import threading", "arrays in, arrays out"),
        ("wire/bad.py", "import socket", "the wire does no I/O"),
        ("wire/bad.py", "import websockets", "the wire does no I/O"),
    ],
    ids=lambda value: value.splitlines()[-1].strip() if isinstance(value, str) else None,
)
def test_a_forbidden_import_is_caught(package: Path, module: str, code: str, broken: str) -> None:
    (package / "littoral" / module).write_text(code)
    done = lint_imports(package, package / "cache")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{broken} BROKEN" in done.stdout
