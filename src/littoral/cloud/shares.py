"""Whose samples a job takes: pure decisions, so that no device and no domain holds up the others.

Everything goes by turns. In each turn every device that still has something gives one sample; so whoever sends much
gets what the others leave, and nobody waits behind a flood.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from littoral.cloud.jobs import AdaptConfig


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What waits in a domain: how many samples that no job has taken, the id of the oldest, and of its last job."""

    domain: int
    num_samples: int
    oldest: int
    last_job: int = 0
    """0 where there was none."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """What the next job should be: ``num_samples`` samples of a domain."""

    domain: int
    num_samples: int


def plan(waiting: Sequence[Waiting], config: AdaptConfig) -> Take | None:
    """Of the domains with a whole batch, the one that was not worked for longest; None when none has.

    So a domain into which one device pours thousands of samples waits its turn like the others. Of domains that were
    never worked, the one whose oldest sample is the oldest.

    A cloud that has fallen behind takes up to ``max_batches_per_job`` whole batches at once. It learns from the newest;
    the others only enter replay, since the devices that sent them may be in another world by now.
    """
    ready = [domain for domain in waiting if domain.num_samples >= config.batch_size]
    if not ready:
        return None
    first = min(ready, key=lambda domain: (domain.last_job, domain.oldest))
    batches = min(first.num_samples // config.batch_size, config.max_batches_per_job)
    return Take(domain=first.domain, num_samples=batches * config.batch_size)


def by_turns(devices: Sequence[str]) -> list[int]:
    """The positions of a sequence by turns: the first of each device, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for device in devices:
        turns.append(seen[device])
        seen[device] += 1
    return sorted(range(len(devices)), key=lambda position: (turns[position], position))


def oldest_by_turns(samples: Sequence[tuple[int, str]], count: int) -> tuple[int, ...]:
    """Which waiting samples a job takes.

    Args:
        samples: (id, device) in commit order.
    Returns:
        At most ``count`` ids in commit order.
    """
    chosen = by_turns([device for _, device in samples])[:count]
    return tuple(samples[position][0] for position in sorted(chosen))


def newest_by_turns(devices: Sequence[str], count: int) -> list[int]:
    """Which of a job's samples it learns from.

    Args:
        devices: Of the job's samples in commit order.
    Returns:
        At most ``count`` positions in commit order, the newest of each device first to be chosen.
    """
    last = len(devices) - 1
    return sorted(last - position for position in by_turns(devices[::-1])[:count])
