"""Write a bundle's files: whole or not at all, and the same bytes for the same content."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save as save_safetensors

from littoral.bundle.bundle import MANIFEST_FILE
from littoral.bundle.manifest import Manifest


def check_target(out: Path) -> None:
    """Refuse to write over what is not a bundle.

    Raises:
        ValueError: ``out`` is a file, or a folder with something in it that is not a bundle, or cannot be made.
    """
    if out.is_dir():
        if any(out.iterdir()) and not (out / MANIFEST_FILE).is_file():
            raise ValueError(f"{out} has files in it and is not a bundle; give another folder, or empty it yourself")
    elif out.exists() or out.is_symlink():
        raise ValueError(f"{out} is not a folder; give the name of a folder for the bundle")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.try-", dir=out.parent):
            pass
    except OSError as error:
        raise ValueError(f"{out.parent} cannot be written ({error.strerror}); give another folder") from error


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary sibling of ``out`` that takes its place when the block ends well, and is removed when it does not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
    try:
        yield folder
        _take_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take_place(folder: Path, out: Path) -> None:
    folder.chmod(0o755)
    if not out.exists():
        os.rename(folder, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
    os.rename(out, old / "bundle")
    try:
        os.rename(folder, out)
    except OSError:
        os.rename(old / "bundle", out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def write_files(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> None:
    """Write the files and a ``bundle.json`` that lists the SHA-256 of each."""
    digests = {}
    for name, data in sorted(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()
    (folder / MANIFEST_FILE).write_bytes(replace(manifest, files=digests).to_json())


def tensors_to_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file; the same bytes for the same tensors."""
    # Not ascontiguousarray: that turns a scalar into a vector of one.
    return bytes(save_safetensors({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}))
