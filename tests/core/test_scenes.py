"""Scenes open when the world changes and not otherwise; what is recalled is near, newest, and was never bad."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray
from littoral.core.recall import encode_fingerprint, fingerprint_distance, mix_fingerprints
from littoral.core.scenes import (
    SOURCE,
    Memory,
    RecallConfig,
    Remembered,
    SceneTracker,
    find,
    forget,
    remember,
    trust,
    trusted_of,
)

LAYER = NormLayer(name="a", kind="batch", num_channels=4, eps=1e-5)
THRESHOLD = 0.05


def world(number: float) -> FloatArray:
    """A fingerprint: means of ``number``, variances of 1. Two are ``(a - b) ** 2 / threshold`` thresholds apart."""
    return np.concatenate([np.full(4, number), np.ones(4)]).astype(np.float32)


def version(number: int, domain: int, *, at: float | None = None, trusted: bool = False) -> Remembered:
    centre = encode_fingerprint(world(domain if at is None else at)).hex()
    return Remembered(version=number, domain=domain, fingerprint=centre, trusted=trusted)


def tracker(**config: float | str) -> SceneTracker:
    return SceneTracker(layer=LAYER, drift_threshold=THRESHOLD, config=RecallConfig(**config))  # type: ignore[arg-type]


def numbers(memory: Memory) -> list[int]:
    return [entry.version for entry in memory]


# When a scene opens.


def test_the_first_fingerprint_opens_scene_1_and_the_same_world_no_other() -> None:
    scenes = tracker()
    assert scenes.scene == 0
    assert scenes.moved(world(0), drifted=False)
    assert scenes.open(world(0)) == 1
    assert not scenes.moved(world(0.1), drifted=False)


def test_a_drift_opens_a_scene_however_near() -> None:
    scenes = tracker()
    scenes.open(world(0))
    assert scenes.moved(world(0), drifted=True)


def test_a_slow_drift_opens_a_scene_once_it_has_gone_far_enough() -> None:
    """No step is further than 0.1, a fifth of a threshold; the radius of 6 thresholds is at 0.55."""
    scenes = tracker(scene_factor=6.0)
    opened_at = []
    for step in range(12):
        if scenes.moved(world(step * 0.1), drifted=False):
            scenes.open(world(step * 0.1))
            opened_at.append(step)
    assert opened_at == [0, 6]
    never = tracker(scene_factor=1e9)
    never.open(world(0))
    assert not any(never.moved(world(step * 0.1), drifted=False) for step in range(12)), "the control"


def test_numbers_go_on_after_what_an_earlier_run_used() -> None:
    scenes = tracker()
    assert [scenes.open(world(0), after=7), scenes.open(world(1), after=7), scenes.open(world(2))] == [8, 9, 10]


@pytest.mark.parametrize(
    "wrong",
    [{"scene_factor": 0.0}, {"recall_factor": 0.0}, {"recall_factor": 7.0}, {"unknown_domain": "nearest"}],
    ids=str,
)
def test_a_configuration_without_sense_is_refused(wrong: dict[str, float | str]) -> None:
    with pytest.raises(ValueError, match="got"):
        RecallConfig(**wrong)  # type: ignore[arg-type]


def test_a_mixture_of_fingerprints_is_that_of_both_together() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (300, 4)), rng.normal(2, 3, (100, 4))
    one, other, both = (np.concatenate([a.mean(0), a.var(0)]).astype(np.float32) for a in (x, y, np.vstack([x, y])))
    np.testing.assert_allclose(mix_fingerprints(one, other, np.float32(0.25)), both, rtol=1e-4, atol=1e-4)


# What is remembered.


def test_of_a_domain_the_newest_stays_and_the_least_recently_used_domain_gives_way() -> None:
    memory: Memory = ()
    for number, domain in [(1, 1), (2, 2), (3, 1), (4, 3), (5, 4)]:
        memory = remember(memory, version(number, domain), capacity=3)
    assert numbers(memory) == [3, 4, 5]
    memory = remember(memory, version(3, 1), capacity=3)  # used again
    assert numbers(remember(memory, version(6, 5), capacity=3)) == [5, 3, 6]


def test_a_trusted_version_stays_until_a_newer_one_of_its_domain_is_trusted() -> None:
    memory = remember((), version(1, 1, trusted=True), capacity=8)
    memory = remember(memory, version(2, 1), capacity=8)
    memory = remember(memory, version(3, 1), capacity=8)
    assert numbers(memory) == [1, 3]
    assert trusted_of(memory, 1, but=3) == version(1, 1, trusted=True)
    assert trusted_of(memory, 1, but=1) is None
    memory = trust(memory, 3, 0.25, capacity=8)
    assert memory == (replace(version(3, 1), trusted=True, entropy_nats=0.25),)


def test_what_serves_never_gives_way() -> None:
    memory = remember((), version(1, 1), capacity=1)
    assert numbers(remember(memory, version(2, 2), capacity=1, serving={1})) == [1, 2]
    assert numbers(remember(memory, version(2, 1), capacity=8, serving={1})) == [1, 2]


def test_a_version_of_no_domain_is_not_remembered_and_a_capacity_of_0_is_off() -> None:
    nowhere = Remembered(version=1, domain=0, fingerprint="")
    assert remember((), nowhere, capacity=8) == ()
    assert remember((), version(1, 1), capacity=0) == ()


# What is recalled.


def choose(memory: Memory, here: float, serving: int, **config: float | str) -> int | None:
    scenes = tracker(**config)
    scenes.open(world(here))
    return scenes.choose(memory, serving)


DAY, NIGHT = version(1, 1, trusted=True), version(2, 5, trusted=True)


@pytest.mark.parametrize(
    ("here", "serving", "expected"),
    [(1, 1, None), (5, 1, 2), (5.2, 1, 2), (1, 2, 1), (5, 0, 2), (3, 1, None), (3, 0, None)],
    ids=["day", "night-comes", "nearly", "day-comes", "from-source", "new-world", "new-world-from-source"],
)
def test_the_nearest_remembered_version_within_the_radius_is_recalled(
    here: float, serving: int, expected: int | None
) -> None:
    assert choose((DAY, NIGHT), here, serving) == expected


def test_a_world_that_is_not_known_keeps_what_serves_or_brings_the_source_back() -> None:
    assert choose((DAY, NIGHT), 3, 1, unknown_domain="keep") is None
    assert choose((DAY, NIGHT), 3, 1, unknown_domain="source") == SOURCE
    assert choose((DAY, NIGHT), 3, SOURCE, unknown_domain="source") is None
    assert choose((DAY, NIGHT), 1.35, 1, unknown_domain="source") is None, "beyond recall, but it fits"
    assert choose((DAY, NIGHT), 3, 9, unknown_domain="source") is None, "a version of no domain fits everywhere"


def test_the_newest_of_a_domain_is_recalled_and_never_one_older_than_what_serves() -> None:
    newer = version(7, 5)
    assert choose((DAY, NIGHT, newer), 5, 1) == 7
    assert choose((DAY, NIGHT, newer), 5, 2) == 7
    assert choose((DAY, NIGHT, newer), 5, 7) is None


def test_a_version_for_another_world_does_not_fit_and_one_of_no_domain_fits_everywhere() -> None:
    scenes = tracker()
    assert scenes.fits(NIGHT), "before the first scene nothing is known of the world"
    scenes.open(world(1))
    assert scenes.fits(DAY)
    assert not scenes.fits(NIGHT)
    assert scenes.fits(Remembered(version=3, domain=0, fingerprint=""))


# Random lives.

Event = tuple[Literal["look", "drift", "push", "trust", "revert"], int]
EVENTS = st.lists(
    st.tuples(st.sampled_from(["look", "drift", "push", "trust", "revert"]), st.integers(1, 6)), max_size=40
)


@given(EVENTS, st.integers(1, 4), st.sampled_from(["keep", "source"]))
@settings(max_examples=600, deadline=None)
def test_in_any_life_numbers_grow_memory_is_bounded_and_what_was_bad_is_never_recalled(
    events: list[Event], capacity: int, unknown: str
) -> None:
    scenes, memory = tracker(unknown_domain=unknown), ()
    serving, highest, here, opened = SOURCE, 0, 0, []
    bad: set[int] = set()
    for what, domain in events:
        if what in ("look", "drift"):
            before, here = here, domain
            moved = scenes.moved(world(here), drifted=what == "drift")
            assert moved == (what == "drift" or not opened or here != before)
            if not moved:
                continue
            opened.append(scenes.open(world(here)))
            choice = scenes.choose(memory, serving)
            in_memory = {entry.domain for entry in memory}
            if here in in_memory:
                newest = max(entry.version for entry in memory if entry.domain == here)
                assert choice == (None if newest == serving else newest)
            else:
                assert choice == (SOURCE if unknown == "source" and find(memory, serving) else None)
            serving = serving if choice is None else choice
            assert serving not in bad
            if entry := find(memory, serving):
                memory = remember(memory, entry, capacity=capacity, serving={serving})
        elif what == "push":
            highest += 1
            entry = version(highest, domain)
            memory = remember(memory, entry, capacity=capacity, serving={serving})
            serving = highest if scenes.fits(entry) else serving
        elif what == "trust":
            memory = trust(memory, serving, 0.1, capacity=capacity)
        elif serving != SOURCE:
            bad.add(serving)
            memory, serving = forget(memory, serving), SOURCE
        assert len(memory) <= max(capacity, 2)
        assert len(set(numbers(memory))) == len(memory)
        assert not bad & set(numbers(memory))
    assert opened == list(range(1, len(opened) + 1))


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=60), st.floats(0.5, 20))
@settings(max_examples=300, deadline=None)
def test_without_drift_two_scenes_that_follow_each_other_are_further_apart_than_the_factor(
    path: list[float], factor: float
) -> None:
    scenes, references = tracker(scene_factor=factor), []
    for x in path:
        if scenes.moved(world(x), drifted=False):
            scenes.open(world(x))
            references.append(world(x))
    for a, b in pairwise(references):
        assert fingerprint_distance(a, b, eps=LAYER.eps) > factor * THRESHOLD
