"""What the baselines do to a torch network: where it lies, what of it learns, whose statistics it uses.

Shapes: B batch, H height, W width, C channels, K classes. On a CPU, ``channels_last`` and torch's own batch
normalisation take half the time of any other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from littoral.bench.method import Setup
from littoral.core.arrays import Frame
from littoral.models.precision import autocast, uses_bfloat16

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


def place(model: nn.Module, setup: Setup) -> nn.Module:
    """The network on the setup's torch device, in eval mode, learning nothing; one CPU thread for the process."""
    if setup.torch_device.type == "cpu":
        torch.set_num_threads(1)
    placed: nn.Module = model.to(setup.torch_device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed.eval().requires_grad_(False)


def to_tensor(frames_BHWC: Frame, setup: Setup) -> Tensor:
    """uint8 frames ``(B, H, W, C)`` on the setup's torch device."""
    return torch.from_numpy(np.ascontiguousarray(frames_BHWC)).to(setup.torch_device)


def in_the_cloud(model: nn.Module, x_BCHW: Tensor, setup: Setup) -> Tensor:
    """Float32 logits ``(B, K)`` of a network that the cloud runs, in the precision of the setup."""
    with autocast(setup.torch_device, bfloat16=uses_bfloat16(setup.precision, setup.torch_device)):
        logits: Tensor = model(x_BCHW)
    return logits.float()


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The BatchNorm layers, in order."""
    return [module for module in model.modules() if isinstance(module, BATCH_NORMS)]


def keep_batch_statistics(model: nn.Module) -> None:
    """From now on each batch is normalised by its own statistics, which also replace the running ones.

    So a layer that is put into eval mode goes on with the statistics of the last batch.
    """
    for module in batch_norms(model):
        assert isinstance(module, BATCH_NORMS)
        module.momentum = 1.0
        module.train()


def affine_parameters(model: nn.Module, skip: Callable[[str], bool] = lambda name: False) -> list[nn.Parameter]:
    """Gamma and beta of every normalisation layer, made to learn; ``skip`` is asked with each layer's name.

    Raises:
        ValueError: there are none, so there is nothing to adapt.
    """
    found: list[nn.Parameter] = []
    for name, module in model.named_modules():
        if isinstance(module, NORMS) and not skip(name):
            found += [p for p in (module.weight, module.bias) if p is not None]
    if not found:
        raise ValueError("the model has no normalisation layer with affine values, so there is nothing to adapt")
    for parameter in found:
        parameter.requires_grad_(True)
    return found


def copies(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Copies of values, to come back to."""
    return [p.detach().clone() for p in parameters]


@torch.no_grad()
def put_back(parameters: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Write values into parameters in place."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
