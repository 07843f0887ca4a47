"""Statistics that follow the device's frames: the graph that measures them and the estimate that they go into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from littoral.bundle import Bundle
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.core.balance import ClassBalancedMemory
from littoral.core.drift import Kept, Look, StatisticsEstimate
from littoral.core.nearness import Nearness
from littoral.core.recall import fingerprint_layer, fingerprint_of_moments
from littoral.edge.session import FingerprintModel, StatisticsModel

if TYPE_CHECKING:
    from littoral.edge.device_config import DeviceConfig
    from littoral.edge.updater import Updater

FEW_CLASSES = 0.7
"""A batch with less than this share of the classes that it could have does not stand for its world. Shuffled frames of
10 classes show 8 in a batch of 16; frames in long runs one to three (docs/log.md)."""
LOOK_EVERY = 4
"""Where a version serves in a world that is known, one batch in so many says whether the source is near again. A
fingerprint is a third of a look, and says at once whether the world changes."""


class Follower:
    """For the background thread of a device whose bundle has statistics.

    Args:
        affine: The affine values in service, asked for at each measurement: a scene may change them in between.
        near: Whether the world is taken to be near the source's until the first batch says so or not.
    """

    def __init__(
        self, bundle: Bundle, config: DeviceConfig, *, affine: Callable[[], Tensors], near: bool = False
    ) -> None:
        spec = bundle.manifest.statistics
        assert spec is not None
        self._estimate = StatisticsEstimate(
            layers=bundle.manifest.norm_layers,
            source=bundle.weights,
            drift_threshold=spec.drift_threshold,
            config=config.statistics,
        )
        self._memory: ClassBalancedMemory | None = None
        if config.statistics.balanced and bundle.manifest.adapts:  # else frames have no label to balance by
            self._memory = ClassBalancedMemory(max(config.statistics.memory_frames, config.statistics_batch_frames))
        self._measurer = StatisticsModel(bundle, config.session)
        printed = fingerprint_layer(bundle.manifest.norm_layers)
        assert printed is not None
        self._printed = printed
        self._fingerprints = FingerprintModel(bundle, config.session)
        self._estimate.nearness = self._nearness = _nearness(bundle, config, near=near)
        self._deep: tuple[FloatArray, NDArray[np.int64]] | None = None
        self._not_looked = 0
        self._affine, self._source_affine = affine, bundle.source_affine
        self.measured_frames = self.looked_frames = 0

    def values(self, affine: Tensors) -> Mapping[str, FloatArray]:
        """The statistics to serve these affine values with."""
        mixed = self._is_source(affine)
        if not self._estimate.measured_for(mixed=mixed) and (kept := self._kept(affine)) is not None:
            self._estimate.renew(kept, mixed=mixed)
        return self._estimate.served(mixed=mixed)

    @property
    def near(self) -> bool:
        """Whether the source's values are to serve, whatever version there is."""
        return self._estimate.near

    def _is_source(self, affine: Tensors) -> bool:
        return all(np.array_equal(affine[name], value) for name, value in self._source_affine.items())

    @property
    def resets(self) -> int:
        """How often drift was found."""
        return self._estimate.resets

    def fingerprint(self, batch_BHWC: Frame) -> FloatArray:
        """What the source's network sees of a batch; ask before `follow`."""
        self._deep = None
        if not self._looks():
            self._not_looked += 1
            seen = self._fingerprints.fingerprint(batch_BHWC)
            if self._nearness is None or not self.changing(seen):
                return seen
        assert self._nearness is not None
        self._not_looked = 0
        self.looked_frames += len(batch_BHWC)
        moments, answers = self._measurer.look(batch_BHWC, self._estimate.source)
        self._deep = fingerprint_of_moments(moments, self._nearness.layer), answers
        return fingerprint_of_moments(moments, self._printed)

    def _looks(self) -> bool:
        """Whether the source's whole network is to see the batch at hand."""
        if self._nearness is None:
            return False
        often = not self._nearness.known or self._is_source(self._serving())
        return often or self._not_looked >= LOOK_EVERY - 1

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
            return self._measure(frames, self._serving(), statistics, alpha)

        return self._estimate.update(
            measure,
            len(batch_BHWC),
            seen=seen,
            look=look,
            deep=self._deep,
            few=self._has_few(labels),
            mixed=lambda: self._is_source(self._serving()),
            kept=lambda: self._kept(self._serving()),
        )

    def _kept(self, affine: Tensors) -> Kept | None:
        """What is kept of this world, measured under these affine values; nothing by a device that does not look."""
        if not self._memory or self._nearness is None:
            return None
        frames = self._memory.draw(self._memory.capacity)
        return lambda statistics, alpha: self._measure(frames, affine, statistics, alpha), len(frames)

    def _serving(self) -> Tensors:
        return self._source_affine if self.near else self._affine()

    def _has_few(self, labels: list[int]) -> bool:
        """Whether a batch has so few classes that it does not stand for its world."""
        shown = 0 if self._memory is None else min(len(self._memory.counts().keys() | set(labels)), len(labels))
        return len(set(labels)) < FEW_CLASSES * shown

    def _representative(self, batch_BHWC: Frame, labels: list[int], *, afresh: bool) -> Frame:
        """The batch itself, or as many frames of all classes that this world has shown where the batch has few."""
        memory = self._memory
        if memory is None:
            return batch_BHWC
        if afresh:
            memory.clear()
        for frame, label in zip(batch_BHWC, labels, strict=True):
            memory.add(frame, label)
        return memory.draw(len(batch_BHWC)) if self._has_few(labels) else batch_BHWC

    def _measure(self, frames_BHWC: Frame, affine: Tensors, statistics: Tensors, alpha: float) -> Tensors:
        self.measured_frames += len(frames_BHWC)
        return self._measurer.moments(frames_BHWC, {**affine, **statistics}, alpha)


def _nearness(bundle: Bundle, config: DeviceConfig, *, near: bool) -> Nearness | None:
    """None for a device that does not look how far its world is: nothing asks, or the bundle is of before it said what
    the source's world looks like."""
    bound, half_trust = config.statistics.near_factor, config.statistics.half_trust_factor
    world = bundle.source_world
    if world is None or max(bound, half_trust) == 0:
        return None
    return Nearness(world, near_distance=bound, half_trust_distance=half_trust, near=near and bound > 0)


def is_near(follower: Follower | None) -> bool:
    """Whether the world is so near the source's that its affine values serve, whatever version there is."""
    return follower is not None and follower.near


def serves_own(follower: Follower | None) -> bool:
    """Whether frames are answered by statistics of the device's own, or there are none to be had."""
    return follower is None or follower.measured_frames > 0


def tell_near(follower: Follower | None, updater: Updater[Any] | None) -> None:
    """Tell whoever counts starts and watches entropies what serves; nothing before the first look has said it."""
    near = is_near(follower)
    if updater is not None and not (near and follower is not None and not follower.looked_frames):
        updater.set_waiting(near)
