"""A split for who has no bottleneck: it fits the network that it cuts, and training it leaves that network alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from traced import random_frames, square

from littoral.bundle import InputSpec, TorchModel
from littoral.core.tasks import Classification, Segmentation
from littoral.models.bottleneck import Bottleneck
from littoral.models.factory import load_model, state_arrays
from littoral.models.frames import normalise
from littoral.models.parts import head_of
from littoral.models.zoo import small_cnn
from littoral.train import exit_build, split_make
from littoral.train.exit_build import make_exits
from littoral.train.exits import ExitRecipe
from littoral.train.options import TorchSource
from littoral.train.split_make import Shift, fit_split, fitting_bottleneck, make_split
from littoral.train.transform import FittedTransform, TransformOptions, fit_transform

KWARGS = {"width": 4, "num_classes": 3, "depth": 1}


def network() -> TorchSource:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TorchSource(small_cnn(**KWARGS), "littoral.models.zoo:small_cnn", KWARGS)


def pyramid(factor: int) -> nn.Module:
    """A network whose map is so many times smaller than its frames, rounded up."""
    halvings = [nn.Conv2d(1, 1, 3, stride=2, padding=1) for _ in range(int(np.log2(factor)))]
    return nn.Sequential(nn.Sequential(*halvings, nn.Conv2d(1, 5, 1)), nn.Flatten())


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("size", [(32, 32), (30, 42), (17, 64)], ids=str)
def test_what_it_decodes_to_is_the_map_that_the_tail_takes(factor: int, size: tuple[int, int]) -> None:
    spec = InputSpec(height=size[0], width=size[1], channels=1, mean=(0.0,), std=(1.0,))
    source = TorchSource(pyramid(factor), "a:b", {})
    bottleneck = fitting_bottleneck(source, spec, "0").eval()
    x = normalise(torch.from_numpy(np.zeros((2, *spec.shape), np.uint8)), spec)
    with torch.no_grad():
        expected, came = head_of(source.module, "0")(x), bottleneck(x, torch.tensor([0, 3]))
        latent = bottleneck.latent(x)
    assert came.features.shape == expected.shape
    assert latent.shape[-1] * latent.shape[-2] * 16 <= 1.3 * size[0] * size[1], "a latent is small"


def pooled(height: int, width: int) -> nn.Module:
    """A network that brings frames of any size to a map of one."""
    return nn.Sequential(nn.Sequential(nn.Conv2d(1, 5, 1), nn.AdaptiveAvgPool2d((height, width))), nn.Flatten())


def bottleneck_for(module: nn.Module, size: tuple[int, int]) -> Bottleneck:
    spec = InputSpec(height=size[0], width=size[1], channels=1, mean=(0.0,), std=(1.0,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return fitting_bottleneck(TorchSource(module, "a:b", {}), spec, "0").eval()


@pytest.mark.parametrize(
    ("size", "module", "latent"),
    [
        ((16, 64), pooled(4, 4), (4, 4)),
        ((64, 16), pooled(4, 4), (4, 4)),
        ((16, 160), pooled(4, 4), (4, 5)),
        ((32, 32), pooled(2, 32), (2, 8)),
        ((32, 32), pooled(5, 7), (8, 8)),
        ((17, 64), pyramid(8), (3, 8)),
        ((30, 42), pyramid(16), (2, 3)),
        ((11, 31), pyramid(4), (3, 8)),
    ],
    ids=["wide", "high", "very-wide", "flat-map", "no-multiple", "rounded-up", "rounded-up-often", "no-whole-patches"],
)
def test_the_whole_frame_reaches_the_latent_and_the_tail(
    size: tuple[int, int], module: nn.Module, latent: tuple[int, int]
) -> None:
    bottleneck = bottleneck_for(module, size)
    frames = torch.randn(4, 1, *size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    made = bottleneck.latent(frames)
    features = bottleneck.decoder(made)
    assert made.shape[2:] == latent
    assert features.shape[2:] == head_of(module, "0")(frames).shape[2:]
    for what in (made, features):
        (seen,) = torch.autograd.grad(what.square().sum(), frames, retain_graph=True)
        assert (seen.abs().sum((0, 1)) > 0).all(), "a pixel that nothing hangs on"


def test_edges_are_repeated_up_to_whole_patches_and_only_where_they_are_not_whole() -> None:
    whole, odd = bottleneck_for(pyramid(4), (12, 32)), bottleneck_for(pyramid(4), (11, 31))
    assert not any(isinstance(module, nn.ReplicationPad2d) for module in whole.modules())
    frames = torch.randn(3, 1, 11, 31, generator=torch.Generator().manual_seed(1))
    repeated = torch.cat([frames, frames[:, :, -1:]], 2)
    repeated = torch.cat([repeated, repeated[:, :, :, -1:]], 3)
    with torch.no_grad():
        torch.testing.assert_close(odd.latent(frames), whole.latent(repeated))


def test_a_latent_that_no_payload_holds_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ValueError, match=r"the latent for '0' and frames of 848 x 832 has 24 x 212 x 208 symbols"):
        bottleneck_for(nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), (848, 832))
    assert bottleneck_for(nn.Sequential(nn.MaxPool2d(16), nn.Flatten()), (848, 832)).num_channels == 24


@pytest.mark.parametrize(
    ("spec", "cut", "words"),
    [
        (square(16, 1), "nothing", "'nothing' is not a module"),
        (square(16, 1), "head", r"'head' gives \(2, 3\) for 2 frames, a split needs a map"),
        (square(4, 1), "stem", "frames are 4 x 4, a split needs 8 x 8 or more"),
    ],
    ids=["no-module", "no-map", "too-small"],
)
def test_where_no_split_can_be_is_said(spec: InputSpec, cut: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fitting_bottleneck(network(), spec, cut)


def test_it_learns_what_the_network_answers_and_leaves_it_as_it_was() -> None:
    spec, source = square(16, 1), network()
    frames = random_frames(spec, 64)
    before = copy.deepcopy(source.module.state_dict())
    random_state = torch.get_rng_state()
    made = make_split(source, spec, frames, None, cut="blocks.0", epochs=2, seed=1)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in source.module.state_dict().items())
    assert made.segment is None
    again = make_split(source, spec, frames, None, cut="blocks.0", epochs=2, seed=1)
    for name, value in made.tail.module.state_dict().items():
        assert torch.equal(value, again.tail.module.state_dict()[name]), "the same seed gives the same split"
    spec_of_tail = TorchModel(factory=made.tail.factory, kwargs=made.tail.kwargs, file="x")
    tail = load_model(spec_of_tail, state_arrays(made.tail.module))
    symbols = made.bottleneck.symbols(
        made.bottleneck.latent(normalise(torch.from_numpy(frames[:3]), spec)), torch.full((3,), 3)
    )
    with torch.no_grad():
        outputs = tail(symbols.float(), torch.full((3,), 3))
        torch.testing.assert_close(outputs, made.tail.module(symbols.float(), torch.full((3,), 3)))
    assert outputs.shape == (3, 3)


def test_a_twentieth_of_many_frames_is_held_back_for_deadzones_and_none_where_these_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, trained = square(16, 1), []
    frames = random_frames(spec, 2560)
    labels = (np.arange(2560) % 3).astype(np.int64)
    monkeypatch.setattr(split_make, "train_split", lambda _recipe, _parts, data, **_told: trained.append(data))
    made = make_split(network(), spec, frames, labels, cut="blocks.0")
    assert (len(trained[0].frames), made.tables.deadzones) == (2432, None)
    assert made.held is not None
    rest = {(frame.tobytes(), label) for frame, label in zip(trained[0].frames, trained[0].targets, strict=True)}
    assert rest < {(frame.tobytes(), label) for frame, label in zip(frames, labels, strict=True)}
    both = {frame.tobytes() for frame, _ in zip(made.held, range(128), strict=True)} | {frame for frame, _ in rest}
    assert both == {frame.tobytes() for frame in frames}, "none twice, none lost"
    few = make_split(network(), spec, frames[:-1], None, cut="blocks.0")
    assert (few.held, len(trained[1].frames)) == (None, 2559), "too few to spare any"
    given = [make_split(network(), spec, frames, labels, cut="blocks.0", deadzones=d) for d in ((0.1,), (0.0,))]
    assert [each.tables.deadzones for each in given] == [(0.1,) * 4, ()]
    assert [len(data.frames) for data in trained[2:]] == [2560, 2560]
    for wrong in ((0.1, 0.1), (0.5,), (-0.1, 0, 0, 0.1)):
        with pytest.raises(ValueError, match="expected one for all levels or 4"):
            make_split(network(), spec, frames, labels, cut="blocks.0", deadzones=wrong)


@pytest.mark.parametrize("side", [16, 32])
def test_a_bit_of_a_larger_frame_costs_less(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, asked = square(side, 1), []
    monkeypatch.setattr(split_make, "train_split", lambda recipe, *_parts, **_told: asked.append(recipe))
    make_split(network(), spec, random_frames(spec, 4), None, cut="blocks.0")
    assert asked[0].rate_weights == pytest.approx([weight * 32**2 / side**2 for weight in split_make.RATE_WEIGHTS])


SEVEN = np.arange(7) % 3


@pytest.mark.parametrize("labels", [SEVEN.astype(np.int32), SEVEN.astype(np.uint8), SEVEN.tolist()], ids=type)
def test_labels_of_any_kind_of_integer_are_taken(labels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, trained = square(16, 1), []
    monkeypatch.setattr(split_make, "train_split", lambda _recipe, _parts, data, **_told: trained.append(data))
    make_split(network(), spec, random_frames(spec, 7), labels, cut="blocks.0")
    assert trained[0].targets.dtype == np.int64
    assert trained[0].targets.tolist() == SEVEN.tolist()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (SEVEN + 1, r"source_labels lie in 1\.\.3, expected 0\.\.2"),
        (SEVEN - 1, r"source_labels lie in -1\.\.1, expected 0\.\.2"),
        (SEVEN.astype(np.float32), r"source_labels are float32 \(7,\), expected int64 \(7,\)"),
        (SEVEN[:, None], r"source_labels are int64 \(7, 1\)"),
        (np.tile(SEVEN, 2), r"source_labels are int64 \(14,\)"),
    ],
    ids=["from-1", "negative", "floats", "column", "twice-as-many"],
)
def test_labels_that_are_not_the_networks_are_refused_before_a_training(
    labels: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = square(16, 1)
    monkeypatch.setattr(split_make, "train_split", None)
    monkeypatch.setattr(exit_build, "train_exits", None)
    frames = random_frames(spec, 7)
    with pytest.raises(ValueError, match=words):
        make_split(network(), spec, frames, labels, cut="blocks.0")
    with pytest.raises(ValueError, match=words):
        make_exits(network().module, spec, frames, labels, where=1, recipe=ExitRecipe())


class Pairs(nn.Module):
    """Gives more than scores."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean((2, 3)), x


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), r"the network does not take frames of 16x16x1"),
        (Pairs(), "for 2 frames the network gives tuple, expected one tensor of logits"),
        (nn.Conv2d(1, 1, 1), r"for 2 frames the network gives \(2, 1, 16, 16\), expected one tensor of logits"),
    ],
    ids=["other-frames", "more-than-scores", "no-classifier"],
)
def test_a_network_that_does_not_take_the_frames_is_refused_before_a_training(model: nn.Module, words: str) -> None:
    spec = square(16, 1)
    with pytest.raises(ValueError, match=words):
        make_split(TorchSource(model, "a:b"), spec, random_frames(spec, 8), None, cut="0")
    with pytest.raises(ValueError, match=words):
        make_exits(model, spec, random_frames(spec, 8), None, where=["0"], recipe=ExitRecipe())


def test_frames_are_moved_and_not_mirrored() -> None:
    frames = np.zeros((50, 9, 9, 1), np.uint8)
    frames[:, 4, 4], frames[:, 4, 5] = 1, 2  # the second stands right of the first
    moved, targets = Shift(pad=2)(frames, np.arange(50), np.random.default_rng(0))
    ones, twos = np.argwhere(moved == 1), np.argwhere(moved == 2)
    np.testing.assert_array_equal(twos - ones, np.tile([0, 0, 1, 0], (50, 1)))
    assert len(np.unique(ones[:, 2])) == 5
    assert targets is not None
    assert targets.tolist() == list(range(50))


def test_a_fitted_split_takes_some_frames_for_the_transform_and_others_for_what_is_chosen_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("littoral.train.transform._PRIOR_STEPS", 2)
    spec, source, seen = square(16, 1), network(), []
    frames = random_frames(spec, 100)

    def fit(features: torch.Tensor, *args: object, answered_NCHW: torch.Tensor, **told: object) -> FittedTransform:
        seen.append((features, answered_NCHW))
        return fit_transform(features, *args, answered_NCHW=answered_NCHW, **told)  # type: ignore[arg-type]

    monkeypatch.setattr(split_make, "fit_transform", fit)
    source.module.train()
    task, options = Classification(num_classes=3), TransformOptions(num_channels=8, block=2, steps=(4.0, 1.0))
    made = fit_split(source, spec, frames, task, cut="blocks.0", options=options, seed=3)
    assert source.module.training, "the network is as it was"
    ((fitted_to, others),) = seen
    assert (len(fitted_to), len(others), len(made.held)) == (64, 36, 36)
    with torch.no_grad():
        head = head_of(copy.deepcopy(source.module).eval(), "blocks.0")
        assert torch.allclose(head(normalise(torch.from_numpy(made.held), spec)), others, atol=1e-5)
    together = np.concatenate([made.held.reshape(36, -1), frames.reshape(100, -1)])
    assert len(np.unique(together, axis=0)) == 100, "they are of the frames"
    again = fit_split(source, spec, frames, task, cut="blocks.0", options=options, seed=3)
    assert np.array_equal(made.held, again.held)
    for name, value in made.tail.module.state_dict().items():
        assert torch.equal(value, again.tail.module.state_dict()[name]), "the same seed gives the same split"


@pytest.mark.parametrize(
    ("spec", "cut", "words"),
    [
        (square(16, 1), "nothing", "'nothing' is not a module"),
        (square(16, 1), "head", r"'head' gives \(2, 3\) for 2 frames, a split needs a map"),
        (square(16, 3), "blocks.0", r"does not take frames of \(16, 16, 3\)"),
    ],
    ids=["no-module", "no-map", "other-frames"],
)
def test_where_no_split_can_be_fitted_is_said_before_anything_is(
    spec: InputSpec, cut: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_make, "fit_transform", None)
    with pytest.raises(ValueError, match=words):
        fit_split(network(), spec, random_frames(spec, 8), Classification(num_classes=3), cut=cut)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            Classification(num_classes=5),
            r"classification with 5 classes takes float32 \(batch, 5\), got float32 \(8, 3\)",
        ),
        (Segmentation(num_classes=3, input_height=16, input_width=16), r"segmentation with 3 classes takes .*\(8, 3\)"),
    ],
    ids=["classes", "segmentation"],
)
def test_a_task_that_is_not_the_networks_is_refused_before_anything_is_fitted(
    task: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_make, "fit_transform", None)
    spec = square(16, 1)
    with pytest.raises(ValueError, match=words):
        fit_split(network(), spec, random_frames(spec, 8), task, cut="blocks.0")
    two = TorchSource(nn.Sequential(nn.Conv2d(1, 4, 1), Pairs()), "a:b", {})
    with pytest.raises(ValueError, match=r"the network gives tuple, .* takes one tensor"):
        fit_split(two, spec, random_frames(spec, 8), task, cut="0")


def test_too_few_epochs_are_refused_before_anything_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_make, "head_of", None)
    spec = square(16, 1)
    with pytest.raises(
        ValueError, match=r"1 epochs were asked for, the last 1 for decoder and tail alone.* give 2 or more"
    ):
        make_split(network(), spec, random_frames(spec, 8), None, cut="blocks.0", epochs=1)


def test_a_module_that_gives_the_answer_leaves_nothing_for_the_cloud() -> None:
    spec = InputSpec(height=16, width=16, channels=1, mean=(0.0,), std=(1.0,))
    whole = TorchSource(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1)), "a:b", {})
    task = Segmentation(num_classes=3, input_height=16, input_width=16)
    with pytest.raises(ValueError, match="'1' gives the answer, so nothing is left for the cloud"):
        fit_split(whole, spec, random_frames(spec, 8), task, cut="1")


class Linear(nn.Module):
    """Its body ends without a ReLU, or with one that works in place after it."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        self.act = nn.ReLU(inplace=inplace)
        self.last = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.act(self.body(x)).mean((2, 3)))
        return y


def test_a_decoder_gives_negative_features_where_the_network_does() -> None:
    spec, source = square(16, 1), TorchSource(Linear(), "a:b", {})
    made = make_split(source, spec, random_frames(spec, 8), None, cut="body", epochs=2)
    rectified = make_split(source, spec, random_frames(spec, 8), None, cut="act", epochs=2)
    x = torch.zeros(2, 1, 16, 16)
    with torch.no_grad():
        assert (made.bottleneck.eval()(x, torch.tensor([0, 3])).features < 0).any()
        assert not (rectified.bottleneck.eval()(x, torch.tensor([0, 3])).features < 0).any()


def test_the_tail_of_a_frozen_double_network_that_works_in_place_is_trained_along() -> None:
    spec = square(16, 1)
    given = Linear(inplace=True).double().requires_grad_(False)
    made = make_split(TorchSource(given, "a:b", {}), spec, random_frames(spec, 8), None, cut="body", epochs=2)
    trained = dict(made.tail.module.named_parameters())
    (name,) = [each for each in trained if each.endswith("last.weight")]
    assert (trained[name] - given.last.weight).abs().max() > 1e-5
    assert given.last.weight.dtype is torch.float64
    assert not given.last.weight.requires_grad


def test_a_cut_that_does_not_give_the_network_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, source = square(16, 1), TorchSource(Linear(), "a:b", {})
    frames, real = random_frames(spec, 8), split_make.tail_of

    def other(model: nn.Module, cut: str) -> nn.Module:
        tail = real(model, cut)
        with torch.no_grad():
            tail.get_parameter("last.bias").add_(0.1)
        return tail

    monkeypatch.setattr(split_make, "tail_of", other)
    words = "the network cut at 'act' gives outputs that differ by .* cut it at another module"
    with pytest.raises(ValueError, match=words):
        make_split(source, spec, frames, None, cut="act", epochs=2)
    with pytest.raises(ValueError, match=words):
        fit_split(source, spec, frames, Classification(num_classes=3), cut="act")


def test_a_module_of_two_outputs_is_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two, self.last = nn.LSTM(16, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(self.two(x[:, 0])[0][:, -1])
            return y

    with pytest.raises(ValueError, match="'two' gives tuple for 2 frames, a split needs a map"):
        make_split(
            TorchSource(Two(), "a:b", {}), square(16, 1), random_frames(square(16, 1), 8), None, cut="two", epochs=2
        )
