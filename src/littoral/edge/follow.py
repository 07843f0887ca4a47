"""Statistics that follow the device's frames: the graph that measures them and the estimate that they go into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from littoral.bundle import Bundle
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.core.balance import ClassBalancedMemory
from littoral.core.drift import Look, StatisticsConfig, StatisticsEstimate
from littoral.edge.session import FingerprintModel, StatisticsModel

if TYPE_CHECKING:
    from littoral.edge.device import DeviceConfig

FEW_CLASSES = 0.7
"""A batch with less than this share of the classes that it could have does not stand for its world. Shuffled frames of
10 classes show 8 in a batch of 16; frames in long runs one to three (docs/log.md)."""


def _alone_with_exits(config: DeviceConfig) -> StatisticsConfig:
    """What early exits do under a mixture is not measured yet (docs/adr/0033): beside them the own serve alone."""
    own = config.statistics
    return own if config.exits is None else replace(own, half_trust_factor=0.0)


class Follower:
    """For the background thread of a device whose bundle has statistics.

    Args:
        affine: The affine values in service, asked for at each measurement: a scene may change them in between.
    """

    def __init__(self, bundle: Bundle, config: DeviceConfig, *, affine: Callable[[], Tensors]) -> None:
        spec = bundle.manifest.statistics
        assert spec is not None
        self._estimate = StatisticsEstimate(
            layers=bundle.manifest.norm_layers,
            source=bundle.weights,
            drift_threshold=spec.drift_threshold,
            config=_alone_with_exits(config),
        )
        self._memory: ClassBalancedMemory | None = None
        if config.statistics.balanced and bundle.manifest.adapts:  # else frames have no label to balance by
            self._memory = ClassBalancedMemory(max(config.statistics.memory_frames, config.statistics_batch_frames))
        self._measurer = StatisticsModel(bundle, config.session)
        self._fingerprints = FingerprintModel(bundle, config.session)
        self._affine, self._source_affine = affine, bundle.source_affine
        self.measured_frames = 0

    def values(self, affine: Tensors) -> Mapping[str, FloatArray]:
        """The statistics to serve these affine values with."""
        return self._estimate.served(mixed=self._is_source(affine))

    def _is_source(self, affine: Tensors) -> bool:
        return all(np.array_equal(affine[name], value) for name, value in self._source_affine.items())

    @property
    def resets(self) -> int:
        """How often drift was found."""
        return self._estimate.resets

    def fingerprint(self, batch_BHWC: Frame) -> FloatArray:
        """What the source's network sees of a batch."""
        return self._fingerprints.fingerprint(batch_BHWC)

    def changing(self, seen: FloatArray) -> bool:
        """Whether the world changes with the batch of this fingerprint; ask before `follow`."""
        return self._estimate.changing(seen)

    def follow(self, batch_BHWC: Frame, labels: list[int], seen: FloatArray, look: Look) -> bool:
        """Take a batch of the newest frames into the estimate; see `StatisticsEstimate.update`.

        Args:
            labels: What was answered for each of them.
            seen: Their fingerprint.
        Returns:
            True when drift was found.
        """

        def measure(statistics: Tensors, alpha: float) -> Tensors:
            frames = self._representative(batch_BHWC, labels, afresh=self._estimate.afresh)
            return self._measure(frames, statistics, alpha)

        return self._estimate.update(
            measure, len(batch_BHWC), seen=seen, look=look, mixed=lambda: self._is_source(self._affine())
        )

    def _representative(self, batch_BHWC: Frame, labels: list[int], *, afresh: bool) -> Frame:
        """The batch itself, or as many frames of all classes that this world has shown where the batch has few."""
        memory = self._memory
        if memory is None:
            return batch_BHWC
        if afresh:
            memory.clear()
        for frame, label in zip(batch_BHWC, labels, strict=True):
            memory.add(frame, label)
        shown = min(len(memory.counts()), len(batch_BHWC))
        return memory.draw(len(batch_BHWC)) if len(set(labels)) < FEW_CLASSES * shown else batch_BHWC

    def _measure(self, frames_BHWC: Frame, statistics: Tensors, alpha: float) -> Tensors:
        self.measured_frames += len(frames_BHWC)
        return self._measurer.moments(frames_BHWC, {**self._affine(), **statistics}, alpha)
