"""From uint8 frames to what a network takes. The same arithmetic in training, in the cloud and in segment 0."""

from __future__ import annotations

import torch
from torch import Tensor

from littoral.bundle.manifest import InputSpec


def normalise(frames_BHWC: Tensor, spec: InputSpec) -> Tensor:
    """uint8 ``(B, H, W, C)`` to float32 ``(B, C, H, W)``: ``(x / 255 - mean) / std``, as one multiply and one add."""
    device = frames_BHWC.device
    scale = torch.tensor([1 / (255 * s) for s in spec.std], device=device).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(spec.mean, spec.std, strict=True)], device=device).view(1, -1, 1, 1)
    return frames_BHWC.permute(0, 3, 1, 2).to(torch.float32) * scale + shift
