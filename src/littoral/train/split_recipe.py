"""How a split is trained, in numbers: phases one after another, each with losses, an optimiser and a schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

PARTS = ("encoder", "gains", "prior", "decoder", "scales", "tail")
"""What can be trained. A frozen head and the teacher never are."""


@dataclass(frozen=True, kw_only=True)
class SplitLoss:
    """``distortion + features + pooled + rate`` of each frame, with these weights.

    Features are compared with the teacher's at modules that tail and teacher both have; the module after which the tail
    begins stands for what the decoder gives.
    """

    distortion: float = 1.0
    """Of what the task makes of the outputs: `ClassifierDistortion` and its like."""
    features: Mapping[str, float] = field(default_factory=dict)
    """By module: squared error over all positions."""
    pooled: Mapping[str, float] = field(default_factory=dict)
    """By module: squared error of the means over height and width. These the `TeacherBank` has."""
    relative: bool = True
    """Errors are shares of the teacher's own energy at that module; else sums of squares, as published."""
    rate: float = 1.0
    """Times the level's rate weight and the frame's bits."""
    summed: bool = False
    """Over the batch, as published; else the mean."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some epochs in which the same parts learn by the same rules."""

    epochs: int
    batch_size: int | None = None
    """Where it is not the recipe's."""
    loss: SplitLoss = SplitLoss()
    trained: tuple[str, ...] = PARTS
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = 2e-3
    """At its peak."""
    lr_scales: Mapping[str, float] = field(default_factory=dict)
    """By part, where one learns faster or slower than ``lr``."""
    weight_decay: float = 0.0
    """Of encoder, decoder and tail; gains and prior have none."""
    momentum: float = 0.9
    """Of SGD."""
    clip_norm: float | None = None
    """No gradient is longer."""
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    warmup: float = 0.0
    """Share of the phase in which the rate climbs in a straight line from 0; of the cosine."""
    drops: tuple[float, ...] = ()
    """Shares of the phase after which the rate falls to a tenth; of the steps."""
    rate_ramp_epochs: float = 0.0
    """The rate weights climb in a straight line from 0."""
    hard: bool = False
    """Rounded latents; encoder, gains and prior are not trained."""
    tail_statistics: bool = True
    """The BatchNorm statistics of the tail follow, whether it is trained or not."""
    round_about_medians: bool = False
    """From this phase on the latent is rounded about the prior's medians."""
    quantile_loss: bool = False
    """Also train the prior's quantiles, by the published auxiliary loss."""

    def __post_init__(self) -> None:
        if unknown := set(self.trained) - set(PARTS):
            raise ValueError(f"a phase trains {sorted(unknown)}; there are {', '.join(PARTS)}")
        if not self.trained or self.epochs < 1 or not self.lr > 0:
            raise ValueError("a phase trains at least one part, for at least 1 epoch, with lr above 0")
        if unknown := set(self.lr_scales) - set(PARTS):
            raise ValueError(f"lr_scales are for {sorted(unknown)}; there are {', '.join(PARTS)}")
        if any(not 0 <= scale < math.inf for scale in self.lr_scales.values()):
            raise ValueError(f"lr_scales are {dict(self.lr_scales)}, expected finite ones, none of them negative")
        if self.batch_size is not None and self.batch_size < 2:
            raise ValueError(f"a phase's batch_size is {self.batch_size}; 2 or more, or None for the recipe's")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}; above 0, or None: gradients are not clipped")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"a phase climbs for a share of itself, 0 or more and below 1, got {self.warmup}")
        if self.hard and (stuck := {"encoder", "gains", "prior"} & set(self.trained)):
            raise ValueError(f"a phase on rounded latents cannot train {sorted(stuck)}: they get no gradient there")

    def lr_factor(self, progress: float) -> float:
        """What ``lr`` is multiplied by at this share of the phase, 0..1."""
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "steps":
            return float(0.1 ** sum(progress >= drop for drop in self.drops))
        if progress < self.warmup:
            return max(progress / self.warmup, 1e-3)
        return 0.5 + 0.5 * math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))


@dataclass(frozen=True, kw_only=True)
class SplitRecipe:
    """All that a training is made of, but for networks and data.

    Args:
        phases: In order.
        rate_weights: Loss per bit of a frame, of each level, the coarsest and so the dearest first.
        batch_size: Frames of a step; each gets a level, all levels as often as one another.
        seed: Of order, levels, augmentation and noise. The networks are the caller's.
    Raises:
        ValueError: there is no phase, or a number is out of range.
    """

    phases: tuple[Phase, ...]
    rate_weights: tuple[float, ...]
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.phases or not self.rate_weights or self.batch_size < 2:
            raise ValueError("a recipe needs a phase, a rate weight per level and a batch of at least 2 frames")
        if any(not 0 <= weight < math.inf for weight in self.rate_weights):
            raise ValueError(f"rate_weights are {self.rate_weights}, expected finite ones, none of them negative")

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def batch_size_of(self, phase: Phase) -> int:
        """Frames of a step of a phase."""
        return phase.batch_size or self.batch_size

    def phase_of(self, epoch: int) -> tuple[int, int]:
        """The phase of an epoch, and how many epochs of it went before."""
        for index, phase in enumerate(self.phases):
            if epoch < phase.epochs:
                return index, epoch
            epoch -= phase.epochs
        raise ValueError(f"the recipe has {self.epochs} epochs, counted from 0")


def product_recipe(
    *,
    epochs: int = 20,
    hard_epochs: int = 1,
    rate_weights: tuple[float, ...] = (5e-4, 1.5e-4, 4e-5, 1e-5),
    features: Mapping[str, float] | None = None,
    pooled: Mapping[str, float] | None = None,
    lr: float = 2e-3,
    tail_lr_scale: float = 0.5,
    batch_size: int = 128,
    fitted: bool = False,
    seed: int = 0,
) -> SplitRecipe:
    """One joint stage with the tail trained along, then decoder and tail on rounded latents.

    Args:
        epochs: In all.
        hard_epochs: Of these, the last ones.
        features: See `SplitLoss`; none without it.
        pooled: Likewise.
        fitted: It starts from `littoral.train.transform`, where bits are priced from the first step on and the tail
            keeps its BatchNorm statistics.
    Raises:
        ValueError: no epoch is left in which the encoder is trained.
    """
    if not 0 <= hard_epochs < epochs:
        raise ValueError(
            f"{epochs} epochs were asked for, the last {hard_epochs} for decoder and tail alone, on rounded latents; "
            f"at least one must train the encoder: give {max(hard_epochs, 0) + 1} or more"
        )
    loss = SplitLoss(features=dict(features or {}), pooled=dict(pooled or {}))
    scales = {"tail": tail_lr_scale, "prior": 5.0, "gains": 5.0, "scales": 5.0}
    joint = Phase(
        epochs=epochs - hard_epochs,
        loss=loss,
        lr=lr,
        lr_scales=scales,
        weight_decay=1e-2,
        clip_norm=5.0,
        warmup=0.1,
        rate_ramp_epochs=0.0 if fitted else min(2.0, 0.25 * (epochs - hard_epochs)),
        tail_statistics=not fitted,
    )
    phases = [joint]
    if hard_epochs:
        phases.append(
            Phase(
                epochs=hard_epochs,
                loss=loss,
                trained=("decoder", "scales", "tail"),
                lr=lr / 10,
                lr_scales=scales,
                weight_decay=1e-2,
                clip_norm=5.0,
                hard=True,
                tail_statistics=not fitted,
            )
        )
    return SplitRecipe(phases=tuple(phases), rate_weights=rate_weights, batch_size=batch_size, seed=seed)


def parity_recipe(
    *,
    beta: float,
    features: tuple[str, ...],
    stage1_epochs: int = 10,
    stage2_epochs: int = 10,
    quantile_loss: bool = False,
    batch_sizes: tuple[int, int] = (64, 128),
    seed: int = 0,
) -> SplitRecipe:
    """Entropic Student's two stages.

    Args:
        beta: Loss per bit, where the loss is a sum of squares.
        features: The modules whose outputs are mimicked in stage 1, the one before the tail included.
        quantile_loss: The published auxiliary loss; the bottleneck's prior must have its quantiles.
        batch_sizes: Of both stages.
    Source: Matsubara et al., WACV 2022; the configurations of yoshitomo-matsubara/sc2-benchmark for ImageNet.
    """
    mimicry = replace(
        _mimicry(stage1_epochs, features),
        batch_size=batch_sizes[0],
        trained=("encoder", "prior", "decoder"),
        quantile_loss=quantile_loss,
    )
    tuning = replace(_tuning(stage2_epochs), batch_size=batch_sizes[1], round_about_medians=True)
    return SplitRecipe(phases=(mimicry, tuning), rate_weights=(beta,), batch_size=batch_sizes[0], seed=seed)


def _mimicry(epochs: int, features: tuple[str, ...]) -> Phase:
    """The published first stage: sums of squared errors at the teacher's modules."""
    return Phase(
        epochs=epochs,
        loss=SplitLoss(distortion=0.0, features=dict.fromkeys(features, 1.0), relative=False, summed=True),
        optimizer="adam",
        lr=1e-3,
        schedule="steps",
        drops=(0.5, 0.8),
    )


def _tuning(epochs: int) -> Phase:
    """The published second stage: labels and the teacher's logits, on rounded latents."""
    return Phase(
        epochs=epochs,
        loss=SplitLoss(rate=0.0),
        trained=("decoder", "tail"),
        optimizer="sgd",
        lr=1e-3,
        weight_decay=5e-4,
        schedule="steps",
        drops=(0.5,),
        hard=True,
    )


def end_to_end_recipe(*, beta: float, epochs: int = 60, batch_size: int = 256, seed: int = 0) -> SplitRecipe:
    """The same networks with labels and rate alone, no teacher; the caller's distortion has no distillation.

    Source: Singh et al., ICIP 2020, as yoshitomo-matsubara/sc2-benchmark runs it: Adam 1e-3, cosine.
    """
    phase = Phase(epochs=epochs, optimizer="adam", lr=1e-3, trained=("encoder", "prior", "decoder", "tail"))
    return SplitRecipe(phases=(phase,), rate_weights=(beta,), batch_size=batch_size, seed=seed)


def channel_reduction_recipe(
    *, features: tuple[str, ...], epochs: int = 20, batch_size: int = 64, seed: int = 0
) -> SplitRecipe:
    """Mimicry of the features and then the labels and the teacher's logits, without a rate and without rounding.

    The number of channels sets the rate. `calibrate_8_bit` follows. Published: mimicry alone, 20 epochs, Adam 1e-3;
    here the last quarter trains decoder and tail as `parity_recipe` does, so that the tail is no disadvantage.
    """
    tuned = max(1, epochs // 4)
    mimicry = _mimicry(max(1, epochs - tuned), features)
    mimicry = replace(mimicry, trained=("encoder", "decoder"), loss=replace(mimicry.loss, rate=0.0))
    tuning = _tuning(tuned)
    return SplitRecipe(phases=(mimicry, tuning), rate_weights=(0.0,), batch_size=batch_size, seed=seed)
