"""Exits: placed, trained on a frozen network, built into a bundle whose bytes do what torch does."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from made_once import keep_the_exporters_operators
from torch import nn
from traced import random_frames, square

from littoral.bundle import Bundle, ExitHeads
from littoral.core.exits import confidence, exit_indices, fit_temperature
from littoral.core.heads import LinearHead
from littoral.errors import BundleError
from littoral.models import exits as exits_of_models
from littoral.models.exits import ConvStem, PooledStem, cell_means, make_stem
from littoral.models.frames import normalise
from littoral.models.zoo import small_cnn
from littoral.train import BuildOptions, ExitSource, TorchSource, build_bundle, exit_build, exit_heads, exit_places
from littoral.train import build as build_module
from littoral.train import exits as exits_of_train
from littoral.train.cuts import split
from littoral.train.exit_heads import TrainedExits, exit_features, load_trained_exits, save_trained_exits
from littoral.train.exit_places import ExitPlaces, place_exits
from littoral.train.exit_trunk import Trunk
from littoral.train.exits import ExitRecipe, train_exits
from littoral.train.export import ExportedModel, export_model
from littoral.train.fit import settle_statistics
from littoral.train.run import open_session, predict

SPEC = square(16, 1)
FRAMES = random_frames(SPEC, 240)
KWARGS = {"width": 4, "num_classes": 3, "depth": 1}
RECIPE = ExitRecipe(epochs=6, batch_size=32, num_features=6, num_cheap=1, smallest=2, pad=1)
SHORT = dataclasses.replace(RECIPE, epochs=1)


@functools.cache
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small_cnn(**KWARGS)
    settle_statistics(model, FRAMES, input=SPEC)
    with torch.no_grad():  # else it answers the same for nearly all frames
        logits = model(normalise(torch.from_numpy(FRAMES), SPEC))
        model.head.bias -= logits.mean(dim=0)
    return model


@functools.cache
def traced() -> ExportedModel:
    keep_the_exporters_operators()
    return export_model(network(), SPEC, taps=sorted({*called_modules()}))


def called_modules() -> set[str]:
    return set(exit_places._modules_with_maps(network(), SPEC).values())


@pytest.fixture(scope="module", autouse=True)
def traced_only_once() -> Iterator[None]:
    """Tracing takes a second or two, and it is not what is tested here: every place is a tap of the one graph."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (exit_places, build_module):
            patch.setattr(module, "export_model", lambda _model, _input, **_taps: traced())
        yield


@functools.cache
def places() -> ExitPlaces:
    return place_exits(network(), SPEC, 2)


@functools.cache
def trained(stem: Any = "conv") -> TrainedExits:
    recipe = dataclasses.replace(RECIPE, stem=stem)
    return train_exits(network(), SPEC, FRAMES[:160], None, recipe, places=places())


@functools.cache
def mixed() -> TrainedExits:
    """One exit of each kind of stem, and the deep one."""
    early, late = trained("conv").exits[0], trained("pooled").exits[1]
    return dataclasses.replace(trained(), exits=(early, late, trained().exits[-1]))


def make(out: Any, **changes: Any) -> Bundle:
    source = TorchSource(network(), "littoral.models.zoo:small_cnn", KWARGS)
    arguments = {
        "student": source,
        "teacher": source,
        "out": out,
        "name": "exits",
        "class_names": ["a", "b", "c"],
        "input": SPEC,
        "source_frames": FRAMES,
        "exits": ExitSource(trained=mixed(), calibration=FRAMES[160:], level=0.4, delta=0.1),
        "options": BuildOptions(probe_frames=8, replay_frames=8, drift_batches=2),
    }
    return build_bundle(**{**arguments, **changes})


SAID: list[str] = []
"""By the build of `built`."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("littoral.train.build.what_does_not_pay", lambda _manifest, macs: [f"{tuple(macs)}"])
        return make(tmp_path_factory.mktemp("exits") / "bundle", progress=SAID.append)


def sessions(bundle: Bundle) -> list[ort.InferenceSession]:
    made = []
    for segment in bundle.manifest.segments:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if segment.tensors:
            values = [ort.OrtValue.ortvalue_from_numpy(bundle.weights[name]) for name in segment.tensors]
            options.add_external_initializers(list(segment.tensors), values)
        made.append(ort.InferenceSession(bundle.read(segment.file), options))
    return made


def test_a_bundles_stems_and_heads_answer_as_they_did_in_torch(built: Bundle) -> None:
    features, logits = exit_features(network(), SPEC, mixed(), FRAMES[:5])
    value, maps = FRAMES[:5], []
    for session in sessions(built):
        (value,) = session.run(None, {session.get_inputs()[0].name: value})
        maps.append(value)
    np.testing.assert_allclose(maps[-1], logits, atol=1e-4)
    for spec, expected in zip(built.manifest.exits, features, strict=True):
        came = maps[spec.segment]
        if spec.stem_file is not None:
            stem = ort.InferenceSession(built.read(spec.stem_file))
            (came,) = stem.run(["pooled"], {"features": came})
        np.testing.assert_allclose(came, expected, atol=1e-4)
        assert came.shape == (5, spec.num_features)
    deep = ExitHeads.open(built).heads[-1]
    np.testing.assert_allclose(deep.logits(maps[-2]), maps[-1], atol=1e-4)


def test_what_does_not_pay_is_warned_of_at_the_end_of_the_build(built: Bundle) -> None:
    assert SAID[-1] == f"warning: {built.manifest.segment_macs}"


def test_the_deep_exit_stands_right_before_a_segment_that_is_one_layer(built: Bundle) -> None:
    manifest = built.manifest
    assert [each.is_deep for each in manifest.exits] == [False, False, True]
    deep = manifest.exits[-1]
    assert deep.segment == len(manifest.segments) - 2
    assert manifest.segment_macs[-1] == deep.macs == deep.num_features * manifest.num_classes
    assert deep.temperature == 1


def test_what_the_thresholds_promise_holds_on_the_frames_it_was_made_from(built: Bundle) -> None:
    heads, promise = ExitHeads.open(built), built.manifest.exit_promise
    assert promise is not None
    assert (promise.num_frames, promise.level, promise.delta) == (40, 0.4, 0.1)
    features, logits = exit_features(network(), SPEC, mixed(), FRAMES[160:])
    scores = [*(head.logits(x) for head, x in zip(heads.heads, features, strict=True)), logits]
    temperatures = (*heads.temperatures, 1.0)
    sure = np.stack([confidence(z, temperature=t) for z, t in zip(scores, temperatures, strict=True)], axis=1)
    answers = np.stack([z.argmax(axis=1) for z in scores], axis=1)
    leaving = exit_indices(sure, heads.thresholds)
    differ = answers[np.arange(80), leaving] != answers[:, -1]
    tested = np.array_split(np.random.default_rng(0).permutation(80), 2)[1]
    assert differ[tested].mean() == pytest.approx(promise.empirical_risk, abs=1 / 40)
    assert promise.empirical_risk < promise.level
    assert (leaving < 3).any()
    careless = (answers[:, 0] != answers[:, -1])[tested]  # all leave at the first exit
    assert careless.mean() > promise.empirical_risk


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"calibration": None}, id="no-frames"),
        pytest.param({"calibration": FRAMES[160:163], "level": 0.05}, id="too-few-frames"),
    ],
)
def test_nothing_is_promised_without_enough_frames(
    built: Bundle, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    graphs = [onnx.load_model_from_string(built.read(segment.file)) for segment in built.manifest.segments]
    stems = iter([onnx.load_model_from_string(built.read(f"exit-{i}.onnx")) for i in (0, 1)])
    monkeypatch.setattr(exit_build, "export_standalone", lambda *_a, **_k: next(stems))
    source = dataclasses.replace(ExitSource(trained=mixed(), calibration=FRAMES[160:]), **changes)
    told: list[str] = []
    made = exit_build.build_exits(
        source, graphs=graphs, sessions=sessions(built), input=SPEC, frames=FRAMES, progress=told.append
    )
    assert made.promise is None
    assert [spec.threshold for spec in made.specs] == [None] * 3
    assert "off" in told[-1]


def test_the_frozen_network_keeps_its_weights_and_statistics() -> None:
    model = copy.deepcopy(network()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_exits(model, SPEC, FRAMES[:64], None, dataclasses.replace(RECIPE, epochs=1), places=places())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def state(exits: TrainedExits) -> dict[str, torch.Tensor]:
    return {
        f"{i}.{k}": v for i, e in enumerate(exits.exits) if e.stem is not None for k, v in e.stem.state_dict().items()
    }


class Stopped(Exception):
    pass


def test_a_training_that_was_stopped_ends_where_the_whole_one_does(tmp_path: Any) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch 4"):
            raise Stopped

    file = tmp_path / "checkpoint"
    with pytest.raises(Stopped):
        train_exits(network(), SPEC, FRAMES[:160], None, RECIPE, stop, places=places(), checkpoint=file)
    resumed = train_exits(network(), SPEC, FRAMES[:160], None, RECIPE, places=places(), checkpoint=file)
    whole = state(trained())
    assert all(torch.equal(value, whole[name]) for name, value in state(resumed).items())
    whole_file = torch.load(file, weights_only=True)
    said = json.loads(whole_file["of"])
    older = {name: said[name] for name in ("recipe", "places", "frames", "labels", "network")}
    torch.save({**whole_file, "of": json.dumps(older, sort_keys=True)}, file)
    again = train_exits(network(), SPEC, FRAMES[:160], None, RECIPE, stop, places=places(), checkpoint=file)
    assert all(torch.equal(value, whole[name]) for name, value in state(again).items()), "an older file has less to say"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training's checkpoint."""
    file = tmp_path_factory.mktemp("finished") / "folder that is made" / "checkpoint"
    train_exits(network(), SPEC, FRAMES[:40], None, SHORT, places=places(), checkpoint=file)
    return file


@pytest.mark.parametrize("part", ["recipe", "places", "input", "frames", "labels", "network"])
def test_the_checkpoint_of_another_training_is_refused_and_the_part_named(finished: Path, part: str) -> None:
    model, spec, frames, labels, recipe, where = network(), SPEC, FRAMES[:40], None, SHORT, places()
    if part == "recipe":
        recipe = dataclasses.replace(SHORT, seed=5)
    elif part == "places":
        where = dataclasses.replace(where, modules=where.modules[:1], shares=where.shares[:1])
    elif part == "input":
        spec = dataclasses.replace(SPEC, mean=(0.1,))
    elif part == "frames":
        frames = frames[::-1]
    elif part == "labels":
        labels = np.zeros(40, np.int64)
    else:
        model = copy.deepcopy(model)
        torch.nn.init.zeros_(model.head.weight)
    with pytest.raises(ValueError, match=rf"is of another training; what differs: {part}\. Remove it"):
        train_exits(model, spec, frames, labels, recipe, places=where, checkpoint=finished)


def test_temperatures_are_fitted_to_frames_that_no_head_learned_from() -> None:
    order = np.random.default_rng(RECIPE.seed).permutation(160)
    held, fitted = np.sort(order[:16]), np.sort(order[16:])
    features, logits = exit_features(network(), SPEC, trained(), FRAMES[:160])
    answers = logits.argmax(axis=1)
    for each, x in zip(trained().exits[:-1], features, strict=False):
        scores = each.head.logits(x)
        assert each.temperature == pytest.approx(fit_temperature(scores[held], answers[held]), rel=1e-3)
        assert each.temperature != pytest.approx(fit_temperature(scores[fitted], answers[fitted]), rel=1e-2)
        assert each.agreement == (scores[held].argmax(axis=1) == answers[held]).mean()


def test_a_heads_descent_starts_where_its_layer_was_trained_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_heads, "_DESCENT_STEPS", 0)
    torch.manual_seed(0)
    layer, x_ND = nn.Linear(5, 3), (np.random.default_rng(0).normal(size=(20, 5)) * [1, 2, 3, 4, 5] + 1).astype("f4")
    head = exit_heads._by_descent(x_ND, np.zeros((20, 3), np.float32), layer)
    np.testing.assert_allclose(head.logits(x_ND), layer(torch.from_numpy(x_ND)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("mirror", [True, False])
def test_frames_are_mirrored_only_where_the_recipe_says_so(mirror: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Spy(exits_of_train.ShiftAndFlip):
        def moved(self, frames_BHWC: Any, moves_B3: Any) -> Any:
            seen.extend(moves_B3[:, 2].tolist())
            return super().moved(frames_BHWC, moves_B3)

    monkeypatch.setattr(exits_of_train, "ShiftAndFlip", Spy)
    recipe = dataclasses.replace(SHORT, mirror=mirror)
    train_exits(network(), SPEC, FRAMES[:40], None, recipe, places=places())
    assert set(seen) == ({0, 1} if mirror else {0})


def test_thresholds_are_certified_on_frames_that_nothing_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def train(_model: Any, _spec: Any, frames: Any, labels: Any, *_more: Any, **_told: Any) -> TrainedExits:
        asked.append((frames, labels))
        return trained()

    monkeypatch.setattr(exit_build, "train_exits", train)
    labels = np.arange(240) % 3
    source = exit_build.make_exits(network(), SPEC, FRAMES, labels, where=2, recipe=RECIPE)
    ((used, taught),) = asked
    assert source.calibration is not None
    assert (len(used), len(source.calibration)) == (192, 48)
    label_of = dict(zip((frame.tobytes() for frame in FRAMES), labels.tolist(), strict=True))
    both = [{frame.tobytes() for frame in part} for part in (used, source.calibration)]
    assert not both[0] & both[1]
    assert both[0] | both[1] == set(label_of)
    assert [label_of[frame.tobytes()] for frame in used] == taught.tolist()


def test_stems_learn_to_answer_as_the_network_does() -> None:
    answers = exit_features(network(), SPEC, trained(), FRAMES[160:])[1].argmax(axis=1)
    most_frequent = np.bincount(answers).max() / len(answers)
    features, _ = exit_features(network(), SPEC, trained(), FRAMES[160:])
    for each, x in zip(trained().exits, features, strict=True):
        agrees = (each.head.logits(x).argmax(axis=1) == answers).mean()
        assert agrees > most_frequent + 0.1


@pytest.mark.parametrize("stem", ["conv", "pooled"])
def test_exits_are_read_from_a_file_as_they_were_saved(tmp_path: Any, stem: str) -> None:
    save_trained_exits(tmp_path / "exits.safetensors", trained(stem))
    back = load_trained_exits(tmp_path / "exits.safetensors")
    for a, b in zip(trained(stem).exits, back.exits, strict=True):
        assert (a.place, a.temperature, a.fit, a.agreement) == (b.place, b.temperature, b.fit, b.agreement)
        assert a.head.digest() == b.head.digest()
        np.testing.assert_array_equal(a.moments.covariance_DD, b.moments.covariance_DD)
    for ours, theirs in zip(
        *(exit_features(network(), SPEC, e, FRAMES[:3])[0] for e in (trained(stem), back)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_no_file_of_exits_is_refused(tmp_path: Any) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="does not hold trained exits"):
        load_trained_exits(tmp_path / "x")


@pytest.mark.parametrize(
    "labels", [np.full(40, 3), np.zeros(80, np.int64), np.zeros(40)], ids=["beyond", "twice-as-many", "floats"]
)
def test_labels_that_are_not_the_networks_are_refused_by_the_trainer(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="source_labels"):
        train_exits(network(), SPEC, FRAMES[:40], labels, RECIPE, places=places())


def test_exits_of_another_network_are_refused(built: Bundle, tmp_path: Any) -> None:
    deep = trained().exits[-1]
    other = LinearHead(weights_KD=deep.head.weights_KD + 1, bias_K=deep.head.bias_K)
    exits = dataclasses.replace(trained(), exits=(dataclasses.replace(deep, head=other),))
    graphs = [onnx.load_model_from_string(built.read(segment.file)) for segment in built.manifest.segments]
    with pytest.raises(BundleError, match="another network"):
        exit_build.build_exits(
            ExitSource(trained=exits),
            graphs=graphs,
            sessions=sessions(built),
            input=SPEC,
            frames=FRAMES,
            progress=print,
        )
    assert not list(tmp_path.iterdir())


def test_segments_of_equal_work_and_exits_do_not_go_together() -> None:
    source = ExitSource(trained=trained())
    assert len(exit_build.exit_cuts(source, traced(), network(), BuildOptions())) == 3
    with pytest.raises(ValueError, match="cut where they stand"):
        exit_build.exit_cuts(source, traced(), network(), BuildOptions(num_segments=2))


class NoLinear(nn.Module):
    """Ends in a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(self.a(x).relu()).mean((2, 3))
        return out


def test_a_network_without_a_last_linear_layer_has_no_deep_exit_and_that_is_said() -> None:
    assert exit_places.deep_point(traced().graph, network()) is not None
    assert exit_places.deep_point(traced().graph, NoLinear()) is None
    places = ExitPlaces(modules=("a",), shares=(0.5,), last_linear=None)
    told: list[str] = []
    exits = train_exits(
        NoLinear(), SPEC, FRAMES[:40], None, dataclasses.replace(RECIPE, stem="pooled"), told.append, places=places
    )
    assert not any(each.is_deep for each in exits.exits)
    assert "no deep exit" in told[-1]
    assert "a: 6 components of 64 means a frame" in told


def test_places_are_spread_by_work_and_a_wrong_name_lists_them() -> None:
    assert list(places().shares) == sorted(places().shares)
    assert all(0 < share < 1 for share in places().shares)
    assert places().last_linear is not None
    with pytest.raises(ValueError, match=f"no exit can stand on 'nowhere'.*{places().modules[0]}"):
        place_exits(network(), SPEC, ["nowhere"])
    with pytest.raises(
        ValueError, match=rf"99 exits were asked for.*fewer places.*{places().modules[0]}.*ask for fewer"
    ):
        place_exits(network(), SPEC, 99)
    with pytest.raises(ValueError, match=r"where is 'stem', expected a number or a list of names, such as \['stem'\]"):
        place_exits(network(), SPEC, "stem")


def test_too_few_frames_for_exits_are_counted_as_they_were_given() -> None:
    with pytest.raises(ValueError, match="there are 4 source frames, and exits need at least 5"):
        exit_build.make_exits(network(), SPEC, FRAMES[:4], None, where=1, recipe=RECIPE)
    with pytest.raises(ValueError, match=r"pad is 64, it must lie in 0\.\.63"):
        ExitRecipe(pad=64)
    assert ExitRecipe(pad=63).pad == 63


@pytest.mark.parametrize(
    "stem",
    [ConvStem(4, 12, 10, num_features=5, num_cheap=2, smallest=4), PooledStem(4, 7, 10, num_features=5, grid=3)],
    ids=["conv", "pooled"],
)
def test_a_stem_is_made_again_from_its_configuration_and_its_work_is_counted(stem: Any) -> None:
    again = make_stem(stem.config).eval()
    again.load_state_dict(stem.state_dict())
    x = torch.randn(2, *stem.input_shape)
    assert torch.equal(again(x), stem.eval()(x))
    assert stem(x).shape == (2, 5)
    conv = 6 * 5 * (5 * 4 * 9 + 2 * (5 * 9 + 5 * 5)) + 16 * 5 * 5
    assert stem.macs == (conv if isinstance(stem, ConvStem) else 4 * 9 * 5)


def test_of_many_means_the_components_are_found_step_by_step_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(32, 32, generator=rng))[0]
    means = torch.randn(200, 32, generator=rng) * torch.arange(32, 0, -1) @ directions + 5
    exact, stepwise, again = (PooledStem(2, 4, 4, num_features=5) for _ in range(3))
    exact.fit(means)
    monkeypatch.setattr(exits_of_models, "_ALL_AT_ONCE", 31)
    monkeypatch.setattr(exits_of_models, "_STEPS", 1)
    stepwise.fit(means)
    torch.manual_seed(3)
    again.fit(means)
    assert torch.equal(again.components, stepwise.components)
    monkeypatch.setattr(exits_of_models, "_STEPS", 60)  # of so few numbers the last ones are hardly apart
    stepwise.fit(means)
    torch.testing.assert_close(stepwise.components, exact.components, atol=1e-3, rtol=0)
    few = PooledStem(2, 4, 4, num_features=5)
    few.fit(means[:3])
    torch.testing.assert_close(few.components @ few.components.T, torch.eye(5), atol=1e-4, rtol=0)


def test_a_pooled_stem_keeps_what_varies_most() -> None:
    stem = PooledStem(2, 4, 4, num_features=1, grid=2)
    x = torch.zeros(50, 2, 4, 4)
    x[:, 1, :2, 2:] = torch.randn(50)[:, None, None]
    stem.fit(cell_means(x, stem.cells))
    kept = stem(x).squeeze(1)
    assert kept.std() == pytest.approx(float(x[:, 1, 0, 2].std()), rel=1e-4)
    assert abs(float(kept.mean())) < 1e-5


class InPlace(nn.Module):
    """A ReLU works in place on what a module gave, as in many a ResNet."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.conv, self.bn, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.relu(self.bn(self.conv(x)), inplace=self.inplace)
        z: torch.Tensor = self.head(nn.functional.relu(self.relu(y)).mean((2, 3)))
        return z


def test_an_exit_learns_from_what_the_device_gives_it_where_the_network_works_in_place_behind_it() -> None:
    torch.manual_seed(0)
    model = InPlace(inplace=True)
    places = ExitPlaces(modules=("bn",), shares=(0.5,), last_linear=None)
    ((shown,), _, _) = Trunk(model, SPEC, places)(FRAMES[:2])
    exported = export_model(model, SPEC, taps=["bn"])
    (given,) = open_session(split(exported.graph, ["bn"])[0], exported.tensors).run(None, {"frames": FRAMES[:2]})
    np.testing.assert_allclose(shown.numpy(), given, atol=1e-5)
    assert (given < 0).any(), "the control: before the ReLU"


def test_a_module_may_have_the_name_that_the_exporter_gives_to_a_tensor() -> None:
    torch.manual_seed(0)
    model = InPlace(inplace=False).eval()  # its module `relu` is a convolution, and torch names a ReLU's output so
    exported = export_model(model, SPEC, taps=["bn", "relu"])
    sessions = [open_session(graph, exported.tensors) for graph in split(exported.graph, ["bn", "relu"])]
    with torch.no_grad():
        x = normalise(torch.from_numpy(FRAMES[:4]), SPEC)
        expected = model.relu(nn.functional.relu(model.bn(model.conv(x))))
        logits = model(x)
    np.testing.assert_allclose(predict(sessions[:2], FRAMES[:4]), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(predict(sessions, FRAMES[:4]), logits.numpy(), atol=1e-5)


def test_no_exit_stands_on_a_module_with_the_name_of_the_graphs_output() -> None:
    model = nn.Sequential()
    model.add_module("logits", nn.Conv2d(1, 4, 3))
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    assert "logits" not in set(exit_places._modules_with_maps(model, SPEC).values())
    with pytest.raises(ValueError, match="'logits' has the name of the graph's own input or output"):
        export_model(model, SPEC, taps=["logits"])


@pytest.mark.parametrize(("side", "cells"), [(7, 4), (6, 4), (11, 4), (15, 4), (8, 4), (3, 3)])
def test_cells_hold_all_of_a_map(side: int, cells: int) -> None:
    for row in range(side):
        x = torch.zeros(1, 1, side, side)
        x[0, 0, row, side - 1] = 1.0
        assert cell_means(x, (cells, cells)).sum() > 0
