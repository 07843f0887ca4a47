"""A stem's ONNX graph as a torch module: the same numbers, gradients that pass, and no guessing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from made_once import keep_the_exporters_operators
from onnx import helper

from littoral.models.exit_graphs import GraphStem
from littoral.models.exits import ConvStem, PooledStem, Stem
from littoral.train.standalone import export_standalone


def graph_of(stem: Stem) -> bytes:
    keep_the_exporters_operators()
    example = torch.zeros((2, *stem.input_shape))
    graph = export_standalone(stem.eval(), example, input_name="features", output_name="pooled", what="a stem")
    return graph.SerializeToString()


@pytest.mark.parametrize(
    ("kind", "channels", "side"), [(ConvStem, 16, 32), (ConvStem, 64, 8), (PooledStem, 16, 16)], ids=str
)
def test_a_stem_gives_what_it_gave_before_it_was_exported(kind: Any, channels: int, side: int) -> None:
    torch.manual_seed(0)
    stem = kind(channels, side, side)
    again = GraphStem(graph_of(stem))
    x = torch.rand((3, channels, side, side), requires_grad=True)
    np.testing.assert_allclose(again(x).detach().numpy(), stem(x).detach().numpy(), rtol=1e-3, atol=1e-4)
    again(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("op", "given"),
    [("Sin", {}), ("Conv", {"auto_pad": "SAME_UPPER"}), ("Gemm", {"alpha": 2.0})],
    ids=["op", "pad", "gemm"],
)
def test_a_layer_that_is_not_known_is_refused_and_not_guessed(op: str, given: dict[str, Any]) -> None:
    inputs = ["features"] if op == "Sin" else ["features", "weight"]
    kind = onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, None) for name in ("features", "pooled")]
    graph = helper.make_graph([helper.make_node(op, inputs, ["pooled"], **given)], "stem", ends[:1], ends[1:])
    with pytest.raises(ValueError, match=f"a stem's layer is {op}"):
        GraphStem(helper.make_model(graph).SerializeToString())
