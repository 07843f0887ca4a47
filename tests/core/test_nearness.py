"""How far a world is from the source's: class by class, in units of what chance adds to one frame."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray
from littoral.core.nearness import Nearness, SourceWorld, last_layer, own_share
from littoral.core.recall import MEAN_SQUARE_SUFFIX, MEAN_SUFFIX, fingerprint_distance, fingerprint_of_moments

CHANNELS, CLASSES, FRAMES, PLACES = 32, 4, 16, 8
LAYER = NormLayer(name="a", kind="batch", num_channels=CHANNELS, eps=1e-5)
CENTRES = np.random.default_rng(99).normal(size=(CLASSES, CHANNELS))
"""Classes lie as far apart as frames of one do."""


def seen(labels: list[int], shift: float, rng: np.random.Generator) -> FloatArray:
    """What the layer sees of frames with these labels in a world ``shift`` away."""
    frame = CENTRES[labels] + shift + rng.normal(size=(len(labels), CHANNELS))
    x = (frame[:, None] + rng.normal(size=(len(labels), PLACES, CHANNELS))).astype(np.float32)
    moments = {"a" + MEAN_SUFFIX: x.mean((0, 1)), "a" + MEAN_SQUARE_SUFFIX: (x**2).mean((0, 1))}
    return fingerprint_of_moments(moments, LAYER)


def world(per_class: int = 400, *, seed: int = 0, classes: int = CLASSES) -> SourceWorld:
    rng = np.random.default_rng(seed)
    parts = {
        label: [(seen([label] * FRAMES, 0.0, rng), FRAMES) for _ in range(per_class // FRAMES)]
        for label in range(classes)
    }
    return SourceWorld.measured(LAYER, parts, CLASSES)


def away(of: SourceWorld, labels: list[int], shift: float, rng: np.random.Generator) -> float:
    return of.distance(seen(labels, shift, rng), of.shares(labels), len(labels))


def nearness(near_distance: float = 0.3, half_trust_distance: float = 1.0) -> Nearness:
    return Nearness(world(), near_distance=near_distance, half_trust_distance=half_trust_distance)


MIXED, ONE, TWO = [0, 1, 2, 3] * 4, [2] * FRAMES, [0, 3] * 8


def test_the_last_batch_norm_is_looked_at() -> None:
    others = [
        NormLayer(name=name, kind=kind, num_channels=1, eps=1e-5) for name, kind in (("b", "batch"), ("c", "layer"))
    ]
    assert last_layer([LAYER, *others]) is others[0]
    assert last_layer(others[1:]) is None


@pytest.mark.parametrize("labels", [MIXED, ONE, TWO], ids=["mixed", "one-class", "two-classes"])
def test_what_classes_a_batch_has_does_not_make_it_far(labels: list[int]) -> None:
    """The control: held against all classes together a batch of one is as far as another world."""
    rng, of_classes = np.random.default_rng(1), world()
    home = np.mean([away(of_classes, labels, 0.0, rng) for _ in range(40)])
    other = np.mean([away(of_classes, labels, 3.0, rng) for _ in range(40)])
    assert home < 0.1 < 3 * home + 0.1 < other
    if labels is ONE:
        of_all = [of_classes.distance(seen(labels, 0.0, rng), of_classes.shares(MIXED), FRAMES) for _ in range(40)]
        assert np.mean(of_all) > 0.3, "what is near elsewhere in this file"


@pytest.mark.parametrize("per_class", [32, 400])
def test_the_unit_is_what_one_frame_is_away_by_chance(per_class: int) -> None:
    """Whatever number of frames it was measured on; a device's few frames are then at no distance, on average."""
    rng, few = np.random.default_rng(2), []
    for seed in range(20):
        of_source = world(per_class, seed=seed)
        few.append(of_source.chance)
        assert away(of_source, MIXED, 0.0, rng) < 0.1
    assert np.mean(few) == pytest.approx(world(4000).chance, rel=0.1)


@pytest.mark.parametrize("num_frames", [FRAMES, 10**9], ids=["without-chance", "with-it"])
def test_few_frames_of_the_sources_world_are_not_far_by_chance(num_frames: int) -> None:
    """The control: uncorrected, a batch is away by a sixteenth of the unit."""
    rng, of_source = np.random.default_rng(3), world()
    found = [of_source.distance(seen(MIXED, 0.0, rng), of_source.shares(MIXED), num_frames) for _ in range(50)]
    assert (np.mean(found) < 0.5 / FRAMES) == (num_frames == FRAMES)


@pytest.mark.parametrize("places", [1, 8])
@pytest.mark.parametrize("per_class", [2, 5])
def test_chance_is_that_of_many_frames_though_classes_have_few(per_class: int, places: int) -> None:
    """Four hundred classes; the control: from the parts of each class alone it would be several times as much."""
    rng = np.random.default_rng(13)
    centres = rng.normal(size=(400, CHANNELS))

    def look(label: int, count: int) -> tuple[FloatArray, int]:
        x = centres[label] + rng.normal(size=(count, 1, CHANNELS)) + rng.normal(size=(count, places, CHANNELS))
        moments = {"a" + MEAN_SUFFIX: x.mean((0, 1)), "a" + MEAN_SQUARE_SUFFIX: (x**2).mean((0, 1))}
        return fingerprint_of_moments(moments, LAYER), count

    half = per_class // 2
    few = {label: [look(label, half), look(label, per_class - half)] for label in range(400)}
    many = {label: [look(label, FRAMES) for _ in range(10)] for label in range(20)}
    found = SourceWorld.measured(LAYER, few, 400)
    expected = SourceWorld.measured(LAYER, many, 20).chance
    assert found.chance == pytest.approx(expected, rel=0.35), found.chance / expected
    apart = [
        fingerprint_distance(seen, found._usual(found.shares([label])), eps=LAYER.eps) / (1 / num - 1 / per_class)
        for label, parts in few.items()
        for seen, num in parts
    ]
    assert places > 1 or np.mean(apart) > 3 * expected


def test_runs_of_classes_that_the_build_has_seen_twice_are_near_at_home() -> None:
    """The control: the same runs in another world."""
    rng = np.random.default_rng(20)
    centres = rng.normal(size=(300, CHANNELS))

    def look(labels: list[int], shift: float = 0.0) -> FloatArray:
        count = len(labels)
        x = centres[labels][:, None] + shift + rng.normal(size=(count, 1, CHANNELS))
        x = x + rng.normal(size=(count, PLACES, CHANNELS))
        moments = {"a" + MEAN_SUFFIX: x.mean((0, 1)), "a" + MEAN_SQUARE_SUFFIX: (x**2).mean((0, 1))}
        return fingerprint_of_moments(moments, LAYER)

    of_source = SourceWorld.measured(LAYER, {k: [(look([k]), 1), (look([k]), 1)] for k in range(300)}, 300)
    runs = [[label] * FRAMES for label in range(0, 300, 10)]
    found = {
        shift: np.median([of_source.distance(look(run, shift), of_source.shares(run), FRAMES) for run in runs])
        for shift in (0.0, 2.0)
    }
    assert found[0.0] < 0.05 < 1.0 < found[2.0], found


def test_where_nothing_says_what_chance_is_nothing_is_near() -> None:
    rng = np.random.default_rng(14)
    alone = SourceWorld.measured(LAYER, {label: [(seen([label], 0.0, rng), 1)] for label in range(CLASSES)}, CLASSES)
    here = Nearness(alone, near_distance=0.3, half_trust_distance=1.0)
    here.take(seen(MIXED, 0.0, rng), MIXED, afresh=False)
    assert not here.near


@pytest.mark.parametrize("num_frames", [FRAMES, 10**9], ids=["counted", "not-counted"])
def test_rows_of_few_frames_are_expected_to_be_away(num_frames: float) -> None:
    """A run of one class is away by what the class's row itself is off; the control: not reckoned with."""
    rng, usual, found = np.random.default_rng(4), world(), []
    for seed in range(40):
        thin = world(FRAMES, seed=100 + seed)
        counts = np.full(CLASSES, num_frames, np.float32)
        rows = SourceWorld.from_tensors(
            {**thin.tensors(), "num_frames": counts, "chance": usual.tensors()["chance"]}, LAYER, CLASSES
        )
        found.append(away(rows, [1] * 400, 0.0, rng))
    assert (np.mean(found) < 0.5 / FRAMES) == (num_frames == FRAMES), np.mean(found)


def test_a_class_that_was_not_seen_is_taken_for_all_together() -> None:
    of_three = world(classes=3)
    whole = of_three.mean_KC[:3].mean(0)
    np.testing.assert_allclose(of_three.mean_KC[3], whole, rtol=1e-4, atol=1e-6)
    assert of_three.num_frames_K[3] == 1, "little is known of it"
    with pytest.raises(ValueError, match="no source frame was measured"):
        SourceWorld.measured(LAYER, {0: []}, CLASSES)


def test_frames_without_classes_have_one_row() -> None:
    rng = np.random.default_rng(5)
    of_all = SourceWorld.measured(LAYER, {0: [(seen(MIXED, 0.0, rng), FRAMES) for _ in range(20)]}, 1)
    assert of_all.shares([0, 7]).tolist() == [1.0], "labels are not asked"
    assert away(of_all, MIXED, 0.0, rng) < 0.3 < away(of_all, MIXED, 3.0, rng)


def test_it_is_read_back_as_it_was_written() -> None:
    one, rng = world(), np.random.default_rng(6)
    other, batch = SourceWorld.from_tensors(one.tensors(), LAYER, CLASSES), seen(TWO, 1.0, rng)
    shares = one.shares(TWO)
    assert other.distance(batch, shares, FRAMES) == pytest.approx(one.distance(batch, shares, FRAMES), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("mean", np.zeros((CLASSES, CHANNELS + 1), np.float32), "has tensors"),
        ("more", np.zeros(1, np.float32), "has tensors"),
        ("mean", np.zeros((CLASSES, CHANNELS), np.float64), "finite float32"),
        ("mean", np.full((CLASSES, CHANNELS), np.nan, np.float32), "finite float32"),
        ("mean_square", np.full((CLASSES, CHANNELS), -1, np.float32), "of at least 0"),
        ("num_frames", np.array([1, 1, 1, 0.5], np.float32), "at least 1"),
        ("chance", np.array(0, np.float32), "above 0"),
    ],
)
def test_tensors_that_cannot_be_are_refused(name: str, value: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SourceWorld.from_tensors({**world().tensors(), name: value}, LAYER, CLASSES)


def test_further_worlds_are_further_and_have_more_of_their_own() -> None:
    rng = np.random.default_rng(7)
    distances, shares = [], []
    for shift in (0.0, 1.0, 3.0):
        here = nearness()
        here.take(seen(MIXED * 8, shift, rng), MIXED * 8, afresh=False)
        assert here.distance is not None
        distances.append(here.distance)
        shares.append(here.own_share)
    assert distances == sorted(distances)
    assert shares == [own_share(distance, 1.0) for distance in distances]


def test_nothing_is_near_before_the_first_batch_nor_without_a_bound() -> None:
    here, nowhere = nearness(), nearness(0.0)
    assert not here.near
    assert here.own_share == 1.0
    for one in (here, nowhere):
        for seed in range(4):
            one.take(seen(MIXED, 0.0, np.random.default_rng(seed)), MIXED, afresh=False)
    assert here.near
    assert not nowhere.near
    assert nowhere._frames == 64, "nor does it begin afresh at every batch that is like the source's"


def test_a_stream_of_runs_is_near_all_the_while() -> None:
    """Thirty-two frames of a class, then of the next: neither a run nor the change of runs is another world."""
    rng, here, near = np.random.default_rng(8), nearness(), []
    for label in (2, 2, 0, 0, 3, 3, 1, 1):
        assert not here.take(seen([label] * FRAMES, 0.0, rng), [label] * FRAMES, afresh=False)
        near.append(here.near)
    assert all(near)


def test_another_world_is_looked_at_alone() -> None:
    rng, here = np.random.default_rng(9), nearness()
    for _ in range(16):
        here.take(seen(MIXED, 3.0, rng), MIXED, afresh=False)
    assert not here.near
    here.take(seen(MIXED * 8, 0.0, rng), MIXED * 8, afresh=True)
    assert here.near


@pytest.mark.parametrize("labels", [MIXED, ONE], ids=["mixed", "one-class"])
@pytest.mark.parametrize(("shift", "over"), [(4.0, True), (0.0, False)])
def test_a_batch_that_is_far_alone_ends_what_was_near(labels: list[int], shift: float, over: bool) -> None:
    """A shift may be seen here alone; the control: another batch of the same world changes little."""
    rng, here = np.random.default_rng(10), nearness()
    for _ in range(8):
        here.take(seen(MIXED, 0.0, rng), MIXED, afresh=False)
    assert here.near
    batch, of_source = seen(labels, shift, rng), world()
    assert here.take(batch, labels, afresh=False) == over
    assert here.near == (not over)
    if over:
        assert here.distance == of_source.distance(batch, of_source.shares(labels), FRAMES), "alone, not averaged"


@pytest.mark.parametrize(("shift", "near"), [(4.0, [True, False]), (0.0, [True, True])])
def test_two_far_batches_of_few_classes_end_what_was_near(shift: float, near: list[bool]) -> None:
    """They may be one thing seen sixteen times, so what is kept of the world stays. The control: of the same world."""
    rng, here, found = np.random.default_rng(12), nearness(), []
    for _ in range(8):
        here.take(seen(MIXED, 0.0, rng), MIXED, afresh=False)
    before = here.distance
    for _ in range(2):
        assert not here.take(seen(ONE, shift, rng), ONE, afresh=False, few=True)
        found.append((here.near, here.distance == before))
    assert [is_near for is_near, _ in found] == near
    if shift:
        assert [stays for _, stays in found] == [True, False], "the first alone is not taken"


@pytest.mark.parametrize("near", [True, False], ids=["near", "not-near"])
def test_at_the_bound_a_world_stays_what_it_was(near: bool) -> None:
    """Else versions would come and go with every few batches."""
    rng, of_source = np.random.default_rng(15), world()
    batch = seen(MIXED * 64, 1.0, rng)
    distance = of_source.distance(batch, of_source.shares(MIXED), 1024)
    here = Nearness(of_source, near_distance=distance / 1.2, half_trust_distance=1.0)
    here.take(seen(MIXED * 64, 0.0 if near else 6.0, rng), MIXED * 64, afresh=False)
    assert here.near == near
    for _ in range(20):
        assert not here.take(batch, MIXED * 64, afresh=False)
    assert here.near == near
    assert here.distance == pytest.approx(distance, rel=0.05)


@pytest.mark.parametrize(("labels", "few"), [(MIXED, False), (ONE, True)], ids=["mixed", "one-class"])
def test_two_batches_that_alone_are_near_are_home_whatever_was_before(labels: list[int], few: bool) -> None:
    """A long way off, which the mean of late would not forget so soon; the control: a world in between is not home."""
    rng, found = np.random.default_rng(17), {}
    for shift in (0.0, 2.0):
        here = nearness()
        for _ in range(20):
            here.take(seen(MIXED, 6.0, rng), MIXED, afresh=False)
        assert here.known
        here.take(seen(labels, shift, rng), labels, afresh=False, few=few)
        asks = not here.known
        here.take(seen(labels, shift, rng), labels, afresh=False, few=few)
        found[shift] = asks, here.near
    assert found == {0.0: (True, True), 2.0: (False, False)}


def test_chance_is_taken_off_by_how_many_frames_the_moving_mean_is_of() -> None:
    """More than the 64 that old frames may weigh: else the source's own frames would seem nearer than they are."""
    rng, here, of_source = np.random.default_rng(18), nearness(), world()
    for _ in range(60):
        here.take(seen(MIXED, 1.0, rng), MIXED, afresh=False)
    assert here._seen is not None
    raw = of_source.distance(*here._seen, 1e9)
    assert raw - here.distance == pytest.approx(1 / 144, rel=0.05), "sixteen frames of eighty: (2 - 0.2) / 0.2 times 16"


def test_few_frames_alone_end_nothing() -> None:
    """Of two frames the distance is no share of one frame's. The control: eight."""
    rng, ended = np.random.default_rng(19), {}
    for num in (2, 8):
        here = nearness()
        for _ in range(20):
            here.take(seen(MIXED, 0.0, rng), MIXED, afresh=False)
        ended[num] = here.take(seen(MIXED[:num], 5.0, rng), MIXED[:num], afresh=False)
    assert ended == {2: False, 8: True}


@pytest.mark.parametrize(("shift", "near"), [(0.0, True), (4.0, False)])
def test_what_was_near_before_the_start_is_near_until_the_first_batch(shift: float, near: bool) -> None:
    rng, here = np.random.default_rng(16), Nearness(world(), near_distance=0.3, half_trust_distance=1.0, near=True)
    assert here.near
    here.take(seen(MIXED, shift, rng), MIXED, afresh=False)
    assert here.near == near


def test_what_is_not_finite_is_refused_and_changes_nothing() -> None:
    here = nearness()
    here.take(seen(MIXED, 0.0, np.random.default_rng(11)), MIXED, afresh=False)
    before = here.distance
    with pytest.raises(ValueError, match="fingerprint of 16 frames is not finite"):
        here.take(np.full(2 * CHANNELS, np.nan, np.float32), MIXED, afresh=True)
    assert here.distance == before


@pytest.mark.parametrize(("distance", "share"), [(0.0, 0.0), (0.3, 0.25), (0.9, 0.5), (2.7, 0.75)])
def test_a_share_is_a_half_at_the_distance_that_was_said(distance: float, share: float) -> None:
    assert own_share(distance, 0.9) == pytest.approx(share)


@pytest.mark.parametrize("distance", [0.0, 3.0])
def test_without_a_distance_all_is_the_devices_own(distance: float) -> None:
    assert own_share(distance, 0.0) == 1.0
