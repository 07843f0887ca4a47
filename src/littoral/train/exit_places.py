"""Where exits stand in a network: on the outputs of modules that carry everything, and before its last linear layer.

In torch an exit's place is a module's path, in ONNX the tensor that `littoral.train.export` names after that module.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from littoral.bundle.manifest import InputSpec
from littoral.models.frames import normalise
from littoral.train.cuts import CutPoint, choose_cut_points, describe, find_cut_points
from littoral.train.export import FRAMES, LOGITS, export_model

_LATEST = 0.95
"""Later than after this share of the work no exit is placed by itself: it would save nothing."""


@dataclass(frozen=True, kw_only=True)
class ExitPlaces:
    """Where exits stand.

    Attributes:
        modules: Paths of the modules on whose outputs, in the order of the network.
        shares: Of the multiply-accumulates that are spent before each, 0..1.
        last_linear: Path of the `torch.nn.Linear` that gives the logits, for the deep exit; None where there is none.
    """

    modules: tuple[str, ...]
    shares: tuple[float, ...]
    last_linear: str | None


@dataclass(frozen=True)
class DeepPoint:
    """The network's own last layer: its module, and the tensor that it takes, ``(B, D)``, a cut point."""

    module: str
    tensor: str


def place_exits(model: nn.Module, spec: InputSpec, where: int | Sequence[str], *, deep: bool = True) -> ExitPlaces:
    """Choose or check places.

    Args:
        model: As for `littoral.train.export.export_model`.
        where: How many, spread so that the work between them is about equal; or paths of modules.
        deep: Also find the last linear layer.
    Raises:
        ValueError: more exits than the network has places, or a module on whose output an exit cannot stand; the
            message lists the places there are.
    """
    if isinstance(where, str):
        raise ValueError(f"where is {where!r}, expected a number or a list of names, such as [{where!r}]")
    called = _modules_with_maps(model, spec)
    known = set(called.values())
    exported = export_model(model, spec, taps=sorted(known))
    cuts = find_cut_points(exported.graph)
    points = [point for point in cuts if point.tensor in known and point.share_of_macs > 0]
    found = deep_point(exported.graph, model) if deep else None
    chosen: list[CutPoint]
    if isinstance(where, int):
        if where < 1:
            raise ValueError(f"{where} exits were asked for, expected at least 1")
        early = [p for p in points if p.share_of_macs <= _LATEST]
        try:
            chosen = choose_cut_points(early, where + 1)
        except ValueError as error:
            raise ValueError(
                f"{where} exits were asked for, and this network has fewer places with different work before them: "
                f"{describe(early) or 'none'}; ask for fewer, or name the modules"
            ) from error
    else:
        by_name = {point.tensor: point for point in points}
        names = [called.get(name, name) for name in where]
        for name in names:
            if name not in by_name:
                raise ValueError(
                    f"no exit can stand on {name!r}: it is no module that is run once, gives a map (B, C, H, W) and "
                    f"carries everything. This network's places are {describe(points)}"
                )
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"exits need different places, at least one, got {list(where)}")
        chosen = [point for point in points if point.tensor in set(names)]
    return ExitPlaces(
        modules=tuple(point.tensor for point in chosen),
        shares=tuple(point.share_of_macs for point in chosen),
        last_linear=None if found is None else found.module,
    )


def deep_point(graph: onnx.ModelProto, model: nn.Module) -> DeepPoint | None:
    """The last layer, if it is one `torch.nn.Linear` on a cut point ``(B, D)``."""
    last = next((node for node in graph.graph.node if LOGITS in node.output), None)
    if last is None or last.op_type != "Gemm":
        return None
    points = {point.tensor for point in find_cut_points(graph)}
    module, _, attribute = last.input[1].rpartition(".")
    if last.input[0] not in points or attribute != "weight" or module not in dict(model.named_modules()):
        return None
    if not isinstance(model.get_submodule(module), nn.Linear):
        return None
    return DeepPoint(module=module, tensor=last.input[0])


def _modules_with_maps(model: nn.Module, spec: InputSpec) -> dict[str, str]:
    """Paths of modules that are run once and give a map, each with the outermost module that gives the same map."""
    probe = copy.deepcopy(model).cpu().float().eval()
    runs: dict[str, list[object]] = {}
    for name, module in probe.named_modules():
        if name not in ("", FRAMES, LOGITS):  # the graph has tensors of these names
            module.register_forward_hook(lambda _m, _i, out, name=name: runs.setdefault(name, []).append(out))
    with torch.no_grad():
        probe(normalise(torch.zeros((2, *spec.shape), dtype=torch.uint8), spec))
    # All outputs are held until here, so that no two of them share a place in memory by chance.
    by_place: dict[int, list[str]] = {}
    for name, outs in runs.items():
        out = outs[0]
        if len(outs) == 1 and isinstance(out, Tensor) and out.ndim == 4 and len(out) == 2:
            by_place.setdefault(out.data_ptr(), []).append(name)
    outermost = [(names, min(reversed(names), key=lambda name: name.count("."))) for names in by_place.values()]
    return {name: first for names, first in outermost for name in names}
