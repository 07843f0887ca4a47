"""The replay buffer: bounded, the same for the same frames, and no one crowds out the others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.replay import Cell, ReplayBuffer

Offers = list[tuple[str, int, int]]
OFFERS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 3)), max_size=160)


def filled(offers: Offers, *, capacity: int, seed: int = 0) -> ReplayBuffer[int]:
    buffer: ReplayBuffer[int] = ReplayBuffer(capacity=capacity, seed=seed)
    for i, (device, domain, label) in enumerate(offers):
        buffer.add(i, device=device, domain=domain, label=label)
    return buffer


def contents(buffer: ReplayBuffer[int]) -> list[int]:
    return sorted(buffer.items())


@given(OFFERS, st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_it_holds_what_came_up_to_its_capacity_and_nothing_twice(offers: Offers, capacity: int) -> None:
    buffer = filled(offers, capacity=capacity)
    held = contents(buffer)
    assert len(buffer) == len(held) == min(len(offers), capacity) == sum(buffer.counts().values())
    assert len(set(held)) == len(held)
    assert set(held) <= set(range(len(offers)))
    by_cell = Counter(offers[i] for i in held)
    assert by_cell == Counter({cell: count for cell, count in buffer.counts().items() if count})


@given(OFFERS, st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_the_same_frames_in_the_same_order_make_the_same_memory(offers: Offers, capacity: int) -> None:
    first, second = (filled(offers, capacity=capacity, seed=7) for _ in range(2))
    draws = [buffer.sample(len(buffer), np.random.default_rng(3)) for buffer in (first, second)]
    assert draws[0] == draws[1]


def test_another_seed_makes_another_memory() -> None:
    offers = [("a", 0, 0)] * 500
    assert contents(filled(offers, capacity=10, seed=0)) != contents(filled(offers, capacity=10, seed=1))


@pytest.mark.parametrize(
    ("flood", "others"),
    [
        (("loud", 0, 0), [("quiet", 0, 0), ("still", 0, 0)]),
        (("one", 1, 0), [("one", 2, 0), ("one", 3, 0)]),
        (("one", 0, 0), [("one", 0, 1), ("one", 0, 2)]),
    ],
    ids=["device", "domain", "class"],
)
@pytest.mark.parametrize("flood_first", [True, False], ids=["flood-first", "flood-last"])
def test_what_floods_does_not_crowd_out_the_others(
    flood: tuple[str, int, int], others: Offers, flood_first: bool
) -> None:
    rare = [cell for cell in others for _ in range(30)]
    offers = [flood] * 2000 + rare if flood_first else rare + [flood] * 2000
    counts = filled(offers, capacity=60).counts()
    assert counts == {flood: 20, **dict.fromkeys(others, 20)}
    # The negative control: a memory of the newest 60 is one side's alone, or nearly.
    newest = Counter(offers[-60:])
    assert newest[flood] == (0 if flood_first else 60)


@given(OFFERS.filter(lambda offers: len(offers) > 12), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_no_part_has_two_more_than_another_that_lost_something(offers: Offers, length: int) -> None:
    """At each of the three steps: devices, the domains of a device, the classes of a device's domain."""
    counts = filled(offers, capacity=12).counts()
    kept = Counter({cell[:length]: 0 for cell in counts})
    for cell, count in counts.items():
        kept[cell[:length]] += count
    came = Counter(offer[:length] for offer in offers)
    for part, some in kept.items():
        for other, more in kept.items():
            if other[:-1] == part[:-1] and more > some + 2 - (length == 1):
                assert some == came[part], f"{part} was cut to {some} of {came[part]} while {other} has {more}"


def test_a_device_gains_no_room_by_claiming_many_domains_and_classes() -> None:
    """The negative control is in the figures: shared out by cells alone, 100 of 102 would be the liar's."""
    liar = [("liar", domain, label) for domain in range(10) for label in range(10)] * 30
    honest = [("honest", 1, 0), ("quiet", 1, 0)] * 100
    by_device: Counter[str] = Counter()
    for cell, count in filled(liar + honest, capacity=90).counts().items():
        by_device[cell.device] += count
    assert by_device == {"liar": 30, "honest": 30, "quiet": 30}


def test_within_a_cell_early_and_late_frames_have_the_same_chance() -> None:
    kept = [i for seed in range(200) for i in contents(filled([("a", 0, 0)] * 100, capacity=10, seed=seed))]
    quarters = np.histogram(kept, bins=4, range=(0, 100))[0] / len(kept)
    np.testing.assert_allclose(quarters, 0.25, atol=0.05)


def test_a_draw_has_nothing_twice_and_reaches_everything() -> None:
    buffer = filled([("a", 0, 0)] * 30 + [("b", 0, 1)] * 10, capacity=40)
    rng = np.random.default_rng(0)
    seen: set[int] = set()
    for _ in range(60):
        drawn = buffer.sample(8, rng)
        assert len(set(drawn)) == 8
        seen |= set(drawn)
    assert seen == set(range(40))


def test_a_draw_of_nothing_is_empty_and_of_too_many_is_refused() -> None:
    buffer = filled([("a", 0, 0)] * 3, capacity=5)
    assert buffer.sample(0, np.random.default_rng(0)) == []
    with pytest.raises(ValueError, match="4 frames were asked of a replay buffer that keeps 3"):
        buffer.sample(4, np.random.default_rng(0))


def test_a_capacity_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        ReplayBuffer(capacity=0, seed=0)


def test_a_draw_can_be_of_one_domain_and_without_some_devices() -> None:
    offers = [("a", 1, 0)] * 5 + [("b", 1, 0)] * 4 + [("b", 2, 0)] * 3
    buffer = filled(offers, capacity=20)
    assert buffer.kept() == 12
    assert buffer.kept(domain=1) == 9
    assert buffer.kept(domain=1, without={"a"}) == 4
    drawn = buffer.sample(4, np.random.default_rng(0), domain=1, without={"a"})
    assert sorted(drawn) == [5, 6, 7, 8]
    with pytest.raises(ValueError, match="keeps 4"):
        buffer.sample(5, np.random.default_rng(0), domain=1, without={"a"})


def test_an_item_without_a_domain_is_of_domain_0() -> None:
    buffer: ReplayBuffer[str] = ReplayBuffer(capacity=1, seed=0)
    buffer.add("it", device="a", label=3)
    assert buffer.counts() == {Cell("a", 0, 3): 1}


@given(OFFERS, st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_what_gives_way_is_what_is_gone(offers: Offers, capacity: int) -> None:
    buffer: ReplayBuffer[int] = ReplayBuffer(capacity=capacity, seed=0)
    left: set[int] = set()
    for i, (device, domain, label) in enumerate(offers):
        gone = buffer.add(i, device=device, domain=domain, label=label)
        assert len(gone) == (i >= capacity)
        left = (left | {i}) - set(gone)
        assert left == set(buffer.items())
    of_b = {i for i in left if offers[i][0] == "b"}
    assert set(buffer.forget("b")) == of_b
    assert set(buffer.items()) == left - of_b
    assert sum(buffer.counts().values()) == len(buffer)


@given(OFFERS, st.integers(1, 20), st.data())
@settings(max_examples=40, deadline=None)
def test_what_cannot_be_drawn_any_more_keeps_its_place(offers: Offers, capacity: int, data: st.DataObject) -> None:
    whole, holed = filled(offers, capacity=capacity), filled(offers, capacity=capacity)
    missing = set(data.draw(st.lists(st.sampled_from(sorted(whole.items()) or [0]), max_size=5)))
    holed.miss(missing)
    for i, (device, domain, label) in enumerate(offers, start=len(offers)):
        gone = whole.add(i, device=device, domain=domain, label=label)
        assert holed.add(i, device=device, domain=domain, label=label) == gone
    left = set(whole.items()) - missing
    assert holed.kept() == len(left) == sum(holed.by_device().values())
    assert set(holed.sample(len(left), np.random.default_rng(0))) == left


def test_what_was_emptied_leaves_nothing_behind() -> None:
    """A cloud founds domains for years; the negative control is what came, and each was a cell once."""
    buffer: ReplayBuffer[int] = ReplayBuffer(capacity=20, seed=0)
    for i in range(2000):
        buffer.add(i, device=f"d{i % 5}", domain=i, label=0)
    assert len(buffer) == len(buffer.counts()) == 20
    assert len(buffer._held) == len(buffer._parts) == 1 + 5 + 20 + 20
    assert sum(len(parts) for parts in buffer._parts.values()) == 5 + 20 + 20
    for device in range(5):
        buffer.forget(f"d{device}")
    assert (len(buffer), buffer.counts(), len(buffer._held), buffer._parts) == (0, {}, 1, {(): {}})
