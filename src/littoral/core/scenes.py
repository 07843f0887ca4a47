"""Scenes: when does a device's world change, and which of the versions that it remembers fits the new one?

The device measures a fingerprint (`littoral.core.recall`) with every batch of statistics. The first one opens scene 1;
a later one opens the next scene when the statistics drifted, or when the fingerprint has crept away from the one with
which the scene was opened. Then the nearest remembered version within a radius is recalled.

All distances are multiples of the bundle's ``drift_threshold``: what two batches of one world differ by.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray
from littoral.core.recall import NO_DOMAIN, decode_fingerprint, fingerprint_distance

SOURCE = 0
"""The version number of the bundle's own values."""


@dataclass(frozen=True, kw_only=True)
class RecallConfig:
    """When a scene is opened and what is put into service then. Factors are of the bundle's ``drift_threshold``."""

    scene_factor: float = 2.5
    """A scene is opened without an alarm when the fingerprint is further than this from where the scene began."""
    recall_factor: float = 2.5
    """A remembered version is recalled when its domain's fingerprint is nearer than this: as near as makes a scene of
    the domain in the cloud, so that no scene is of a domain whose version the device has and does not recall."""
    fit_factor: float = 3.0
    """A version from the cloud is put into service when its domain's fingerprint is nearer than this to the scene's;
    larger than ``recall_factor``, because a domain's centre moves as other devices add scenes to it."""
    unknown_domain: Literal["keep", "source"] = "keep"
    """What serves in a world for which nothing is remembered: what served before, or the source's affine values."""

    def __post_init__(self) -> None:
        if not (self.scene_factor > 0 and 0 < self.recall_factor <= self.fit_factor):
            raise ValueError(
                "scene_factor > 0 and 0 < recall_factor <= fit_factor must hold, got "
                f"{self.scene_factor}, {self.recall_factor} and {self.fit_factor}"
            )
        if self.unknown_domain not in ("keep", "source"):
            raise ValueError(f"unknown_domain is 'keep' or 'source', got {self.unknown_domain!r}")


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """A version that was verified and probed on this device, and what world it is for.

    Attributes:
        domain, fingerprint: As its signed manifest says; the fingerprint in hexadecimal.
        trusted: It got through its watch here.
        entropy_nats: The mean entropy over that watch; None before.
    """

    version: int
    domain: int
    fingerprint: str
    trusted: bool = False
    entropy_nats: float | None = None

    def centre(self, layer: NormLayer) -> FloatArray:
        """The fingerprint as values.

        Raises:
            ValueError: not a fingerprint of this layer.
        """
        return decode_fingerprint(bytes.fromhex(self.fingerprint), layer)


Memory = tuple[Remembered, ...]
"""What is remembered, the least recently used first."""


def find(memory: Memory, version: int) -> Remembered | None:
    """The entry of a version."""
    return next((entry for entry in memory if entry.version == version), None)


def forget(memory: Memory, version: int) -> Memory:
    """Without a version."""
    return tuple(entry for entry in memory if entry.version != version)


def remember(memory: Memory, entry: Remembered, *, capacity: int, serving: Collection[int] = ()) -> Memory:
    """With an entry as the most recently used, and its domain's others before it.

    Of one domain the newest that is trusted stays, and the newest that is not if it is newer. Over the capacity the
    least recently used gives way. A version in ``serving`` always stays, and so does the entry itself.
    """
    if entry.domain == NO_DOMAIN or capacity < 1:
        return memory
    stays = {*serving, entry.version}
    others = [other for other in memory if other.version != entry.version]
    domain = [other for other in others if other.domain == entry.domain]
    domain = [other for other in domain if other.version in stays or not _superseded(other, [*domain, entry])]
    kept = [*(other for other in others if other.domain != entry.domain), *domain, entry]
    for other in list(kept):
        if len(kept) <= capacity:
            break
        if other.version not in stays:
            kept.remove(other)
    return tuple(kept)


def _superseded(entry: Remembered, domain: Sequence[Remembered]) -> bool:
    return any(other.version > entry.version and other.trusted >= entry.trusted for other in domain)


def trust(memory: Memory, version: int, entropy_nats: float | None, *, capacity: int) -> Memory:
    """With a version's watch passed; its domain's older ones are not needed any more."""
    entry = find(memory, version)
    if entry is None:
        return memory
    return remember(memory, replace(entry, trusted=True, entropy_nats=entropy_nats), capacity=capacity)


def trusted_of(memory: Memory, domain: int, *, but: int) -> Remembered | None:
    """The newest trusted version of a domain other than ``but``."""
    found = [entry for entry in memory if entry.domain == domain and entry.trusted and entry.version != but]
    return max(found, key=lambda entry: entry.version, default=None)


@dataclass
class SceneTracker:
    """The scene that a device is in, and what it decides by.

    Args:
        layer: That fingerprints are of.
        drift_threshold: The bundle's.
        scene: The number of the last scene of an earlier run; 0 when there was none.
    """

    layer: NormLayer
    drift_threshold: float
    config: RecallConfig = field(default_factory=RecallConfig)
    scene: int = 0
    reference: FloatArray | None = None
    """The fingerprint with which the scene was opened; None before the first of this run."""

    def distance(self, a: FloatArray, b: FloatArray) -> float:
        """In multiples of the drift threshold."""
        return fingerprint_distance(a, b, eps=self.layer.eps) / max(self.drift_threshold, 1e-12)

    def moved(self, values: FloatArray, *, drifted: bool) -> bool:
        """Whether this fingerprint opens a scene: the first, a drift, or a long way from where the scene began."""
        if drifted or self.reference is None:
            return True
        return self.distance(values, self.reference) > self.config.scene_factor

    def open(self, values: FloatArray, *, after: int = 0) -> int:
        """Open a scene with this fingerprint.

        Args:
            after: The number is larger than this too: what others remember of earlier runs.
        Returns:
            Its number, larger than any before.
        """
        self.scene = max(self.scene, after) + 1
        self.reference = values
        return self.scene

    def fits(self, entry: Remembered) -> bool:
        """Whether a version may serve in this scene; any may before the first scene, or if it is of no domain."""
        if entry.domain == NO_DOMAIN or self.reference is None:
            return True
        return self.distance(entry.centre(self.layer), self.reference) < self.config.fit_factor

    def choose(self, memory: Memory, serving: int) -> int | None:
        """The version to put into service in this scene, `SOURCE` for the source's values; None keeps what serves.

        The newest version of the nearest domain within the radius; of equally near ones the most recently used.
        """
        if self.reference is None:
            return None
        in_service = find(memory, serving)
        near = [(self.distance(entry.centre(self.layer), self.reference), entry) for entry in reversed(memory)]
        found = min(near, key=lambda pair: pair[0], default=None)
        if found is not None and found[0] < self.config.recall_factor:
            domain = found[1].domain
            newest = max(entry.version for entry in memory if entry.domain == domain)
            known = in_service is not None and in_service.domain == domain and serving >= newest
            return None if known or newest == serving else newest
        if self.config.unknown_domain == "keep" or in_service is None or self.fits(in_service):
            return None
        return SOURCE
