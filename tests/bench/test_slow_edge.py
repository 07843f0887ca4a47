"""A device that sleeps to be slow says the same, later."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the demo needs the cloud extra")

from exit_bundles import source_like, write_exit_bundle

from littoral.bench import slow_edge
from littoral.bench.slow_edge import slow_down
from littoral.bundle import Bundle
from littoral.bundle.exits import ExitHeads
from littoral.edge.exit_parts import ExitParts, PlacedExit
from littoral.edge.session import Model, SessionConfig


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_exit_bundle(tiny_bundle, tmp_path_factory.mktemp("slow") / "bundle")


@pytest.fixture(autouse=True)
def fast_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is patched here is as it was afterwards."""
    monkeypatch.setattr(Model, "through", Model.through)
    monkeypatch.setattr(PlacedExit, "pooled", PlacedExit.pooled)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """In seconds; nothing sleeps, and no time passes."""
    came: list[float] = []
    monkeypatch.setattr(slow_edge.time, "sleep", came.append)
    monkeypatch.setattr(slow_edge.time, "perf_counter", lambda: 0.0)
    return came


def test_the_answer_is_the_same_and_takes_its_share_of_the_work(bundle: Bundle, slept: list[float]) -> None:
    frame, model, macs = source_like(1, seed=0)[0], Model(bundle), bundle.manifest.segment_macs
    expected = model.run(frame)
    slow_down(bundle.manifest, macs_per_ms=1e3)
    assert np.array_equal(model.through(1, 4, model.through(0, 1, frame)), expected)
    assert slept == pytest.approx([macs[0] / 1e6, sum(macs[1:]) / 1e6])


def test_an_exit_takes_its_time_where_it_is_asked_and_the_deep_one_takes_none(
    bundle: Bundle, slept: list[float]
) -> None:
    exits = bundle.manifest.exits
    parts = ExitParts(bundle, ExitHeads.open(bundle), SessionConfig()).all
    value = Model(bundle).through(0, parts[0].after, source_like(1, seed=0)[0])
    slow_down(bundle.manifest, macs_per_ms=1e3)
    parts[0].pooled(value)
    assert slept == pytest.approx([exits[0].macs / 1e6])
    assert parts[-1].is_deep
    parts[-1].pooled(Model(bundle).through(0, parts[-1].after, source_like(1, seed=0)[0]))
    assert slept[-1] == 0


def test_only_the_thread_that_answers_is_slow(bundle: Bundle, slept: list[float]) -> None:
    frame, model = source_like(1, seed=0)[0], Model(bundle)
    slow_down(bundle.manifest, macs_per_ms=10.0)
    other = threading.Thread(target=lambda: model.through(0, 4, frame))
    other.start()
    other.join()
    assert slept == []


def test_the_program_is_littorals_own(bundle: Bundle) -> None:
    command = [sys.executable, "-m", "littoral.bench.slow_edge", "1e9", "edge", str(bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "give one of FOLDER, --stdin and --http" in done.stderr
