"""What a unit is made of besides code: the files of the data folder that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def inputs_digest(folder: Path | None, names: Iterable[str]) -> str | None:
    """16 hexadecimal digits of the SHA-256 over these files of the folder, their names and what is in them.

    A file is read once per process, and again when its size or its time has changed.

    Returns:
        None where nothing can be said: no folder, no names, or a file that is not there.
    """
    wanted = sorted(names)
    if folder is None or not wanted:
        return None
    digest = hashlib.sha256()
    try:
        for name in wanted:
            path = (folder / name).resolve()
            state = path.stat()
            digest.update(name.encode() + b"\0" + _sha256_of(path, state.st_mtime_ns, state.st_size))
    except OSError:
        return None
    return digest.hexdigest()[:16]


@cache
def _sha256_of(path: Path, changed_ns: int, size: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
