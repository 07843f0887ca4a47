"""Where a traced network can be cut: the tensors that carry everything, the work before each, and the cutting itself.

A tensor is a cut point when every path from the frames to the logits goes through it. What depends on parameters and on
the batch size alone (a reshaped gamma, a class token expanded to the batch) is *light*: it does not count, and each
segment that needs it makes it again, with the batch size from the first axis of its own input.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

Shape = tuple[int, ...]


@dataclass(frozen=True)
class CutPoint:
    """A tensor that carries everything, and the share of multiply-accumulates spent before it (0..1)."""

    tensor: str
    share_of_macs: float


def find_cut_points(model: ModelProto) -> list[CutPoint]:
    """All cut points in the order in which a frame meets them; the graph's input and output are not among them.

    Args:
        model: Nodes in topological order, one input whose first axis is the batch, one output, and shapes in
            ``value_info``, as `littoral.train.export.export_model` gives it.
    """
    graph = model.graph
    light = _light_tensors(graph)
    infos = _value_infos(graph)
    heavy = [node for node in graph.node if not set(node.output) <= light]
    macs = [_macs(node, infos, graph) for node in heavy]
    last_use = {name: position for position, node in enumerate(heavy) for name in _reads(node)}
    last_use[graph.output[0].name] = len(heavy)
    points: list[CutPoint] = []
    alive: set[str] = {graph.input[0].name}
    for position, node in enumerate(heavy):
        alive = {name for name in alive | set(node.output) if last_use.get(name, -1) > position}
        if len(alive) == 1 and position + 1 < len(heavy):
            (tensor,) = alive
            if _is_batch_of_floats(infos.get(tensor), graph):
                points.append(CutPoint(tensor=tensor, share_of_macs=sum(macs[: position + 1]) / max(1, sum(macs))))
    return points


def choose_cut_points(points: Sequence[CutPoint], num_segments: int) -> list[CutPoint]:
    """The cut points that give segments of about equal work.

    Of points with equal work before them only the last counts, so that a convolution stays together with the
    normalisation and activation that follow it.

    Args:
        points: In order, as `find_cut_points` gives them.
    Returns:
        ``num_segments - 1`` of the points, in order.
    Raises:
        ValueError: ``num_segments`` is below 1 or above what the points allow.
    """
    last = {round(point.share_of_macs, 12): point for point in points if 0 < point.share_of_macs < 1}
    usable = [last[share] for share in sorted(last)]
    if not 1 <= num_segments <= len(usable) + 1:
        raise ValueError(
            f"num_segments is {num_segments}, this network can be cut into 1 to {len(usable) + 1} segments; "
            f"its cut points are {describe(usable)}"
        )
    chosen: list[CutPoint] = []
    first = 0
    for index in range(1, num_segments):
        end = len(usable) - (num_segments - 1 - index)  # leave a point for each cut still to come
        target = index / num_segments
        best = min(range(first, end), key=lambda i: abs(usable[i].share_of_macs - target))
        chosen.append(usable[best])
        first = best + 1
    return chosen


def named_cut_points(points: Sequence[CutPoint], names: Sequence[str]) -> list[CutPoint]:
    """The cut points of these names, in the order of the network.

    Raises:
        ValueError: a name is given twice, or is not a cut point; the message lists those that are.
    """
    known = {point.tensor for point in points}
    for name in names:
        if name not in known:
            raise ValueError(
                f"{name!r} is not a cut point: no tensor or module of that name carries everything. "
                f"This network's cut points are {describe(points)}"
            )
    if len(set(names)) != len(names):
        raise ValueError(f"a cut point is named twice in {list(names)}")
    return [point for point in points if point.tensor in set(names)]


def describe(points: Sequence[CutPoint]) -> str:
    """``relu_3 (12 %), relu_5 (24 %)``: names with the share of the work before each."""
    return ", ".join(f"{point.tensor} ({100 * point.share_of_macs:.0f} %)" for point in points) or "none"


def split(model: ModelProto, tensors: Sequence[str]) -> list[ModelProto]:
    """Cut a network at the given tensors.

    Args:
        tensors: Cut points in the order of the network.
    Returns:
        ``len(tensors) + 1`` networks; the output of each is the input of the next, under the same name.
    Raises:
        ValueError: a tensor is not in the graph, is no cut point, or they are out of order.
    """
    graph = model.graph
    infos = _value_infos(graph)
    if unknown := [name for name in tensors if name not in infos]:
        raise ValueError(f"{unknown[0]!r} is not a tensor of this graph")
    ends = [graph.input[0].name, *tensors, graph.output[0].name]
    return [extract(model, start, (end,)) for start, end in itertools.pairwise(ends)]


def extract(model: ModelProto, start: str, ends: Sequence[str]) -> ModelProto:
    """The part of a network that makes the tensors ``ends`` of the one tensor ``start``.

    Raises:
        ValueError: the ends need more of the frames than ``start`` carries.
    """
    graph = model.graph
    infos = _value_infos(graph)
    nodes = _nodes_between(graph, start, ends)
    part = ModelProto()
    part.CopyFrom(model)
    part.graph.Clear()
    part.graph.name = f"{start}..{ends[-1]}"
    part.graph.node.extend(nodes)
    part.graph.input.append(infos[start])
    part.graph.output.extend(infos[end] for end in ends)
    used = {name for node in nodes for name in _reads(node)}
    made = {name for node in nodes for name in node.output} - set(ends)
    part.graph.initializer.extend(t for t in graph.initializer if t.name in used)
    part.graph.value_info.extend(v for v in graph.value_info if v.name in made)
    return part


def _nodes_between(graph: GraphProto, start: str, ends: Sequence[str]) -> list[NodeProto]:
    frames = graph.input[0].name
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output}
    needed: dict[int, NodeProto] = {}
    stack = [end for end in ends if end != start]
    while stack:
        name = stack.pop()
        if name == frames != start:
            raise ValueError(
                f"{start!r} does not carry all that {ends[-1]!r} needs, so the network cannot be cut there"
            )
        index = producer.get(name)
        if index is None or index in needed or name == start:
            continue
        node = NodeProto()
        node.CopyFrom(graph.node[index])
        if _is_batch_size(node, frames):
            node.input[0] = start
        needed[index] = node
        stack.extend(_reads(node))
    return [needed[index] for index in sorted(needed)]


def _light_tensors(graph: GraphProto) -> set[str]:
    """Tensors that depend on parameters, constants and the batch size alone."""
    light = {"", *(t.name for t in graph.initializer)}
    for node in graph.node:
        if _is_batch_size(node, graph.input[0].name) or (
            not node.op_type.startswith("Random") and set(_reads(node)) <= light
        ):
            light.update(node.output)
    return light


def _is_batch_size(node: NodeProto, frames: str) -> bool:
    """True for ``Shape(frames)[0:1]``."""
    if node.op_type != "Shape" or node.input[0] != frames:
        return False
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return bounds.get("start", 0) == 0 and bounds.get("end") == 1


def _reads(node: NodeProto) -> Iterator[str]:
    """Every tensor that a node reads, those of its subgraphs' outer scope included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for child in inner.node:
                yield from _reads(child)


def _value_infos(graph: GraphProto) -> dict[str, ValueInfoProto]:
    return {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}


def _is_batch_of_floats(info: ValueInfoProto | None, graph: GraphProto) -> bool:
    if info is None:
        return False
    tensor = info.type.tensor_type
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    dims = tensor.shape.dim
    return (
        tensor.elem_type == onnx.TensorProto.FLOAT
        and len(dims) >= 2
        and dims[0].dim_param == batch
        and all(not dim.dim_param for dim in dims[1:])
    )


def shape_at_batch_one(info: ValueInfoProto) -> Shape:
    """The shape with a batch of 1: ``batch`` counts as 1, ``4*batch`` as 4."""
    return tuple(
        math.prod(int(n) for n in re.findall(r"\d+", dim.dim_param)) if dim.dim_param else dim.dim_value
        for dim in info.type.tensor_type.shape.dim
    )


def total_macs(model: ModelProto) -> int:
    """Multiply-accumulates of a network's convolutions and matrix products for one frame; shapes in ``value_info``."""
    infos = _value_infos(model.graph)
    return sum(_macs(node, infos, model.graph) for node in model.graph.node)


def _macs(node: NodeProto, infos: dict[str, ValueInfoProto], graph: GraphProto) -> int:
    """Multiply-accumulates of a convolution or matrix product at batch 1; 0 for all else."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    weights = {t.name: tuple(t.dims) for t in graph.initializer}

    def shape(name: str) -> Shape:
        return weights[name] if name in weights else shape_at_batch_one(infos[name])

    first, second, out = shape(node.input[0]), shape(node.input[1]), shape(node.output[0])
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(out) * first[0 if transposed else -1]
