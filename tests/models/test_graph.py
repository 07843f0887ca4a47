"""A network from a layer graph computes what its layers say, can be cut by name, and refuses a graph that is none."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need the cloud extra")

from torch.nn import functional as F  # noqa: E402

from littoral.bundle.manifest import TorchModel  # noqa: E402
from littoral.core.detections import decode_grid  # noqa: E402
from littoral.errors import BundleError  # noqa: E402
from littoral.models.camvid_nets import cgnet_graph, espnet_graph  # noqa: E402
from littoral.models.factory import load_model  # noqa: E402
from littoral.models.graph import graph_network, graph_state, module_names, with_shapes  # noqa: E402
from littoral.models.graph_ops import make_op  # noqa: E402
from littoral.models.parts import head_of, tail_of  # noqa: E402

RNG = np.random.default_rng(0)


def toy_graph() -> dict[str, Any]:
    """Two convolutions, the second with TensorFlow's padding, beside a shortcut by another name."""
    nodes = [
        {"op": "conv2d", "inputs": ["x"], "output": "a/b;c", "weight": "w1", "bias": "b1", "padding": 1},
        {"op": "identity", "inputs": ["a/b;c"], "output": "copy"},
        {"op": "conv2d", "inputs": ["copy"], "output": "7", "weight": "w2", "padding": "same", "stride": [2, 2]},
        {"op": "max_pool2d", "inputs": ["copy"], "output": "pool", "kernel": [2, 2], "stride": [2, 2]},
        {"op": "add", "inputs": ["7", "pool"], "output": "sum", "activation": "relu"},
    ]
    return {"input": "x", "output": "sum", "nodes": nodes}


def toy_tensors() -> dict[str, np.ndarray]:
    return {
        "w1": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "b1": RNG.normal(size=4).astype(np.float32),
        "w2": RNG.integers(0, 256, (4, 4, 3, 3)).astype(np.uint8),
        "w2.scale": np.array(0.02, np.float32),
        "w2.zero_point": np.array(120, np.float32),
    }


def loaded(graph: dict[str, Any], tensors: dict[str, np.ndarray]) -> torch.nn.Module:
    kwargs = json.loads(json.dumps(with_shapes(graph, tensors)))  # what a manifest keeps of it
    spec = TorchModel(factory="littoral.models.graph:graph_network", kwargs=kwargs, file="w.safetensors")
    return load_model(spec, graph_state(graph, tensors))


def test_layers_are_computed_as_the_graph_says() -> None:
    tensors = toy_tensors()
    x = torch.randn(2, 3, 8, 6)
    a = F.conv2d(x, torch.from_numpy(tensors["w1"]), torch.from_numpy(tensors["b1"]), padding=1)
    w2 = (torch.from_numpy(tensors["w2"]).float() - 120) * 0.02
    # TensorFlow puts the odd row and column after.
    wanted = F.relu(F.conv2d(F.pad(a, (0, 1, 0, 1)), w2, stride=2) + F.max_pool2d(a, 2))
    torch.testing.assert_close(loaded(toy_graph(), tensors)(x), wanted, rtol=1e-5, atol=1e-4)


def test_a_network_is_cut_at_a_layers_output() -> None:
    model = loaded(toy_graph(), toy_tensors())
    x = torch.randn(1, 3, 8, 8)
    cut = module_names(toy_graph()["nodes"])["a/b;c"]
    assert cut == "a_b"
    torch.testing.assert_close(tail_of(model, cut)(head_of(model, cut)(x)), model(x))
    with pytest.raises(ValueError, match="does not carry all"):
        tail_of(model, "7")  # the shortcut goes around it


def test_layers_get_names_that_modules_can_have() -> None:
    nodes = [{"output": name} for name in ("a.b", "a/b", "a.b;more", "forward", "type", "é;")]
    names = module_names(nodes)
    assert list(names.values()) == ["a_b", "a_b_2", "a_b_3", "forward_2", "type_2", "é"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "spin"}, "'spin' is not known"),
        ({"inputs": ["nowhere"]}, "reads 'nowhere'"),
        ({"activation": "gelu"}, "activation 'gelu'"),
        ({"weight": "w9"}, "names the tensor 'w9'"),
    ],
    ids=["operation", "input", "activation", "tensor"],
)
def test_a_graph_that_is_none_is_refused(change: dict[str, Any], message: str) -> None:
    graph = copy.deepcopy(toy_graph())
    graph["nodes"][2].update(change)
    with pytest.raises((BundleError, ValueError), match=message):
        loaded(graph, toy_tensors())


def test_a_layer_without_its_shape_and_an_output_of_no_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'a/b;c' \(conv2d\) lacks 'shape'"):
        graph_network(**toy_graph())
    with pytest.raises(ValueError, match="output 'z' is made by no layer"):
        graph_network(nodes=[], input="x", output="z")


def test_focus_takes_the_left_column_first() -> None:
    x = torch.arange(4.0).view(1, 1, 2, 2)
    assert make_op({"op": "focus"})(x).flatten().tolist() == [0, 2, 1, 3]


def test_a_head_with_anchors_reads_as_boxes_of_their_sizes() -> None:
    anchors = [[20.0, 40.0], [64.0, 10.0]]
    head = make_op({"op": "anchor_head", "anchors": anchors, "stride": 16})
    raw = torch.zeros(1, 2 * 7, 2, 3)
    raw[0, 7 + 4, 1, 2] = 3.0  # the second anchor's objectness, lower right
    boxes, scores = decode_grid(head(raw).numpy(), input_height=32, input_width=48, strides=(16, 16))
    best = int(scores[0].max(axis=1).argmax())
    assert best == 6 + 5
    # sigmoid(0) puts the centre into the middle of its cell; the right edge is the input's.
    np.testing.assert_allclose(boxes[0, best], [40 - 32, 24 - 5, 48, 24 + 5], atol=1e-4)
    np.testing.assert_allclose(boxes[0, 4], [24 - 10, 24 - 20, 24 + 10, 32], atol=1e-4)


def tensors_of(graph: dict[str, Any], widths: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random tensors for a graph, given the shapes of its weights."""
    found: dict[str, np.ndarray] = {}
    channels = {graph["input"]: 3}
    for node in graph["nodes"]:
        source = [channels[name] for name in node["inputs"]]
        out = sum(source) if node["op"] == "concat" else source[0]
        if node["op"] == "conv2d":
            count, kernel = widths[node["output"]] if node["output"] in widths else (source[0], 3)
            out = count
            found[node["weight"]] = RNG.normal(size=(out, 1 if node.get("depthwise") else source[0], kernel, kernel))
        elif node["op"] == "channel_gate":
            hidden = widths["gate"][0]
            found |= {node["down"]: np.ones((hidden, out)), node["down_bias"]: np.ones(hidden)}
            found |= {node["up"]: np.ones((out, hidden)), node["up_bias"]: np.ones(out)}
        if "batch_norm" in node:
            parts = ("weight", "bias", "running_mean", "running_var")
            found |= {f"{node['batch_norm']}.{part}": np.ones(out) for part in parts}
            found[node["slope"]] = np.ones(out)
        channels[node["output"]] = out
    return {name: value.astype(np.float32) for name, value in found.items()}


def test_cgnets_output_is_a_score_for_every_pixel_and_level3_carries_everything() -> None:
    graph = cgnet_graph(blocks_2=2, blocks_3=2)
    widths: dict[str, tuple[int, ...]] = {f"level1_{n}": (4, 3) for n in range(3)}
    widths |= {"level2_0.in": (8, 3), "level2_0.reduce": (8, 1), "level2_1.in": (4, 1)}
    widths |= {"level3_0.in": (16, 3), "level3_0.reduce": (16, 1), "level3_1.in": (8, 1)}
    widths |= {"classifier": (5, 1), "gate": (2,)}
    model = loaded(graph, tensors_of(graph, widths))
    x = torch.randn(1, 3, 16, 24)
    with torch.no_grad():
        scores = model(x)
        features = head_of(model, "level3_0")(x)
        torch.testing.assert_close(tail_of(model, "level3_0")(features), scores)
    assert scores.shape == (1, 5, 16, 24)
    assert features.shape == (1, 16, 2, 3)
    with pytest.raises(ValueError, match="does not carry all"):
        tail_of(model, "level2_0")


def test_espnets_layers_read_only_what_is_made_before_them() -> None:
    graph = espnet_graph()
    made = {graph["input"]}
    for node in graph["nodes"]:
        assert set(node["inputs"]) <= made
        made.add(node["output"])
    assert graph["output"] in made
    assert len(set(module_names(graph["nodes"]).values())) == len(graph["nodes"])
