"""Early exits learn with the student: what that is worth to them, and what cannot be taught is left alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from littoral.bundle import Bundle
from littoral.cloud.adapt import Worker
from littoral.cloud.exits import TaughtExits
from littoral.cloud.jobs import AdaptConfig, AdaptJob
from littoral.cloud.teacher import divergence_from_teacher
from littoral.models.norm import learn

CONFIG = AdaptConfig(inner_steps=40, settled_nats=0.0, augment=False, fitted_temperature=False, student_lr=0.05)


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, require_cloud=True)


def exits_of(worker: Worker) -> TaughtExits:
    """One exit on the first normalisation layer that the student has, with a drawn head."""
    place = next(module for module in worker.student.modules() if hasattr(module, "running_mean"))
    stem = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    torch.manual_seed(0)
    head = nn.Linear(16 * place.running_mean.numel(), worker.bundle.manifest.num_classes)
    return TaughtExits([place], [stem], [head])


def divergence(worker: Worker, exits: TaughtExits, frames: np.ndarray) -> float:
    x = worker._input(frames)
    with torch.no_grad():
        learn(worker.student, True)
        learn(worker.teacher, True)
        exits.watch()
        worker.student(x)
        (said,) = exits.answers()
        found = float(divergence_from_teacher(said, worker.teacher(x)).mean())
        learn(worker.student, False)
        learn(worker.teacher, False)
    return found


def frames_of(tiny: Bundle) -> np.ndarray:
    return (np.resize(tiny.probe[0], (48, *tiny.manifest.input.shape)) // 3 + 20).astype(np.uint8)


@pytest.mark.parametrize("normalisation", ["one-domain", "parts"])
def test_an_exit_comes_nearer_to_the_teacher_and_with_no_weight_it_does_not(tiny: Bundle, normalisation: str) -> None:
    left = {}
    for weight in (3.0, 0.0):
        config = dataclasses.replace(CONFIG, exit_weight=weight, one_domain=normalisation == "one-domain")
        worker = Worker(tiny, config, device="cpu")
        exits = exits_of(worker)
        worker._exits = exits if weight else None
        before = divergence(worker, exits, frames_of(tiny))
        job = AdaptJob(
            base_version=0, state=b"", new_frames=frames_of(tiny)[:32], replay_frames=frames_of(tiny)[32:], seed=1
        )
        worker.adapt(job)
        left[weight] = divergence(worker, exits, frames_of(tiny)) / before
    assert left[3.0] < 0.97
    assert left[0.0] > 0.99


def test_exits_answer_only_while_they_are_watched_and_for_all_parts(tiny: Bundle) -> None:
    worker = Worker(tiny, CONFIG, device="cpu")
    exits, x = exits_of(worker), worker._input(frames_of(tiny)[:6])
    worker.student(x)
    exits.watch()
    for part in (x[:4], x[4:]):
        worker.student(part)
    (said,) = exits.answers()
    assert said.shape == (6, tiny.manifest.num_classes)
    worker.student(x)
    assert exits._said == [[]]
    assert not any(parameter.requires_grad for parameter in exits.parameters())


def test_a_bundle_without_exits_has_none_to_teach_and_one_on_no_module_is_left_alone(
    tiny: Bundle, tmp_path: Path, caplog: Any
) -> None:
    from exit_bundles import write_exit_bundle

    assert TaughtExits.of(tiny, Worker(tiny, CONFIG, device="cpu").student) is None
    bundle = write_exit_bundle(tiny.path, tmp_path / "b")
    assert TaughtExits.of(bundle, nn.Sequential()) is None
    assert "exits are not taught" in caplog.text


def test_a_bundles_exits_say_in_the_cloud_what_they_say_on_the_device(tiny: Bundle, tmp_path: Path) -> None:
    from exit_bundles import write_exit_bundle

    from littoral.bundle.exits import ExitHeads
    from littoral.edge.exit_parts import ExitParts
    from littoral.edge.session import Model, SessionConfig

    bundle = write_exit_bundle(tiny.path, tmp_path / "b")
    frames = tiny.probe[0][:4]
    heads = ExitHeads.open(bundle)
    parts, model = ExitParts(bundle, heads, SessionConfig()), Model(bundle)

    class Student(nn.Module):
        """Modules that are named as the segments' outputs, and give these."""

        def __init__(self) -> None:
            super().__init__()
            for index, segment in enumerate(bundle.manifest.segments):
                self.add_module(segment.output, Given(torch.tensor(model.run_until(index, frames))))

        def forward(self, x: Tensor) -> Tensor:
            for module in self.children():
                x = module(x)
            return x

    exits = TaughtExits.of(bundle, student := Student())
    assert exits is not None
    exits.watch()
    student(torch.zeros(1))
    for index, said in enumerate(exits.answers()):
        value = model.run_until(parts.all[index].after - 1, frames)
        expected = heads.heads[index].logits(parts.all[index].pooled_all(value))
        np.testing.assert_allclose(said.numpy(), expected, rtol=1e-4, atol=1e-4)


class Given(nn.Module):
    """Gives a value, whatever comes in."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.value
