"""What the on-device methods share: the ring of recent frames, learning rates, what learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from baseline_world import World
from torch import Tensor

from littoral.bench.baselines.eta import eta
from littoral.bench.baselines.networks import place, to_tensor
from littoral.bench.baselines.online import Learner, OnlineSettings, Windowed, WindowSettings
from littoral.bench.baselines.tent import TentLearner, TentSettings, tent
from littoral.bench.method import Setup
from littoral.models.zoo import small_cnn

Batches = Callable[[int], list[np.ndarray]]


class Watched(Learner):
    """Notes what it is given."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(place(setup.student(), setup), setup)
        self.learned: list[Tensor] = []
        self.predicted: list[Tensor] = []

    def learn(self, frames_BHWC: Tensor) -> Tensor:
        self.learned.append(frames_BHWC.clone())
        return self.predict(frames_BHWC)

    def predict(self, frames_BHWC: Tensor) -> Tensor:
        self.predicted.append(frames_BHWC.clone())
        return super().predict(frames_BHWC)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_at_small_batches_answers_use_the_ring_and_a_step_waits_until_all_of_it_is_new(
    size: int, world: World, batches: Batches
) -> None:
    setup = world.setup(batch_size=size)
    learner = Watched(setup)
    windowed = Windowed(learner, WindowSettings(length=16), size)
    seen: list[np.ndarray] = []
    for batch in batches(size)[:40]:
        seen += list(batch)
        windowed.logits(to_tensor(batch, setup))
        given = learner.predicted[-1]
        recent = np.stack(seen[-16:])
        assert sorted(map(bytes, given.numpy())) == sorted(map(bytes, recent))
    assert len(learner.learned) == len(seen) // (-(-16 // size) * size)


def test_an_answer_by_the_ring_is_the_one_for_the_newest_frame(world: World, batches: Batches) -> None:
    setup = world.setup(batch_size=1)
    learner, window = Watched(setup), WindowSettings(length=16)
    windowed = Windowed(learner, window, 1)
    for frame in batches(1)[:21]:
        logits = windowed.logits(to_tensor(frame, setup))
    direct = Watched(setup).predict(to_tensor(np.concatenate(batches(1)[5:21]), setup))
    torch.testing.assert_close(logits, direct[-1:], atol=1e-5, rtol=1e-4)
    alone = Watched(setup).predict(to_tensor(batches(1)[20], setup))
    assert not torch.allclose(logits, alone, atol=1e-2)


def test_renewing_statistics_less_often_saves_passes_and_hardly_changes_answers(world: World, batches: Batches) -> None:
    setup = world.setup(batch_size=1)
    every, seldom = (Windowed(Watched(setup), WindowSettings(length=32, refresh=n), 1) for n in (1, 8))
    agree = []
    for frame in batches(1)[:96]:
        a, b = (w.logits(to_tensor(frame, setup)).argmax(1) for w in (every, seldom))
        agree.append(bool(torch.equal(a, b)))
    assert np.mean(agree) > 0.9
    assert seldom.learner.work.forward_frames < 0.6 * every.learner.work.forward_frames


def test_a_large_batch_goes_straight_to_the_learner(world: World, batches: Batches) -> None:
    setup = world.setup(batch_size=16)
    learner = Watched(setup)
    windowed = Windowed(learner, WindowSettings(), 16)
    for batch in batches(16)[:3]:
        windowed.logits(to_tensor(batch, setup))
    assert [len(given) for given in learner.learned] == [16, 16, 16]


def test_a_network_without_batch_norm_does_not_pay_for_the_ring(world: World, batches: Batches) -> None:
    setup = world.setup(
        batch_size=1, student=lambda: small_cnn(width=4, num_classes=4, channels=3, depth=1, norm="group")
    )
    method = tent(setup)
    for frame in batches(1)[:20]:
        method.answer(frame)
    assert method.costs.forward_frames == 20


def test_learning_rates_are_the_official_ones_unless_scaled_by_hand() -> None:
    official = OnlineSettings()
    assert [official.lr_for(size) for size in (200, 64, 16, 1)] == [0.001] * 4
    scaled = dataclasses.replace(official, lr_scaling="linear")
    assert scaled.lr_for(200) == pytest.approx(0.001)
    assert scaled.lr_for(64) == pytest.approx(0.00032)
    assert scaled.lr_for(1) == pytest.approx(0.00032)  # updates see the whole ring


def test_notes_and_passes_are_summed_over_the_devices(world: World, batches: Batches) -> None:
    one, two = eta(world.setup()), eta(world.setup(num_devices=2))
    for batch in batches(32)[:3]:
        one.answer(batch)
        for device in (0, 1):
            two.answer(batch, device=device)
    assert one.costs.notes["selected_frames"] > 0
    assert two.costs.notes["selected_frames"] == 2 * one.costs.notes["selected_frames"]
    assert two.costs.forward_frames == 2 * one.costs.forward_frames == 192


def test_a_ring_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="a window needs"):
        WindowSettings(below=65, length=64)


def test_tent_moves_affine_values_alone_and_lowers_the_entropy(world: World) -> None:
    setup = world.setup()
    learner = TentLearner(setup, TentSettings(lr=0.01))
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    x = to_tensor(world.frames[:64], setup)
    first = learner.learn(x)
    for _ in range(10):
        last = learner.learn(x)
    moved = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, _ in learner.model.named_parameters() if ".norm." in name}

    def entropy(z: Tensor) -> float:
        return float(-(z.softmax(1) * z.log_softmax(1)).sum(1).mean())

    assert entropy(last) < entropy(first) - 0.02


def test_batch_statistics_help_where_the_source_s_fail(world: World, batches: Batches) -> None:
    from littoral.bench.baselines import BASELINES

    def accuracy(name: str) -> float:
        method = BASELINES[name](world.setup())
        return float((np.concatenate([method.answer(b) for b in batches(32)]) == world.labels).mean())

    assert accuracy("batch_norm") > accuracy("source") + 0.1
