"""The simulated link: delays in batches, seeded losses."""

from __future__ import annotations

import pytest

from littoral.bench.road import Lane


def test_without_delay_an_item_is_there_before_the_next_batch_and_not_sooner() -> None:
    lane: Lane[str] = Lane()
    assert lane.put("a", 3)
    assert lane.take(3) == []
    assert lane.take(4) == ["a"]
    assert lane.take(4) == []


def test_a_delay_of_d_batches_makes_an_item_usable_after_batch_t_plus_d() -> None:
    lane: Lane[int] = Lane(delay_batches=2)
    for batch in (1, 2, 3):
        lane.put(batch, batch)
    assert lane.take(3) == []
    assert lane.take(4) == [1]
    assert len(lane) == 2
    assert lane.take(9) == [2, 3]


def test_losses_are_seeded_and_about_as_many_as_asked() -> None:
    def survivors(seed: int) -> list[int]:
        lane: Lane[int] = Lane(loss=0.3, seed=seed)
        kept = [number for number in range(1000) if lane.put(number, number)]
        assert lane.num_lost == 1000 - len(kept)
        assert lane.take(10_000) == kept
        return kept

    assert survivors(1) == survivors(1)
    assert survivors(1) != survivors(2)
    assert 640 < len(survivors(1)) < 760


def test_a_lane_that_loses_nothing_draws_nothing_and_one_that_loses_all_gives_nothing() -> None:
    certain: Lane[int] = Lane(loss=0.0)
    assert all(certain.put(n, n) for n in range(50))
    hopeless: Lane[int] = Lane(loss=1.0)
    assert not any(hopeless.put(n, n) for n in range(50))
    assert hopeless.take(99) == []


@pytest.mark.parametrize(("delay", "loss"), [(-1, 0.0), (0, -0.1), (0, 1.1)])
def test_a_delay_or_a_loss_that_makes_no_sense_is_refused(delay: int, loss: float) -> None:
    with pytest.raises(ValueError, match="a lane needs"):
        Lane(delay_batches=delay, loss=loss)


def test_items_must_be_put_in_the_order_of_batches() -> None:
    lane: Lane[int] = Lane()
    lane.put(1, 5)
    with pytest.raises(ValueError, match="batch 4"):
        lane.put(2, 4)
