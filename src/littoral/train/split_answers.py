"""What a split answers to frames in memory: for measuring it before it is in a bundle."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from littoral.models.frames import normalise
from littoral.train.split_data import SplitData, SplitNetworks


def answer_split(
    networks: SplitNetworks, data: SplitData, *, level: int, batch_size: int = 250
) -> tuple[Tensor, Tensor]:
    """What the split gives for the frames as they are, with rounded latents, all at one level.

    Returns:
        The tail's outputs, one tensor with the frames first, and the prior's estimate of each frame's bits, ``(N,)``.
    """
    modules = [m for m in (networks.head, networks.bottleneck, networks.tail) if m is not None]
    modes = [module.training for module in modules]
    device = next(networks.bottleneck.parameters()).device
    outputs, bits = [], []
    with torch.inference_mode():
        for module in modules:
            module.eval()
        for start in range(0, len(data.frames), batch_size):
            frames = torch.from_numpy(np.ascontiguousarray(data.frames[start : start + batch_size])).to(device)
            x = normalise(frames, data.input).contiguous(memory_format=torch.channels_last)
            x = x if networks.head is None else networks.head(x)
            out = networks.bottleneck(x, torch.full((len(x),), level, device=device))
            outputs.append(networks.tail(out.features))
            bits.append(out.rate_bits)
    for module, mode in zip(modules, modes, strict=True):
        module.train(mode)
    return torch.cat(outputs), torch.cat(bits)
