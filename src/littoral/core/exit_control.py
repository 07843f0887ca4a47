"""When may frames leave early? A state machine without a clock, whose coin is seeded.

    checking   every exit is off; two of three frames go to the calibration ring, the third to the heads. Left when
               thresholds are certified on enough frames of the ring.
    serving    thresholds are in force. A coin is tossed for every frame before anything is looked at; one that it picks
               runs through the whole network (an *audit*). So these frames are like the whole traffic, whatever
               the exits do: they go by turns to the ring and to the heads, and all of them are watched by an alarm.

The alarm and a change of the world lead back to checking, with an emptied ring: the re-check. Another affine version in
the same world does so too, unless the ring's frames can be run through it: then they say which thresholds keep the
promise now, before the version serves, and the alarm goes on watching.

Promise. In serving, the share of frames whose answer is not the one that the device gives at full depth is at most
`risk`, or with labels: the device errs no more often than the shipped network. Each calibration breaks it with a
probability of at most `delta`. Where the world changes and nothing notices, the alarm rings after some tens of audits;
while the promise is kept, it ever rings with a probability of at most `alarm_delta`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from littoral.core.arrays import Float64s
from littoral.core.calibration_ring import NO_LABEL, RingScores
from littoral.core.exit_choice import MOST_EXITS, kept_exits, kept_only, worst_first
from littoral.core.exit_policy import ExitPolicy, Spoken
from littoral.core.exits import OFF, ExitCosts, compute_share, disagreement_losses, excess_losses, exit_indices
from littoral.core.head_memory import draw
from littoral.core.personal import MOST_STANDS_FOR
from littoral.core.risk import (
    Certified,
    NotCertified,
    RiskAlarm,
    binomial_p_value,
    errors_allowed,
    learn_then_test,
    shared_path,
)

_TOSS = 1 << 32
_SELDOM = 4
"""While checking, once a full ring did not do, two of so many frames go on to ring and heads: exits cost time, and what
is in the ring is not sent to the cloud."""
_CHECKING_TURNS = 3
"""While checking, one of so many frames goes to the heads: a certificate waits for the ring, and exits are off."""
RETURN_LOOKS = (32, 64)
"""New frames on which the page of a world that seems to be back is tried, beside `ControlConfig.looks`."""
LEAST_NEW = 8
"""New frames without which no page is taken up: what was taken for a change of the world takes a batch or two."""
_AGAINST = 0.1
_BISECTIONS = 40
_CHOICE_EVERY = 5
"""Of a full ring's frames, one in so many says which exits pay."""


class Purpose(Enum):
    """What a frame is for, decided before it is looked at."""

    NOTHING = 0
    """It leaves where it may. One that ran to the end because no exit was sure may teach the heads."""
    RING = 1
    """It runs to the end and calibrates."""
    HEADS = 2
    """It runs to the end and teaches."""


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """What a device lets one set about its promise."""

    risk: float = 0.05
    """The largest share of frames whose early answer is not the device's own at full depth."""
    risk_over_shipped: float = 0.0
    """With labels: by how much more often than the shipped network the device may err; 0 is "not more often"."""
    delta: float = 0.1
    """A calibration breaks its promise with at most this probability."""
    delta_over_shipped: float = 0.02
    """The same for the promise with labels: a user who gave labels must not end below the shipped network."""
    audit_share: float = 0.02
    """Of frames that run through the whole network whatever the exits would say."""
    ring_frames: int = 256
    """The newest frames that calibrate."""
    min_calibration: int = 110
    """Before the ring has so many, nothing is certified. From 103 on a third of ``delta`` allows an error at a risk of
    5 %: with fewer, one sure and wrong frame keeps every exit off."""
    min_labelled: int = 100
    """From so many frames of the ring with labels on, the promise is tried with labels first."""
    alarm_delta: float = 0.05
    """The alarm ever rings with at most this probability while the promise is kept."""
    recheck: bool = True
    """False keeps thresholds whatever happens: for measurements of what the re-check is good for."""

    def __post_init__(self) -> None:
        if not (0 < self.risk < 1 and 0 <= self.risk_over_shipped < 1):
            raise ValueError(
                f"0 < risk < 1 and 0 <= risk_over_shipped < 1 must hold, got {self.risk}, {self.risk_over_shipped}"
            )
        deltas = (self.delta, self.delta_over_shipped, self.alarm_delta)
        if not all(0 < delta < 1 for delta in deltas):
            raise ValueError(f"delta, delta_over_shipped and alarm_delta lie between 0 and 1, got {deltas}")
        if not 0 < self.audit_share <= 1:
            raise ValueError(f"audit_share is above 0 and at most 1, got {self.audit_share}: without audits no alarm")
        if not (1 <= self.min_calibration <= self.ring_frames and self.min_labelled >= 1):
            raise ValueError(
                "1 <= min_calibration <= ring_frames and min_labelled >= 1 must hold, got "
                f"{self.min_calibration}, {self.ring_frames} and {self.min_labelled}"
            )

    @property
    def looks(self) -> tuple[int, ...]:
        """Frames in the ring at which certifying is tried while checking; the tries share `delta`."""
        middle = (self.min_calibration + self.ring_frames) // 2
        return tuple(sorted({self.min_calibration, middle, self.ring_frames}))


@dataclass
class ExitControl:
    """The machine. `purpose` and `audit` are for whoever answers, the others for whoever calibrates.

    Attributes:
        seed: Of the coin; with the number of frames so far it decides every toss.
        num_frames: Tosses so far.
        num_audits: Frames that the coin picked while serving.
        num_fresh: Frames that came into the ring since it was last emptied.
        alarm: Watches while serving; None before thresholds were ever in force.
    """

    config: ControlConfig
    seed: int = 0
    num_frames: int = 0
    num_audits: int = 0
    num_fresh: int = 0
    num_rechecks: int = 0
    num_alarms: int = 0
    alarm: RiskAlarm | None = None
    _turn: int = 0
    _checked: int = 0
    _tried_at: int = 0
    _limit: int = field(init=False)

    def __post_init__(self) -> None:
        self._limit = int(self.config.audit_share * _TOSS)

    def purpose(self, *, checking: bool) -> Purpose:
        """What the next frame is for. Ask once for every frame, before it is looked at."""
        self.num_frames += 1
        if checking:
            if self.num_fresh >= self.config.ring_frames and self.num_frames % _SELDOM > 1:
                return Purpose.NOTHING
            self._checked += 1
            return Purpose.HEADS if self._checked % _CHECKING_TURNS == 0 else Purpose.RING
        if draw(self.seed, self.num_frames, _TOSS) >= self._limit:
            return Purpose.NOTHING
        self.num_audits += 1
        self._turn ^= 1
        return Purpose.RING if self._turn else Purpose.HEADS

    def stands_for(self, purpose: Purpose, *, leaves_early: bool, checking: bool) -> float:
        """How many frames one stands for that goes to the heads.

        A frame that would have left early reaches the heads by one toss in so many. One that would not have reaches
        them also when the coin did not pick it, and stands for itself.
        """
        if checking or purpose is not Purpose.HEADS or not leaves_early:
            return 1.0
        return min(2 / self.config.audit_share, MOST_STANDS_FOR)

    def audit(self, loss: float) -> bool:
        """Count an audit: 1 where the frame would have left early with another answer than at full depth, else 0.

        Frames that would not have left count too, with 0: the promise is about all frames.

        Returns:
            True when the alarm rings with this frame; then call `recheck`.
        """
        if self.alarm is None or self.alarm.rings:
            return False
        if self.alarm.add(loss):
            self.num_alarms += 1
            return self.config.recheck
        return False

    def keep(self) -> None:
        """Count a frame that came into the ring."""
        self.num_fresh += 1

    def due(self, *, returns: bool = False) -> bool:
        """Whether it is time to try to certify, while checking: at each of `looks`, later with each quarter of a new
        ring.

        Args:
            returns: The world may be one that is known; then it is time sooner (`RETURN_LOOKS`).
        """
        last = self._tried_at
        if self.num_fresh <= self.config.ring_frames:
            looks = (*RETURN_LOOKS, *self.config.looks) if returns else self.config.looks
            return any(last < look <= self.num_fresh for look in looks)
        return self.num_fresh >= last + max(self.config.ring_frames // 4, 1)

    def tried(self) -> None:
        """A certificate was tried with the ring as it is."""
        self._tried_at = self.num_fresh

    def enter_serving(self, found: Certified, scores: RingScores, *, any_sure: bool = False) -> None:
        """Thresholds come into force: the alarm begins to watch."""
        self.alarm = RiskAlarm(alarm_level(found, scores, self.config, any_sure=any_sure), self.config.alarm_delta)

    def serve_on(self, found: Certified, scores: RingScores, *, any_sure: bool = False) -> None:
        """Thresholds come into force for another network in the same world: the alarm goes on with what it has seen."""
        if self.alarm is None:
            self.enter_serving(found, scores, any_sure=any_sure)
        else:
            self.alarm.level = alarm_level(found, scores, self.config, any_sure=any_sure)

    def recheck(self) -> bool:
        """Back to checking; True where that is so, and the caller puts `ExitPolicy.off` in force. It empties the ring
        unless the world is the same.

        False with the re-check switched off: all stays as it is.
        """
        if not self.config.recheck:
            return False
        self.num_rechecks += 1
        self.num_fresh = self._tried_at = 0
        self.alarm = None
        return True


def early_loss(
    spoken_E: Sequence[Spoken], policy: ExitPolicy, full: int, *, any_sure: bool = False
) -> tuple[bool, float]:
    """Whether a frame that ran to the end would have left early, and `ExitControl.audit`'s loss for it.

    Args:
        spoken_E: What the early exits said.
        full: What the device says at full depth.
        any_sure: Frames may leave at any exit that is sure, and not at the first only: the worst of them counts.
    """
    sure = [
        float(spoken.label != full)
        for spoken, each in zip(spoken_E, policy.early, strict=True)
        if spoken.confidence >= each.threshold
    ]
    return (True, max(sure) if any_sure else sure[0]) if sure else (False, 0.0)


def disagreements(scores: RingScores, *, any_sure: bool) -> tuple[Float64s, Float64s]:
    """Confidences and losses of early answers that are not the full depth's, as a certificate counts them."""
    losses = disagreement_losses(scores.answers_NE)
    return worst_first(scores.confidences_NE, losses) if any_sure else (scores.confidences_NE, losses)


def certify(
    scores: RingScores,
    config: ControlConfig,
    *,
    share_of_delta: float = 1.0,
    costs: ExitCosts | None = None,
    any_sure: bool = False,
    kept: tuple[bool, ...] | None = None,
) -> Certified | NotCertified:
    """Thresholds that keep the promise, from a ring's frames.

    One threshold for all early exits, on a path that is fixed beforehand. Where enough frames have labels, "no worse
    than the shipped network" is tried with them first, and agreement with the device's own full depth otherwise; each
    has its own delta.

    Args:
        share_of_delta: Of the deltas, for one of several tries.
        costs: Of the early exits and the end. With a full ring exits that do not pay are left out, as a fifth of its
            frames says, which then certify nothing. Where leaving early would save nothing, all exits stay off.
        kept: The early exits to use, where other frames than the ring's have said which pay; all of the ring certifies.
        any_sure: For thresholds that a router may obey or not: `worst_first` of the exits that are kept.
    """
    path = shared_path(scores.confidences_NE.shape[1])
    count, delta = len(scores.shipped_N), config.delta * share_of_delta
    if count < config.min_calibration:
        return _none(path, f"{count} frames are in the ring, {config.min_calibration} are needed")
    if (
        kept is None
        and costs is not None
        and not any_sure
        and count >= config.ring_frames
        and path.shape[1] <= MOST_EXITS
    ):
        chosen = np.arange(count) % _CHOICE_EVERY == 0
        confidences, losses = scores.confidences_NE[chosen], disagreement_losses(scores.answers_NE[chosen])
        kept = kept_exits(confidences, losses, costs, max_risk=config.risk)
        scores = scores.take(~chosen)
    if kept is not None:
        scores = replace(scores, confidences_NE=kept_only(scores.confidences_NE, kept))
    labelled = scores.labels_N != NO_LABEL
    found: Certified | NotCertified | None = None
    if int(labelled.sum()) >= config.min_labelled:
        over_shipped = config.delta_over_shipped * share_of_delta
        found = _certify_labelled(path, scores, labelled, config, over_shipped, any_sure)
    if not isinstance(found, Certified):
        confidences, losses = disagreements(scores, any_sure=any_sure)
        found = learn_then_test(path, confidences, losses, level=config.risk, delta=delta, test="binomial")
    if isinstance(found, Certified) and all(threshold == OFF for threshold in found.thresholds):
        return _none(path, f"no threshold keeps a risk of {config.risk} with delta {delta:g} on {count} frames")
    if isinstance(found, Certified) and kept is not None:
        on = zip(found.thresholds, kept, strict=True)
        found = replace(found, thresholds=tuple(limit if keep else OFF for limit, keep in on))
    if isinstance(found, Certified) and costs is not None:
        leaving = exit_indices(scores.confidences_NE, found.thresholds)
        if compute_share(leaving, costs, found.thresholds) >= 1:
            return _none(path, "leaving early would save nothing")
    return found


def losses_allowed(num_frames: int, config: ControlConfig, share_of_delta: float = 1.0) -> float:
    """The share of lost answers with which `certify` still promises agreement, on so many frames."""
    allowed = errors_allowed(num_frames, config.risk, config.delta * share_of_delta) if num_frames else None
    return (allowed or 0) / max(num_frames, 1)


def alarm_level(found: Certified, scores: RingScores, config: ControlConfig, *, any_sure: bool = False) -> float:
    """The risk above which the alarm may ring: of early answers that are not the full depth's.

    A certificate with labels says nothing of these, so there it is the most that the ring makes likely.
    """
    if found.procedure.endswith("binomial"):
        return config.risk
    lost = losses_of(found.thresholds, scores, any_sure=any_sure)
    return max(config.risk, risk_at_most(int(lost.sum()), len(lost), config.alarm_delta))


def speaks_against(
    found: Certified, new: RingScores, level: float, *, costs: ExitCosts, any_sure: bool = False
) -> bool:
    """Whether new frames say that a page is hardly of their world: they lose too many answers under thresholds that are
    certified with both, or would leave so seldom that nothing is saved.

    Args:
        new: The certificate counts these frames with those of the page; here they speak alone.
        level: As `alarm_level` has it.
    """
    leaving = exit_indices(new.confidences_NE, found.thresholds)
    if compute_share(leaving, costs, found.thresholds) >= 1:
        return True
    lost = losses_of(found.thresholds, new, any_sure=any_sure)
    count, errors = len(lost), int(lost.sum())
    return errors > 0 and binomial_p_value(count - errors, count, 1 - level) <= _AGAINST


def losses_of(thresholds: Sequence[float], scores: RingScores, *, any_sure: bool = False) -> Float64s:
    """Of each frame: 1 where an early answer that these thresholds allow is not the full depth's, else 0."""
    kept = [limit != OFF for limit in thresholds]
    of_kept = replace(scores, confidences_NE=kept_only(scores.confidences_NE, kept))
    confidences, losses = disagreements(of_kept, any_sure=any_sure)
    leaving = exit_indices(confidences, (min(thresholds),) * len(kept))
    lost: Float64s = losses[np.arange(len(leaving)), leaving]
    return lost


def risk_at_most(errors: int, num_frames: int, delta: float) -> float:
    """The upper bound of a risk that holds with a probability of ``1 - delta`` (Clopper and Pearson), below 1."""
    low, high = errors / num_frames, 1 - 1e-6
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_p_value(errors, num_frames, middle) > delta else (low, middle)
    return high


def _certify_labelled(
    path: Float64s, scores: RingScores, labelled: np.ndarray, config: ControlConfig, delta: float, any_sure: bool
) -> Certified | NotCertified:
    shipped, labels = scores.shipped_N[labelled], scores.labels_N[labelled]
    answers, confidences = scores.answers_NE[labelled], scores.confidences_NE[labelled]
    losses = excess_losses(answers, labels, shipped)
    if any_sure:
        confidences, losses = worst_first(confidences, losses)
    start = int(not losses[:, -1].any())  # with all exits off it is the shipped network: nothing to be tested
    level = config.risk_over_shipped
    return learn_then_test(path[start:], confidences, losses, level=level, delta=delta, test="betting")


def _none(path: Float64s, why: str) -> NotCertified:
    return NotCertified(thresholds=tuple(path[0].tolist()), why=f"{why}; all exits stay off")
