"""A chain without a network: features of two early exits and the deepest, made of numbers, for the bench's tests."""

from __future__ import annotations

import numpy as np

from littoral.bench.exits.chain import Chain, ChainExit
from littoral.bench.exits.seen import Part, Seen
from littoral.bench.exits.users import User
from littoral.core.heads import LinearHead, SourceMoments

D, K = 6, 4
_RNG = np.random.default_rng(2)
MEANS = tuple((_RNG.normal(size=(K, D)) * scale).astype(np.float32) for scale in (1.0, 1.4, 2.0))
MOVED = (_RNG.normal(size=D) * 1.2).astype(np.float32)


def chain() -> Chain:
    """Three exits of equal work."""
    exits = tuple(
        ChainExit(
            segment=i,
            stem=None,
            head=LinearHead(weights_KD=means, bias_K=(-0.5 * (means**2).sum(axis=1)).astype(np.float32)),
            moments=SourceMoments(means_KD=means, covariance_DD=np.eye(D, dtype=np.float32)),
            temperature=1.0,
            macs=10,
        )
        for i, means in enumerate(MEANS)
    )
    return Chain(
        segments=(), exits=exits, segment_macs=(1000, 1000, 1000), class_shares_K=np.full(K, 1 / K), remake=lambda v: ()
    )


def part(num_frames: int, classes: tuple[int, ...], *, seed: int, moved: float = 1.0) -> Part:
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=num_frames).astype(np.int64)
    features = tuple(
        (means[labels] + moved * MOVED + rng.normal(size=(num_frames, D))).astype(np.float16).astype(np.float32)
        for means in MEANS
    )
    deepest = chain().exits[-1].head
    return Part(features=features, logits_NK=deepest.logits(features[-1]), labels_N=labels)


def seen(*, moved: float = 1.0, sizes: tuple[int, int, int] = (300, 300, 600)) -> Seen:
    """A user of three of the four classes, whose features lie elsewhere than the source's."""
    user = User(
        seed=0, index=0, style="none", shares=(0.4, 0.3, 0.3, 0.0), places={}, unseen=np.zeros(0, np.int64), repeats={}
    )
    names = ("personal", "calibration", "test")
    parts = {
        name: part(size, (0, 1, 2), seed=seed, moved=moved)
        for seed, (name, size) in enumerate(zip(names, sizes, strict=True))
    }
    return Seen(user=user, parts={**parts, "unseen": part(100, (3,), seed=9, moved=moved)})
