"""What a method of the adaptation table is to the harness: frames in, labels out, costs counted.

A method never sees a label. The harness makes a fresh one for every row, and for every shift of a stream that resets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from littoral.bundle import Bundle
from littoral.core.arrays import Frame

if TYPE_CHECKING:
    from littoral.models.precision import Precision

Labels = NDArray[np.int64]


@dataclass(kw_only=True)
class Costs:
    """What a method spent; the harness adds ``frames`` itself."""

    frames: int = 0
    uploads: int = 0
    """Samples sent."""
    uplink_bytes: int = 0
    """Bytes of all wire frames from the devices, repeats after a loss included."""
    downlink_bytes: int = 0
    pushes: int = 0
    """Versions that reached a device."""
    forward_frames: int = 0
    """Frames times forward passes on the device."""
    backward_frames: int = 0
    """Frames times backward passes on the device; 0 for whatever can run there."""
    cloud_seconds: float = 0.0
    """By `time.process_time`: wall time would hang on what else the machine does."""
    notes: dict[str, float] = field(default_factory=dict)
    """What else a method wants in its row."""


@dataclass(frozen=True, kw_only=True)
class Road:
    """The link of a simulated device, in batches of the stream."""

    delay_batches: int = 0
    """What the cloud makes of an upload reaches the device so many batches after the upload."""
    loss: float = 0.0
    """The share of messages that are lost, each way; who resends pays again in bytes and in delay."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a method may start from."""

    bundle: Bundle
    """With its cloud part; `littoral.models.factory.load_model` rebuilds student and teacher from it."""
    student: Callable[[], nn.Module]
    """A fresh source student in eval mode; takes frames normalised by ``bundle.manifest.input``."""
    teacher: Callable[[], nn.Module]
    source_frames: Frame
    """Unlabelled frames like those that the student was trained on, uint8 ``(N, H, W, C)``."""
    seed: int
    batch_size: int
    num_devices: int = 1
    road: Road = field(default_factory=Road)
    torch_device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"
    """In which the rivals' clouds compute; what runs on a device is float32, and our own has its configuration."""


class Method(Protocol):
    """One method at work on one stream."""

    costs: Costs

    def answer(self, frames_BHWC: Frame, *, device: int = 0) -> Labels:
        """Labels ``(B,)`` for the next uint8 frames ``(B, H, W, C)`` of a device; then learn as the method does."""
        ...

    def close(self) -> None:
        """Let go of files and threads. Idempotent."""
        ...


MethodFactory = Callable[[Setup], Method]
