"""What is in force at the exits, and the ring of frames that says whether it may be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from head_cases import SHIPPED, D, K, user

from littoral.core.calibration_ring import NO_LABEL, CalibrationRing, MemorySlots, RingFrame, as_half
from littoral.core.exit_control import early_loss
from littoral.core.exit_policy import ExitPolicy, ServedExit, Spoken
from littoral.core.exits import OFF, confidence
from littoral.core.heads import LinearHead

FRAMES = user(40, seed=9)
OTHER = LinearHead(weights_KD=-SHIPPED.weights_KD, bias_K=SHIPPED.bias_K)


def policy(*, deep: bool = False, personal: bool = False) -> ExitPolicy:
    early = (ServedExit(head=SHIPPED, temperature=2.0, threshold=0.9), ServedExit(head=OTHER, threshold=0.8))
    last = (ServedExit(head=OTHER, personal=personal),) if deep else ()
    return ExitPolicy(affine_version=3, exits=early + last, has_deep=deep, checking=False)


def kept(ring: CalibrationRing, num_frames: int, *, start: int = 0, day: int = 0) -> None:
    for i in range(start, start + num_frames):
        row = np.tile(FRAMES.features[i % 40], len(ring.sizes))
        ring.add(RingFrame(frame_id=i, affine_version=3, day=day, shipped=i % K, features=as_half(row)))


def test_one_frame_and_many_are_answered_alike_and_as_the_rules_say() -> None:
    each = policy().exits[0]
    sure, answers = each.answers(FRAMES.features)
    for row, features in enumerate(FRAMES.features):
        spoken = each.answer(features)
        assert (spoken.label, spoken.confidence) == (answers[row], pytest.approx(sure[row], abs=1e-6))
        np.testing.assert_allclose(spoken.logits_K, SHIPPED.logits(features) / 2, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sure, confidence(SHIPPED.logits(FRAMES.features), temperature=2.0), atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_frame_whose_logits_are_not_finite_goes_on(value: float) -> None:
    features = FRAMES.features[:3].copy()
    features[1, 0] = value
    each = replace(policy().exits[0], threshold=0.0)
    with np.errstate(invalid="ignore"):
        sure, _ = each.answers(features)
        assert [each.answer(row).confidence >= each.threshold for row in features] == [True, False, True]
    assert (sure >= 0).tolist() == [True, False, True]


def test_a_frame_outside_the_gate_goes_on_and_is_scored_so() -> None:
    each = replace(policy().exits[0], threshold=0.0, gate=lambda row: bool(row[0] > FRAMES.features[0, 0]))
    inside = FRAMES.features[:, 0] > FRAMES.features[0, 0]
    assert [each.answer(row).confidence >= 0 for row in FRAMES.features] == inside.tolist()
    assert (each.answers(FRAMES.features)[0] >= 0).tolist() == inside.tolist()
    assert 0 < inside.sum() < 40


def test_where_the_deep_exits_gate_is_shut_the_networks_own_classifier_answers() -> None:
    on = policy(deep=True, personal=True)
    shut = replace(on, exits=(*on.exits[:2], replace(on.exits[2], gate=lambda row: False)))
    assert on.deep is not None
    assert shut.deep is not None
    spoken = [each.deep.answer(FRAMES.features[0]) for each in (on, shut)]  # type: ignore[union-attr]
    assert [s.entropy_nats == s.entropy_nats for s in spoken] == [True, False]
    ring = CalibrationRing(40, (D, D, D))
    kept(ring, 40)
    own, network = (ring.scores(each).answers_NE[:, -1].tolist() for each in (on, shut))
    assert network == [i % K for i in range(40)]
    assert own != network


def test_a_policy_that_is_off_has_the_same_heads_and_no_threshold() -> None:
    on = policy(deep=True, personal=True)
    off = on.off()
    assert (off.checking, off.thresholds, on.thresholds) == (True, (OFF, OFF), (0.9, 0.8))
    assert [each.head for each in off.exits] == [each.head for each in on.exits]
    assert (off.serving((0.7, OFF)).thresholds, off.serving((0.7, OFF)).checking) == ((0.7, OFF), False)
    assert (on.num_early, on.num_exits, on.deep) == (2, 3, on.exits[2])
    assert policy(deep=True).deep is None, "the shipped deep head is the network's own classifier"
    with pytest.raises(ValueError, match="3 thresholds came for 2 exits"):
        on.serving((0.5,) * 3)


def test_thresholds_and_temperatures_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        ServedExit(head=SHIPPED, threshold=np.nan)
    with pytest.raises(ValueError, match="positive and finite"):
        ServedExit(head=SHIPPED, temperature=0.0)
    with pytest.raises(ValueError, match="an exit that comes before"):
        ExitPolicy(affine_version=0, exits=(ServedExit(head=SHIPPED),), has_deep=True)


def said(label: int, confidence: float) -> Spoken:
    return Spoken((), label, confidence, 0.0)


def test_an_audit_counts_the_first_exit_that_is_sure() -> None:
    on = policy()
    assert early_loss([said(1, 0.95), said(2, 0.99)], on, 2) == (True, 1.0)
    assert early_loss([said(2, 0.95), said(1, 0.99)], on, 2) == (True, 0.0)
    assert early_loss([said(1, 0.1), said(2, 0.85)], on, 2) == (True, 0.0)
    assert early_loss([said(1, np.nan), said(1, 0.5)], on, 2) == (False, 0.0)


# The ring.


@pytest.mark.parametrize("deep", [False, True], ids=["no-deep-exit", "deep-exit"])
@pytest.mark.parametrize("num_frames", [5, 16, 50])
def test_a_ring_scores_its_newest_frames_in_their_order(num_frames: int, deep: bool) -> None:
    on = policy(deep=deep, personal=True)
    ring = CalibrationRing(40, [D] * on.num_exits)
    kept(ring, num_frames)
    ids = np.arange(max(num_frames - 40, 0), num_frames)
    assert [frame.frame_id for frame in ring.frames()] == ids.tolist()
    scores = ring.scores(on)
    features = as_half(FRAMES.features[ids % 40])
    for i in range(2):
        sure, answers = on.exits[i].answers(features)
        np.testing.assert_array_equal(scores.answers_NE[:, i], answers)
        np.testing.assert_array_equal(scores.confidences_NE[:, i], sure)
    np.testing.assert_array_equal(scores.shipped_N, ids % K)
    own = on.exits[2].answers(features)[1] if deep else ids % K
    np.testing.assert_array_equal(scores.answers_NE[:, -1], own)
    assert set(scores.labels_N) == {NO_LABEL}


def test_a_label_reaches_its_frame_while_it_is_there() -> None:
    ring = CalibrationRing(4, [D])
    kept(ring, 6)
    assert [ring.label(i, 3) for i in (0, 1, 2, 5, 6, -1)] == [False, False, True, True, False, False]
    assert [frame.label for frame in ring.frames()] == [3, NO_LABEL, NO_LABEL, 3]
    assert [i in ring for i in (1, 2)] == [False, True]


def test_a_day_is_taken_out_of_the_ring_and_its_bytes_with_it() -> None:
    class Seen(MemorySlots):
        def everything(self) -> bytes:
            return b"".join(self.read(slot) for slot in range(6))

    slots = Seen()
    ring = CalibrationRing(6, [D], slots=slots)
    kept(ring, 3, day=1)
    kept(ring, 3, start=3, day=2)
    secret = as_half(FRAMES.features[1]).tobytes()
    assert secret in slots.everything()
    assert (ring.remove_day(1), ring.remove_day(1), len(ring)) == (3, 0, 3)
    assert secret not in slots.everything()
    assert [frame.frame_id for frame in ring.frames()] == [3, 4, 5]
    kept(ring, 2, start=10, day=3)
    assert [frame.frame_id for frame in ring.frames()] == [3, 4, 5, 10, 11]
    ring.clear()
    assert (len(ring), list(ring.frames()), slots.everything().strip(b"\0")) == (0, [], b"")


def test_a_frame_of_other_features_is_refused() -> None:
    with pytest.raises(ValueError, match=f"expected {2 * D} features"):
        kept(CalibrationRing(4, [2 * D]), 1)
