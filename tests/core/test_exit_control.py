"""The promise of early exits through whole lives of seeded devices: the coin, the ring, the alarm, the re-check."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from littoral.core.calibration_ring import NO_LABEL, RingScores
from littoral.core.exit_control import (
    RETURN_LOOKS,
    ControlConfig,
    ExitControl,
    Purpose,
    certify,
    losses_allowed,
    losses_of,
    risk_at_most,
    speaks_against,
)
from littoral.core.exits import OFF, ExitCosts, exit_of_frame
from littoral.core.risk import Certified, NotCertified

CONFIG = ControlConfig(audit_share=0.1, ring_frames=120, min_calibration=60, risk=0.1)
BEFORE, AFTER = 0.3, 0.9
"""How wrong exits are for how unsure they are, before the world changes and after."""


def world(rng: np.random.Generator, num_frames: int, wrongness: float) -> tuple[np.ndarray, np.ndarray]:
    """How sure two exits are, and whether each answers otherwise than the network's end; easy frames are the more."""
    sure = 1 - rng.beta(0.5, 3.0, size=(num_frames, 1)) * rng.uniform(0.8, 1.0, size=(num_frames, 2))
    base = 0.0 if wrongness == BEFORE else 0.5
    return sure, rng.random((num_frames, 2)) < base + wrongness * (1 - sure)


@dataclass
class Life:
    """What became of a device: at each frame whether exits were on, and whether its answer was not the full depth's."""

    wrong: np.ndarray
    serving: np.ndarray
    audited: np.ndarray
    control: ExitControl


def live(config: ControlConfig, *, seed: int, parts: tuple[tuple[int, float], ...], coin: bool = True) -> Life:
    """Run the machine over a stream of parts, each so long and with such a world.

    Args:
        coin: False is the mistake that the coin is there to prevent: the ring takes frames that ran to the end anyway.
    """
    rng, control = np.random.default_rng(seed), ExitControl(config, seed=seed)
    worlds = [world(rng, length, wrongness) for length, wrongness in parts]
    sure_NE, off_NE = (np.concatenate([each[i] for each in worlds]) for i in (0, 1))
    thresholds, checking, ring = (OFF, OFF), True, []
    wrong, on, audited = (np.zeros(len(sure_NE), dtype=bool) for _ in range(3))
    for i, (sure, off) in enumerate(zip(sure_NE.tolist(), off_NE.tolist(), strict=True)):
        purpose = control.purpose(checking=checking)
        leaving = exit_of_frame([*sure, 1.0], thresholds)
        loss = leaving < 2 and off[leaving]
        on[i], audited[i] = not checking, not checking and purpose is not Purpose.NOTHING
        wrong[i] = loss and purpose is Purpose.NOTHING
        for_ring = purpose is Purpose.RING if coin or checking else leaving == 2
        if for_ring:
            ring = [*ring[1 - config.ring_frames :], i] if len(ring) == config.ring_frames else [*ring, i]
            control.keep()
        if audited[i] and control.audit(float(loss)) and control.recheck():
            thresholds, checking, ring = (OFF, OFF), True, []
        if checking and control.due():
            control.tried()
            scores = scored(sure_NE[ring], off_NE[ring])
            found = certify(scores, config, share_of_delta=1 / len(config.looks))
            if isinstance(found, Certified):
                control.enter_serving(found, scores)
                thresholds, checking = found.thresholds, False
    return Life(wrong, on, audited, control)


def scored(sure_NE: np.ndarray, off_NE: np.ndarray) -> RingScores:
    """As a ring's frames would be, where the network's end always says class 0."""
    none = np.zeros(len(sure_NE), dtype=np.intp)
    with_end = [np.concatenate([a, np.full((len(a), 1), last)], axis=1) for a, last in ((sure_NE, 1.0), (off_NE, 0))]
    return RingScores(
        confidences_NE=with_end[0], answers_NE=with_end[1].astype(np.intp), shipped_N=none, labels_N=none + NO_LABEL
    )


def test_the_promised_risk_is_held_in_a_world_that_stays() -> None:
    lives = [live(CONFIG, seed=seed, parts=((1000, BEFORE),)) for seed in range(25)]
    served = [life for life in lives if life.serving.sum() > 500]
    assert len(served) > 18, "else nothing was tested"
    broken = [life.wrong[life.serving].mean() > CONFIG.risk for life in served]
    assert np.mean(broken) <= CONFIG.delta
    assert sum(life.control.num_alarms > 0 for life in lives) <= 25 * (CONFIG.alarm_delta + CONFIG.delta)


def test_the_promised_risk_is_held_after_a_change_of_the_world_because_of_the_recheck() -> None:
    parts = ((600, BEFORE), (2400, AFTER))
    risks = {}
    for recheck in (True, False):
        count = 40 if recheck else 12  # a promise that may fail once in ten needs more than twelve
        lives = [live(replace(CONFIG, recheck=recheck), seed=seed, parts=parts) for seed in range(count)]
        risks[recheck] = [life.wrong[600:].mean() for life in lives if life.serving[500:600].all()]
        rung = [life.control.num_alarms for life in lives if life.serving[500:600].all()]
        assert min(rung) >= 1, "the alarm notices in either case"
    assert len(risks[True]) > 30
    assert np.mean(np.array(risks[True]) > CONFIG.risk) <= CONFIG.delta
    assert min(risks[False]) > CONFIG.risk


def test_what_the_coin_picks_is_like_the_traffic_and_what_ran_to_the_end_anyway_is_not() -> None:
    """The mean over many lives of what the ring says of the risk of the thresholds in force, and the stream's own."""
    seen: dict[bool, list[float]] = {True: [], False: []}
    truth = []
    thresholds = (0.9, 0.9)
    for seed in range(24):
        sure, off = world(np.random.default_rng(seed), 1000, BEFORE)
        control = ExitControl(CONFIG, seed=seed)
        losses = [
            off[i][e] if (e := exit_of_frame([*row, 1.0], thresholds)) < 2 else False for i, row in enumerate(sure)
        ]
        deep = [exit_of_frame([*row, 1.0], thresholds) == 2 for row in sure]
        picked = [control.purpose(checking=False) is Purpose.RING for _ in sure]
        truth.append(np.mean(losses))
        seen[True].append(np.mean([loss for loss, pick in zip(losses, picked, strict=True) if pick]))
        seen[False].append(np.mean([off[i][1] for i in np.flatnonzero(deep)]))  # had they left
    assert np.mean(seen[True]) == pytest.approx(np.mean(truth), abs=0.012)
    assert np.mean(seen[False]) > 2 * np.mean(truth)


def test_the_coin_is_tossed_whatever_the_frame_holds_and_comes_up_as_often_as_is_asked() -> None:
    control = ExitControl(replace(CONFIG, audit_share=0.05), seed=3)
    tossed = [control.purpose(checking=False) for _ in range(4000)]
    again = ExitControl(replace(CONFIG, audit_share=0.05), seed=3)
    assert tossed == [again.purpose(checking=False) for _ in range(4000)]
    assert tossed != [ExitControl(CONFIG, seed=4).purpose(checking=False) for _ in range(4000)]
    coins = [purpose for purpose in tossed if purpose is not Purpose.NOTHING]
    assert 150 < len(coins) == control.num_audits < 250
    assert coins == [(Purpose.RING, Purpose.HEADS)[i % 2] for i in range(len(coins))]


def test_while_checking_two_of_three_frames_calibrate_and_the_others_teach() -> None:
    control = ExitControl(CONFIG)
    assert [control.purpose(checking=True) for _ in range(6)] == [Purpose.RING, Purpose.RING, Purpose.HEADS] * 2
    assert control.num_audits == 0
    for _ in range(CONFIG.ring_frames):
        control.keep()
    later = [control.purpose(checking=True) for _ in range(84)]
    assert (later.count(Purpose.RING), later.count(Purpose.HEADS)) == (28, 14), "a full ring did not do: less haste"


@pytest.mark.parametrize("audit_share", [0.02, 0.05])
def test_frames_that_teach_stand_for_all_that_came_together(audit_share: float) -> None:
    """Of each kind, what reaches the heads adds up to what came; otherwise they would learn the hard frames alone."""
    control = ExitControl(replace(CONFIG, audit_share=audit_share), seed=1)
    rng = np.random.default_rng(0)
    came, taught = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    for easy in (rng.random(30_000) < 0.7).tolist():
        purpose = control.purpose(checking=False)
        came[easy] += 1
        if purpose is Purpose.HEADS or (purpose is Purpose.NOTHING and not easy):
            taught[easy] += control.stands_for(purpose, leaves_early=easy, checking=False)
    assert taught[True] == pytest.approx(came[True], rel=0.15)
    assert taught[False] == pytest.approx(came[False], rel=0.03)


def test_alarms_that_are_false_are_few_and_one_stays_until_it_is_answered() -> None:
    rng, rung = np.random.default_rng(1), 0
    for seed in range(100):
        control, scores = ExitControl(CONFIG, seed=seed), scored(*world(rng, 120, BEFORE))
        control.enter_serving(certificate((0.9, 0.9)), scores)
        rung += any([control.audit(float(loss)) for loss in rng.random(300) < CONFIG.risk])
    assert rung <= 100 * CONFIG.alarm_delta + 5
    while not control.audit(1.0):
        pass
    assert (control.num_alarms, control.audit(1.0)) == (1, False)
    assert control.recheck()
    assert (control.num_rechecks, control.num_fresh, control.alarm) == (1, 0, None)


def certificate(thresholds: tuple[float, ...]) -> Certified:
    return Certified(
        thresholds=thresholds,
        level=CONFIG.risk,
        delta=0.1,
        procedure="binomial",
        num_frames=120,
        empirical_risk=0.0,
        step=1,
    )


def test_certifying_is_tried_a_few_times_while_the_ring_fills_and_then_with_each_quarter_of_a_new_ring() -> None:
    control, tries = ExitControl(CONFIG), []
    for count in range(1, 400):
        control.keep()
        if control.due():
            control.tried()
            tries.append(count)
    assert tries == [60, 90, 120, *range(150, 400, 30)]
    assert CONFIG.looks == (60, 90, 120)


def test_in_a_world_that_may_be_known_it_is_tried_sooner() -> None:
    control, tries = ExitControl(ControlConfig()), []
    for count in range(1, 120):
        control.keep()
        if control.due(returns=True):
            control.tried()
            tries.append(count)
    assert tries == [*RETURN_LOOKS, 110]


def test_new_frames_speak_against_a_page_whose_promise_they_break_and_seldom_against_their_own_worlds() -> None:
    """Lost in one frame of 50 where the page is of this world; in one of four where it is not."""
    rng, found, costs = (
        np.random.default_rng(4),
        certificate((0.5, 0.5)),
        ExitCosts(segment_macs=(1, 1, 8), head_macs=(0, 0, 0)),
    )
    against = {}
    for risk in (0.0, 0.02, 0.25):
        many = [scored(np.ones((32, 2)), np.repeat(rng.random((32, 1)) < risk, 2, axis=1)) for _ in range(200)]
        against[risk] = np.mean([speaks_against(found, new, 0.05, costs=costs) for new in many])
    assert against[0.0] == 0
    assert against[0.02] < 0.05
    assert against[0.25] > 0.9
    unsure = scored(np.full((32, 2), 0.4), np.zeros((32, 2), dtype=bool))
    assert speaks_against(found, unsure, 0.05, costs=costs), "none of them would leave"


def test_exits_that_are_off_lose_nothing_and_what_is_lost_needs_a_sure_exit() -> None:
    scores = scored(np.array([[0.9, 0.9], [0.9, 0.3], [0.3, 0.3]]), np.ones((3, 2), dtype=bool))
    assert losses_of((0.8, 0.8), scores).tolist() == [1, 1, 0]
    assert losses_of((OFF, 0.8), scores).tolist() == [1, 0, 0]
    assert losses_of((OFF, OFF), scores).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("count", "allowed"), [(0, 0.0), (20, 0.0), (110, 2 / 110), (256, 7 / 256)])
def test_what_the_ring_will_be_asked_is_known_beforehand(count: int, allowed: float) -> None:
    config = ControlConfig()
    assert losses_allowed(count, config) == pytest.approx(allowed)
    if not allowed:
        return
    for errors, certified in ((round(allowed * count), True), (round(allowed * count) + 1, False)):
        off = np.arange(count)[:, None] < errors
        found = certify(scored(np.ones((count, 2)), np.repeat(off, 2, axis=1)), config)
        assert isinstance(found, Certified) == certified


# What is certified.


def labelled(num_frames: int, *, early_right: float, shipped_right: float, seed: int = 0) -> RingScores:
    """Exits that are always sure and right so often, with a shipped network that is right so often; all labelled 1."""
    rng = np.random.default_rng(seed)
    early = np.where(rng.random((num_frames, 2)) < early_right, 1, 2)
    shipped = np.where(rng.random(num_frames) < shipped_right, 1, 0)
    return RingScores(
        confidences_NE=np.ones((num_frames, 3)),
        answers_NE=np.concatenate([early, shipped[:, None]], axis=1).astype(np.intp),
        shipped_N=shipped.astype(np.intp),
        labels_N=np.ones(num_frames, dtype=np.intp),
    )


def test_with_labels_exits_that_are_better_than_the_shipped_network_may_disagree_with_it() -> None:
    scores = labelled(200, early_right=0.95, shipped_right=0.7)
    found = certify(scores, ControlConfig())
    assert isinstance(found, Certified)
    assert found.procedure.endswith("betting")
    assert found.level == 0
    without = replace(scores, labels_N=np.full(200, NO_LABEL))
    assert isinstance(certify(without, ControlConfig()), NotCertified)


def test_labels_that_cannot_show_a_gain_do_not_stand_in_the_way_of_agreement() -> None:
    found = certify(labelled(200, early_right=1.0, shipped_right=1.0), ControlConfig())
    assert isinstance(found, Certified)
    assert found.procedure.endswith("binomial")
    assert found.delta == pytest.approx(0.1)


def test_the_promise_with_labels_has_a_smaller_delta_of_its_own() -> None:
    scores = labelled(200, early_right=0.95, shipped_right=0.7)
    found = certify(scores, ControlConfig(), share_of_delta=0.5)
    assert isinstance(found, Certified)
    assert found.delta == pytest.approx(0.01)


def test_with_a_full_ring_an_exit_that_costs_more_than_it_saves_is_left_out_and_before_it_is_not() -> None:
    """The first exit is sure of nothing, and dear; the second is sure and right."""
    confidences = np.tile([0.2, 0.99, 1.0], (256, 1))
    scores = scored(confidences[:, :2], np.zeros((256, 2), dtype=bool))
    costs = ExitCosts(segment_macs=(10, 10, 100), head_macs=(30, 1, 0))
    found = certify(scores, ControlConfig(), costs=costs)
    assert isinstance(found, Certified)
    assert found.thresholds[0] == OFF
    assert found.num_frames == 204, "a fifth chose the exits and certified nothing"
    early = certify(scores.take(np.arange(256) < 255), ControlConfig(), costs=costs)
    assert isinstance(early, Certified)
    assert early.thresholds[0] != OFF


def test_exits_that_other_frames_have_chosen_are_used_and_the_whole_ring_certifies() -> None:
    confidences = np.tile([0.2, 0.99, 1.0], (256, 1))
    scores = scored(confidences[:, :2], np.zeros((256, 2), dtype=bool))
    costs = ExitCosts(segment_macs=(10, 10, 100), head_macs=(30, 1, 0))
    found = certify(scores, ControlConfig(), costs=costs, kept=(False, True))
    assert isinstance(found, Certified)
    assert found.thresholds[0] == OFF
    assert found.num_frames == 256


def test_exits_that_are_worse_than_the_shipped_network_are_not_certified_with_labels_or_without() -> None:
    scores = labelled(250, early_right=0.6, shipped_right=0.9)
    assert isinstance(certify(scores, ControlConfig()), NotCertified)


@pytest.mark.parametrize(("count", "why"), [(59, "59 frames are in the ring, 60"), (60, "")])
def test_nothing_is_certified_before_the_ring_has_enough(count: int, why: str) -> None:
    found = certify(scored(np.ones((count, 2)), np.zeros((count, 2), dtype=bool)), CONFIG)
    assert (found.why if isinstance(found, NotCertified) else "").startswith(why)
    assert isinstance(found, NotCertified) == bool(why)
    assert (found.thresholds == (OFF, OFF)) == bool(why)


def test_exits_that_save_nothing_stay_off() -> None:
    scores = scored(np.ones((120, 2)), np.zeros((120, 2), dtype=bool))
    cheap, dear = (ExitCosts(segment_macs=(10, 10, 10), head_macs=(macs, macs, 1)) for macs in (1, 50))
    assert isinstance(certify(scores, CONFIG, costs=cheap), Certified)
    found = certify(scores, CONFIG, costs=dear)
    assert isinstance(found, NotCertified)
    assert "would save nothing" in found.why


def test_an_upper_bound_of_a_risk_fails_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(0)
    bounds = [risk_at_most(errors, 120, 0.1) for errors in range(40)]
    below = [bounds[errors] < 0.1 for errors in rng.binomial(120, 0.1, size=400)]
    assert 0.02 < np.mean(below) <= 0.13
    assert risk_at_most(120, 120, 0.1) < 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"risk": 0.0}, {"risk_over_shipped": -0.1}, {"delta": 1.0}, {"audit_share": 0.0}, {"min_calibration": 300},
        {"alarm_delta": 0.0}, {"delta_over_shipped": 0.0},
    ],
)  # fmt: skip
def test_what_cannot_be_promised_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must hold|between 0 and 1|is above 0"):
        ControlConfig(**wrong)  # type: ignore[arg-type]
