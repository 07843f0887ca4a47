"""Who judges a version, and who is blamed for one that harms: pure decisions over devices and counts.

Every device that a domain has learned from is a *witness*: frames of its own say what a version would cost it. Nobody
labels frames, so two devices that contradict each other cannot be told apart by what they say. What can be seen is that
they pull apart: the version is better for a witness once the other's frames are left out. So whoever is blamed often
is put apart, not judged: it goes on with chains of versions of its own (`littoral.cloud.quarantine`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class WitnessConfig:
    """How devices of a domain vouch for its versions."""

    most: int = 3
    """Witnesses of a version; each costs some passes of both networks."""
    frames: int = 64
    """Of a witness, at most."""
    min_frames: int = 32
    """A device with fewer frames in replay is no witness."""
    suspects: int = 2
    """So many devices are left out in turn, when a version harms a witness; each costs a job."""
    blames: int = 3
    """Within ``blame_window`` versions: a device that is blamed so often is quarantined; 0: none ever is."""
    blame_window: int = 24
    """The cohort's newest versions that blames are counted in."""

    def __post_init__(self) -> None:
        if min(self.most, self.suspects, self.blames) < 0 or not 2 <= self.min_frames <= self.frames:
            raise ValueError(
                "most, suspects and blames are not negative and 2 <= min_frames <= frames must hold, got "
                f"{self.most}, {self.suspects}, {self.blames}, {self.min_frames} and {self.frames}"
            )


def choose_witnesses(
    kept: Mapping[str, int], present: Collection[str], rng: np.random.Generator, config: WitnessConfig
) -> list[str]:
    """Devices that judge a version: those whose samples are in the job first, who are in the world now.

    Args:
        kept: Per device its frames of the domain in replay.
        present: The devices of the job.
    """
    able = sorted(device for device, count in kept.items() if count >= config.min_frames)
    drawn = [able[index] for index in rng.permutation(len(able))]
    return sorted(drawn, key=lambda device: device not in present)[: config.most]


def outvoted(harmed: Collection[str], witnesses: Collection[str]) -> bool:
    """Whether at least twice as many witnesses are content: one of two or two of three hold a version."""
    return 0 < len(harmed) * 3 <= len(witnesses)


def suspects_of(new: Sequence[str], kept: Mapping[str, int], *, num_replayed: int, config: WitnessConfig) -> list[str]:
    """Whose frames to leave out in turn: of whom most are in the job.

    That a device is harmed itself does not speak for it: what it keeps in replay can be made to suffer as well.

    Args:
        new: The devices of the job's new frames.
        kept: Per device its frames of the domain in replay, of which ``num_replayed`` were drawn.
    """
    weight = Counter[str](new)
    total = max(sum(kept.values()), 1)
    shares = {d: weight[d] + num_replayed * kept.get(d, 0) / total for d in {*new, *kept}}
    return sorted(shares, key=lambda d: (-shares[d], d))[: config.suspects]


def too_often(blamed: Iterable[Collection[str]], device: str, config: WitnessConfig) -> bool:
    """Whether a device is to be quarantined, by whom the newest versions blame, the newest last."""
    newest = list(blamed)[-config.blame_window :]
    return config.blames > 0 and sum(device in names for names in newest) >= config.blames
