"""Finished rows of a resumable table as files: one JSON document each, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Generic, TypeVar

from littoral.bench.unit import BenchUnit

UnitT = TypeVar("UnitT", bound=BenchUnit)


class UnitStore(Generic[UnitT]):
    """The finished units under ``folder``. One is done while its configuration and fingerprint are those asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, unit: UnitT) -> Path:
        """Where it is kept: under a name that people can read."""
        return self.folder / f"{unit.slug}-{unit.key}.json"

    def load(self, unit: UnitT, fingerprint: str) -> dict[str, Any] | None:
        """A finished unit; None when there is none, or it was made by other code or cannot be read."""
        document = self.read(unit)
        return document if document is not None and document.get("fingerprint") == fingerprint else None

    def read(self, unit: UnitT) -> dict[str, Any] | None:
        """A finished unit, whatever code made it."""
        try:
            document = json.loads(self.path(unit).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) and document.get("key") == unit.key else None

    def save(self, unit: UnitT, fingerprint: str, result: dict[str, Any]) -> dict[str, Any]:
        """Keep a unit; a stop at any moment leaves the old file or the new one."""
        document = {"key": unit.key, "fingerprint": fingerprint, "config": unit.config(), **result}
        path = self.path(unit)
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
