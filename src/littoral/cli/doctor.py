"""``littoral doctor``: what works here, and why the rest does not."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import sys

Subparsers = argparse._SubParsersAction

PARTS = {
    "edge": ("numpy", "msgpack", "safetensors", "onnxruntime", "PIL", "websockets", "cryptography"),
    "cloud": ("torch", "onnx", "onnxscript", "starlette", "uvicorn", "prometheus_client"),
    "bench": ("scipy", "sklearn", "matplotlib", "rich", "psutil"),
}


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("doctor", help="what works on this machine, and why the rest does not")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is installed; 1 when the device's part does not work."""
    parts = {part: {name: _version(name) for name in names} for part, names in PARTS.items()}
    works = {part: all(version is not None for version in found.values()) for part, found in parts.items()}
    accelerators = _accelerators() if parts["edge"]["onnxruntime"] else []
    machine = {"python": sys.version.split()[0], "system": platform.platform(), "cores": os.cpu_count() or 1}
    coders = {name: version for name in ("constriction", "numba") if (version := _version(name)) is not None}
    if args.json:
        told = {"machine": machine, "parts": parts, "works": works, "providers": accelerators, "coders": coders}
        print(json.dumps(told))
        return 0 if works["edge"] else 1
    print(f"Python {machine['python']} on {machine['system']}, {machine['cores']} cores")
    for part, found in parts.items():
        missing = [name for name, version in found.items() if version is None]
        verdict = "works" if works[part] else f"lacks {', '.join(missing)}; run: pip install 'littoral[{part}]'"
        print(f"{part:<6} {verdict}")
        print("       " + ", ".join(f"{name} {version}" for name, version in found.items() if version))
    print("ONNX Runtime can use: " + (", ".join(accelerators) or "nothing, it is not installed"))
    if coders:
        print("payloads are coded by " + " and ".join(f"{name} {version}" for name, version in coders.items()))
    else:
        print("payloads are coded by the reference, to the same bytes; faster: pip install 'littoral[fast]'")
    return 0 if works["edge"] else 1


def _version(module: str) -> str | None:
    """The installed version of a module that can really be imported."""
    try:
        found = importlib.import_module(module)
    except (ImportError, OSError):  # OSError: a shared library that does not load
        return None
    if (version := getattr(found, "__version__", None)) is not None:
        return str(version)
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:  # the module has another name than its distribution
        return "installed"


def _accelerators() -> list[str]:
    import onnxruntime

    return [str(name) for name in onnxruntime.get_available_providers()]
