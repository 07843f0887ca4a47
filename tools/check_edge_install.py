"""Prove that the ``edge`` extra alone carries a device. Run by the Python of an environment with nothing else in it.

Imports every module that a device uses and checks that nothing of the cloud's was loaded, and that nothing of it is
there to be loaded: otherwise the check would prove nothing.
"""
# ruff: noqa: T201

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path

PACKAGES = ("littoral.core", "littoral.bundle", "littoral.wire", "littoral.edge")
COMMAND_LINE = "littoral.cli.main"
CLOUD_ONLY = (
    *("torch", "onnx", "onnxscript", "scipy", "sklearn", "matplotlib"),
    *("starlette", "uvicorn", "prometheus_client", "ray", "psycopg"),
)


def import_all(package: str) -> list[str]:
    """Import a package and all its modules; their names."""
    root = importlib.import_module(package)
    names = [package, *(module.name for module in pkgutil.walk_packages(root.__path__, package + "."))]
    for name in names:
        importlib.import_module(name)
    return names


def resident_mib() -> float | None:
    """The process's resident memory, where the system tells it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * 4096 / 2**20


def main() -> int:
    problems = [
        f"{name} is installed here, so this environment proves nothing"
        for name in CLOUD_ONLY
        if importlib.util.find_spec(name) is not None
    ]
    modules = [name for package in PACKAGES for name in import_all(package)]
    if importlib.util.find_spec("littoral.cli") and importlib.util.find_spec(COMMAND_LINE):
        importlib.import_module(COMMAND_LINE)
        modules.append(COMMAND_LINE)
    problems += [f"a device loads {name}" for name in CLOUD_ONLY if name in sys.modules]

    memory = resident_mib()
    print(f"{len(modules)} modules imported from {Path(importlib.import_module('littoral').__file__ or '').parent}")
    print(f"resident memory after the imports: {'unknown' if memory is None else f'{memory:.0f} MiB'}")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("edge install: " + ("FAILED" if problems else "ok"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
