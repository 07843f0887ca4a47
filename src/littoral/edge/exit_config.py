"""What a device lets one set about early exits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from littoral.core.exit_control import ControlConfig
from littoral.core.personal import PersonalConfig

_SECONDS_A_DAY = 86_400


def utc_day() -> int:
    """The days since 1970 by the device's clock."""
    return int(time.time() // _SECONDS_A_DAY)


@dataclass(frozen=True, kw_only=True)
class ExitConfig:
    """Early exits, and how they follow their user (docs/methods/exits.md, docs/adr/0020)."""

    control: ControlConfig = field(default_factory=ControlConfig)
    """The promise, the coin and the ring."""
    personal: PersonalConfig | None = field(default_factory=PersonalConfig)
    """How heads follow the user; None: the shipped heads serve. Without a state folder nothing is learned either."""
    start_with_shipped: bool = False
    """True puts the bundle's thresholds in force at once, which hold for frames like the source's; else a device begins
    by checking."""
    seed: int = 0
    """Of the coin and of the heads' memories."""
    pending_frames: int = 64
    """Learning begins when so many frames wait for it, on the disk."""
    ring_pixels_bytes: int = 64 * 1024 * 1024
    """Of the disk, for the pixels of the frames that calibrate. With them a new affine version in the same world is
    certified before it serves, and frames go on leaving early; and a world that is back is certified on few new frames,
    where there is room for several worlds. If the ring would take more, or without a state folder, none are kept and
    each version is checked on new frames. A frame that calibrates is never sent to the cloud then."""
    learning_share: float = 0.1
    """Of the time of one core, at most this goes into learning; frames that come meanwhile and find no room are not
    learned from."""
    today: Callable[[], int] = utc_day
    """The number of the day: what `Device.forget_day` takes."""

    def __post_init__(self) -> None:
        if not (1 <= self.pending_frames <= 4096 and 0 < self.learning_share <= 1):
            raise ValueError(
                "1 <= pending_frames <= 4096 and 0 < learning_share <= 1 must hold, got "
                f"{self.pending_frames} and {self.learning_share}"
            )
        if self.ring_pixels_bytes < 0:
            raise ValueError(f"ring_pixels_bytes is 0 or more, got {self.ring_pixels_bytes}")
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"a seed is 0 to 2**32 - 1, got {self.seed}")
