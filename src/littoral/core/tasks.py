"""What a network is for: how its outputs become answers, and what measures these. One class per task, free of torch.

Axes: B batch, K classes, H height, W width, A cells of a detector's grids.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import FloatArray
from littoral.core.detections import Detections, best_class, decode_grid, num_cells, suppress
from littoral.core.metrics import Accuracy, AveragePrecision, BoxTruth, ClassAnswer, LabelMap, MeanIoU, Metric
from littoral.core.selection import softmax
from littoral.errors import ModelOutputError

AnswerT = TypeVar("AnswerT")
TruthT = TypeVar("TruthT")
SURE_ENOUGH = 0.3
"""The score from which a detection counts as an object that later versions must still find."""
_MAX_BOXES = 65_535
"""As many as an answer on the wire can count."""
_ENTROPY_PIXELS = 4096
"""Of about so many pixels of a frame the mean entropy is taken: neighbours are alike, and each costs K exponentials."""


class Task(Protocol[AnswerT, TruthT]):
    """What is asked of a task."""

    name: ClassVar[str]
    metric_name: ClassVar[str]
    """What the metric's value is called among the numbers of a bundle."""

    @property
    def num_classes(self) -> int:
        """K."""

    @property
    def options(self) -> dict[str, Any]:
        """What `task_of` must be told beside classes and input, as JSON has it; without what is as usual."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the network's output for one frame, without the batch."""

    def check(self, outputs: FloatArray) -> None:
        """Refuse outputs that are not this task's.

        Raises:
            ValueError: not float32 ``(B, *output_shape)``.
            ModelOutputError: a value is not finite.
        """

    def answers(self, outputs: FloatArray) -> list[AnswerT]:
        """One answer per frame of the batch, after `check`."""

    def entropies(self, outputs: FloatArray) -> NDArray[np.float64] | None:
        """Predictive entropy per frame of checked outputs, nats, ``(B,)``; None where an answer has none."""

    def metric(self) -> Metric[AnswerT, TruthT]:
        """A new metric for these answers."""

    def as_truth(self, answer: AnswerT) -> TruthT:
        """An answer as the metric's truth for other answers: how much of it do they keep?"""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One label per frame, from scores before softmax ``(B, K)``."""

    name: ClassVar[str] = "classification"
    metric_name: ClassVar[str] = "accuracy"
    num_classes: int

    def __post_init__(self) -> None:
        _check_num_classes(self.num_classes, at_least=2)

    @property
    def options(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def output_shape(self) -> tuple[int, ...]:
        """``(K,)``."""
        return (self.num_classes,)

    def check(self, outputs: FloatArray) -> None:
        """See `Task.check`."""
        _check_outputs(self, outputs)

    def answers(self, outputs: FloatArray) -> list[ClassAnswer]:
        """The first of the highest scores, and its probability."""
        self.check(outputs)
        labels_B = outputs.argmax(axis=1)
        confidences_B = softmax(outputs).max(axis=1)
        return [ClassAnswer(*pair) for pair in zip(labels_B.tolist(), confidences_B.tolist(), strict=True)]

    def entropies(self, outputs: FloatArray) -> NDArray[np.float64]:
        """Of the classes."""
        return _entropies(outputs)

    def metric(self) -> Accuracy:
        """Top-1 accuracy; truths are labels."""
        return Accuracy()

    def as_truth(self, answer: ClassAnswer) -> int:
        """Its label."""
        return answer.label


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """One label per pixel of the input, from scores before softmax ``(B, K, H, W)``."""

    name: ClassVar[str] = "segmentation"
    metric_name: ClassVar[str] = "miou"
    num_classes: int
    input_height: int
    input_width: int
    ignored_label: int = 255
    """The label of pixels without a truth; 11 in CamVid with its 11 classes."""

    def __post_init__(self) -> None:
        _check_num_classes(self.num_classes, at_least=2)
        _check_input(self.input_height, self.input_width)
        self.metric()  # Refuses an ignored_label that is a class.

    @property
    def options(self) -> dict[str, Any]:
        """See `Task.options`."""
        return _options(self)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """``(K, H, W)``."""
        return (self.num_classes, self.input_height, self.input_width)

    def check(self, outputs: FloatArray) -> None:
        """See `Task.check`."""
        _check_outputs(self, outputs)

    def answers(self, outputs: FloatArray) -> list[LabelMap]:
        """uint8 ``(H, W)`` per frame: of every pixel the first of the highest scores."""
        self.check(outputs)
        return list(outputs.argmax(axis=1).astype(np.uint8))

    def entropies(self, outputs: FloatArray) -> NDArray[np.float64]:
        """The mean over pixels, of a large frame over one row and column in so many."""
        stride = max(1, math.isqrt(self.input_height * self.input_width // _ENTROPY_PIXELS))
        return _entropies(outputs[:, :, ::stride, ::stride]).mean(axis=(1, 2))  # type: ignore[no-any-return]

    def metric(self) -> MeanIoU:
        """Mean IoU; truths are label maps."""
        return MeanIoU(self.num_classes, ignored_label=self.ignored_label)

    def as_truth(self, answer: LabelMap) -> LabelMap:
        """Itself."""
        return answer


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Boxes with a class and a score, from a YOLOX-style head ``(B, A, 5 + K)``; see `decode_grid`.

    Answers are in pixels of the input; `Detections.to_frame` puts them on a frame that was letterboxed into it.
    """

    name: ClassVar[str] = "detection"
    metric_name: ClassVar[str] = "ap"
    num_classes: int
    input_height: int
    input_width: int
    strides: tuple[int, ...] = (8, 16, 32)
    """Input pixels per cell, in the order of the output."""
    score_min: float = 0.01
    """YOLOX's own for evaluation; to show boxes to people, about 0.3."""
    iou_max: float = 0.65
    """Boxes of one class that overlap more are taken for one object; YOLOX's own for evaluation."""
    max_boxes: int = 100
    """Per frame, over all classes; as many as COCO's evaluation asks for."""

    def __post_init__(self) -> None:
        _check_num_classes(self.num_classes, at_least=1)
        _check_input(self.input_height, self.input_width)
        if not self.strides or min(self.strides) < 1:
            raise ValueError(f"a detector has strides of at least 1 pixel, got {self.strides}")
        if not (0 <= self.score_min <= 1 and 0 <= self.iou_max <= 1 and 1 <= self.max_boxes <= _MAX_BOXES):
            raise ValueError(
                f"score_min and iou_max within [0, 1] and 1 <= max_boxes <= {_MAX_BOXES} must hold, got "
                f"{self.score_min}, {self.iou_max} and {self.max_boxes}"
            )

    @property
    def options(self) -> dict[str, Any]:
        """See `Task.options`."""
        return _options(self)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """``(A, 5 + K)``."""
        cells = num_cells(input_height=self.input_height, input_width=self.input_width, strides=self.strides)
        return (cells, 5 + self.num_classes)

    def check(self, outputs: FloatArray) -> None:
        """See `Task.check`."""
        _check_outputs(self, outputs)

    def answers(self, outputs: FloatArray) -> list[Detections]:
        """What is left of each frame's boxes after the threshold and non-maximum suppression, the surest first.

        Raises:
            ValueError: also where objectness or classes are no probabilities.
        """
        self.check(outputs)
        boxes_BA4, scores_BAK = decode_grid(
            outputs, input_height=self.input_height, input_width=self.input_width, strides=self.strides
        )
        return [
            suppress(
                best_class(boxes_A4, scores_AK, score_min=self.score_min),
                iou_max=self.iou_max,
                max_boxes=self.max_boxes,
            )
            for boxes_A4, scores_AK in zip(boxes_BA4, scores_BAK, strict=True)
        ]

    def entropies(self, outputs: FloatArray) -> None:
        """None: that most cells are sure to hold nothing says nothing of the boxes."""

    def metric(self) -> AveragePrecision:
        """COCO's average precision; truths are `BoxTruth`, in pixels of the input or with the answers on the frame."""
        return AveragePrecision(self.num_classes)

    def as_truth(self, answer: Detections) -> BoxTruth:
        """Its boxes of a score of at least `SURE_ENOUGH`, but those without an area, which overlap nothing at all."""
        sides_N2 = answer.boxes_N4[:, 2:] - answer.boxes_N4[:, :2]
        sure = answer[(answer.scores_N >= SURE_ENOUGH) & (sides_N2 > 0).all(axis=1)]
        return BoxTruth(sure.boxes_N4, sure.labels_N)


_TASKS: dict[str, Any] = {kind.name: kind for kind in (Classification, Segmentation, Detection)}
TASK_NAMES = tuple(_TASKS)
"""The tasks there are, as a bundle's manifest names them."""


def task_of(
    name: str, *, num_classes: int, input_height: int, input_width: int, options: Mapping[str, Any] | None = None
) -> Task[Any, Any]:
    """The task that a bundle names, with what every bundle says of its classes and its input.

    A classifier's output does not depend on the size of its input.

    Args:
        name: One of `TASK_NAMES`.
        num_classes: K.
        input_height: In pixels.
        input_width: Likewise.
        options: As `Task.options` gives them, from JSON; None for the usual ones.
    Raises:
        ValueError: there is no such task, or it cannot have these classes, this input or these options.
    """
    _check_input(input_height, input_width)
    kind = _TASKS.get(name)
    if kind is None:
        raise ValueError(f"there is no task {name!r}; the tasks are {', '.join(TASK_NAMES)}")
    chosen = _checked_options(kind, options or {})
    task: Task[Any, Any] = (
        kind(num_classes=num_classes)
        if kind is Classification
        else kind(num_classes=num_classes, input_height=input_height, input_width=input_width, **chosen)
    )
    return task


def _usual(kind: Any) -> dict[str, Any]:
    """The fields that have a default, with it."""
    return {each.name: each.default for each in dataclasses.fields(kind) if each.default is not dataclasses.MISSING}


def _options(task: Segmentation | Detection) -> dict[str, Any]:
    given = {name: (getattr(task, name), usual) for name, usual in _usual(task).items()}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, (value, usual) in given.items()
        if value != usual
    }


def _checked_options(kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    usual, chosen = _usual(kind), {}
    for name, value in options.items():
        if name not in usual:
            known = ", ".join(usual) or "none"
            raise ValueError(f"{kind.name} has no option {name!r}; it has {known}")
        if isinstance(usual[name], tuple):
            parts = value if isinstance(value, list | tuple) else [None]
            fits, value = all(type(part) is int for part in parts), tuple(parts)
        else:
            fits = type(value) is int or (type(value) is float and isinstance(usual[name], float))
        if not fits:
            raise ValueError(f"{kind.name}'s option {name!r} is {options[name]!r}, expected the like of {usual[name]}")
        chosen[name] = value
    return chosen


def _entropies(logits: FloatArray) -> NDArray[np.float64]:
    """Over axis 1, in nats; the other axes stay."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=1)
    entropy: NDArray[np.float64] = (np.log(total) - (weights * shifted).sum(axis=1) / total).astype(np.float64)
    return entropy


def _check_num_classes(num_classes: int, *, at_least: int) -> None:
    if num_classes < at_least:
        raise ValueError(f"this task needs at least {at_least} classes, got {num_classes}")


def _check_input(input_height: int, input_width: int) -> None:
    if min(input_height, input_width) < 1:
        raise ValueError(f"an input has at least 1 x 1 pixels, got {input_height} x {input_width}")


def _check_outputs(task: Task[Any, Any], outputs: FloatArray) -> None:
    shape = task.output_shape
    if outputs.dtype != np.float32 or outputs.ndim == 0 or outputs.shape[1:] != shape:
        raise ValueError(
            f"{task.name} with {task.num_classes} classes takes float32 (batch, {', '.join(map(str, shape))}), "
            f"got {outputs.dtype} {outputs.shape}"
        )
    if not np.isfinite(outputs).all():
        bad = int(np.flatnonzero(~np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1))[0])
        raise ModelOutputError(f"the network gave an output that is not finite for frame {bad} of the batch")
