"""One frame run past the exits: which are asked, which one answers, and what is known of it afterwards.

For a frame that a router decides on see `littoral.edge.route_walk`, which stops between segments and asks each time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from littoral.core.arrays import FloatArray, Frame
from littoral.core.exit_control import Purpose
from littoral.core.exit_policy import ExitPolicy, ServedExit, Spoken
from littoral.core.exits import OFF
from littoral.core.selection import judge_one
from littoral.edge.answer import Found
from littoral.edge.bound import FramePath
from littoral.edge.exit_parts import ExitParts, PlacedExit


class Wanted(NamedTuple):
    """What is wanted of a frame beside its answer; decided before anything of it is looked at."""

    fits: bool
    """The heads were made under the model's affine version. Where not, no exit is looked at."""
    checking: bool
    """No frame leaves early."""
    purpose: Purpose
    later: bool
    """It is run again before it certifies anything, so its features are not wanted now."""
    features: bool
    """Of every exit."""
    runs_on: bool
    """It goes to the network's end whatever the exits say."""

    @classmethod
    def of(cls, purpose: Purpose, *, fits: bool, checking: bool, calibrates: bool) -> Wanted:
        """What a frame's coin means for it.

        Args:
            calibrates: It is one of those that certify, and its pixels are kept to be run again.
        """
        picked = fits and purpose is not Purpose.NOTHING
        later = picked and checking and calibrates
        return cls(fits, checking, purpose, later, picked and not later, checking or picked or not fits)

    def looks_at(self, placed: PlacedExit, served: ServedExit) -> bool:
        """Whether an exit's features are made."""
        if placed.is_deep or not self.fits:
            return self.fits
        return self.features or not (self.runs_on or served.threshold == OFF)


class PastExits(NamedTuple):
    """A frame that was answered."""

    found: Found
    logits_K: FloatArray | None
    """Of the shipped network at its end; None for a frame that left early."""
    num_seen: int
    """The earliest exits, without a gap, whose features are there."""
    unheard: list[Spoken]
    """What the early exits said of a frame that was taken past them."""


def run_past_exits(parts: ExitParts, path: FramePath, policy: ExitPolicy, wanted: Wanted, frame: Frame) -> PastExits:
    """Run as much of the network as a frame ``(H, W, C)`` needs. Features lie in ``path.features`` afterwards."""
    value: Any = frame[None]
    position = num_seen = 0
    asked: list[int] = []
    unheard: list[Spoken] = []
    pooled: FloatArray | None = None
    for i, (placed, served) in enumerate(zip(parts.all, policy.exits, strict=True)):
        value = path.through(position, placed.after, value)
        position = placed.after
        if not wanted.looks_at(placed, served):
            continue
        pooled = path.pooled(i, value)
        num_seen += num_seen == i
        if placed.is_deep:
            continue  # it answers at the end, if at all
        asked.append(i)
        if wanted.checking:
            continue
        spoken = served.answer(pooled)
        if wanted.runs_on:
            unheard.append(spoken)
        elif spoken.confidence >= served.threshold:
            return PastExits(Found.of(spoken, i, None, parts.work(i + 1, asked)), None, num_seen, unheard)
    logits: FloatArray = path.through(position, parts.num_segments, value)[0].copy()  # the caller may keep it
    deep = pooled if wanted.fits else None
    found = at_the_end(policy, logits, deep, num_exits=len(parts.all), share=parts.work(-1, asked))
    return PastExits(found, logits, num_seen, unheard)


def at_the_end(
    policy: ExitPolicy, logits_K: FloatArray, deep_D: FloatArray | None, *, num_exits: int, share: float = 1.0
) -> Found:
    """The answer of a frame that came to the network's end: the network's own, or the deep exit's in its place.

    Args:
        deep_D: The deep exit's features, where it may answer.
        share: `Found.compute_share`.
    """
    label, confidence, entropy = judge_one(logits_K)
    found = Found(logits_K, label, confidence, entropy, num_exits, entropy, share)
    if policy.deep is not None and deep_D is not None and found.is_finite:
        own = policy.deep.answer(deep_D)
        if own.is_finite:
            return Found.of(own, num_exits - 1, entropy, share)
    return found
