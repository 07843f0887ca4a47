"""What a build is told: where the networks come from, and its options."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from littoral.bundle.images import LOSSLESS, check_coding
from littoral.train.tables import TableOptions

if TYPE_CHECKING:
    import numpy as np

    from littoral.core.arrays import Frame
    from littoral.models.bottleneck import Bottleneck
    from littoral.train.exit_heads import TrainedExits


@dataclass(frozen=True)
class TorchSource:
    """A network with its weights, and how the cloud makes the same network again.

    ``factory`` is ``package.module:function``; called with ``kwargs`` it must give a network into which
    ``module.state_dict()`` fits. ``kwargs`` must survive JSON.
    """

    module: nn.Module
    factory: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            same = json.loads(json.dumps(self.kwargs)) == self.kwargs
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ValueError(
                f"the keyword arguments {self.kwargs} of {self.factory!r} do not survive JSON; "
                "use strings, numbers, booleans, lists and dictionaries with string keys"
            )


@dataclass(frozen=True)
class SplitSource:
    """A trained split, and how the cloud makes its half again.

    ``tail`` is the `littoral.models.bottleneck.SplitTail` that goes with ``bottleneck``. With a ``segment`` the encoder
    takes that segment's output, else normalised frames. That a segment's output moves when the student adapts is
    allowed: encoder and tail stay as they are. ``held``, uint8 ``(N, H, W, C)``, are frames that it was not trained on;
    where there are some, the deadzones are chosen by them and not by source frames, which it may know by heart.
    """

    bottleneck: Bottleneck
    tail: TorchSource
    segment: int | None = None
    tables: TableOptions = field(default_factory=TableOptions)
    held: Frame | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ExitSource:
    """Trained exits, and what their shipped thresholds are to promise.

    Args:
        trained: Of the student that is built.
        calibration: uint8 ``(N, H, W, C)``, source frames on which neither stems nor heads nor temperatures were
            fitted: the promise is about frames like these. On half of them a path of thresholds is searched, on the
            other half it is certified. None: all exits are off as shipped.
        level: The share of answers that may differ from the whole network's.
        delta: The promise fails for at most this share of builds.
    """

    trained: TrainedExits
    calibration: Frame | None = None
    level: float = 0.05
    delta: float = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class RouterSource:
    """Frames to count a router's tables on (`littoral.train.route_build`).

    Args:
        frames: uint8 ``(N, H, W, C)``, like those that devices will see, on which nothing else was trained, fitted or
            certified: networks that have seen a frame answer it better than they will answer others. A thousand or more
            make good tables.
        labels: int64 ``(N,)``. None: the teacher's answers stand in for them.
        num_bins: Of each curve; at least ten frames for each.
        device_macs_per_ms: How many multiply-accumulates the device does in a millisecond. Its first guess at times, of
            which its own measurements make something better within tens of frames; the default is one core of a small
            board.
        pictures: Ways beside the splits: a picture of the frame for the whole teacher, in each of these codings of
            `littoral.bundle.images.encode_image`. () for none.
    """

    frames: Frame
    labels: np.ndarray | None = None
    num_bins: int = 20
    pictures: tuple[str, ...] = ("webp-95", LOSSLESS)
    device_macs_per_ms: float = 2e6

    def __post_init__(self) -> None:
        for coding in self.pictures:
            check_coding(coding)
        if len(set(self.pictures)) < len(self.pictures):
            raise ValueError(f"pictures are {self.pictures}, expected each coding once")
        if self.num_bins < 2 or not 0 < self.device_macs_per_ms < float("inf"):
            raise ValueError(
                f"num_bins is {self.num_bins} and device_macs_per_ms {self.device_macs_per_ms}; at least 2, and a "
                "positive number"
            )


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a bundle is made. Every count is in frames unless it says otherwise."""

    num_segments: int = 1
    """Segments of about equal work, cut automatically; not used where ``cut_points`` are given."""
    cut_points: tuple[str, ...] = ()
    """Where to cut: names of ONNX tensors or of torch modules (``layer2``: after its output)."""
    probe_frames: int = 64
    replay_frames: int = 512
    metric_frames: int = 2048
    """At most so many source frames are run for the source metrics, the choice of the probe, and what the source's
    world looks like."""
    drift_batch: int = 16
    drift_batches: int = 20
    """How many seeded batches of ``drift_batch`` frames calibrate the drift threshold."""
    min_agreement: float = 0.6
    """How much of the source's answers on the probe an update must keep, by the task's metric: of labels the share."""
    envelope_fraction: float = 1.0
    """How far gamma and beta may move, as a share of the layer's mean |gamma|."""
    rehearsal_steps: int = 0
    """Steps of `littoral.train.rehearse`; about 150 are worth their time for a student whose teacher is robust."""
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("num_segments", "probe_frames", "replay_frames", "metric_frames", "drift_batch", "drift_batches")
        if bad := [name for name in counts if getattr(self, name) < 1]:
            raise ValueError(f"{bad[0]} is {getattr(self, bad[0])}, it must be at least 1")
        if self.rehearsal_steps < 0:
            raise ValueError(f"rehearsal_steps is {self.rehearsal_steps}, it must be 0 or more")
        if not 0 <= self.min_agreement <= 1:
            raise ValueError(f"min_agreement is {self.min_agreement}, it must lie in 0..1")
        if self.envelope_fraction <= 0:
            raise ValueError(f"envelope_fraction is {self.envelope_fraction}, it must be above 0")
