"""What a split answers to frames in memory, and its tail to symbols: for measuring it before it is in a bundle."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from littoral.core.arrays import FloatArray
from littoral.models.frames import normalise
from littoral.models.modes import in_eval_mode
from littoral.train.split_data import SplitData, SplitNetworks


def answer_split(
    networks: SplitNetworks, data: SplitData, *, level: int, batch_size: int = 250
) -> tuple[Tensor, Tensor]:
    """What the split gives for the frames as they are, with rounded latents, all at one level.

    Returns:
        The tail's outputs, one tensor with the frames first, and the prior's estimate of each frame's bits, ``(N,)``.
    """
    device = next(networks.bottleneck.parameters()).device
    outputs, bits = [], []
    with torch.inference_mode(), in_eval_mode(networks.head, networks.bottleneck, networks.tail):
        for start in range(0, len(data.frames), batch_size):
            frames = torch.from_numpy(np.ascontiguousarray(data.frames[start : start + batch_size])).to(device)
            x = normalise(frames, data.input).contiguous(memory_format=torch.channels_last)
            x = x if networks.head is None else networks.head(x)
            out = networks.bottleneck(x, torch.full((len(x),), level, device=device))
            outputs.append(networks.tail(out.features))
            bits.append(out.rate_bits)
    return torch.cat(outputs), torch.cat(bits)


def tail_outputs(model: nn.Module, symbols_BCHW: FloatArray, level: int) -> FloatArray:
    """What a tail gives for symbols of one level, on the CPU; the module's modes are put back."""
    parameter = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad(), in_eval_mode(model):
            symbols = torch.from_numpy(symbols_BCHW).to(parameter.device)
            levels = torch.full((len(symbols),), level, device=parameter.device)
            outputs = model(symbols, levels)
    except RuntimeError as error:
        raise ValueError(f"the split's tail does not take symbols of {symbols_BCHW.shape[1:]}: {error}") from error
    if not isinstance(outputs, torch.Tensor) or outputs.ndim < 2 or len(outputs) != len(symbols_BCHW):
        came = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ValueError(
            f"for {len(symbols_BCHW)} latents the split's tail gives {came}, expected one tensor of outputs"
        )
    return np.asarray(outputs.float().cpu().numpy())
