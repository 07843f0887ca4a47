"""A row of the adaptation table: one method on one stream with one teacher and one seed. `plan` has them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from littoral.bench.unit import BenchUnit

Table = Literal["headline", "wide", "fleet", "special", "ablation", "quick"]

ROBUST, PLAIN = "resnet56_augmix", "resnet56"
TEACHERS = (ROBUST, PLAIN)
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row(BenchUnit):
    """One row's configuration. ``stream`` is its name in the table, ``order`` how the frames are ordered."""

    table: Table
    method: str
    stream: str
    order: str
    teacher: str | None
    seed: int
    frames: int
    """Per shift, and per device."""
    batch: int = 64
    delay_batches: int = 0
    loss: float = 0.0
    devices: int = 1
    corruptions: tuple[str, ...] = CORRUPTIONS
    severity: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)
    """For the method: JSON values."""

    def config(self) -> dict[str, Any]:
        """What can change a number: the table is not of it."""
        return {key: value for key, value in super().config().items() if key != "table"}

    @property
    def name(self) -> str:
        """For people: ``product/continual resnet56_augmix seed 0``."""
        return f"{self.method}/{self.stream} {self.teacher or '-'} {self.frames} frames seed {self.seed}"

    @property
    def short(self) -> str:
        """``table/method/stream``, for globs."""
        return f"{self.table}/{self.method}/{self.stream}"

    @property
    def slug(self) -> str:
        return f"{self.method}-{self.stream}-{self.seed}"

    @property
    def sort(self) -> str:
        return self.method

    @property
    def num_frames(self) -> int:
        """About how many frames the row plays, for estimates."""
        shifts = {"fleet": self.devices, "recurring": 2 * len(self.corruptions), "none": 0}
        return self.frames * shifts.get(self.order, len(self.corruptions))
