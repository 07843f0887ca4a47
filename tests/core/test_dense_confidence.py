"""How sure an exit is of a whole frame."""

from __future__ import annotations

import math

import numpy as np
import pytest

from littoral.core.dense_exits import dense_confidence, pixel_disagreement, pixel_error
from littoral.core.exits import confidence, leaves


def scores_of(*probabilities: float) -> np.ndarray:
    """One frame of two classes, the second of these probabilities at its pixels."""
    p = np.array(probabilities)
    return np.log(np.stack([1 - p, p]))[None, :, None, :].astype(np.float64)


def test_the_mean_is_that_of_the_pixels_confidences() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    one_by_one = [confidence(scores[b, :, h, w], temperature=2.0) for b in range(3) for h in range(5) for w in range(6)]
    means = np.array(one_by_one).reshape(3, -1).mean(axis=1)
    np.testing.assert_allclose(dense_confidence(scores, temperature=2.0), means, rtol=1e-12)


def test_a_few_unsure_pixels_move_the_lower_quantile_and_not_the_mean() -> None:
    calm, doubtful = scores_of(*[0.99] * 100), scores_of(*[0.5] * 12, *[0.99] * 88)
    by_mean = dense_confidence(calm) - dense_confidence(doubtful)
    by_quantile = dense_confidence(calm, over="quantile") - dense_confidence(doubtful, over="quantile")
    assert by_mean[0] < 0.1 < 0.4 < by_quantile[0]


def test_the_sure_share_counts_pixels_from_the_limit_on() -> None:
    frame = scores_of(0.95, 0.95, 0.05, 0.6)
    assert dense_confidence(frame, over="sure_share", sure=0.9)[0] == pytest.approx(0.75)


def test_one_pixel_that_is_no_number_keeps_the_frame_from_leaving_and_no_other() -> None:
    scores = np.concatenate([scores_of(0.99, 0.99), scores_of(0.99, 0.99)])
    scores[0, 1, 0, 1] = math.nan
    for over in ("mean", "quantile", "sure_share"):
        broken, fine = dense_confidence(scores, over=over)  # type: ignore[arg-type]
        assert not leaves(broken, 0.0)
        assert leaves(fine, 0.9)


@pytest.mark.parametrize(
    ("scores", "more", "says"),
    [
        (np.zeros((2, 3)), {}, "scores"),
        (np.zeros((1, 3, 0, 4)), {}, "at least a pixel"),
        (scores_of(0.5), {"over": "median"}, "median"),
        (scores_of(0.5), {"quantile": 1.5}, "1.5"),
    ],
    ids=["axes", "no pixel", "word", "quantile"],
)
def test_what_makes_no_sense_is_refused(scores: np.ndarray, more: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dense_confidence(scores, **more)  # type: ignore[arg-type]


def test_pixels_without_a_truth_are_no_errors_and_still_disagree() -> None:
    answer, other = np.array([[0, 1, 1, 1]], np.uint8), np.array([[0, 1, 0, 2]], np.uint8)
    assert pixel_disagreement(answer, other) == 0.5
    assert pixel_error(answer, other, ignored_label=2) == pytest.approx(1 / 3)
    assert pixel_error(answer, np.full((1, 4), 255, np.uint8)) == 0.0
    with pytest.raises(ValueError, match="one size"):
        pixel_error(answer, other[:, :3])
