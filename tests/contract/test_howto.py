"""The Python of the how-to pages names what there is: its imports, and the arguments that it gives."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest
from blocks import ROOT, blocks

PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
CODE = {
    f"{page.name}:{block.line}": block.code
    for page in PAGES
    for block in blocks(page.read_text(encoding="utf-8"))
    if block.language == "python"
}


def unknown_names(code: str) -> list[str]:
    """What a block imports that is not there, and the arguments by name that what it imports does not take."""
    tree, known, wrong = ast.parse(code), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            home = importlib.import_module(str(node.module))
            known |= {alias.name: getattr(home, alias.name, None) for alias in node.names}
    wrong += [name for name, value in known.items() if value is None]
    for node in ast.walk(tree):
        called = known.get(node.func.id) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
        if isinstance(node, ast.Call) and called not in (None, Path):
            taken = inspect.signature(called).parameters
            wrong += [f"{called.__name__}({word.arg})" for word in node.keywords if word.arg not in taken]
    return wrong


@pytest.mark.parametrize("code", CODE.values(), ids=CODE)
def test_the_python_of_a_how_to_names_what_there_is(code: str) -> None:
    assert unknown_names(code) == []


def test_tls_is_shown_for_both_ends() -> None:
    page = "\n".join(code for name, code in CODE.items() if name.startswith("keep-a-cloud"))
    assert "CloudConfig(" in page
    assert "LinkConfig(ca_file=" in page


def test_the_harness_sees_a_name_and_an_argument_that_are_not_there() -> None:
    code = "from littoral import NoSuch, LinkConfig\nLinkConfig(ca_path=1)\n"
    assert unknown_names(code) == ["NoSuch", "LinkConfig(ca_path)"]
