"""What the loop is held against: the frozen student, and the teacher adapted on every frame of the same stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from littoral.bundle import Bundle
from littoral.cloud.jobs import AdaptConfig
from littoral.cloud.teacher import teacher_loss
from littoral.core.arrays import Frame
from littoral.edge.session import Model
from littoral.models.factory import load_model
from littoral.models.frames import normalise
from littoral.models.norm import learn, prepare

TEACHER_BATCH = 64
Answers = NDArray[np.int64]


def frozen_answers(bundle: Bundle, frames: Frame) -> Answers:
    """The source model's label for each of uint8 ``(N, H, W, C)``: what a device without Littoral says."""
    model = Model(bundle)
    return np.concatenate([model.run(batch).argmax(1) for batch in _batches(frames, TEACHER_BATCH)])


def teacher_answers(
    bundle: Bundle, frames: Frame, config: AdaptConfig, on_batch: Callable[[int], None] | None = None
) -> Answers:
    """The teacher's labels when it sees every frame, adapts by its own loss, and answers before each step.

    Args:
        frames: uint8 ``(N, H, W, C)`` in the order in which they were played.
        on_batch: Told after each batch how many frames are done.
    """
    manifest = bundle.manifest
    assert manifest.teacher is not None  # a classifier's bundle
    model = prepare(load_model(manifest.teacher, bundle.load_tensors(manifest.teacher.file)), "batch")
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=config.teacher_lr, momentum=0.9)
    learn(model, True)
    answers = []
    for batch in _batches(frames, TEACHER_BATCH):
        with torch.set_grad_enabled(config.teacher_lr > 0):  # a step of length 0 moves nothing
            logits = model(normalise(torch.from_numpy(batch), manifest.input))
        answers.append(logits.detach().argmax(1).numpy())
        if config.teacher_lr > 0:
            optimiser.zero_grad()
            teacher_loss(logits, mean_one=config.mean_one_weights).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if on_batch is not None:
            on_batch(sum(map(len, answers)))
    return np.concatenate(answers)


def _batches(frames: Frame, size: int) -> list[Frame]:
    """Batches of ``size``; a last one too small for statistics of its own joins the one before."""
    starts = list(range(0, len(frames), size))
    if len(starts) > 1 and len(frames) - starts[-1] < 2:
        starts.pop()
    ends = [*starts[1:], len(frames)]
    return [frames[a:b] for a, b in zip(starts, ends, strict=True)]
