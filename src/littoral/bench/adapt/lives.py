"""Lives of a row that were played to their end, kept in one file until the row is: a row of hours need not begin anew.

A *life* is what one fresh method makes of its stretch of the stream, so only streams that reset have more than one.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from littoral.bench.adapt.row import Row
from littoral.bench.method import Costs

FOLDER = "lives"
"""In the work folder."""


@dataclass
class Life:
    """What one fresh method made of its stretch of the stream."""

    right: int = 0
    frames: int = 0
    """All that it was given."""
    scored_frames: int = 0
    """Of the devices that are ours."""
    by_shift: dict[str, list[int]] = field(default_factory=dict)
    """Per shift: [scored frames, of these right]."""
    trace: dict[str, list[list[Any]]] = field(default_factory=dict)
    """Per device and stretch of one shift: [shift, frames, right, samples sent so far in this life]."""
    costs: Costs = field(default_factory=Costs)
    seconds: float = 0.0
    """From before the method was made until it was closed."""
    cpu_seconds: float = 0.0


class LifeStore:
    """The finished lives of one row.

    Args:
        path: Of the file, see `life_file`.
        made_by: Which code, on what. Lives that another made are not taken, and overwritten.
    """

    def __init__(self, path: Path, made_by: str) -> None:
        self._path, self._made_by = path, made_by
        self._lives = self._read()

    def load(self, number: int) -> Life | None:
        """The life of this number, counted from 0, if it was there when the store was opened."""
        return self._lives[number] if number < len(self._lives) else None

    def save(self, number: int, life: Life) -> None:
        """Keep a life after those before it; nothing happens where somebody else has come as far already."""
        if len(self._read()) > number:
            return
        self._lives = [*self._lives[:number], life]
        document = {"made_by": self._made_by, "lives": [dataclasses.asdict(each) for each in self._lives]}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.new")
        temporary.write_text(json.dumps(document), encoding="utf-8")
        os.replace(temporary, self._path)

    def _read(self) -> list[Life]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            if document["made_by"] != self._made_by:
                return []
            return [Life(**{**told, "costs": Costs(**told["costs"])}) for told in document["lives"]]
        except (OSError, ValueError, KeyError, TypeError):  # none, or none that can be read
            return []


def life_file(work: Path, row: Row) -> Path:
    """Where a row's lives are kept until it is finished."""
    return work / FOLDER / f"{row.slug}-{row.key}.json"


def tidy_lives(work: Path, finished: list[Row]) -> None:
    """Remove the lives of rows that are finished, and what killed runs left half-written of them.

    Of these alone: another process may be writing another row's.
    """
    for row in finished:
        file = life_file(work, row)
        for path in (file, *file.parent.glob(f".{file.name}.*.new")):
            path.unlink(missing_ok=True)
