"""What is in force at a device's exits: heads, temperatures, thresholds, and whether frames may leave early at all.

A policy is immutable and put into service by one assignment, so no frame sees half of an old and half of a new one. It
belongs to one affine version: under another the features are other ones, and exits stay off.

Exits are counted from 0. Where the last of them is the *deep* exit, it stands just before the network's own classifier
and shares its features; its personal head may answer in the classifier's place, and no frame leaves there early.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import FloatArray
from littoral.core.exits import OFF
from littoral.core.heads import LinearHead
from littoral.core.selection import PLAIN_FLOATS, judge_one, judge_scores


class Gate(Protocol):
    """Whether a frame is like what the user showed before: one that is not does not leave early."""

    def __call__(self, features_D: NDArray[np.floating]) -> bool:
        """True where it is."""


@dataclass(frozen=True, kw_only=True)
class ServedExit:
    """An exit as it serves.

    Attributes:
        temperature: The head's logits are divided by it.
        threshold: A frame leaves at a highest probability of at least this; `OFF` lets none leave.
        gate: None lets every frame through. Where the deep exit's is shut the network's own classifier answers.
        personal: The head is not the shipped one.
    """

    head: LinearHead
    temperature: float = 1.0
    threshold: float = OFF
    gate: Gate | None = None
    personal: bool = False
    _sharpness: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"a temperature is positive and finite, got {self.temperature}")
        if math.isnan(self.threshold):
            raise ValueError("a threshold is not a number; an exit that is switched off has the threshold infinity")
        with np.errstate(over="ignore"):
            object.__setattr__(self, "_sharpness", float(np.float32(1 / self.temperature)))

    def answer(self, features_D: FloatArray) -> Spoken:
        """What the exit says of one frame's pooled features."""
        head, sharpness = self.head, self._sharpness
        raw: FloatArray = head.weights_KD.dot(features_D)
        scores: list[float] | FloatArray
        if len(raw) > PLAIN_FLOATS:
            scores = (raw + head.bias_K) * sharpness
            label, confidence, entropy = judge_one(scores)
        else:  # see `judge_one`
            scores = [(x + bias) * sharpness for x, bias in zip(raw.tolist(), head.bias_K.tolist(), strict=True)]
            label, confidence, entropy = judge_scores(scores)
        if self.gate is not None:
            asked = confidence >= self.threshold or self.threshold == OFF
            if asked and not self.gate(features_D):
                confidence = entropy = math.nan
        return Spoken(scores, label, confidence, entropy)

    def answers(self, features_ND: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """How sure, -1 where no frame may leave, and which class, of many frames: ``(N,)`` each."""
        logits_NK = self.head.logits(features_ND) * self._sharpness
        finite = np.isfinite(logits_NK).all(axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            above_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
            sure = 1 / np.exp(above_NK.astype(np.float64)).sum(axis=1)
        if self.gate is not None:
            finite &= np.array([self.gate(row) for row in features_ND], dtype=np.bool_)
        return np.where(finite, sure, -1.0), logits_NK.argmax(axis=1)


class Spoken(NamedTuple):
    """An exit's answer to one frame. ``confidence`` is NaN where the frame must go on, and ``entropy_nats`` where the
    exit does not answer for it at all: a shut gate, or logits that are not finite."""

    scores: Sequence[float] | FloatArray
    """The logits. Most exits that a frame passes are asked for no array, and making one costs as much as the head."""
    label: int
    confidence: float
    entropy_nats: float

    @property
    def is_finite(self) -> bool:
        """The exit answers for the frame."""
        return self.entropy_nats == self.entropy_nats

    @property
    def logits_K(self) -> FloatArray:
        """float32; made anew each time."""
        with np.errstate(over="ignore"):
            return np.array(self.scores, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class ExitPolicy:
    """The exits in service.

    Attributes:
        affine_version: Under which the heads and thresholds were made.
        exits: All of them, the earliest first.
        has_deep: The last one is the deep exit.
        checking: Frames do not leave early; see `littoral.core.exit_control`.
    """

    affine_version: int
    exits: tuple[ServedExit, ...]
    has_deep: bool = False
    checking: bool = True

    def __post_init__(self) -> None:
        if self.num_early < 1:
            raise ValueError("a policy needs an exit that comes before the network's end")

    @property
    def num_exits(self) -> int:
        return len(self.exits)

    @cached_property
    def num_early(self) -> int:
        """Exits at which frames may leave early: all but the deep one."""
        return len(self.exits) - self.has_deep

    @cached_property
    def early(self) -> tuple[ServedExit, ...]:
        return self.exits[: self.num_early]

    @property
    def deep(self) -> ServedExit | None:
        """What answers in the place of the network's classifier: a personal deep head that serves, or None."""
        return self.exits[-1] if self.has_deep and self.exits[-1].personal else None

    @cached_property
    def thresholds(self) -> tuple[float, ...]:
        """Of the early exits."""
        return tuple(each.threshold for each in self.early)

    def with_shipped_of(self, other: ExitPolicy) -> ExitPolicy:
        """With the other's heads at the exits where it has no personal one, and this has none either."""
        pairs = zip(self.exits, other.exits, strict=True)
        return replace(self, exits=tuple(mine if mine.personal or its.personal else its for mine, its in pairs))

    def serving(self, thresholds: Sequence[float]) -> ExitPolicy:
        """With these thresholds in force."""
        return self._with(thresholds, checking=False)

    def off(self) -> ExitPolicy:
        """With every exit off, while its thresholds are found anew."""
        return self._with((OFF,) * self.num_early, checking=True)

    def _with(self, thresholds: Sequence[float], *, checking: bool) -> ExitPolicy:
        if len(thresholds) != self.num_early:
            raise ValueError(f"{len(thresholds)} thresholds came for {self.num_early} exits")
        pairs = zip(self.early, thresholds, strict=True)
        early = tuple(replace(each, threshold=threshold) for each, threshold in pairs)
        return replace(self, exits=early + self.exits[self.num_early :], checking=checking)
