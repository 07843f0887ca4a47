"""A model and data become a bundle: trace, cut, measure, write, check."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import ModelProto
from torch import nn

from littoral.bundle import Bundle, InputSpec, Manifest, ProbeSpec, Segment, TorchModel
from littoral.core.affine import NormLayer, affine_names
from littoral.core.arrays import FloatArray, Frame
from littoral.core.tasks import Classification, Task, task_of
from littoral.core.truths import Truths
from littoral.errors import BundleError
from littoral.models.factory import load_model, state_arrays
from littoral.models.frames import normalise
from littoral.models.modes import in_eval_mode
from littoral.models.norm import prepare
from littoral.train.cuts import choose_cut_points, describe, find_cut_points, named_cut_points, split, total_macs
from littoral.train.exit_build import BuiltExits, build_exits, exit_cuts
from littoral.train.export import ExportedModel, export_model, external_names, norm_layers
from littoral.train.options import BuildOptions, ExitSource, RouterSource, SplitSource, TorchSource
from littoral.train.rehearse import rehearse
from littoral.train.route_build import check_router, write_router
from littoral.train.run import MAX_RELATIVE_ERROR, open_session, predict, relative_error, rounded
from littoral.train.sample import check_frames, check_truths, take_sample
from littoral.train.source_statistics import measured_statistics
from littoral.train.split import BuiltSplit, build_split
from littoral.train.worth import what_does_not_pay
from littoral.train.write import check_target, staged, tensors_to_bytes, write_files

WEIGHTS_FILE = "weights.safetensors"
PROBE_FILE = "probe.safetensors"
STUDENT_FILE = "cloud/student.safetensors"
TEACHER_FILE = "cloud/teacher.safetensors"
REPLAY_FILE = "cloud/replay.safetensors"
REHEARSED_FILE = "cloud/rehearsed.safetensors"
_OWN_ERRORS, _MOST_ROUNDING = 4.0, 1e-3
"""Segments sum in another order, so may differ by so many of torch's own errors, if below the second."""

Progress = Callable[[str], None]


def build_bundle(
    *,
    student: TorchSource,
    teacher: TorchSource | None = None,
    out: Path,
    name: str,
    class_names: Sequence[str],
    input: InputSpec,
    task: str | Task[Any, Any] = Classification.name,
    source_frames: Frame,
    source_labels: Truths | np.ndarray | None = None,
    splits: Sequence[SplitSource] = (),
    exits: ExitSource | None = None,
    router: RouterSource | None = None,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Make a bundle at ``out``, and ``<out>.tar`` with the part of it that a device gets.

    Args:
        student, teacher: Networks of the same outputs that take frames normalised by ``input``. Only a classifier is
            adapted and needs a teacher (docs/adr/0017).
        class_names: One for each class of the task.
        input: What a frame is, and how it is normalised.
        task: What the networks are for: a name of `littoral.core.tasks.TASK_NAMES`, or the task itself where something
            of it is not as usual, such as a detector's strides. What the networks must give is its ``output_shape``.
        source_frames: uint8 ``(N, H, W, C)`` that the student was trained on, or frames like those.
        source_labels: What the task's metric takes, for each frame, or None: labels int64 ``(N,)``, label maps uint8
            ``(N, H, W)``, or a list of `littoral.core.metrics.BoxTruth` in pixels of the frame. Only for the source
            metrics, and to balance a classifier's probe.
        splits: Trained splits; the bundle numbers them in this order.
        exits: Trained exits of a classifier; the network is cut where they stand.
        router: Held-out frames for the tables of a router between exits and splits, of which there must be some.
        progress: Called with a line of text now and then.
    Returns:
        The bundle, opened and verified. It is not signed.
    Raises:
        ValueError: an argument is not what it should be, or a network cannot be traced or cut as asked.
        BundleError: a network made by its factory, the finished segments, or an encoder or a stem on ONNX Runtime do
            not give what the given one gives.
    """
    options = options or BuildOptions()
    say = progress or (lambda _line: None)
    out = Path(out).absolute()
    check_target(out)
    task = _task(task, input, len(class_names))
    check_options(task, teacher, options, has_exits=exits is not None)
    check_frames(input, source_frames)
    if source_labels is not None:
        check_truths(task, source_labels, len(source_frames))
    if router is not None:
        check_router(router, input, len(class_names), has_exits=exits is not None, has_splits=bool(splits))
    student = in_float32(student)
    teacher = None if teacher is None else in_float32(teacher)
    sources = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    check_sources(task, sources, input, source_frames[:8])
    say("tracing the student")
    modules = dict(student.module.named_modules())
    places = () if exits is None else exits.trained.places.modules
    taps = [cut for cut in dict.fromkeys((*options.cut_points, *places)) if cut in modules]
    learns = isinstance(task, Classification)
    exported = export_model(student.module, input, output_shape=task.output_shape, taps=taps, learns=learns)
    check_norm_layers(task, exported.norm_layers)
    if exits is not None:
        options = replace(options, cut_points=exit_cuts(exits, exported, student.module, options))
    segments = _cut(exported, options, say)
    say("checking the segments against torch")
    _check_segments(segments, exported, student.module, input, source_frames[:8])
    say("measuring the source")
    sessions = [open_session(graph, exported.tensors) for graph in segments]
    sample = take_sample(sessions, task, source_frames, source_labels, options, say)
    statistics, statistics_files = measured_statistics(exported, task, source_frames, sample, options, say)
    rehearsed = {}
    if options.rehearsal_steps and teacher is not None:
        rehearsed = rehearse(
            student=student.module,
            teacher=teacher.module,
            spec=input,
            frames=source_frames,
            names=affine_names(exported.norm_layers),
            steps=options.rehearsal_steps,
            seed=options.seed,
            progress=say,
        )
    built = _build_splits(splits, sessions, task, input, source_frames, source_labels, options, say)
    leaving = BuiltExits()
    if exits is not None:
        leaving = build_exits(
            exits,
            graphs=segments,
            sessions=sessions,
            input=input,
            frames=source_frames,
            progress=say,
        )
    manifest = Manifest(
        name=name,
        task=task.name,
        task_options=task.options,
        class_names=tuple(class_names),
        input=input,
        segments=tuple(_segment(i, graph) for i, graph in enumerate(segments)),
        weights_file=WEIGHTS_FILE,
        norm_layers=exported.norm_layers,
        statistics=statistics,
        probe=ProbeSpec(file=PROBE_FILE, num_frames=len(sample.probe["frames"]), min_agreement=options.min_agreement),
        envelope_max_delta=_envelope(exported, options.envelope_fraction),
        source_metrics=sample.metrics | {k: v for each in built for k, v in each.metrics.items()} | leaving.metrics,
        student=_torch_model(student, STUDENT_FILE),
        teacher=_torch_model(teacher, TEACHER_FILE) if teacher is not None else None,
        replay_file=None if teacher is None else REPLAY_FILE,
        rehearsed_file=REHEARSED_FILE if rehearsed else None,
        splits=tuple(each.spec for each in built),
        exits=leaving.specs,
        heads_file=leaving.heads_file,
        exit_promise=leaving.promise,
        segment_macs=leaving.segment_macs,
    )
    files = {
        segment.file: graph.SerializeToString(deterministic=True)
        for segment, graph in zip(manifest.segments, segments, strict=True)
    }
    files |= (
        statistics_files
        | leaving.files
        | {
            WEIGHTS_FILE: tensors_to_bytes(exported.tensors),
            PROBE_FILE: tensors_to_bytes(sample.probe),
            STUDENT_FILE: tensors_to_bytes(state_arrays(student.module)),
        }
    )
    if teacher is not None:
        files[TEACHER_FILE] = tensors_to_bytes(state_arrays(teacher.module))
        files[REPLAY_FILE] = tensors_to_bytes({"frames": sample.replay})
    for each in built:
        files |= each.files
    if rehearsed:
        files[REHEARSED_FILE] = tensors_to_bytes(rehearsed)
    say(f"writing {out}")
    with staged(out) as folder:
        write_files(folder, files, manifest)
        if router is not None:
            write_router(folder, router, say)
    bundle = Bundle.open(out, require_cloud=True)
    bundle.pack()
    for line in what_does_not_pay(manifest, [total_macs(graph) for graph in segments]):
        say(f"warning: {line}")
    return bundle


def _task(task: str | Task[Any, Any], spec: InputSpec, num_classes: int) -> Task[Any, Any]:
    """The task itself, which must be of these classes and this input."""
    if num_classes < 2 and task == Classification.name:
        raise ValueError(f"class_names has {num_classes} names; a classifier needs at least 2")
    make = functools.partial(task_of, num_classes=num_classes, input_height=spec.height, input_width=spec.width)
    if isinstance(task, str):
        return make(task)
    try:
        same = make(task.name, options=task.options) == task
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"the task is {task}, class_names has {num_classes} names and the input {spec.height} x {spec.width} "
            "pixels; all three must say the same"
        )
    return task


def check_options(task: Task[Any, Any], teacher: TorchSource | None, options: BuildOptions, *, has_exits: bool) -> None:
    """What adapts needs a teacher; what does not has nothing to rehearse, and no exits."""
    if task.name != Classification.name and has_exits:
        raise ValueError(f"only a classifier has exits, the task is {task.name}; build without them")
    if task.name == Classification.name and teacher is None:
        raise ValueError("a bundle for classification needs a teacher: its student is adapted; give one")
    if task.name != Classification.name and options.rehearsal_steps:
        raise ValueError(
            f"rehearsal_steps is {options.rehearsal_steps}, but a student for {task.name} is not adapted; leave it at 0"
        )


def check_sources(task: Task[Any, Any], sources: Mapping[str, TorchSource], spec: InputSpec, frames: Frame) -> None:
    """The networks give what the task takes, their factories make them again, and they can learn."""
    shapes: dict[str, tuple[int, ...]] = {}
    for role, source in sources.items():
        given = _outputs(source.module, spec, frames)
        shapes[role] = given.shape[1:]
        if len(shapes[role]) != len(task.output_shape):
            expected = ", ".join(["frames", *map(str, task.output_shape)])
            raise ValueError(f"the {role} gives {given.shape} for {len(frames)} frames, expected ({expected})")
        torch_model = _torch_model(source, f"{role}.state_dict()")
        made = _outputs(load_model(torch_model, state_arrays(source.module)), spec, frames)
        if (error := relative_error(made, given)) > MAX_RELATIVE_ERROR:
            raise BundleError(
                f"the {role} made by {source.factory!r} with {source.kwargs} and loaded with the module's state gives "
                f"outputs that differ by {error:.1e} of their scale from the module's own; the two are not the same "
                "network"
            )
        if isinstance(task, Classification):
            check_norm_layers(task, norm_layers(source.module), role)
            learning = _outputs(prepare(source.module, "renorm"), spec, frames)
            if (error := relative_error(learning, given)) > MAX_RELATIVE_ERROR:
                raise ValueError(
                    f"the {role} differs by {error:.1e} of its scale from its copy that learns; its normalisation "
                    "layers do more than torch's"
                )
    student, teacher = shapes["student"], shapes.get("teacher")
    if not isinstance(task, Classification):
        for role, shape in shapes.items():
            if shape != task.output_shape:
                raise ValueError(
                    f"the {role} gives {shape} for a frame, {task.name} with {task.num_classes} classes takes "
                    f"{task.output_shape}; wrap it in a module that gives just that"
                )
        return
    if teacher is not None and student != teacher:
        raise ValueError(f"the teacher has {teacher[0]} classes, the student {student[0]}; both must have the same")
    if student != task.output_shape:
        raise ValueError(
            f"the networks have {student[0]} classes, class_names has {task.num_classes}; give a name to each class"
        )


def in_float32(source: TorchSource) -> TorchSource:
    """A copy of what is given, as bundles have it: on the processor and in float32."""
    try:
        return replace(source, module=copy.deepcopy(source.module).cpu().float())
    except RuntimeError as error:
        raise ValueError(f"{type(source.module).__name__} cannot be copied: {error}") from error


def check_norm_layers(task: Task[Any, Any], layers: Sequence[NormLayer], role: str = "student") -> None:
    """Only what has some can be adapted, and only such a teacher follows a new world."""
    if isinstance(task, Classification) and not layers:
        raise ValueError(
            f"the {role} has no normalisation layer with affine values (BatchNorm, GroupNorm or LayerNorm), so there "
            "is nothing to adapt; choose a model that has them"
        )


def _torch_model(source: TorchSource, file: str) -> TorchModel:
    return TorchModel(factory=source.factory, kwargs=source.kwargs, file=file)


def _outputs(model: nn.Module, spec: InputSpec, frames: Frame) -> FloatArray:
    """What torch gives in eval mode, in float32; every module's mode is put back."""
    parameter = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad(), in_eval_mode(model):
            x = normalise(torch.from_numpy(np.array(frames)).to(parameter.device), spec).to(parameter.dtype)
            outputs: Any = model(x)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{type(model).__name__} does not take frames of {spec.shape}: {error}") from error
    if not isinstance(outputs, torch.Tensor):
        raise ValueError(
            f"{type(model).__name__} gives a {type(outputs).__name__}, expected one tensor; wrap it in a module that "
            "returns just that"
        )
    return np.asarray(outputs.float().cpu().numpy())


def _cut(exported: ExportedModel, options: BuildOptions, say: Progress) -> list[ModelProto]:
    points = find_cut_points(exported.graph)
    if options.cut_points:
        chosen = named_cut_points(points, options.cut_points)
    else:
        chosen = choose_cut_points(points, options.num_segments)
    say(f"{len(exported.norm_layers)} normalisation layers, cut points: {describe(chosen)}")
    return split(exported.graph, [point.tensor for point in chosen])


def _segment(index: int, graph: ModelProto) -> Segment:
    return Segment(
        file=f"segment-{index}.onnx",
        input=graph.graph.input[0].name,
        output=graph.graph.output[0].name,
        tensors=external_names(graph),
    )


def _check_segments(
    segments: Sequence[ModelProto], exported: ExportedModel, model: nn.Module, spec: InputSpec, frames: Frame
) -> None:
    sessions = [open_session(graph, exported.tensors) for graph in segments]
    for batch in (frames[:1], frames):
        expected = _outputs(model, spec, batch)
        error, allowed = relative_error(predict(sessions, batch), expected), MAX_RELATIVE_ERROR
        if error > allowed:  # a deep network's own rounding may be more than that
            allowed = max(allowed, _OWN_ERRORS * _own_error(model, spec, batch, expected))
        if error > allowed:
            raise BundleError(
                f"the exported segments differ from torch by {error:.1e} of their scale for {len(batch)} frames, "
                f"at most {allowed:.1g} is allowed; nothing was written. Does the network's forward depend on "
                "chance, on the batch, or on values that are not finite?"
            )


def _own_error(model: nn.Module, spec: InputSpec, frames: Frame, outputs: FloatArray) -> float:
    """How far torch's float32 is from its float64; 0 for a network that has none, and where it is no rounding."""
    try:
        error = relative_error(outputs, _outputs(copy.deepcopy(model).double(), spec, frames))
    except ValueError:
        return 0.0
    return error if error < _MOST_ROUNDING else 0.0


def _build_splits(
    splits: Sequence[SplitSource],
    segments: Sequence[ort.InferenceSession],
    task: Task[Any, Any],
    input: InputSpec,
    frames: Frame,
    truths: Truths | np.ndarray | None,
    options: BuildOptions,
    say: Progress,
) -> list[BuiltSplit]:
    """Each split, measured on the frames that the source metrics are of."""
    if not splits:
        return []
    measured = np.random.default_rng(options.seed).permutation(len(frames))[: options.metric_frames]
    return [
        build_split(
            index,
            source,
            segments=segments,
            input=input,
            task=task,
            frames=frames[measured],
            truths=None if truths is None else [truths[place] for place in measured],
            progress=say,
        )
        for index, source in enumerate(splits)
    ]


def _envelope(exported: ExportedModel, fraction: float) -> dict[str, float]:
    """How far each gamma and beta may move: a beta's natural unit is its layer's gamma."""
    bounds: dict[str, float] = {}
    for layer in exported.norm_layers:
        bound = rounded(fraction * float(np.abs(exported.tensors[layer.gamma]).mean()))
        bounds[layer.gamma] = bounds[layer.beta] = bound
    return bounds
