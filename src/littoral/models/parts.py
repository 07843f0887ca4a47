"""The part of a network before or after the output of one of its modules, under the names of its state dict."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import fx, nn


class _Tracer(fx.Tracer):
    """Looks into the modules that hold the cut, and into no others."""

    def __init__(self, cut: str) -> None:
        super().__init__()
        parts = cut.split(".")
        self._holders = {".".join(parts[:end]) for end in range(1, len(parts))}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._holders


def head_of(model: nn.Module, cut: str) -> fx.GraphModule:
    """What makes the output of the module ``cut`` of the network's input: a copy, in the same mode.

    Args:
        cut: A module's path, such as ``layer2`` or ``features.4``.
    Raises:
        ValueError: there is no such module, it is not run exactly once, or torch.fx cannot trace what holds it.
    """
    model, graph, node = _traced(model, cut)
    part = fx.Graph()
    needed, statements = _upstream([node]), _statements(graph)
    copies: dict[fx.Node, fx.Node] = {}
    for each in graph.nodes:
        if each in needed or each.op == "placeholder" or _is_due(each, statements, copies):
            copies[each] = part.node_copy(each, copies.__getitem__)
        if each is node:
            break
    part.output(copies[node])
    return _module(model, part, "Head")


def tail_of(model: nn.Module, cut: str) -> fx.GraphModule:
    """What makes the network's output of the output of the module ``cut``: a copy, in the same mode.

    Args:
        cut: A module's path, such as ``layer2`` or ``features.4``.
    Raises:
        ValueError: as `head_of`; also where the rest needs more of the input than this output carries.
    """
    model, graph, node = _traced(model, cut)
    (output,) = [each for each in graph.nodes if each.op == "output"]
    needed = _upstream([output], stop=node)
    if extra := [each for each in needed if each.op == "placeholder"]:
        users = [user.name for user in extra[0].users if user in needed]
        raise ValueError(
            f"the output of {cut!r} does not carry all that the rest of the network needs: {users[0]!r} also takes its "
            "input; cut it at another module"
        )
    if node not in needed:
        raise ValueError(f"the network's output does not depend on the output of {cut!r}; cut it at another module")
    part = fx.Graph()
    copies = {node: part.placeholder("features")}
    statements, is_after = _statements(graph), False
    for each in graph.nodes:
        if (each in needed and each is not node) or (is_after and _is_due(each, statements, copies)):
            copies[each] = part.node_copy(each, copies.__getitem__)
        is_after = is_after or each is node
    return _module(model, part, "Tail")


def _traced(model: nn.Module, cut: str) -> tuple[nn.Module, fx.Graph, fx.Node]:
    if not cut or cut not in dict(model.named_modules()):
        names = [name for name, _ in model.named_children()]
        raise ValueError(f"{cut!r} is not a module of the network; its own are {', '.join(names)}")
    model = copy.deepcopy(model)
    try:
        graph = _Tracer(cut).trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"the network cannot be cut at {cut!r}, since torch.fx cannot trace it: {error}; its forward must not "
            "branch on values"
        ) from error
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == cut]
    if len(calls) != 1:
        raise ValueError(f"the module {cut!r} is run {len(calls)} times, expected once; cut the network elsewhere")
    return model, graph, calls[0]


def _statements(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose results nobody takes: they may work in place, as ``x.relu_()`` on a line of its own."""
    (output,) = [each for each in graph.nodes if each.op == "output"]
    return set(graph.nodes) - _upstream([output])


def _is_due(node: fx.Node, statements: set[fx.Node], copies: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether it is such a statement on what a part has."""
    return node in statements and node.op.startswith("call_") and all(each in copies for each in node.all_input_nodes)


def _upstream(ends: Sequence[fx.Node], stop: fx.Node | None = None) -> set[fx.Node]:
    """The nodes that the ends need, themselves included; what ``stop`` needs is not looked at."""
    needed: set[fx.Node] = set()
    stack = list(ends)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            if node is not stop:
                stack.extend(node.all_input_nodes)
    return needed


def _module(model: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    graph.lint()
    return fx.GraphModule(model, graph, class_name=name)
