"""Whose samples a job takes: nobody waits behind a flood, nothing is taken twice, and the newest teach."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from cloud_peer import SMALL
from hypothesis import given
from hypothesis import strategies as st

from littoral.cloud.shares import Take, Waiting, by_turns, newest_by_turns, oldest_by_turns, plan

DEVICES = st.lists(st.sampled_from("abcd"), max_size=60)


def waits(domain: int, num_samples: int, oldest: int, last_job: int = 0) -> Waiting:
    return Waiting(domain=domain, num_samples=num_samples, oldest=oldest, last_job=last_job)


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([waits(0, 3, 1)], None, id="too-few"),
        pytest.param([waits(0, 4, 1)], Take(domain=0, num_samples=4), id="just-enough"),
        pytest.param([waits(1, 3, 1), waits(2, 3, 4)], None, id="a-batch-is-of-one-domain"),
        pytest.param([waits(1, 3, 1), waits(2, 4, 4)], Take(domain=2, num_samples=4), id="whoever-has-a-batch"),
        pytest.param([waits(1, 9, 5), waits(2, 4, 2)], Take(domain=2, num_samples=4), id="the-oldest-first"),
        pytest.param([waits(1, 900, 1, 8), waits(2, 4, 700, 7)], Take(domain=2, num_samples=4), id="a-flood-waits"),
        pytest.param([waits(1, 7, 5)], Take(domain=1, num_samples=4), id="whole-batches-only"),
    ],
)
def test_a_job_is_of_the_domain_that_has_waited_longest(waiting: list[Waiting], expected: Take | None) -> None:
    assert plan(waiting, SMALL) == expected


def test_a_cloud_that_is_behind_takes_whole_batches_at_once_up_to_a_bound() -> None:
    behind = [waits(0, 14, 1)]
    assert plan(behind, replace(SMALL, max_batches_per_job=2)) == Take(domain=0, num_samples=8)
    assert plan(behind, replace(SMALL, max_batches_per_job=9)) == Take(domain=0, num_samples=12)


def test_devices_take_turns() -> None:
    assert by_turns(list("aaabac")) == [0, 3, 5, 1, 2, 4]
    assert oldest_by_turns(list(zip(range(10, 16), "aaabac", strict=True)), 4) == (10, 11, 13, 15)
    assert newest_by_turns(list("aaabac"), 4) == [2, 3, 4, 5]
    assert newest_by_turns(list("abbbbb"), 4) == [0, 3, 4, 5]


@given(DEVICES, st.integers(1, 30))
def test_no_device_has_two_more_than_one_that_still_had_some(devices: list[str], count: int) -> None:
    taken = oldest_by_turns(list(enumerate(devices)), count)
    assert len(taken) == min(count, len(devices))
    assert sorted(set(taken)) == list(taken)
    got, had = Counter(devices[i] for i in taken), Counter(devices)
    for device in had:
        for other in had:
            if got[other] > got[device] + 1:
                assert got[device] == had[device], f"{device} was passed over for {other}"
    for device in had:
        own = [i for i in taken if devices[i] == device]
        assert own == [i for i, d in enumerate(devices) if d == device][: len(own)], "the oldest of each device"
    newest = newest_by_turns(devices, count)
    assert Counter(devices[i] for i in newest).total() == len(taken)
    for device in had:
        own = [i for i in newest if devices[i] == device]
        everything = [i for i, d in enumerate(devices) if d == device]
        assert own == everything[len(everything) - len(own) :], "the newest of each device"


@given(DEVICES.filter(bool), st.integers(1, 8))
def test_in_jobs_one_after_another_every_sample_is_taken_once(devices: list[str], count: int) -> None:
    waiting, taken = list(enumerate(devices)), list[int]()
    while waiting:
        job = oldest_by_turns(waiting, count)
        assert waiting[0][0] in job, "what has waited longest never waits on"
        taken += job
        waiting = [entry for entry in waiting if entry[0] not in job]
    assert sorted(taken) == list(range(len(devices)))


def test_a_flood_does_not_hold_a_quiet_device_up() -> None:
    """Negative control: in commit order alone the flood's samples would be all that the first jobs take."""
    waiting = [(n, "flood") for n in range(1000)] + [(n, "quiet") for n in range(1000, 1010)]
    job = oldest_by_turns(waiting, 32)
    assert sum(n >= 1000 for n in job) == 10
    assert sum(n >= 1000 for n, _ in waiting[:32]) == 0
