"""What a state folder lets exits keep: the calibration ring, frames that wait, heads that learned; and which serve."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from littoral.bundle.exits import ExitHeads
from littoral.core.calibration_ring import NO_LABEL, RingFrame
from littoral.core.exit_policy import ExitPolicy, ServedExit
from littoral.core.head_levels import SourceLevels
from littoral.core.head_memory import FeatureMap, fit_feature_map
from littoral.edge.awaited_labels import AwaitedLabels
from littoral.edge.exit_calibration import LESSONS, PageSlots, RingSlots
from littoral.edge.exit_config import ExitConfig
from littoral.edge.exit_files import ExitFolder, PendingFrames, SlotFile
from littoral.edge.exit_parts import ExitParts
from littoral.edge.personal import PersonalHeads
from littoral.edge.recent import SeenFrame
from littoral.edge.session import Model
from littoral.edge.versions import Files
from littoral.errors import LittoralError, StorageError

log = logging.getLogger("littoral.edge.exits")


MOST_PAGES = 4
"""Worlds whose calibration frames are kept, the one at hand among them."""


class Kept(NamedTuple):
    """None where the disk does not take it, or nothing is to be learned.

    Attributes:
        slots: Of the frames that calibrate, and of the lessons, in one world or several.
        awaited: Frames whose samples the teacher has not answered; there with `pending`.
    """

    slots: PageSlots = PageSlots()
    pending: PendingFrames | None = None
    personal: PersonalHeads | None = None
    awaited: AwaitedLabels | None = None

    def teach(self, frame: SeenFrame, today: int) -> bool:
        """Have a frame wait to be learned from, with somebody's word on it; whether it does."""
        if self.pending is None or not np.isfinite(frame.features).all():
            return False
        taught = self.pending.add(replace(frame, day=frame.day or today))
        if taught and self.awaited is not None:
            self.awaited.taught(frame.frame_id)
        return taught

    def remove_day(self, day: int) -> bool:
        """Forget the frames of a day that were not learned from; whether there were any."""
        waiting = [each for each in (self.pending, self.awaited) if each is not None]
        found = [each.rewrite(lambda frame: None if frame.day == day else frame) for each in waiting]
        return any(found)

    def close(self) -> None:
        """Close the files; what waits in them is gone."""
        for file in (*self.slots.ring, *self.slots.lessons, self.pending):
            if isinstance(file, SlotFile | PendingFrames):
                file.close()


def open_kept(
    state_dir: Path | None,
    config: ExitConfig,
    heads: ExitHeads,
    levels: Sequence[SourceLevels],
    parts: ExitParts,
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
        page_bytes = (config.control.ring_frames + LESSONS) * parts.frame_bytes
        num_pages = min(config.ring_pixels_bytes // max(page_bytes, 1), MOST_PAGES)
        ring = RingSlots(SlotFile(folder / "ring.slots", record_bytes))
        kept = Kept(PageSlots(ring))
        if num_pages:
            pixels = [SlotFile(folder / name, parts.frame_bytes) for name in ("ring.frames", "lessons.frames")]
            lessons = RingSlots(SlotFile(folder / "lessons.slots", record_bytes), pixels[1])
            kept = Kept(PageSlots(ring._replace(pixels=pixels[0]), lessons, num_pages))
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
    return kept._replace(pending=pending, personal=personal, awaited=AwaitedLabels())


def policy_of(shipped: ExitHeads, personal: PersonalHeads | None, version: int, *, has_deep: bool) -> ExitPolicy:
    """The heads that serve under a version, with every exit off: the personal ones where they are of that version."""
    if personal is not None and personal.version == version:
        exits = list(personal.served)
    else:
        pairs = zip(shipped.heads, shipped.temperatures, strict=True)
        exits = [ServedExit(head=head, temperature=temperature) for head, temperature in pairs]
    return ExitPolicy(affine_version=version, exits=tuple(exits), has_deep=has_deep)


def take_heads_along(kept: Kept, parts: ExitParts, old: Model, new: Model) -> None:
    """What was learned follows to another affine version, and so do the frames that somebody else than the old network
    has a word on, or will have; what the old network said of the others is gone."""
    if kept.personal is None or kept.pending is None or kept.awaited is None:
        return
    follow: Callable[[SeenFrame], SeenFrame | None] = _forgotten
    try:
        before, after = parts.probe_features(old), parts.probe_features(new)
        kept.personal.move(new.version, before, after)
        maps = [fit_feature_map(*pair) for pair in zip(before, after, strict=True)]
        follow = functools.partial(_moved, since=old.version, version=new.version, maps=maps)
    except LittoralError as error:
        log.warning("personal heads do not follow to version %d, the shipped serve: %s", new.version, error)
    kept.pending.rewrite(lambda frame: follow(frame) if frame.by_cloud or frame.label != NO_LABEL else None)
    kept.awaited.rewrite(follow)


def _forgotten(frame: SeenFrame) -> SeenFrame | None:
    return None


def _moved(frame: SeenFrame, *, since: int, version: int, maps: Sequence[FeatureMap]) -> SeenFrame | None:
    """A frame as another version would have seen it; None where it was not seen under the one before."""
    if frame.version != since:
        return None
    features, start = np.zeros_like(frame.features), 0
    for feature_map in maps[: frame.num_seen]:
        columns = slice(start, start + len(feature_map.scale_D))
        features[columns] = feature_map(frame.features[columns])
        start = columns.stop
    return replace(frame, version=version, features=features)
