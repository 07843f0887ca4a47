"""One small world for the tests of heads: a shipped head, and a user whose features lie elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from littoral.core.heads import LinearHead, SourceMoments, softmax64
from littoral.core.personal import PersonalConfig, PersonalHead

D, K = 6, 4
_RNG = np.random.default_rng(5)
MEANS = (_RNG.normal(size=(K, D)) * 1.4).astype(np.float32)
SHIPPED = LinearHead(weights_KD=MEANS, bias_K=(-0.5 * (MEANS**2).sum(axis=1)).astype(np.float32))
MOMENTS = SourceMoments(means_KD=MEANS, covariance_DD=np.eye(D, dtype=np.float32))
MOVED = (_RNG.normal(size=D) * 1.3).astype(np.float32)


@dataclass
class User:
    """Frames of one user: features, labels, and what a deep exit says of them."""

    features: np.ndarray
    labels: np.ndarray
    deep: np.ndarray

    def accuracy(self, head: LinearHead) -> float:
        return float((head.logits(self.features).argmax(axis=1) == self.labels).mean())


def user(num_frames: int, *, seed: int, shares: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1), sure: float = 5.0) -> User:
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, size=num_frames, p=shares)
    features = (MEANS[labels] + MOVED + rng.normal(size=(num_frames, D))).astype(np.float32)
    scores = rng.normal(size=(num_frames, K))
    scores[np.arange(num_frames), labels] += sure
    return User(features, labels, softmax64(scores))


def new_head(*, seed: int = 1, **config: Any) -> PersonalHead:
    return PersonalHead(SHIPPED, affine_version=3, seed=seed, config=PersonalConfig(**config), moments=MOMENTS)


def show(
    head: PersonalHead, frames: User, *, per_day: int = 40, labelled: float = 1.0, skip: int | None = None
) -> None:
    """Give frames to a head, so many a day; the first part of each ten has labels; one day may be left out."""
    for i, features in enumerate(frames.features):
        if (day := i // per_day) == skip:
            continue
        label = int(frames.labels[i]) if i % 10 < 10 * labelled else None
        head.observe(features, day=day, affine_version=head.affine_version, label=label, deep_K=frames.deep[i])
