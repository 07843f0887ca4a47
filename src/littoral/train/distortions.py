"""What a split of each task is trained for, found by the task's name."""

from __future__ import annotations

from typing import Any

from littoral.core.tasks import Classification, Detection, Segmentation, Task
from littoral.train.dense_losses import DetectionDistortion, SegmentationDistortion
from littoral.train.split_losses import ClassifierDistortion, Distortion


def distortion_of(task: Task[Any, Any]) -> Distortion:
    """The task's loss with its usual weights, for `littoral.train.bottleneck.train_split`.

    Raises:
        ValueError: there is none for this task.
    """
    if isinstance(task, Segmentation):
        return SegmentationDistortion(ignored_label=task.ignored_label)
    losses: dict[str, Distortion] = {
        Classification.name: ClassifierDistortion(),
        Detection.name: DetectionDistortion(),
    }
    if task.name not in losses:
        raise ValueError(f"there is no loss for the task {task.name!r}; give train_split one of your own")
    return losses[task.name]
