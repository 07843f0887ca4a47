"""Fixtures of the baselines' tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch", reason="the baselines need the cloud extra")

from baseline_world import World, make_world


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture
def batches(world: World) -> Callable[[int], list[np.ndarray]]:
    """The shifted frames in batches of a size."""

    def cut(size: int) -> list[np.ndarray]:
        return [world.frames[at : at + size] for at in range(0, len(world.frames), size)]

    return cut
