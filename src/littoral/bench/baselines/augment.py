"""The augmentations of CoTTA and ROID, in torch alone: one draw of parameters for the whole batch.

Source: CoTTA's transform (KATANA, arXiv 2109.08191), in the form of mariodoebler/test-time-adaptation: colour jitter in
a random order, a small affine map, a flip; for CoTTA also a slight blur and noise. ROID's form pads by reflection and
has neither blur nor noise. Frames are float32 ``(B, C, H, W)`` on 0..1.

Padding by half the size, mapping and cropping the centre is done as one look-up: the map never reaches beyond the
padding, so looking up with the same rule at the border gives the same values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE, GAMMA = (0.6, 1.4), (0.7, 1.3), (0.5, 1.5), (-0.06, 0.06), (0.7, 1.3)
DEGREES, SCALE, SHIFT = 15.0, (0.9, 1.1), 1 / 16
"""The shift is a share of the padded size, twice the frame's."""
BLUR_SIGMA, BLUR_RADIUS = (0.001, 0.5), 2
NOISE = 0.005


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which of the two published forms."""

    cotta: bool

    def __call__(self, x_BCHW: Tensor, rng: torch.Generator) -> Tensor:
        """Augmented frames of the same shape on 0..1."""
        x = jitter(x_BCHW.clamp(0, 1), rng)
        margin = BLUR_RADIUS if self.cotta else 0
        x = move(x, rng, padding="border" if self.cotta else "reflection", margin=margin)
        if self.cotta:
            x = blur(x, _uniform(BLUR_SIGMA, rng))
        if _uniform((0, 1), rng) < 0.5:
            x = x.flip(3)
        if self.cotta:
            x = x + NOISE * torch.randn(x.shape, generator=rng).to(x.device)
        return x.clamp(0, 1).contiguous(memory_format=torch.channels_last)


def _uniform(bounds: tuple[float, float], rng: torch.Generator) -> float:
    low, high = bounds
    return low + (high - low) * float(torch.rand((), generator=rng))


def jitter(x_BCHW: Tensor, rng: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation, hue and gamma, in a random order. Grey frames have no saturation and hue."""
    coloured = x_BCHW.shape[1] == 3
    for which in torch.randperm(5, generator=rng).tolist():
        if which == 0:
            x_BCHW = (x_BCHW * _uniform(BRIGHTNESS, rng)).clamp(0, 1)
        elif which == 1:
            mean = grey(x_BCHW).mean(dim=(1, 2, 3), keepdim=True)
            x_BCHW = _blend(x_BCHW, mean, _uniform(CONTRAST, rng))
        elif which == 2:
            amount = _uniform(SATURATION, rng)
            x_BCHW = _blend(x_BCHW, grey(x_BCHW), amount) if coloured else x_BCHW
        elif which == 3:
            amount = _uniform(HUE, rng)
            x_BCHW = turn_hue(x_BCHW, amount) if coloured else x_BCHW
        else:
            x_BCHW = x_BCHW.clamp(1e-8, 1) ** _uniform(GAMMA, rng)
    return x_BCHW


def grey(x_BCHW: Tensor) -> Tensor:
    """Luma, ``(B, 1, H, W)``, by the weights of ITU-R 601."""
    if x_BCHW.shape[1] != 3:
        return x_BCHW.mean(dim=1, keepdim=True)
    red, green, blue = x_BCHW.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def _blend(x: Tensor, other: Tensor, amount: float) -> Tensor:
    return (amount * x + (1 - amount) * other).clamp(0, 1)


def turn_hue(x_BCHW: Tensor, turn: float) -> Tensor:
    """Hue moved by a share of the full circle, by way of HSV.

    The inverse uses ``value - value * saturation * max(0, min(k, 4 - k, 1))`` with ``k = (n + 6 h) mod 6`` and n of 5,
    3 and 1 for red, green and blue.
    """
    value, arg = x_BCHW.max(dim=1)
    chroma = value - x_BCHW.min(dim=1).values
    red, green, blue = x_BCHW.unbind(1)
    safe = chroma.clamp(min=1e-8)
    sixths = torch.where(
        arg == 0, (green - blue) / safe, torch.where(arg == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    sixths = sixths + 6 * turn
    channels = []
    for n in (5, 3, 1):
        k = torch.remainder(n + sixths, 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def move(x_BCHW: Tensor, rng: torch.Generator, *, padding: str, margin: int) -> Tensor:
    """A random turn, scale and shift about the centre, bilinear; ``margin`` more pixels on every side come out."""
    height, width = x_BCHW.shape[2:]
    angle = math.radians(_uniform((-DEGREES, DEGREES), rng))
    reach = (SHIFT * 2 * width, SHIFT * 2 * height)
    shift_x, shift_y = (round(_uniform((-r, r), rng)) for r in reach)
    scale = _uniform(SCALE, rng)
    rows = torch.arange(-margin, height + margin, dtype=torch.float32) - (height - 1) / 2 - shift_y
    columns = torch.arange(-margin, width + margin, dtype=torch.float32) - (width - 1) / 2 - shift_x
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    grid = torch.stack(  # align_corners: -1 and 1 are the centres of the outermost pixels
        [(cos * x + sin * y) * 2 / max(width - 1, 1), (cos * y - sin * x) * 2 / max(height - 1, 1)], dim=-1
    )
    grid = grid.to(x_BCHW.device).expand(len(x_BCHW), -1, -1, -1)
    return F.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode=padding, align_corners=True)


def blur(x_BCHW: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with 5 x 5 taps; the outermost 2 pixels on every side are used up."""
    taps = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(x_BCHW.device)
    size, inner = len(kernel), slice(BLUR_RADIUS, -BLUR_RADIUS)
    if float(kernel[BLUR_RADIUS]) > 1 - 1e-4:  # half of all draws: a blur that changes nothing
        return x_BCHW[:, :, inner, inner]
    height, width = x_BCHW.shape[2] - size + 1, x_BCHW.shape[3] - size + 1
    rows = torch.stack([kernel[i] * x_BCHW[:, :, i : i + height] for i in range(size)]).sum(0)
    return torch.stack([kernel[i] * rows[:, :, :, i : i + width] for i in range(size)]).sum(0)
