"""Answers for segmentation and detection: what a device says of a frame, and how it gets there from outputs.

What a classifier's device does by labels and entropies is off or per pixel here (docs/adr/0017): no frame is chosen for
the cloud, statistics are not balanced by class, and a new version is watched by the mean entropy of the pixels, or for
a detector by whether its outputs are finite.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from littoral.core.arrays import FloatArray
from littoral.core.detections import Detections
from littoral.core.metrics import LabelMap
from littoral.core.tasks import Task
from littoral.errors import ModelOutputError


class DenseAnswer(NamedTuple):
    """What a device says of a frame where its bundle is for segmentation or detection."""

    frame_id: int
    """Counts the frames of this run from 1."""
    answer: LabelMap | Detections
    """A class number for every pixel, uint8 ``(H, W)``, or boxes in pixels of the frame, the surest first."""
    version: int
    """The affine version that answered; 0 is the source."""
    cloud: str
    """``connected``, ``away``, or ``none`` for a device without a link."""
    latency_ms: float
    source: str = "device"
    """Who finished the frame: ``device`` or ``cloud``."""
    degraded: bool = False
    """True where the device had wanted the cloud's answer and had to give its own."""
    reason: str = ""
    """Why an answer is degraded: ``away``, ``timeout``, ``busy``, or what the cloud or the codec said."""
    way: str = ""
    """By which way the cloud answered: ``split``, or ``picture`` of the whole frame; "" where the device did."""


class Judged(NamedTuple):
    """A frame's answer, and how unsure the device's own network is of it in nats; 0 where that cannot be said."""

    answer: Any
    entropy_nats: float


def judge(task: Task[Any, Any], output: FloatArray) -> Judged:
    """The answer in a network's output for one frame, without the batch.

    Raises:
        ModelOutputError: a value is not finite, or is none that the task's networks give.
    """
    batch = output[None]
    try:
        (answer,) = task.answers(batch)
    except ValueError as error:
        raise ModelOutputError(str(error)) from error
    entropies = task.entropies(batch)
    return Judged(answer, 0.0 if entropies is None else float(entropies[0]))
