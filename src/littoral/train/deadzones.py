"""Which deadzone each level of a split rounds with: the one that pays, at the price that the levels set themselves.

Axes: N frames, B batch, C channels, H height, W width, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from littoral.bundle.split import SplitCodec, to_symbols
from littoral.core.arrays import FloatArray
from littoral.core.codec import Symbols, predict_bytes, rate_bits
from littoral.models.bottleneck import Bottleneck
from littoral.train.split_answers import tail_outputs
from littoral.train.split_losses import Distortion
from littoral.train.tables import TableOptions, best_kind, build_codec, tables_of_kind

_BATCH = 64
_MOST_HELD = 1 << 26
"""Values of answers that are kept and not made anew for each trial."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """A level that is rounded in one way, on the mean over frames."""

    payload_bytes: float
    """What tables fitted to its symbols predict."""
    loss: float
    """How far the answers are from those to the latents as they are, not rounded."""


def fit_codec(
    bottleneck: Bottleneck,
    tail: nn.Module,
    latents_NCHW: FloatArray,
    distortion: Distortion,
    options: TableOptions,
    *,
    held_NCHW: FloatArray | None = None,
    progress: Progress = lambda _line: None,
) -> SplitCodec:
    """Gains, deadzones and tables of a trained split: `build_codec` after the deadzones were chosen, if they are to be.

    Args:
        tail: The `littoral.models.bottleneck.SplitTail` that goes with the bottleneck.
        latents_NCHW: float32, what the encoder makes of source frames; at least one. Tables are fitted to them.
        distortion: The task's, called without targets: `littoral.train.distortions.distortion_of`.
        held_NCHW: Of frames that the split was not trained on, for the losses by deadzones; without it, the others.
    Raises:
        ModelOutputError: a latent is not finite.
        ValueError: the numbers do not fit each other or the codec's limits.
    """
    if options.deadzones is None:
        found = choose_deadzones(
            bottleneck, tail, latents_NCHW, distortion, options, held_NCHW=held_NCHW, progress=progress
        )
        options = replace(options, deadzones=found)
    return build_codec(bottleneck, latents_NCHW, options)


def choose_deadzones(
    bottleneck: Bottleneck,
    tail: nn.Module,
    latents_NCHW: FloatArray,
    distortion: Distortion,
    options: TableOptions,
    *,
    held_NCHW: FloatArray | None = None,
    progress: Progress = lambda _line: None,
) -> tuple[float, ...]:
    """For each level the size that spares most bytes beyond what its loss is worth (`price_of_loss`, `best_size`), if
    a trial of its own says so too (`measured_size`).

    A loss is the task's distance from the tail's own answers to latents that are not rounded, so nothing need be known
    of the frames.

    Args:
        latents_NCHW: The first so many as ``options.choice`` says are looked at.
        held_NCHW: The same, for the losses; bytes are those of the others.
    Returns:
        One for each level, or nothing where no level has any. A single level has none: nothing says what a loss is
        worth there.
    """
    choice, num_levels = options.choice, bottleneck.num_levels
    if num_levels < 2:
        return ()
    size = int(np.prod(latents_NCHW.shape[1:]))
    count = min(max(choice.most_symbols // size, choice.least_frames), choice.most_frames)
    coded = latents_NCHW[:count]
    answered = coded if held_NCHW is None else held_NCHW[:count]
    trials = _Trials(bottleneck, tail, coded, answered, distortion, options)
    progress(
        f"deadzones of {num_levels} levels by {len(answered)} {'source' if held_NCHW is None else 'held back'} frames"
    )
    plain = [trials.run(level, 0.0) for level in range(num_levels)]
    found = []
    for level, before in enumerate(plain):
        price, deadzone, told = price_of_loss(plain, level), 0.0, ""
        if price is not None:
            tried = {size: trials.run(level, size) for size in choice.sizes}
            aimed, _ = best_size(before, tried, price)
            if aimed and aimed not in tried:
                tried[aimed] = trials.run(level, aimed)
            least = choice.least_saving * before.payload_bytes
            deadzone = measured_size(before, tried, price, aimed=aimed, least=least)
            if shown := deadzone or aimed:
                spared = worth_of(before, tried[shown], price)
                told = f"a deadzone of {shown:g} spares {spared:.3g} beyond its loss, as measured"
        found.append(deadzone)
        progress(
            f"level {level}, {before.payload_bytes:.4g} bytes rounded to the nearest: "
            + (told if deadzone else "no deadzone pays" + (told and f"; {told}"))
        )
    return tuple(found) if any(found) else ()


def price_of_loss(plain: Sequence[Trial], level: int) -> float | None:
    """What a unit of loss is worth at a level, in bytes: what the step from the next coarser level costs and gives.

    Frames may be sent at one level or the other, so any point between the two can be had without a deadzone; one that
    lies above costs more than it spares. The coarsest level has no coarser one: its price is that of the step from it,
    where a loss is worth more bytes than below, so that the error is on the side of no deadzone.

    Args:
        plain: Of at least 2 levels, rounded to the nearest, the coarsest first.
    Returns:
        None where the finer level takes no more bytes, or loses no less.
    """
    coarse, fine = plain[max(level - 1, 0)], plain[max(level, 1)]
    more_bytes, less_loss = fine.payload_bytes - coarse.payload_bytes, coarse.loss - fine.loss
    return more_bytes / less_loss if more_bytes > 0 and less_loss > 0 else None


def best_size(before: Trial, tried: Mapping[float, Trial], price: float) -> tuple[float, float]:
    """The deadzone that spares most bytes less ``price`` times the loss by it, and how many these are.

    A value that a deadzone of d moves lies within d of an edge of rounding: there are as many of them as d is large,
    and the square of the error of each grows by up to 2 d. So what is spared is taken for ``a d - b d^2`` and the loss
    for ``c d^2``, fitted to all sizes: a small one's own loss is too little to be measured on a few thousand frames.

    Args:
        before: Without a deadzone.
        tried: By size, two or more.
    Returns:
        The size, from 0 to the largest that was tried, in hundredths; and the bytes.
    """
    sizes = np.array(sorted(tried))
    spared = np.array([before.payload_bytes - tried[size].payload_bytes for size in sizes.tolist()])
    losses = np.array([tried[size].loss - before.loss for size in sizes.tolist()])
    (slope, bend), *_ = np.linalg.lstsq(np.stack([sizes, sizes**2], axis=1), spared, rcond=None)
    bend -= price * float(losses @ sizes**2 / (sizes**2 @ sizes**2))
    candidates = np.arange(round(100 * float(sizes[-1])) + 1) / 100
    worth = slope * candidates + bend * candidates**2
    best = int(worth.argmax())
    return (float(candidates[best]), float(worth[best])) if np.isfinite(worth[best]) else (0.0, 0.0)


def worth_of(before: Trial, tried: Trial, price: float) -> float:
    """The bytes that a deadzone was measured to spare, less ``price`` times the loss by it; negative where it costs."""
    return before.payload_bytes - tried.payload_bytes - price * (tried.loss - before.loss)


def measured_size(before: Trial, tried: Mapping[float, Trial], price: float, *, aimed: float, least: float) -> float:
    """The size that `best_size` aims at, if a trial says that it pays; else the best of those that were tried.

    The laws of `best_size` are for small deadzones. Where most values lie within one, bytes end at a few and a loss at
    what is lost where nothing is sent, long before the largest size: what is aimed at may be worth nothing then.

    Args:
        before: Without a deadzone.
        tried: By size, what is aimed at among them unless it is 0.
        least: The bytes that one must spare beyond its loss.
    Returns:
        The size, or 0 where none pays.
    """
    worths = {size: worth_of(before, trial, price) for size, trial in tried.items()}
    paying = {size: worth for size, worth in worths.items() if worth >= least}
    if aimed in paying:
        return aimed
    return max(paying, key=lambda size: paying[size], default=0.0)


class _Trials:
    """Rounds and codes the same latents again and again, and answers the same, or others."""

    def __init__(
        self,
        bottleneck: Bottleneck,
        tail: nn.Module,
        coded_NCHW: FloatArray,
        answered_NCHW: FloatArray,
        distortion: Distortion,
        options: TableOptions,
    ) -> None:
        self._coded, self._answered, self._options = coded_NCHW, answered_NCHW, options
        self._kept, self._tail, self._distortion = bottleneck.kept, tail, distortion
        self._gains_LC = np.ascontiguousarray(bottleneck.gains.detach().cpu().float().numpy())
        self._priors = [bottleneck.channel_priors(level) for level in range(bottleneck.num_levels)]
        plain = [self._symbols(coded_NCHW, level, 0.0) for level in range(bottleneck.num_levels)]
        self._kind = best_kind(plain, self._priors, options)
        self._held: dict[int, Tensor] = {}

    def run(self, level: int, deadzone: float) -> Trial:
        """A level with a deadzone."""
        symbols = self._symbols(self._coded, level, deadzone)
        tables = tables_of_kind(self._kind, [symbols], [self._priors[level]], self._options)
        sizes = [predict_bytes(rate_bits(frame, tables, level=0)) for frame in symbols]
        if self._answered is not self._coded:
            symbols = self._symbols(self._answered, level, deadzone)
        return Trial(float(np.mean(sizes)), self._loss(symbols, level))

    def _symbols(self, latents_NCHW: FloatArray, level: int, deadzone: float) -> Symbols:
        kept = self._kept[level]
        return to_symbols(latents_NCHW[:, :kept], self._gains_LC[level, :kept], deadzone)

    def _loss(self, symbols: Symbols, level: int) -> float:
        total = 0.0
        for start in range(0, len(symbols), _BATCH):
            part = symbols[start : start + _BATCH]
            padded = np.zeros((len(part), *self._answered.shape[1:]), np.float32)
            padded[:, : part.shape[1]] = part
            outputs = torch.from_numpy(tail_outputs(self._tail, padded, level))
            total += float(self._distortion(outputs, self._answers(start), None).sum())
        return total / len(symbols)

    def _answers(self, start: int) -> Tensor:
        """To a batch of latents as they are, in the finest level's steps."""
        if start in self._held:
            return self._held[start]
        finest = len(self._gains_LC) - 1
        scaled = self._answered[start : start + _BATCH] * self._gains_LC[finest, :, None, None]
        scaled[:, self._kept[finest] :] = 0
        answers = torch.from_numpy(tail_outputs(self._tail, scaled, finest))
        if answers.numel() * (len(self._held) + 1) <= _MOST_HELD:
            self._held[start] = answers
        return answers
