"""Lets the tests here find `exit_world`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def exit_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tiny_bundle` with three exits (``exit_bundles.py``). Do not write into it."""
    from exit_bundles import write_exit_bundle
    from made_once import one_at_a_time, run_folder

    whole = run_folder(tmp_path_factory) / "exit-bundle"
    with one_at_a_time(whole):
        if not whole.exists():
            folder = tmp_path_factory.mktemp("exits")
            write_exit_bundle(tiny_bundle, folder / "b")
            folder.rename(whole)
    return whole / "b"
