"""Normalisation statistics that follow the device's own frames, and start afresh when the world changes.

The estimate of a BatchNorm layer's mean and mean square starts at the source's, with the weight of ``source_frames``
frames; each observed batch is blended in by its share of all frames that count. What counts is bounded, so the estimate
keeps moving; when two batches in a row lie further apart than chance allows, the estimate starts afresh from the source
and the newest batch counts for nearly all of it.

A version serves by that estimate, the source's affine values by a mixture of the source's statistics and it: where the
world is much like the source's, the network knows it better under the statistics that it was trained with than under
those of a few frames; where it is not, they are wrong. So the estimate's share grows with the world's distance from the
source's (`littoral.core.nearness`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray, Tensors
from littoral.core.nearness import Nearness
from littoral.core.recall import (
    MEAN_SQUARE_SUFFIX,
    MEAN_SUFFIX,
    fingerprint_distance,
    fingerprint_layer,
    mix_fingerprints,
)


@dataclass(frozen=True, kw_only=True)
class StatisticsConfig:
    """How fast statistics follow. Weights are in frames."""

    source_frames: float = 4.0
    """The weight of the source's statistics at the start, and after a reset."""
    max_frames: float = 256.0
    """The most that what was seen before may weigh against a new batch."""
    drift_factor: float = 3.5
    """Two batches in a row are drift when their fingerprints are further apart than so many ``drift_threshold`` of the
    bundle, and so many times what all but four of sixteen neighbours were apart of late: a world may be a mixture."""
    balanced: bool = True
    """Where the newest frames are of far fewer classes than those of this world so far, measure frames of a memory that
    is balanced by predicted class in their place: a stream may show one class for minutes."""
    memory_frames: int = 64
    """The size of that memory; at least one measured batch."""
    half_trust_factor: float = 0.6
    """While the source's affine values serve: the distance of a world from the source's, in units of what a single
    frame of the source's world is away by chance (`littoral.core.nearness`), at which half of the statistics are the
    device's own and half stay the source's; nearer fewer are its own, further more. 0: its own alone.
    A version is served by the device's own alone, under which it was learned."""
    near_factor: float = 0.08
    """Up to so many units the source's network is at home: its affine values serve whatever versions there are, and no
    frame is sent up to be learned from. 0: nowhere."""

    def __post_init__(self) -> None:
        for name in ("half_trust_factor", "near_factor"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} is finite and not negative, got {value}")
        if self.memory_frames < 1:
            raise ValueError(f"memory_frames is at least 1, got {self.memory_frames}")
        if not 0 < self.source_frames <= self.max_frames:
            raise ValueError(
                f"0 < source_frames <= max_frames must hold, got {self.source_frames} and {self.max_frames}"
            )


def batch_norm_layers(layers: Sequence[NormLayer]) -> list[NormLayer]:
    """The layers that have statistics."""
    return [layer for layer in layers if layer.kind == "batch"]


def from_moments(moments: Tensors, layers: Sequence[NormLayer]) -> dict[str, FloatArray]:
    """Statistics ``.running_mean``, ``.running_var`` of the moments that the statistics graph gives for a batch."""
    out: dict[str, FloatArray] = {}
    for layer in batch_norm_layers(layers):
        mean = moments[layer.name + MEAN_SUFFIX]
        out[layer.mean] = mean
        out[layer.var] = np.maximum(moments[layer.name + MEAN_SQUARE_SUFFIX] - mean * mean, 0)
    return out


def blend(a: Tensors, b: Tensors, alpha: float, layers: Sequence[NormLayer]) -> dict[str, FloatArray]:
    """The statistics of a mixture of ``1 - alpha`` parts of ``a`` and ``alpha`` parts of ``b``, by moments."""
    keep, take = np.float32(1 - alpha), np.float32(alpha)
    out: dict[str, FloatArray] = {}
    for layer in batch_norm_layers(layers):
        mean = keep * a[layer.mean] + take * b[layer.mean]
        square = keep * (a[layer.var] + a[layer.mean] ** 2) + take * (b[layer.var] + b[layer.mean] ** 2)
        out[layer.mean], out[layer.var] = mean, np.maximum(square - mean * mean, 0)
    return out


NEIGHBOURS = 16
"""Over how many pairs of neighbouring batches the usual distance is taken; with fewer the bundle's alone counts."""
FAR_NEIGHBOURS = 4
"""So many of those may be far apart before that is usual: shifts, of worlds that last 128 frames or more."""

Measure = Callable[[Tensors, float], Tensors]
"""Statistics to normalise with and the batch's own weight among them (alpha), to the batch's moments."""
Look = Callable[[FloatArray, bool], bool]
"""Told the fingerprint of the world as it is now, and whether this is another world than before; says whether other
affine values serve now."""
Kept = tuple[Measure, int]
"""How frames are measured that are kept of the world so far, and how many they are."""


@dataclass
class StatisticsEstimate:
    """The device's running estimate of every BatchNorm layer's mean and variance."""

    layers: Sequence[NormLayer]
    source: Tensors
    drift_threshold: float
    config: StatisticsConfig = field(default_factory=StatisticsConfig)
    nearness: Nearness | None = None
    """How far the world is from the source's; None: what serves is all the device's own."""
    resets: int = 0

    def __post_init__(self) -> None:
        names = [name for layer in batch_norm_layers(self.layers) for name in (layer.mean, layer.var)]
        self.values: dict[str, FloatArray] = {name: self.source[name] for name in names}
        """The device's own, blended with the source's by how many frames there were."""
        self.weight_frames = self.config.source_frames
        self._last_seen: FloatArray | None = None
        self._apart: deque[float] = deque(maxlen=NEIGHBOURS)
        self._unsettled = self._mixes = False
        self.afresh = False
        """The batch at hand is the first of another world."""
        self._layer = fingerprint_layer(self.layers)
        self._fingerprint: FloatArray | None = None
        self._fingerprint_frames = 0.0

    @property
    def fingerprint(self) -> FloatArray | None:
        """Of the frames since the last drift alone, without the source's share; None before the first batch."""
        return self._fingerprint

    def served(self, *, mixed: bool) -> dict[str, FloatArray]:
        """What serves: `values`, or a mixture of the source's and them by the distance of the world."""
        return self._mixed(self.values, self._share()) if mixed else self.values

    @property
    def near(self) -> bool:
        """Whether the source's network is at home in the world of late."""
        return self.nearness is not None and self.nearness.near

    def update(
        self,
        measure: Measure,
        num_frames: int,
        *,
        seen: FloatArray | None = None,
        look: Look | None = None,
        deep: tuple[FloatArray, NDArray[np.int64]] | None = None,
        few: bool = False,
        mixed: Callable[[], bool] = lambda: False,
        kept: Callable[[], Kept | None] = lambda: None,
    ) -> bool:
        """Measure a batch of the newest frames and blend it in; start afresh from the source if the world changed.

        A batch's fingerprint is held against that of the batch before it, not against the running one: right after a
        shift that one still holds a share of the old world, and would call every new batch another shift.

        The batch in which a world changes may hold frames of both. The estimate starts afresh with it; what the new
        world is, is said with the first later batch that is like the one before it.

        Args:
            measure: Called once.
            num_frames: In the batch.
            seen: The batch's fingerprint; None for a device that does not look for drift.
            look: Called with the world's fingerprint before the batch is measured, but not with the one batch in which
                drift was found. Where other values serve from then on, the batch is measured with those, and the
                estimate is renewed.
            deep: The batch's fingerprint at the last BatchNorm and what the source's network answers for each of its
                frames; None where it was not looked how far it is.
            few: The batch is of few classes.
            mixed: Asked after that: whether what serves is the mixture.
            kept: Asked where the estimate is renewed: older frames of this world, to begin with.
        Returns:
            True when drift was found.
        Raises:
            ValueError: a moment or the fingerprint is not finite; the batch was not taken into the estimate.
        """
        if seen is not None and not np.isfinite(seen).all():
            raise ValueError(f"the fingerprint of the last {num_frames} frames is not finite; the batch is not used")
        apart = self._from_last(seen)
        drifted, second = self._is_drift(apart), self._unsettled
        if seen is not None:
            self._take(seen, num_frames, afresh=drifted)
        other = False
        if not drifted and look is not None and self._fingerprint is not None:
            settled, self._unsettled = self._unsettled, False
            other = look(self._fingerprint, settled)
        over = False
        if self.nearness is not None and deep is not None:
            # The batch in which the world changed may hold frames of both.
            over = self.nearness.take(*deep, afresh=drifted or second, few=few)
        self.afresh = drifted or over
        if not self.afresh and (other or self._mixes != mixed()):
            self.renew(kept(), mixed=mixed())
        self._mixes = mixed()
        before = self._at_source() if self.afresh else (self.values, self.weight_frames)
        self.values, self.weight_frames = self._blended(*before, measure, num_frames)
        if seen is not None and self._last_seen is not None:
            self._apart.append(apart)
        self._last_seen, self._unsettled = seen, drifted
        self.resets += drifted
        return drifted

    def measured_for(self, *, mixed: bool) -> bool:
        """Whether the estimate was measured under what serves now."""
        return self._mixes == mixed

    def renew(self, kept: Kept | None, *, mixed: bool) -> None:
        """Measure anew what is kept of this world, under another rule or other affine values than so far.

        Deep layers were measured under what served before them, so the old estimate does not do.

        Raises:
            ValueError: a moment is not finite.
        """
        self._mixes = mixed
        own = self._at_source()
        self.values, self.weight_frames = own if kept is None else self._blended(*own, *kept)

    def _blended(
        self, own: dict[str, FloatArray], weight: float, measure: Measure, num_frames: int
    ) -> tuple[dict[str, FloatArray], float]:
        """An estimate and its weight, with so many frames more.

        A layer is measured under what will serve in the layers before it: the source's, the estimate's and the batch.
        """
        alpha, share = num_frames / (num_frames + weight), self._share() if self._mixes else 1.0
        rest = 1 - share * alpha
        others = self._mixed(own, share * (1 - alpha) / rest)
        batch = from_moments(_finite(measure(others, 1 - rest), num_frames), self.layers)
        return blend(own, batch, alpha, self.layers), min(weight + num_frames, self.config.max_frames)

    def _at_source(self) -> tuple[dict[str, FloatArray], float]:
        """The values and the weight of an estimate that starts afresh."""
        return {name: self.source[name] for name in self.values}, self.config.source_frames

    def _share(self) -> float:
        """Of the estimate in what serves; all of it for a device that does not look how far it is."""
        return 1.0 if self.nearness is None else self.nearness.own_share

    def _mixed(self, own: dict[str, FloatArray], share: float) -> dict[str, FloatArray]:
        return own if share == 1 else blend(self.source, own, share, self.layers)

    def changing(self, seen: FloatArray | None) -> bool:
        """Whether `update` will find drift in a batch with this fingerprint, or has found it in the batch before.

        Until it has said what the new world is, frames are answered by what was meant for the old one.
        """
        return self._unsettled or self._is_drift(self._from_last(seen))

    def _from_last(self, seen: FloatArray | None) -> float:
        """How far a batch is from the one before; 0 without one."""
        if seen is None or self._last_seen is None:
            return 0.0
        assert self._layer is not None
        return fingerprint_distance(seen, self._last_seen, eps=self._layer.eps)

    def _is_drift(self, apart: float) -> bool:
        usual = self.drift_threshold
        if len(self._apart) == NEIGHBOURS:
            usual = max(usual, sorted(self._apart)[NEIGHBOURS - FAR_NEIGHBOURS - 1])
        return apart > self.config.drift_factor * usual

    def _take(self, seen: FloatArray, num_frames: int, *, afresh: bool) -> None:
        """Take a batch's fingerprint into the world's."""
        if self._fingerprint is None or afresh:
            self._fingerprint, self._fingerprint_frames = seen, float(num_frames)
            return
        share = np.float32(num_frames / (num_frames + self._fingerprint_frames))
        self._fingerprint = mix_fingerprints(self._fingerprint, seen, share)
        self._fingerprint_frames = min(self._fingerprint_frames + num_frames, self.config.max_frames)


def _finite(moments: Tensors, num_frames: int) -> Tensors:
    for name, value in moments.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} of the last {num_frames} frames is not finite; the batch is not used")
    return moments
