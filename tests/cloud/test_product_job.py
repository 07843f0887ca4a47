"""What the product's job adds to the published one: mini-batches of one domain, mirror images, a guarded teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from littoral.bundle import Bundle
from littoral.cloud.adapt import MIRROR_AGREEMENT, Worker
from littoral.cloud.jobs import AdaptConfig, AdaptJob
from littoral.cloud.teacher import divergence_from_teacher, fitted_temperature, shifted, spread
from littoral.models.norm import adaptive_state, learn

CONFIG = AdaptConfig(batch_size=16, inner_steps=2, settled_nats=0.0)
EXACT = dataclasses.replace(CONFIG, augment=False, precision="float32")


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, require_cloud=True)


def job(bundle: Bundle, *, new: int = 16, replay: int = 16, state: bytes = b"") -> AdaptJob:
    frames = np.resize(bundle.probe[0], (new + replay, *bundle.manifest.input.shape)) // 2
    return AdaptJob(base_version=0, state=state, new_frames=frames[:new], replay_frames=frames[new:], seed=3)


# Mini-batches.


@pytest.mark.parametrize(("minibatch", "drawn"), [(8, 8), (20, 20), (64, 32), (None, 32)])
def test_a_step_draws_no_more_than_a_mini_batch_with_its_targets(
    tiny: Bundle, minibatch: int | None, drawn: int
) -> None:
    worker = Worker(tiny, dataclasses.replace(CONFIG, minibatch_size=minibatch, augment=False))
    new, replay = torch.arange(16.0).view(16, 1, 1, 1), torch.arange(16.0, 32.0).view(16, 1, 1, 1)
    ours, old, targets = worker._draw(new, replay, torch.arange(32.0).view(32, 1), torch.Generator())
    assert len(ours) + len(old) == len(targets) == drawn
    assert torch.equal(torch.cat([ours, old]).flatten(), targets.flatten())
    assert (ours < 16).all()
    assert (old >= 16).all()


def test_frames_of_one_domain_share_their_statistics_and_others_do_not(tiny: Bundle) -> None:
    task = job(tiny)
    mixed = dataclasses.replace(task, replay_frames=255 - task.replay_frames)
    together, apart = (Worker(tiny, dataclasses.replace(CONFIG, one_domain=one)) for one in (True, False))
    assert together.adapt(mixed).payload != apart.adapt(mixed).payload


def test_frames_are_shifted_with_a_reflected_border_and_mirrored() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(shifted(x, [1, 0], False)[0, 0, 1:], x[0, 0, :3])
    assert torch.equal(shifted(x, [1, 0], False)[0, 0, 0], x[0, 0, 1])
    assert torch.equal(shifted(x, [0, -1], False)[0, 0, :, :3], x[0, 0, :, 1:])
    assert torch.equal(shifted(x, [0, 0], True), x.flip(3))
    assert shifted(x[:0], [1, 1], True).shape == (0, 1, 4, 4)


# Mirror images are used where the teacher says that they mean the same.


def test_mirroring_is_off_where_the_teacher_answers_mirror_images_otherwise(tiny: Bundle) -> None:
    worker = Worker(tiny, CONFIG)
    assert worker.mirrors == (worker._mirror_agreement() >= MIRROR_AGREEMENT)
    symmetric = Worker(tiny, CONFIG)
    teacher = symmetric.teacher.forward
    symmetric.teacher.forward = lambda x: teacher((x + x.flip(3)) / 2)  # type: ignore[method-assign]
    assert symmetric._mirror_agreement() == 1.0
    assert not Worker(tiny, dataclasses.replace(CONFIG, augment=False)).mirrors


def test_targets_of_a_worker_that_mirrors_are_the_mean_of_both_answers(tiny: Bundle) -> None:
    worker = Worker(tiny, CONFIG)
    new, replay = worker._input(job(tiny).new_frames), worker._input(job(tiny).replay_frames)
    worker.mirrors = False
    plain = worker._targets(new, replay).softmax(1)
    flipped = worker._targets(new.flip(3), replay.flip(3)).softmax(1)
    worker.mirrors = True
    torch.testing.assert_close(worker._targets(new, replay).softmax(1), (plain + flipped) / 2)


# The teacher's guard.


def test_each_job_draws_the_teacher_back_towards_its_source(tiny: Bundle) -> None:
    def distance(recall: float) -> float:
        worker = Worker(tiny, dataclasses.replace(CONFIG, teacher_lr=0.05, teacher_recall=recall))
        kept = load(worker.adapt(job(tiny)).state)
        source = worker._source["teacher"]
        return float(
            sum(np.abs(kept[f"teacher/{n}"] - v.numpy()).sum() for n, v in source.items() if "running" not in n)
        )

    assert distance(0.5) == pytest.approx(distance(0.0) / 2, rel=1e-3)
    assert distance(1.0) == pytest.approx(0.0, abs=1e-5)


def collapsed_state(worker: Worker, task: AdaptJob) -> bytes:
    """The state of a job whose teacher then answers one class to everything."""
    worker.adapt(task)
    with torch.no_grad():
        last = [p for p in worker.teacher.parameters() if p.requires_grad][-2:]
        for values in last:
            values.zero_()
    return worker._state(worker._optimisers())


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
def test_a_teacher_that_gives_one_answer_to_everything_starts_anew(tiny: Bundle, guarded: bool) -> None:
    config = dataclasses.replace(
        CONFIG, teacher_lr=1e-12, teacher_recall=0.0, teacher_min_spread=0.5 if guarded else 0.0
    )
    worker = Worker(tiny, config)
    task = job(tiny)
    fresh = worker.adapt(task)
    result = worker.adapt(dataclasses.replace(task, state=collapsed_state(worker, task)))
    assert fresh.report["teacher_restarted"] == 0.0
    assert result.report["teacher_restarted"] == float(guarded)
    kept = load(result.state)
    at_source = all(
        np.array_equal(kept[f"teacher/{name}"], value.numpy())
        for name, value in worker._source["teacher"].items()
        if "running" not in name
    )
    assert at_source == guarded


def test_a_teacher_that_stands_still_is_the_sources_whatever_a_state_holds(tiny: Bundle) -> None:
    """A cloud whose teacher used to learn, and learns no more."""
    worker = Worker(tiny, dataclasses.replace(CONFIG, teacher_lr=0.0))
    task = job(tiny)
    collapsed = collapsed_state(worker, task)
    results = [worker.adapt(dataclasses.replace(task, state=s)) for s in (collapsed, without_teacher(collapsed))]
    assert results[0].report["teacher_entropy_nats"] == results[1].report["teacher_entropy_nats"]
    assert results[0].payload == results[1].payload


def without_teacher(state: bytes) -> bytes:
    kept = {name: value for name, value in load(state).items() if not name.startswith("teacher/")}
    return save(kept, metadata={"schema": "1"})


def test_the_spread_of_answers_is_the_entropy_of_their_labels() -> None:
    assert spread(np.eye(4, dtype=np.float32)) == pytest.approx(np.log(4))
    assert spread(np.ones((8, 4), np.float32)) == 0.0


# Confidence.


def test_a_students_temperature_is_fitted_and_its_confidence_costs_nothing() -> None:
    """Logits four times as large say the same more surely: at the fitted temperature they diverge no more."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (64, 10)).astype(np.float32))
    assert fitted_temperature(logits, logits) == 1.0
    assert fitted_temperature(4 * logits, logits) == 4.0
    assert fitted_temperature(logits / 2, logits) == 0.5
    assert (
        divergence_from_teacher(4 * logits / 4.0, logits).mean()
        < 1e-6
        < divergence_from_teacher(4 * logits, logits).mean()
    )


@pytest.mark.parametrize("fitted", [True, False])
def test_a_students_confidence_moves_it_only_where_it_is_not_fitted_out(tiny: Bundle, fitted: bool) -> None:
    """A student that says the teacher's very answers, four times as surely."""
    worker = Worker(tiny, dataclasses.replace(EXACT, fitted_temperature=fitted, label_weight=0.0))
    worker._restore(b"")
    x = worker._input(tiny.probe[0][:16])
    learn(worker.student, True)
    logits = worker.student(x).detach()
    before = {name: value.detach().clone() for name, value in adaptive_state(worker.student) if "running" not in name}
    sgd = torch.optim.SGD([p for p in worker.student.parameters() if p.requires_grad], lr=0.1)
    _, divergence = worker._student_step(x, x[:0], logits / 4, sgd)
    moved = max(
        float((value.detach() - before[name]).abs().max())
        for name, value in adaptive_state(worker.student)
        if name in before
    )
    assert (divergence < 1e-6) == fitted
    assert (moved < 1e-6) == fitted
