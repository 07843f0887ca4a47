"""What a device lets one set about asking the cloud to finish its frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from littoral.bundle.images import check_coding
from littoral.wire.messages import MAX_DEADLINE_MS, MAX_SPLIT


@dataclass(frozen=True, kw_only=True)
class OffloadConfig:
    """When the cloud finishes a frame, and how."""

    mode: Literal["never", "always"] = "never"
    """``always`` asks the cloud for every frame while there is a session."""
    split: int = 0
    """The split point, as the bundle counts them."""
    level: int = 0
    """The rate; 0 is the coarsest."""
    picture: str = ""
    """In the place of a payload send a picture of the frame, coded so (`littoral.bundle.images.encode_image`), which
    the cloud's whole teacher answers: for a bundle without splits too. Empty: the split point's payload."""
    deadline_ms: float = 200.0
    """From the call of `Device.infer` to its answer, whoever gives it. The cloud is waited for until no more is left of
    it than the device needs to finish the frame itself."""
    spare_ms: float = 2.0
    """Kept back for the change of threads."""

    def __post_init__(self) -> None:
        if self.mode not in ("never", "always"):
            raise ValueError(f"an offload mode is 'never' or 'always', got {self.mode!r}")
        if not (0 <= self.split <= MAX_SPLIT and 0 <= self.level <= 15):
            raise ValueError(f"split is 0 to {MAX_SPLIT} and level 0 to 15, got {self.split} and {self.level}")
        if self.picture:
            check_coding(self.picture)
        if not (0 < self.deadline_ms <= MAX_DEADLINE_MS and self.spare_ms >= 0):
            raise ValueError(
                f"deadline_ms is above 0 and at most {MAX_DEADLINE_MS}, spare_ms not below 0, got {self.deadline_ms} "
                f"and {self.spare_ms}"
            )
