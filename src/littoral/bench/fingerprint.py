"""Which source files a row depends on, found by following imports: a change elsewhere leaves its result valid.

So does one in comments, docstrings or layout: what is hashed is what the interpreter makes of a file.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import littoral

PACKAGE = "littoral"


def fingerprint(modules: Iterable[str], *, without: Iterable[str] = (), root: Path | None = None) -> str:
    """16 hexadecimal digits of the SHA-256 over the named modules' code and all that they import of the package.

    Modules in ``without`` are left out, and with them what only they import.

    The package's own public face is left out: it names everything, and nobody below it needs it. A package's
    ``__init__`` counts only where something is imported from it that is not a module: a table of baselines imports
    them all, and one baseline must not hang on another.
    """
    root = root or _root()
    digest = hashlib.sha256()
    for path in sorted(_closure(tuple(sorted(set(modules))), frozenset(without), root)):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + _code_sha256(path))
    return digest.hexdigest()[:16]


def files_of(modules: Iterable[str], *, without: Iterable[str] = (), root: Path | None = None) -> list[str]:
    """The files behind a fingerprint, relative to the package's folder."""
    root = root or _root()
    found = _closure(tuple(sorted(set(modules))), frozenset(without), root)
    return sorted(str(path.relative_to(root)) for path in found)


def changed_since(moment: float, modules: Iterable[str], *, without: Iterable[str] = ()) -> bool:
    """Whether a file behind a fingerprint was written after this moment, in seconds since 1970.

    A process that began before goes on with what it has read.
    """
    root = _root()
    return any((root / file).stat().st_mtime > moment for file in files_of(modules, without=without))


def _root() -> Path:
    return Path(littoral.__file__).resolve().parent


def _code_sha256(path: Path) -> bytes:
    state = path.stat()
    return _sha256_of(path, state.st_mtime_ns, state.st_size)


@cache
def _sha256_of(path: Path, changed_ns: int, size: int) -> bytes:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # also the bare strings below attributes
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).digest()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _closure(modules: tuple[str, ...], without: frozenset[str], root: Path) -> frozenset[Path]:
    found: set[Path] = set()
    left_out = {path for module in without if (path := _path(module, root)) is not None}
    todo = [path for module in modules if (path := _path(module, root)) is not None]
    if len(todo) != len(modules) or len(left_out) != len(without):
        missing = [module for module in (*modules, *sorted(without)) if _path(module, root) is None]
        raise ValueError(f"no source file for the module {missing[0]!r}")
    while todo:
        path = todo.pop()
        if path not in found and path not in left_out:
            found.add(path)
            todo += _imports(path, root)
    return frozenset(found)


@cache
def _imports(path: Path, root: Path) -> tuple[Path, ...]:
    """The package's files that a file imports, at its top or inside a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [_meant(node.module, alias.name, root) for alias in node.names]
        found += [p for name in names if name.split(".")[0] == PACKAGE and (p := _path(name, root)) is not None]
    return tuple(found)


def _meant(module: str, name: str, root: Path) -> str:
    """``from a import b`` means the module ``a.b`` where there is one, else something in ``a``."""
    whole = f"{module}.{name}"
    return whole if whole.split(".")[0] == PACKAGE and _path(whole, root) is not None else module


def _path(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file() and base != root:
            return path
    return None
