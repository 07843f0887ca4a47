"""A world that was left and is back brings what calibrates in it back, if new frames do not speak against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exit_worlds import Bench, World

from littoral.core.arrays import FloatArray
from littoral.core.exit_control import LEAST_NEW, RETURN_LOOKS, ControlConfig
from littoral.edge.exit_config import ExitConfig

CONTROL = ControlConfig(risk=0.1, ring_frames=80, min_calibration=60, audit_share=0.05)
HOME = range(300)
"""Frames of the first world."""
AWAY = range(300, 500)
"""Of another, in which exits are sure of what the whole network does not say."""
NUM_FRAMES = 700
CHECK = 3 * RETURN_LOOKS[0] // 2 + 1
"""Frames of a check: two of three go to the ring."""


def place(where: float) -> FloatArray:
    return np.array([where], dtype=np.float32)


def device(monkeypatch: pytest.MonkeyPatch, state: Path | None) -> Bench:
    """In its first world, with exits in force."""
    world = World(NUM_FRAMES, noise=0.4)
    away = np.array(AWAY)
    world.features[:2, away] = world.means[(world.labels[away] + 1) % len(world.means)]
    bench = Bench(monkeypatch, world, ExitConfig(control=CONTROL, personal=None), state)
    bench.exits.calibration.is_near = lambda a, b: bool(abs(a - b).item() < 1)
    bench.exits.world_is(place(0))
    bench.show(HOME[:140])
    assert bench.exits.state == "serving"
    return bench


def test_a_change_that_was_none_costs_a_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = device(monkeypatch, tmp_path)
    bench.exits.world_changed()
    assert bench.exits.state == "checking", "at once"
    bench.show(HOME[140 : 140 + 2 * LEAST_NEW])
    assert bench.exits.state == "checking"
    bench.exits.world_is(place(0.3))
    bench.settle()
    assert bench.exits.state == "serving"
    assert len(bench.exits.ring) > CONTROL.min_calibration


@pytest.mark.parametrize("back_at", [0.3, 5.0], ids=["known", "far"])
def test_a_world_that_is_back_after_another_is_known_again_on_few_frames(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, back_at: float
) -> None:
    bench = device(monkeypatch, tmp_path)
    bench.exits.world_changed()
    bench.exits.world_is(place(9))
    bench.show(AWAY[:100])
    assert bench.exits.state == "checking", "nothing keeps the promise there"
    bench.exits.world_changed()
    bench.exits.world_is(place(back_at))
    bench.show(HOME[200 : 200 + CHECK])
    assert bench.exits.state == ("serving" if back_at < 1 else "checking")
    kept = [frame.frame_id for frame in bench.exits.ring.frames()]
    assert (min(kept) < 140) == (back_at < 1), "its frames of before are in the ring"
    assert max(kept) > 240


def test_a_world_that_only_looks_like_a_known_one_is_checked_by_its_own_frames(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = device(monkeypatch, tmp_path)
    bench.exits.world_changed()
    bench.show(AWAY[:30])
    bench.exits.world_is(place(0))
    bench.settle()
    bench.show(AWAY[30:130])
    assert bench.exits.state == "checking"
    assert min(frame.frame_id for frame in bench.exits.ring.frames()) > 140
    bench.exits.world_changed()
    bench.exits.world_is(place(0.1))
    bench.show(HOME[200 : 200 + CHECK])
    assert bench.exits.state == "serving", "the page was kept for it"


def test_what_rang_the_alarm_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = device(monkeypatch, tmp_path)
    bench.exits.recheck("the alarm")
    bench.show(HOME[140 : 140 + CHECK])
    assert bench.exits.state == "checking"
    assert bench.exits.calibration.worlds.left_last is None


def test_without_pixels_nothing_is_kept_of_a_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version may serve when it is back, and the frames' features would be the old one's."""
    bench = device(monkeypatch, None)
    bench.exits.world_changed()
    bench.exits.world_is(place(0))
    bench.show(HOME[140 : 140 + CHECK])
    assert bench.exits.state == "checking"


def test_a_day_is_taken_back_from_the_worlds_that_were_left_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = device(monkeypatch, tmp_path)
    bench.exits.world_changed()
    assert bench.exits.forget_day(bench.exits.config.today())
    bench.exits.world_is(place(0))
    bench.show(HOME[140 : 140 + CHECK])
    assert bench.exits.state == "checking", "of the world that is back no frame is left"


def test_a_world_that_changed_unnoticed_is_certified_by_its_new_frames_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The ring is full of frames in which exits are wrong; to have half of it new is enough."""
    bench = device(monkeypatch, tmp_path)
    bench.exits.world_changed()
    bench.exits.world_is(place(9))
    bench.show(AWAY)
    assert bench.exits.state == "checking"
    shown = 0
    while bench.exits.state == "checking" and shown < 200:
        bench.show(range(500 + shown, 501 + shown))
        shown += 1
    old = sum(frame.frame_id <= 340 for frame in bench.exits.ring.frames())
    assert shown < 200
    assert old > 0, "some of the other world's are still there"


@pytest.mark.parametrize("keeps_pixels", [True, False])
def test_a_frame_that_will_be_run_again_asks_no_exit_while_they_are_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keeps_pixels: bool
) -> None:
    """The third goes to the heads, which learn from what the exits saw."""
    world = World(NUM_FRAMES, noise=0.4)
    config = ExitConfig(control=CONTROL, personal=None)
    bench = Bench(monkeypatch, world, config, tmp_path if keeps_pixels else None)
    shares = [found.compute_share for found in bench.show(HOME[:3])]
    assert shares == ([1.0, 1.0, 403 / 401] if keeps_pixels else [403 / 401] * 3)
    bench.show(HOME[3:140])
    assert bench.exits.state == "serving"
    for frame in bench.exits.ring.frames():
        np.testing.assert_allclose(frame.features, world.features[:, frame.frame_id - 1].ravel(), atol=2e-2)
