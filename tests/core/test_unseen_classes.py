"""Classes that a user never showed stay among the answers: filled up from the source's class means, in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from head_cases import MEANS, MOVED, SHIPPED, D, K, new_head, show, user

from littoral.core.heads import with_one
from littoral.core.personal import PersonalHead
from littoral.core.unseen import imagine_unseen, shown_classes

TWO = (0.6, 0.4, 0.0, 0.0)
SHOWN, LATER = user(400, seed=21, shares=TWO), user(400, seed=22, shares=TWO)
NEVER = user(400, seed=23, shares=(0.0, 0.0, 0.5, 0.5))


@pytest.mark.parametrize(("labelled", "more"), [(1.0, 0.2), (0.0, 0.05)], ids=["labels", "no labels"])
def test_classes_that_never_came_are_still_answered_and_without_the_imagined_frames_they_are_not(
    labelled: float, more: float
) -> None:
    own, never = {}, {}
    for share in (0.0, 0.02):
        head = new_head(least_share=share)
        show(head, SHOWN, labelled=labelled)
        own[share], never[share] = LATER.accuracy(head.fitted()), NEVER.accuracy(head.fitted())
    assert never[0.02] > never[0.0] + more
    assert own[0.02] > own[0.0] - 0.03


def test_the_sums_are_those_of_frames_drawn_around_the_moved_class_means() -> None:
    """Against ten thousand frames that are really drawn."""
    rng = np.random.default_rng(3)
    head = new_head()
    show(head, SHOWN, per_day=400)
    gram, answers, counts_K = head.evidence.total(keep_per_day=1.0)
    filled, targets = gram.copy(), answers.copy()
    total = imagine_unseen(filled, targets, MEANS, least_share=0.1)
    imagined = 0.1 * gram[-1, -1]
    assert total == pytest.approx(gram[-1, -1] + 2 * imagined)
    own = (answers[:-1] / np.maximum(counts_K, 1e-9)).T
    moved = counts_K @ (own - MEANS) / (counts_K.sum() + 10)
    spread = (gram[:-1, :-1] - (own.T * counts_K) @ own) / counts_K.sum()
    drawn, drawn_targets = gram.copy(), answers.copy()
    for k in (2, 3):
        x = with_one(rng.multivariate_normal(MEANS[k] + moved, spread, size=10_000))
        drawn += imagined / 10_000 * x.T @ x
        drawn_targets[:, k] += imagined / 10_000 * x.sum(axis=0)
    np.testing.assert_allclose(filled, drawn, atol=0.15 * imagined)
    np.testing.assert_allclose(targets, drawn_targets, atol=0.15 * imagined)
    assert np.abs(moved - MOVED).max() < 0.5, "the user's own classes say how features moved"


def test_a_user_of_all_classes_is_told_of_none() -> None:
    heads = [new_head(least_share=share) for share in (0.0, 0.02)]
    for head in heads:
        show(head, user(240, seed=1))
    np.testing.assert_array_equal(heads[0].matrix(), heads[1].matrix())


def test_a_day_taken_back_takes_the_frames_imagined_for_it_along() -> None:
    whole, without = new_head(least_share=0.05), new_head(least_share=0.05)
    show(whole, SHOWN)
    show(without, SHOWN, skip=5)
    whole.remove_day(5)
    np.testing.assert_allclose(whole.matrix(), without.matrix(), rtol=0, atol=1e-9)


def test_the_class_means_alone_do_where_the_moments_are_not_at_hand() -> None:
    with_moments = new_head(least_share=0.05)
    alone = PersonalHead(SHIPPED, affine_version=3, seed=1, config=with_moments.config, class_means_KD=MEANS)
    for head in (with_moments, alone):
        show(head, SHOWN)
    np.testing.assert_array_equal(with_moments.matrix(), alone.matrix())


def test_which_classes_were_shown() -> None:
    assert shown_classes(np.array([50.0, 49.0, 1.0, 0.0])).tolist() == [True, True, False, False]
    assert shown_classes(np.zeros(3)).tolist() == [False] * 3


@pytest.mark.parametrize(
    "wrong", [{"means_KD": np.zeros((K, D + 1))}, {"least_share": 1.0}, {"least_share": -0.1}], ids=lambda w: str(*w)
)
def test_what_does_not_fit_is_refused_and_changes_nothing(wrong: dict[str, object]) -> None:
    gram, answers = np.eye(D + 1), np.ones((D + 1, K))
    right: dict[str, object] = {"means_KD": MEANS, "least_share": 0.1}
    with pytest.raises(ValueError, match="class means"):
        imagine_unseen(gram, answers, **{**right, **wrong})  # type: ignore[arg-type]
    np.testing.assert_array_equal(gram, np.eye(D + 1))
    with pytest.raises(ValueError, match="class means"):
        PersonalHead(SHIPPED, affine_version=0, seed=0, class_means_KD=np.zeros((K, D + 1)))
