"""What a network is for: how its outputs become answers, and what measures these. One class per task, free of torch.

Axes: B batch, K classes, H height, W width, A cells of a detector's grids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from littoral.core.arrays import FloatArray
from littoral.core.detections import Detections, best_class, decode_grid, num_cells, suppress
from littoral.core.metrics import Accuracy, AveragePrecision, ClassAnswer, LabelMap, MeanIoU, Metric
from littoral.core.selection import softmax
from littoral.errors import ModelOutputError

AnswerT = TypeVar("AnswerT")
TruthT = TypeVar("TruthT", contravariant=True)


class Task(Protocol[AnswerT, TruthT]):
    """What is asked of a task."""

    name: ClassVar[str]

    @property
    def num_classes(self) -> int:
        """K."""

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

    def metric(self) -> Metric[AnswerT, TruthT]:
        """A new metric for these answers."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One label per frame, from scores before softmax ``(B, K)``."""

    name: ClassVar[str] = "classification"
    num_classes: int

    def __post_init__(self) -> None:
        _check_num_classes(self.num_classes, at_least=2)

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

    def metric(self) -> Accuracy:
        """Top-1 accuracy; truths are labels."""
        return Accuracy()


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """One label per pixel of the input, from scores before softmax ``(B, K, H, W)``."""

    name: ClassVar[str] = "segmentation"
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

    def metric(self) -> MeanIoU:
        """Mean IoU; truths are label maps."""
        return MeanIoU(self.num_classes, ignored_label=self.ignored_label)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Boxes with a class and a score, from a YOLOX-style head ``(B, A, 5 + K)``; see `decode_grid`.

    Answers are in pixels of the input; `Detections.to_frame` puts them on a frame that was letterboxed into it.
    """

    name: ClassVar[str] = "detection"
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
        if not (0 <= self.score_min <= 1 and 0 <= self.iou_max <= 1 and self.max_boxes >= 1):
            raise ValueError(
                "score_min and iou_max within [0, 1] and max_boxes >= 1 must hold, got "
                f"{self.score_min}, {self.iou_max} and {self.max_boxes}"
            )

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

    def metric(self) -> AveragePrecision:
        """COCO's average precision; truths are `BoxTruth`, in pixels of the input or with the answers on the frame."""
        return AveragePrecision(self.num_classes)


TASK_NAMES = (Classification.name, Segmentation.name, Detection.name)
"""The tasks there are, as a bundle's manifest names them."""


def task_of(name: str, *, num_classes: int, input_height: int, input_width: int) -> Task[Any, Any]:
    """The task that a bundle names, with what every bundle says of its classes and its input.

    A classifier's output does not depend on the size of its input.

    Args:
        name: One of `TASK_NAMES`.
        num_classes: K.
        input_height: In pixels.
        input_width: Likewise.
    Raises:
        ValueError: there is no such task, or it cannot have these classes or this input.
    """
    _check_input(input_height, input_width)
    if name == Classification.name:
        return Classification(num_classes=num_classes)
    if name == Segmentation.name:
        return Segmentation(num_classes=num_classes, input_height=input_height, input_width=input_width)
    if name == Detection.name:
        return Detection(num_classes=num_classes, input_height=input_height, input_width=input_width)
    raise ValueError(f"there is no task {name!r}; the tasks are {', '.join(TASK_NAMES)}")


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
