"""A durable message that was acknowledged survives kill -9."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("kill_writers.py")


def kill_writers(folder: Path, rounds: int, mode: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(rounds), "5", mode], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    found = kill_writers(tmp_path, 60, "honest")
    assert found["acked"] >= 60, "every round acknowledged something"
    assert found["lost"] == 0


def test_the_same_search_finds_a_writer_that_acknowledges_before_its_commit(tmp_path: Path) -> None:
    assert kill_writers(tmp_path, 10, "hasty")["lost"] > 0
