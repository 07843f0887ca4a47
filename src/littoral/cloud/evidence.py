"""What a job and its witnesses are made of: the samples of a claim, and the replay memory of the record.

All of it is a function of the record: nothing is drawn but by the seed and the number of the version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from littoral.cloud.jobs import AdaptConfig, AdaptJob
from littoral.cloud.ledger import Claim, StoredSample
from littoral.cloud.memory import ReplayMemory
from littoral.cloud.witnesses import WitnessConfig, choose_witnesses
from littoral.core.arrays import Frame

MIN_FRAMES = 2
"""New frames that a job needs: a batch of one has no variance."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a job is made of; ``newest`` are the positions of the samples that it learns from."""

    claim: Claim
    stored: Sequence[StoredSample]
    frames: Frame
    newest: Sequence[int]
    replay: ReplayMemory

    @property
    def devices(self) -> list[str]:
        """Whose the new samples are, one by one."""
        return [self.stored[i].device_id for i in self.newest]


def replay_count(buffered: int, num_new: int, config: AdaptConfig) -> int:
    """How many replayed frames go with ``num_new`` new ones when ``buffered`` are kept."""
    return min(buffered, config.replay_ratio * num_new) if buffered >= config.replay_after else 0


def job_seeds(seed: int, head_version: int) -> tuple[np.random.Generator, int]:
    """The generator that draws replay for a job, and the seed that the job itself gets."""
    draw, job = np.random.SeedSequence([seed, head_version]).spawn(2)
    return np.random.default_rng(draw), int(job.generate_state(1)[0])


def make_job(
    evidence: Evidence, config: AdaptConfig, *, state: bytes, own_replay: bool, without: str | None = None
) -> AdaptJob | None:
    """The job on the newest of a claim's samples; None if too few are left.

    Args:
        state: Of the version that it starts from.
        own_replay: Replayed frames are of the job's domain, else of all.
        without: A device whose frames are passed over, new and replayed.
    """
    claim, replay = evidence.claim, evidence.replay
    newest = [i for i in evidence.newest if evidence.stored[i].device_id != without]
    if len(newest) < MIN_FRAMES:
        return None
    domain, left_out = claim.domain if own_replay else None, () if without is None else (without,)
    rng, seed = job_seeds(config.seed, claim.head_version)
    count = replay_count(replay.buffer.kept(domain=domain, without=left_out), len(newest), config)
    return AdaptJob(
        base_version=claim.base_version,
        state=state,
        new_frames=evidence.frames[newest],
        replay_frames=replay.sample(count, rng, domain=domain, without=left_out),
        seed=seed,
    )


def call_witnesses(evidence: Evidence, config: WitnessConfig, *, seed: int) -> dict[str, Frame]:
    """Frames of each device that judges the version; of none where one device alone is in the domain."""
    claim, replay, present = evidence.claim, evidence.replay, set(evidence.devices)
    kept = replay.buffer.by_device(domain=claim.domain)
    if len(present | kept.keys()) < 2:
        return {}
    rng = np.random.default_rng([seed, claim.head_version, 1])
    return {
        device: replay.sample(
            min(config.frames, kept[device]), rng, domain=claim.domain, without=kept.keys() - {device}
        )
        for device in choose_witnesses(kept, present, rng, config)
    }
