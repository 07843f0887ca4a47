"""Does a personal head help its user? Held-back frames say so, or the shipped head serves.

Only frames on which exactly one of the two heads is right tell them apart. Were the heads equally good, each of these
would speak for either with equal chance; so how one-sided they are is an exact test (the sign test), and the margin
that it leaves follows the number of frames. To begin, a head has to look better than luck: one that gains much does so
on few frames, and of one that gains little not much is lost. To stay, it must not look harmful.

At the deepest exit and without labels there is no such test: the held-back answers are the shipped head's own. There a
personal head is let in where it says nearly the same: that its features fall into the teacher's classes is what one
can see of a user whom the teacher understands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    agree: float | None = None,
) -> Judgement:
    """Hold a personal head against the shipped one.

    Labelled frames have the last word where there are enough of them: a head that they speak for serves, one that they
    speak against does not. Where they are too few to say, all held-back frames decide, with the deep exit's answers.

    Args:
        serves_now: The personal head serves already.
        min_held: With fewer frames the shipped head serves.
        luck: A head begins to serve at a ``p_luck`` of at most this,
        harm: and goes on while ``p_harm_is_luck`` is above this.
        agree: For the exit whose shipped head gives the deep exit's answers, and which no head can better by them: with
            few labels it serves where it gives at least this share of them. None for other exits.
    """
    labelled = held.labelled[: len(held)]
    votes = _votes(personal, shipped, held, np.arange(len(held)))
    by_labels = _votes(personal, shipped, held, np.flatnonzero(labelled))
    enough, rare = by_labels.num_frames >= min_held, 2 * by_labels.num_frames < votes.num_frames
    decisive = by_labels if enough else votes
    p_luck, p_harm = _tail(decisive.worse, decisive.apart), _tail(decisive.better, decisive.apart)
    serves = decisive.num_frames >= min_held and (p_harm > harm if serves_now else p_luck <= luck)
    if rare and votes.num_frames >= min_held and not (enough and (serves or p_harm <= harm)):
        if agree is not None:
            serves = votes.personal_right >= agree * votes.num_frames
        elif serves_now:
            serves = _tail(votes.better, votes.apart) > harm
        else:
            serves = _tail(votes.worse, votes.apart) <= luck
    return Judgement(
        num_frames=decisive.num_frames,
        personal_right=decisive.personal_right,
        shipped_right=decisive.personal_right - decisive.better + decisive.worse,
        p_luck=p_luck,
        p_harm_is_luck=p_harm,
        serves=serves,
    )


class _Votes(NamedTuple):
    """On some held-back frames: right ones of the personal head, and where it alone is right, or the shipped alone."""

    num_frames: int
    personal_right: int
    better: int
    worse: int

    @property
    def apart(self) -> int:
        return self.better + self.worse


def _votes(personal: LinearHead, shipped: LinearHead, held: HeldBack, rows: NDArray[np.intp]) -> _Votes:
    features, answers = held.features[rows], held.answers[rows]
    mine = personal.logits(features).argmax(axis=1) == answers
    theirs = shipped.logits(features).argmax(axis=1) == answers
    return _Votes(len(rows), int(mine.sum()), int((mine & ~theirs).sum()), int((theirs & ~mine).sum()))


def _tail(fewer: int, num_frames: int) -> float:
    """How likely so few of these frames, or fewer, speak for one side by chance."""
    return binomial_p_value(fewer, num_frames, 0.5) if num_frames else 1.0
