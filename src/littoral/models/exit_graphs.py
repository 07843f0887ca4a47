"""A bundle's stems as torch modules: frozen, but gradients pass through them to what comes before.

A bundle holds each stem as an ONNX graph of a few plain layers, BatchNorm folded in. Shapes: B batch, C channels, H
height, W width, D features.
"""

from __future__ import annotations

from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn

_FIXED: dict[str, Any] = {"auto_pad": b"NOTSET", "ceil_mode": 0, "alpha": 1.0, "beta": 1.0, "transA": 0}


class GraphStem(nn.Module):
    """A stem from its ONNX file: float32 ``(B, C, H, W)`` to ``(B, D)``.

    Raises:
        ValueError: a layer that stems do not have.
    """

    def __init__(self, graph: bytes) -> None:
        super().__init__()
        model = onnx.load_from_string(graph).graph
        self._steps = []
        for index, values in enumerate(model.initializer):
            tensor = torch.from_numpy(numpy_helper.to_array(values).copy())
            self.register_buffer(f"value{index}", tensor)
        self._values = {values.name: f"value{index}" for index, values in enumerate(model.initializer)}
        for node in model.node:
            given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            if node.op_type not in _LAYERS or any(given.get(name, value) != value for name, value in _FIXED.items()):
                raise ValueError(f"a stem's layer is {node.op_type} with {given}, which is not known here")
            self._steps.append((_LAYERS[node.op_type], given, list(node.input), node.output[0]))
        self._input, self._output = model.input[0].name, model.output[0].name

    def forward(self, x: Tensor) -> Tensor:
        known: dict[str, Tensor] = {self._input: x}
        for layer, given, inputs, output in self._steps:
            values = [known[n] if n in known else getattr(self, self._values[n]) for n in inputs]
            known[output] = layer(given, *values)
        return known[self._output]


def _conv(given: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    up, left, down, right = given.get("pads", [0, 0, 0, 0])
    x = F.pad(x, (left, right, up, down)) if any((up, left, down, right)) else x
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    return F.conv2d(x, weight, bias, stride=strides, dilation=dilations, groups=given.get("group", 1))


def _mean(given: dict[str, Any], x: Tensor) -> Tensor:
    if any(given.get("pads", [0])):
        raise ValueError("a stem's means have no margin")
    return F.avg_pool2d(x, given["kernel_shape"], given.get("strides", [1, 1]))


def _gemm(given: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight if given.get("transB", 0) else weight.T, bias)


_LAYERS: dict[str, Any] = {
    "Conv": _conv,
    "Relu": lambda given, x: F.relu(x),
    "AveragePool": _mean,
    "GlobalAveragePool": lambda given, x: x.mean(dim=(2, 3), keepdim=True),
    "Reshape": lambda given, x, shape: x.flatten(1),
    "Flatten": lambda given, x: x.flatten(1),
    "Gemm": _gemm,
    "MatMul": lambda given, x, weight: x @ weight,
    "Sub": lambda given, x, value: x - value,
    "Add": lambda given, x, value: x + value,
}
