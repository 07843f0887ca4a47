"""Half the bits where a machine computes with them faster: bfloat16 in the networks, float32 in every loss."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["auto", "float32", "bfloat16"]


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether the networks compute in bfloat16; ``auto`` where the device has instructions for it.

    A step then takes about half of its time on an AVX-512 core; without the instructions it would take longer.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"a precision is 'auto', 'float32' or 'bfloat16', got {precision!r}")
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def autocast(device: torch.device, *, bfloat16: bool) -> AbstractContextManager[Any]:
    """Convolutions and products within it take bfloat16; weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def as_float32(outputs: Any) -> Any:
    """A network's outputs with float32 for any other floating point: tensors, and tuples, lists or dicts of them."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, dict):
        return {name: as_float32(value) for name, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        values = [as_float32(value) for value in outputs]
        return type(outputs)(*values) if hasattr(outputs, "_fields") else type(outputs)(values)
    return outputs
