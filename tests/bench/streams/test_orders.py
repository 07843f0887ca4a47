"""The orders: how many, in which order, and that no frame is lost, repeated, or told apart by its label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pictures import pictures

from littoral.bench.streams import orders
from littoral.bench.streams.orders import continual, correlated, fleet, gradual, mixed, per_shift, recurring
from littoral.bench.streams.pools import CorruptedPool
from littoral.bench.streams.stream import Stream

NAMES = ("brightness", "contrast", "clean", "gaussian_blur")
SIZE, CLASSES = 60, 5
Order = Callable[..., Stream]


def pool(relabel: int = 0) -> CorruptedPool:
    return CorruptedPool(frames=pictures(SIZE), labels=(np.arange(SIZE) + relabel) % CLASSES)


PLAIN = pytest.mark.parametrize("order", [continual, per_shift, mixed, correlated, gradual])
LABEL_FREE: list[tuple[Order, dict[str, Any]]] = [
    (continual, {"frames_per_shift": 20}),
    (per_shift, {"frames_per_shift": 20}),
    (mixed, {"frames_per_shift": 20}),
    (gradual, {"frames_per_shift": 20}),
    (recurring, {"frames_per_visit": 10, "visits": 3}),
    (fleet, {"frames_per_visit": 6}),
]
EVERY = pytest.mark.parametrize(
    ("order", "options"),
    [*LABEL_FREE, (correlated, {"frames_per_shift": 20})],
    ids=lambda v: getattr(v, "__name__", ""),
)


@PLAIN
def test_every_frame_of_the_source_comes_once_in_every_shift(order: Order) -> None:
    stream = order(pool(), NAMES, frames_per_shift=SIZE, seed=0)
    assert len(stream) == SIZE * len(NAMES)
    assert stream.names == NAMES
    for shift in range(len(NAMES)):
        assert sorted(stream.of_shift(shift).place) == list(range(SIZE))


@PLAIN
def test_fewer_frames_are_drawn_without_repetition_and_afresh_for_each_shift(order: Order) -> None:
    stream = order(pool(), NAMES, frames_per_shift=12, seed=0)
    drawn = [frozenset(stream.of_shift(shift).place.tolist()) for shift in range(len(NAMES))]
    assert {len(places) for places in drawn} == {12}
    assert len(set(drawn)) == len(NAMES)


@EVERY
def test_a_stream_comes_from_its_seed(order: Order, options: dict[str, Any]) -> None:
    first, again, other = (order(pool(), NAMES, **options, seed=seed) for seed in (0, 0, 1))
    for field in ("place", "shift", "severity", "device"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert (first.place != other.place).any()
    np.testing.assert_array_equal(first.frames, again.frames)


@EVERY
def test_labels_are_those_of_the_frames(order: Order, options: dict[str, Any]) -> None:
    stream = order(pool(), NAMES, **options, seed=0)
    np.testing.assert_array_equal(stream.labels, pool().labels[stream.place])
    assert stream.labels.dtype == np.int64
    assert stream.frames.shape == (len(stream), 32, 32, 3)


@pytest.mark.parametrize(("order", "options"), LABEL_FREE, ids=lambda v: getattr(v, "__name__", ""))
def test_the_order_does_not_look_at_labels(order: Order, options: dict[str, Any]) -> None:
    one, other = (order(pool(relabel), NAMES, **options, seed=0) for relabel in (0, 2))
    np.testing.assert_array_equal(one.place, other.place)


def test_continual_plays_shift_after_shift_at_one_severity() -> None:
    stream = continual(pool(), NAMES, frames_per_shift=7, seed=0, severity=3)
    assert stream.shift.tolist() == [0] * 7 + [1] * 7 + [2] * 7 + [3] * 7
    assert set(stream.severity) == {3}
    assert not stream.resets
    expected = pool().frames_of(stream.place[7:14], "contrast", 3)
    np.testing.assert_array_equal(stream.frames[7:14], expected)


def test_per_shift_is_continual_with_resets() -> None:
    one, other = (order(pool(), NAMES, frames_per_shift=7, seed=0) for order in (continual, per_shift))
    np.testing.assert_array_equal(one.place, other.place)
    assert other.resets


def test_mixed_has_the_frames_of_continual_in_no_order() -> None:
    plain, stream = (order(pool(), NAMES, frames_per_shift=30, seed=0) for order in (continual, mixed))
    assert sorted(zip(plain.shift, plain.place, strict=True)) == sorted(zip(stream.shift, stream.place, strict=True))
    assert all(len(set(stream.shift[i : i + 30])) == len(NAMES) for i in range(0, 120, 30))


def runs(labels: np.ndarray) -> float:
    """The share of frames that have the label of the one before."""
    return float((np.diff(labels) == 0).mean())


def test_correlated_labels_come_in_runs_and_others_do_not() -> None:
    many = CorruptedPool(frames=np.zeros((1000, 16, 16, 3), np.uint8), labels=np.arange(1000) % 10)
    plain, tied, loose = (
        continual(many, NAMES, frames_per_shift=1000, seed=0),
        correlated(many, NAMES, frames_per_shift=1000, seed=0),
        correlated(many, NAMES, frames_per_shift=1000, seed=0, concentration=100),
    )
    assert runs(plain.labels) == pytest.approx(0.1, abs=0.02)
    assert runs(tied.labels) > 0.9
    windows = tied.labels.reshape(-1, 50)
    assert np.mean([len(set(window)) for window in windows]) < 4
    assert runs(tied.labels) > runs(loose.labels) + 0.03


def test_correlated_runs_are_longer_the_smaller_the_concentration() -> None:
    labels = np.arange(2000) % 10
    counted = []
    for concentration in (0.01, 0.1, 1.0):
        order = orders.label_runs(labels, concentration=concentration, rng=np.random.default_rng(0))
        assert sorted(order) == list(range(2000))
        counted.append(int((np.diff(labels[order]) != 0).sum()))
    assert counted == sorted(counted)
    assert counted[0] < counted[2] / 2


def test_gradual_severity_rises_and_falls_within_each_shift() -> None:
    stream = gradual(pool(), NAMES[:2], frames_per_shift=18, seed=0)
    steps = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1]
    assert stream.severity.tolist() == steps * 2
    expected = pool().frames_of(stream.place[8:10], "brightness", 5)
    np.testing.assert_array_equal(stream.frames[8:10], expected)


def test_recurring_domains_come_back_with_other_frames() -> None:
    stream = recurring(pool(), NAMES[:3], frames_per_visit=20, visits=3, seed=0)
    assert stream.names == NAMES[:3] * 3
    assert stream.shift.tolist() == np.repeat(np.arange(9), 20).tolist()
    for domain in range(3):
        visits = [stream.of_shift(domain + 3 * visit).place for visit in range(3)]
        assert len(set(np.concatenate(visits).tolist())) == 60


def test_a_fleet_has_two_devices_to_a_domain_and_domains_move_on() -> None:
    stream = fleet(pool(), NAMES, frames_per_visit=5, seed=0, periods=4)
    assert stream.num_devices == 8
    assert len(stream) == 8 * 4 * 5
    assert stream.device[:9].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    for device in range(8):
        own = stream.of_device(device)
        domain = device // 2
        assert own.shift.tolist() == np.repeat([(domain + period) % 4 for period in range(4)], 5).tolist()
    for shift in range(4):
        places = fleet(pool(), NAMES, frames_per_visit=5, seed=0, periods=2).of_shift(shift).place
        assert len(set(places.tolist())) == len(places) == 20


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: continual(pool(), ["rain"], frames_per_shift=5, seed=0), r"\['rain'\]; give some of clean"),
        (lambda: continual(pool(), [], frames_per_shift=5, seed=0), "give some of"),
        (lambda: continual(pool(), "fog", frames_per_shift=5, seed=0), "give a list of names"),
        (lambda: continual(pool(), NAMES, frames_per_shift=0, seed=0), "0 frames are asked of a pool that has 60"),
        (lambda: mixed(pool(), NAMES, frames_per_shift=61, seed=0), "61 frames are asked"),
        (lambda: per_shift(pool(), NAMES, frames_per_shift=5, seed=0, severity=9), "severity is 9"),
        (lambda: correlated(pool(), NAMES, frames_per_shift=5, seed=0, concentration=0), "concentration is 0"),
        (lambda: recurring(pool(), NAMES, frames_per_visit=30, visits=3, seed=0), "30 frames, 3 times, are asked"),
        (lambda: recurring(pool(), NAMES, frames_per_visit=30, visits=0, seed=0), "visits are 0"),
        (lambda: fleet(pool(), NAMES[:3], frames_per_visit=5, seed=0), "3 corruptions, 4 domains"),
        (lambda: fleet(pool(), NAMES, frames_per_visit=31, seed=0), "31 frames, 2 times, are asked"),
    ],
)
def test_what_cannot_be_played_is_refused(make: Callable[[], Stream], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
