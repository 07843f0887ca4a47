"""A file is the old one or the new one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from littoral.bundle import files
from littoral.bundle.files import replace_file


def test_it_replaces_what_is_there_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    replace_file(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_where_the_disk_fails_the_old_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int) -> None:
        raise OSError("no space")

    path = tmp_path / "key"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fails)
        with pytest.raises(OSError, match="no space"):
            replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    replace_file(path, b"newer")
    assert os.listdir(tmp_path) == ["key"], "what was left half done is in nobody's way"
