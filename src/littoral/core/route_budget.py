"""A budget per frame that makes its own price: what is spent above it makes the next spending dearer.

The price holds the mean at the budget and spends it where it is worth most, since every frame sees the same price; the
bucket holds every stretch of frames to it. Time is counted in frames.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RouteBudgetConfig:
    """A budget of bytes uplink, or of millijoules."""

    per_frame: float
    burst_frames: float = 200.0
    """The most that can be saved up, in frames' worth."""
    step: float = 0.003
    """How fast the price moves: twice the budget spent makes a frame's worth dearer by so much loss per frame."""
    most: float = 3.0
    """The highest price of a frame's worth."""

    def __post_init__(self) -> None:
        if not (self.per_frame > 0 and self.burst_frames >= 1 and 0 < self.step <= self.most):
            raise ValueError(
                "per_frame > 0, burst_frames >= 1 and 0 < step <= most must hold, got "
                f"{self.per_frame}, {self.burst_frames}, {self.step} and {self.most}"
            )


class RouteBudget:
    """The bucket and the price. In any n frames at most ``(burst_frames + n * factor) * per_frame`` is spent.

    Source: dual ascent on the budget, as in online allocation; the bucket as in `littoral.core.budget`.
    """

    def __init__(self, config: RouteBudgetConfig) -> None:
        self.config = config
        self.level = config.per_frame * config.burst_frames
        self.spent = 0.0
        self._price = self._since = 0.0

    @property
    def price(self) -> float:
        """The loss that a byte (or millijoule) counts as."""
        return self._price / self.config.per_frame

    def frame(self, factor: float = 1.0) -> None:
        """A frame went by; ``factor`` opens the budget for a while (`littoral.core.caution`)."""
        due = self.config.per_frame * factor
        self._price += self.config.step * (self._since - due) / self.config.per_frame
        self._price = min(max(self._price, 0.0), self.config.most)
        self._since = 0.0
        self.level = min(self.level + due, self.config.per_frame * self.config.burst_frames)

    def can_spend(self, amount: float) -> bool:
        """Whether there is so much."""
        return amount <= self.level

    def spend(self, amount: float) -> None:
        """So much was spent, whether there was so much or not: then nothing is until it is paid back."""
        self.level -= amount
        self.spent += amount
        self._since += amount
