"""What a device runs for its exits, beside the segments: the stems, and where each one's features go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from littoral.bundle import Bundle
from littoral.bundle.exits import ExitHeads
from littoral.core.arrays import FloatArray, Frame
from littoral.core.calibration_ring import Seen, as_half
from littoral.core.exits import ExitCosts
from littoral.edge.bound import BoundSession, FramePath, copier
from littoral.edge.session import Model, SessionConfig, open_session
from littoral.errors import ModelOutputError

_FEATURES, _POOLED = "features", "pooled"


class PlacedExit(NamedTuple):
    """An exit: after so many segments, made of such features, its numbers in their row."""

    after: int
    stem: ort.InferenceSession | None
    """None where the segment's output is the features."""
    is_deep: bool
    columns: slice

    def pooled(self, value: Any) -> FloatArray:
        """The features ``(D,)`` of one frame, from what the segment before gave for it."""
        features: FloatArray = self.pooled_all(value)[0]
        return features

    def pooled_all(self, value: Any) -> FloatArray:
        """The features ``(B, D)`` of several frames."""
        features: FloatArray = value if self.stem is None else self.stem.run([_POOLED], {_FEATURES: value})[0]
        return features


class ExitParts:
    """The exits of a bundle, ready to run. Nothing in it changes.

    Attributes:
        all: The earliest first.
        sizes: Features of each.
        num_features: Of all together.
        num_classes: Of the heads.
        num_segments: Of the network.
        costs: Of the early exits and the end, the deep exit being a part of the end.
    """

    def __init__(self, bundle: Bundle, heads: ExitHeads, session: SessionConfig) -> None:
        specs = bundle.manifest.exits
        self.sizes = tuple(head.num_features for head in heads.heads)
        self.num_classes = heads.heads[0].num_classes
        starts = np.cumsum([0, *self.sizes]).tolist()
        self.num_features: int = starts[-1]
        self.all = [
            PlacedExit(
                spec.segment + 1,
                None if spec.stem_file is None else open_session(bundle.read(spec.stem_file), (), {}, session),
                spec.is_deep,
                slice(starts[i], starts[i + 1]),
            )
            for i, spec in enumerate(specs)
        ]
        self.costs = costs = _early_costs(heads.costs, num_early=sum(not spec.is_deep for spec in specs))
        self._full_macs = costs.full_macs
        self._work = [0, *np.cumsum(costs.segment_macs).tolist()[:-1], self._full_macs]
        self._probe_frames = bundle.probe[0]
        self.num_segments = len(bundle.manifest.segments)

    def path(self, model: Model) -> FramePath:
        """A model's segments and the stems for one frame after another; for the thread that answers alone."""
        features = np.zeros((1, self.num_features), dtype=np.float32)
        stems = [
            copier(features[:, each.columns])
            if each.stem is None
            else BoundSession(each.stem, _FEATURES, _POOLED, to=features[:, each.columns])
            for each in self.all
        ]
        return FramePath(model.for_one_frame(), stems, model, features[0])

    @property
    def stem_shares(self) -> tuple[float, ...]:
        """Of the work up to each early exit from the one before: how much is the exit's own."""
        pairs = zip(self.costs.segment_macs[:-1], self.costs.head_macs[:-1], strict=True)
        return tuple(head / max(segment + head, 1) for segment, head in pairs)

    def work(self, point: int, asked: Iterable[int]) -> float:
        """What a frame has cost that came to a point, over the network without exits.

        Args:
            point: 1 is the first early exit; the last, or -1, is the end.
            asked: The early exits whose stem and head have run.
        """
        return float(self._work[point] + sum(self.costs.head_macs[i] for i in asked)) / self._full_macs

    @property
    def frame_bytes(self) -> int:
        """Of one frame's pixels."""
        return int(self._probe_frames[0].nbytes)

    def run_again(self, model: Model, pixels: Sequence[bytes]) -> list[Seen | None]:
        """What a network makes of frames that were kept; None for one of which that is not finite.

        Args:
            pixels: Each frame's bytes, as the bundle's input says.
        """
        first = self._probe_frames[0]
        frames = np.stack([np.frombuffer(each, dtype=first.dtype).reshape(first.shape) for each in pixels])
        features, value = self._features(model, frames)
        logits = model.through(self.all[-1].after, self.num_segments, value)
        return [
            (as_half(row), int(scores.argmax())) if np.isfinite(row).all() and np.isfinite(scores).all() else None
            for row, scores in zip(features, logits, strict=True)
        ]

    def probe_features(self, model: Model) -> list[FloatArray]:
        """The features ``(N, D)`` of the bundle's probe frames at each exit.

        Raises:
            ModelOutputError: one is not finite.
        """
        rows = [self._features(model, frame[None])[0] for frame in self._probe_frames]
        features = np.concatenate(rows)
        if not np.isfinite(features).all():
            raise ModelOutputError(f"an exit's features under version {model.version} are not finite")
        return [features[:, placed.columns] for placed in self.all]

    def _features(self, model: Model, frames: Frame) -> tuple[FloatArray, Any]:
        """The features of all exits, side by side, of some frames; and what the last exit's segment gave."""
        features = np.zeros((len(frames), self.num_features), dtype=np.float32)
        value: Any = frames
        position = 0
        for placed in self.all:
            value = model.through(position, placed.after, value)
            position = placed.after
            features[:, placed.columns] = placed.pooled_all(value)
        return features, value


def _early_costs(costs: ExitCosts, *, num_early: int) -> ExitCosts:
    segments, heads = costs.segment_macs, costs.head_macs
    return ExitCosts(
        segment_macs=(*segments[:num_early], sum(segments[num_early:])), head_macs=(*heads[:num_early], heads[-1])
    )
