"""The same numbers from torch and from the chained skeletons, before and after a swap of values.

Errors are relative to the largest logit of the batch and are measured against torch in float64. The bound is 1e-5, or
three times torch's own float32 error where that is more: an untrained MobileNetV2 amplifies the rounding of its first
layers so much that torch's float32 is itself 7e-6 away.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import traced
from torch import nn
from traced import MOBILENET, random_frames, square, torch_logits

from littoral.models.frames import normalise
from littoral.models.zoo import small_cnn
from littoral.train.cuts import choose_cut_points, find_cut_points, named_cut_points, split
from littoral.train.export import export_model, external_names
from littoral.train.run import open_session, predict

TOLERANCE = 1e-5
NAMES = ["small_cnn", "group_norm", "resnet20", "resnet18", MOBILENET, "vit_tiny"]
NORMS = {
    "small_cnn": ("batch", 3),
    "group_norm": ("group", 5),
    "resnet20": ("batch", 19),
    "resnet18": ("batch", 20),
    "mobilenet_v2": ("batch", 52),
    "vit_tiny": ("layer", 7),
}


def error(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def torch_float64(model, spec, frames):
    x = normalise(torch.from_numpy(frames), spec).double()
    with torch.no_grad():
        return copy.deepcopy(model).double().eval()(x).numpy()


def swapped(exported, seed=1):
    """Other affine values and statistics, near enough that the network stays alive."""
    rng = np.random.default_rng(seed)
    new = dict(exported.tensors)
    for layer in exported.norm_layers:
        size = layer.num_channels
        new[layer.gamma] = (new[layer.gamma] * rng.uniform(0.8, 1.2, size)).astype(np.float32)
        new[layer.beta] = (new[layer.beta] + rng.normal(0, 0.1, size)).astype(np.float32)
        if layer.kind == "batch":
            new[layer.mean] = (new[layer.mean] + 0.1 * np.sqrt(new[layer.var]) * rng.normal(size=size)).astype(
                np.float32
            )
            new[layer.var] = (new[layer.var] * rng.uniform(0.7, 1.5, size)).astype(np.float32)
    return new


def chain(exported, num_segments, tensors):
    points = choose_cut_points(find_cut_points(exported.graph), num_segments)
    return [open_session(graph, tensors) for graph in split(exported.graph, [point.tensor for point in points])]


@functools.cache
def reference(name, changed, batch):
    """What torch gives for a batch in float32 and in float64, and the tensors it gives it with."""
    net = traced.network(name)
    model, tensors = net.model, net.exported.tensors
    if changed:
        model, tensors = copy.deepcopy(model), swapped(net.exported)
        model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, strict=False)
    frames = random_frames(net.spec, batch, seed=batch)
    return tensors, frames, torch_logits(model, net.spec, frames), torch_float64(model, net.spec, frames)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "resnet18" else n for n in NAMES])
@pytest.mark.parametrize(("num_segments", "batches"), [(1, (1, 4)), (3, (1, 4, 64)), (4, (1, 4))], ids=["1", "3", "4"])
def test_chained_segments_equal_torch_before_and_after_a_swap(network, name, num_segments, batches):
    if name == "small_cnn" and num_segments == 4:
        pytest.skip("three convolutions give at most three segments")
    for changed in (False, True):
        sessions = chain(network(name).exported, num_segments, reference(name, changed, 1)[0])
        assert len(sessions) == num_segments
        for batch in batches:
            _, frames, single, exact = reference(name, changed, batch)
            own = error(single, exact)
            assert own < 5 * TOLERANCE  # else the comparison would say nothing
            assert error(predict(sessions, frames), exact) < max(TOLERANCE, 3 * own)


@pytest.mark.parametrize("name", NAMES)
def test_a_swap_changes_the_output(network, name):
    net = network(name)
    frames = random_frames(net.spec, 4)
    before = predict(chain(net.exported, 1, net.exported.tensors), frames)
    assert error(predict(chain(net.exported, 1, swapped(net.exported)), frames), before) > 100 * TOLERANCE


def test_the_look_alike_add_initializer_would_not_swap(network):
    """Negative control: on a graph with its weights inside, the swap that is documented for it is silently ignored."""
    net = network("small_cnn")
    whole = onnx.ModelProto()
    whole.CopyFrom(net.exported.graph)
    del whole.graph.initializer[:]
    for tensor in net.exported.graph.graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        value = onnx.numpy_helper.from_array(net.exported.tensors[tensor.name], tensor.name) if external else tensor
        whole.graph.initializer.append(value)
    new = swapped(net.exported)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    kept = {name: ort.OrtValue.ortvalue_from_numpy(new[name]) for name in external_names(net.exported.graph)}
    for name, value in kept.items():
        options.add_initializer(name, value)
    session = ort.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    frames = random_frames(net.spec, 4)
    old = predict(chain(net.exported, 1, net.exported.tensors), frames)
    wanted = predict(chain(net.exported, 1, new), frames)
    assert error(predict([session], frames), wanted) > 100 * TOLERANCE
    assert error(wanted, old) > 100 * TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_norm_layers_come_in_the_order_of_the_network(network, name):
    net = network(name)
    kind, count = NORMS[name]
    layers = net.exported.norm_layers
    assert [layer.kind for layer in layers] == [kind] * count
    order: list[str] = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, _o, path=path: order.append(path))
        for path, module in net.model.named_modules()
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)
    ]
    torch_logits(net.model, net.spec, random_frames(net.spec, 1))
    for hook in hooks:
        hook.remove()
    # A shortcut's BatchNorm runs beside the main branch: which of the two comes first is the exporter's choice.
    assert set(order) == {layer.name for layer in layers}
    if name != "resnet18":
        assert order == [layer.name for layer in layers]


@pytest.mark.parametrize("name", NAMES)
def test_a_skeleton_is_small_has_no_weights_and_no_path_of_this_machine(network, name):
    exported = network(name).exported
    raw = exported.graph.SerializeToString()
    inside = sum(len(t.raw_data) for t in exported.graph.graph.initializer)
    assert len(raw) < 60_000
    assert inside < 2_000
    assert str(Path.cwd()).encode() not in raw
    assert b"site-packages" not in raw
    assert b".py" not in raw
    assert exported.graph.ir_version <= 10
    assert [o.version for o in exported.graph.opset_import if o.domain == ""] == [18]
    assert set(external_names(exported.graph)) == set(exported.tensors)
    assert all(value.dtype == np.float32 for value in exported.tensors.values())


class Odd(nn.Module):
    """float64, a weight used twice, a BatchNorm1d, an integer buffer, a layer that forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(16)
        self.unused = nn.BatchNorm1d(3)
        self.head = nn.Linear(16, 5)
        self.register_buffer("order", torch.arange(15, -1, -1))
        self.double()

    def forward(self, x):
        x = x.flatten(1)[:, self.order]
        return self.head(torch.relu(self.norm(self.second(torch.relu(self.first(x))))))


def test_an_odd_network_is_exported_and_left_as_it_was():
    torch.manual_seed(0)
    model = Odd().train()
    spec = square(4, 1)
    exported = export_model(model, spec, output_shape=(5,))
    assert model.training
    assert model.head.weight.dtype == torch.float64
    assert [layer.name for layer in exported.norm_layers] == ["norm"]
    assert "second.weight" not in exported.tensors
    frames = random_frames(spec, 6)
    expected = torch_logits(copy.deepcopy(model).float(), spec, frames)
    assert error(predict([open_session(exported.graph, exported.tensors)], frames), expected) < TOLERANCE


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x if float(x.sum()) > 0 else -x)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x):
        return self.norm(self.conv(self.norm(x))).flatten(1)


def flat(*layers):
    return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize(
    ("model", "output_shape", "taps", "words"),
    [
        (Branching(), None, (), "cannot be traced to ONNX"),
        (Twice(), None, (), "is run 2 times by the network, expected once"),
        (nn.Conv2d(1, 3, 1), None, (), r"gives \(2, 3, 4, 4\), expected one tensor of logits \(2, classes\)"),
        (flat(nn.Linear(16, 3)), (4,), (), "the network has 3 classes, class_names has 4"),
        (flat(nn.Linear(9, 3)), None, (), "does not take frames of 4x4x1"),
        (flat(nn.BatchNorm1d(16, affine=False)), None, (), "'1' has affine=False"),
        (flat(nn.BatchNorm1d(16, track_running_stats=False)), None, (), "track_running_stats=False"),
        (flat(nn.Linear(16, 3)), None, ("nowhere",), "'nowhere' is not a module of the network; it has 0, 1"),
    ],
    ids=["branches", "norm-twice", "not-a-classifier", "classes", "frame-size", "no-affine", "no-statistics", "tap"],
)
def test_a_network_that_cannot_be_used_is_refused(model, output_shape, taps, words):
    with pytest.raises(ValueError, match=words):
        export_model(model, square(4, 1), output_shape=output_shape, taps=taps)


@pytest.mark.parametrize(
    "change", [{"mean": (0.5, 0.5)}, {"std": (0.0,)}, {"height": 0}], ids=["mean", "std", "height"]
)
def test_an_input_that_makes_no_sense_is_refused(change):
    with pytest.raises(ValueError, match="channel"):
        export_model(small_cnn(), dataclasses.replace(square(16, 1), **change))


def test_what_a_module_gives_is_tapped_before_the_next_one_works_in_place_on_it() -> None:
    spec = square(8, 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.LeakyReLU(inplace=True), nn.Flatten(), nn.Linear(128, 2))
    frames = random_frames(spec, 4)
    exported = export_model(model, spec, taps=["0"])
    (chosen,) = named_cut_points(find_cut_points(exported.graph), ["0"])
    first, _ = split(exported.graph, [chosen.tensor])
    with torch.no_grad():
        expected = model[0](normalise(torch.from_numpy(frames), spec)).numpy()
    assert expected.min() < -0.1
    np.testing.assert_allclose(predict([open_session(first, exported.tensors)], frames), expected, atol=1e-5)


def test_a_module_of_two_names_is_exported_once():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.again = model[1]

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.first = model, model[0]

        def forward(self, x):
            y = self.body[1](self.first(x))
            return self.body[4](self.body[3](self.body[2](y)))

    spec, whole = square(16, 1), Whole().eval()
    exported = export_model(whole, spec)
    frames = random_frames(spec, 3)
    came = predict([open_session(exported.graph, exported.tensors)], frames)
    assert error(came, torch_logits(whole, spec, frames)) < TOLERANCE
    assert [layer.name for layer in exported.norm_layers] == ["body.1"]
