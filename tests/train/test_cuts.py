"""Cut points: each gives the same output, and the choice among them is by work."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from traced import MOBILENET, random_frames, torch_logits

from littoral.train.cuts import CutPoint, choose_cut_points, find_cut_points, named_cut_points, split
from littoral.train.run import open_session, predict


@pytest.mark.parametrize(
    "name", ["small_cnn", "group_norm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet20", "vit_tiny"))]
)
def test_every_cut_gives_the_same_output(network, name):
    net = network(name)
    frames = random_frames(net.spec, 3)
    expected = torch_logits(net.model, net.spec, frames)
    points = find_cut_points(net.exported.graph)
    assert len(points) >= 10
    for point in points:
        parts = split(net.exported.graph, [point.tensor])
        logits = predict([open_session(part, net.exported.tensors) for part in parts], frames)
        assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max(), point


@pytest.mark.parametrize("name", ["resnet20", "vit_tiny"])
def test_cut_at_all_points_at_once(network, name):
    net = network(name)
    frames = random_frames(net.spec, 2)
    expected = torch_logits(net.model, net.spec, frames)
    tensors = [point.tensor for point in find_cut_points(net.exported.graph)]
    sessions = [open_session(part, net.exported.tensors) for part in split(net.exported.graph, tensors)]
    assert np.abs(predict(sessions, frames) - expected).max() < 1e-5 * np.abs(expected).max()


def test_parts_share_no_tensor_and_lose_none(network):
    exported = network("resnet20").exported
    parts = split(exported.graph, ["layer1", "layer2"])
    names = [t.name for part in parts for t in part.graph.initializer if t.name in exported.tensors]
    assert sorted(names) == sorted(exported.tensors)
    assert [part.graph.input[0].name for part in parts] == ["frames", "layer1", "layer2"]
    assert [part.graph.output[0].name for part in parts] == ["layer1", "layer2", "logits"]


def test_work_before_a_module_is_counted_as_torch_does_it(network):
    net = network("resnet20")
    macs: dict[str, int] = {}

    def count(path):
        def hook(module, _inputs, output):
            per_output = module.weight[0].numel()
            macs[path] = output[0].numel() * per_output

        return hook

    layers = {p: m for p, m in net.model.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    hooks = [module.register_forward_hook(count(path)) for path, module in layers.items()]
    torch_logits(net.model, net.spec, random_frames(net.spec, 1))
    for hook in hooks:
        hook.remove()
    points = {point.tensor: point.share_of_macs for point in find_cut_points(net.exported.graph)}
    before = sum(n for path, n in macs.items() if path.startswith(("conv1", "layer1.")))
    assert points["layer1"] == pytest.approx(before / sum(macs.values()))
    before += sum(n for path, n in macs.items() if path.startswith("layer2."))
    assert points["layer2"] == pytest.approx(before / sum(macs.values()))


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", pytest.param("resnet18", marks=pytest.mark.slow), MOBILENET])
def test_a_chosen_cut_leaves_a_convolution_with_its_normalisation(network, name):
    graph = network(name).exported.graph
    readers = {name: node.op_type for node in graph.graph.node for name in node.input}
    for point in choose_cut_points(find_cut_points(graph), 3):
        assert readers[point.tensor] not in ("BatchNormalization", "Relu", "Clip")


def test_automatic_segments_have_about_equal_work(network):
    points = find_cut_points(network("resnet20").exported.graph)
    shares = [0.0, *(p.share_of_macs for p in choose_cut_points(points, 3)), 1.0]
    assert np.diff(shares) == pytest.approx([1 / 3] * 3, abs=0.05)


@given(
    shares=st.lists(st.integers(0, 50), min_size=1, max_size=30),
    num_segments=st.integers(1, 8),
)
def test_choice_is_in_order_distinct_and_as_many_as_asked(shares, num_segments):
    points = [CutPoint(f"t{i}", share / 50) for i, share in enumerate(sorted(shares))]
    usable = {point.share_of_macs for point in points} - {0.0, 1.0}
    if num_segments > len(usable) + 1:
        with pytest.raises(ValueError, match=rf"can be cut into 1 to {len(usable) + 1} segments"):
            choose_cut_points(points, num_segments)
        return
    chosen = choose_cut_points(points, num_segments)
    assert len(chosen) == num_segments - 1
    positions = [points.index(point) for point in chosen]
    assert positions == sorted(set(positions))
    for point in chosen:  # the last of those with equal work
        assert max(p.tensor for p in points if p.share_of_macs == point.share_of_macs) or point in points
        assert points[-1] == point or points[points.index(point) + 1].share_of_macs > point.share_of_macs


def make_graph(nodes):
    """A graph of the given nodes from frames ``(batch, 4)`` float to ``logits``; so are the tensors between."""
    made = [name for node in nodes for name in node.output]

    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])

    graph = helper.make_graph(
        nodes, "g", [info("frames")], [info("logits")], value_info=[info(n) for n in made if n != "logits"]
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])


def test_a_tensor_beside_a_shortcut_is_no_cut_point():
    node = helper.make_node
    model = make_graph(
        [
            node("Relu", ["frames"], ["a"]),
            node("Neg", ["a"], ["branch"]),
            node("Exp", ["branch"], ["branch2"]),
            node("Add", ["a", "branch2"], ["joined"]),
            node("Relu", ["joined"], ["b"]),
            node("Neg", ["b"], ["logits"]),
        ]
    )
    assert [point.tensor for point in find_cut_points(model)] == ["a", "joined", "b"]
    with pytest.raises(ValueError, match="'branch' does not carry all"):
        split(model, ["branch"])
    with pytest.raises(ValueError, match="'nowhere' is not a tensor"):
        split(model, ["nowhere"])
    onnx.checker.check_model(split(model, ["joined"])[1])


def test_cuts_out_of_order_are_refused(network):
    with pytest.raises(ValueError, match="does not carry all"):
        split(network("resnet20").exported.graph, ["layer2", "layer1"])


def test_named_cut_points_come_in_the_order_of_the_network():
    points = [CutPoint("a", 0.1), CutPoint("b", 0.5), CutPoint("c", 0.9)]
    assert named_cut_points(points, ["c", "a"]) == [points[0], points[2]]
    with pytest.raises(ValueError, match=r"'z' is not a cut point.*a \(10 %\), b \(50 %\), c \(90 %\)"):
        named_cut_points(points, ["z"])
    with pytest.raises(ValueError, match="named twice"):
        named_cut_points(points, ["a", "a"])
