"""What a state folder lets exits keep: the calibration ring, frames that wait, heads that learned; and which serve."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from littoral.bundle.exits import ExitHeads
from littoral.core.calibration_ring import RingFrame
from littoral.core.exit_policy import ExitPolicy, ServedExit
from littoral.core.head_levels import SourceLevels
from littoral.edge.exit_calibration import LESSONS, RingSlots
from littoral.edge.exit_config import ExitConfig
from littoral.edge.exit_files import ExitFolder, PendingFrames, SlotFile
from littoral.edge.exit_stages import ExitStages
from littoral.edge.personal import PersonalHeads
from littoral.edge.session import Model
from littoral.edge.versions import Files
from littoral.errors import LittoralError, StorageError

log = logging.getLogger("littoral.edge.exits")


class Kept(NamedTuple):
    """None where the disk does not take it, or nothing is to be learned.

    Attributes:
        rings: Of the frames that calibrate, and of the lessons.
    """

    rings: tuple[RingSlots, RingSlots] = (RingSlots(), RingSlots())
    pending: PendingFrames | None = None
    personal: PersonalHeads | None = None

    def close(self) -> None:
        """Close the files; what waits in them is gone."""
        for file in (*self.rings[0], *self.rings[1], self.pending):
            if isinstance(file, SlotFile | PendingFrames):
                file.close()


def open_kept(
    state_dir: Path | None,
    config: ExitConfig,
    heads: ExitHeads,
    levels: Sequence[SourceLevels],
    parts: ExitStages,
    model: Model,
    files: Files | None,
) -> Kept:
    """Open a state folder. A disk that fails leaves the shipped heads, with a warning; so does having no folder."""
    kept = Kept()
    if state_dir is None:
        return kept
    folder = state_dir / "exits"
    try:
        record_bytes = RingFrame.record_bytes(parts.num_features)
        ring = RingSlots(SlotFile(folder / "ring.slots", record_bytes))
        kept = Kept((ring, RingSlots()))
        if (config.control.ring_frames + LESSONS) * parts.frame_bytes <= config.ring_pixels_bytes:
            slots = [SlotFile(folder / name, parts.frame_bytes) for name in ("ring.frames", "lessons.frames")]
            lessons = RingSlots(SlotFile(folder / "lessons.slots", record_bytes), slots[1])
            kept = Kept((ring._replace(pixels=slots[0]), lessons))
        if config.personal is None:
            return kept
        pending = PendingFrames(
            folder / "pending.slots",
            capacity=config.pending_frames,
            num_features=parts.num_features,
            num_classes=heads.heads[0].num_classes,
        )
        personal = PersonalHeads(
            ExitFolder(folder, files=files),
            heads if config.personal.fit == "lda" else replace(heads, moments=()),
            config.personal,
            seed=config.seed,
            version=model.version,
            features=lambda: parts.probe_features(model),
            has_deep=parts.all[-1].is_deep,
            class_means=[each.means_KD for each in levels],
        )
    except StorageError as error:
        log.warning("the shipped heads serve, and nothing is learned: %s", error)
        return kept
    return kept._replace(pending=pending, personal=personal)


def policy_of(shipped: ExitHeads, personal: PersonalHeads | None, version: int, *, has_deep: bool) -> ExitPolicy:
    """The heads that serve under a version, with every exit off: the personal ones where they are of that version."""
    if personal is not None and personal.version == version:
        exits = [
            ServedExit(head=each.head, temperature=each.temperature, personal=each.personal, gate=each.gate)
            for each in personal.served
        ]
    else:
        pairs = zip(shipped.heads, shipped.temperatures, strict=True)
        exits = [ServedExit(head=head, temperature=temperature) for head, temperature in pairs]
    return ExitPolicy(affine_version=version, exits=tuple(exits), has_deep=has_deep)


def take_heads_along(kept: Kept, parts: ExitStages, old: Model, new: Model) -> None:
    """What was learned follows to another affine version; what waits to be learned from is of the old one and gone."""
    if kept.personal is None or kept.pending is None:
        return
    kept.pending.clear()
    try:
        kept.personal.move(new.version, parts.probe_features(old), parts.probe_features(new))
    except LittoralError as error:
        log.warning("personal heads do not follow to version %d, the shipped serve: %s", new.version, error)
