"""After a sign that the world has changed: leave early only when surer, trust early exits less, let more be asked.

Thresholds and curves were made in another world. Until they are made anew (`recheck` of the exits, answers from the
cloud), early exits must be surer, their errors are taken to be more than the curves say, and the byte budget is opened;
then all of it fades. The whole network is not distrusted: what shakes it shakes the cloud as well, and frames would be
sent for nothing. What opens the budget is bounded, whatever the signal does. Time is counted in frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CautionConfig:
    """How careful, and for how long."""

    hold_frames: int = 200
    """For so long in full."""
    fade_frames: int = 300
    """Over so many frames it fades after that."""
    tighten: float = 0.5
    """In full, the distance of a threshold from 1 shrinks by this share: 0.9 becomes 0.95."""
    distrust: float = 0.1
    """Added to the errors of early exits in full."""
    budget_factor: float = 3.0
    """The byte budget in full, as a multiple."""
    extra_frames_per_1000: float = 800.0
    """The most that a thousand frames may add to the budget, in frames' worth: signs that come all the time do not keep
    it open."""

    def __post_init__(self) -> None:
        if self.hold_frames < 0 or self.fade_frames < 1 or not (0 <= self.tighten <= 1 and 0 <= self.distrust <= 1):
            raise ValueError("hold_frames >= 0, fade_frames >= 1, and tighten and distrust in [0, 1] must hold")
        if self.budget_factor < 1 or self.extra_frames_per_1000 < 0:
            raise ValueError("budget_factor >= 1 and extra_frames_per_1000 >= 0 must hold")


@dataclass(frozen=True, kw_only=True)
class Stance:
    """What holds for this frame."""

    level: float = 0.0
    """0 calm to 1 in full."""
    exit_extra: float = 0.0
    budget_factor: float = 1.0
    tighten: float = 0.0

    def thresholds(self, calm: Sequence[float]) -> tuple[float, ...]:
        """The exits' thresholds, never below the calm ones, `OFF` staying off."""
        return tuple(t if math.isinf(t) or t > 1 else 1 - (1 - t) * (1 - self.tighten) for t in calm)


CALM = Stance()


class Caution:
    """Turns drift signals into a `Stance` for each frame."""

    def __init__(self, config: CautionConfig | None = None) -> None:
        self.config = config or CautionConfig()
        self.num_signals = 0
        self._since: int | None = None
        self._extra = self.config.extra_frames_per_1000
        """What may still be added to the budget."""

    def drifted(self) -> None:
        """A sign of drift: of the statistics, of the mean confidence, of the risk alarm, of a new scene."""
        self.num_signals += 1
        self._since = 0

    def settled(self) -> None:
        """Thresholds were certified in this world: calm at once."""
        self._since = None

    def frame(self) -> Stance:
        """The stance for the next frame."""
        config = self.config
        most = config.extra_frames_per_1000
        self._extra = min(self._extra + most / 1000, most)
        if self._since is None:
            return CALM
        past = self._since - config.hold_frames
        level = 1.0 if past < 0 else 1 - past / config.fade_frames
        if level <= 0:
            self._since = None
            return CALM
        self._since += 1
        opened = min((config.budget_factor - 1) * level, max(self._extra, 0.0))
        self._extra -= opened
        return Stance(
            level=level, exit_extra=config.distrust * level, budget_factor=1 + opened, tighten=config.tighten * level
        )
