"""Rehearsal: before any device meets a new world, the student's affine values get used to statistics that follow it.

The teacher is distilled into the student's normalisation layers on source frames that were changed by mild operations
(turns, shears, shifts, equalising, posterising, solarising, in AugMix's mixtures), both networks under the statistics
of the batch at hand. No label is used, and none of the operations is a noise, a blur, weather or a coding: what a
device will meet is not rehearsed, only that something will change. A cloud's very first job starts from the values.

Source: the operations and mixtures of AugMix, Hendrycks et al., ICLR 2020. Departure: they are used to adapt affine
values by distillation, without labels and without the consistency loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import nn

from littoral.bundle import InputSpec
from littoral.core.arrays import FloatArray, Frame
from littoral.models.frames import normalise
from littoral.models.norm import learn, prepare

BATCH = 64
LEARNING_RATE = 1e-3
_CHAINS, _LONGEST = 3, 3
_MOST = 0.3
"""The strength of an operation: a turn of up to 9 degrees, a shear of 0.3, a shift of a tenth of the side."""


def rehearse(
    *,
    student: nn.Module,
    teacher: nn.Module,
    spec: InputSpec,
    frames: Frame,
    names: list[str],
    steps: int,
    seed: int,
    progress: Callable[[str], None],
) -> dict[str, FloatArray]:
    """Affine values of the student after ``steps`` of distillation.

    Args:
        frames: uint8 ``(N, H, W, C)`` of the source; of 1 or 3 channels; others are taken as they are.
        names: The tensors to give back.
    Raises:
        ValueError: a network has no normalisation layer to adapt.
    """
    rng = np.random.default_rng(seed)
    learner, guide = prepare(student, "batch"), prepare(teacher, "batch")
    learn(learner, True)
    learn(guide, True)
    parameters = dict(learner.named_parameters())
    optimiser = torch.optim.Adam([p for p in parameters.values() if p.requires_grad], lr=LEARNING_RATE)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        picked = rng.permutation(len(frames))[:BATCH]
        x = normalise(torch.from_numpy(np.stack([mixed(frame, rng) for frame in frames[picked]])), spec)
        with torch.no_grad():
            target = guide(x).log_softmax(1)
        loss = F.kl_div(learner(x).log_softmax(1), target, reduction="batchmean", log_target=True)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            progress(f"rehearsing, step {step + 1} of {steps}: {float(loss.detach()):.3f} nats from the teacher")
    return {name: parameters[name].detach().numpy().copy() for name in names}


def mixed(frame_HWC: Frame, rng: np.random.Generator) -> Frame:
    """A frame mixed with chains of operations on itself; uint8 ``(H, W, C)``, C of 1 or 3, else the frame as it is."""
    if frame_HWC.shape[2] not in (1, 3):
        return frame_HWC
    image = Image.fromarray(frame_HWC[..., 0] if frame_HWC.shape[2] == 1 else frame_HWC)
    total: NDArray[np.float32] = np.zeros(frame_HWC.shape, np.float32)
    for weight in rng.dirichlet([1.0] * _CHAINS):
        changed = image
        for _ in range(rng.integers(1, _LONGEST + 1)):
            changed = _operation(changed, rng)
        total += np.float32(weight) * np.asarray(changed, np.float32).reshape(frame_HWC.shape)
    share = np.float32(rng.beta(1.0, 1.0))
    return ((1 - share) * frame_HWC + share * total).clip(0, 255).astype(np.uint8)


def _operation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    kind, strength = int(rng.integers(9)), float(rng.uniform(0.1, 1.0)) * _MOST
    signed = strength * float(rng.choice([-1.0, 1.0]))
    if kind == 0:
        return ImageOps.autocontrast(image)
    if kind == 1:
        return ImageOps.equalize(image)
    if kind == 2:
        return ImageOps.posterize(image, int(8 - 4 * strength / _MOST))
    if kind == 3:
        return ImageOps.solarize(image, int(256 - 256 * strength))
    if kind == 4:
        return image.rotate(30 * signed, resample=Image.Resampling.BILINEAR)
    moves = {
        5: (1, signed, 0, 0, 1, 0),
        6: (1, 0, 0, signed, 1, 0),
        7: (1, 0, signed * image.width / 3, 0, 1, 0),
        8: (1, 0, 0, 0, 1, signed * image.height / 3),
    }
    return image.transform(image.size, Image.Transform.AFFINE, moves[kind], resample=Image.Resampling.BILINEAR)
