"""Splits for who has no bottleneck of his own.

One sends frames, sized for the network that it cuts, and is trained. The other sends features of the network itself and
is fitted in a minute or two.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from littoral.bundle import InputSpec
from littoral.core.arrays import Frame
from littoral.core.tasks import Task
from littoral.models.architectures import product
from littoral.models.bottleneck import Bottleneck, check_symbols, split_tail_kwargs, to_split_tail
from littoral.models.frames import normalise
from littoral.models.modes import in_eval_mode
from littoral.models.parts import head_of, tail_of
from littoral.train.bottleneck import train_split
from littoral.train.labels import checked_labels, num_classes_of
from littoral.train.options import SplitSource, TorchSource
from littoral.train.run import MAX_RELATIVE_ERROR, relative_error
from littoral.train.sample import check_frames
from littoral.train.split_data import Frames, ShiftAndFlip, SplitData, SplitNetworks
from littoral.train.split_recipe import product_recipe
from littoral.train.tables import TableOptions
from littoral.train.transform import TransformOptions, fit_transform

PATCH = 4
"""Side of the encoder's first step; each of its later ones halves height and width."""
_LATENT = 24
RATE_WEIGHTS = (5e-4, 1.5e-4, 4e-5, 1e-5)
_TUNED_PIXELS = 1024
"""Of the frames for which these weights are right; a bit of a larger frame costs less."""
_FITTED_TO = 64
_SHOWN = 32
"""Frames that a cut network is looked at with."""
_HELD_SHARE, _FEWEST_HELD, _MOST_HELD = 20, 128, 1024
"""One frame in so many is held back from the training, if that makes enough, for choosing deadzones."""


@dataclass(frozen=True)
class Shift:
    """`ShiftAndFlip` that mirrors nothing."""

    pad: int = 4

    def __call__(
        self, frames_BHWC: Frames, targets: NDArray[Any] | None, rng: np.random.Generator
    ) -> tuple[Frames, NDArray[Any] | None]:
        """See `littoral.train.split_data.Augment`."""
        augment = ShiftAndFlip(self.pad)
        moves = augment.moves(len(frames_BHWC), rng)
        moves[:, 2] = 0
        return augment.moved(frames_BHWC, moves), targets


def make_split(
    network: TorchSource,
    spec: InputSpec,
    frames: Frame,
    labels: np.ndarray | None,
    *,
    cut: str,
    epochs: int = 20,
    mirror: bool = False,
    deadzones: tuple[float, ...] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> SplitSource:
    """Make a classifier's split at a module and train it: four levels in one encoder, the tail trained along.

    Of 2,560 frames and more, a twentieth but at most 1,024 are held back from the training: the build chooses the
    levels' deadzones by them.

    Args:
        network: What the cloud finishes; also the teacher of the split. Not touched.
        frames: uint8 ``(N, H, W, C)``.
        labels: Integers ``(N,)``; None: the network alone teaches.
        cut: The module of the network after which the tail begins; its output is a map ``(C, H, W)``.
        epochs: 2 or more: the last one trains decoder and tail alone.
        mirror: Also train on mirrored frames, where that does not make another thing of what they show.
        deadzones: Of the four levels, the coarsest first, or one for all; nothing for none. None: the build chooses.
    Raises:
        ValueError: frames or labels are not the network's, there is no such module, its output is no map, frames are
            smaller than 8 x 8, their latent has more symbols than a payload holds, epochs are too few, or there is not
            a deadzone for each level.
    """
    check_frames(spec, frames)
    weights = tuple(weight * _TUNED_PIXELS / (spec.height * spec.width) for weight in RATE_WEIGHTS)
    recipe = product_recipe(epochs=epochs, rate_weights=weights, seed=seed)
    num_classes = num_classes_of(network.module, spec)
    if labels is not None:
        labels = checked_labels(labels, num_classes, len(frames))
    tables = TableOptions(deadzones=_of_levels(deadzones))
    held = None
    if deadzones is None:
        frames, labels, held = _hold_back(frames, labels, seed)
    teacher = copy.deepcopy(network.module).cpu().float().eval()
    head, tail = head_of(teacher, cut), tail_of(teacher, cut)
    _check_map(head, spec, cut)
    shown = check_parts(teacher, head, tail, spec, frames, cut)
    tail.requires_grad_(True)  # it is trained along, whatever its network is frozen for
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bottleneck = fitting_bottleneck(network, spec, cut, rectified=bool((shown >= 0).all()))
    parts = SplitNetworks(bottleneck=bottleneck, tail=tail, teacher=teacher)
    data = SplitData(frames=frames, input=spec, targets=labels, augment=ShiftAndFlip() if mirror else Shift())
    train_split(recipe, parts, data, progress=progress)
    return SplitSource(bottleneck, _cloud_part(bottleneck, parts.tail, network, cut), tables=tables, held=held)


def fit_split(
    network: TorchSource,
    spec: InputSpec,
    frames: Frame,
    task: Task[Any, Any],
    *,
    cut: str,
    segment: int = 0,
    options: TransformOptions | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> SplitSource:
    """Fit a split at a module of the student, for any task and without a training (`littoral.train.transform`).

    The device runs the student up to that module, and the cloud finishes it: its answer is at best the device's own.

    Args:
        network: The student. Not touched.
        frames: uint8 ``(N, H, W, C)``; the transform is fitted to at most 64 of them. Step sizes, and then the build's
            deadzones, are chosen by as many others, where there are two others or more.
        cut: A module whose output is a map ``(C, H, W)``. The bundle is cut there too: name it in
            `BuildOptions.cut_points`.
        segment: Which of the bundle's segments ends there.
    Raises:
        ValueError: there is no such module, its output is no map or the answer itself, nothing in it varies, the
            student gives what is not the task's, or finds nothing on the frames.
        ModelOutputError: what it gives is not finite.
    """
    check_frames(spec, frames)
    model = copy.deepcopy(network.module).cpu().float().eval()
    head, tail = head_of(model, cut), tail_of(model, cut)
    _check_map(head, spec, cut)
    shown = check_parts(model, head, tail, spec, frames, cut)
    if not any(node.op.startswith("call_") for node in tail.graph.nodes):
        raise ValueError(f"{cut!r} gives the answer, so nothing is left for the cloud; name an earlier module")
    with torch.no_grad():
        answered: Any = tail(shown.clone())
    if not isinstance(answered, torch.Tensor):
        raise ValueError(f"the network gives {type(answered).__name__}, {task.name} takes one tensor; wrap the network")
    task.check(answered.numpy())
    order = np.random.default_rng(seed).permutation(len(frames))
    fitted_to, others = order[:_FITTED_TO], order[_FITTED_TO : 2 * _FITTED_TO]

    def features(places: NDArray[np.int64]) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([head(normalise(torch.from_numpy(frames[[place]]), spec)) for place in places])

    bottleneck = fit_transform(
        features(fitted_to),
        tail,
        task,
        options or TransformOptions(),
        answered_NCHW=features(others) if len(others) > 1 else None,
        seed=seed,
        progress=progress or (lambda _line: None),
    ).bottleneck
    held = frames[others] if len(others) > 1 else None
    return SplitSource(bottleneck, _cloud_part(bottleneck, tail, network, cut), segment=segment, held=held)


def _cloud_part(bottleneck: Bottleneck, tail: nn.Module, network: TorchSource, cut: str) -> TorchSource:
    whole = {"factory": network.factory, "kwargs": network.kwargs, "cut": cut}
    return TorchSource(
        to_split_tail(bottleneck, tail),
        "littoral.models.bottleneck:make_split_tail",
        split_tail_kwargs(bottleneck, whole),
    )


def _of_levels(deadzones: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if deadzones is None or not any(deadzones):
        return None if deadzones is None else ()
    found = deadzones * len(RATE_WEIGHTS) if len(deadzones) == 1 else deadzones
    if len(found) != len(RATE_WEIGHTS) or not all(0 <= each < 0.5 for each in found):
        raise ValueError(
            f"deadzones are {deadzones}, expected one for all levels or {len(RATE_WEIGHTS)}, the coarsest's first, "
            "each of at least 0 and below 0.5"
        )
    return found


def _hold_back(frames: Frame, labels: np.ndarray | None, seed: int) -> tuple[Frame, np.ndarray | None, Frame | None]:
    """Frames and labels to train on, and frames held back; None of too few."""
    count = min(len(frames) // _HELD_SHARE, _MOST_HELD)
    if count < _FEWEST_HELD:
        return frames, labels, None
    trained = np.ones(len(frames), np.bool_)
    trained[np.random.default_rng(seed).permutation(len(frames))[:count]] = False
    return frames[trained], None if labels is None else labels[trained], frames[~trained]


def fitting_bottleneck(network: TorchSource, spec: InputSpec, cut: str, *, rectified: bool = True) -> Bottleneck:
    """An untrained one that takes frames and gives what the module gives.

    Along each axis its latent is a quarter of the frame, halved for as long as it stays no smaller than the map. Where
    doublings make more of it than the map they are cut off, if that is less than one position of the latent, and else
    averaged.

    Args:
        rectified: What the module gives is never negative.
    Raises:
        ValueError: as `make_split`, or the latent has more symbols than a payload holds.
    """
    if min(spec.height, spec.width) < 2 * PATCH:
        raise ValueError(f"frames are {spec.height} x {spec.width}, a split needs {2 * PATCH} x {2 * PATCH} or more")
    channels, height, width = _check_map(head_of(network.module, cut).cpu().float().eval(), spec, cut)
    whole = (math.ceil(spec.height / PATCH), math.ceil(spec.width / PATCH))
    (down, latent_height), (across, latent_width) = _halved(whole[0], height), _halved(whole[1], width)
    check_symbols(_LATENT, latent_height, latent_width, f"for {cut!r} and frames of {spec.height} x {spec.width}")
    doublings = max(math.ceil(math.log2(max(height / latent_height, width / latent_width, 1))), 0)
    below, right = (latent_height << doublings) - height, (latent_width << doublings) - width
    return product(
        in_channels=spec.channels,
        out_channels=channels,
        num_channels=_LATENT,
        patch=PATCH,
        strides=[(2 if step < down else 1, 2 if step < across else 1) for step in range(max(down, across))],
        upsamplings=doublings,
        frame_size=(spec.height, spec.width),
        size=(height, width) if below or right else None,
        averaged=max(below, right) >= 1 << doublings,
        rectified=rectified,
    )


def _halved(side: int, least: int) -> tuple[int, int]:
    """How often a side can be halved, rounded up, until it would be less than the least one; and what is left."""
    halvings = 0
    while side > least and math.ceil(side / 2) >= least:
        side, halvings = math.ceil(side / 2), halvings + 1
    return halvings, side


def check_parts(
    model: nn.Module, head: nn.Module, tail: nn.Module, spec: InputSpec, frames: Frame, cut: str
) -> torch.Tensor:
    """That a network cut in two is still the network; what the module gives for a few frames, ``(B, C, H, W)``.

    Raises:
        ValueError: it is not.
    """
    x = normalise(torch.from_numpy(np.ascontiguousarray(frames[:_SHOWN])), spec)
    with torch.no_grad(), in_eval_mode(model, head, tail):
        whole, features = model(x), head(x)
        parts = tail(features.clone())
    error = relative_error(parts.numpy(), whole.numpy()) if isinstance(whole, torch.Tensor) else 0.0
    if error > MAX_RELATIVE_ERROR:
        raise ValueError(
            f"the network cut at {cut!r} gives outputs that differ by {error:.1e} of their scale from the whole one's; "
            "something that works in place reaches across the cut: cut it at another module"
        )
    shown: torch.Tensor = features
    return shown


def _check_map(head: nn.Module, spec: InputSpec, cut: str) -> tuple[int, int, int]:
    """Channels, height and width of what the module gives."""
    try:
        with torch.no_grad():
            features: Any = head(normalise(torch.zeros(2, *spec.shape, dtype=torch.uint8), spec))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the network does not take frames of {spec.shape}: {error}") from error
    if not isinstance(features, torch.Tensor) or features.ndim != 4:
        came = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise ValueError(f"{cut!r} gives {came} for 2 frames, a split needs a map (2, C, H, W); name an earlier module")
    channels, height, width = features.shape[1:]
    return channels, height, width
