"""What a device does about classes that its user never showed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exit_worlds import Bench, World

from littoral.core.personal import PersonalConfig
from littoral.edge.exit_config import ExitConfig


def test_a_class_that_this_user_never_showed_is_still_answered_by_what_a_device_learned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The bundle's class means say where it lies; without them it is hardly answered any more."""
    world = World(600, num_exits=3, seed=4)
    own, never = np.flatnonzero(world.labels != 2), np.flatnonzero(world.labels == 2)
    right = {}
    for share in (0.0, 0.1):
        config = ExitConfig(personal=PersonalConfig(least_share=share), learning_share=1.0, today=lambda: 1)
        bench = Bench(monkeypatch, world, config, tmp_path / str(share))
        bench.show(own[:300].tolist(), labelled=1.0)
        with bench.exits._personal._read(1) as head:  # type: ignore[union-attr]
            assert head is not None
            right[share] = float((head.fitted().logits(world.features[1, never]).argmax(axis=1) == 2).mean())
        bench.exits.close()
    assert right[0.1] > right[0.0] + 0.2


def test_a_head_that_serves_has_a_gate_against_classes_never_shown_where_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(600, num_exits=3, seed=4, noise=0.5)
    own, never = np.flatnonzero(world.labels != 2), np.flatnonzero(world.labels == 2)
    for keep in (1.0, 0.9):
        personal = PersonalConfig(keep_own=keep, least_share=0.0, protected=False)
        config = ExitConfig(personal=personal, learning_share=1.0, today=lambda: 1)
        bench = Bench(monkeypatch, world, config, tmp_path / str(keep))
        bench.show(own[:400].tolist(), labelled=1.0)
        gates = [each.gate for each in bench.exits.policy.exits]
        bench.exits.close()
        if keep == 1.0:
            assert gates == [None] * 3
            continue
        gate = gates[-1]
        assert gate is not None
        assert np.mean([gate(row) for row in world.features[-1, own]]) > 0.8
        assert np.mean([gate(row) for row in world.features[-1, never]]) < 0.3
