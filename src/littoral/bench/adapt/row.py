"""A row of the adaptation table: one method on one stream with one teacher and one seed.

Everything that can change its numbers is in it, and nothing else: which rows there are is `littoral.bench.adapt.plan`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Table = Literal["headline", "wide", "fleet", "special", "ablation", "quick"]

ROBUST, PLAIN = "resnet56_augmix", "resnet56"
TEACHERS = (ROBUST, PLAIN)
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
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
        """What can change a number, as JSON has it; the table is not of it."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if key != "table"}
        return {**values, "corruptions": list(self.corruptions), "options": dict(self.options)}

    @property
    def key(self) -> str:
        """Names the configuration: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """For people: ``product/continual resnet56_augmix seed 0``."""
        return f"{self.method}/{self.stream} {self.teacher or '-'} {self.frames} frames seed {self.seed}"

    @property
    def num_frames(self) -> int:
        """About how many frames the row plays, for estimates."""
        shifts = {"fleet": self.devices, "recurring": 2 * len(self.corruptions), "none": 0}
        return self.frames * shifts.get(self.order, len(self.corruptions))
