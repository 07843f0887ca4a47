"""The out-of-user gate: it lets the user's own frames through and stops those of classes that were never shown."""

from __future__ import annotations

import math

import numpy as np
import pytest

from littoral.core.exit_gate import ExitGate, fit_gate, fit_stranger_gate
from littoral.core.heads import LinearHead, SourceMoments, with_one

D, K = 8, 5
RNG = np.random.default_rng(3)
MEANS = RNG.normal(size=(K, D)).astype(np.float32) * 3
MOMENTS = SourceMoments(means_KD=MEANS, covariance_DD=np.eye(D, dtype=np.float32))


def shown(num_frames: int, classes: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=num_frames)
    return (MEANS[labels] + rng.normal(size=(num_frames, D))).astype(np.float32), labels


def gate_of(
    *, held: int = 200, num_frames: int = 300, keep: float = 0.95, classes: tuple[int, ...] = (0, 1)
) -> ExitGate:
    features, labels = shown(num_frames, classes, 1)
    x = with_one(features)
    return fit_gate(x.T @ x, x.T @ np.eye(K)[labels], MOMENTS, shown(held, classes, 2)[0], keep=keep)


def test_it_keeps_the_share_of_the_users_frames_that_was_asked_for() -> None:
    for keep in (0.8, 0.95):
        assert gate_of(keep=keep).lets(shown(4000, (0, 1), 4)[0]).mean() == pytest.approx(keep, abs=0.04)


def test_it_stops_classes_that_were_never_shown_and_does_not_when_they_were() -> None:
    strangers = shown(1000, (2, 3, 4), 5)[0]
    assert gate_of().lets(strangers).mean() < 0.1
    assert gate_of(classes=(0, 1, 2, 3, 4)).lets(strangers).mean() > 0.9


def test_with_too_few_held_back_frames_it_is_open() -> None:
    strangers = shown(50, (2, 3, 4), 5)[0]
    assert gate_of(held=18).limit == math.inf
    assert gate_of(held=18).lets(strangers).all()
    assert not gate_of(held=19).lets(strangers).all()


def test_a_frame_that_is_not_finite_never_passes() -> None:
    bad = np.full(D, np.nan, dtype=np.float32)
    assert gate_of()(bad) is False
    assert gate_of()(MEANS[0]) is True


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"keep": 1.0}, "0 < keep < 1"),
        ({"held_ND": np.zeros((3, D + 1))}, "held-back frames are"),
        ({"targets_AK": np.zeros((D + 1, K))}, "no class was shown"),
        ({"targets_AK": np.zeros((D + 1, K + 1))}, "do not fit"),
    ],
    ids=["keep", "held", "nothing-shown", "classes"],
)
def test_what_makes_no_gate_is_refused(change: dict[str, object], why: str) -> None:
    x = with_one(MEANS)
    given = {"gram_AA": x.T @ x, "targets_AK": x.T @ np.eye(K), "moments": MOMENTS, "held_ND": MEANS} | change
    with pytest.raises(ValueError, match=why):
        fit_gate(**given)  # type: ignore[arg-type]


HEAD = LinearHead(weights_KD=MEANS, bias_K=(-0.5 * (MEANS**2).sum(axis=1)).astype(np.float32))
TWO_SHOWN = np.array([150.0, 140.0, 1.0, 0.0, 0.0])


def test_the_shipped_heads_word_stops_classes_that_were_never_shown_and_keeps_the_users_own() -> None:
    gate = fit_stranger_gate(HEAD, TWO_SHOWN, shown(200, (0, 1), 2)[0])
    assert gate.never_K.tolist() == [False, False, True, True, True]
    own, strangers = shown(4000, (0, 1), 4)[0], shown(1000, (2, 3, 4), 5)[0]
    assert gate.lets(own).mean() > 0.97
    assert gate.lets(strangers).mean() < 0.2
    assert gate(own[0]) == gate.lets(own)[0]
    assert not gate.lets(np.full((1, D), np.nan, dtype=np.float32)).any()


@pytest.mark.parametrize(
    ("counts", "held"), [(np.ones(K), 200), (TWO_SHOWN, 90), (TWO_SHOWN, 0)], ids=["all shown", "few held", "none held"]
)
def test_where_there_is_nothing_to_watch_or_too_little_to_say_how_the_gate_is_open(
    counts: np.ndarray, held: int
) -> None:
    gate = fit_stranger_gate(HEAD, counts, shown(held, (0, 1), 2)[0])
    assert gate.limit == math.inf
    assert gate.lets(shown(50, (2, 3, 4), 5)[0]).all()


def test_a_stranger_gate_of_other_shapes_is_refused() -> None:
    for counts, features, keep in ((np.ones(K + 1), D, 0.99), (np.ones(K), D + 1, 0.99), (np.ones(K), D, 1.0)):
        with pytest.raises(ValueError, match="expected counts"):
            fit_stranger_gate(HEAD, counts, np.zeros((10, features), dtype=np.float32), keep=keep)
