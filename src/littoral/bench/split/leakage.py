"""How much of a frame can be seen in what is sent: a decoder trained to rebuild it, per level, on held-out frames.

The attacker has the tables, the gains and as many pairs of frame and symbols as the device's owner trained on. Other
attackers may do better: this is what a plain one sees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor, nn

from littoral.bench.split.material import SplitMaterial, torch_device
from littoral.bench.split.training import Say, Trained
from littoral.core.arrays import FloatArray, Frame
from littoral.models.decoders import ResidualBlock, conv_bn_relu
from littoral.models.layers import conv1x1, conv3x3
from littoral.models.precision import autocast, uses_bfloat16

WIDTH, BLOCKS, BATCH = 64, 2, 128
_WINDOW = 7


def make_inverter(channels: int, *, doublings: int, width: int = WIDTH) -> nn.Sequential:
    """From a latent of ``channels`` to RGB on 0..1, ``2**doublings`` times as high and wide."""
    layers = conv_bn_relu(conv3x3(channels, width), width)
    layers += [ResidualBlock(width) for _ in range(BLOCKS)]
    for _ in range(doublings):
        layers += [conv1x1(width, 4 * width), nn.PixelShuffle(2), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1), nn.Sigmoid())


def fit_inverter(
    latents_NCHW: FloatArray,
    frames: Frame,
    *,
    epochs: int,
    batch_size: int = BATCH,
    seed: int = 0,
    width: int = WIDTH,
    tell: Callable[[int], None] = lambda done: None,
) -> nn.Sequential:
    """Trained with the mean squared error by Adam, in bfloat16 where the machine is faster so; left in eval mode.

    Args:
        tell: Hears how many steps are done.
    Raises:
        ValueError: the frames are not a power of two times as large as the latents.
    """
    doublings = int(np.log2(frames.shape[1] / latents_NCHW.shape[2])) if latents_NCHW.shape[2] else 0
    if latents_NCHW.shape[2] << doublings != frames.shape[1]:
        raise ValueError(
            f"latents of {latents_NCHW.shape[2]} rows for frames of {frames.shape[1]}; pad them to a power of two"
        )
    device, rng = torch_device(), np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inverter = make_inverter(latents_NCHW.shape[1], doublings=doublings, width=width).to(device)
        steps = max(1, len(frames) // batch_size)
        optimizer = torch.optim.Adam(inverter.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * steps + 1)
        inverter.train()
        bfloat16 = uses_bfloat16("auto", device)
        for epoch in range(epochs):
            order = rng.permutation(len(frames))
            for step in range(steps):
                picked = order[step * batch_size : (step + 1) * batch_size]
                with autocast(device, bfloat16=bfloat16):
                    rebuilt = inverter(torch.from_numpy(latents_NCHW[picked]).to(device))
                loss = (rebuilt.float() - _target(frames[picked], device)).square().mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                tell(epoch * steps + step + 1)
    return inverter.eval()


def _target(frames: Frame, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).to(device).float() / 255


@torch.inference_mode()
def rebuild(inverter: nn.Module, latents_NCHW: FloatArray) -> FloatArray:
    """Frames on 0..255, float32 ``(N, H, W, 3)``."""
    device = next(inverter.parameters()).device
    parts = [
        inverter(torch.from_numpy(latents_NCHW[start : start + 250]).to(device)).cpu().numpy()
        for start in range(0, len(latents_NCHW), 250)
    ]
    return np.ascontiguousarray(255 * np.concatenate(parts).transpose(0, 2, 3, 1))


def psnr_db(frames: Frame, rebuilt: FloatArray) -> float:
    """The mean over frames, each at most 60 dB."""
    errors = np.square(frames.astype(np.float64) - rebuilt).mean(axis=(1, 2, 3))
    return float(np.minimum(10 * np.log10(255**2 / np.maximum(errors, 1e-12)), 60).mean())


def ssim(frames: Frame, rebuilt: FloatArray) -> float:
    """The mean structural similarity of grey values, over windows of 7 x 7. Source: Wang et al., 2004."""
    weights = np.array([0.299, 0.587, 0.114])
    x, y = frames @ weights, rebuilt.astype(np.float64) @ weights

    def mean(values: Any) -> Any:
        inside = _WINDOW // 2
        return uniform_filter(values, (0, _WINDOW, _WINDOW))[:, inside:-inside, inside:-inside]

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(((2 * mx * my + c1) * (2 * both + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


def dequantised(trained: Trained, frames: Frame, level: int) -> FloatArray:
    """What the cloud has of each frame's latent at a level."""
    codec, gains = trained.codec, trained.codec.gains[level][:, None, None]
    shift = trained.bottleneck.shift.detach().cpu().numpy()[:, None, None]
    kept = trained.codec.kept(level)
    latents = codec.quantised(trained.latents(frames), level) / gains + shift
    latents[:, kept:] = 0
    return np.ascontiguousarray(latents, np.float32)


def leakage_points(
    trained: Trained, material: SplitMaterial, *, train_frames: int, test_frames: int, epochs: int, tell: Say
) -> list[dict[str, Any]]:
    """Per level, and for the mean training frame as what one sees without any payload."""
    seen, held = material.train[0][:train_frames], material.test[0][:test_frames]
    blank = np.broadcast_to(seen.mean(axis=0, dtype=np.float64), held.shape).astype(np.float32)
    out: list[dict[str, Any]] = [
        {"level": None, "psnr_db": round(psnr_db(held, blank), 3), "ssim": round(ssim(held, blank), 4)}
    ]
    levels, steps = trained.codec.num_levels, epochs * max(1, len(seen) // BATCH)

    def told(before: int, done: int) -> None:
        tell(before + done, levels * steps, "steps of the attacker")

    for level in range(levels):
        inverter = fit_inverter(
            dequantised(trained, seen, level),
            seen,
            epochs=epochs,
            seed=trained.training.seed,
            tell=partial(told, level * steps),
        )
        rebuilt = rebuild(inverter, dequantised(trained, held, level))
        out.append({"level": level, "psnr_db": round(psnr_db(held, rebuilt), 3), "ssim": round(ssim(held, rebuilt), 4)})
    return out
