"""Who judges a version and who is blamed: the pure decisions."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.cloud.witnesses import WitnessConfig, choose_witnesses, outvoted, suspects_of, too_often

CONFIG = WitnessConfig(most=2, frames=8, min_frames=4, suspects=2, blames=2, blame_window=3)


def test_devices_of_the_job_are_asked_first_and_none_with_too_few_frames() -> None:
    kept = {"a": 4, "b": 9, "c": 3, "d": 5}
    for seed in range(5):
        chosen = choose_witnesses(kept, {"b", "c"}, np.random.default_rng(seed), CONFIG)
        assert chosen[0] == "b"
        assert chosen[1] in ("a", "d")
    assert choose_witnesses({"c": 3}, {"c"}, np.random.default_rng(0), CONFIG) == []


@pytest.mark.parametrize(
    ("harmed", "witnesses", "expected"),
    [("", "ab", False), ("a", "a", False), ("a", "ab", False), ("a", "abc", True), ("ab", "abc", False)],
)
def test_a_witness_is_outvoted_by_twice_as_many(harmed: str, witnesses: str, expected: bool) -> None:
    assert outvoted(set(harmed), set(witnesses)) == expected


def test_who_gave_most_is_suspected_first() -> None:
    new, kept = ["a", "b", "b", "b"], {"a": 10, "b": 10, "c": 80}
    assert suspects_of(new, kept, num_replayed=4, config=CONFIG) == ["b", "c"]
    assert suspects_of(new, kept, num_replayed=100, config=CONFIG) == ["c", "b"]
    assert suspects_of(["b", "a"], {}, num_replayed=0, config=CONFIG) == ["a", "b"]


def test_blames_are_counted_over_the_newest_versions() -> None:
    assert too_often([["a"], [], ["a"]], "a", CONFIG)
    assert not too_often([["a"], [], [], ["a"]], "a", CONFIG), "the first is too old"
    assert not too_often([["a"], ["b"]], "a", CONFIG)
    assert not too_often([["a"]] * 9, "a", WitnessConfig(blames=0))


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="min_frames <= frames"):
        WitnessConfig(frames=8, min_frames=9)
