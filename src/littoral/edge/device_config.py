"""Everything that a device lets one set."""

from __future__ import annotations

from dataclasses import dataclass, field

from littoral.bundle.images import LOSSLESS, check_coding
from littoral.core.drift import StatisticsConfig
from littoral.core.product import ProductConfig
from littoral.core.route_words import RouteConfig
from littoral.core.scenes import RecallConfig
from littoral.core.selection import SelectionConfig
from littoral.edge.exit_config import ExitConfig
from littoral.edge.offload_config import OffloadConfig
from littoral.edge.session import SessionConfig
from littoral.edge.updater import UpdaterConfig


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """What a device does, with the defaults."""

    selection: ProductConfig | SelectionConfig = field(default_factory=ProductConfig)
    """What is sent, within the byte budget in it; a `SelectionConfig` chooses as published, without a budget. Where the
    bundle's task is not adapted nothing is."""
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    recall: RecallConfig = field(default_factory=RecallConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    updater: UpdaterConfig = field(default_factory=UpdaterConfig)
    statistics_batch_frames: int = 16
    """Frames that are measured at a time; at least 2, so that there is a variance."""
    statistics_stride_frames: int = 2
    """One frame in so many is measured. Measuring costs 1.4 (batch 32) to 1.8 (batch 1) forward passes a frame, and
    the fingerprint about a third of one more, or a whole one where it is looked how near the source the world is."""
    adapt_statistics: bool = True
    """False serves the source's statistics for ever."""
    uplink_coding: str = LOSSLESS
    """How a chosen frame is coded: ``lossless`` takes what is smallest; see `littoral.bundle.images.encode_image`."""
    outbox_capacity_bytes: int = 16 * 1024 * 1024
    max_waiting_bytes: int = 8 * 1024 * 1024
    """The most raw bytes of frames that wait in memory for the background thread, or one frame. With a byte budget they
    are still to be looked at, at most 64 in any case; one over either bound is not chosen, and not counted as dropped.
    With a `SelectionConfig` they are chosen frames, and one over the bound is counted as dropped."""
    offload: OffloadConfig | None = None
    """Who finishes a frame; None: the device, always."""
    exits: ExitConfig | None = None
    """Leaving early at the bundle's exits; None: every frame goes through the whole network."""
    route: RouteConfig | None = None
    """Exit, finish or offload as is best for each frame, by the bundle's router (docs/methods/routing.md); with the
    bundle's exits, and in the place of ``offload``. None: nothing is decided frame by frame."""

    def __post_init__(self) -> None:
        check_coding(self.uplink_coding)
        offloads = self.offload is not None and self.offload.mode != "never"
        if offloads and self.route is not None:
            raise ValueError("a router decides itself when to offload; leave out one of route and offload")
        if offloads and self.exits is not None:
            raise ValueError("a device either leaves early or offloads its frames; leave out one of exits and offload")
        if self.statistics_batch_frames < 2 or self.statistics_stride_frames < 1:
            raise ValueError(
                "statistics need statistics_batch_frames >= 2 and statistics_stride_frames >= 1, got "
                f"{self.statistics_batch_frames} and {self.statistics_stride_frames}"
            )
