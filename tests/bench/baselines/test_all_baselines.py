"""What every method of the table keeps: its answers' form, its seed, batch 1, and honest sums."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
from baseline_world import World

from littoral.bench.baselines import BASELINES
from littoral.bench.method import Method, Road

Batches = Callable[[int], list[np.ndarray]]
ON_THE_WIRE = {"parity_shipped", "parity_paper", "parity_batch", "teacher_everything", "teacher_answers"}
LEARNS_ON_DEVICE = {"tent", "eta", "eata", "sar", "cotta", "roid", "rdumb"}


def play(method: Method, batches: list[np.ndarray], *, devices: int = 1) -> np.ndarray:
    answers = [method.answer(batch, device=index % devices) for index, batch in enumerate(batches)]
    method.close()
    method.close()
    return np.concatenate(answers)


@pytest.mark.parametrize("name", BASELINES)
def test_answers_are_labels_and_the_same_seed_gives_the_same_answers(name: str, world: World, batches: Batches) -> None:
    first, second = (BASELINES[name](world.setup(batch_size=16)) for _ in range(2))
    answers = play(first, batches(16)[:4])
    assert answers.dtype == np.int64
    assert answers.shape == (64,)
    assert set(answers) <= set(range(4))
    assert np.array_equal(answers, play(second, batches(16)[:4]))
    assert first.costs.uplink_bytes == second.costs.uplink_bytes


@pytest.mark.parametrize("name", BASELINES)
def test_batch_one_gives_an_answer_to_every_frame(name: str, world: World, batches: Batches) -> None:
    method = BASELINES[name](world.setup(batch_size=1))
    answers = play(method, batches(1)[:70])
    assert answers.shape == (70,)
    assert (method.costs.backward_frames > 0) == (name in LEARNS_ON_DEVICE)


@pytest.mark.parametrize("name", BASELINES)
def test_what_a_method_spends_fits_what_it_does(name: str, world: World, batches: Batches) -> None:
    method = BASELINES[name](world.setup(batch_size=16))
    play(method, batches(16)[:4])
    costs = method.costs
    assert costs.frames == 0  # the harness counts them
    assert (costs.uploads > 0) == (costs.uplink_bytes > 0) == (name in ON_THE_WIRE)
    assert (costs.cloud_seconds > 0) == (name in ON_THE_WIRE)
    assert costs.uplink_bytes >= 100 * costs.uploads  # noise of 8 x 8 x 3 does not pack below that
    assert (costs.backward_frames > 0) == (name in LEARNS_ON_DEVICE)
    assert costs.forward_frames >= 64 or name == "teacher_everything"
    assert (costs.pushes > 0) == (costs.downlink_bytes > 0) == name.startswith("parity")


@pytest.mark.parametrize("name", sorted(ON_THE_WIRE))
def test_a_clouds_seconds_are_processor_time_whatever_else_the_machine_does(
    name: str, world: World, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(0.0, 3600.0)
    for clock in ("perf_counter", "monotonic", "time"):
        monkeypatch.setattr(time, clock, lambda: next(hours))
    method = BASELINES[name](world.setup(batch_size=16))
    play(method, batches(16)[:2])
    assert 0 < method.costs.cloud_seconds < 60


@pytest.mark.parametrize("name", BASELINES)
def test_several_devices_are_served_and_independent_ones_do_not_feel_each_other(
    name: str, world: World, batches: Batches
) -> None:
    alone = play(BASELINES[name](world.setup(batch_size=16)), batches(16)[:6:2])
    together = play(BASELINES[name](world.setup(batch_size=16, num_devices=2)), batches(16)[:6], devices=2)
    of_the_first = together.reshape(6, 16)[::2].reshape(-1)
    if not name.startswith("parity") and name != "teacher_answers":
        assert np.array_equal(of_the_first, alone)


@pytest.mark.parametrize("name", BASELINES)
def test_no_method_is_told_a_label(name: str, world: World) -> None:
    method = BASELINES[name](world.setup(batch_size=16))
    assert list(inspect.signature(method.answer).parameters) == ["frames_BHWC", "device"]


@pytest.mark.parametrize("name", BASELINES)
def test_a_road_with_delay_and_loss_is_survived(name: str, world: World, batches: Batches) -> None:
    method = BASELINES[name](world.setup(batch_size=16, road=Road(delay_batches=2, loss=0.5)))
    assert play(method, batches(16)[:5]).shape == (80,)
