"""Does a personal head help its user? Held-back frames say so, or the shipped head serves.

Only frames on which exactly one of the two heads is right tell them apart. Were the heads equally good, each of these
would speak for either with equal chance; so how one-sided they are is an exact test (the sign test), and the margin
that it leaves follows the number of frames. To begin, a head has to look better than luck: one that gains much does so
on few frames, and of one that gains little not much is lost. To stay, it must not look harmful.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from littoral.core.head_memory import HeldBack
from littoral.core.heads import LinearHead
from littoral.core.risk import binomial_p_value


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the held-back frames say.

    Attributes:
        num_frames: They were.
        personal_right, shipped_right: Of these.
        p_luck: How likely a head that is no better would look so good.
        p_harm_is_luck: How likely one that is as good would look so bad.
        serves: Whether the personal head serves from now on.
    """

    num_frames: int
    personal_right: int
    shipped_right: int
    p_luck: float
    p_harm_is_luck: float
    serves: bool


def judge_head(
    personal: LinearHead,
    shipped: LinearHead,
    held: HeldBack,
    *,
    serves_now: bool,
    min_held: int,
    luck: float,
    harm: float,
) -> Judgement:
    """Hold a personal head against the shipped one.

    Labelled frames alone count where there are enough of them: a head that learned from labels may rightly disagree
    with the deep exit.

    Args:
        serves_now: The personal head serves already.
        min_held: With fewer frames the shipped head serves.
        luck: A head begins to serve at a ``p_luck`` of at most this,
        harm: and goes on while ``p_harm_is_luck`` is above this.
    """
    chosen = np.arange(len(held))
    if int(held.labelled[: len(held)].sum()) >= min_held:
        chosen = np.flatnonzero(held.labelled[: len(held)])
    features, answers = held.features[chosen], held.answers[chosen]
    personal_right = personal.logits(features).argmax(axis=1) == answers
    shipped_right = shipped.logits(features).argmax(axis=1) == answers
    worse, better = int((shipped_right & ~personal_right).sum()), int((personal_right & ~shipped_right).sum())
    p_luck, p_harm = _tail(worse, worse + better), _tail(better, worse + better)
    passes = p_harm > harm if serves_now else p_luck <= luck
    return Judgement(
        num_frames=len(chosen),
        personal_right=int(personal_right.sum()),
        shipped_right=int(shipped_right.sum()),
        p_luck=p_luck,
        p_harm_is_luck=p_harm,
        serves=len(chosen) >= min_held and passes,
    )


def _tail(fewer: int, num_frames: int) -> float:
    """How likely so few of these frames, or fewer, speak for one side by chance."""
    return binomial_p_value(fewer, num_frames, 0.5) if num_frames else 1.0
