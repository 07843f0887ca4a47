"""A model and data become a bundle: trace, cut, measure, write, check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import nn

from littoral.bundle import Bundle, InputSpec, Manifest, ProbeSpec, Segment, StatisticsSpec, TorchModel
from littoral.core.affine import affine_names
from littoral.core.arrays import FloatArray, Frame
from littoral.core.recall import fingerprint_distance, fingerprint_layer, fingerprint_of_moments
from littoral.errors import BundleError
from littoral.models.factory import load_model, state_arrays
from littoral.models.frames import normalise
from littoral.train.cuts import choose_cut_points, describe, find_cut_points, named_cut_points, split
from littoral.train.export import ExportedModel, export_model, external_names
from littoral.train.options import BuildOptions, TorchSource
from littoral.train.rehearse import rehearse
from littoral.train.run import MAX_RELATIVE_ERROR, measure, open_session, predict, relative_error, rounded
from littoral.train.split import BuiltSplit, SplitSource, build_split
from littoral.train.statistics import fingerprint_graph, statistics_graph
from littoral.train.write import check_target, staged, tensors_to_bytes, write_files

WEIGHTS_FILE = "weights.safetensors"
STATISTICS_FILE = "statistics.onnx"
FINGERPRINT_FILE = "fingerprint.onnx"
PROBE_FILE = "probe.safetensors"
STUDENT_FILE = "cloud/student.safetensors"
TEACHER_FILE = "cloud/teacher.safetensors"
REPLAY_FILE = "cloud/replay.safetensors"
REHEARSED_FILE = "cloud/rehearsed.safetensors"

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """What is measured of the source frames."""

    probe: Frame
    probe_labels: np.ndarray
    replay: Frame
    metrics: dict[str, float]


def build_bundle(
    *,
    student: TorchSource,
    teacher: TorchSource,
    out: Path,
    name: str,
    class_names: Sequence[str],
    input: InputSpec,
    source_frames: Frame,
    source_labels: np.ndarray | None = None,
    splits: Sequence[SplitSource] = (),
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Make a bundle at ``out``, and ``<out>.tar`` with the part of it that a device gets.

    Args:
        student, teacher: Classifiers of the same classes that take frames normalised by ``input``.
        class_names: One for each of the networks' outputs.
        input: What a frame is, and how it is normalised.
        source_frames: uint8 ``(N, H, W, C)`` that the student was trained on, or frames like those.
        source_labels: int64 ``(N,)``, or None; only for the accuracy in the source metrics and to balance the probe.
        splits: Trained splits; the bundle numbers them in this order.
        progress: Called with a line of text now and then.
    Returns:
        The bundle, opened and verified. It is not signed.
    Raises:
        ValueError: an argument is not what it should be, or a network cannot be traced or cut as asked.
        BundleError: a network made by its factory, the finished segments, or an encoder on ONNX Runtime do not give
            what the given one gives.
    """
    options = options or BuildOptions()
    say = progress or (lambda _line: None)
    out = Path(out).absolute()
    check_target(out)
    _check_data(input, source_frames, source_labels, len(class_names))
    _check_sources(student, teacher, input, len(class_names), source_frames[:8])
    say("tracing the student")
    modules = dict(student.module.named_modules())
    taps = [cut for cut in options.cut_points if cut in modules]
    exported = export_model(student.module, input, num_classes=len(class_names), taps=taps)
    segments = _cut(exported, options, say)
    say("checking the segments against torch")
    _check_segments(segments, exported, student.module, input, source_frames[:8])
    say("measuring the source")
    sample = _sample(segments, exported, source_frames, source_labels, options)
    statistics = statistics_graph(exported.graph, exported.norm_layers)
    layer = fingerprint_layer(exported.norm_layers)
    fingerprints = None if layer is None else fingerprint_graph(exported.graph, layer)
    spec = None
    if statistics is not None and fingerprints is not None:
        spec = _calibrate(statistics, fingerprints, exported, source_frames, options)
    rehearsed = {}
    if options.rehearsal_steps:
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
    built = _build_splits(splits, segments, exported, input, source_frames, source_labels, options, say)
    manifest = Manifest(
        name=name,
        task="classification",
        class_names=tuple(class_names),
        input=input,
        segments=tuple(_segment(i, graph) for i, graph in enumerate(segments)),
        weights_file=WEIGHTS_FILE,
        norm_layers=exported.norm_layers,
        statistics=spec,
        probe=ProbeSpec(file=PROBE_FILE, num_frames=len(sample.probe), min_agreement=options.min_agreement),
        envelope_max_delta=_envelope(exported, options.envelope_fraction),
        source_metrics=sample.metrics | {key: value for each in built for key, value in each.metrics.items()},
        student=TorchModel(factory=student.factory, kwargs=student.kwargs, file=STUDENT_FILE),
        teacher=TorchModel(factory=teacher.factory, kwargs=teacher.kwargs, file=TEACHER_FILE),
        replay_file=REPLAY_FILE,
        rehearsed_file=REHEARSED_FILE if rehearsed else None,
        splits=tuple(each.spec for each in built),
    )
    files = {
        segment.file: graph.SerializeToString(deterministic=True)
        for segment, graph in zip(manifest.segments, segments, strict=True)
    }
    if statistics is not None and fingerprints is not None:
        files[STATISTICS_FILE] = statistics.SerializeToString(deterministic=True)
        files[FINGERPRINT_FILE] = fingerprints.SerializeToString(deterministic=True)
    files |= {
        WEIGHTS_FILE: tensors_to_bytes(exported.tensors),
        PROBE_FILE: tensors_to_bytes({"frames": sample.probe, "labels": sample.probe_labels}),
        STUDENT_FILE: tensors_to_bytes(state_arrays(student.module)),
        TEACHER_FILE: tensors_to_bytes(state_arrays(teacher.module)),
        REPLAY_FILE: tensors_to_bytes({"frames": sample.replay}),
    }
    for each in built:
        files |= each.files
    if rehearsed:
        files[REHEARSED_FILE] = tensors_to_bytes(rehearsed)
    say(f"writing {out}")
    with staged(out) as folder:
        write_files(folder, files, manifest)
    bundle = Bundle.open(out, require_cloud=True)
    bundle.pack()
    return bundle


def _check_data(spec: InputSpec, frames: Frame, labels: np.ndarray | None, num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"class_names has {num_classes} names; a classifier needs at least 2")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != spec.shape or len(frames) < 2:
        raise ValueError(
            f"source_frames are {frames.dtype} {frames.shape}, expected uint8 (N, {spec.height}, {spec.width}, "
            f"{spec.channels}) with N at least 2"
        )
    if labels is None:
        return
    if labels.shape != (len(frames),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"source_labels are {labels.dtype} {labels.shape}, expected int64 ({len(frames)},)")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"source_labels lie in {labels.min()}..{labels.max()}, expected 0..{num_classes - 1}")


def _check_sources(
    student: TorchSource, teacher: TorchSource, spec: InputSpec, num_classes: int, frames: Frame
) -> None:
    """Both networks have the classes, and their factories make them again."""
    classes = {}
    for role, source in (("student", student), ("teacher", teacher)):
        given = _logits(source.module, spec, frames)
        if given.ndim != 2:
            raise ValueError(f"the {role} gives {given.shape} for {len(frames)} frames, expected (frames, classes)")
        classes[role] = given.shape[1]
        torch_model = TorchModel(factory=source.factory, kwargs=source.kwargs, file=f"{role}.state_dict()")
        made = _logits(load_model(torch_model, state_arrays(source.module)), spec, frames)
        if (error := relative_error(made, given)) > MAX_RELATIVE_ERROR:
            raise BundleError(
                f"the {role} made by {source.factory!r} with {source.kwargs} and loaded with the module's state gives "
                f"logits that differ by {error:.1e} of their scale from the module's own; the two are not the same "
                "network"
            )
    if classes["student"] != classes["teacher"]:
        raise ValueError(
            f"the teacher has {classes['teacher']} classes, the student {classes['student']}; both must have the same"
        )
    if classes["student"] != num_classes:
        raise ValueError(
            f"the networks have {classes['student']} classes, class_names has {num_classes}; give a name to each class"
        )


def _logits(model: nn.Module, spec: InputSpec, frames: Frame) -> FloatArray:
    """What torch gives in eval mode, in float32; every module's mode is put back."""
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            x = normalise(torch.from_numpy(np.array(frames)).to(parameter.device), spec).to(parameter.dtype)
            logits: torch.Tensor = model.eval()(x)
    except RuntimeError as error:
        raise ValueError(f"{type(model).__name__} does not take frames of {spec.shape}: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    return np.asarray(logits.float().cpu().numpy())


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
        expected = _logits(model, spec, batch)
        error = relative_error(predict(sessions, batch), expected)
        if error > MAX_RELATIVE_ERROR:
            raise BundleError(
                f"the exported segments differ from torch by {error:.1e} of the logits' scale for {len(batch)} frames, "
                f"at most {MAX_RELATIVE_ERROR:g} is allowed; nothing was written. Does the network's forward depend on "
                "chance, on the batch, or on values that are not finite?"
            )


def _sample(
    segments: Sequence[ModelProto],
    exported: ExportedModel,
    frames: Frame,
    labels: np.ndarray | None,
    options: BuildOptions,
) -> _Sample:
    rng = np.random.default_rng(options.seed)
    order = rng.permutation(len(frames))
    measured = order[: max(options.metric_frames, options.probe_frames)]
    sessions = [open_session(graph, exported.tensors) for graph in segments]
    logits = predict(sessions, frames[measured]).astype(np.float64)
    predicted = logits.argmax(axis=1)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(axis=1)
    metrics = {"mean_entropy_nats": rounded(float(entropy.mean())), "num_frames": float(len(measured))}
    if labels is not None:
        metrics["accuracy"] = rounded(float((predicted == labels[measured]).mean()))
    picked = _balanced(predicted if labels is None else labels[measured], options.probe_frames)
    replay = np.sort(rng.permutation(len(frames))[: options.replay_frames])
    return _Sample(
        probe=frames[measured[picked]],
        probe_labels=predicted[picked].astype(np.int64),
        replay=frames[replay],
        metrics=metrics,
    )


def _balanced(classes: np.ndarray, count: int) -> np.ndarray:
    """Positions of at most ``count`` items, one of each class in turn, as far as each class has some left."""
    turn = np.zeros(len(classes), dtype=np.int64)
    for value in np.unique(classes):
        where = np.flatnonzero(classes == value)
        turn[where] = np.arange(len(where))
    return np.sort(np.lexsort((np.arange(len(classes)), turn))[:count])


def _build_splits(
    splits: Sequence[SplitSource],
    segments: Sequence[ModelProto],
    exported: ExportedModel,
    input: InputSpec,
    frames: Frame,
    labels: np.ndarray | None,
    options: BuildOptions,
    say: Progress,
) -> list[BuiltSplit]:
    """Each split, measured on the frames that the source metrics are of."""
    if not splits:
        return []
    sessions = [open_session(graph, exported.tensors) for graph in segments]
    measured = np.random.default_rng(options.seed).permutation(len(frames))[: options.metric_frames]
    return [
        build_split(
            index,
            source,
            segments=sessions,
            input=input,
            frames=frames[measured],
            labels=None if labels is None else labels[measured],
            progress=say,
        )
        for index, source in enumerate(splits)
    ]


def _calibrate(
    statistics: ModelProto, fingerprints: ModelProto, exported: ExportedModel, frames: Frame, options: BuildOptions
) -> StatisticsSpec:
    """The threshold: the largest distance that the fingerprints of two batches of source frames have."""
    layer = fingerprint_layer(exported.norm_layers)
    assert layer is not None
    rng = np.random.default_rng(options.seed + 1)
    session = open_session(fingerprints, exported.tensors)
    seen = []
    for _ in range(options.drift_batches + 1):
        # With replacement: else two batches of few frames would share some or all, and lie too close together.
        picked = rng.integers(0, len(frames), size=options.drift_batch)
        seen.append(fingerprint_of_moments(measure(session, frames[picked]), layer))
    away = [fingerprint_distance(a, b, eps=layer.eps) for a, b in pairwise(seen)]
    return StatisticsSpec(
        file=STATISTICS_FILE,
        tensors=external_names(statistics),
        fingerprint_file=FINGERPRINT_FILE,
        fingerprint_tensors=external_names(fingerprints),
        drift_threshold=rounded(max(away)),
        drift_batch=options.drift_batch,
    )


def _envelope(exported: ExportedModel, fraction: float) -> dict[str, float]:
    """How far each gamma and beta may move: a beta's natural unit is its layer's gamma."""
    bounds: dict[str, float] = {}
    for layer in exported.norm_layers:
        bound = rounded(fraction * float(np.abs(exported.tensors[layer.gamma]).mean()))
        bounds[layer.gamma] = bounds[layer.beta] = bound
    return bounds
