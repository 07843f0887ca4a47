"""A pilot of the split for segmentation: CGNet on CamVid, cut at an eighth of the frame's size.

The teacher says once what it makes of every training frame; crops of frames and of its maps then train encoder, prior,
decoder and tail. First the features at the cut alone, without the tail, which is cheap; then the scores.

Axes: B batch, C channels, H and W of an eighth of the frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from littoral.bench.dense_data import Segmented
from littoral.bench.split.dense_networks import DenseNetwork
from littoral.bench.split.dense_shapes import DENSE_SHAPES, DenseShape, dense_bottleneck
from littoral.models.bottleneck import Bottleneck
from littoral.models.frames import normalise
from littoral.models.parts import tail_of
from littoral.train.dense_losses import relative_errors, segmentation_distortion

_SHRINK = 8
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PilotConfig:
    """All that a pilot may vary."""

    shape: DenseShape = DENSE_SHAPES["cgnet"]
    rate_weights: tuple[float, ...] = (0.02, 0.008, 0.003, 0.001)
    """Nats of distortion per bit and position of the latent."""
    crop: tuple[int, int] = (22, 30)
    """Height and width in positions of the latent."""
    batch_size: int = 8
    feature_share: float = 0.55
    """Of the time, for the features alone."""
    hard_share: float = 0.2
    """Of the time, at its end, for decoder and tail on rounded latents. Without it the pilot is of no use at these
    gains: noise lets through what rounding does away with."""
    seconds: float = 600.0
    """Of processor time, after the teacher's pass."""
    lr: float = 2e-3
    tail_lr: float = 5e-4
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherMaps:
    """What the teacher makes of frames at the cut and before its scores are enlarged."""

    features_NCHW: NDArray[np.float16]
    scores_NKHW: NDArray[np.float16]


def score_layer(network: DenseNetwork) -> str:
    """The layer before the scores are brought to the frame's size."""
    last = network.kwargs["nodes"][-1]
    if last["op"] != "upsample_bilinear":
        raise ValueError(f"{network.name} does not end by enlarging its scores, so the pilot does not know it")
    return str(last["inputs"][0])


@torch.inference_mode()
def teacher_maps(network: DenseNetwork, data: Segmented, *, cut: str) -> TeacherMaps:
    """Run the teacher once over all frames."""
    seen: dict[str, Tensor] = {}
    hooks = [
        network.model.get_submodule(name).register_forward_hook(_keep(seen, name))
        for name in (cut, score_layer(network))
    ]
    features, scores = [], []
    for frame in data.frames:
        network.outputs(frame[None])
        features.append(seen[cut][0].half().numpy())
        scores.append(seen[score_layer(network)][0].half().numpy())
    for hook in hooks:
        hook.remove()
    return TeacherMaps(features_NCHW=np.stack(features), scores_NKHW=np.stack(scores))


def _keep(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        seen[name] = output

    return hook


@dataclass
class _Batch:
    frames: NDArray[np.uint8]
    features: Tensor
    scores: Tensor
    truths: Tensor
    level_B: Tensor


@dataclass
class Pilot:
    """A training, and what came of it."""

    config: PilotConfig
    network: DenseNetwork
    bottleneck: Bottleneck
    tail: nn.Module
    """From the cut to the scores at the frame's size."""
    history: list[Mapping[str, float]] = field(default_factory=list)


def train_pilot(
    config: PilotConfig,
    network: DenseNetwork,
    data: Segmented,
    maps: TeacherMaps,
    *,
    say: Say | None = None,
    keep: Callable[[Pilot], None] | None = None,
) -> Pilot:
    """Train for the configured processor time. The tail's statistics stay the teacher's.

    Args:
        say: Takes a line of progress, with the time left.
        keep: Takes the pilot as it is, every twentieth of the time.

    Not resumable and not repeatable to the bit, since it ends by the clock: a pilot, see `littoral.train.bottleneck`.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    start = dense_bottleneck(config.shape, features_NCHW=maps.features_NCHW[::8])
    pilot = Pilot(config, network, start, tail_of(network.model, config.shape.cut))
    layer = score_layer(network)
    small: dict[str, Tensor] = {}
    pilot.tail.get_submodule(layer).register_forward_hook(_keep(small, layer))
    bottleneck = pilot.bottleneck.train()
    pilot.tail.eval()
    for module in (bottleneck, pilot.tail):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups: list[dict[str, Any]] = [
        {"params": [*bottleneck.encoder.parameters(), *bottleneck.decoder.parameters()], "base": config.lr},
        {"params": [bottleneck.log_gains, *bottleneck.prior.parameters()], "base": 5 * config.lr},
        {"params": list(pilot.tail.parameters()), "base": config.tail_lr},
    ]
    optimizer = torch.optim.Adam(groups, lr=config.lr)
    weights = torch.tensor(config.rate_weights)
    positions = config.crop[0] * config.crop[1]
    began, step, shown = time.process_time(), 0, 0.0
    while (done := (time.process_time() - began) / config.seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * min(1.0, (step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * done))
        if done >= 1 - config.hard_share and not bottleneck.hard:
            bottleneck.hard = True
            bottleneck.encoder.eval()
        batch = _crops(config, data, maps, rng)
        out = bottleneck(normalise(torch.from_numpy(batch.frames), network.input), batch.level_B)
        loss_B = relative_errors({"cut": out.features}, {"cut": batch.features})
        if done >= config.feature_share:
            pilot.tail(out.features)
            distortion_B = segmentation_distortion(small[layer], batch.scores, batch.truths, ignored_label=255)
            loss_B = 0.2 * loss_B + distortion_B
        rate_B = out.rate_bits / positions
        ramp = min(1.0, done / 0.1)
        loss = (loss_B + ramp * weights[batch.level_B] * rate_B).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 5.0)
        optimizer.step()
        step += 1
        if done >= shown:
            shown += 0.05
            row = {"done": done, "step": step, "loss": float(loss.detach()), "bits": float(rate_B.detach().mean())}
            pilot.history.append(row)
            if keep is not None:
                keep(pilot)
            if say is not None:
                left = (1 - done) * config.seconds
                say(f"step {step}: loss {row['loss']:.3f}, {row['bits']:.1f} bits a position, {left:.0f} s of CPU left")
    bottleneck.eval()
    return pilot


def _crops(config: PilotConfig, data: Segmented, maps: TeacherMaps, rng: np.random.Generator) -> _Batch:
    """Random crops, every second one mirrored, with the teacher's maps and the truth at an eighth of the size."""
    height, width = config.crop
    frames, features, scores, truths = [], [], [], []
    for place in rng.integers(0, len(data.frames), config.batch_size):
        rows, columns = maps.features_NCHW.shape[2:]
        top, left = rng.integers(0, rows - height + 1), rng.integers(0, columns - width + 1)
        part = (slice(top, top + height), slice(left, left + width))
        wide = tuple(slice(_SHRINK * each.start, _SHRINK * each.stop) for each in part)
        turn = slice(None, None, -1 if rng.integers(2) else 1)
        frames.append(data.frames[place][wide][:, turn])
        truth = data.truths[place][wide][_SHRINK // 2 :: _SHRINK, _SHRINK // 2 :: _SHRINK][:, turn]
        truths.append(np.where(truth >= maps.scores_NKHW.shape[1], 255, truth))
        features.append(maps.features_NCHW[place][:, *part][..., turn])
        scores.append(maps.scores_NKHW[place][:, *part][..., turn])
    levels = rng.permutation(np.arange(config.batch_size) % len(config.shape.kept))
    return _Batch(
        frames=np.stack(frames),
        features=torch.from_numpy(np.stack(features)).float(),
        scores=torch.from_numpy(np.stack(scores)).float(),
        truths=torch.from_numpy(np.stack(truths).astype(np.int64)),
        level_B=torch.from_numpy(levels),
    )
