"""Rehearsal gets the affine values used to batch statistics and altered frames, without labels and reproducibly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_build_bundle import FRAMES, SPEC, make, source
from torch import nn

from littoral.bundle import Bundle
from littoral.cloud.adapt import Worker
from littoral.cloud.jobs import AdaptConfig
from littoral.models.frames import normalise
from littoral.models.norm import learn, prepare
from littoral.train import BuildOptions
from littoral.train import rehearse as rehearse_module
from littoral.train.rehearse import mixed, rehearse

OPTIONS = {"num_segments": 1, "probe_frames": 24, "replay_frames": 40, "drift_batches": 2}


def guide_module() -> nn.Module:
    """The student with other affine values, so that there is something that affine values can learn from it."""
    module = copy.deepcopy(source().module)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.add_(0.03 * torch.randn(layer.weight.shape, generator=rng).sign())
                layer.bias.add_(0.03 * torch.randn(layer.bias.shape, generator=rng).sign())
    return module


def rehearsed(steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    student = source().module
    learner = prepare(student, "batch")
    names = [name for name, p in learner.named_parameters() if p.requires_grad]
    return rehearse(
        student=student,
        teacher=guide_module(),
        spec=SPEC,
        frames=FRAMES,
        names=names,
        steps=steps,
        seed=seed,
        progress=lambda line: None,
    )


def divergence(values: dict[str, np.ndarray]) -> float:
    """Of student from teacher in nats, on altered frames of another seed, both by batch statistics."""
    learner, guide = prepare(source().module, "batch"), prepare(guide_module(), "batch")
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            if name in values:
                parameter.copy_(torch.from_numpy(values[name]))
        learn(learner, True)
        learn(guide, True)
        rng = np.random.default_rng(99)
        x = normalise(torch.from_numpy(np.stack([mixed(frame, rng) for frame in FRAMES])), SPEC)
        pair = learner(x).log_softmax(1), guide(x).log_softmax(1)
        return float(F.kl_div(*pair, reduction="batchmean", log_target=True))


def test_the_student_comes_nearer_to_the_teacher_on_altered_frames() -> None:
    assert divergence(rehearsed(40)) < 0.5 * divergence({})


def test_both_networks_follow_the_statistics_of_the_batch_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []

    def prepared(model: nn.Module, norm: Any) -> nn.Module:
        made.append(prepare(model, norm))
        return made[-1]

    monkeypatch.setattr(rehearse_module, "prepare", prepared)
    rehearsed(1)
    x = normalise(torch.from_numpy(FRAMES[:16]), SPEC)
    assert len(made) == 2
    for model in made:
        with torch.no_grad():
            assert (model(x)[:4] - model(x[:4])).abs().max() > 1e-2, "a frame's answer depends on the others"


def test_its_steps_get_smaller_along_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def seen(self: torch.optim.Adam, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"] / rehearse_module.LEARNING_RATE)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", seen)
    rehearsed(3)
    assert rates == pytest.approx([1.0, 0.75, 0.25])


def test_the_same_seed_gives_the_same_values_and_another_one_others() -> None:
    one, same, other = rehearsed(3), rehearsed(3), rehearsed(3, seed=1)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_altered_frame_keeps_its_form(channels: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (12, 16, channels), dtype=np.uint8)
    found = mixed(frame, np.random.default_rng(1))
    assert (found.shape, found.dtype) == (frame.shape, np.uint8)
    assert np.array_equal(found, frame) == (channels == 4)


def test_a_clouds_first_job_starts_from_the_rehearsed_values_and_devices_from_the_source(tmp_path) -> None:
    bundle = make(tmp_path / "a", options=BuildOptions(**OPTIONS, rehearsal_steps=3))
    plain = make(tmp_path / "b", options=BuildOptions(**OPTIONS))
    assert plain.manifest.rehearsed_file is None
    values = bundle.load_tensors("cloud/rehearsed.safetensors")
    assert set(values) == set(bundle.source_affine)
    for name, value in plain.source_affine.items():
        assert np.array_equal(bundle.source_affine[name], value), "what a device runs is the source"
    worker = Worker(Bundle.open(bundle.path, require_cloud=True), AdaptConfig())
    worker._restore(b"")
    for name, value in values.items():
        np.testing.assert_array_equal(worker.student.state_dict()[name].numpy(), value)
        assert not np.array_equal(value, bundle.source_affine[name])


def test_fewer_than_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="rehearsal_steps is -1"):
        BuildOptions(rehearsal_steps=-1)
