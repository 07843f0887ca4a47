"""Truths go into a file and come out the same; what does not fit the task is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from littoral.core.metrics import BoxTruth
from littoral.core.tasks import Classification, Detection, Segmentation
from littoral.core.truths import truths_from_tensors, truths_to_tensors

CLASSES = Classification(num_classes=3)
PIXELS = Segmentation(num_classes=3, input_height=2, input_width=3, ignored_label=7)
BOXES = Detection(num_classes=3, input_height=16, input_width=16, strides=(8,))
FRAMES = [np.zeros((0, 4), np.float32), np.float32([[0, 0, 4, 4], [1, 2, 3, 4]])]


def test_truths_come_back_as_they_were() -> None:
    assert truths_from_tensors(CLASSES, truths_to_tensors(CLASSES, [2, 0]), num_frames=2) == [2, 0]
    maps = [np.uint8([[0, 1, 2], [7, 7, 0]])] * 2
    np.testing.assert_array_equal(truths_from_tensors(PIXELS, truths_to_tensors(PIXELS, maps), num_frames=2), maps)
    boxes = [BoxTruth(each, np.arange(len(each))) for each in FRAMES]
    came = truths_from_tensors(BOXES, truths_to_tensors(BOXES, boxes), num_frames=2)
    assert [(t.boxes_N4.tolist(), t.labels_N.tolist()) for t in came] == [
        (t.boxes_N4.tolist(), t.labels_N.tolist()) for t in boxes
    ]


@pytest.mark.parametrize(
    ("task", "tensors", "told"),
    [
        (CLASSES, {}, "there is no 'labels'; there are none"),
        (CLASSES, {"labels": np.array([0, 3])}, r"labels lie in 0..3, expected 0..2"),
        (CLASSES, {"labels": np.zeros(2)}, "labels are float64"),
        (PIXELS, {"labels": np.zeros((2, 3, 2), np.uint8)}, r"expected integers \(2, 2, 3\)"),
        (PIXELS, {"labels": np.full((2, 2, 3), 4, np.uint8)}, "labels lie in 4..4"),
        (BOXES, {"boxes": FRAMES[1], "labels": np.array([0, 1]), "counts": np.array([1, 2])}, "counts add up to 3"),
        (BOXES, {"boxes": FRAMES[1], "labels": np.array([0, 1]), "counts": np.array([3, -1])}, "from 0"),
        (BOXES, {"boxes": FRAMES[1], "labels": np.array([0, 5]), "counts": np.array([0, 2])}, "labels lie in 0..5"),
    ],
)
def test_a_file_that_does_not_fit_the_task_is_refused(task: Any, tensors: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        truths_from_tensors(task, tensors, num_frames=2)
