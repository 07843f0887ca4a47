"""What an adaptation is given and what it gives back: plain values, so that any executor can run it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from littoral.core.arrays import Frame

if TYPE_CHECKING:
    from littoral.models.norm import Normalisation
    from littoral.models.precision import Precision


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """How the cloud learns. The defaults are what we run; `parity` is the published configuration."""

    batch_size: int = 32
    """New samples per job."""
    max_batches_per_job: int = 8
    """A cloud that has fallen behind takes so many batches at once, and learns from the newest."""
    replay_ratio: int = 1
    """Replayed samples per new one; 3 as published."""
    replay_after: int = 1
    """Samples that must be in the replay buffer before it is used; 256 as published."""
    replay_capacity: int = 10_000
    inner_steps: int = 8
    """The most student steps per job; the published system takes one."""
    one_domain: bool = True
    """Replayed frames are of the new ones' domain and share their batch statistics; else each part has its own."""
    minibatch_size: int | None = 64
    """Frames, new and replayed, that a student step draws; None takes all in every step, as published."""
    augment: bool = True
    """Shift the frames of a step by up to a sixteenth of their size, and mirror them where `Worker.mirrors`."""
    settled_nats: float = 0.03
    """A job ends early once the student's mean divergence from the teacher is below this; 0 takes every step."""
    optimiser: Literal["sgd", "adam"] = "adam"
    student_lr: float = 0.002
    teacher_lr: float = 0.0
    """Of the teacher's SGD with momentum 0.9; 0.00025 as published. At 0 its affine values stay the source's: it
    follows the world by the statistics of each batch alone, which gains as much here and cannot collapse."""
    teacher_recall: float = 0.01
    """The share by which each job draws a teacher that learns back to its source (1 % a step in ROID); 0 as
    published."""
    teacher_min_spread: float = 0.5
    """A teacher that learns, and whose answers spread over the classes less than this share of its source's, starts
    anew; 0 never."""
    entropy_weight: float = 0.0
    distillation_weight: float = 3.0
    label_weight: float = 1.0
    exit_weight: float = 0.2
    """Of each early exit's loss beside that of the network's end, where a bundle has exits; 0: they are left alone."""
    fitted_temperature: bool = True
    """Hold the student's answers against the teacher's at the temperature at which they differ least, so that few steps
    go into how sure the student is and more into what it says."""
    mean_one_weights: bool = True
    """Divide the certainty weights by their mean, so that one learning rate serves 10 classes and 1000."""
    normalisation: Normalisation = "batch"
    precision: Precision = "auto"
    """In which the networks compute while they learn: bfloat16 where the machine has instructions for it and the bundle
    has no early exits. Weights, losses, and what a version is judged by on the probe are float32."""
    seed: int = 0
    threads: int = 1
    """Of torch, for the whole process: two threads on a busy machine of two cores are slower than one."""

    def __post_init__(self) -> None:
        least = 2 if self.minibatch_size is None else self.minibatch_size
        if min(self.max_batches_per_job, self.inner_steps, self.replay_capacity) < 1 or min(self.batch_size, least) < 2:
            raise ValueError(
                "adaptation needs batch_size and minibatch_size >= 2, and max_batches_per_job, inner_steps and "
                "replay_capacity >= 1"
            )
        if self.normalisation == "renorm" and not self.teacher_lr:
            raise ValueError(
                "teacher_lr is 0 and normalisation 'renorm': a teacher that takes no step then keeps the source's "
                "statistics and follows no world; use normalisation 'batch', or a teacher_lr above 0"
            )

    @classmethod
    def parity(cls) -> Self:
        """The configuration of the authors' code (CEMA, ICLR 2024), but for statistics that start from the source's."""
        return cls(
            max_batches_per_job=1,
            replay_ratio=3,
            replay_after=256,
            inner_steps=1,
            one_domain=False,
            minibatch_size=None,
            augment=False,
            teacher_lr=0.00025,
            teacher_recall=0.0,
            teacher_min_spread=0.0,
            settled_nats=0.0,
            optimiser="sgd",
            student_lr=0.0025,
            entropy_weight=3.0,
            exit_weight=0.0,
            fitted_temperature=False,
            mean_one_weights=False,
            normalisation="renorm",
            precision="float32",
        )


@dataclass(frozen=True, kw_only=True)
class AdaptJob:
    """Everything that an adaptation depends on."""

    base_version: int
    state: bytes
    """`AdaptResult.state` of the version before; empty at the source."""
    new_frames: Frame
    """uint8 ``(N, H, W, C)`` in commit order."""
    replay_frames: Frame
    """uint8 ``(M, H, W, C)``; M may be 0."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class AdaptResult:
    """What a job made. ``payload`` is the coded delta to the source affine values: what would ship.

    ``labels`` are the teacher's answers to the new frames (`littoral.core.sample_labels.encode_label`), or none.
    """

    state: bytes
    payload: bytes
    report: dict[str, float | str]
    labels: tuple[bytes, ...] = ()


def as_dict(config: AdaptConfig) -> dict[str, object]:
    """The configuration for reports and the record."""
    return dataclasses.asdict(config)
