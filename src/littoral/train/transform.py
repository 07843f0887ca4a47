"""A split without a training: a linear transform of the features at a cut, fitted to what the tail is sensitive to.

Transform coding as in pictures, but of features: blocks of them are turned onto the directions in which they vary most
(Karhunen-Loeve), each channel first weighted by how much the answers lose by noise in it, and rounded with one step
size for all. `littoral.train.bottleneck.train_split` may go on from there.

Axes: N frames, C channels of the features, H height, W width, K channels of the latent, L levels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.core.codec_tables import MAX_LEVELS, MAX_SYMBOLS
from littoral.core.tasks import Task
from littoral.models.architectures import TransformEncoder, transform
from littoral.models.bottleneck import Bottleneck, check_symbols
from littoral.models.decoders import TransformDecoder
from littoral.train.distortions import distortion_of

KEEPS = (0.7, 0.8, 0.88, 0.95)
"""How much of the network's own answers the levels keep, see `TransformOptions.keeps`."""
_DRAWS = 4
"""Of noise, for each frame that sensitivities are measured on; by one alone a detector's loss moved by a seventh."""
_NOISE = 1.0
"""Of the deviation of a channel, when sensitivities are measured: about what rounding does. At a tenth of it, what is
found is the curvature where nothing was rounded, and a detector loses half as much again at equal bytes."""
_LEAST_SENSITIVITY = 1e-6
"""As a share of the most sensitive channel's. A feature that nothing hangs on is worth no bits."""
_FINEST, _COARSEST, _HALVINGS = 2.0**-4, 2.0**6, 7
"""Of steps that are tried, and how often their range is halved."""
_SENDS = 0.1
"""Steps that a channel of the latent must deviate by to be sent at a level: half a step is five deviations then."""
_MOST_VALUES = 2048
"""Of a block: the work grows with their cube, and is some seconds for so many."""
_DIGITS = 4
"""Of rate weights: the last ones depend on the number of threads, and a checkpoint should not."""
_PRIOR_LR, _PRIOR_STEPS = 0.05, 200


@dataclass(frozen=True, kw_only=True)
class TransformOptions:
    """How large a fitted split is, and how it is fitted."""

    num_channels: int = 256
    """Of the latent, at most; no more than a block of features has values, or than a payload holds."""
    block: int = 4
    """Side of a block of features that becomes one position of the latent; halved where a block has over 2,048."""
    steps: tuple[float, ...] | None = None
    """Of each level, the coarsest first: the size of a step, as a share of the root mean square of a weighted feature.
    None: found, for `keeps`."""
    keeps: tuple[float, ...] = KEEPS
    """Of each level, the coarsest first, how much of the network's own answers it is to keep: by the task's metric, on
    a scale from what is kept where nothing is sent (0) to what is kept with hardly any rounding (1)."""
    sensitivity_frames: int = 24
    answered_frames: int = 32
    """How many frames steps are chosen by."""
    gate_width: int = 0
    """Of the encoder's gate, which is of use to a training alone; 0 for none."""
    decoder_width: int = 96
    decoder_blocks: int = 1

    def __post_init__(self) -> None:
        least = {"gate_width": 0, "decoder_blocks": 0}
        for name in ("num_channels", "block", "sensitivity_frames", "answered_frames", "decoder_width", *least):
            if (value := getattr(self, name)) < least.get(name, 1):
                raise ValueError(f"{name} is {value}, expected {least.get(name, 1)} or more")
        if (
            not self.keeps
            or list(self.keeps) != sorted({*self.keeps})
            or not 0 < min(self.keeps) <= max(self.keeps) < 1
        ):
            raise ValueError(
                f"keeps are {self.keeps}, expected shares between 0 and 1, each larger than the one before"
            )
        if (num_levels := len(self.steps or self.keeps)) > MAX_LEVELS:
            raise ValueError(f"{num_levels} levels were asked for by steps or keeps, at most {MAX_LEVELS} are taken")
        if (steps := self.steps) is None:
            return
        if not steps or list(steps) != sorted({*steps}, reverse=True) or not 0 < min(steps) <= max(steps) < math.inf:
            raise ValueError(f"steps are {steps}, expected positive numbers, each smaller than the one before")


class FittedTransform(NamedTuple):
    """What `fit_transform` gives."""

    bottleneck: Bottleneck
    """In eval mode. The transform in encoder and decoder is frozen, so that a training changes what stands beside."""
    rate_weights: tuple[float, ...]
    """Loss per bit of each level, at which its step size is the one that pays: for a training's recipe."""


def fit_transform(
    features_NCHW: Tensor,
    tail: nn.Module,
    task: Task[Any, Any],
    options: TransformOptions = TransformOptions(),
    *,
    answered_NCHW: Tensor | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _line: None,
) -> FittedTransform:
    """The transform of these features.

    Args:
        features_NCHW: float32, what the network gives at the cut for source frames; tens of frames make a good one.
        tail: Takes them and gives what the task takes; run as it is, its parameters get no gradient.
        answered_NCHW: Those of other frames, by which steps are chosen; without them, the same.
    Raises:
        ValueError: a feature is not finite, all are the same, or the network's own answers say nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _fitted(features_NCHW, tail, task, options, answered_NCHW, seed, progress)


def _fitted(
    features_NCHW: Tensor,
    tail: nn.Module,
    task: Task[Any, Any],
    options: TransformOptions,
    answered_NCHW: Tensor | None,
    seed: int,
    progress: Callable[[str], None],
) -> FittedTransform:
    if not features_NCHW.isfinite().all() or not (features_NCHW.std((0, 2, 3), unbiased=False) > 0).any():
        raise ValueError(
            "the features at the cut are not finite, or the same everywhere, so there is nothing to send; look at the "
            "frames, or cut the network elsewhere"
        )
    some = _spread(features_NCHW, options.sensitivity_frames)
    progress(f"what {len(some)} frames' answers lose by noise in each of {features_NCHW.shape[1]} channels")
    sensitivity_C = sensitivity_of(some, tail, task, seed=seed)
    turned = _Turned.of(features_NCHW, sensitivity_C, options)
    steps = options.steps
    if steps is None:
        some = _spread(features_NCHW if answered_NCHW is None else answered_NCHW, options.answered_frames)
        steps = _choose_steps(turned.bottleneck((1.0,), options), some, tail, task, options.keeps, progress)
    bottleneck = turned.bottleneck(steps, options)
    progress(f"what symbols of {len(steps)} levels cost")
    with torch.no_grad():
        latents = bottleneck.encoder(features_NCHW)
    fit_prior(bottleneck, latents, seed=seed)
    weights = (math.log(2) * (step * turned.unit) ** 2 / 12 for step in steps)  # of a loss that is half a square
    return FittedTransform(bottleneck, tuple(float(f"{weight:.{_DIGITS}g}") for weight in weights))


def _spread(features_NCHW: Tensor, most: int) -> Tensor:
    """Of so many frames at most, spread over all."""
    return features_NCHW[:: math.ceil(len(features_NCHW) / most)]


def sensitivity_of(features_NCHW: Tensor, tail: nn.Module, task: Task[Any, Any], *, seed: int = 0) -> Tensor:
    """How much a frame's answer loses by noise in each channel of its features, float32 ``(C,)``.

    Noise goes into the features, and what is counted is the loss's gradient along it: for small noise the mean diagonal
    of the Hessian.
    """
    distortion = distortion_of(task)
    spread_C = features_NCHW.std((0, 2, 3), unbiased=False)
    made = torch.Generator(device="cpu").manual_seed(seed)
    along_C, squares_C = torch.zeros_like(spread_C), torch.zeros_like(spread_C)
    for features in torch.split(features_NCHW, 1):
        with torch.no_grad():
            answers: Any = tail(features.clone())  # its first layer may work in place
        for _ in range(_DRAWS):
            noise = torch.randn(features.shape, generator=made).to(features) * (_NOISE * spread_C)[:, None, None]
            noisy = (features + noise).requires_grad_()
            (gradient,) = torch.autograd.grad(distortion(tail(noisy.clone()), answers, None).sum(), noisy)
            along_C += (noise * gradient).sum((0, 2, 3))
            squares_C += noise.square().sum((0, 2, 3))
    found_C = along_C / squares_C.clamp(min=1e-30)
    return found_C.clamp(min=max(_LEAST_SENSITIVITY * float(found_C.max()), 1e-30))


def fit_prior(bottleneck: Bottleneck, latents_NCHW: Tensor, *, seed: int = 0) -> None:
    """Teach a bottleneck's prior, and nothing else of it, what these latents cost at each level.

    Args:
        latents_NCHW: float32, what the encoder makes of source frames.
    """
    rng = torch.Generator(device="cpu").manual_seed(seed)
    optimiser = torch.optim.Adam(bottleneck.prior.parameters(), lr=_PRIOR_LR)
    gains, kept = bottleneck.gains.detach(), torch.tensor(bottleneck.kept)
    levels = torch.arange(bottleneck.num_levels)
    for step in range(_PRIOR_STEPS):
        optimiser.param_groups[0]["lr"] = _PRIOR_LR * (1 - step / _PRIOR_STEPS)
        drawn = latents_NCHW[torch.randint(len(latents_NCHW), (bottleneck.num_levels,), generator=rng)]
        scaled = drawn * gains[:, :, None, None]
        noisy = scaled + torch.rand(scaled.shape, generator=rng) - 0.5
        optimiser.zero_grad()
        bottleneck.prior.bits(noisy, levels, kept).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Turned:
    """A transform: the directions of blocks of weighted features, those of most variance first."""

    size: tuple[int, int]
    directions_KCbb: Tensor
    deviation_K: Tensor
    """Of the latent, in units."""
    unit: float
    """The root mean square of a weighted feature."""
    weight_C: Tensor
    centre_C: Tensor
    spread_C: Tensor

    @classmethod
    def of(cls, features_NCHW: Tensor, sensitivity_C: Tensor, options: TransformOptions) -> _Turned:
        _, channels, height, width = features_NCHW.shape
        block = options.block
        while block > 1 and channels * block**2 > _MOST_VALUES:
            block //= 2
        rows, columns = math.ceil(height / block), math.ceil(width / block)
        check_symbols(1, rows, columns, "of the transform")
        centre_C = features_NCHW.mean((0, 2, 3), dtype=torch.float64)
        spread_C = features_NCHW.std((0, 2, 3), unbiased=False).double()
        weight_C = sensitivity_C.double().sqrt()
        squares, num_blocks = torch.zeros((channels * block**2,) * 2, dtype=torch.float64), 0
        for features in torch.split(features_NCHW, 1):
            weighted = (features.double() - centre_C[:, None, None]) * weight_C[:, None, None]
            padded = F.pad(weighted, (0, -width % block, 0, -height % block), mode="replicate")
            blocks = F.pixel_unshuffle(padded, block).movedim(1, -1).flatten(0, 2)
            squares += blocks.T @ blocks
            num_blocks += len(blocks)
        variance, directions = torch.linalg.eigh(squares / num_blocks)
        count = min(options.num_channels, len(variance), MAX_SYMBOLS // (rows * columns))
        unit = math.sqrt(float(variance.clamp(min=0).mean()))
        return cls(
            size=(height, width),
            directions_KCbb=directions.flip(1)[:, :count].T.reshape(count, channels, block, block),
            deviation_K=variance.flip(0)[:count].clamp(min=0).sqrt() / unit,
            unit=unit,
            weight_C=weight_C,
            centre_C=centre_C,
            spread_C=spread_C.clamp(min=1e-6 * float(spread_C.max())),
        )

    @torch.no_grad()
    def bottleneck(self, steps: Sequence[float], options: TransformOptions) -> Bottleneck:
        """With these steps; the transform in it is frozen."""
        count, channels = self.directions_KCbb.shape[:2]
        made = transform(
            in_channels=channels,
            num_channels=count,
            starting_gains=[1 / step for step in steps],
            kept=[max(1, int((self.deviation_K > _SENDS * step).sum())) for step in steps],
            size=self.size,
            block=self.directions_KCbb.shape[-1],
            gate_width=options.gate_width,
            decoder_width=options.decoder_width,
            decoder_blocks=options.decoder_blocks,
        )
        (encoder,) = [module for module in made.encoder.modules() if isinstance(module, TransformEncoder)]
        (decoder,) = [module for module in made.decoder.modules() if isinstance(module, TransformDecoder)]
        there = self.directions_KCbb * (self.weight_C / self.unit)[:, None, None]
        back = self.directions_KCbb * (self.unit / self.weight_C / self.spread_C)[:, None, None]
        assert encoder.linear.bias is not None
        encoder.linear.weight.copy_(there)
        encoder.linear.bias.copy_(-(there * self.centre_C[:, None, None]).sum((1, 2, 3)))
        decoder.linear.weight.copy_(back.flatten(1).T[:, :, None, None])
        decoder.centre.copy_(self.centre_C)
        decoder.spread.copy_(self.spread_C)
        for value in (encoder.linear.weight, encoder.linear.bias, decoder.linear.weight):
            value.requires_grad_(False)
        return made.eval()


@torch.no_grad()
def _choose_steps(
    bottleneck: Bottleneck,
    features_NCHW: Tensor,
    tail: nn.Module,
    task: Task[Any, Any],
    keeps: Sequence[float],
    progress: Callable[[str], None],
) -> tuple[float, ...]:
    """For each level the coarsest step that keeps so much of the answers, as finely as the range is halved."""
    frames = torch.split(features_NCHW, 1)
    latents = [bottleneck.encoder(features) for features in frames]
    truths = [[task.as_truth(answer) for answer in task.answers(tail(each.clone()).numpy())] for each in frames]

    @functools.cache
    def kept(step: float) -> float:
        metric = task.metric()
        for latent, truth in zip(latents, truths, strict=True):
            rounded = torch.zeros_like(latent) if step == math.inf else torch.round(latent / step) * step
            metric.update(task.answers(tail(bottleneck.decoder(rounded)).numpy()), truth)
        try:
            return float(metric.value())
        except ValueError as error:
            raise ValueError(
                f"the network finds nothing on {len(frames)} frames, so nobody can tell what rounding costs; give more "
                f"frames with something on them ({error})"
            ) from error

    nothing, most = kept(math.inf), kept(_FINEST)
    if not most > nothing:
        raise ValueError(
            f"the answers to {len(frames)} frames are as much the network's own where nothing is sent ({nothing:.3g}) "
            f"as where all is ({most:.3g}); give frames to which it answers differently, more of them, or cut it at "
            "another module. A caller from Python can also give the steps (TransformOptions.steps)"
        )
    found: list[float] = []
    for keep in keeps:
        aim = nothing + keep * (most - nothing)
        fine, coarse = _FINEST, found[-1] if found else _COARSEST
        for _ in range(_HALVINGS):
            middle = math.sqrt(fine * coarse)
            fine, coarse = (middle, coarse) if kept(middle) >= aim else (fine, middle)
        found.append(fine)
        progress(
            f"level {len(found) - 1}: steps of {fine:.3g} keep {kept(fine):.3g} of {len(frames)} frames' answers, "
            f"{nothing:.3g} are kept without a byte"
        )
    return tuple(found)
