"""The published cloud-edge algorithm once more, in NumPy and float64, written from the dossier alone.

The network is one BatchNorm on the normalised frame and one linear layer, so that each derivative is a line worked by
hand. Nothing of the code under test is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

EPS = 1e-5
Array = Any


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def entropy(p: Array) -> Array:
    return -(p * np.log(p)).sum(axis=1)


def entropy_gradient(p: Array) -> Array:
    """dH/dz = -p (log p + H)."""
    return -p * (np.log(p) + entropy(p)[:, None])


@dataclass
class Net:
    """BatchNorm (C) and linear (K, C * H * W), with SGD momentum on gamma and beta."""

    weight_KF: Array
    bias_K: Array
    gamma: Array
    beta: Array
    lr: float
    momentum: float
    statistics_momentum: float
    own: bool = False
    """Each batch by its own statistics."""
    mean: Array = None
    var: Array = None
    speed: list[Array] = field(default_factory=list)
    steps: int = 0

    def logits(self, x_NCHW: Array) -> Array:
        if self.own or self.mean is None:
            self.mean = x_NCHW.mean(axis=(0, 2, 3))
            self.var = x_NCHW.var(axis=(0, 2, 3), ddof=0 if self.own else 1)
        y = self.normal(x_NCHW) * self.gamma[:, None, None] + self.beta[:, None, None]
        return y.reshape(len(y), -1) @ self.weight_KF.T + self.bias_K

    def normal(self, x_NCHW: Array) -> Array:
        return (x_NCHW - self.mean[:, None, None]) / np.sqrt(self.var + EPS)[:, None, None]

    def step(self, x_NCHW: Array, dz_NK: Array, *, move: bool) -> None:
        """SGD on gamma and beta for the gradient at the logits; then the statistics move."""
        dy = (dz_NK @ self.weight_KF).reshape(x_NCHW.shape)
        gradients = [(dy * self.normal(x_NCHW)).sum(axis=(0, 2, 3)), dy.sum(axis=(0, 2, 3))]
        if not self.speed:
            self.speed = [g.copy() for g in gradients]
        else:
            self.speed = [self.momentum * v + g for v, g in zip(self.speed, gradients, strict=True)]
        self.gamma = self.gamma - self.lr * self.speed[0]
        self.beta = self.beta - self.lr * self.speed[1]
        if move and not self.own:
            keep = 1 - self.statistics_momentum
            self.mean = keep * self.mean + (1 - keep) * x_NCHW.mean(axis=(0, 2, 3))
            self.var = keep * self.var + (1 - keep) * x_NCHW.var(axis=(0, 2, 3), ddof=1)
        self.steps += 1


@dataclass
class Reference:
    """One edge and one cloud, batch by batch, as the dossier's 1.1 to 1.4."""

    student: Net
    teacher: Net
    num_classes: int
    batch_size: int
    replay_ratio: int
    replay_after: int
    replay_capacity: int
    live_batches: int
    entropy_min: float
    follow: bool
    margin: float | None
    rng: np.random.Generator
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.entropy_max_0 = 0.4 * math.log(self.num_classes)
        self.entropy_max = self.entropy_max_0
        self.queue: list[Array] = []
        self.replay: list[Array] = []
        self.marginal: Array = None
        self.total, self.seen, self.warm = 0.0, 0, None
        self.iteration = 0
        self.train_mode = False

    def infer(self, x_NCHW: Array) -> tuple[Array, Array]:
        """Labels and which were uploaded."""
        self.iteration += 1
        if self.iteration <= self.live_batches:
            self.train_mode = False
        z = self.student.logits(x_NCHW)
        mask = self.select(softmax(z))
        self.queue += list(x_NCHW[mask])
        self.replay = (self.replay + list(x_NCHW[mask]))[-self.replay_capacity :]
        worked = False
        while len(self.queue) >= self.batch_size:
            worked = True
            new, self.queue = np.stack(self.queue[: self.batch_size]), self.queue[self.batch_size :]
            self.teacher_step(new)
            self.train_mode = True
            if len(self.replay) < self.replay_after:
                self.events.append("new")
                self.student_step(new)
            else:
                self.events.append("new+replay")
                self.student_step(np.concatenate([new, self.draw(self.batch_size * self.replay_ratio)]))
        if not worked and len(self.replay) > self.replay_after:
            self.events.append("replay" if self.train_mode else "replay, statistics still")
            self.student_step(self.draw(self.batch_size * (self.replay_ratio + 1)))
        return z.argmax(axis=1), mask

    def draw(self, count: int) -> Array:
        return np.stack(self.replay)[self.rng.choice(len(self.replay), size=count, replace=False)]

    def select(self, p: Array) -> Array:
        h = entropy(p)
        mask = (h < self.entropy_max) & ((h > self.entropy_min) | (self.entropy_min == 0))
        if self.margin is not None and mask.any():
            if self.marginal is None:
                self.marginal = p[mask].mean(axis=0)
            else:
                m = self.marginal
                cosine = p @ m / np.sqrt((p * p).sum(axis=1) * (m @ m))
                mask = mask & (np.abs(cosine) < self.margin)
                if mask.any():
                    self.marginal = 0.9 * m + 0.1 * p[mask].mean(axis=0)
        self.total, self.seen = self.total + h.sum(), self.seen + len(h)
        if self.follow and self.seen >= 64:
            mean = self.total / self.seen
            self.warm = mean if self.warm is None else self.warm
            self.entropy_max = self.entropy_max_0 * mean / self.warm
        return mask

    def weight(self, p: Array) -> Array:
        return np.exp(self.entropy_max_0 - entropy(p))[:, None]

    def teacher_step(self, x: Array) -> None:
        p = softmax(self.teacher.logits(x))
        self.teacher.step(x, self.weight(p) * entropy_gradient(p) / len(x), move=True)

    def student_step(self, x: Array) -> None:
        q = softmax(self.teacher.logits(x))
        p = softmax(self.student.logits(x))
        target = np.eye(self.num_classes)[q.argmax(axis=1)]
        dz = 3 * self.weight(p) * entropy_gradient(p) + self.weight(q) * (3 * (p - q) + 1 * (p - target))
        self.student.step(x, dz / len(x), move=self.train_mode)
