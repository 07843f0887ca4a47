"""A network from a list of layers, as the files beside published weights describe them, in JSON.

One factory for networks that come as a graph (op, inputs, output, weight, stride, ...) and not as code. Each layer is a
submodule that is named after its output, so that a cut can be named ("the output of ``level3_0``").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from littoral.core.arrays import FloatArray
from littoral.models.graph_ops import Node, make_op

_NAMES = {
    "conv2d": {"weight": "conv.weight", "bias": "conv.bias"},
    "conv_transpose2d": {"weight": "conv.weight", "bias": "conv.bias"},
    "linear": {"weight": "linear.weight", "bias": "linear.bias"},
    "channel_gate": {
        "down": "down.weight",
        "down_bias": "down.bias",
        "up": "up.weight",
        "up_bias": "up.bias",
    },
}
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


class GraphNetwork(nn.Module):
    """See `graph_network`."""

    def __init__(self, nodes: Sequence[Node], *, input: str, output: str | Sequence[str]) -> None:
        super().__init__()
        same = {input: input}
        names = module_names(nodes)
        steps: list[tuple[str, tuple[str, ...], str]] = []
        for node in nodes:
            if missing := [name for name in node["inputs"] if name not in same]:
                raise ValueError(f"layer {node['output']!r} reads {missing[0]!r}, which no layer before it makes")
            if node["op"] == "identity":
                same[node["output"]] = same[node["inputs"][0]]
                continue
            same[node["output"]] = node["output"]
            try:
                module = make_op(node)
            except KeyError as error:
                raise ValueError(f"layer {node['output']!r} ({node['op']}) lacks {error}") from error
            self.add_module(names[node["output"]], module)
            steps.append((names[node["output"]], tuple(same[name] for name in node["inputs"]), node["output"]))
        wanted = (output,) if isinstance(output, str) else tuple(output)
        if missing := [name for name in wanted if name not in same]:
            raise ValueError(f"the output {missing[0]!r} is made by no layer")
        self._input, self._is_single = input, isinstance(output, str)
        self._outputs = tuple(same[name] for name in wanted)
        last = {name: place for place, (_, reads, _) in enumerate(steps) for name in reads}
        kept = {*self._outputs}
        self._steps = tuple(
            (name, reads, made, tuple({r for r in reads if last[r] == place} - kept))
            for place, (name, reads, made) in enumerate(steps)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The output of a normalised batch ``(B, C, H, W)``; a tuple where the graph names several."""
        values = {self._input: x_BCHW}
        for name, reads, made, done in self._steps:
            values[made] = getattr(self, name)(*(values[read] for read in reads))
            for read in done:
                del values[read]
        return values[self._outputs[0]] if self._is_single else tuple(values[name] for name in self._outputs)


def graph_network(*, nodes: Sequence[Node], input: str, output: str | Sequence[str]) -> GraphNetwork:
    """A network that runs a layer graph.

    Args:
        nodes: In an order in which each layer's inputs are made before it. Each has ``op``, ``inputs`` and ``output``;
            layers with weights have ``shape`` (that of the weight, as `with_shapes` adds it) and whatever
            `littoral.models.graph_ops` reads. JSON can hold it.
        input: The name of the frames, normalised, float32 ``(B, C, H, W)``.
        output: The name of the output, or several.
    Raises:
        ValueError: an operation is not known, lacks something, or reads what is not made before it.
    """
    return GraphNetwork(nodes, input=input, output=output)


def with_shapes(graph: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The arguments of `graph_network` for a graph that names its weights, with the shapes of these.

    Raises:
        ValueError: a weight that the graph names is not among the tensors.
    """
    nodes = []
    for node in graph["nodes"]:
        own = {key: value for key, value in node.items() if key not in ("output_scale", "output_zero_point")}
        key = {"batch_norm": "batch_norm", "channel_gate": "down"}.get(node["op"], "weight")
        if key in node:
            name = f"{node[key]}.weight" if key == "batch_norm" else node[key]
            own["shape"] = list(_tensor(tensors, name).shape)
        nodes.append(own)
    return {"nodes": nodes, "input": graph["input"], "output": graph["output"]}


def graph_state(graph: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
    """The state dict of `graph_network` from the tensors of the file that came with the graph.

    A weight of uint8 or int8 is turned into float32 by its ``.scale`` and ``.zero_point``.

    Raises:
        ValueError: a tensor that the graph names is missing.
    """
    state: dict[str, FloatArray] = {}
    modules = module_names(graph["nodes"])
    for node in graph["nodes"]:
        module = modules[node["output"]]
        for key, ours in _NAMES.get(node["op"], {}).items():
            if node.get(key) is not None:
                state[f"{module}.{ours}"] = _tensor(tensors, node[key])
        if node.get("batch_norm"):
            for part in _BATCH_NORM:
                state[f"{module}.bn.{part}"] = _tensor(tensors, f"{node['batch_norm']}.{part}")
        if node.get("activation") == "prelu":
            state[f"{module}.act.weight"] = _tensor(tensors, node["slope"])
    return state


def module_names(nodes: Sequence[Node]) -> dict[str, str]:
    """The submodule of each layer by its output: the part before a ``;``, all but letters and digits made ``_``."""
    names: dict[str, str] = {}
    taken = set(dir(nn.Module()))
    for node in nodes:
        plain = re.sub(r"\W", "_", str(node["output"]).split(";")[0]) or "layer"
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        names[node["output"]] = name
    return names


def _tensor(tensors: Mapping[str, NDArray[Any]], name: str) -> FloatArray:
    if name not in tensors:
        raise ValueError(f"the graph names the tensor {name!r}, which the file does not have")
    found = tensors[name]
    if found.dtype in (np.uint8, np.int8):
        if f"{name}.scale" not in tensors or (found.dtype == np.uint8 and f"{name}.zero_point" not in tensors):
            raise ValueError(f"the tensor {name!r} is {found.dtype}; the file must have its .scale and .zero_point")
        scale = tensors[f"{name}.scale"]
        zero_point = tensors.get(f"{name}.zero_point", np.zeros_like(scale))
        shape = (-1, *(1,) * (found.ndim - 1)) if np.size(scale) > 1 else ()
        found = (found.astype(np.float32) - zero_point.reshape(shape)) * scale.reshape(shape)
    return found.astype(np.float32)
