"""The statistics graph: the network again, as a skeleton that measures what its BatchNorm layers see.

For a BatchNorm with input x of B frames, and alpha the weight of this batch (all per channel, over all other axes):

    m = mean(x)    s = mean(x^2)                                         the outputs
    mu = (1 - alpha) * mean + alpha * m                                  what it normalises with
    v = max(s - m^2, 0)
    var' = (1 - alpha) * (var + (mean - mu)^2) + alpha * (v + (m - mu)^2)
    y = (x - mu) / sqrt(var' + eps) * gamma + beta                       as one multiply and one add

alpha = 0 is plain inference, alpha = 1 is batch normalisation as in training (with the biased variance).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from littoral.core.affine import NormLayer
from littoral.core.drift import batch_norm_layers
from littoral.core.nearness import SCORES
from littoral.core.recall import MEAN_SQUARE_SUFFIX, MEAN_SUFFIX
from littoral.train.cuts import extract
from littoral.train.export import FRAMES

ALPHA = "alpha"
_P = "statistics/"


def statistics_graph(model: ModelProto, layers: Sequence[NormLayer], *, scores: bool = False) -> ModelProto | None:
    """Make the statistics skeleton of a whole network's skeleton.

    Args:
        model: As `littoral.train.export.export_model` gives it.
        layers: Its normalisation layers.
        scores: Also give what the network answers; else what follows the last BatchNorm is left out.
    Returns:
        A graph with inputs ``frames``, ``alpha`` (float32 scalar) and four tensors ``(C,)`` for each BatchNorm layer,
        outputs ``<layer>.batch_mean`` and ``<layer>.batch_mean_square`` ``(C,)`` and, if asked for, ``scores``, the
        other tensors as external initialisers; None when the network has no BatchNorm.
    """
    batch = batch_norm_layers(layers)
    if not batch:
        return None
    inputs = {n.input[1]: n.input[0] for n in model.graph.node if n.op_type == "BatchNormalization"}
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*model.graph.value_info, *model.graph.input)}
    whole = ModelProto()
    whole.CopyFrom(model)
    del whole.graph.node[:]
    whole.graph.node.extend(_common_nodes())
    by_gamma = {layer.gamma: layer for layer in batch}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            whole.graph.node.extend(_measuring(by_gamma[node.input[1]], node, ranks[inputs[node.input[1]]]))
        else:
            whole.graph.node.append(node)
    if scores:
        (answer,) = model.graph.output
        whole.graph.node.append(helper.make_node("Identity", [answer.name], [SCORES], name=f"{_P}scores"))
        info = onnx.ValueInfoProto()
        info.CopyFrom(answer)
        info.name = SCORES
        whole.graph.value_info.append(info)
    return _with_interface(whole, batch, {ranks[name] for name in inputs.values()}, [SCORES] if scores else [])


def fingerprint_graph(model: ModelProto, layer: NormLayer) -> ModelProto:
    """Make the skeleton that measures what one BatchNorm layer of the source's network sees.

    Args:
        model: As `littoral.train.export.export_model` gives it.
        layer: One of its BatchNorm layers.
    Returns:
        A graph with the input ``frames`` and the outputs ``<layer>.batch_mean`` and ``.batch_mean_square`` ``(C,)``;
        affine values and statistics of the layers before it are external initialisers like the weights.
    """
    (node,) = (n for n in model.graph.node if n.op_type == "BatchNormalization" and n.input[1] == layer.gamma)
    x = node.input[0]
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*model.graph.value_info, *model.graph.input)}
    mean, square, axes = layer.name + MEAN_SUFFIX, layer.name + MEAN_SQUARE_SUFFIX, f"{_P}axes"
    whole = ModelProto()
    whole.CopyFrom(model)
    others = [axis for axis in range(ranks[x]) if axis != 1]
    whole.graph.initializer.append(numpy_helper.from_array(np.array(others, dtype=np.int64), axes))
    whole.graph.node.append(helper.make_node("ReduceMean", [x, axes], [mean], name=f"{_P}mean", keepdims=0))
    whole.graph.node.append(helper.make_node("Mul", [x, x], [f"{_P}x2"], name=f"{_P}x2"))
    whole.graph.node.append(helper.make_node("ReduceMean", [f"{_P}x2", axes], [square], name=f"{_P}square", keepdims=0))
    for name in (mean, square):
        info = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [layer.num_channels])
        whole.graph.value_info.append(info)
    part = extract(whole, FRAMES, [mean, square])
    part.graph.name = "fingerprint"
    return part


def _common_nodes() -> Iterator[NodeProto]:
    yield helper.make_node("Sub", [_P + "one", ALPHA], [_P + "keep"])


def _measuring(layer: NormLayer, node: NodeProto, rank: int) -> Iterator[NodeProto]:
    """The nodes that stand for one BatchNormalization."""
    x, y = node.input[0], node.output[0]
    prefix = f"{_P}{layer.name}/"
    mean, square = layer.name + MEAN_SUFFIX, layer.name + MEAN_SQUARE_SUFFIX
    axes, column = f"{_P}axes{rank}", f"{_P}column{rank}"

    def op(kind: str, inputs: list[str], output: str) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"{prefix}{output.rsplit('/', 1)[-1]}")

    def mean_over_others(input: str, output: str) -> NodeProto:
        return helper.make_node("ReduceMean", [input, axes], [output], name=f"{_P}{output}", keepdims=0)

    yield mean_over_others(x, mean)
    yield op("Mul", [x, x], prefix + "x2")
    yield mean_over_others(prefix + "x2", square)
    yield op("Mul", [_P + "keep", layer.mean], prefix + "mean_kept")
    yield op("Mul", [ALPHA, mean], prefix + "mean_new")
    yield op("Add", [prefix + "mean_kept", prefix + "mean_new"], prefix + "mu")
    # Each variance about the mixed mean by itself: of a small one little is left in a difference of large squares.
    yield op("Mul", [mean, mean], prefix + "new2")
    yield op("Sub", [square, prefix + "new2"], prefix + "var_raw")
    yield op("Max", [prefix + "var_raw", _P + "zero"], prefix + "var_new")
    for which, own_mean, own_var, share in (
        ("kept", layer.mean, layer.var, _P + "keep"),
        ("new", mean, prefix + "var_new", ALPHA),
    ):
        yield op("Sub", [own_mean, prefix + "mu"], f"{prefix}off_{which}")
        yield op("Mul", [f"{prefix}off_{which}", f"{prefix}off_{which}"], f"{prefix}off2_{which}")
        yield op("Add", [own_var, f"{prefix}off2_{which}"], f"{prefix}spread_{which}")
        yield op("Mul", [share, f"{prefix}spread_{which}"], f"{prefix}var_{which}_share")
    yield op("Add", [prefix + "var_kept_share", prefix + "var_new_share"], prefix + "var")
    yield op("Add", [prefix + "var", f"{_P}{layer.name}/eps"], prefix + "var_eps")
    yield op("Sqrt", [prefix + "var_eps"], prefix + "std")
    yield op("Div", [layer.gamma, prefix + "std"], prefix + "scale")
    yield op("Mul", [prefix + "mu", prefix + "scale"], prefix + "mu_scaled")
    yield op("Sub", [layer.beta, prefix + "mu_scaled"], prefix + "shift")
    yield op("Reshape", [prefix + "scale", column], prefix + "scale_column")
    yield op("Reshape", [prefix + "shift", column], prefix + "shift_column")
    yield op("Mul", [x, prefix + "scale_column"], prefix + "scaled")
    yield op("Add", [prefix + "scaled", prefix + "shift_column"], y)


def _with_interface(
    whole: ModelProto, layers: Sequence[NormLayer], ranks: set[int], others: Sequence[str]
) -> ModelProto:
    """Name inputs and outputs, keep what the outputs need, and add the constants."""
    graph = whole.graph
    per_layer = [n for layer in layers for n in (layer.gamma, layer.beta, layer.mean, layer.var)]
    sizes = {t.name: list(t.dims) for t in graph.initializer}
    outputs = [layer.name + suffix for layer in layers for suffix in (MEAN_SUFFIX, MEAN_SQUARE_SUFFIX)]
    channels = {
        layer.name + suffix: layer.num_channels for layer in layers for suffix in (MEAN_SUFFIX, MEAN_SQUARE_SUFFIX)
    }
    for name in outputs:
        graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [channels[name]]))
    graph.initializer.extend(_constants(layers, ranks))
    part = extract(whole, FRAMES, [*outputs, *others])
    part.graph.name = "statistics"
    part.graph.input.append(helper.make_tensor_value_info(ALPHA, onnx.TensorProto.FLOAT, []))
    for name in per_layer:
        part.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes[name]))
    kept = [t for t in part.graph.initializer if t.name not in set(per_layer)]
    del part.graph.initializer[:]
    part.graph.initializer.extend(kept)
    return part


def _constants(layers: Sequence[NormLayer], ranks: set[int]) -> Iterator[onnx.TensorProto]:
    yield numpy_helper.from_array(np.array(1.0, dtype=np.float32), _P + "one")
    yield numpy_helper.from_array(np.array(0.0, dtype=np.float32), _P + "zero")
    for layer in layers:
        yield numpy_helper.from_array(np.array(layer.eps, dtype=np.float32), f"{_P}{layer.name}/eps")
    for rank in sorted(ranks):
        others = [axis for axis in range(rank) if axis != 1]
        yield numpy_helper.from_array(np.array(others, dtype=np.int64), f"{_P}axes{rank}")
        column = [-1 if axis == 1 else 1 for axis in range(rank)]
        yield numpy_helper.from_array(np.array(column, dtype=np.int64), f"{_P}column{rank}")
