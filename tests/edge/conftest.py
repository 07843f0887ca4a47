"""Lets the tests of the device use the target of ``attacks/``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of these tests are on this machine, whatever proxy it uses for others."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


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


@pytest.fixture(scope="session")
def routed_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two: ``b`` is `tiny_bundle` with three exits, two splits and a router's tables, drawn and not
    measured (``route_bundles.py``), ``plain`` the same without them. Do not write into it."""
    from made_once import one_at_a_time, run_folder
    from route_bundles import drawn_tables, with_tables, write_routeless_bundle

    whole = run_folder(tmp_path_factory) / "routed-bundle"
    with one_at_a_time(whole):
        if not whole.exists():
            folder = tmp_path_factory.mktemp("routed")
            plain = write_routeless_bundle(tiny_bundle, folder / "plain")
            with_tables(plain, drawn_tables(plain), folder / "b")
            folder.rename(whole)
    return whole
