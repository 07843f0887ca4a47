"""Statistics that follow the device's frames: the graph that measures them and the estimate that they go into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from littoral.bundle import Bundle
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.core.balance import ClassBalancedMemory
from littoral.core.drift import Look, Measure, StatisticsEstimate
from littoral.edge.session import StatisticsModel

if TYPE_CHECKING:
    from littoral.edge.device import DeviceConfig


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
            config=config.statistics,
        )
        self._memory: ClassBalancedMemory | None = None
        if config.statistics.balanced:
            self._memory = ClassBalancedMemory(max(config.statistics.memory_frames, config.statistics_batch_frames))
        self._measurer = StatisticsModel(bundle, config.session)
        self._affine = affine
        self.measured_frames = 0

    @property
    def values(self) -> Mapping[str, FloatArray]:
        """The statistics to serve with."""
        return self._estimate.values

    @property
    def resets(self) -> int:
        """How often drift was found."""
        return self._estimate.resets

    def follow(self, batch_BHWC: Frame, labels: list[int], look: Look) -> None:
        """Take a batch of the newest frames into the estimate; see `StatisticsEstimate.update`.

        Args:
            labels: What was answered for each of them.
        """
        memory = self._memory
        if memory is None:
            self._estimate.update(self._measure(batch_BHWC), len(batch_BHWC), look=look)
            return

        def look_first(fingerprint: FloatArray, drifted: bool) -> None:
            if drifted:
                memory.clear()
            look(fingerprint, drifted)

        def balanced(statistics: Tensors, alpha: float) -> Tensors:
            for frame, label in zip(batch_BHWC, labels, strict=True):
                memory.add(frame, label)
            return self._measure(memory.draw(len(batch_BHWC)))(statistics, alpha)

        self._estimate.update(self._measure(batch_BHWC), len(batch_BHWC), look=look_first, balanced=balanced)

    def _measure(self, frames_BHWC: Frame) -> Measure:
        def measure(statistics: Tensors, alpha: float) -> Tensors:
            self.measured_frames += len(frames_BHWC)
            return self._measurer.moments(frames_BHWC, {**self._affine(), **statistics}, alpha)

        return measure
