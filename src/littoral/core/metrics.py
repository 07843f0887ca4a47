"""How good answers are: top-1 accuracy, mean IoU, box average precision.

Each metric takes answers and truths a few at a time, so that a data set never has to be held; `merge` adds what another
one of its kind saw, as if its answers had come after one's own. None of them touches a clock, a file or a seed.

Sources: Guo et al., ICML 2017, for the calibration error; Everingham et al., IJCV 2015 (VOC), for the IoU over a whole
data set; Lin et al., ECCV 2014 (COCO), and its published evaluation code, for the average precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Mask
from littoral.core.boxes import check_boxes, iou_matrix
from littoral.core.detections import Detections, LabelArray, check_labels

LabelMap = NDArray[np.uint8]
"""uint8 ``(H, W)``, a class number for every pixel."""

IOU_THRESHOLDS_T = np.linspace(0.5, 0.95, 10)
"""COCO's thresholds 0.50:0.95, made as its own code makes them, so that the last bits are the same."""
MAX_DETECTIONS = 100
"""Detections of one class on one frame that count, the surest first."""

_RECALLS_R = np.linspace(0.0, 1.0, 101)
_NUM_BINS = 15
_NOTHING_YET = "a metric that has seen no truth has no value; call update first"

AnswerT = TypeVar("AnswerT", contravariant=True)
TruthT = TypeVar("TruthT", contravariant=True)


class Metric(Protocol[AnswerT, TruthT]):
    """What is asked of a metric. ``value`` is its headline, the higher the better."""

    def update(self, answers: Sequence[AnswerT], truths: Sequence[TruthT]) -> None:
        """Count some answers against the truths of the same frames."""

    def merge(self, other: Self) -> None:
        """Add what another metric of the same settings saw."""

    def value(self) -> float:
        """The headline in [0, 1]; ``ValueError`` before the first truth."""


class ClassAnswer(NamedTuple):
    """What a classifier says of one frame."""

    label: int
    confidence: float
    """Probability of ``label``."""


class Accuracy:
    """Top-1 accuracy, and how far confidence is from it."""

    def __init__(self) -> None:
        # Per bin of confidence: answers, right answers, sum of the confidences.
        self._bins_3N = np.zeros((3, _NUM_BINS))

    def update(self, answers: Sequence[ClassAnswer], truths: Sequence[int]) -> None:
        """Count answers against the labels of the same frames.

        Raises:
            ValueError: not as many truths as answers, or a confidence outside [0, 1]; nothing is counted then.
        """
        _check_counts(answers, truths)
        confidences = np.array([answer.confidence for answer in answers], dtype=np.float64)
        if not ((confidences >= 0) & (confidences <= 1)).all():
            raise ValueError("a confidence is a probability within [0, 1]")
        is_right = np.array([answer.label == truth for answer, truth in zip(answers, truths, strict=True)], dtype=bool)
        # A bin holds its upper edge, as published; 0 falls into the first.
        bins = np.maximum(np.ceil(confidences * _NUM_BINS).astype(np.int64) - 1, 0)
        for row, weights in enumerate((np.ones_like(confidences), is_right, confidences)):
            self._bins_3N[row] += np.bincount(bins, weights=weights, minlength=_NUM_BINS)

    def merge(self, other: Self) -> None:
        """Add what another one saw."""
        self._bins_3N += other._bins_3N

    @property
    def count(self) -> int:
        """Answers so far."""
        return int(self._bins_3N[0].sum())

    def value(self) -> float:
        """Right answers / answers."""
        if not self.count:
            raise ValueError(_NOTHING_YET)
        return float(self._bins_3N[1].sum()) / self.count

    def calibration_error(self) -> float:
        """Expected calibration error in [0, 1]: mean distance of confidence and accuracy over 15 bins of equal width.

        Source: Guo et al., ICML 2017, Eq. 3.
        """
        if not self.count:
            raise ValueError(_NOTHING_YET)
        return float(np.abs(self._bins_3N[1] - self._bins_3N[2]).sum()) / self.count


class MeanIoU:
    """Intersection over union per class, over the pixels of all frames together.

    A class that is neither in a truth nor in an answer has no IoU and is left out of the mean; one that was answered
    but is in no truth has 0 and counts. torchvision's reference script counts alike, except that the former makes its
    mean NaN; the CamVid papers' mean over 11 classes is this one, since that test set shows all of them. Pixels whose
    truth is ``ignored_label`` count nowhere.

    Args:
        num_classes: 1 to 255.
        ignored_label: The label of pixels without a truth, outside the classes.
    Raises:
        ValueError: the one or the other is not so.
    """

    def __init__(self, num_classes: int, *, ignored_label: int = 255) -> None:
        if not 1 <= num_classes <= 255 or not num_classes <= ignored_label <= 255:
            raise ValueError(
                "1 <= num_classes <= ignored_label <= 255 must hold, got "
                f"num_classes {num_classes} and ignored_label {ignored_label}"
            )
        self.num_classes = num_classes
        self.ignored_label = ignored_label
        self.confusion_KK = np.zeros((num_classes, num_classes), dtype=np.int64)
        """Pixels by truth (rows) and answer (columns)."""

    def update(self, answers: Sequence[LabelMap], truths: Sequence[LabelMap]) -> None:
        """Count label maps against the truths of the same frames.

        Args:
            answers: uint8 ``(H, W)`` each, below ``num_classes``.
            truths: Of the same sizes, below ``num_classes`` or ``ignored_label``.
        Raises:
            ValueError: sizes differ, or a label is none; nothing is counted then.
        """
        _check_counts(answers, truths)
        confusion_KK = sum(map(self._confusion, answers, truths), np.zeros_like(self.confusion_KK))
        self.confusion_KK += confusion_KK

    def merge(self, other: Self) -> None:
        """Add what another one saw.

        Raises:
            ValueError: it has other settings.
        """
        _check_settings((self.num_classes, self.ignored_label), (other.num_classes, other.ignored_label))
        self.confusion_KK += other.confusion_KK

    def per_class(self) -> dict[int, float]:
        """IoU of each class that is in a truth or in an answer."""
        shared = np.diagonal(self.confusion_KK)
        union = self.confusion_KK.sum(axis=0) + self.confusion_KK.sum(axis=1) - shared
        return {int(k): float(shared[k] / union[k]) for k in np.flatnonzero(union)}

    def value(self) -> float:
        """Mean of `per_class`."""
        if not (classes := self.per_class()):
            raise ValueError(_NOTHING_YET)
        return sum(classes.values()) / len(classes)

    def pixel_accuracy(self) -> float:
        """Right pixels / pixels with a truth."""
        if not (count := int(self.confusion_KK.sum())):
            raise ValueError(_NOTHING_YET)
        return float(np.trace(self.confusion_KK)) / count

    def _confusion(self, answer: LabelMap, truth: LabelMap) -> NDArray[np.int64]:
        if answer.shape != truth.shape:
            raise ValueError(f"a label map of {answer.shape} came for a truth of {truth.shape}; bring them to one size")
        known = truth != self.ignored_label
        rows, columns = truth[known].astype(np.int64), answer[known].astype(np.int64)
        for labels, whose in ((rows, "truth"), (columns, "answer")):
            if labels.size and not (labels.min() >= 0 and labels.max() < self.num_classes):
                raise ValueError(
                    f"labels lie below {self.num_classes}, got {labels.min()} to {labels.max()} in the {whose}"
                )
        pairs = np.bincount(rows * self.num_classes + columns, minlength=self.num_classes**2)
        return pairs.reshape(self.num_classes, self.num_classes)


@dataclass(frozen=True, eq=False)
class BoxTruth:
    """The objects that are on one frame.

    Raises:
        ValueError: shapes that do not go together, or boxes that are none.
    """

    boxes_N4: NDArray[np.float32]
    """float32 ``(N, 4)``, corners in pixels, of the frame or the input as the answers are."""
    labels_N: LabelArray
    crowd_N: Mask | None = None
    """bool ``(N,)``, True for a region to ignore, which holds many objects or doubtful ones; None means none."""

    def __post_init__(self) -> None:
        boxes = check_boxes(self.boxes_N4)
        crowd = np.zeros(len(boxes), dtype=bool) if self.crowd_N is None else np.asarray(self.crowd_N)
        if crowd.shape != (len(boxes),) or crowd.dtype != np.bool_:
            raise ValueError(f"{len(boxes)} boxes need as many bools in crowd_N, got {crowd.dtype} {crowd.shape}")
        object.__setattr__(self, "boxes_N4", boxes)
        object.__setattr__(self, "labels_N", check_labels(self.labels_N, len(boxes)))
        object.__setattr__(self, "crowd_N", crowd)


class AveragePrecision:
    """COCO's average precision of boxes: the mean over IoU 0.50:0.95 and over the classes that have a truth.

    As in COCO's code: precision made falling, read at 101 recalls; at most 100 detections per frame and class; a
    detection within a crowd is neither right nor wrong, and a crowd is no object to be found. Areas of all sizes. Of
    equal scores on several frames the earlier frame's comes first.

    Args:
        num_classes: At least 1.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"a detector has at least 1 class, got {num_classes}")
        self.num_classes = num_classes
        self._num_objects_K = np.zeros(num_classes, dtype=np.int64)
        self._judged: dict[int, list[_Judged]] = {}

    def update(self, answers: Sequence[Detections], truths: Sequence[BoxTruth]) -> None:
        """Count detections against the truths of the same frames.

        Raises:
            ValueError: not as many truths as answers, or a label is no class; nothing is counted then.
        """
        _check_counts(answers, truths)
        for labels in [*(answer.labels_N for answer in answers), *(truth.labels_N for truth in truths)]:
            if labels.size and labels.max() >= self.num_classes:
                raise ValueError(f"labels lie below {self.num_classes}, got {labels.max()}")
        for answer, truth in zip(answers, truths, strict=True):
            assert truth.crowd_N is not None
            objects = truth.labels_N[~truth.crowd_N]
            self._num_objects_K += np.bincount(objects, minlength=self.num_classes)
            for label in np.unique(answer.labels_N).tolist():
                of_label = truth.labels_N == label
                judged = _judge(
                    answer[answer.labels_N == label], truth.boxes_N4[of_label], crowd_M=truth.crowd_N[of_label]
                )
                self._judged.setdefault(label, []).append(judged)

    def merge(self, other: Self) -> None:
        """Add what another one saw.

        Raises:
            ValueError: it has another number of classes.
        """
        _check_settings(self.num_classes, other.num_classes)
        self._num_objects_K += other._num_objects_K
        for label, judged in list(other._judged.items()):
            self._judged[label] = self._judged.get(label, []) + judged

    def per_class(self) -> dict[int, NDArray[np.float64]]:
        """Average precision at each of `IOU_THRESHOLDS_T`, float64 ``(T,)``, of each class that has a truth."""
        return {
            int(label): _average_precision(self._judged.get(int(label), []), int(self._num_objects_K[label]))
            for label in np.flatnonzero(self._num_objects_K)
        }

    def value(self) -> float:
        """AP, the mean over thresholds and classes."""
        return float(self._mean_T().mean())

    def at_iou_50(self) -> float:
        """AP50, the mean over the classes at an IoU of 0.50."""
        return float(self._mean_T()[0])

    def at_iou_75(self) -> float:
        """AP75, the mean over the classes at an IoU of 0.75."""
        return float(self._mean_T()[5])

    def _mean_T(self) -> NDArray[np.float64]:
        if not (classes := self.per_class()):
            raise ValueError(_NOTHING_YET)
        mean_T: NDArray[np.float64] = np.stack(list(classes.values())).mean(axis=0)
        return mean_T


class _Judged(NamedTuple):
    """The detections of one class on one frame, the surest first."""

    scores_N: NDArray[np.float32]
    is_right_TN: Mask
    is_ignored_TN: Mask


def _judge(found: Detections, boxes_M4: NDArray[np.float32], *, crowd_M: Mask) -> _Judged:
    """Give each detection, the surest first, the object that it overlaps most of those still free; else a crowd.

    Of equal overlaps the later object is taken, as in COCO's code.
    """
    found = found[np.argsort(-found.scores_N, kind="stable")[:MAX_DETECTIONS]]
    thresholds = IOU_THRESHOLDS_T
    right = np.zeros((len(thresholds), len(found)), dtype=bool)
    ignored = np.zeros_like(right)
    overlaps = iou_matrix(found.boxes_N4, boxes_M4, crowd_M=crowd_M)
    objects, crowds = overlaps[:, ~crowd_M][:, ::-1], overlaps[:, crowd_M]
    free_TM = np.ones((len(thresholds), objects.shape[1]), dtype=bool)
    for n in range(len(found) if boxes_M4.size else 0):
        if objects.shape[1] and objects[n].max() >= thresholds[0]:
            fits_TM = free_TM & (objects[n] >= thresholds[:, None])
            right[:, n] = fits_TM.any(axis=1)
            best_T = np.where(fits_TM, objects[n], -1).argmax(axis=1)
            free_TM[right[:, n], best_T[right[:, n]]] = False
        if crowds.shape[1]:
            ignored[:, n] = ~right[:, n] & (crowds[n].max() >= thresholds)
    return _Judged(found.scores_N, right, ignored)


def _average_precision(judged: Sequence[_Judged], num_objects: int) -> NDArray[np.float64]:
    """Area under the falling precision, read at 101 recalls, at each threshold; float64 ``(T,)``."""
    areas_T = np.zeros(len(IOU_THRESHOLDS_T))
    if not judged:
        return areas_T
    order = np.argsort(-np.concatenate([one.scores_N for one in judged]), kind="stable")
    right_TN = np.concatenate([one.is_right_TN for one in judged], axis=1)[:, order]
    counted_TN = ~np.concatenate([one.is_ignored_TN for one in judged], axis=1)[:, order]
    num_right_TN, num_counted_TN = right_TN.cumsum(axis=1), counted_TN.cumsum(axis=1)
    recall_TN = num_right_TN / num_objects
    precision_TN = num_right_TN / np.maximum(num_counted_TN, 1)
    falling_TN = np.maximum.accumulate(precision_TN[:, ::-1], axis=1)[:, ::-1]
    for t, recall_N in enumerate(recall_TN):
        at_R = np.searchsorted(recall_N, _RECALLS_R, side="left")
        areas_T[t] = falling_TN[t][at_R[at_R < len(recall_N)]].sum() / len(_RECALLS_R)
    return areas_T


def _check_counts(answers: Sequence[Any], truths: Sequence[Any]) -> None:
    if len(answers) != len(truths):
        raise ValueError(f"{len(answers)} answers came with {len(truths)} truths; give one truth for each answer")


def _check_settings(ours: object, theirs: object) -> None:
    if ours != theirs:
        raise ValueError(f"a metric with the settings {theirs} cannot be added to one with {ours}")
