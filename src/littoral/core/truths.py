"""What a task's metric holds answers against, as tensors of one file, and back.

classification    labels int64 (N,)
segmentation      labels uint8 (N, H, W)
detection         boxes float32 (M, 4), labels int64 (M,), counts int64 (N,): the boxes of each frame, one frame's
                  after another's; corners in pixels of the input
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.core.metrics import BoxTruth
from littoral.core.tasks import Classification, Detection, Segmentation, Task

Truths = Sequence[Any]
"""Labels, label maps or `BoxTruth`, as the task has it: one per frame."""


def truths_to_tensors(task: Task[Any, Any], truths: Truths) -> dict[str, NDArray[Any]]:
    """The tensors of some frames' truths. What is a crowd is not kept.

    Raises:
        ValueError: a task without a layout.
    """
    if isinstance(task, Classification):
        return {"labels": np.asarray(truths, dtype=np.int64)}
    if isinstance(task, Segmentation):
        return {"labels": np.stack(truths).astype(np.uint8)}
    if isinstance(task, Detection):
        return {
            "boxes": np.concatenate([truth.boxes_N4 for truth in truths]).astype(np.float32),
            "labels": np.concatenate([truth.labels_N for truth in truths]).astype(np.int64),
            "counts": np.array([len(truth.labels_N) for truth in truths], dtype=np.int64),
        }
    raise ValueError(f"truths of {task.name} have no layout")


def truths_from_tensors(task: Task[Any, Any], tensors: Mapping[str, NDArray[Any]], *, num_frames: int) -> list[Any]:
    """The inverse, with everything checked that the metric counts on.

    Raises:
        ValueError: a tensor is missing, or not what the task's truths are.
    """
    if isinstance(task, Detection):
        return _boxes(task, tensors, num_frames)
    size = (task.input_height, task.input_width) if isinstance(task, Segmentation) else ()
    labels = _get(tensors, "labels")
    if labels.shape != (num_frames, *size) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, expected integers {(num_frames, *size)}")
    known = labels[labels != task.ignored_label] if isinstance(task, Segmentation) else labels
    _check_range(known, task.num_classes)
    if isinstance(task, Segmentation):
        return list(labels.astype(np.uint8))
    return [int(label) for label in labels]


def _boxes(task: Detection, tensors: Mapping[str, NDArray[Any]], num_frames: int) -> list[Any]:
    boxes, labels, counts = (_get(tensors, name) for name in ("boxes", "labels", "counts"))
    if counts.shape != (num_frames,) or counts.dtype.kind not in "iu" or (counts.size and counts.min() < 0):
        raise ValueError(f"counts are {counts.dtype} {counts.shape}, expected ({num_frames},), from 0")
    total = int(counts.sum())
    if boxes.shape != (total, 4) or labels.shape != (total,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"counts add up to {total}, with boxes {boxes.dtype} {boxes.shape} and labels {labels.dtype} {labels.shape}"
        )
    _check_range(labels, task.num_classes)
    ends = np.cumsum(counts)[:-1].astype(np.int64)
    return [BoxTruth(*pair) for pair in zip(np.split(boxes, ends), np.split(labels, ends), strict=True)]


def _get(tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in tensors:
        raise ValueError(f"there is no {name!r}; there are {', '.join(sorted(tensors)) or 'none'}")
    return tensors[name]


def _check_range(labels: NDArray[Any], num_classes: int) -> None:
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(f"labels lie in {labels.min()}..{labels.max()}, expected 0..{num_classes - 1}")
