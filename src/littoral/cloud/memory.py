"""The replay memory of a cohort, and the images that nobody needs any more.

Which samples are kept follows from the record alone: who they are from, of which domain, and what the device answered.
So after a restart the same samples are found without a look at an image, and only those that are kept are decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, KeysView, Sequence
from typing import NamedTuple

import numpy as np

from littoral.bundle import InputSpec
from littoral.bundle.images import decode_image
from littoral.cloud.jobs import AdaptConfig
from littoral.cloud.ledger import Ledger, NewVersion, StoredSample, VersionEntry
from littoral.cloud.verdicts import LEFT_OUT, QUARANTINED, learned_from_its_job, named
from littoral.core.arrays import Frame
from littoral.core.replay import ReplayBuffer
from littoral.errors import FrameError

_AT_ONCE = 500
"""Images that are read at once."""

log = logging.getLogger(__name__)


class Taken(NamedTuple):
    """A sample that a job took, without its image: what decides whether it is kept."""

    id: int
    device_id: str
    predicted: int


class ReplayMemory:
    """Frames of samples that shipped versions learned from, as many as ``config.replay_capacity``.

    Args:
        frame_shape: ``(H, W, C)``.
    """

    def __init__(self, config: AdaptConfig, frame_shape: tuple[int, int, int]) -> None:
        self.buffer: ReplayBuffer[int] = ReplayBuffer(capacity=config.replay_capacity, seed=config.seed)
        """Ids of samples."""
        self.frame_shape = frame_shape
        self._frames: dict[int, Frame] = {}
        self._digests: dict[int, bytes] = {}

    @property
    def ids(self) -> KeysView[int]:
        """The samples that are kept and can be drawn."""
        return self._frames.keys()

    def digests(self) -> set[bytes]:
        """The SHA-256 of each image that is kept."""
        return set(self._digests.values())

    def sample(
        self, count: int, rng: np.random.Generator, *, domain: int | None = None, without: Collection[str] = ()
    ) -> Frame:
        """Frames ``(count, H, W, C)`` as `ReplayBuffer.sample` draws them."""
        chosen = self.buffer.sample(count, rng, domain=domain, without=without)
        return np.stack([self._frames[i] for i in chosen]) if chosen else np.empty((0, *self.frame_shape), np.uint8)

    def remember(self, samples: Sequence[StoredSample], frames: Frame, domain: int, new: NewVersion) -> list[bytes]:
        """Take up what a job that is done learned from; the SHA-256 of images that replay does not need from now on.

        Args:
            samples: Those of the job that could be decoded, in commit order.
            frames: Theirs, uint8 ``(N, H, W, C)``; what is kept of them is copied.
        """
        self._frames |= {sample.id: frame.copy() for sample, frame in zip(samples, frames, strict=True)}
        self._digests |= {sample.id: sample.sha256 for sample in samples}
        gone = self._take_up(samples, domain, new)
        for sample in gone:
            self._frames.pop(sample, None)
        return [digest for sample in gone if (digest := self._digests.pop(sample, None)) is not None]

    def load(self, ledger: Ledger, spec: InputSpec) -> None:
        """Become what the memory was when the record's last job was done. An image that cannot be decoded any more
        leaves a gap that nothing is drawn from."""
        for entry in ledger.history():
            if entry.job is not None:
                self._take_up(_taken(ledger, entry.job), entry.domain, entry)
        ids = sorted(self.buffer.items())
        for start in range(0, len(ids), _AT_ONCE):
            for sample in ledger.samples_of(ids[start : start + _AT_ONCE]):
                if (frame := decoded(sample, spec)) is not None:
                    self._frames[sample.id], self._digests[sample.id] = frame, sample.sha256
        self.buffer.miss(set(ids) - self._frames.keys())

    def _take_up(
        self, samples: Sequence[Taken | StoredSample], domain: int, version: NewVersion | VersionEntry
    ) -> list[int]:
        """Offer what a version learned from; a device that it quarantined is forgotten, for good or not.

        Called for each job in order, when it is done or when the record is read again, with the same effect.
        """
        left_out, learned = named(version, LEFT_OUT), learned_from_its_job(version)
        gone = []
        for sample in samples:
            if learned and sample.device_id not in left_out:
                gone += self.buffer.add(sample.id, device=sample.device_id, label=sample.predicted, domain=domain)
            else:
                gone.append(sample.id)
        for device_id in named(version, QUARANTINED):
            gone += self.buffer.forget(device_id)
        return gone


def _taken(ledger: Ledger, job: int) -> list[Taken]:
    """What a job that is done learned from or could have, in commit order."""
    rows = ledger.store.read(
        "SELECT id, device_id, predicted FROM samples WHERE job = ? AND cohort = ? AND withdrawn = 0 ORDER BY id",
        job,
        ledger.cohort,
    )
    return [Taken(*row) for row in rows]


def decode_all(samples: Sequence[StoredSample], spec: InputSpec) -> tuple[list[StoredSample], Frame]:
    """Those samples that can be decoded, and their frames ``(N, H, W, C)``."""
    found = [(sample, frame) for sample in samples if (frame := decoded(sample, spec)) is not None]
    frames = np.stack([frame for _, frame in found]) if found else np.empty((0, *spec.shape), np.uint8)
    return [sample for sample, _ in found], frames


def decoded(sample: StoredSample, spec: InputSpec) -> Frame | None:
    """A sample's frame; None, and a line in the log, where its image is damaged.

    All could be decoded when they were recorded; a damaged disk or a stricter decoder may refuse one later, and it must
    not stop those that come after it.
    """
    try:
        return decode_image(sample.coding, sample.image, spec)
    except FrameError as error:
        log.error("sample %d is passed over: %s", sample.id, error)
        return None
