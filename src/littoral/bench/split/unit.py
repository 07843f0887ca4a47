"""A unit of the split table: what is made at one go and kept in one file. Which ones there are is in `plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from littoral.bench.unit import TIMED, BenchUnit, config_of, key_of

Kind = Literal[
    "split",
    "compared",
    "local_only",
    "codec",
    "features",
    "fixed",
    "leakage",
    "robust",
    "timing",
    "link",
    "codec_speed",
    "codec_exact",
    "dense_fixed",
    "dense_codec",
    "dense_split",
]
STAGES: Mapping[str, int] = {"leakage": 1, "robust": 1, "timing": TIMED, "link": TIMED, "codec_speed": TIMED}
"""What needs a training waits for it."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: of a split's networks, or of a network that sends nothing."""

    method: str
    variant: str
    seed: int
    teacher: str
    frames: int
    """Of CIFAR-10's training frames, the first so many."""
    epochs: int
    views: int
    """The teacher says once what it makes of so many variations of each frame."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """JSON values, for networks and recipe."""

    @property
    def key(self) -> str:
        """Names the configuration."""
        return key_of(config_of(self))

    @property
    def folder(self) -> str:
        """How the folder of its checkpoint begins, below the work folder's ``trained``."""
        return f"{self.method}-{self.variant}-{self.seed}-{self.key}"


@dataclass(frozen=True, kw_only=True)
class SplitUnit(BenchUnit):
    """What is measured at one go."""

    kind: Kind
    method: str
    """As the table calls it."""
    variant: str
    frames: int
    """Of CIFAR-10's test frames, the first so many; of a dense task's, so many spread evenly."""
    teacher: str
    """Of a dense task the network."""
    training: Training | None = None
    """What was or will be trained for it; a dense task's training is in the options."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """JSON values, for the measurement."""

    @property
    def seed(self) -> int:
        return self.training.seed if self.training is not None else int(self.options.get("seed", 0))

    @property
    def short(self) -> str:
        """``kind/method/variant``, for globs."""
        return f"{self.kind}/{self.method}/{self.variant}"

    @property
    def slug(self) -> str:
        return f"{self.kind}-{self.method}-{self.variant}-{self.seed}"

    @property
    def sort(self) -> str:
        return f"{self.kind}/{self.method}"

    @property
    def name(self) -> str:
        """For people."""
        trained = f" {self.training.epochs} epochs seed {self.training.seed}" if self.training is not None else ""
        return f"{self.kind} {self.method}/{self.variant}{trained}"

    @property
    def stage(self) -> int:
        return STAGES.get(self.kind, 0)

    @property
    def num_frames(self) -> int:
        """About how many frames' work it is: a training's, for what trains, else the measured ones."""
        if self.training is not None and self.stage == 0:
            return self.training.epochs * self.training.frames
        if "training_frames" in self.options:
            return int(self.options["epochs"]) * int(self.options["training_frames"])
        return self.frames * len(self.options.get("qualities", (0,)))
