"""A device's counters, as `Device.status` gives them."""

from __future__ import annotations

from typing import NamedTuple


class DeviceStatus(NamedTuple):
    """The device's counters. ``accepted = acked + queued + dropped`` holds for samples and receipts."""

    version: int
    cloud: str
    link_error: str | None
    storage_error: str | None
    frames: int
    selected: int
    accepted: int
    acked: int
    queued: int
    dropped: int
    """Dropped by the outbox, or before it because the background thread could not keep up."""
    measured_frames: int
    """Frames that the statistics graph ran on; the fingerprint graph ran on as many."""
    statistics_resets: int
    swaps: int
    versions_installed: int
    versions_rejected: int
    versions_reverted: int
    scene: int
    """The number of the world that the device is in; 0 before the first statistics."""
    recalls: int
    """Remembered versions that were put into service again."""
    sample_bytes: int
    """Of the samples chosen within the byte budget, on the wire, whether sent yet or not."""
    budget_bytes: int
    """What the byte budget has at the moment; below 0 after a scene opened."""
    duplicates: int
    """Frames not chosen because they look like one that was."""
    over_budget: int
    """Frames not chosen for want of budget alone."""
    bytes_up: int
    bytes_down: int
    offloaded: int
    """Frames that the cloud answered in time."""
    degraded: int
    """Frames that the device answered although the cloud was to."""
    frames_by_exit: list[int]
    """Frames that each exit answered, the earliest first, then those of the network's classifier; [] without exits."""
    shadow_runs: int
    """Frames that chance took through the whole network while frames could leave early."""
    exit_state: str
    """``checking`` while no frame leaves early, ``serving``; "" without exits."""
    personal_heads: int
    """Exits whose personal head serves."""
    rechecks: int
    """How often it was found out anew whether frames may leave early."""
    exit_alarms: int
    """How often the watched risk was above what was promised."""
