"""A bundle's segments, stems and shipped heads as a bench runs them: in batches, to the end, every exit looked at.

The same sessions as on the device; what is computed once here serves every method. The *deepest* answer of a chain is
that of its deep exit where it has one, else the last segment's. Axes: N frames, D features, K classes, E exits without
the deepest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from onnxruntime import InferenceSession

from littoral.bundle import Bundle
from littoral.bundle.exits import ExitHeads
from littoral.core.arrays import Float64s, FloatArray, Frame, Tensors
from littoral.core.exits import ExitCosts
from littoral.core.heads import LinearHead, SourceMoments
from littoral.edge.bound import BoundSession
from littoral.edge.session import open_session

_BATCH = 100


class Step(Protocol):
    """A part of what runs: one value in, one out."""

    def __call__(self, value: Any, /) -> FloatArray: ...

    def for_one_frame(self) -> Callable[[Any], FloatArray]:
        """As a device runs it, in memory that stays."""
        ...


class SessionStep:
    """A session of one input and one output."""

    def __init__(self, session: InferenceSession, given: str, wanted: str) -> None:
        self._parts = session, given, wanted
        self._run, self._given, self._wanted = session.run, given, [wanted]

    def __call__(self, value: Any) -> FloatArray:
        (out,) = self._run(self._wanted, {self._given: value})
        result: FloatArray = out
        return result

    def for_one_frame(self) -> BoundSession:
        return BoundSession(*self._parts)


@dataclass(frozen=True, kw_only=True)
class ChainExit:
    """One exit, the deepest included.

    Attributes:
        segment: It stands on this one's output.
        stem: Makes pooled features of it; None where the output is that already.
        macs: Of stem and head.
    """

    segment: int
    stem: Step | None
    head: LinearHead
    moments: SourceMoments
    temperature: float
    macs: int


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What runs.

    Attributes:
        segments: In order; the last gives logits of what the one before it gives.
        exits: The last one is the deepest: its shipped head is the network's own last layer.
        segment_macs: Of each segment.
    """

    segments: tuple[Step, ...]
    exits: tuple[ChainExit, ...]
    segment_macs: tuple[int, ...]
    class_shares_K: Float64s
    remake: Callable[[Tensors], tuple[Step, ...]]
    """The segments with other values in the place of some of the source's: another affine version."""

    @property
    def num_classes(self) -> int:
        return self.exits[-1].head.num_classes

    @property
    def num_features(self) -> tuple[int, ...]:
        """Of each exit."""
        return tuple(exit.head.num_features for exit in self.exits)

    @property
    def full_macs(self) -> int:
        """Of the network without exits."""
        return sum(self.segment_macs)

    def costs(self) -> ExitCosts:
        """By exit: all segments since the one before, and stem and head."""
        firsts = [0, *(exit.segment + 1 for exit in self.exits[:-1])]
        spans = zip(firsts, self.exits, strict=True)
        segment_macs = tuple(sum(self.segment_macs[first : exit.segment + 1]) for first, exit in spans)
        return ExitCosts(segment_macs=segment_macs, head_macs=tuple(exit.macs for exit in self.exits))

    def run(self, frames: Frame) -> tuple[tuple[FloatArray, ...], FloatArray]:
        """By exit the features ``(N, D)`` of frames uint8 ``(N, H, W, C)``, and the shipped logits ``(N, K)``."""
        parts: list[list[FloatArray]] = [[] for _ in self.exits]
        logits: list[FloatArray] = []
        for start in range(0, len(frames), _BATCH):
            value: Any = frames[start : start + _BATCH]
            for index, segment in enumerate(self.segments):
                value = segment(value)
                for part, exit in zip(parts, self.exits, strict=True):
                    if exit.segment == index:
                        part.append(value if exit.stem is None else exit.stem(value))
            logits.append(value)
        return tuple(np.concatenate(part) for part in parts), np.concatenate(logits)


def open_chain(bundle: Bundle) -> Chain:
    """The chain of a bundle with exits, of which the last is the deep one.

    Raises:
        ValueError: it has no exits, or no deep one.
    """
    specs, heads = bundle.manifest.exits, ExitHeads.open(bundle)
    if not specs or not specs[-1].is_deep:
        raise ValueError(f"bundle {bundle.path} has no deep exit; build it with exits, the last of them deep")
    exits = tuple(
        ChainExit(
            segment=spec.segment,
            stem=None if spec.stem_file is None else step_of(bundle.read(spec.stem_file), (), {}, "features", "pooled"),
            head=head,
            moments=moments,
            temperature=spec.temperature,
            macs=spec.macs,
        )
        for spec, head, moments in zip(specs, heads.heads, heads.moments, strict=True)
    )
    return Chain(
        segments=_segment_steps(bundle, {}),
        exits=exits,
        segment_macs=bundle.manifest.segment_macs,
        class_shares_K=heads.class_shares_K,
        remake=lambda values: _segment_steps(bundle, values),
    )


def _segment_steps(bundle: Bundle, values: Tensors) -> tuple[Step, ...]:
    """One session for each segment."""
    tensors = {**bundle.weights, **values}
    return tuple(
        step_of(bundle.read(segment.file), segment.tensors, tensors, segment.input, segment.output)
        for segment in bundle.manifest.segments
    )


def step_of(skeleton: bytes, names: Sequence[str], tensors: Any, given: str, wanted: str) -> SessionStep:
    """A session of one graph, as a function of its one input."""
    return SessionStep(open_session(skeleton, names, tensors), given, wanted)
