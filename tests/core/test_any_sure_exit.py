"""The promise of early exits where a router may leave at any exit that is sure, or at none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from littoral.core.arrays import Float64s, Indices
from littoral.core.calibration_ring import NO_LABEL, RingScores
from littoral.core.exit_choice import choose_exits, worst_first
from littoral.core.exit_control import ControlConfig, alarm_level, certify, early_loss
from littoral.core.exit_policy import ExitPolicy, ServedExit, Spoken
from littoral.core.exits import OFF, ExitCosts
from littoral.core.heads import LinearHead
from littoral.core.risk import Certified

CONFIG = ControlConfig(risk=0.1, min_calibration=200, ring_frames=2000)


def scores(rng: np.random.Generator, num_frames: int, *, labelled: bool = False) -> RingScores:
    """Exit 0 is nearly always right; exit 1 is less sure, and wrong in a quarter of the frames."""
    sure = np.ones((num_frames, 3))
    sure[:, 0], sure[:, 1] = rng.uniform(0.8, 1, num_frames), rng.uniform(0.5, 0.9, num_frames)
    answers = np.zeros((num_frames, 3), dtype=np.intp)
    answers[:, 0] = rng.random(num_frames) < 0.01
    answers[:, 1] = rng.random(num_frames) < 0.25
    labels = np.full(num_frames, 0 if labelled else NO_LABEL, dtype=np.intp)
    return RingScores(
        confidences_NE=sure, answers_NE=answers, shipped_N=np.zeros(num_frames, dtype=np.intp), labels_N=labels
    )


@dataclass(frozen=True)
class Worst:
    """A router that always picks the wrong exit. Frames on which no early exit errs are only counted."""

    sure_ME: Float64s
    """How sure the early exits are of another answer than the end's; below every threshold where they have its own."""
    num_frames: int

    @classmethod
    def on(cls, frames: RingScores) -> Worst:
        wrong_NE = frames.answers_NE[:, :-1] != frames.answers_NE[:, -1:]
        sure_NE = np.where(wrong_NE, frames.confidences_NE[:, :-1], -np.inf)
        return cls(sure_NE[wrong_NE.any(axis=1)], len(sure_NE))

    def risk(self, thresholds: tuple[float, ...]) -> float:
        """The share of frames whose answer is another than the end's."""
        return int((self.sure_ME >= np.array(thresholds)).any(axis=1).sum()) / self.num_frames


@pytest.mark.parametrize("labelled", [False, True], ids=["agreement", "labels"])
def test_whatever_a_router_picks_among_the_exits_that_are_sure_the_risk_is_what_was_promised(labelled: bool) -> None:
    world = Worst.on(scores(np.random.default_rng(99), 200_000))
    broken = 0
    for seed in range(60):
        found = certify(scores(np.random.default_rng(seed), 1000, labelled=labelled), CONFIG, any_sure=True)
        broken += world.risk(found.thresholds) > CONFIG.risk
    assert broken <= 0.1 * 60


def test_thresholds_certified_for_the_first_exit_that_is_sure_do_not_hold_for_a_router() -> None:
    """Negative control."""
    world = Worst.on(scores(np.random.default_rng(99), 200_000))
    found = certify(scores(np.random.default_rng(0), 1000), CONFIG)
    assert isinstance(found, Certified)
    assert world.risk(found.thresholds) > 2 * CONFIG.risk


def test_the_alarm_of_a_routed_device_counts_the_worst_exit_too() -> None:
    ring = scores(np.random.default_rng(0), 1000)
    found = Certified(
        thresholds=(0.6, 0.6), level=0, delta=0.1, procedure="betting", num_frames=1000, empirical_risk=0, step=9
    )
    assert alarm_level(found, ring, CONFIG) == CONFIG.risk
    assert alarm_level(found, ring, CONFIG, any_sure=True) > 0.2


def test_the_order_makes_the_first_sure_exit_the_worst_one_and_raising_a_threshold_never_hurts() -> None:
    rng = np.random.default_rng(5)
    sure_NE: Float64s = np.concatenate([rng.random((500, 3)), np.ones((500, 1))], axis=1)
    losses_NE: Float64s = rng.integers(-1, 2, (500, 4)).astype(np.float64)
    confidences, losses = worst_first(sure_NE, losses_NE)

    def loss_at(threshold: float) -> Float64s:
        fires = confidences >= np.array([threshold] * 3 + [0.0])
        first: Indices = fires.argmax(axis=1)
        taken: Float64s = losses[np.arange(500), first]
        return taken

    before = np.full(500, np.inf)
    for threshold in (0.1, 0.4, 0.8, OFF):
        open_NE = np.concatenate([sure_NE[:, :3] >= threshold, np.ones((500, 1), dtype=bool)], axis=1)
        expected = np.where(open_NE, losses_NE, -np.inf).max(axis=1)
        np.testing.assert_array_equal(loss_at(threshold), expected)
        assert (loss_at(threshold) <= before).all()
        before = loss_at(threshold)


def test_an_audit_of_a_routed_frame_counts_any_sure_exit_that_is_wrong() -> None:
    head = LinearHead(weights_KD=np.eye(2, dtype=np.float32), bias_K=np.zeros(2, dtype=np.float32))
    policy = ExitPolicy(affine_version=0, exits=(ServedExit(head=head),) * 2).serving((0.9, 0.9))
    for answers, sure, first, worst in (
        ([1, 0], [0.95, 0.95], 0.0, 1.0),
        ([0, 1], [0.95, 0.95], 1.0, 1.0),
        ([1, 0], [0.95, 0.5], 0.0, 0.0),
        ([0, 0], [float("nan"), 0.5], 0.0, 0.0),
    ):
        spoken = [Spoken((), label, confidence, 0.0) for label, confidence in zip(answers, sure, strict=True)]
        assert early_loss(spoken, policy, 1)[1] == first
        assert early_loss(spoken, policy, 1, any_sure=True)[1] == worst


def test_a_router_too_keeps_the_exits_that_pay_and_of_these_the_worst_counts() -> None:
    """Exit 1 is sure and wrong; with it nothing is certified, without it nearly all frames may leave at exit 0."""
    rng = np.random.default_rng(3)
    ring = scores(rng, 600)
    wrong = replace(ring, confidences_NE=np.where([False, True, False], 1.0, ring.confidences_NE))
    assert not isinstance(certify(wrong, CONFIG, any_sure=True), Certified)
    costs = ExitCosts(segment_macs=(100, 100, 800), head_macs=(1, 1, 1))
    found = choose_exits(
        wrong.confidences_NE,
        (wrong.answers_NE != wrong.answers_NE[:, -1:]).astype(np.float64),
        costs,
        max_risk=CONFIG.risk,
        any_sure=True,
    )
    assert found is not None
    assert found.kept == (True, False)
    certified = certify(wrong, CONFIG, any_sure=True, kept=found.kept, costs=costs)
    assert isinstance(certified, Certified)
    assert (certified.thresholds[0] < 0.85, certified.thresholds[1]) == (True, OFF)
    assert Worst.on(wrong).risk(certified.thresholds) <= CONFIG.risk


@pytest.mark.parametrize("kept", [(True, False), (False, True), (True, True)])
def test_the_promise_to_a_router_holds_for_the_exits_that_are_kept(kept: tuple[bool, bool]) -> None:
    world = Worst.on(scores(np.random.default_rng(98), 200_000))
    broken, on = 0, 0
    for seed in range(60):
        found = certify(scores(np.random.default_rng(seed), 1000), CONFIG, any_sure=True, kept=kept)
        on += isinstance(found, Certified)
        assert all(limit == OFF for limit, keep in zip(found.thresholds, kept, strict=True) if not keep)
        broken += world.risk(found.thresholds) > CONFIG.risk
    assert on > 40
    assert broken <= 0.1 * 60


def test_the_alarms_level_counts_the_exits_in_force_alone() -> None:
    ring = scores(np.random.default_rng(0), 1000)
    found = Certified(
        thresholds=(0.6, OFF), level=0, delta=0.1, procedure="betting", num_frames=1000, empirical_risk=0, step=9
    )
    assert alarm_level(found, ring, CONFIG, any_sure=True) == CONFIG.risk, "exit 1 is wrong in a quarter, and off"
