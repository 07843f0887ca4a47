"""What early exits take of a device's memory when they are at their fullest."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from exit_worlds import Bench, World

from littoral.core.head_state import write_state
from littoral.core.personal import PersonalConfig, PersonalHead
from littoral.edge.exit_config import ExitConfig

NUM_FRAMES, TODAY = 360, 11
LIMIT = 256 * 1024


def fullest(world: World, config: PersonalConfig, folder: Path) -> None:
    """States of heads that have seen ten days, and more frames than they remember."""
    shipped = world.heads()
    head = PersonalHead(
        shipped.heads[0], affine_version=0, seed=0, config=config, source_shares_K=shipped.class_shares_K
    )
    count = int(1.4 * config.memory_frames)
    for i in range(count):
        row = world.features[0, i % NUM_FRAMES]
        head.observe(row, day=10 * i // count, affine_version=0, label=int(world.labels[i % NUM_FRAMES]))
    assert head.evidence.older is not None
    assert (len(head.evidence.days), head.memory.size) == (config.max_days, config.memory_frames)
    folder.mkdir(parents=True)
    for i in range(len(world.features)):
        with (folder / f"head-{i}.state").open("wb") as file:
            write_state(head, file.write)


def peak_bytes(monkeypatch: pytest.MonkeyPatch, world: World, config: ExitConfig, folder: Path) -> int:
    """Of the exits alone, the network has no part in it: answering, learning on a new day, certifying."""
    assert config.personal is not None
    first = Bench(monkeypatch, world, config, folder)  # writes what it keeps of the probe frames
    first.exits.close()
    for old in (folder / "exits").glob("head-*.state"):
        old.unlink()
    fullest(world, config.personal, folder / "states")
    for state in (folder / "states").iterdir():
        state.rename(folder / "exits" / state.name)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        bench = Bench(monkeypatch, world, config, folder)
        for number in range(NUM_FRAMES):  # the answers are not kept
            bench.show(range(number, number + 1), labelled=0.05)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    exits = bench.exits
    with exits._personal._read(0) as head:  # type: ignore[union-attr]
        assert head is not None
        assert head.evidence.days[-1].last_day == TODAY, "it has learned"
    exits.close()
    assert exits.state == "serving", "what is certified has been scored"
    return peak


@pytest.mark.slow
def test_all_that_six_exits_need_fits_in_256_kilobytes_and_with_a_larger_memory_it_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The frames between the threads, the ring, the heads one at a time, and the policies in force and to come."""
    world = World(NUM_FRAMES, num_exits=6, size=64, num_classes=10)
    config = ExitConfig(learning_share=1.0, today=lambda: TODAY)
    assert config.personal is not None
    peak_bytes(monkeypatch, world, config, tmp_path / "warm")  # what is imported and cached on the way
    peak = peak_bytes(monkeypatch, world, config, tmp_path / "a")
    assert peak <= LIMIT
    larger = replace(config, personal=replace(config.personal, memory_frames=400))
    assert peak_bytes(monkeypatch, world, larger, tmp_path / "b") > LIMIT
