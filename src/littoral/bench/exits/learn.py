"""A user's personal heads, made as the device makes them: frame by frame, judged as the days go by.

One `PersonalHead` per exit. The features are those of the device, and so is all that decides. How many frames had come
is what curves are drawn over: the head after 50 frames is that which the user of 1,000 frames had on the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from littoral.bench.exits.chain import Chain
from littoral.bench.exits.seen import Part
from littoral.core.arrays import Mask
from littoral.core.heads import LinearHead
from littoral.core.personal import PersonalConfig, PersonalHead

FRAMES_PER_DAY = 200
STOPS = (50, 200, 1_000)
"""Personal frames at which heads are measured."""
_JUDGE_EVERY = 100


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What there was after so many frames, by exit.

    Attributes:
        fitted: The personal heads, whether they may serve or not.
        serving: Those that the protection lets serve: each the personal or the shipped one.
        corrected: The shipped heads with the user's class shares.
        serves: Which of the personal heads serve.
    """

    num_frames: int
    fitted: tuple[LinearHead, ...]
    serving: tuple[LinearHead, ...]
    corrected: tuple[LinearHead, ...]
    serves: tuple[bool, ...]


def labelled_frames(num_frames: int, share: float, *, seed: int) -> Mask:
    """Which frames a user gives labels of: this share of them, spread by chance; of a larger share more of the same."""
    order = np.random.default_rng([seed, 11]).permutation(num_frames)
    mask: Mask = order < math.ceil(share * num_frames)
    return mask


def learn(
    chain: Chain,
    personal: Part,
    *,
    config: PersonalConfig,
    labels: float,
    seed: int,
    stops: Sequence[int] = STOPS,
    frames_per_day: int = FRAMES_PER_DAY,
) -> list[Learned]:
    """What was learned after each of these numbers of frames.

    Args:
        labels: The share of the frames whose label the user gives.
    """
    heads = new_heads(chain, config=config, seed=seed)
    given = labelled_frames(len(personal), labels, seed=seed)
    deep, out = personal.deep_NK, []
    for i in range(min(max(stops), len(personal))):
        show(heads, personal, i, day=i // frames_per_day, labelled=bool(given[i]), deep=deep)
        num_frames = i + 1
        if num_frames in stops or num_frames % _JUDGE_EVERY == 0:
            fitted = tuple(head.fitted() for head in heads)
            serves = tuple(head.judge(new).serves for head, new in zip(heads, fitted, strict=True))
            if num_frames in stops:
                serving = zip(heads, fitted, serves, strict=True)
                out.append(
                    Learned(
                        num_frames=num_frames,
                        fitted=fitted,
                        serving=tuple(new if yes else head.shipped for head, new, yes in serving),
                        corrected=tuple(head.prior_corrected() for head in heads),
                        serves=serves,
                    )
                )
    return out


def new_heads(chain: Chain, *, config: PersonalConfig, seed: int) -> list[PersonalHead]:
    """One for each exit, the deepest included."""
    return [
        PersonalHead(
            exit.head,
            affine_version=0,
            seed=seed,
            config=config,
            source_shares_K=chain.class_shares_K,
            moments=exit.moments,
            teaches=exit is chain.exits[-1],
        )
        for exit in chain.exits
    ]


def show(heads: Sequence[PersonalHead], part: Part, i: int, *, day: int, labelled: bool, deep: np.ndarray) -> None:
    """Give one frame to the heads of all exits."""
    label = int(part.labels_N[i]) if labelled else None
    for head, features in zip(heads, part.features, strict=True):
        head.observe(features[i], day=day, affine_version=0, label=label, deep_K=deep[i])
