"""The head that follows one user: it learns, gives days back exactly, protects its user, and stays small."""

from __future__ import annotations

import tracemalloc
from copy import deepcopy
from io import BytesIO
from typing import get_args

import numpy as np
import pytest
from head_cases import MOVED, SHIPPED, D, K, new_head, show, user
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.evidence import DaySums
from littoral.core.head_memory import FeatureMap
from littoral.core.head_state import read_state, to_bytes, write_state
from littoral.core.heads import Fit, LinearHead, softmax64
from littoral.core.personal import PersonalConfig, PersonalHead

FITS = get_args(Fit)
CLOSED = ("onehot", "logits", "lda")
FRAMES, LATER = user(240, seed=1), user(400, seed=2)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("labelled", [1.0, 0.0], ids=["labels", "no-labels"])
def test_it_learns_its_user_with_labels_and_without(fit: Fit, labelled: float) -> None:
    head = new_head(fit=fit)
    assert LATER.accuracy(head.fitted()) == pytest.approx(LATER.accuracy(SHIPPED), abs=0.02)
    show(head, FRAMES, labelled=labelled)
    serving, judgement = head.refresh()
    assert judgement.serves
    assert LATER.accuracy(serving) > LATER.accuracy(SHIPPED) + 0.1


@pytest.mark.parametrize("fit", CLOSED)
@given(day=st.integers(1, 5), labelled=st.sampled_from([0.0, 0.3, 1.0]), keep=st.sampled_from([1.0, 0.8]))
@settings(max_examples=3, deadline=None)
def test_without_a_day_the_head_is_exactly_the_one_that_never_saw_it(
    fit: Fit, day: int, labelled: float, keep: float
) -> None:
    """The sixth day is still open; in five held days and one older sum, day 0 alone is the sum."""
    whole, without = (new_head(fit=fit, max_days=5, keep_per_day=keep) for _ in range(2))
    show(whole, FRAMES, labelled=labelled)
    show(without, FRAMES, labelled=labelled, skip=day)
    before = whole.matrix()
    whole.remove_day(day)
    np.testing.assert_allclose(whole.matrix(), without.matrix(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(whole.class_shares(), without.class_shares(), rtol=0, atol=1e-12)
    assert np.abs(before - without.matrix()).max() > 1e-4  # the day had left its mark
    assert day not in set(whole.memory.days[: len(whole.memory)]) | set(whole.held.days[: len(whole.held)])


def test_a_day_in_the_sum_of_older_ones_is_not_taken_back_alone_and_all_of_them_are_together() -> None:
    head, later = new_head(max_days=2), new_head(max_days=2)
    show(head, FRAMES)
    with pytest.raises(ValueError, match="days 0 to 3 are one sum"):
        head.remove_day(2)
    with pytest.raises(ValueError, match="nothing of day 9"):
        head.remove_day(9)
    head.remove_older()
    for i in range(160, 240):
        later.observe(FRAMES.features[i], day=i // 40, affine_version=3, label=int(FRAMES.labels[i]))
    np.testing.assert_allclose(head.matrix(), later.matrix(), rtol=0, atol=1e-9)


def test_taking_back_every_day_leaves_the_shipped_head() -> None:
    head = new_head()
    show(head, FRAMES)
    for day in range(6):
        head.remove_day(day)
    np.testing.assert_array_equal(head.fitted().weights_KD, SHIPPED.weights_KD)
    serving, judgement = head.refresh()
    assert serving is SHIPPED
    assert judgement.num_frames == len(head.memory) == 0


def misled(head: PersonalHead, *, first: int = 0, num_frames: int = 240, day: int = 0) -> None:
    """A deep exit that is sure of the wrong answer every time, and labels, which weigh little here, that are right."""
    for i in range(first, first + num_frames):
        wrong = np.eye(K)[(FRAMES.labels[i % 240] + 1) % K]
        head.observe(FRAMES.features[i % 240], day=day, affine_version=3, deep_K=wrong)
        if i % 2 == 0:  # the user's own word is held back every fifth time
            head.observe(FRAMES.features[i % 240], day=day, affine_version=3, label=int(FRAMES.labels[i % 240]))


def test_a_head_that_does_harm_does_not_serve_and_with_the_protection_off_it_does() -> None:
    accuracies = {}
    for protected in (True, False):
        head = new_head(fit="onehot", protected=protected, label_weight=0.1)
        misled(head)
        serving, judgement = head.refresh()
        assert judgement.serves is not protected
        accuracies[protected] = LATER.accuracy(serving)
    assert accuracies[True] == LATER.accuracy(SHIPPED)
    assert accuracies[False] < accuracies[True] - 0.1


def test_a_head_that_served_is_rolled_back_when_it_turns_bad_and_not_for_one_unlucky_frame() -> None:
    head = new_head(fit="onehot", label_weight=0.1)
    show(head, FRAMES)
    assert head.refresh()[1].serves
    good = head.fitted()
    head.held.answers[0] = (head.held.answers[0] + 1) % K
    assert head.judge(good).serves
    misled(head, day=6)
    serving, judgement = head.refresh()
    assert serving is SHIPPED
    assert judgement.p_harm_is_luck <= head.config.harm
    assert not judgement.serves


@pytest.mark.parametrize("understood", [True, False], ids=["understood", "not understood"])
def test_the_head_of_the_exit_that_teaches_serves_without_labels_where_it_agrees_with_the_teacher(
    understood: bool,
) -> None:
    """A sign test could never let it in: the held-back answers are the shipped head's own."""
    frames = user(240, seed=1, sure=5.0)
    if not understood:  # what the teacher says has nothing to do with what the features are
        frames.deep = np.random.default_rng(4).permutation(frames.deep)
    for teaches in (True, False):
        head = new_head()
        head.teaches = teaches
        for i, features in enumerate(frames.features):
            own = softmax64(3 * SHIPPED.logits(features)) if understood else frames.deep[i]
            head.observe(features, day=0, affine_version=3, deep_K=own)
        judgement = head.refresh()[1]
        assert judgement.serves is ((teaches and understood) or (not teaches and judgement.p_luck <= head.config.luck))


def test_labels_that_speak_against_the_head_of_the_exit_that_teaches_outweigh_its_agreement() -> None:
    served = []
    for wrong in (0, 1):
        head = new_head(agree=0.5, min_held=10)
        head.teaches = True
        for i in range(300):
            given = int(SHIPPED.logits(FRAMES.features[i % 240]).argmax())
            head.observe(FRAMES.features[i % 240], day=0, affine_version=3, deep_K=np.eye(K)[given])
        fitted = head.fitted()
        apart = np.flatnonzero(
            fitted.logits(LATER.features).argmax(axis=1) != SHIPPED.logits(LATER.features).argmax(axis=1)
        )
        for i in apart[:14]:
            judges = SHIPPED if wrong else fitted
            answer = int(judges.logits(LATER.features[i]).argmax())
            head.held.add(LATER.features[i], answer, labelled=True, day=0)
        served.append(head.judge(fitted).serves)
    assert served == [True, False]


def test_with_few_held_back_frames_the_shipped_head_serves() -> None:
    head = new_head()
    for i in range(5 * 19):
        head.observe(FRAMES.features[i], day=0, affine_version=3, label=int(FRAMES.labels[i]))
    assert len(head.held) == 19
    assert head.refresh()[0] is SHIPPED
    for i in range(5):
        head.observe(FRAMES.features[i], day=0, affine_version=3, label=int(FRAMES.labels[i]))
    assert head.refresh()[0] is not SHIPPED


def test_frames_that_judge_never_teach() -> None:
    head = new_head(memory_frames=300, hold_back_every=4)
    used = []
    for i, features in enumerate(FRAMES.features):
        used.append(head.observe(features, day=0, affine_version=3, label=int(FRAMES.labels[i])))
    assert used == [(i + 1) % 4 != 0 for i in range(240)]
    taught = {row.tobytes() for row in head.memory.features[: len(head.memory)]}
    assert not taught & {row.tobytes() for row in head.held.features[: len(head.held)]}


def test_a_deep_exit_that_is_not_sure_of_a_frame_or_of_a_day_teaches_nothing() -> None:
    flat = np.full(K, 1 / K)
    head = new_head()
    assert not head.observe(FRAMES.features[0], day=0, affine_version=3, deep_K=flat)
    assert not head.observe(FRAMES.features[0], day=0, affine_version=3)
    unsure = np.array([0.55, 0.15, 0.15, 0.15])
    for healthy, learns in ((0.6, False), (0.0, True)):
        head = new_head(healthy=healthy)
        shown = [np.roll(unsure, i) for i in range(200)]
        used = [head.observe(FRAMES.features[i], day=0, affine_version=3, deep_K=p) for i, p in enumerate(shown)]
        assert any(used[150:]) is learns


def test_a_label_outweighs_the_deep_exits_answer() -> None:
    heads = [new_head(), new_head()]
    for i in range(100):
        wrong = np.eye(K)[(FRAMES.labels[i] + 1) % K]
        heads[0].observe(FRAMES.features[i], day=0, affine_version=3, label=int(FRAMES.labels[i]), deep_K=wrong)
        heads[1].observe(FRAMES.features[i], day=0, affine_version=3, label=int(FRAMES.labels[i]))
    np.testing.assert_array_equal(heads[0].matrix(), heads[1].matrix())


def test_a_frame_that_stands_for_three_counts_like_three() -> None:
    one, three = new_head(hold_back_every=1000), new_head(hold_back_every=1000)
    for i in range(50):
        one.observe(FRAMES.features[i], day=0, affine_version=3, label=int(FRAMES.labels[i]), stands_for=3)
        for _ in range(3):
            three.observe(FRAMES.features[i], day=0, affine_version=3, label=int(FRAMES.labels[i]))
    np.testing.assert_allclose(one.matrix(), three.matrix(), atol=1e-9)


@pytest.mark.parametrize("fit", ["onehot", "logits"])
def test_the_pull_of_the_shipped_head_bounds_how_far_the_personal_one_goes(fit: Fit) -> None:
    away = []
    for prior_frames in (1.0, 1e9):
        head = new_head(fit=fit, prior_frames=prior_frames)
        show(head, FRAMES)
        away.append(float(np.abs(head.matrix() - SHIPPED.matrix()).max()))
    assert away == sorted(away, reverse=True)
    assert away[0] > 0.5
    assert away[-1] < 1e-3


def test_class_shares_alone_already_help_a_user_of_few_classes() -> None:
    shown, later = (user(n, seed=s, shares=(0.8, 0.2, 0.0, 0.0)) for n, s in ((200, 8), (400, 9)))
    head = new_head()
    assert head.prior_corrected() is SHIPPED
    show(head, shown, labelled=0.0)
    corrected = head.prior_corrected()
    np.testing.assert_array_equal(corrected.weights_KD, SHIPPED.weights_KD)
    assert later.accuracy(corrected) > later.accuracy(SHIPPED) + 0.02
    assert head.class_shares().min() >= head.config.prior.floor / K - 1e-12


@pytest.mark.parametrize(
    "wrong",
    [
        {"affine_version": 4},
        {"features_D": np.zeros(D + 1, dtype=np.float32)},
        {"features_D": np.full(D, np.nan, dtype=np.float32)},
        {"label": K},
        {"label": -1},
        {"deep_K": np.full(K, 0.5)},
        {"deep_K": np.array([2.0, -1.0, 0.0, 0.0])},
        {"deep_K": np.full(K, np.nan)},
        {"day": 4},
        {"day": 1 << 40},
        {"stands_for": 0},
        {"stands_for": np.inf},
    ],
    ids=lambda wrong: " ".join(wrong),
)
def test_a_frame_that_does_not_fit_is_refused_and_changes_nothing(wrong: dict[str, object]) -> None:
    head = new_head()
    show(head, FRAMES)
    before = to_bytes(head)
    right = {"features_D": FRAMES.features[0], "day": 5, "affine_version": 3, "label": 0}
    with pytest.raises(ValueError, match=r".+"):
        head.observe(**{**right, **wrong})  # type: ignore[arg-type]
    assert to_bytes(head) == before


@pytest.mark.parametrize("fit", CLOSED)
def test_rebased_on_features_that_stayed_a_head_stays_and_its_days_can_still_be_taken_back(fit: Fit) -> None:
    head = new_head(fit=fit, memory_frames=240)
    show(head, FRAMES, labelled=0.5)
    head.refresh()
    moved = deepcopy(head)
    moved.rebase(4)
    np.testing.assert_allclose(moved.matrix(), head.matrix(), atol=0.04)
    assert (moved.affine_version, moved.personal_serves) == (4, False)
    moved.remove_day(2)
    head.remove_day(2)
    np.testing.assert_allclose(moved.matrix(), head.matrix(), atol=0.04)


def test_rebased_with_a_map_it_fits_the_new_features_and_without_it_does_not() -> None:
    """The new version takes back how this user's features had moved, and scales them."""
    head = new_head(fit="onehot", memory_frames=96)
    show(head, FRAMES)
    scale = np.full(D, 0.5, dtype=np.float32)
    new_features = (LATER.features - MOVED) * scale
    old = LATER.accuracy(head.fitted())
    heads = deepcopy(head), deepcopy(head)
    heads[0].rebase(4, feature_map=FeatureMap(scale_D=scale, shift_D=-MOVED * scale))
    heads[1].rebase(4)
    right = [(h.fitted().logits(new_features).argmax(axis=1) == LATER.labels).mean() for h in heads]
    assert right[0] > old - 0.05
    assert right[1] < right[0] - 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        {"affine_version": -1},
        {"shipped": LinearHead(weights_KD=np.zeros((K, D + 1), np.float32), bias_K=np.zeros(K, np.float32))},
        {"feature_map": FeatureMap(scale_D=np.ones(D + 1, np.float32), shift_D=np.zeros(D + 1, np.float32))},
        {"feature_map": FeatureMap(scale_D=np.full(D, np.nan, np.float32), shift_D=np.zeros(D, np.float32))},
    ],
    ids=["version", "head", "map's size", "map's values"],
)
def test_a_rebase_that_cannot_be_is_refused_and_changes_nothing(wrong: dict[str, object]) -> None:
    head = new_head()
    show(head, FRAMES)
    before = to_bytes(head)
    with pytest.raises(ValueError, match=r".+"):
        head.rebase(**{"affine_version": 4, **wrong})  # type: ignore[arg-type]
    assert to_bytes(head) == before


def test_the_same_frames_and_seed_make_the_same_state_and_another_seed_another_memory() -> None:
    heads = [new_head(seed=seed, memory_frames=50) for seed in (7, 7, 8)]
    for head in heads:
        show(head, FRAMES)
    same, again, other = (to_bytes(head) for head in heads)
    assert same == again
    assert not np.array_equal(heads[0].memory.features, heads[2].memory.features)
    np.testing.assert_array_equal(heads[0].matrix(), heads[2].matrix())  # in closed form no draw counts
    assert other != same


def peak_extra_bytes(config: PersonalConfig, num_frames: int) -> int:
    rng = np.random.default_rng(0)
    shipped = LinearHead(weights_KD=np.zeros((10, 64), np.float32), bias_K=np.zeros(10, np.float32))
    features = rng.normal(size=(num_frames, 64)).astype(np.float32)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        head = PersonalHead(
            shipped, affine_version=0, seed=1, config=config, class_means_KD=np.ones((10, 64), np.float16)
        )
        for i, row in enumerate(features):
            head.observe(row, day=i * 10 // num_frames, affine_version=0, label=i % 8)
        head.refresh()
        write_state(head, len)
        head.rebase(1, feature_map=FeatureMap(scale_D=np.ones(64, np.float32), shift_D=np.zeros(64, np.float32)))
        assert isinstance(head.evidence.older, DaySums)  # more days than are held one by one: the fullest it gets
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    file = BytesIO(to_bytes(head))
    del head
    tracemalloc.start()
    try:
        read_state(file.read, shipped=shipped, config=config)
        return max(peak, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def test_all_that_a_head_needs_fits_in_256_kilobytes_and_with_a_larger_memory_it_does_not() -> None:
    assert peak_extra_bytes(PersonalConfig(), 150) <= 256 * 1024
    assert peak_extra_bytes(PersonalConfig(memory_frames=1000), 30) > 256 * 1024


def twenty_users() -> list[tuple[float, float]]:
    """Of users that hardly differ from the source, the gain of what serves, protected and not: luck is all there is."""
    gains = []
    for seed in range(20):
        shown, later = (user(150, seed=100 + seed, shares=(0.25,) * K), user(1500, seed=500 + seed, shares=(0.25,) * K))
        for frames in (shown, later):
            frames.features -= MOVED
        head = new_head(fit="onehot", prior_frames=1.0)
        show(head, shown, per_day=150)
        served, fitted = head.refresh()[0], head.fitted()
        base = later.accuracy(SHIPPED)
        gains.append((later.accuracy(served) - base, later.accuracy(fitted) - base))
    return gains


def test_no_user_ends_more_than_a_point_below_the_shipped_head_and_unprotected_some_do() -> None:
    protected, unprotected = np.array(twenty_users()).T
    assert protected.min() >= -0.01
    assert unprotected.min() < -0.01
