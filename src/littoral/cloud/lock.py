"""Who holds a state folder: one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from littoral.errors import LittoralError, StorageError

LOCK_FILE = "lock"


@contextlib.contextmanager
def hold(state_dir: Path, *, otherwise: str) -> Iterator[None]:
    """Hold a state folder, which is made if missing; no second process may.

    Args:
        otherwise: What to do where a cloud holds it.
    Raises:
        LittoralError: a cloud holds it.
        StorageError: it cannot be used.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        file = (state_dir / LOCK_FILE).open("a")
    except OSError as error:
        raise StorageError(f"the state folder {state_dir} cannot be used ({error}); give a writable one") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LittoralError(f"another cloud uses the state folder {state_dir}; {otherwise}") from error
        yield
