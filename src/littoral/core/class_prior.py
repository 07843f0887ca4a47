"""How often each class comes to this user: one number a class, found without labels.

A shipped classifier's probabilities hold the class shares of its training data. Where a user's shares are others, they
are multiplied by ``user / source`` and normalised. The user's shares are found from the probabilities alone, by
expectation and maximisation, all at once or frame by frame.

Source: Saerens, Latinne and Decaestecker, Neural Computation 2002; frame by frame: Cappe and Moulines 2009. Departures:
a floor below which no class falls, since a class that vanished could never be answered again, and a bound on how far
any answer is moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s

_FADE = 0.75
"""The weight of the n-th frame is ``n ** -0.75``: early guesses fade, late ones settle."""


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Bounds of the correction."""

    floor: float = 0.1
    """The share of the estimate that is spread evenly over all classes."""
    most_ratio: float = 20.0
    """No class's odds are changed by more than this factor, up or down."""
    source_frames: float = 30.0
    """What the source's shares weigh at the start."""

    def __post_init__(self) -> None:
        if not (0 < self.floor <= 1 and self.most_ratio >= 1 and self.source_frames >= 1):
            raise ValueError(
                "0 < floor <= 1, most_ratio >= 1 and source_frames >= 1 must hold, got "
                f"{self.floor}, {self.most_ratio} and {self.source_frames}"
            )


def prior_ratio(shares_K: Float64s, source_K: Float64s, config: PriorConfig) -> Float64s:
    """What each class's probability is multiplied by: ``(K,)``, within the bounds."""
    floored = (1 - config.floor) * shares_K + config.floor / len(shares_K)
    ratio: Float64s = np.clip(floored / source_K, 1 / config.most_ratio, config.most_ratio)
    return ratio


def corrected(probabilities: NDArray[np.floating], ratio_K: Float64s) -> Float64s:
    """Probabilities ``(..., K)`` under other class shares."""
    moved = probabilities * ratio_K
    p: Float64s = moved / np.maximum(moved.sum(axis=-1, keepdims=True), 1e-300)
    return p


def fit_class_shares(
    probabilities_NK: NDArray[np.floating], source_K: Float64s, config: PriorConfig, *, num_steps: int = 50
) -> Float64s:
    """The shares of the classes among these frames, from the source classifier's probabilities."""
    if len(probabilities_NK) == 0:
        raise ValueError("no frame: class shares cannot be fitted")
    shares = source_K.copy()
    for _ in range(num_steps):
        shares = corrected(probabilities_NK, prior_ratio(shares, source_K, config)).mean(axis=0)
    return shares


@dataclass
class ClassShares:
    """`fit_class_shares` frame by frame, in K numbers.

    Attributes:
        source_K: The shares in the training data.
        shares_K: The running estimate, without the floor.
        num_frames: It was made from.
    """

    source_K: Float64s
    config: PriorConfig
    shares_K: Float64s
    num_frames: int = 0

    @classmethod
    def start(cls, source_K: Float64s, config: PriorConfig) -> ClassShares:
        """At the source's."""
        if not (source_K > 0).all() or abs(float(source_K.sum()) - 1) > 1e-6:
            raise ValueError("the source's class shares are positive and add up to 1")
        return cls(source_K, config, source_K.copy())

    def ratio(self) -> Float64s:
        """See `prior_ratio`."""
        return prior_ratio(self.shares_K, self.source_K, self.config)

    def add(self, probabilities_K: NDArray[np.floating]) -> Float64s:
        """Take in the source classifier's probabilities for one frame; gives them back corrected."""
        posterior = corrected(probabilities_K, self.ratio())
        self._move(posterior)
        return posterior

    def add_label(self, label: int) -> None:
        """Take in a label."""
        self._move(np.eye(1, len(self.shares_K), label)[0])

    def _move(self, posterior_K: Float64s) -> None:
        self.num_frames += 1
        # The weight of a new frame falls more slowly than 1/n, so that what was counted under a first guess fades.
        self.shares_K += (posterior_K - self.shares_K) * (self.config.source_frames + self.num_frames) ** -_FADE
