"""Finished rows as files: one JSON document each, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from littoral.bench.adapt.row import Row


class RowStore:
    """The rows under ``folder``. A row is done while its configuration and its fingerprint are those asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, row: Row) -> Path:
        return self.folder / f"{row.method}-{row.stream}-{row.seed}-{row.key}.json"

    def load(self, row: Row, fingerprint: str) -> dict[str, Any] | None:
        """A finished row; None when there is none, or it was made by other code or cannot be read."""
        document = self.read(row)
        return document if document is not None and document.get("fingerprint") == fingerprint else None

    def read(self, row: Row) -> dict[str, Any] | None:
        """A finished row, whatever code made it."""
        try:
            document = json.loads(self.path(row).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) and document.get("key") == row.key else None

    def save(self, row: Row, fingerprint: str, result: dict[str, Any]) -> dict[str, Any]:
        """Keep a row; a stop at any moment leaves the old file or the new one."""
        document = {"key": row.key, "fingerprint": fingerprint, "config": row.config(), **result}
        path = self.path(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        return document

    def tidy(self) -> None:
        """Remove what a killed run left half-written."""
        for path in self.folder.glob(".*.new"):
            path.unlink(missing_ok=True)


def us_per_frame(documents: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Per method the mean processor time of a frame in microseconds, of what was done."""
    seconds: dict[str, float] = {}
    frames: dict[str, int] = {}
    for document in documents:
        method = document["config"]["method"]
        seconds[method] = seconds.get(method, 0.0) + document["cpu_seconds"]
        frames[method] = frames.get(method, 0) + document["result"].get("frames", 0)
    return {method: 1e6 * seconds[method] / frames[method] for method in seconds if frames[method]}


FALLBACK_US = {
    "product": 8000.0, "product_unguarded": 8000.0, "device_statistics": 2500.0, "parity_shipped": 1500.0,
    "parity_paper": 1500.0, "teacher_everything": 5000.0, "teacher_answers": 1500.0, "cotta": 20000.0, "source": 400.0,
    "push_loss": 10000.0,
}  # fmt: skip
"""Before anything was measured, on one core of a small machine."""
_OTHERS_US = 2500.0


def estimate_seconds(row: Row, measured: dict[str, float]) -> float:
    """How long a row will take, on one core."""
    return row.num_frames * measured.get(row.method, FALLBACK_US.get(row.method, _OTHERS_US)) / 1e6 + 5.0
