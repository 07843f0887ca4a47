"""Users are what the table says they are: few classes, parts that share no image, the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.bench.exits.users import HARD, KINDS, MILD, UserPlan, draw_user, style_of, styled

LABELS = np.repeat(np.arange(10), 1000)


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_image_is_in_two_parts_and_classes_come_as_often_as_they_should(kind: str) -> None:
    plan = KINDS[kind]
    for index in range(3):
        user = draw_user(LABELS, plan, seed=1, index=index)
        parts = [set(places.tolist()) for places in user.places.values()]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert [len(user.places[part]) for part in plan.sizes()] == list(plan.sizes().values())
        assert len(user.classes) == plan.num_classes
        found = np.bincount(LABELS[user.places["test"]], minlength=10) / plan.test
        np.testing.assert_allclose(found, user.shares, atol=0.05)
        assert not set(LABELS[user.unseen]) & set(user.classes)


def test_images_are_shown_twice_only_where_a_class_has_too_few_and_that_is_counted() -> None:
    few = UserPlan(num_classes=4, personal=10, calibration=10, test=10, unseen=5)
    assert set(draw_user(LABELS, few, seed=0, index=0).repeats.values()) == {0}
    many = draw_user(LABELS, KINDS["k2"], seed=0, index=0)
    assert many.repeats["test"] > 0
    assert many.repeats["test"] == len(many.places["test"]) - len(set(many.places["test"].tolist()))


def test_the_same_seed_gives_the_same_user_and_another_seed_another() -> None:
    one, same, other = (draw_user(LABELS, KINDS["k4"], seed=seed, index=2) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.places["test"], same.places["test"])
    assert one.shares != other.shares


def test_every_style_comes_and_changes_frames_and_a_frame_looks_the_same_in_any_part() -> None:
    assert {style_of(index) for index in range(20)} == {*MILD, *HARD}
    frames = np.random.default_rng(0).integers(0, 256, size=(4, 32, 32, 3), dtype=np.uint8)
    for style in (*MILD, *HARD):
        seen = styled(frames, [5, 6, 7, 8], style)
        assert np.array_equal(seen, frames) is (style == "none")
        np.testing.assert_array_equal(styled(frames[2:], [7, 8], style), seen[2:])
    with pytest.raises(ValueError, match="no style is called 'rain'"):
        styled(frames, [0, 1, 2, 3], "rain")
