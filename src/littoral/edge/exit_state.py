"""What a state folder lets exits keep: the calibration ring, frames that wait, heads that learned; and which serve."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from littoral.bundle.exits import ExitHeads
from littoral.core.calibration_ring import RingFrame, as_half
from littoral.core.exit_policy import ExitPolicy, ServedExit
from littoral.edge.exit_config import ExitConfig
from littoral.edge.exit_files import ExitFolder, PendingFrames, SlotFile
from littoral.edge.exit_stages import ExitStages
from littoral.edge.personal import PersonalHeads
from littoral.edge.session import Model
from littoral.edge.versions import Files
from littoral.errors import StorageError

log = logging.getLogger("littoral.edge.exits")


class Kept(NamedTuple):
    """None where the disk does not take it, or nothing is to be learned."""

    slots: SlotFile | None
    pending: PendingFrames | None
    personal: PersonalHeads | None


def open_kept(
    folder: Path, config: ExitConfig, heads: ExitHeads, parts: ExitStages, model: Model, files: Files | None
) -> Kept:
    """Open the folder. A disk that fails leaves the shipped heads, with a warning."""
    slots = None
    try:
        slots = SlotFile(folder / "ring.slots", RingFrame.record_bytes(parts.num_features))
        if config.personal is None:
            return Kept(slots, None, None)
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
            class_means=[as_half(moments.means_KD) for moments in heads.moments],  # half: all exits' lie in memory
        )
    except StorageError as error:
        log.warning("the shipped heads serve, and nothing is learned: %s", error)
        return Kept(slots, None, None)
    return Kept(slots, pending, personal)


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
