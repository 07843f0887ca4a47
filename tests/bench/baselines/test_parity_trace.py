"""The published system against a trace worked by hand, in all of its forms."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from baseline_world import bundle_of
from parity_reference import Net, Reference
from torch import nn

from littoral.bench.baselines.cema import BATCH as BATCH_FORM
from littoral.bench.baselines.cema import PAPER, Cema
from littoral.bench.baselines.cema_cloud import CemaSettings
from littoral.bench.baselines.cema_select import SelectionSettings
from littoral.bench.method import Setup
from littoral.bundle import InputSpec

SPEC = InputSpec(height=2, width=3, channels=3, mean=(0.5, 0.4, 0.6), std=(0.2, 0.3, 0.25))
CLASSES, BATCH, NUM_BATCHES = 3, 16, 36
SMALL: dict[str, Any] = dict(batch_size=6, replay_ratio=2, replay_after=30, replay_capacity=40, live_batches=15)
LEARNING: dict[str, Any] = dict(student_lr=0.01, teacher_lr=0.005)  # large, so that a wrong step shows at once
MARGIN = 0.85
FORMS = {
    "shipped": CemaSettings(selection=SelectionSettings(diversity_margin=MARGIN), **SMALL, **LEARNING),
    "paper": dataclasses.replace(PAPER, **SMALL, **LEARNING),
    "batch": dataclasses.replace(BATCH_FORM, **SMALL, **LEARNING),
}


def network(seed: int) -> nn.Module:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(18, CLASSES)).eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(0.0, 0.6, parameter.shape)))
        model[0].weight.add_(1.0)
    return model


def frames() -> np.ndarray:
    """Batches of three brightnesses, so that some of them bring few uploads."""
    rng = np.random.default_rng(8)
    raw = rng.integers(0, 256, size=(NUM_BATCHES, BATCH, 2, 3, 3))
    contrast = np.where(np.arange(NUM_BATCHES) % 3 == 2, 0.25, 1.0)[:, None, None, None, None]
    return (128 + contrast * (raw - 128)).clip(0, 255).astype(np.uint8)


def setup(**changes: Any) -> Setup:
    values: dict[str, Any] = dict(
        bundle=bundle_of(SPEC, CLASSES),
        student=lambda: network(1),
        teacher=lambda: network(2),
        source_frames=frames()[0],
        seed=5,
        batch_size=BATCH,
    )
    return Setup(**{**values, **changes})


def reference(form: str) -> Reference:
    settings = FORMS[form]

    def net(seed: int, lr: float) -> Net:
        norm, _, linear = network(seed)
        return Net(
            *(p.detach().double().numpy() for p in (linear.weight, linear.bias, norm.weight, norm.bias)),
            lr=lr,
            momentum=0.9,
            statistics_momentum=0.1,
            own=form == "batch",
        )

    return Reference(
        student=net(1, settings.student_lr),
        teacher=net(2, settings.teacher_lr),
        num_classes=CLASSES,
        **SMALL,
        entropy_min=0.0 if form == "shipped" else 0.02 * np.log(3),
        follow=form != "shipped",
        margin=MARGIN if form == "shipped" else None,
        rng=np.random.default_rng(np.random.SeedSequence([5, 2])),
    )


def to_input(batch: np.ndarray) -> np.ndarray:
    x = (batch / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    return x.transpose(0, 3, 1, 2)


def far_off(method: Cema, truth: Reference) -> float:
    """The largest difference of anything that either side learns, in float32's terms."""
    worst = 0.0
    for model, net in ((method.cloud.student, truth.student), (method.cloud.teacher, truth.teacher)):
        layer: Any = model[0]  # type: ignore[index]
        if net.mean is None:
            continue
        statistics = () if net.own else ((layer.mean, net.mean), (layer.var, net.var))
        for mine, theirs in ((layer.weight, net.gamma), (layer.bias, net.beta), *statistics):
            worst = max(worst, float(np.abs(mine.detach().numpy() - theirs).max()))
    return worst


def play(method: Cema, truth: Reference) -> float:
    """Both through the whole stream; the largest difference, infinite where an answer or an upload differs."""
    worst = 0.0
    for batch in frames():
        answers = method.answer(batch)
        expected, mask = truth.infer(to_input(batch))
        if not (np.array_equal(answers, expected) and np.array_equal(method.last_mask, mask)):
            return np.inf
        worst = max(worst, far_off(method, truth))
    return worst


@pytest.mark.parametrize("form", FORMS)
def test_answers_uploads_steps_and_statistics_follow_the_trace_worked_by_hand(form: str) -> None:
    method, truth = Cema(setup(), FORMS[form]), reference(form)
    assert play(method, truth) < 1e-5
    assert set(truth.events) == {"new", "new+replay", "replay", "replay, statistics still"}
    assert method.cloud.student_steps == truth.student.steps
    assert 0 < method.costs.uploads < NUM_BATCHES * BATCH


@pytest.mark.parametrize(
    "wrong",
    [
        {"statistics_momentum": 0.0},
        {"momentum": 0.0},
        {"entropy_weight": 0.0},
        {"distillation_weight": 0.0},
        {"label_weight": 0.0},
        {"replay_after": 10_000},
        {"live_batches": 0},
        {"replay_capacity": 10_000},
        {"batch_size": 5},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_system_with_one_thing_wrong_does_not_follow_the_trace(wrong: dict[str, Any]) -> None:
    method = Cema(setup(), dataclasses.replace(FORMS["shipped"], **wrong))
    assert play(method, reference("shipped")) > 2e-3


@pytest.mark.parametrize("wrong", [{"update_first": True}, {"follow_entropy": False}, {"entropy_min_fraction": 0.0}])
def test_the_paper_form_follows_the_trace_only_with_its_own_order_and_thresholds(wrong: dict[str, Any]) -> None:
    selection = dataclasses.replace(PAPER.selection, **wrong)
    method = Cema(setup(), dataclasses.replace(FORMS["paper"], selection=selection))
    assert play(method, reference("paper")) > 2e-3


def test_by_each_batchs_own_statistics_is_another_system_and_gamma_and_beta_alone_travel() -> None:
    assert play(Cema(setup(), FORMS["paper"]), reference("batch")) > 2e-3
    sizes = [len(Cema(setup(), FORMS[form]).cloud.state()) for form in ("paper", "batch")]
    assert sizes == [4 * 3, 2 * 3]


def test_the_source_statistics_are_thrown_away_for_those_of_the_first_batch() -> None:
    def spoiled() -> nn.Module:
        model = network(1)
        model[0].running_mean.fill_(100.0)  # type: ignore[index, operator]
        return model

    assert play(Cema(setup(student=spoiled), FORMS["shipped"]), reference("shipped")) < 1e-5


def test_the_two_forms_select_differently() -> None:
    shipped, paper = (Cema(setup(), copy.deepcopy(FORMS[form])) for form in ("shipped", "paper"))
    masks = []
    for batch in frames():
        for method in (shipped, paper):
            method.answer(batch)
        masks.append((shipped.last_mask.copy(), paper.last_mask.copy()))
    assert any(not np.array_equal(a, b) for a, b in masks)
