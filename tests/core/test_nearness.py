"""How far a world is from the source's: in units of the probe, without what chance adds, and when it is looked at."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray
from littoral.core.nearness import Nearness, SourceWorld, last_layer, own_share, parts_of
from littoral.core.recall import MEAN_SQUARE_SUFFIX, MEAN_SUFFIX, fingerprint_of_moments

CHANNELS, FRAMES = 32, 16
LAYER = NormLayer(name="a", kind="batch", num_channels=CHANNELS, eps=1e-5)
SOURCE = {"a.running_mean": np.full(CHANNELS, 0.2, np.float32), "a.running_var": np.ones(CHANNELS, np.float32)}


def seen(shift: float, frames: int, rng: np.random.Generator) -> FloatArray:
    """What the layer sees of frames of a world ``shift`` away; one value a frame, so that chance is large."""
    x = rng.normal(shift, 1.0, (frames, CHANNELS)).astype(np.float32)
    return fingerprint_of_moments({"a" + MEAN_SUFFIX: x.mean(0), "a" + MEAN_SQUARE_SUFFIX: (x**2).mean(0)}, LAYER)


def usual(seed: int = 0, frames: int = FRAMES) -> SourceWorld:
    rng = np.random.default_rng(seed)
    return SourceWorld.of_probe(SOURCE, LAYER, [seen(0.0, frames, rng) for _ in range(4)], frames)


def nearness(near_distance: float = 2.0) -> Nearness:
    return Nearness(usual(frames=1000), near_distance=near_distance, half_trust_distance=10.0)


def test_the_last_batch_norm_is_looked_at() -> None:
    others = [
        NormLayer(name=name, kind=kind, num_channels=1, eps=1e-5) for name, kind in (("b", "batch"), ("c", "layer"))
    ]
    assert last_layer([LAYER, *others]) is others[0]
    assert last_layer(others[1:]) is None


@pytest.mark.parametrize(("count", "sizes"), [(64, [16] * 4), (11, [2] * 4), (3, [3])])
def test_a_probe_is_cut_into_equal_parts(count: int, sizes: list[int]) -> None:
    assert [len(part) for part in parts_of(np.zeros((count, 2, 2, 3), np.uint8))] == sizes


def test_the_unit_and_chance_are_those_of_many_frames() -> None:
    """Off by 0.2 of a deviation: half of a mean square of 0.04 twice over, and chance of two values a frame."""
    found = [usual(seed) for seed in range(40)]
    assert np.mean([world.unit for world in found]) == pytest.approx(0.04, abs=0.015)
    away = [usual(seed, frames=4000).unit for seed in range(5)]
    assert np.mean(away) == pytest.approx(0.04, abs=0.004)


@pytest.mark.parametrize("corrected", [True, False], ids=["without-chance", "with-it"])
def test_few_frames_of_the_sources_world_are_not_far_by_chance(corrected: bool) -> None:
    """The control: uncorrected, a batch of the source's own world seems several times as far as many frames are."""
    rng, world = np.random.default_rng(1), usual(frames=1000)
    away = np.mean([world.distance(seen(0.0, FRAMES, rng), FRAMES if corrected else 1e9) for _ in range(50)])
    assert (away < 2.0) == corrected


def test_further_worlds_are_further_and_have_more_of_their_own() -> None:
    rng = np.random.default_rng(2)
    distances, shares = [], []
    for shift in (0.0, 1.0, 3.0):
        here = nearness()
        here.take(seen(shift, 1000, rng), 1000, afresh=False)
        assert here.distance is not None
        distances.append(here.distance)
        shares.append(here.own_share)
    assert distances == sorted(distances)
    assert shares == [own_share(distance, 10.0) for distance in distances]
    assert distances[0] < 2.0 < distances[1]


def test_nothing_is_near_before_the_first_batch_nor_without_a_bound() -> None:
    here, nowhere = nearness(), nearness(0.0)
    assert not here.near
    assert here.own_share == 1.0
    for one in (here, nowhere):
        for seed in range(4):
            one.take(seen(0.0, FRAMES, np.random.default_rng(seed)), FRAMES, afresh=False)
    assert here.near
    assert not nowhere.near


def test_another_world_is_looked_at_alone() -> None:
    rng, here = np.random.default_rng(3), nearness()
    for _ in range(16):
        here.take(seen(3.0, FRAMES, rng), FRAMES, afresh=False)
    assert not here.near
    here.take(seen(0.0, 400, rng), 400, afresh=True)
    assert here.near


@pytest.mark.parametrize(("shift", "over"), [(4.0, True), (0.0, False)])
def test_a_batch_that_is_far_alone_ends_what_was_near(shift: float, over: bool) -> None:
    """A shift may be seen here alone; the control: another batch of the same world changes little."""
    rng, here = np.random.default_rng(4), nearness()
    for _ in range(8):
        here.take(seen(0.0, FRAMES, rng), FRAMES, afresh=False)
    assert here.near
    batch = seen(shift, FRAMES, rng)
    here.take(batch, FRAMES, afresh=False)
    assert (not here.near) == over
    assert (here.distance == usual(frames=1000).distance(batch, FRAMES)) == over, "alone, not averaged"


@pytest.mark.parametrize(("shift", "ended"), [(4.0, [False, True]), (0.0, [False, False])])
def test_two_far_batches_of_few_classes_end_what_was_near(shift: float, ended: list[bool]) -> None:
    """The control: as many of the same world do not, and neither moves the distance."""
    rng, here = np.random.default_rng(6), nearness()
    for _ in range(8):
        here.take(seen(0.0, FRAMES, rng), FRAMES, afresh=False)
    before = here.distance
    near = []
    for _ in range(2):
        here.take_few(seen(shift, FRAMES, rng), FRAMES)
        near.append(here.near)
    assert near == [not end for end in ended]
    assert here.distance == before


def test_what_is_not_finite_is_refused_and_changes_nothing() -> None:
    here = nearness()
    here.take(seen(0.0, FRAMES, np.random.default_rng(5)), FRAMES, afresh=False)
    before = here.distance
    with pytest.raises(ValueError, match="fingerprint of 16 frames is not finite"):
        here.take(np.full(2 * CHANNELS, np.nan, np.float32), FRAMES, afresh=True)
    assert here.distance == before


@pytest.mark.parametrize(("distance", "share"), [(0.0, 0.0), (0.3, 0.25), (0.9, 0.5), (2.7, 0.75)])
def test_a_share_is_a_half_at_the_distance_that_was_said(distance: float, share: float) -> None:
    assert own_share(distance, 0.9) == pytest.approx(share)


@pytest.mark.parametrize("distance", [0.0, 3.0])
def test_without_a_distance_all_is_the_devices_own(distance: float) -> None:
    assert own_share(distance, 0.0) == 1.0
