"""One frame on its way through the network, a segment at a time, and what is known of it at each point.

Points are the router's (`littoral.core.routing`): at point 0 nothing has run, at point p the segments up to exit p - 1,
at the last the whole network. No segment is run twice: what an encoder may want is kept until the frame is done with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s, FloatArray, Frame
from littoral.core.exit_policy import ExitPolicy, Spoken
from littoral.core.heads import softmax64
from littoral.core.switcher import switch_features
from littoral.edge.answer import Found
from littoral.edge.exit_parts import PlacedExit
from littoral.edge.past_exits import at_the_end
from littoral.edge.recent import SeenFrame
from littoral.edge.session import Model

_NOT_SPOKEN = Spoken((), -1, float("nan"), float("nan"))


class Look(NamedTuple):
    """What an answer in hand tells a router."""

    label: int
    confidence: float
    """NaN where the frame must go on."""
    features: Float64s | None
    """`switch_features`; None where the scores are not finite."""


NOT_LOOKED = Look(-1, float("nan"), None)
"""At a point that was passed."""


@dataclass(frozen=True)
class Trail:
    """What all walks of a device have in common.

    Attributes:
        exits: The earliest first.
        num_segments: Of the network.
        kept: The segments whose output some encoder takes.
        stem_shares: Of each step that ends at an exit: how much of its work is the exit's own.
    """

    exits: Sequence[PlacedExit]
    num_segments: int
    kept: frozenset[int]
    stem_shares: tuple[float, ...] = ()

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """After how many segments each point but the first lies."""
        return (*(each.after for each in self.exits if not each.is_deep), self.num_segments)


class Walk:
    """A frame and how far it has come.

    Args:
        model: Read once for this frame.
        policy: Whose heads speak.
        row: Where the exits' features go, float16.
        fits: The heads were made under the model's affine version; where not, they speak to the router only.
    """

    def __init__(
        self,
        trail: Trail,
        model: Model,
        frame: Frame,
        policy: ExitPolicy,
        row: NDArray[np.float16],
        *,
        fits: bool = True,
    ) -> None:
        self.model, self.policy, self.fits = model, policy, fits
        self.point = 0
        self.looks: list[Look] = []
        """Of each point that was reached, from point 1."""
        self.spoken: list[Spoken] = []
        """What the early exits said."""
        self.found: Found | None = None
        """The answer in hand."""
        self.network_logits: FloatArray | None = None
        """Of the shipped network, at its end."""
        self.passed: dict[int, Any] = {}
        """Exits that were not asked, and what each takes."""
        self._exits, self._ends, self._keep = trail.exits, trail.ends, trail.kept
        self._value: Any = frame[None]
        self._kept: dict[int | None, Any] = {None: self._value}
        self._row, self._position = row, 0
        self._seen: set[int] = set()
        self._deep_pooled: FloatArray | None = None

    @property
    def is_whole(self) -> bool:
        """The whole network has run."""
        return self.point == len(self._ends)

    @property
    def has_all(self) -> bool:
        """And every exit was asked."""
        return self.is_whole and not self.passed

    @property
    def asked(self) -> Iterable[int]:
        """The early exits that have spoken so far."""
        return (i for i in range(min(self.point, len(self._ends) - 1)) if i not in self.passed)

    @property
    def num_seen(self) -> int:
        """The earliest exits, without a gap, whose features are there."""
        return next(i for i in range(len(self._exits) + 1) if i not in self._seen)

    def input_of(self, segment: int | None) -> Any:
        """What an encoder takes that stands on this segment, or on the frame."""
        return self._kept[segment]

    def step(self, stop: Callable[[], bool] | None = None, *, look: bool = True) -> bool:
        """Run to the next point.

        Args:
            look: False passes the exit there; for any but the last.
            stop: Asked before each segment; True leaves the walk where it is, and a later step goes on from there.
        Returns:
            Whether the point was reached.
        """
        while self._position < self._ends[self.point]:
            if stop is not None and stop():
                return False
            at = self._position
            self._value = self.model.through(at, at + 1, self._value)
            self._position = at + 1
            if at in self._keep:
                self._kept[at] = self._value
            if self._exits[-1].is_deep and self._exits[-1].after == at + 1:
                self._deep_pooled = self._see(len(self._exits) - 1, self._value)
        if self.point + 1 < len(self._ends):
            if look:
                self._speak()
            else:
                self._pass()
        else:
            self._end()
        self.point += 1
        return True

    def catch_up(self) -> None:
        """Ask the exits that were passed."""
        for i, value in self.passed.items():
            self.spoken[i] = self.policy.exits[i].answer(self._see(i, value))
        self.passed = {}

    def stays_behind(self) -> None:
        """The frame's caller and its place among the newest frames are no longer waited for: keep what is needed."""
        if self._position == 0:
            self._value = self._value.copy()
        self._kept = {}
        self._row = self._row.copy()

    def seen(self, frame_id: int) -> SeenFrame:
        """What is to be kept of the frame, as far as it has come."""
        return SeenFrame(
            frame_id=frame_id,
            version=self.model.version,
            num_seen=self.num_seen,
            features=self._row,
            logits_K=self.network_logits,
        )

    def _see(self, i: int, value: Any) -> FloatArray:
        placed = self._exits[i]
        pooled = placed.pooled(value)
        with np.errstate(over="ignore"):
            self._row[placed.columns] = pooled
        self._seen.add(i)
        return pooled

    def _pass(self) -> None:
        self.passed[self.point] = self._value
        self.spoken.append(_NOT_SPOKEN)
        self.looks.append(NOT_LOOKED)

    def _speak(self) -> None:
        spoken = self.policy.exits[self.point].answer(self._see(self.point, self._value))
        self.spoken.append(spoken)
        self._take(Found.of(spoken, self.point), spoken.confidence)

    def _end(self) -> None:
        logits: FloatArray = self._value[0]
        self.network_logits = logits
        deep = self._deep_pooled if self.fits else None
        found = at_the_end(self.policy, logits, deep, num_exits=len(self._exits))
        self._take(found, found.confidence)

    def _take(self, found: Found, sure: float) -> None:
        features = None
        if found.is_finite:
            answers = [look.label for look in self.looks if look is not NOT_LOOKED]
            unasked = len(self.looks) - len(answers)
            features = switch_features(softmax64(found.logits_K), answers, unasked=unasked)
        self.looks.append(Look(found.label, sure, features))
        self.found = found
