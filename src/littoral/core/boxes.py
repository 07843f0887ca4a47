"""Boxes: their formats, how much they overlap, and the way between a frame and the network's input.

A box is four numbers in pixels, in continuous coordinates: pixel 0 reaches from 0 to 1, so a width is ``x_max - x_min``
without the "+ 1" of older code. N and M count boxes; unless a format is named, ``boxes_N4`` are corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import FloatArray, Mask

BoxFormat = Literal["corners", "centred", "sized"]
"""``corners``: x_min, y_min, x_max, y_max. ``centred``: x and y of the centre, width, height. ``sized``: x_min, y_min,
width, height, as COCO's files have it."""


def check_boxes(boxes_N4: NDArray[Any]) -> FloatArray:
    """The boxes as float32, if they are boxes.

    Args:
        boxes_N4: Numbers ``(N, 4)``, corners in pixels. A box without area is one.
    Raises:
        ValueError: another shape, a value that is not finite, or a corner on the wrong side of its opposite.
    """
    boxes = np.asarray(boxes_N4, dtype=np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes are an array (N, 4), got {boxes.shape}; without boxes pass np.zeros((0, 4))")
    for bad in np.flatnonzero(~np.isfinite(boxes).all(axis=1))[:1]:
        raise ValueError(f"box {bad} has a value that is not finite: {boxes[bad].tolist()}")
    for bad in np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))[:1]:
        raise ValueError(
            f"box {bad} is {boxes[bad].tolist()}, and x_min <= x_max, y_min <= y_max must hold; "
            "if it is in another format, see convert_boxes"
        )
    return boxes


def convert_boxes(boxes_N4: NDArray[Any], *, given: BoxFormat, wanted: BoxFormat) -> FloatArray:
    """Boxes of one format in another.

    Args:
        boxes_N4: ``(..., 4)`` in the format ``given``, in any unit.
        given: The format that they have.
        wanted: The format to return.
    Returns:
        float32 of the same shape.
    Raises:
        ValueError: the last axis is not 4, or there is no such format.
    """
    boxes: NDArray[Any] = np.asarray(boxes_N4, dtype=np.float32)
    if not boxes.ndim or boxes.shape[-1] != 4:
        raise ValueError(f"boxes have 4 numbers on their last axis, got the shape {boxes.shape}")
    if unknown := {given, wanted} - {"corners", "centred", "sized"}:
        raise ValueError(f"the formats of boxes are corners, centred and sized, got {sorted(unknown)}")
    if given == wanted:
        return boxes.copy()
    first, second = boxes[..., :2], boxes[..., 2:]
    low: NDArray[Any]
    high: NDArray[Any]
    if given == "centred":
        low, high = first - second / 2, first + second / 2
    elif given == "sized":
        low, high = first, first + second
    else:
        low, high = first, second
    if wanted == "corners":
        pair = (low, high)
    elif wanted == "sized":
        pair = (low, high - low)
    else:
        pair = ((low + high) / 2, high - low)
    converted: FloatArray = np.concatenate(pair, axis=-1)
    return converted


def iou_matrix(boxes_N4: FloatArray, others_M4: FloatArray, *, crowd_M: Mask | None = None) -> NDArray[np.float64]:
    """Intersection over union of every box with every other.

    Args:
        boxes_N4: float32 ``(N, 4)``, corners.
        others_M4: float32 ``(M, 4)``, corners.
        crowd_M: bool ``(M,)``. Against a crowd the intersection is divided by the area of the *box*, since a box on
            one member of the crowd is not to blame for the rest of it, as in COCO's evaluation.
    Returns:
        float64 ``(N, M)`` in [0, 1]; 0 where the union has no area. Double precision, so that an overlap of exactly a
        threshold is found to be that.
    """
    wide, other = boxes_N4.astype(np.float64), others_M4.astype(np.float64)
    low = np.maximum(wide[:, None, :2], other[None, :, :2])
    high = np.minimum(wide[:, None, 2:], other[None, :, 2:])
    intersection = np.maximum(high - low, 0).prod(axis=-1)
    areas, other_areas = (wide[:, 2:] - wide[:, :2]).prod(axis=-1), (other[:, 2:] - other[:, :2]).prod(axis=-1)
    union = areas[:, None] + other_areas - intersection
    if crowd_M is not None:
        union = np.where(crowd_M, areas[:, None], union)
    # Where the one area is lost in the other by rounding, the quotient could exceed 1 by an ulp.
    overlap: NDArray[np.float64] = np.divide(
        intersection, union, out=np.zeros_like(intersection), where=union > 0
    ).clip(0, 1)
    return overlap


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """How a frame is fitted into the network's input: scaled by one factor, then padded. Sizes in pixels.

    Source: Ge et al., 2021 (YOLOX), which pads on the right and at the bottom. Departures: the size is worked out in
    integers (``int(h * (H / h))`` can be ``H - 1``), and boxes go back by the factors that were really used on each
    axis after rounding, not by the one before it.

    Raises:
        ValueError: a size is not positive.
    """

    frame_height: int
    frame_width: int
    input_height: int
    input_width: int
    is_centred: bool = False
    """True shares the padding out to both sides; the odd pixel goes to the right and to the bottom."""

    def __post_init__(self) -> None:
        sizes = (self.frame_height, self.frame_width, self.input_height, self.input_width)
        if min(sizes) < 1:
            raise ValueError(f"a frame and an input have at least 1 x 1 pixels, got {sizes[:2]} and {sizes[2:]}")

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width of the frame within the input, at least 1 pixel each."""
        height, width = self.frame_height, self.frame_width
        if self.input_height * width <= self.input_width * height:
            return self.input_height, max(width * self.input_height // height, 1)
        return max(height * self.input_width // width, 1), self.input_width

    @property
    def offset(self) -> tuple[int, int]:
        """Rows above and columns to the left of the frame within the input."""
        height, width = self.scaled
        return ((self.input_height - height) // 2, (self.input_width - width) // 2) if self.is_centred else (0, 0)

    def to_input(self, boxes_N4: FloatArray) -> FloatArray:
        """Boxes on the frame, as they lie in the input; float32 ``(N, 4)``, corners."""
        factor_4, offset_4 = self._factors()
        boxes: FloatArray = (boxes_N4 * factor_4 + offset_4).astype(np.float32)
        return boxes

    def to_frame(self, boxes_N4: FloatArray) -> FloatArray:
        """Boxes in the input, as they lie on the frame and cut off at its edges; float32 ``(N, 4)``, corners.

        A box that lies in the padding alone comes back without area.
        """
        factor_4, offset_4 = self._factors()
        limits = np.array([self.frame_width, self.frame_height] * 2, dtype=np.float64)
        boxes: FloatArray = ((boxes_N4 - offset_4) / factor_4).clip(0, limits).astype(np.float32)
        return boxes

    def _factors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Per coordinate of a corner box: input pixels per frame pixel, and the offset."""
        (height, width), (top, left) = self.scaled, self.offset
        factor = np.array([width / self.frame_width, height / self.frame_height] * 2, dtype=np.float64)
        return factor, np.array([left, top] * 2, dtype=np.float64)
