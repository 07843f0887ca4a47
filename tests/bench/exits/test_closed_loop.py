"""A device with exits and its cloud, closed into a loop: the promise through versions and worlds, and what keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bench needs its extra")
pytest.importorskip("starlette", reason="the bench needs its extra")
pytest.importorskip("onnxruntime", reason="the bench needs its extra")

from exit_bundles import source_like

from littoral.bench.exits.drift import SETTLED, points, promise, recovery
from littoral.bench.exits.loop_play import LoopDevice, Told, World, play_worlds
from littoral.bundle import Bundle
from littoral.cloud.jobs import AdaptConfig
from littoral.core.drift import StatisticsConfig
from littoral.core.exit_control import ControlConfig
from littoral.core.product import ProductConfig
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exit_config import ExitConfig

RISK = 0.1
CONTROL = ControlConfig(risk=RISK, ring_frames=96, min_calibration=48, audit_share=0.1)
ADAPT = AdaptConfig(batch_size=8, inner_steps=2, settled_nats=0.0)
NEAR_FACTOR = StatisticsConfig().near_factor
SELECTION = ProductConfig(entropy_min_fraction=0.0, duplicate_distance=0.0)


@pytest.fixture(scope="module")
def bundle(exit_bundle: Path) -> Bundle:
    return Bundle.open(exit_bundle, require_cloud=True)


def played(
    bundle: Bundle, *worlds: World, exits: ExitConfig, cloud: bool = True, near_factor: float = NEAR_FACTOR
) -> list[Told]:
    statistics = StatisticsConfig(near_factor=near_factor)
    config = DeviceConfig(exits=exits, selection=SELECTION, statistics_batch_frames=8, statistics=statistics)
    with LoopDevice(bundle, config, seed=0, cloud=cloud, adapt=ADAPT) as device:
        return play_worlds(device, worlds)


def world(name: str, num_frames: int, *, seed: int, **more: Any) -> World:
    frames, labels = source_like(num_frames, seed=seed, **more)
    return World(name=name, frames=frames, labels=labels)


@pytest.mark.parametrize("kept", [True, False], ids=["pixels-kept", "negative-control"])
def test_exits_stay_on_through_new_versions_of_the_same_world(bundle: Bundle, kept: bool) -> None:
    exits = ExitConfig(control=CONTROL, personal=None, ring_pixels_bytes=1 << 20 if kept else 0)
    told = played(bundle, world("clean", 640, seed=1), exits=exits, near_factor=0.0)  # else no version serves
    later = told[320:]
    serving = sum(each.serving for each in later) / len(later)
    assert later[-1].version > later[0].version > 0, "versions came all the time"
    assert sum(each.answer != each.full for each in told) <= RISK * len(told)
    if kept:
        assert serving > 0.9
        assert sum(each.early for each in later) > 0.3 * len(later)
    else:
        assert serving < 0.5, "each version was checked on new frames"


def test_near_the_source_its_values_serve_beside_exits_too(bundle: Bundle) -> None:
    told = played(bundle, world("clean", 320, seed=1), exits=ExitConfig(control=CONTROL, personal=None))
    assert {each.version for each in told} == {0}, "the test above has versions here, without the bound"
    assert sum(each.early for each in told) > 0.3 * len(told)


@pytest.mark.parametrize("recheck", [True, False], ids=["recheck", "negative-control"])
def test_in_another_world_the_promise_holds_and_without_the_recheck_it_does_not(bundle: Bundle, recheck: bool) -> None:
    exits = ExitConfig(control=replace(CONTROL, recheck=recheck), personal=None)
    clean, whole = world("clean", 260, seed=1), world("half grey", 500, seed=2)
    grey = replace(whole, frames=np.where(np.arange(16)[:, None] < 8, whole.frames, 128).astype(np.uint8))
    told = played(bundle, clean, grey, exits=exits)
    first, second = points(told, ["clean", "half grey"], full_macs=1000, risk=RISK)[:2]
    assert first["early"] > 0.2
    assert first["risk"] <= RISK
    assert second["early"] > 0.1
    assert (second["risk"] <= RISK) is recheck
    if not recheck:
        assert second["p_broken"] < 0.01


# -- what is made of it --------------------------------------------------------------------------------------------


def told(world: int, count: int, *, early: float, wrong: float, serving: bool = True) -> list[Told]:
    """Frames of which the first share left early, and of these the first share with another answer."""
    leaves = round(early * count)
    lost = round(wrong * count)
    return [
        Told(
            world=world, label=1, answer=0 if i < lost else 1, full=1, early=i < leaves, serving=serving,
            audited=False, macs=500.0, version=world, scene=world, alarms=0, rechecks=world, personal=0,
        )
        for i in range(count)
    ]  # fmt: skip


def test_recovery_is_the_rate_at_the_end_of_worlds_over_that_of_the_first() -> None:
    frames = [
        *told(0, SETTLED, early=0.8, wrong=0.01), *told(1, 200, early=0.0, wrong=0.0, serving=False),
        *told(1, SETTLED, early=0.6, wrong=0.01), *told(2, SETTLED, early=0.4, wrong=0.01),
        *told(3, SETTLED, early=0.8, wrong=0.01),
    ]  # fmt: skip
    found = recovery(points(frames, ["a", "b", "c", "a"], full_macs=1000, risk=0.05))
    assert found["exit_rate_recovery_fraction"] == pytest.approx((0.6 + 0.4) / 2 / 0.8)
    assert found["exit_rate_recovery_fraction_worst"] == pytest.approx(0.5)
    assert found["exit_rate_recovery_fraction_back"] == pytest.approx(1.0)


def test_windows_count_only_where_thresholds_were_in_force() -> None:
    frames = [*told(0, 500, early=0.5, wrong=0.02), *told(1, 250, early=0.0, wrong=0.0, serving=False)]
    frames += told(1, 250, early=0.5, wrong=0.3)
    rows = points(frames, ["a", "b"], full_macs=1000, risk=0.05)
    drifted = rows[-1]
    assert (drifted["windows"], drifted["windows_over"], drifted["windows_broken"]) == (1, 1, 1)
    assert drifted["worst_window_risk"] == pytest.approx(0.3)
    assert drifted["checking"] == pytest.approx(0.5)
    assert rows[0]["macs_share"] == pytest.approx(0.5)


def test_what_speaks_against_a_promise_is_counted_exactly() -> None:
    found = promise(10, 100, 0.05)
    binomial = np.random.default_rng(0).binomial(100, 0.05, 200_000)
    assert found["p_broken"] == pytest.approx(float((binomial >= 10).mean()), abs=0.003)
    assert found["risk_low"] < 0.1 < found["risk_high"]
    assert promise(0, 100, 0.05)["p_broken"] == 1
    assert promise(0, 0, 0.05)["risk_serving"] is None
