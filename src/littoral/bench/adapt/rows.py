"""The rows of the adaptation table: made in worker processes, kept in a `RowStore`, stamped with what made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from littoral.bench import rows as general
from littoral.bench.adapt.methods import modules_of, modules_without
from littoral.bench.adapt.row import Row
from littoral.bench.adapt.store import RowStore
from littoral.bench.fingerprint import fingerprint
from littoral.bench.rows import Event, Tell


@dataclass(frozen=True, kw_only=True)
class RunOptions(general.RunOptions):
    """How rows are made."""

    rows: Path | None = None
    """Where finished rows are kept; None is ``rows`` in the work folder."""
    make: str = "littoral.bench.adapt.make:make_row"


def fingerprint_of(row: Row) -> str:
    """Of the source files that the row's numbers come from."""
    return fingerprint(modules_of(row), without=modules_without(row))


def split_done(
    rows: Sequence[Row], store: RowStore, *, any_code: bool = False
) -> tuple[dict[str, dict[str, Any]], list[Row]]:
    """Finished documents by key, and what is left to do."""
    return general.split_done(rows, store, fingerprint_of, any_code=any_code)


def make_rows(rows: Sequence[Row], options: RunOptions, tell: Tell = lambda event: None) -> dict[str, dict[str, Any]]:
    """Make these rows in order; documents by key. See `littoral.bench.rows.make_units`."""
    store = RowStore(options.rows or options.work / "rows")
    return general.make_units(rows, options, store=store, fingerprint_of=fingerprint_of, tell=tell)


__all__ = ["Event", "RunOptions", "fingerprint_of", "make_rows", "split_done"]
