"""Adaptation is a function: the same job gives the same bytes, whoever does it and whatever was done before."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from littoral.bundle import Bundle
from littoral.cloud.adapt import Worker
from littoral.cloud.jobs import AdaptConfig, AdaptJob
from littoral.core.affine import apply_delta, decode_delta, delta_bytes, violations
from littoral.core.arrays import Frame
from littoral.errors import BundleError, ModelOutputError
from littoral.models.norm import adaptive_state

QUICK = AdaptConfig(inner_steps=2)
PARITY = AdaptConfig.parity()
CONFIGS = pytest.mark.parametrize("config", [QUICK, PARITY], ids=["default", "parity"])


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, require_cloud=True)


def darker(tiny: Bundle, start: int, count: int = 16) -> Frame:
    """Probe frames as they look after a fall of contrast: something to adapt to."""
    frames = np.resize(tiny.probe[0], (64, *tiny.manifest.input.shape))[start : start + count]
    return (frames // 3 + 20).astype(np.uint8)


def job(tiny: Bundle, start: int = 0, *, state: bytes = b"", seed: int = 5, replay: int = 8, **other: Any) -> AdaptJob:
    fields = {"base_version": 0, "new_frames": darker(tiny, start), "replay_frames": tiny.probe[0][:replay], **other}
    return AdaptJob(state=state, seed=seed, **fields)


@contextmanager
def broken(bundle: Path, tmp_path: Path, **changes: Any) -> Iterator[Bundle]:
    """A bundle whose manifest was changed and made consistent again."""
    copy = tmp_path / "changed"
    shutil.copytree(bundle, copy)
    document = json.loads((copy / "bundle.json").read_bytes())
    document.update(changes)
    (copy / "bundle.json").write_text(json.dumps(document))
    yield Bundle.open(copy, require_cloud=True)


# The function.


@CONFIGS
def test_the_same_job_gives_the_same_bytes_twice_and_from_another_worker(tiny: Bundle, config: AdaptConfig) -> None:
    worker = Worker(tiny, config)
    results = [worker.adapt(job(tiny)), worker.adapt(job(tiny)), Worker(tiny, config).adapt(job(tiny))]
    assert len({result.payload for result in results}) == 1
    assert len({result.state for result in results}) == 1
    assert len(results[0].payload) == delta_bytes(tiny.manifest.norm_layers)


@CONFIGS
def test_what_the_worker_did_before_leaves_no_trace(tiny: Bundle, config: AdaptConfig) -> None:
    fresh, used = Worker(tiny, config), Worker(tiny, config)
    for start in (8, 24):
        other = used.adapt(job(tiny, start, seed=start))
        used.logits(darker(tiny, 0), role="student")
        used.logits(darker(tiny, 0), role="teacher")
        used.source_logits(darker(tiny, 0), tiny.source_affine)
    first, second = fresh.adapt(job(tiny)), used.adapt(job(tiny))
    assert (second.payload, second.state) == (first.payload, first.state)
    assert other.payload != first.payload


def test_a_job_draws_from_a_generator_of_its_own(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else draws in this process between its steps changes nothing, and is not changed."""
    config = AdaptConfig(inner_steps=4, minibatch_size=8, settled_nats=0.0)
    alone = Worker(tiny, config).adapt(job(tiny))
    disturbed = Worker(tiny, config)
    step = disturbed._student_step

    def step_beside_another(*args: Any) -> tuple[float, float]:
        torch.manual_seed(77)
        return step(*args)

    monkeypatch.setattr(disturbed, "_student_step", step_beside_another)
    assert disturbed.adapt(job(tiny)).state == alone.state
    quiet, before = Worker(tiny, config), torch.get_rng_state()
    quiet.adapt(job(tiny))
    assert torch.equal(torch.get_rng_state(), before)
    assert Worker(tiny, config).adapt(job(tiny, seed=6)).state != alone.state, "the control: it does draw"


@CONFIGS
def test_a_job_from_a_kept_state_equals_the_run_that_was_never_interrupted(tiny: Bundle, config: AdaptConfig) -> None:
    straight = Worker(tiny, config)
    first = straight.adapt(job(tiny))
    second = straight.adapt(job(tiny, 16, state=first.state))
    elsewhere = Worker(tiny, config)
    elsewhere.adapt(job(tiny, 40))
    resumed = elsewhere.adapt(job(tiny, 16, state=bytes(first.state)))
    assert (resumed.payload, resumed.state) == (second.payload, second.state)
    # The control: without the state it is another job.
    assert elsewhere.adapt(job(tiny, 16)).payload != second.payload


def test_the_state_holds_the_optimisers_too(tiny: Bundle) -> None:
    """Put the state in, and values out: without the slots of Adam the next step would be another."""
    worker = Worker(tiny, QUICK)
    first = worker.adapt(job(tiny))
    values_only = {name: value for name, value in load(first.state).items() if ".adam/" not in name}
    assert len(values_only) < len(load(first.state))
    whole = worker.adapt(job(tiny, 16, state=first.state))
    partial = worker.adapt(job(tiny, 16, state=save(values_only)))
    assert whole.payload != partial.payload


def test_a_state_of_another_optimiser_serves_its_values_and_starts_the_optimiser_anew(tiny: Bundle) -> None:
    state = Worker(tiny, QUICK).adapt(job(tiny)).state
    result = Worker(tiny, PARITY).adapt(job(tiny, 16, state=state))
    assert result.payload != Worker(tiny, PARITY).adapt(job(tiny, 16)).payload


def test_arguments_are_not_written_to(tiny: Bundle) -> None:
    given = job(tiny)
    new, replay = given.new_frames.copy(), given.replay_frames.copy()
    source = {name: value.copy() for name, value in tiny.source_affine.items()}
    Worker(tiny, QUICK).adapt(given)
    assert (given.new_frames == new).all()
    assert (given.replay_frames == replay).all()
    assert all((tiny.source_affine[name] == value).all() for name, value in source.items())


# What moves.


@CONFIGS
def test_only_normalisation_moves_and_everything_else_stays(tiny: Bundle, config: AdaptConfig) -> None:
    worker = Worker(tiny, config)
    before = {k: v.clone() for k, v in worker.student.state_dict().items()}
    worker.adapt(job(tiny))
    moving = {name for name, _ in adaptive_state(worker.student)}
    after = worker.student.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == moving


@CONFIGS
def test_a_version_has_moved_and_lies_inside_the_envelope(tiny: Bundle, config: AdaptConfig) -> None:
    result = Worker(tiny, config).adapt(job(tiny))
    layers, source = tiny.manifest.norm_layers, tiny.source_affine
    delta = decode_delta(result.payload, layers)
    assert all(np.abs(value).max() > 0 for value in delta.values())
    assert violations(apply_delta(source, delta, layers), source, tiny.manifest.envelope_max_delta) == []


def test_a_learning_rate_that_runs_away_is_drawn_back_to_the_envelope(tiny: Bundle) -> None:
    config = dataclasses.replace(QUICK, student_lr=3.0, teacher_lr=0.0)
    worker = Worker(tiny, config)
    result = worker.adapt(job(tiny))
    source, bounds = tiny.source_affine, tiny.manifest.envelope_max_delta
    delta = decode_delta(result.payload, tiny.manifest.norm_layers)
    assert violations(apply_delta(source, delta, tiny.manifest.norm_layers), source, bounds) == []
    at_bound = [name for name, value in delta.items() if np.abs(value).max() > 0.99 * bounds[name]]
    assert at_bound, "the rate was too low to try the bound"
    # What ships is what the next job starts from.
    kept = load(result.state)
    for name, value in apply_delta(source, delta, tiny.manifest.norm_layers).items():
        np.testing.assert_allclose(kept[f"student/{name}"], value, atol=bounds[name] / 126 * (1 + 1e-4))


@pytest.mark.parametrize("replay", [0, 8], ids=["new-only", "with-replay"])
def test_the_report_says_what_was_done(tiny: Bundle, replay: int) -> None:
    report = Worker(tiny, QUICK).adapt(job(tiny, replay=replay)).report
    assert (report["new_frames"], report["replay_frames"]) == (16.0, float(replay))
    assert isinstance(report["student_loss"], float)
    assert np.isfinite(report["student_loss"])
    assert 0 <= float(report["teacher_entropy_nats"]) <= np.log(10)
    assert float(report["seconds"]) > 0


@CONFIGS
def test_half_the_bits_teach_nearly_the_same_and_what_lasts_is_float32(tiny: Bundle, config: AdaptConfig) -> None:
    config = dataclasses.replace(config, minibatch_size=None, augment=False, optimiser="sgd", student_lr=0.05)
    whole, half = (
        Worker(tiny, dataclasses.replace(config, precision=precision)).adapt(job(tiny))
        for precision in ("float32", "bfloat16")
    )
    assert (whole.report["precision"], half.report["precision"]) == ("float32", "bfloat16")
    kept = [load(result.state) for result in (whole, half)]
    assert {value.dtype for value in kept[1].values()} == {np.dtype(np.float32)}
    layers = tiny.manifest.norm_layers
    moved, other = (
        np.concatenate([value.ravel() for value in decode_delta(result.payload, layers).values()])
        for result in (whole, half)
    )
    assert (moved != other).any()
    assert np.linalg.norm(moved - other) < 0.2 * np.linalg.norm(moved)


def test_the_students_loss_falls_with_more_steps(tiny: Bundle) -> None:
    def loss(steps: int) -> float:
        config = AdaptConfig(inner_steps=steps, student_lr=0.01, teacher_lr=0.0, augment=False)
        return float(Worker(tiny, config).adapt(job(tiny, replay=0)).report["student_loss"])

    assert loss(12) < loss(1)


def test_parity_is_the_published_configuration() -> None:
    assert (PARITY.batch_size, PARITY.replay_ratio, PARITY.replay_after, PARITY.replay_capacity) == (32, 3, 256, 10_000)
    assert (PARITY.entropy_weight, PARITY.distillation_weight, PARITY.label_weight) == (3.0, 3.0, 1.0)
    assert (PARITY.optimiser, PARITY.student_lr, PARITY.teacher_lr, PARITY.inner_steps) == ("sgd", 0.0025, 0.00025, 1)
    assert (PARITY.mean_one_weights, PARITY.normalisation) == (False, "renorm")


# What is refused.


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_step_that_diverges_is_an_error_and_the_next_job_is_untouched(tiny: Bundle, role: str, factor: float) -> None:
    worker = Worker(tiny, QUICK)
    expected = worker.adapt(job(tiny))
    good = worker._forward
    victim = getattr(worker, role)
    worker._forward = lambda model, x: good(model, x) * (factor if model is victim else 1)  # type: ignore[method-assign]
    with pytest.raises(ModelOutputError, match=r"adaptation from version 7 diverged .* lower student_lr"):
        worker.adapt(job(tiny, base_version=7))
    worker._forward = good  # type: ignore[method-assign]
    assert worker.adapt(job(tiny)).payload == expected.payload


def test_infinite_values_are_not_made_finite_by_the_envelope(tiny: Bundle) -> None:
    config = dataclasses.replace(PARITY, student_lr=float("inf"))
    with pytest.raises(ModelOutputError, match="diverged"):
        Worker(tiny, config).adapt(job(tiny))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_network_of_other_classes_is_refused_with_both_numbers(tiny_bundle: Path, tmp_path: Path, role: str) -> None:
    document = json.loads((tiny_bundle / "bundle.json").read_bytes())
    spec = document[role]
    spec["kwargs"]["num_classes"] = 7
    tensors = load((tiny_bundle / spec["file"]).read_bytes())
    cut = {name: value[:7] if name.startswith("head.") else value for name, value in tensors.items()}
    copy = tmp_path / "changed"
    shutil.copytree(tiny_bundle, copy)
    (copy / spec["file"]).write_bytes(save(cut))
    document["files"][spec["file"]] = hashlib.sha256((copy / spec["file"]).read_bytes()).hexdigest()
    (copy / "bundle.json").write_text(json.dumps(document))
    told = rf"the {role} answers with shape \(1, 7\) .* the bundle has 10 classes; give a {role} of the same classes"
    with pytest.raises(BundleError, match=told):
        Worker(Bundle.open(copy, require_cloud=True))


def test_a_bundle_that_adapts_what_the_student_has_not_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    layers = json.loads((tiny_bundle / "bundle.json").read_bytes())["norm_layers"]
    layers[0]["name"] = "elsewhere.norm"
    with (
        broken(tiny_bundle, tmp_path, norm_layers=layers) as bundle,
        pytest.raises(BundleError, match=r"lacks the bundle's affine tensors \['elsewhere.norm.weight'"),
    ):
        Worker(bundle)


@pytest.mark.parametrize(
    ("device", "told"),
    [("gpu", "expected 'auto', 'cpu' or 'cuda'"), ("cuda", "torch finds no CUDA here; use 'auto' or 'cpu'")],
)
def test_a_device_that_is_not_to_be_had_is_refused(tiny: Bundle, device: str, told: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    with pytest.raises(ValueError, match=told):
        Worker(tiny, device=device)


def test_a_precision_that_there_is_not_is_refused(tiny: Bundle) -> None:
    with pytest.raises(ValueError, match="'auto', 'float32' or 'bfloat16', got 'float16'"):
        Worker(tiny, dataclasses.replace(QUICK, precision="float16"))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"batch_size": 1}, {"inner_steps": 0}, {"replay_capacity": 0}], ids=str)
def test_a_configuration_that_cannot_work_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="adaptation needs"):
        AdaptConfig(**wrong)  # type: ignore[arg-type]


# Judging.


def test_logits_are_by_the_frames_own_statistics_and_source_logits_by_the_sources(tiny: Bundle) -> None:
    worker = Worker(tiny, QUICK)
    frames, labels = tiny.probe
    by_source = worker.source_logits(frames, tiny.source_affine)
    assert (by_source.argmax(1) == labels).all()
    alone = np.concatenate([worker.source_logits(frame[None], tiny.source_affine) for frame in frames[:4]])
    np.testing.assert_allclose(alone, by_source[:4], atol=1e-4)
    dark = (frames // 3 + 20).astype(np.uint8)
    assert (worker.logits(dark, role="student").argmax(1) == labels).mean() > (
        worker.source_logits(dark, tiny.source_affine).argmax(1) == labels
    ).mean()


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_asking_for_logits_twice_gives_the_same(tiny: Bundle, role: Any) -> None:
    worker = Worker(tiny, PARITY)
    np.testing.assert_array_equal(*(worker.logits(darker(tiny, 0), role=role) for _ in range(2)))
