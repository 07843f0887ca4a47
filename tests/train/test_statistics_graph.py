"""The statistics and the fingerprint graph measure what torch's own BatchNorm layers see.

Errors are relative to the largest magnitude of a layer's values; the reference is in float64.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from traced import MOBILENET, random_frames
from traced import square as square_input

from littoral.core.drift import batch_norm_layers, from_moments
from littoral.core.nearness import SCORES
from littoral.core.recall import fingerprint_layer, fingerprint_of_moments
from littoral.models.frames import normalise
from littoral.train.export import export_model, external_names
from littoral.train.run import measure, open_session, predict
from littoral.train.statistics import fingerprint_graph, statistics_graph

NAMES = ["small_cnn", "resnet20", MOBILENET]


class Blend(nn.Module):
    """The definition, written once more in torch."""

    def __init__(self, norm: nn.BatchNorm2d, alpha: float) -> None:
        super().__init__()
        self.norm, self.alpha = norm, alpha

    def forward(self, x):
        n, a = self.norm, self.alpha
        self.mean, self.square = x.mean((0, 2, 3)), (x * x).mean((0, 2, 3))
        mu = (1 - a) * n.running_mean + a * self.mean
        square = (1 - a) * (n.running_var + n.running_mean**2) + a * self.square
        var = (square - mu * mu).clamp(min=0)
        y = (x - mu.view(1, -1, 1, 1)) / torch.sqrt(var + n.eps).view(1, -1, 1, 1)
        return y * n.weight.view(1, -1, 1, 1) + n.bias.view(1, -1, 1, 1)


def blended(net, alpha, frames):
    model = copy.deepcopy(net.model).double().eval()
    found = {}
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, child = path.rpartition(".")
            found[path] = Blend(module, alpha)
            setattr(model.get_submodule(parent), child, found[path])
    with torch.no_grad():
        model(normalise(torch.from_numpy(frames), net.spec).double())
    return {path: (b.mean.numpy(), b.square.numpy()) for path, b in found.items()}


def close(value, expected):
    return np.abs(value - expected).max() < 1e-4 * max(1e-3, np.abs(expected).max())


def session_of(net):
    return open_session(statistics_graph(net.exported.graph, net.exported.norm_layers), net.exported.tensors)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_moments_are_those_of_the_definition(network, name, alpha):
    net = network(name)
    session = session_of(net)
    # One frame of MobileNetV2 leaves 4 pixels, and float32 cannot tell their variance from rounding.
    for batch in (8,) if name == "mobilenet_v2" else (1, 8):
        frames = random_frames(net.spec, batch, seed=3)
        moments = measure(session, frames, net.exported.tensors, alpha)
        expected = blended(net, alpha, frames)
        assert len(moments) == 2 * len(expected)
        for path, (mean, square) in expected.items():
            assert close(moments[f"{path}.batch_mean"], mean), path
            assert close(moments[f"{path}.batch_mean_square"], square), path


def test_alpha_0_measures_plain_inference_and_alpha_1_training(network):
    net = network("resnet20")
    session = session_of(net)
    frames = random_frames(net.spec, 8, seed=4)
    for alpha, training in ((0.0, False), (1.0, True)):
        model = copy.deepcopy(net.model).train(training)
        seen = {}
        for path, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(lambda _m, args, path=path, seen=seen: seen.update({path: args[0]}))
        with torch.no_grad():
            model(normalise(torch.from_numpy(frames), net.spec))
        moments = measure(session, frames, net.exported.tensors, alpha)
        statistics = from_moments(moments, net.exported.norm_layers)
        for layer in batch_norm_layers(net.exported.norm_layers):
            x = seen[layer.name]
            assert close(statistics[layer.mean], x.mean((0, 2, 3)).numpy())
            assert close(statistics[layer.var], x.var((0, 2, 3), correction=0).numpy())


def test_alpha_1_does_not_look_at_the_statistics_that_it_is_given(network):
    net = network("small_cnn")
    session = session_of(net)
    frames = random_frames(net.spec, 8)
    other = dict(net.exported.tensors)
    for layer in net.exported.norm_layers:
        other[layer.mean], other[layer.var] = other[layer.mean] + 3, other[layer.var] * 5
    for alpha, same in ((1.0, True), (0.5, False)):
        one = measure(session, frames, net.exported.tensors, alpha)
        two = measure(session, frames, other, alpha)
        last = net.exported.norm_layers[-1].name + ".batch_mean"
        assert np.allclose(one[last], two[last], atol=1e-5) == same


@pytest.mark.parametrize("name", NAMES)
def test_at_alpha_0_the_answers_are_the_networks_own(network, name):
    net = network(name)
    graph = statistics_graph(net.exported.graph, net.exported.norm_layers, scores=True)
    frames = random_frames(net.spec, 6)
    found = measure(open_session(graph, net.exported.tensors), frames, net.exported.tensors, 0.0)[SCORES]
    own = predict([open_session(net.exported.graph, net.exported.tensors)], frames)
    np.testing.assert_allclose(found, own, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scores", [False, True], ids=["moments", "and-answers"])
def test_interface_and_size(network, scores):
    net = network("resnet20")
    graph = statistics_graph(net.exported.graph, net.exported.norm_layers, scores=scores)
    per_layer = [n for layer in net.exported.norm_layers for n in (layer.gamma, layer.beta, layer.mean, layer.var)]
    assert [i.name for i in graph.graph.input] == ["frames", "alpha", *per_layer]
    ends = (".batch_mean", ".batch_mean_square")
    moments = [x.name + e for x in net.exported.norm_layers for e in ends]
    assert [o.name for o in graph.graph.output] == [*moments, *([SCORES] if scores else [])]
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    assert ("linear.weight" in external_names(graph)) == scores, "what follows the last is left out"
    assert "layer3.2.conv2.weight" in external_names(graph)
    assert len(graph.SerializeToString()) < 100_000


@pytest.mark.parametrize("name", ["group_norm", "vit_tiny"])
def test_a_network_without_batch_norm_has_no_statistics_graph(network, name):
    exported = network(name).exported
    assert statistics_graph(exported.graph, exported.norm_layers) is None


# The fingerprint.

PRINTED = ["small_cnn", "one_norm", "resnet20", "resnet18", MOBILENET]


def fingerprint_of(net):
    """The layer, and what the graph on these weights says of frames: its moments."""
    layer = fingerprint_layer(net.exported.norm_layers)
    graph = fingerprint_graph(net.exported.graph, layer)

    def moments(frames, tensors=net.exported.tensors):
        return measure(open_session(graph, tensors), frames)

    return layer, graph, moments


def moved(net, layers):
    """The network's tensors with values and statistics of these layers changed."""
    rng = np.random.default_rng(0)
    tensors = dict(net.exported.tensors)
    for name in (n for b in layers for n in (b.gamma, b.beta, b.mean, b.var)):
        value = tensors[name]
        tensors[name] = (value * rng.uniform(1.2, 2, value.shape) + 0.1).astype(np.float32)
    return tensors


@pytest.mark.parametrize("name", PRINTED)
def test_the_fingerprint_is_what_the_layer_sees_in_eval_mode(network, name):
    net = network(name)
    layer, _, moments = fingerprint_of(net)
    seen = []
    model = copy.deepcopy(net.model).double().eval()
    model.get_submodule(layer.name).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    for batch in (1, 8):
        frames = random_frames(net.spec, batch, seed=5)
        with torch.no_grad():
            model(normalise(torch.from_numpy(frames), net.spec).double())
        x = seen.pop()
        found = moments(frames)
        assert set(found) == {f"{layer.name}.batch_mean", f"{layer.name}.batch_mean_square"}
        assert close(found[f"{layer.name}.batch_mean"], x.mean((0, 2, 3)).numpy())
        assert close(found[f"{layer.name}.batch_mean_square"], (x * x).mean((0, 2, 3)).numpy())
        values = fingerprint_of_moments(found, layer)
        mean, var = np.split(values, 2)
        assert len(var) == min(layer.num_channels, 64)
        assert close(mean, x.mean((0, 2, 3)).numpy()[:64])
        assert close(var, x.var((0, 2, 3), correction=0).numpy()[:64])


@pytest.mark.parametrize("name", PRINTED)
def test_the_fingerprint_graph_takes_frames_alone_and_ends_before_its_layer(network, name):
    net = network(name)
    layer, graph, _ = fingerprint_of(net)
    assert [i.name for i in graph.graph.input] == ["frames"]
    assert [o.name for o in graph.graph.output] == [f"{layer.name}.batch_mean", f"{layer.name}.batch_mean_square"]
    batch = batch_norm_layers(net.exported.norm_layers)
    before, needed = batch[: batch.index(layer)], set(external_names(graph))
    own = {layer.gamma, layer.beta, layer.mean, layer.var}
    later = {n for b in batch[len(before) + 1 :] for n in (b.gamma, b.beta, b.mean, b.var)}
    assert not needed & (own | later)
    assert needed <= set(net.exported.tensors)
    assert len(needed) < len(net.exported.tensors) / 2
    if name in ("resnet20", "mobilenet_v2"):  # no side branch
        assert {n for b in before for n in (b.gamma, b.beta, b.mean, b.var)} <= needed


@pytest.mark.parametrize("name", PRINTED)
def test_adapted_values_and_statistics_do_not_reach_the_fingerprint(network, name):
    """They are inputs of the statistics graph and none of this one, which keeps the source's: two controls."""
    net = network(name)
    layer, _, moments = fingerprint_of(net)
    frames, mean = random_frames(net.spec, 8, seed=6), f"{layer.name}.batch_mean"
    batch = batch_norm_layers(net.exported.norm_layers)
    before, rest = batch[: batch.index(layer)], batch[batch.index(layer) :]
    expected, statistics = moments(frames), session_of(net)
    assert all((moments(frames, moved(net, rest))[n] == value).all() for n, value in expected.items())
    served = measure(statistics, frames, moved(net, batch), 0.5)
    assert all((moments(frames)[n] == value).all() for n, value in expected.items()), "also after a swap was measured"
    if before:
        assert not close(served[mean], measure(statistics, frames, net.exported.tensors, 0.5)[mean])
        assert not close(moments(frames, moved(net, before))[mean], expected[mean]), "another source"


@pytest.mark.parametrize("name", ["group_norm", "vit_tiny"])
def test_a_network_without_batch_norm_has_no_fingerprint_layer(network, name):
    assert fingerprint_layer(network(name).exported.norm_layers) is None


def test_a_mean_that_is_thousands_of_deviations_away_leaves_the_variance_what_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model.eval()
    spec = square_input(16, 1)
    frames = random_frames(spec, 8)
    with torch.no_grad():
        x = model[0](normalise(torch.from_numpy(frames), spec))
        model[1].running_var.copy_(x.var((0, 2, 3)))
        model[0].bias.add_(3000 * model[1].running_var.sqrt())
        model[1].running_mean.copy_(x.mean((0, 2, 3)) + 3000 * model[1].running_var.sqrt())
        expected = model.double()(normalise(torch.from_numpy(frames), spec).double()).numpy()
    exported = export_model(model.float(), spec)
    graph = statistics_graph(exported.graph, exported.norm_layers, scores=True)
    found = measure(open_session(graph, exported.tensors), frames, exported.tensors, 0.0)[SCORES]
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max(), "5 % where the squares are subtracted"
