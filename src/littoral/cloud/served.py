"""The student as a device of a world serves it: under a mixture of the source's statistics and those of its frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.core.drift import StatisticsConfig
from littoral.core.nearness import own_share
from littoral.core.recall import MEAN_SQUARE_SUFFIX, MEAN_SUFFIX, fingerprint_of_moments
from littoral.models.norm import AdaptiveBatchNorm

if TYPE_CHECKING:
    from littoral.cloud.adapt import Worker


def served_logits(
    worker: Worker, frames: Frame, affine: Tensors, *, config: StatisticsConfig | None = None
) -> FloatArray:
    """Logits ``(N, K)`` of the student with these values, as devices in the world of the frames get them.

    A version that is right under the statistics of a batch may be wrong under the source's, of which a device near the
    source serves nearly all (`littoral.core.drift`).

    Args:
        frames: uint8 ``(N, H, W, C)`` of one world.
        config: Of the devices; their defaults.
    """
    share = world_share(worker, frames, config or StatisticsConfig())
    with _mixing(worker.student, share):
        return worker.source_logits(frames, affine)


def world_share(worker: Worker, frames: Frame, config: StatisticsConfig) -> float:
    """The share of a device's own statistics in the world of these frames; all of it where no device looks how far it
    is: without BatchNorm, or with a bundle that does not say what the source's world looks like."""
    world = worker.bundle.source_world
    if world is None or not config.half_trust_factor:
        return 1.0
    seen, labels = _look(worker, frames, world.layer)
    return own_share(world.distance(seen, world.shares(labels), len(frames)), config.half_trust_factor)


def _look(worker: Worker, frames: Frame, layer: NormLayer) -> tuple[FloatArray, NDArray[np.int64]]:
    """What the source's network sees of frames at a layer, and what it answers."""
    seen: list[FloatArray] = []

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        mean, square = _moments(given[0])
        moments = {layer.name + MEAN_SUFFIX: mean.cpu().numpy(), layer.name + MEAN_SQUARE_SUFFIX: square.cpu().numpy()}
        seen.append(fingerprint_of_moments(moments, layer))

    hook = worker.student.get_submodule(layer.name).register_forward_pre_hook(look)
    try:
        logits = worker.source_logits(frames, worker.bundle.source_affine)
    finally:
        hook.remove()
    return seen[0], logits.argmax(axis=1)


@contextmanager
def _mixing(model: nn.Module, share: float) -> Iterator[None]:
    """While it lasts every BatchNorm normalises by ``share`` parts of its batch's moments and the rest its own."""

    def mix(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, AdaptiveBatchNorm)
        mean, square = _moments(given[0])
        own_square = module.running_var + module.running_mean**2
        mixed = (1 - share) * module.running_mean + share * mean
        module.running_var.copy_(((1 - share) * own_square + share * square - mixed**2).clamp_min(0))
        module.running_mean.copy_(mixed)

    hooks = [m.register_forward_pre_hook(mix) for m in model.modules() if isinstance(m, AdaptiveBatchNorm)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel the mean and the mean square of ``(B, C, ...)``."""
    dims = [0, *range(2, x.dim())]
    return x.mean(dims), (x * x).mean(dims)
