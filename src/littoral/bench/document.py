"""The one JSON document that every table ends with, and what it says of code and machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SCHEMA = 1
_NO_CODE = (":(exclude,top)benchmarks", ":(exclude,top)docs", ":(exclude,top,glob)**/*.md")
"""Where a difference changes no number: a run writes its rows there while it goes on, and people words."""
_PACKAGES = ("littoral", "numpy", "onnxruntime", "torch", "websockets", "scikit-learn")


def make_document(
    *,
    table: str,
    config: Mapping[str, Any],
    seeds: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> dict[str, Any]:
    """A document by the rules of ``benchmarks/README.md``. Accuracies are in percent, times in milliseconds."""
    return {
        "schema": SCHEMA,
        "table": table,
        "config": dict(config),
        "seeds": list(seeds),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "rows": [dict(row) for row in rows],
        "summary": dict(summary),
    }


def write_document(document: Mapping[str, Any], path: Path) -> None:
    """Keep a document as a file, one row to a line, so that git shows what changed."""
    head = {key: value for key, value in document.items() if key not in ("rows", "summary")}
    rows = ",\n".join("    " + json.dumps(row, separators=(",", ":")) for row in document["rows"])
    text = json.dumps(head, indent=2)[:-2] + ',\n  "rows": [\n' + rows + "\n  ],\n"
    text += '  "summary": ' + json.dumps(document["summary"], indent=2).replace("\n", "\n  ") + "\n}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def commit(folder: Path = Path(__file__).parent) -> str:
    """The commit of the code, ``-dirty`` behind it if the working tree differs in what could change a number, or
    ``unknown``.

    Files that git does not know differ too, unless it ignores them. Rows, results and pages do not count.

    Args:
        folder: Anywhere in the working tree.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        differs = git("status", "--porcelain", "--untracked-files=all", "--", ":(top)", *_NO_CODE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("-dirty" if differs else "")


def versions() -> dict[str, str]:
    """Python and the packages that can change a number."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def versions_of(units: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The different sets of versions that finished units were made with, and of how many ``units`` each is.

    Units that were kept before they knew theirs are in none.
    """
    counts: dict[str, int] = {}
    for unit in units:
        if "versions" in unit:
            told = json.dumps(unit["versions"])
            counts[told] = counts.get(told, 0) + 1
    return [{"units": count, **json.loads(told)} for told, count in counts.items()]


def machine() -> dict[str, Any]:
    """Processor, cores, memory and system; no names and no paths."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
