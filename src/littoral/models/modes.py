"""A network's modes, put back after it was looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_eval_mode(*networks: nn.Module | None) -> Iterator[None]:
    """Networks in eval mode meanwhile; each module is in its own mode again afterwards."""
    modules = [module for network in networks if network is not None for module in network.modules()]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
