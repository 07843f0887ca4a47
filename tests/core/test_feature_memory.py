"""The memory of features: bounded, balanced by class, fair within one, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.head_memory import FeatureMemory, HeldBack, draw, fit_feature_map

K = 3


def filled(labels: list[int], *, capacity: int, seed: int = 0) -> FeatureMemory:
    memory = FeatureMemory(capacity, 1, K, seed=seed)
    for i, label in enumerate(labels):
        memory.add(np.array([i], dtype=np.float32), np.eye(K)[label], 1.0, day=i // 10)
    return memory


@given(st.lists(st.integers(0, K - 1), max_size=80), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_it_keeps_what_came_up_to_its_capacity_and_nothing_twice(labels: list[int], capacity: int) -> None:
    memory = filled(labels, capacity=capacity)
    kept = memory.features[: len(memory), 0].astype(int).tolist()
    assert len(kept) == len(set(kept)) == min(len(labels), capacity)
    assert all(labels[i] == memory.labels[place] for place, i in enumerate(kept))
    assert memory.seen_K.tolist() == [labels.count(k) for k in range(K)]


def test_a_flood_of_one_class_leaves_the_others_their_places() -> None:
    memory = filled([0, 1, 2] * 5 + [0] * 500, capacity=15)
    assert np.bincount(memory.labels, minlength=K).tolist() == [5, 5, 5]
    first_in_first_out = ([0, 1, 2] * 5 + [0] * 500)[-15:]
    assert set(first_in_first_out) == {0}  # what a plain queue would hold


def test_within_a_class_every_frame_is_kept_with_equal_chance() -> None:
    counts = np.zeros(40)
    for seed in range(120):
        counts[filled([0] * 40, capacity=10, seed=seed).features[:, 0].astype(int)] += 1
    assert np.abs(counts / 120 - 0.25).max() < 0.15


def test_draws_are_even_and_another_seed_draws_otherwise() -> None:
    draws = [draw(3, number, 10) for number in range(2000)]
    assert np.abs(np.bincount(draws, minlength=10) - 200).max() < 60
    assert draws != [draw(4, number, 10) for number in range(2000)]


def test_the_frames_of_a_day_are_forgotten_and_the_others_stay() -> None:
    memory = filled([0, 1] * 15, capacity=30)
    memory.remove_days(1, 1)
    assert memory.features[: len(memory), 0].tolist() == [*range(10), *range(20, 30)]
    assert not memory.features[len(memory) :].any()


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_held_back_are_the_newest_and_a_day_can_be_taken_out(capacity: int, num_frames: int, gone: int) -> None:
    held = HeldBack(capacity, 1)
    for i in range(num_frames):
        held.add(np.array([i], dtype=np.float32), 0, labelled=False, day=i // 8)
    newest = list(range(num_frames))[-capacity:]
    assert sorted(held.features[: len(held), 0].tolist()) == newest
    held.remove_days(gone, gone)
    expected = [i for i in newest if i // 8 != gone]
    assert sorted(held.features[: len(held), 0].tolist()) == expected
    held.add(np.array([99], dtype=np.float32), 0, labelled=True, day=9)
    assert sorted(held.features[: len(held), 0].tolist()) == [*expected, 99][-capacity:]


def test_the_map_between_two_versions_is_found_and_a_feature_that_never_moves_is_only_shifted() -> None:
    rng = np.random.default_rng(0)
    old = rng.normal(size=(50, 3)).astype(np.float32)
    old[:, 2] = 4
    new = old * np.array([0.5, 2, 1], dtype=np.float32) + np.array([1, 0, 3], dtype=np.float32)
    found = fit_feature_map(old, new, prior_frames=1e-6)
    np.testing.assert_allclose(found(old), new, atol=1e-4)
    np.testing.assert_allclose(found.scale_D, [0.5, 2, 1], atol=1e-3)
    with pytest.raises(ValueError, match="the same frames"):
        fit_feature_map(old, new[:10])


@pytest.mark.parametrize("noise", [0.3, 3.0], ids=["alike", "negative-control"])
def test_there_and_back_is_where_it_was_where_two_versions_say_the_same(noise: float) -> None:
    """Twenty times, each time by another sixty-four frames. The control: features that hardly belong together."""
    rng = np.random.default_rng(4)
    kept = rng.normal(2.0, 1.0, (200, 8)).astype(np.float32)
    moved = kept
    for _ in range(20):
        old = rng.normal(2.0, 1.0, (64, 8)).astype(np.float32)
        new = (1.5 * old - 1.0 + noise * rng.normal(size=old.shape)).astype(np.float32)
        for pair in ((old, new), (new, old)):
            found = fit_feature_map(*pair)
            moved = moved * found.scale_D + found.shift_D
    share = float(moved.std() / kept.std())
    assert (0.8 < share < 1.25) == (noise < 1), share


def test_a_held_back_label_does_not_give_way_to_answers_without_one_until_labels_are_more_than_half() -> None:
    held = HeldBack(4, 2)
    for i in range(12):
        held.add(np.full(2, i, dtype=np.float32), i, labelled=i == 1, day=0)
    assert sorted(held.answers.tolist()) == [1, 9, 10, 11]
    for i in range(12, 15):
        held.add(np.full(2, i, dtype=np.float32), i, labelled=True, day=0)
    held.add(np.full(2, 15, dtype=np.float32), 15, labelled=False, day=0)
    assert held.labelled.sum() == 3
    assert 15 in held.answers
