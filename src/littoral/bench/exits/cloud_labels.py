"""Do the cloud's answers to frames that are uploaded anyway teach a user's heads more than the user's own labels alone?

A device uploads a budgeted share of its frames, those of which its own network is least sure; the cloud's larger
network answers them. The same user labels a share of all frames. *Own*: the heads learn from these labels, and what the
cloud said is thrown away. *Own and cloud*: a frame that was uploaded is taught with the cloud's probabilities in the
place of the device's. Both upload the same frames, so the bytes that go up are equal; both are judged at the same
multiply-accumulates. Frames of which the device is least sure are hard for the cloud too: *as labels* its answers to
them do harm, which is measured as well.

Axes: N frames, K classes.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.bench.exits.chain import Chain
from littoral.bench.exits.learn import FRAMES_PER_DAY, labelled_frames, new_heads
from littoral.bench.exits.measure import Case, policy_of
from littoral.bench.exits.scored import certified, outcome, outcomes_of, score, within_budget
from littoral.bench.exits.seen import Part, Seen
from littoral.core.arrays import Float64s, Mask
from littoral.core.exits import OFF
from littoral.core.heads import LinearHead
from littoral.core.personal import PersonalConfig
from littoral.core.selection import entropy, softmax

Row = dict[str, Any]
Labels = NDArray[np.int64]
OWN, BOTH, AS_LABELS = "own", "own and cloud", "own and cloud as labels"
WORK = 0.5
"""Of the whole network's multiply-accumulates, at which both are compared."""
NO_LABEL = -1
_JUDGE_EVERY = 100


def uploaded(unsure_N: Float64s, share: float) -> Mask:
    """Which frames a device uploads that may upload this share of those that came so far: the least sure ones.

    Decided frame by frame: a frame goes when it is among the least sure ``share`` of all before it, and the budget has
    room. The first frame never goes.
    """
    before: list[float] = []
    out: Mask = np.zeros(len(unsure_N), dtype=np.bool_)
    sent = 0
    for i, unsure in enumerate(unsure_N.tolist()):
        place = bisect.bisect(before, unsure)
        if before and place >= (1 - share) * len(before) and sent + 1 <= share * (i + 1):
            out[i] = True
            sent += 1
        before.insert(place, unsure)
    return out


def taught_heads(
    chain: Chain,
    personal: Part,
    given_N: Labels,
    teacher_NK: Float64s,
    *,
    config: PersonalConfig,
    seed: int,
) -> tuple[LinearHead, ...]:
    """The heads that serve after all frames, judged every hundred.

    Args:
        given_N: The labels, `NO_LABEL` where there is none.
        teacher_NK: The probabilities that teach a frame without a label.
    """
    heads = new_heads(chain, config=config, seed=seed)
    serving = tuple(head.shipped for head in heads)
    for i in range(len(personal)):
        label = None if given_N[i] == NO_LABEL else int(given_N[i])
        for head, features in zip(heads, personal.features, strict=True):
            head.observe(
                features[i],
                day=i // FRAMES_PER_DAY,
                affine_version=0,
                label=label,
                deep_K=teacher_NK[i],
            )
        if (i + 1) % _JUDGE_EVERY == 0 or i + 1 == len(personal):
            serving = tuple(head.refresh()[0] for head in heads)
    return serving


def cloud_label_rows(
    chain: Chain,
    seen: Seen,
    cloud_NK: Float64s,
    *,
    own: Sequence[float],
    upload: float,
    config: PersonalConfig | None = None,
) -> list[Row]:
    """A user's rows: for each share of own labels one with them alone, and two with the cloud's answers as well.

    Args:
        cloud_NK: The cloud's probabilities for the personal frames.
        own: Shares of the frames that the user labels.
        upload: The share of the frames that goes up.
    """
    personal, config, seed = seen.personal, config or PersonalConfig(), seen.user.index
    went = uploaded(entropy(softmax(personal.logits_NK)).astype(np.float64), upload)
    facts = {"user": seen.user.index, "style": seen.user.style, "hard": seen.user.hard}
    cloud_N, deep_NK = cloud_NK.argmax(axis=1), personal.deep_NK
    right = cloud_N == personal.labels_N
    rows = []
    for share in own:
        mine = labelled_frames(len(personal), share, seed=seed)
        alone = np.where(mine, personal.labels_N, NO_LABEL)  # the user's own word stands
        taken = went & ~mine
        ways = {
            OWN: (alone, deep_NK),
            BOTH: (alone, np.where(taken[:, None], cloud_NK, deep_NK)),
            AS_LABELS: (np.where(taken, cloud_N, alone), deep_NK),
        }
        for method, (given, teacher) in ways.items():
            heads = taught_heads(chain, personal, given, teacher, config=config, seed=seed)
            rows.append(
                {
                    **facts,
                    "method": method,
                    "own_share": share,
                    "uploaded_share": round(float(went.mean()), 4),
                    "cloud_right_on_uploaded": round(100 * float(right[went].mean()), 2) if went.any() else None,
                    **_judged(chain, seen, heads, labelled=share > 0),
                }
            )
    return rows


def _judged(chain: Chain, seen: Seen, heads: tuple[LinearHead, ...], *, labelled: bool) -> Row:
    case = Case(method="personal", heads=heads, num_frames=len(seen.personal), labels=float(labelled))
    policy, rest = policy_of(case, seen.calibration, chain.costs())
    test, calibration = score(heads, seen.test, policy.temperatures), score(heads, rest, policy.temperatures)
    loss, level = ("excess", 0.0) if labelled else ("disagreement", 0.05)
    served, _ = certified(policy, calibration, test, loss=loss, level=level)
    numbers = {
        "shipped_right": test.shipped_right,
        "full_right": outcome(policy, test, (OFF,) * (len(heads) - 1)).right,
        "right_50": within_budget(outcomes_of(policy, test), WORK).right,
        "cert_right": served.right,
        "cert_compute": served.compute,
    }
    return {key: round(value, 4) for key, value in numbers.items()}


def gains(rows: Sequence[Row], *, method: str = BOTH, key: str = "right_50") -> dict[str, float]:
    """By share of own labels the mean gain over own labels alone, in points."""
    shares = sorted({row["own_share"] for row in rows})
    means = {
        (share, who): fmean(row[key] for row in rows if row["own_share"] == share and row["method"] == who)
        for share in shares
        for who in (OWN, method)
    }
    return {f"{share:g}": round(means[share, method] - means[share, OWN], 3) for share in shares}
