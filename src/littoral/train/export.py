"""Any traceable network of torch becomes one weightless ONNX graph whose tensors keep their state-dict names.

The parameters go in as *inputs* of the traced function, so that the exporter can neither rename nor fold them; then
they are turned into external initialisers without data. A session is made of such a skeleton with
``SessionOptions.add_external_initializers``; ONNX Runtime then folds the normalisation layers into the convolutions.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from littoral.bundle.manifest import InputSpec
from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray
from littoral.models.frames import normalise
from littoral.models.norm import adaptable_kind

FRAMES = "frames"
LOGITS = "logits"
OPSET = 18
IR_VERSION = 10
MAX_BATCH = 4096
_TAP = "tap/"
"""Before a module's path while a graph is traced: a path may be the name of a tensor."""


@dataclass(frozen=True)
class ExportedModel:
    """A whole network as a skeleton, with the tensors that it takes."""

    graph: onnx.ModelProto
    """Input ``frames`` uint8 ``(batch, H, W, C)``, output ``logits`` float32, of any task; no weights."""
    tensors: dict[str, FloatArray]
    """The external initialisers by state-dict name, float32."""
    norm_layers: tuple[NormLayer, ...]
    """In the order in which a frame meets them."""


class _Traced(nn.Module):
    """What is traced: uint8 frames and a dictionary of tensors in, logits and tapped activations out."""

    def __init__(self, model: nn.Module, spec: InputSpec, taps: Sequence[str]) -> None:
        super().__init__()
        # Not a registered submodule: else the exporter lifts its parameters under names of its own.
        object.__setattr__(self, "_model", model)
        self._spec = spec
        self._taps = tuple(taps)

    def forward(self, frames: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, ...]:
        model: nn.Module = self.__dict__["_model"]
        seen: dict[str, Tensor] = {}

        def keep(path: str, out: Any) -> None:  # as it is now: what comes next may work in place
            seen[path] = out.clone() if isinstance(out, Tensor) else out

        hooks = [
            model.get_submodule(path).register_forward_hook(lambda _m, _i, out, path=path: keep(path, out))
            for path in self._taps
        ]
        try:
            logits = torch.func.functional_call(model, state, (normalise(frames, self._spec),))
        finally:
            for hook in hooks:
                hook.remove()
        if missing := [path for path in self._taps if not isinstance(seen.get(path), Tensor)]:
            raise ValueError(f"module {missing[0]!r} is not run by the network's forward, or does not give one tensor")
        return (logits, *(seen[path] for path in self._taps))


def export_model(
    model: nn.Module,
    spec: InputSpec,
    *,
    output_shape: tuple[int, ...] | None = None,
    taps: Sequence[str] = (),
    learns: bool = True,
) -> ExportedModel:
    """Trace a network.

    Args:
        model: Takes float32 ``(B, C, H, W)`` normalised by ``spec``, gives one tensor of outputs. It is copied, put
            into eval mode and converted to float32; the caller's module is not touched.
        output_shape: What it must give for one frame (`littoral.core.tasks.Task.output_shape`); None: logits of any
            number of classes.
        taps: Module paths (``layer2``) whose output becomes a tensor of that name in the graph.
        learns: The network is one that adapts: its normalisation layers must be torch's.
    Raises:
        ValueError: the spec is inconsistent, a tap is not a module, a normalisation layer cannot be adapted, the output
            is not of that shape, or the network cannot be traced (the cause is chained).
    """
    _check_spec(spec)
    model = copy.deepcopy(model).cpu().float().eval()
    modules = dict(model.named_modules())
    if unknown := [path for path in taps if path not in modules]:
        raise ValueError(f"{unknown[0]!r} is not a module of the network; it has {', '.join(list(modules)[1:])}")
    if taken := [path for path in taps if path in (FRAMES, LOGITS)]:
        raise ValueError(
            f"the module {taken[0]!r} has the name of the graph's own input or output; call it another name"
        )
    layers = norm_layers(model, learns=learns)
    check_output(model, spec, output_shape)
    state = {name: value.numpy().astype(np.float32) for name, value in _state(model).items()}
    graph = _trace(model, spec, taps)  # may leave tensors without values behind
    _name_taps(graph, taps)
    _prune_outputs(graph, taps)
    strip_notes(graph)
    used = {name for node in graph.graph.node for name in node.input}
    tensors = {name: value for name, value in state.items() if name in used}
    _externalise(graph, state, used)
    graph.ir_version = IR_VERSION
    onnx.checker.check_model(_without_external(graph))
    return ExportedModel(graph=graph, tensors=tensors, norm_layers=_in_graph_order(graph, layers))


def norm_layers(model: nn.Module, *, learns: bool = True) -> list[NormLayer]:
    """The normalisation layers whose gamma and beta are vectors, in module order. Others (InstanceNorm, ...) are left.

    Raises:
        ValueError: as `littoral.models.norm.adaptable_kind`.
    """
    found = []
    for name, module in model.named_modules():
        if (kind := adaptable_kind(module, name, learns=learns)) is not None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            found.append(NormLayer(name=name, kind=kind, num_channels=len(weight), eps=float(module.eps)))
    return found


def _check_spec(spec: InputSpec) -> None:
    if len(spec.mean) != spec.channels or len(spec.std) != spec.channels or min(spec.std, default=0) <= 0:
        raise ValueError(
            f"the input has {spec.channels} channels, mean {spec.mean} and std {spec.std}; give one mean and one "
            "positive std for each channel, on the scale 0..1"
        )
    if min(spec.shape) < 1:
        raise ValueError(f"the input is {spec.shape}; height, width and channels must be at least 1")


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The floating point tensors of the state dict, shared ones once. Integer buffers stay constants of the graph."""
    own = set(model.state_dict())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: t.detach() for name, t in tensors.items() if name in own and t.is_floating_point()}


def check_output(model: nn.Module, spec: InputSpec, output_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """What a network in float32 gives for one frame: ``output_shape``, or, without one, so many logits.

    Raises:
        ValueError: it does not take frames of this input, or gives something else.
    """
    frames = torch.zeros((2, *spec.shape), dtype=torch.uint8)
    try:
        with torch.no_grad():
            out = model(normalise(frames, spec))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"the network does not take frames of {spec.height}x{spec.width}x{spec.channels}: {error}"
        ) from error
    came = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    wrap = "wrap it in a module that returns just those"
    if output_shape is None or len(output_shape) == 1:
        if not isinstance(out, Tensor) or out.ndim != 2 or out.shape[0] != 2:
            raise ValueError(
                f"for 2 frames the network gives {came}, expected one tensor of logits (2, classes); {wrap}"
            )
        if output_shape is not None and out.shape[1:] != output_shape:
            raise ValueError(
                f"the network has {out.shape[1]} classes, class_names has {output_shape[0]}; give one name for each "
                "class"
            )
    elif came != (2, *output_shape):
        raise ValueError(f"for 2 frames the network gives {came}, expected one tensor {(2, *output_shape)}; {wrap}")
    return tuple(out.shape[1:])


def _trace(model: nn.Module, spec: InputSpec, taps: Sequence[str]) -> onnx.ModelProto:
    state = _state(model)
    # Two frames, not one: a batch of one would be taken for a constant.
    frames = torch.zeros((2, *spec.shape), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with quiet_exporter(), torch.no_grad():
        try:
            program = torch.onnx.export(
                _Traced(model, spec, taps).eval(),
                (frames,),
                kwargs={"state": state},
                dynamo=True,
                optimize=True,
                verbose=False,
                opset_version=OPSET,
                dynamic_shapes={"frames": {0: batch}, "state": {name: {} for name in state}},
                input_names=[FRAMES, *state],
                output_names=[LOGITS, *(_TAP + path for path in taps)],
            )
        except Exception as error:  # whatever the user's forward raises under the tracer
            reason = str(error.__cause__ or error).strip().splitlines()
            raise ValueError(
                f"the network cannot be traced to ONNX: {reason[0] if reason else type(error).__name__}; its forward "
                "must not branch on values or on the batch size. The cause above says where"
            ) from error
    assert program is not None
    graph = program.model_proto
    if (opset := next(o.version for o in graph.opset_import if o.domain == "")) != OPSET:
        raise ValueError(
            f"the exporter wrote opset {opset}, expected {OPSET}; the network has an operator newer than it"
        )
    return graph


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without what the exporter says about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            yield
    finally:
        logger.setLevel(level)


def _name_taps(graph: onnx.ModelProto, taps: Sequence[str]) -> None:
    """Taps get the names of their modules; another tensor of such a name, as ``relu`` or ``add``, gets another."""
    names = {path: f"{path}/inner" for path in taps} | {_TAP + path: path for path in taps}
    for node in graph.graph.node:
        for ends in (node.input, node.output):
            for place, name in enumerate(ends):
                ends[place] = names.get(name, name)
    for info in (*graph.graph.output, *graph.graph.value_info):
        info.name = names.get(info.name, info.name)


def _prune_outputs(graph: onnx.ModelProto, taps: Sequence[str]) -> None:
    """Taps have named their tensors; only the logits stay an output."""
    outputs = list(graph.graph.output)
    del graph.graph.output[:]
    graph.graph.output.extend(o for o in outputs if o.name == LOGITS)
    graph.graph.value_info.extend(o for o in outputs if o.name in taps)


def strip_notes(graph: onnx.ModelProto) -> None:
    """Drop what the exporter notes beside the graph: stack traces with paths of this machine, among others."""
    for item in (graph, graph.graph):
        del item.metadata_props[:]
        item.doc_string = ""
    for items in (
        graph.graph.node,
        graph.graph.value_info,
        graph.graph.input,
        graph.graph.output,
        graph.graph.initializer,
    ):
        for item in items:
            del item.metadata_props[:]
            item.doc_string = ""


def _externalise(graph: onnx.ModelProto, state: dict[str, FloatArray], used: set[str]) -> None:
    frames = next(i for i in graph.graph.input if i.name == FRAMES)
    del graph.graph.input[:]
    graph.graph.input.append(frames)
    for name, value in state.items():
        if name in used:
            graph.graph.initializer.append(external_initializer(name, value.shape))


def external_initializer(name: str, shape: Sequence[int]) -> onnx.TensorProto:
    """A float32 initialiser that says its shape and has its data nowhere: the session must be given them."""
    tensor = onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    return tensor


def external_names(graph: onnx.ModelProto) -> tuple[str, ...]:
    """The names of a skeleton's external initialisers, in the graph's order."""
    return tuple(t.name for t in graph.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL)


def _without_external(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for the checker, with the external initialisers as inputs: it would look for their file."""
    plain = onnx.ModelProto()
    plain.CopyFrom(graph)
    external = set(external_names(graph))
    kept = [t for t in plain.graph.initializer if t.name not in external]
    for tensor in graph.graph.initializer:
        if tensor.name in external:
            plain.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    del plain.graph.initializer[:]
    plain.graph.initializer.extend(kept)
    return plain


def _in_graph_order(graph: onnx.ModelProto, layers: Sequence[NormLayer]) -> tuple[NormLayer, ...]:
    """The layers that the graph has, by the first node that uses their gamma.

    Raises:
        ValueError: a BatchNorm is used twice, or was not traced to a BatchNormalization.
    """
    first_use: dict[str, int] = {}
    for position, node in enumerate(graph.graph.node):
        for name in node.input:
            first_use.setdefault(name, position)
    counts: dict[str, int] = {}
    for node in graph.graph.node:
        if node.op_type == "BatchNormalization":
            counts[node.input[1]] = counts.get(node.input[1], 0) + 1
    present = [layer for layer in layers if layer.gamma in first_use]
    for layer in present:
        if layer.kind == "batch" and counts.get(layer.gamma) != 1:
            raise ValueError(
                f"BatchNorm layer {layer.name!r} is run {counts.get(layer.gamma, 0)} times by the network, expected "
                "once; give each use a layer of its own"
            )
    return tuple(sorted(present, key=lambda layer: first_use[layer.gamma]))
