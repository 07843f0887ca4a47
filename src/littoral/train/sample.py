"""What a build measures of the source's frames, and which of them become the probe and the replay sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from littoral.bundle import InputSpec
from littoral.core.arrays import Frame
from littoral.core.metrics import AveragePrecision, BoxTruth, MeanIoU
from littoral.core.tasks import SURE_ENOUGH, Classification, Detection, Task
from littoral.core.truths import Truths, truths_from_tensors, truths_to_tensors
from littoral.train.options import BuildOptions
from littoral.train.run import frames_at_a_time, rounded, run_chain
from littoral.train.watched import watched

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is kept of the source frames."""

    probe: dict[str, np.ndarray]
    """``frames`` and what the student answers for them, as `littoral.core.truths` lays it out."""
    replay: Frame
    metrics: dict[str, float]
    measured: NDArray[np.int64]
    """Which frames were run for the metrics."""
    classes: NDArray[np.int64]
    """What the student answers for each of these; zeros where a frame has no class."""


def check_frames(spec: InputSpec, frames: Frame) -> None:
    """Refuse source frames that are not the input's; `ValueError`."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != spec.shape or len(frames) < 2:
        raise ValueError(
            f"source_frames are {frames.dtype} {frames.shape}, expected uint8 (N, {spec.height}, {spec.width}, "
            f"{spec.channels}) with N at least 2"
        )


def check_truths(task: Task[Any, Any], truths: Truths | np.ndarray, num_frames: int) -> None:
    """Refuse source labels that are not the task's, or not as many as frames; `ValueError`."""
    if isinstance(task, Detection):
        kinds = sorted({type(truth).__name__ for truth in truths})
        if len(truths) != num_frames or kinds != [BoxTruth.__name__]:
            raise ValueError(f"source_labels are {len(truths)} of {kinds}, expected {num_frames} of BoxTruth")
        tensors = truths_to_tensors(task, list(truths))
    elif isinstance(task, Classification):
        labels = np.asarray(truths)
        if labels.shape != (num_frames,) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"source_labels are {labels.dtype} {labels.shape}, expected int64 ({num_frames},)")
        tensors = {"labels": labels}
    else:
        tensors = {"labels": np.asarray(truths)}
    try:
        truths_from_tensors(task, tensors, num_frames=num_frames)
    except ValueError as error:
        raise ValueError(f"source_{error}") from error


def take_sample(
    sessions: Sequence[ort.InferenceSession],
    task: Task[Any, Any],
    frames: Frame,
    truths: Truths | np.ndarray | None,
    options: BuildOptions,
    progress: Progress = lambda _line: None,
) -> Sample:
    """Measure the student on source frames, and choose the probe and the replay sample.

    Args:
        progress: Called with a line of text now and then, if it takes long.
    Raises:
        ValueError: an output is not the task's, or a detector finds nothing on the probe.
    """
    rng = np.random.default_rng(options.seed)
    order = rng.permutation(len(frames))
    measured = order[: max(options.metric_frames, options.probe_frames)]
    if isinstance(task, Classification):
        keys, entropies, value, classes = _of_classifier(sessions, task, frames, truths, measured, progress)
    else:
        keys, entropies, value, classes = _of_dense(sessions, task, frames, truths, measured, progress)
    metrics = {"num_frames": float(len(measured)), **value}
    if entropies is not None:
        metrics["mean_entropy_nats"] = rounded(float(entropies.mean()))
    picked = measured[balanced(keys, options.probe_frames)]
    batches = _outputs(sessions, frames, picked, progress)
    answered = [task.as_truth(answer) for outputs in batches for answer in task.answers(outputs)]
    if isinstance(task, Detection) and not any(len(truth.labels_N) for truth in answered):
        raise ValueError(
            f"the student finds nothing with a score of {SURE_ENOUGH} or more on {len(picked)} source frames, so a "
            "probe could not tell what an update loses; give frames with objects on them, or train the detector"
        )
    replay = np.sort(rng.permutation(len(frames))[: options.replay_frames])
    return Sample(
        probe={"frames": frames[picked], **truths_to_tensors(task, answered)},
        replay=frames[replay],
        metrics=metrics,
        measured=measured,
        classes=classes,
    )


def balanced(classes: np.ndarray, count: int) -> np.ndarray:
    """Positions of at most ``count`` items, one of each class in turn, as far as each class has some left."""
    turn = np.zeros(len(classes), dtype=np.int64)
    for value in np.unique(classes):
        where = np.flatnonzero(classes == value)
        turn[where] = np.arange(len(where))
    return np.sort(np.lexsort((np.arange(len(classes)), turn))[:count])


_Measured = tuple[np.ndarray, np.ndarray | None, dict[str, float], NDArray[np.int64]]
"""What the probe is balanced by, entropies in nats, the metrics, and the classes that were answered."""


def _of_classifier(
    sessions: Sequence[ort.InferenceSession],
    task: Classification,
    frames: Frame,
    truths: Truths | np.ndarray | None,
    measured: np.ndarray,
    progress: Progress,
) -> _Measured:
    logits = np.concatenate(list(_outputs(sessions, frames, measured, progress)))
    task.check(logits)
    wide = logits.astype(np.float64)
    predicted = wide.argmax(axis=1)
    probabilities = np.exp(wide - wide.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    entropies = -(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(axis=1)
    if truths is None:
        return predicted, entropies, {}, predicted
    labels = np.asarray(truths)[measured]
    return labels, entropies, {task.metric_name: rounded(float((predicted == labels).mean()))}, predicted


def _of_dense(
    sessions: Sequence[ort.InferenceSession],
    task: Task[Any, Any],
    frames: Frame,
    truths: Truths | np.ndarray | None,
    measured: np.ndarray,
    progress: Progress,
) -> _Measured:
    """A few frames at a time: outputs are large."""
    metric, keys, entropies = task.metric(), list[int](), list[NDArray[np.float64]]()
    for outputs in _outputs(sessions, frames, measured, progress):
        answers = task.answers(outputs)
        if truths is not None:
            metric.update(answers, [truths[place] for place in measured[len(keys) :][: len(answers)]])
        keys += [_most_frequent(task, task.as_truth(answer)) for answer in answers]
        if (of_batch := task.entropies(outputs)) is not None:
            entropies.append(of_batch)
    return (
        np.array(keys),
        np.concatenate(entropies) if entropies else None,
        {} if truths is None else metric_values(task, metric),
        np.zeros(len(measured), dtype=np.int64),
    )


def metric_values(task: Task[Any, Any], metric: Any) -> dict[str, float]:
    """The metric's value by its name, and what else is quoted of it; nothing where it has seen no truth."""
    try:
        found = {task.metric_name: metric.value()}
    except ValueError:
        return {}
    if isinstance(metric, MeanIoU):
        found["pixel_accuracy"] = metric.pixel_accuracy()
    if isinstance(metric, AveragePrecision):
        found["ap50"] = metric.at_iou_50()
    return {name: rounded(value) for name, value in found.items()}


def _outputs(
    sessions: Sequence[ort.InferenceSession], frames: Frame, places: np.ndarray, progress: Progress
) -> Iterator[Any]:
    count = frames_at_a_time(frames.shape)
    for start in watched(range(0, len(places), count), f"the student on {len(places)} source frames", progress):
        yield run_chain(sessions, frames[places[start : start + count]])


def _most_frequent(task: Task[Any, Any], truth: Any) -> int:
    """The class that a frame shows most of; -1 for none."""
    labels = truth.labels_N if isinstance(task, Detection) else np.ravel(truth)
    return int(np.bincount(labels).argmax()) if labels.size else -1
