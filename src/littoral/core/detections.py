"""What a detector found on a frame, and how a network's output becomes that: decode, threshold, suppress.

Axes: A cells of all grids together, K classes, N boxes; boxes are corners in pixels (`littoral.core.boxes`).
Source: Ge et al., 2021 (YOLOX), the head without anchors and its post-processing. Departure: boxes are cut off at the
input's edges, since nothing lies beyond them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import FloatArray
from littoral.core.boxes import Letterbox, check_boxes, iou_matrix
from littoral.errors import ModelOutputError

LabelArray = NDArray[np.int64]
"""int64 ``(N,)``, class numbers from 0."""

_LOG_SIZE_MAX = 16.0
"""e^16 cells are wider than any input; an untrained network may ask for more than a float holds."""


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found on one frame, the surest first if `suppress` made them.

    Raises:
        ValueError: shapes that do not go together, values that are not finite, or negative labels.
    """

    boxes_N4: FloatArray
    """float32 ``(N, 4)``, corners in pixels."""
    scores_N: FloatArray
    """float32 ``(N,)``; the higher, the surer."""
    labels_N: LabelArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes_N4", check_boxes(self.boxes_N4))
        object.__setattr__(self, "scores_N", np.asarray(self.scores_N, dtype=np.float32))
        object.__setattr__(self, "labels_N", check_labels(self.labels_N, len(self.boxes_N4)))
        if self.scores_N.shape != (len(self),) or not np.isfinite(self.scores_N).all():
            raise ValueError(f"{len(self)} boxes need as many finite scores, got {self.scores_N.shape}")

    def __len__(self) -> int:
        return len(self.boxes_N4)

    def __getitem__(self, index: slice | NDArray[Any]) -> Detections:
        """Some of them, by a slice, a mask or indices."""
        return Detections(self.boxes_N4[index], self.scores_N[index], self.labels_N[index])

    def to_frame(self, letterbox: Letterbox) -> Detections:
        """The same objects on the frame, where these lie in the network's input."""
        return Detections(letterbox.to_frame(self.boxes_N4), self.scores_N, self.labels_N)


def check_labels(labels_N: NDArray[Any], count: int) -> LabelArray:
    """The labels as int64, if they are ``count`` class numbers.

    Raises:
        ValueError: another shape, not integers, or a negative one.
    """
    labels = np.asarray(labels_N)
    if labels.shape != (count,) or (count and labels.dtype.kind not in "iu") or (count and labels.min() < 0):
        raise ValueError(f"{count} boxes need as many labels, integers from 0; got {labels.dtype} {labels.shape}")
    return labels.astype(np.int64)


def suppress(found: Detections, *, iou_max: float, max_boxes: int) -> Detections:
    """Of boxes of one class that overlap, keep the surest: greedy non-maximum suppression.

    The cost is bounded by ``max_boxes`` rows of overlaps, never a matrix of all boxes.

    Args:
        found: Candidates in any order.
        iou_max: A box goes if it overlaps a surer one of its class by *more* than this, as in torchvision.
        max_boxes: Stop when so many are kept, over all classes.
    Returns:
        The kept ones by falling score; of equal scores the earlier candidate is first, and counts as the surer.
    Raises:
        ValueError: ``iou_max`` is not within [0, 1], or ``max_boxes`` not positive.
    """
    if not 0 <= iou_max <= 1 or max_boxes < 1:
        raise ValueError(f"0 <= iou_max <= 1 and max_boxes >= 1 must hold, got {iou_max} and {max_boxes}")
    left = np.argsort(-found.scores_N, kind="stable")
    kept: list[int] = []
    while len(left) and len(kept) < max_boxes:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        is_rival = found.labels_N[left] == found.labels_N[best]
        stays = ~is_rival
        stays[is_rival] = iou_matrix(found.boxes_N4[[best]], found.boxes_N4[left[is_rival]])[0] <= iou_max
        left = left[stays]
    return found[np.array(kept, dtype=np.int64)]


def num_cells(*, input_height: int, input_width: int, strides: Sequence[int]) -> int:
    """Cells of all grids together: one candidate box each."""
    return sum(rows * columns for rows, columns, _ in _grids(input_height, input_width, strides))


def decode_grid(
    outputs_BAC: FloatArray, *, input_height: int, input_width: int, strides: Sequence[int]
) -> tuple[FloatArray, FloatArray]:
    """Boxes and class scores from the raw output of a YOLOX-style head.

    A cell in column c and row r of the grid of stride s says ``(dx, dy, log w, log h, objectness, class 0, ...)``. Its
    box is centred on ``((c + dx) * s, (r + dy) * s)`` and ``exp(log w) * s`` wide; the score of a class is objectness
    times the class's probability. Grids follow each other as ``strides`` do, each row by row.

    Args:
        outputs_BAC: float32 ``(B, A, 5 + K)``, the last 1 + K after the sigmoid, as YOLOX exports it.
        input_height: Of the network's input, in pixels; a grid has ``ceil(height / stride)`` rows.
        input_width: Likewise.
        strides: Input pixels per cell, in the order of the output.
    Returns:
        Boxes, float32 ``(B, A, 4)``, corners in input pixels cut off at its edges, and scores, float32 ``(B, A, K)``.
    Raises:
        ValueError: the shape is not that of these grids, or objectness and classes are not probabilities.
        ModelOutputError: a value is not finite.
    """
    cells_A3 = _cells(input_height, input_width, strides)
    if outputs_BAC.ndim != 3 or outputs_BAC.shape[1] != len(cells_A3) or outputs_BAC.shape[2] < 6:
        raise ValueError(
            f"a head on {input_height} x {input_width} pixels with strides {tuple(strides)} gives "
            f"(batch, {len(cells_A3)}, 5 + classes), got {outputs_BAC.shape}"
        )
    if not np.isfinite(outputs_BAC).all():
        raise ModelOutputError("the detector gave an output that is not finite")
    chances = outputs_BAC[..., 4:]
    if outputs_BAC.size and not (chances.min() >= 0 and chances.max() <= 1):
        raise ValueError(
            "objectness and classes are probabilities within [0, 1], got "
            f"{chances.min():.4g} to {chances.max():.4g}; export the head with its sigmoid"
        )
    raw = outputs_BAC[..., :4].astype(np.float64)
    stride_A1 = cells_A3[:, 2:]
    centres = (raw[..., :2] + cells_A3[:, :2]) * stride_A1
    half_sizes = np.exp(np.minimum(raw[..., 2:], _LOG_SIZE_MAX)) * stride_A1 / 2
    corners = np.concatenate([centres - half_sizes, centres + half_sizes], axis=-1)
    boxes_BA4: FloatArray = corners.clip(0, [input_width, input_height] * 2).astype(np.float32)
    scores_BAK: FloatArray = (chances[..., :1] * chances[..., 1:]).astype(np.float32)
    return boxes_BA4, scores_BAK


def best_class(boxes_A4: FloatArray, scores_AK: FloatArray, *, score_min: float) -> Detections:
    """Each cell's best class, where it is sure enough.

    Args:
        boxes_A4: float32 ``(A, 4)``, corners.
        scores_AK: float32 ``(A, K)``.
        score_min: The least score that counts.
    Returns:
        One candidate per cell whose best score is at least ``score_min``, in the order of the cells; of equal scores
        the first class.
    """
    labels = scores_AK.argmax(axis=1)
    scores = scores_AK[np.arange(len(labels)), labels]
    sure = scores >= score_min
    return Detections(boxes_A4[sure], scores[sure], labels[sure])


def _grids(input_height: int, input_width: int, strides: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    if min(input_height, input_width) < 1 or not strides or min(strides) < 1:
        raise ValueError(
            "an input of at least 1 x 1 pixels and strides of at least 1 are needed, got "
            f"{input_height} x {input_width} and {tuple(strides)}"
        )
    # A convolution of stride 2 with padding rounds up.
    return ((-(-input_height // stride), -(-input_width // stride), stride) for stride in strides)


def _cells(input_height: int, input_width: int, strides: Sequence[int]) -> NDArray[np.float64]:
    """Column, row and stride of every cell, float64 ``(A, 3)``."""
    parts = []
    for rows, columns, stride in _grids(input_height, input_width, strides):
        row, column = np.divmod(np.arange(rows * columns), columns)
        parts.append(np.stack([column, row, np.full_like(row, stride)], axis=1))
    return np.concatenate(parts).astype(np.float64)
