"""What sets each on-device method apart, each with its guard off as the control."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_world import World
from torch import Tensor

from littoral.bench.baselines.cotta import CottaLearner, CottaSettings
from littoral.bench.baselines.eata import EataLearner, EataSettings, fisher_information
from littoral.bench.baselines.eta import EtaLearner, EtaSettings
from littoral.bench.baselines.networks import copies, to_tensor
from littoral.bench.baselines.rdumb import RdumbLearner, RdumbSettings
from littoral.bench.baselines.roid import (
    RoidLearner,
    RoidSettings,
    correct_prior,
    roid,
    roid_weights,
    soft_likelihood_ratio,
    symmetric_cross_entropy,
)
from littoral.bench.baselines.sar import SarLearner, SarSettings, is_left_out

Batches = Callable[[int], list[np.ndarray]]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    return float(torch.stack([(x.detach() - y).norm() for x, y in zip(a, b, strict=True)]).norm())


# -- ETA and EATA ------------------------------------------------------------------------------------------------------


def logits_of(answers: list[list[float]]) -> Tensor:
    return torch.tensor(answers).log()


def test_eta_keeps_what_is_sure_and_unlike_the_mean_answer(world: World) -> None:
    learner = EtaLearner(world.setup(), EtaSettings(diversity_margin=0.6))
    first = logits_of([[0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.25, 0.25]])
    entropy = torch.tensor([0.17, math.log(4)])
    assert learner.select(first, entropy).tolist() == [True, False]
    second = logits_of([[0.96, 0.02, 0.01, 0.01], [0.01, 0.97, 0.01, 0.01]])
    assert learner.select(second, torch.tensor([0.2, 0.17])).tolist() == [False, True]  # the first is like the mean
    expected = 0.9 * torch.tensor([0.97, 0.01, 0.01, 0.01]) + 0.1 * torch.tensor([0.01, 0.97, 0.01, 0.01])
    assert learner.marginal is not None
    torch.testing.assert_close(learner.marginal, expected)
    lenient = EtaLearner(world.setup(), EtaSettings(diversity_margin=1.1))
    lenient.select(first, entropy)
    assert lenient.select(second, torch.tensor([0.2, 0.17])).tolist() == [True, True]


def test_eta_takes_no_step_where_nothing_passes(world: World) -> None:
    setup = world.setup()
    strict, usual = (EtaLearner(setup, EtaSettings(entropy_max_fraction=f)) for f in (1e-9, 0.4))
    for learner in (strict, usual):
        before = copies(learner.parameters)
        learner.learn(to_tensor(world.frames[:32], setup))
        moved = distance(learner.parameters, before)
        assert (moved > 0) == (learner is usual)
        assert (learner.work.backward_frames > 0) == (learner is usual)


@pytest.mark.parametrize(("num_classes", "margin"), [(10, 0.4), (100, 0.1), (1000, 0.05), (4, 0.625)])
def test_the_diversity_margin_is_the_official_one_where_there_is_one(num_classes: int, margin: float) -> None:
    assert EtaSettings().margin(num_classes) == pytest.approx(margin)


def test_eata_s_penalty_holds_the_source_and_a_weight_of_zero_is_eta(world: World, batches: Batches) -> None:
    setup = world.setup()

    def end(learner: EtaLearner) -> list[Tensor]:
        for batch in batches(32):
            learner.learn(to_tensor(batch, setup))
        return copies(learner.parameters)

    settings = EataSettings(fisher_batch=64, fisher_frames=128, lr=0.02)
    fisher = fisher_information(setup, settings)
    source = copies(EtaLearner(setup, settings).parameters)
    free = end(EtaLearner(setup, settings))
    loose = end(EataLearner(setup, EataSettings(fisher_weight=0.0, lr=0.02), fisher))
    tied = end(EataLearner(setup, EataSettings(fisher_weight=1e6, lr=0.02), fisher))
    assert distance(loose, free) < 1e-6
    assert distance(tied, source) < 0.6 * distance(free, source)


def test_fisher_information_is_the_mean_squared_gradient_over_batches_of_source_frames(world: World) -> None:
    setup = world.setup()
    settings = EataSettings(fisher_batch=100, fisher_frames=200)
    fisher = fisher_information(setup, settings)
    assert all(bool((f >= 0).all()) for f in fisher)
    assert sum(float(f.sum()) for f in fisher) > 0
    one_batch = fisher_information(setup, EataSettings(fisher_batch=200, fisher_frames=200))
    assert distance(fisher, one_batch) > 0


# -- SAR ---------------------------------------------------------------------------------------------------------------


def test_sar_goes_back_to_the_source_when_its_loss_has_collapsed_and_only_then(world: World, batches: Batches) -> None:
    setup = world.setup()
    for threshold, resets in ((10.0, 3), (0.0, 0)):
        learner = SarLearner(setup, SarSettings(reset_below_nats=threshold))
        for batch in batches(32)[:3]:
            learner.learn(to_tensor(batch, setup))
        assert learner.num_resets == resets
        assert (distance(learner.parameters, learner.source) == 0) == (resets > 0)


def test_sar_steps_down_the_slope_found_at_the_top_of_its_climb(world: World) -> None:
    setup = world.setup()
    x = to_tensor(world.frames[:32], setup)
    learner = SarLearner(setup, SarSettings(lr=0.1, momentum=0.0, reset_below_nats=0.0))

    def gradient(parameters: list[torch.nn.Parameter], keep: Tensor | None) -> tuple[list[Tensor], Tensor]:
        logits = learner.model(learner.input(x))
        entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
        kept = entropy.detach() < learner.entropy_max
        kept = kept if keep is None else kept & keep
        return list(torch.autograd.grad(entropy[kept].mean(), parameters)), kept

    start = copies(learner.parameters)
    slope, kept = gradient(learner.parameters, None)
    norm = torch.stack([g.norm() for g in slope]).norm()
    with torch.no_grad():
        for parameter, g in zip(learner.parameters, slope, strict=True):
            parameter += 0.05 * g / norm
    higher, _ = gradient(learner.parameters, kept)
    with torch.no_grad():
        for parameter, value in zip(learner.parameters, start, strict=True):
            parameter.copy_(value)
    learner.learn(x)
    expected = [value - 0.1 * g for value, g in zip(start, higher, strict=True)]
    assert distance(learner.parameters, expected) < 1e-5
    plain = [value - 0.1 * g for value, g in zip(start, slope, strict=True)]
    assert distance(learner.parameters, plain) > 1e-4
    assert learner.work.forward_frames == learner.work.backward_frames == 64


def test_sar_leaves_out_the_layers_that_its_authors_leave_out() -> None:
    left = ["layer4.0.bn1", "blocks.9.norm1", "blocks.11.norm2", "norm"]
    assert all(map(is_left_out, left))
    assert not any(map(is_left_out, ["layer3.0.bn1", "blocks.1.norm1", "bn1", "stem.norm"]))


# -- RDumb -------------------------------------------------------------------------------------------------------------


def test_rdumb_is_eta_until_its_reset_and_a_fresh_eta_after_it(world: World, batches: Batches) -> None:
    setup = world.setup()
    settings = RdumbSettings(reset_after=3, lr=0.01)
    dumb, eta, fresh = RdumbLearner(setup, settings), EtaLearner(setup, settings), EtaLearner(setup, settings)
    for index, batch in enumerate(batches(32)[:5]):
        x = to_tensor(batch, setup)
        by_dumb, by_eta = dumb.learn(x), eta.learn(x)
        if index < 3:
            torch.testing.assert_close(by_dumb, by_eta)
        else:
            torch.testing.assert_close(by_dumb, fresh.learn(x))
            assert not torch.allclose(by_dumb, by_eta, atol=1e-4)


# -- CoTTA -------------------------------------------------------------------------------------------------------------


def test_cotta_restores_the_stated_share_of_all_parameters(world: World) -> None:
    setup = world.setup()
    for share in (0.0, 0.3):
        learner = CottaLearner(setup, CottaSettings(restore=share, num_augmentations=1, lr=0.01), 0)
        learner.learn(to_tensor(world.frames[:32], setup))
        back = torch.cat([(p == s).reshape(-1) for p, s in zip(learner.parameters, learner.source, strict=True)])
        assert float(back.float().mean()) == pytest.approx(share, abs=0.04)
    assert {p.dim() for p in learner.parameters} >= {1, 2, 4}  # convolutions and the head learn too


def test_cotta_s_teacher_moves_a_thousandth_towards_the_student_and_answers(world: World, batches: Batches) -> None:
    setup = world.setup()
    learner = CottaLearner(setup, CottaSettings(num_augmentations=2, restore=0.0, lr=0.01), 0)
    before = copies(learner.teacher.parameters())
    x = to_tensor(batches(32)[0], setup)
    learner.learn(x)
    expected = [b + 0.001 * (s.detach() - b) for b, s in zip(before, learner.parameters, strict=True)]
    assert distance(list(learner.teacher.parameters()), expected) < 1e-6
    torch.testing.assert_close(learner.predict(x), learner.teacher(learner.input(x)).detach())


@pytest.mark.parametrize(("sure_above", "unsure"), [(0.0, 0), (1.1, 2)])
def test_cotta_augments_only_where_the_source_is_unsure(
    sure_above: float, unsure: int, world: World, batches: Batches
) -> None:
    setup = world.setup()
    learner = CottaLearner(setup, CottaSettings(sure_above=sure_above, num_augmentations=4), 0)
    for batch in batches(32)[:2]:
        learner.learn(to_tensor(batch, setup))
    assert learner.num_unsure == unsure
    assert learner.work.forward_frames == 64 * (2 + (4 if unsure else 1))


# -- ROID --------------------------------------------------------------------------------------------------------------


def test_roid_gives_a_hundredth_of_the_weights_back_to_the_source_each_step(world: World) -> None:
    setup = world.setup()
    moved = []
    for keep in (0.99, 1.0):
        learner = RoidLearner(setup, RoidSettings(source_momentum=keep), 0)
        learner.learn(to_tensor(world.frames[:32], setup))
        moved.append([p.detach() - s for p, s in zip(learner.parameters, learner.source, strict=True)])
    ratio = [float(a.norm() / b.norm()) for a, b in zip(*moved, strict=True) if float(b.norm()) > 0]
    assert ratio == pytest.approx([0.99] * len(ratio), abs=1e-3)


def test_roid_as_the_table_runs_it_is_as_published(world: World) -> None:
    setup = world.setup()
    method, x = roid(setup), to_tensor(world.frames[:32], setup)
    method.answer(world.frames[:32])
    learner = method.devices[0].learner
    assert isinstance(learner, RoidLearner)
    settings = learner.settings
    assert (settings.source_momentum, settings.marginal_momentum, settings.temperature) == (0.99, 0.9, 1 / 3)
    assert (settings.use_weighting, settings.use_consistency, settings.use_prior_correction) == (True, True, True)
    free = RoidLearner(setup, replace(settings, source_momentum=1.0), 0)
    free.learn(x)
    kept, gone = (distance(each.parameters, each.source) for each in (learner, free))
    assert kept == pytest.approx(0.99 * gone, rel=1e-3)


def test_roid_answers_with_the_prior_corrected(world: World) -> None:
    setup = world.setup()
    x = to_tensor(world.frames[:32], setup)
    plain = RoidLearner(setup, RoidSettings(use_prior_correction=False), 0).learn(x)
    corrected = RoidLearner(setup, RoidSettings(), 0).learn(x)
    torch.testing.assert_close(corrected, correct_prior(plain))
    assert not torch.allclose(corrected, plain, atol=1e-3)


def test_roid_leaves_out_answers_that_are_less_diverse_than_the_mean_and_prefers_sure_ones() -> None:
    answers = logits_of([[0.9, 0.04, 0.03, 0.03], [0.04, 0.9, 0.03, 0.03], [0.2, 0.6, 0.1, 0.1]])
    marginal = torch.tensor([0.7, 0.1, 0.1, 0.1])
    weights = roid_weights(answers, marginal, 1 / 3)
    assert weights[0] == 0
    assert weights[1] == pytest.approx(math.exp(3), rel=1e-4)  # most diverse and surest
    assert 0 <= float(weights[2]) < float(weights[1])
    everyone = roid_weights(answers, torch.full((4,), 0.25), 1e9)
    assert float(everyone.max()) == pytest.approx(1, abs=1e-6)


def test_roid_s_losses_are_what_they_say() -> None:
    z = torch.tensor([[2.0, 0.0, -1.0]])
    p = z.softmax(1)[0]
    slr = -sum(float(q * torch.log(q / (1 - q) + 1e-5)) for q in p)
    assert float(soft_likelihood_ratio(z)[0]) == pytest.approx(slr, rel=1e-5)
    assert torch.isfinite(soft_likelihood_ratio(torch.tensor([[200.0, 0.0, 0.0]]))).all()
    other = torch.tensor([[0.0, 1.0, 0.0]])
    forth = -(other.softmax(1) * z.log_softmax(1)).sum()
    back = -(z.softmax(1) * other.log_softmax(1)).sum()
    assert float(symmetric_cross_entropy(z, other)[0]) == pytest.approx(float(forth + back) / 2, rel=1e-6)


def test_prior_correction_multiplies_by_the_smoothed_marginal() -> None:
    z = torch.tensor([[2.0, 1.9, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]])
    prior = z.softmax(1).mean(0)
    smooth = (1 / 3) / prior.max()
    torch.testing.assert_close(correct_prior(z), z * (prior + smooth) / (1 + 4 * smooth))
    assert correct_prior(z)[0].argmax() == 1  # the frequent class wins a close race
    assert z[0].argmax() == 0


def test_roid_stays_finite_on_a_batch_of_one_frame(world: World) -> None:
    setup = world.setup()
    learner = RoidLearner(setup, RoidSettings(), 0)
    assert torch.isfinite(learner.learn(to_tensor(world.frames[:1], setup))).all()
    assert all(bool(torch.isfinite(p).all()) for p in learner.parameters)
