"""What a build or a training would refuse is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from traced import random_frames, square

from littoral.core.tasks import Classification
from littoral.train import BuildOptions, TorchSource, build_check, exit_places
from littoral.train import build as build_module
from littoral.train.build_check import check_build

SPEC = square(16, 1)
FRAMES = random_frames(SPEC, 8)
FACTORY = "littoral.models.zoo:small_cnn"
KWARGS = {"width": 4, "depth": 1}


@pytest.fixture
def check(network: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`check_build` of a good build but for what is given."""
    traced = network("small_cnn")
    for module in (build_check, exit_places):
        monkeypatch.setattr(module, "export_model", lambda _model, _input, **_told: traced.exported)
    source = TorchSource(traced.model, FACTORY, KWARGS)

    def run(**changes: Any) -> None:
        given: dict[str, Any] = {
            "student": source,
            "teacher": source,
            "input": SPEC,
            "task": Classification(num_classes=10),
            "frames": FRAMES,
            "truths": np.arange(8),
            "options": BuildOptions(),
        }
        check_build(**{**given, **changes})

    return run


class NoNorm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).repeat(1, 10)


def test_a_good_build_passes_and_torchs_generator_stays(
    check: Callable[..., None], network: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[Any] = []

    def place(_model: nn.Module, _spec: Any, where: Any) -> Any:
        placed.append(where)
        return SimpleNamespace(modules=())

    monkeypatch.setattr(build_check, "place_exits", place)
    before = torch.get_rng_state()
    cut = network("small_cnn").exported.graph.graph.node[-1].input[0]
    check(splits=["stem", "blocks.0"], exits=2, options=BuildOptions(cut_points=(cut,)), truths=None)
    check(options=BuildOptions(num_segments=2))
    assert placed == [2]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"splits": ["stem", "nope"]}, "'nope' is not a module"),
        ({"splits": ["head"]}, "a split needs a map"),
        ({"exits": ["nope"]}, "no exit can stand on 'nope'"),
        ({"exits": 1, "options": BuildOptions(num_segments=2)}, "num_segments is 2, but with exits"),
        ({"exits": 1, "frames": FRAMES[:4], "truths": None}, "exits need at least 5"),
        ({"options": BuildOptions(cut_points=("nope",))}, "'nope' is not a cut point"),
        ({"options": BuildOptions(num_segments=50)}, "num_segments is 50"),
        ({"task": Classification(num_classes=11)}, "the networks have 10 classes, class_names has 11"),
        ({"truths": np.arange(8) + 3}, r"source_labels lie in 3\.\.10, expected 0\.\.9"),
        ({"truths": np.arange(9)}, r"source_labels are int64 \(9,\)"),
        ({"frames": FRAMES[:, :8]}, "source_frames are uint8"),
        ({"teacher": None}, "needs a teacher"),
        ({"student": TorchSource(NoNorm(), "test_build_check:NoNorm", {})}, "no normalisation layer"),
    ],
    ids=[
        "split", "no-map", "exit", "segments-and-exits", "few", "cut", "segments", "classes", "labels", "more-labels",
        "frames", "teacher", "nothing-adapts",
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(check: Callable[..., None], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(**changes)


class Aliases(nn.Module):
    """What the cut gives is changed in place through another name of it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.bn, self.cut = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Identity()
        self.last = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.bn(self.conv(x))
        y = self.cut(before)
        if self.kind == "alias":
            before.add_(1.0)
        if self.kind == "branch" and x.sum() > 0:
            y = y + 1.0
        z: torch.Tensor = self.last(y.mean((2, 3)))
        return z


def aliases(kind: str = "") -> nn.Module:
    return Aliases(kind)


@pytest.fixture
def made_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], TorchSource]:
    def make(kind: str) -> TorchSource:
        torch.manual_seed(0)
        module = aliases(kind).eval()
        monkeypatch.setattr("littoral.train.build.load_model", lambda _model, _state: module)
        return TorchSource(module, "m:aliases", {"kind": kind})

    return make


def test_a_cut_that_something_in_place_reaches_across_is_refused(made_here: Callable[[str], TorchSource]) -> None:
    given = {"input": SPEC, "task": Classification(num_classes=10), "frames": FRAMES, "truths": None}
    source = made_here("alias")
    with pytest.raises(ValueError, match="something that works in place reaches across the cut"):
        check_build(student=source, teacher=source, options=BuildOptions(), splits=["cut"], **given)


def test_a_student_that_cannot_be_traced_is_refused(made_here: Callable[[str], TorchSource]) -> None:
    given = {"input": SPEC, "task": Classification(num_classes=10), "frames": FRAMES, "truths": None}
    source = made_here("branch")
    with pytest.raises(ValueError, match="the network cannot be traced to ONNX"):
        check_build(student=source, teacher=source, options=BuildOptions(), **given)


def test_a_classifiers_teacher_without_a_norm_is_refused_by_its_name(made_here: Callable[[str], TorchSource]) -> None:
    with pytest.raises(ValueError, match="the teacher has no normalisation layer"):
        build_module.check_norm_layers(Classification(num_classes=10), (), "teacher")
    source = made_here("")
    bare = TorchSource(nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "m:bare", {})
    given = {"input": SPEC, "task": Classification(num_classes=10), "frames": FRAMES, "truths": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "littoral.train.build.load_model",
            lambda model, _state: (bare if "bare" in model.factory else source).module,
        )
        with pytest.raises(ValueError, match="the teacher has no normalisation layer"):
            check_build(student=source, teacher=bare, options=BuildOptions(), **given)
