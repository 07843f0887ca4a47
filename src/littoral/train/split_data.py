"""Frames to train a split on, how they are varied, and a bank of what the teacher says of fixed variations.

Axes: N frames, V views, B batch, H height, W width, C channels, K classes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn

from littoral.bundle.manifest import InputSpec
from littoral.models.bottleneck import Bottleneck
from littoral.models.frames import normalise
from littoral.models.modes import in_eval_mode
from littoral.models.precision import autocast, uses_bfloat16
from littoral.train.split_losses import pool, tapped

Frames = NDArray[np.uint8]
Progress = Callable[[str], None]
MOST_PAD = 63
"""Moves are kept as int8."""


class Augment(Protocol):
    """Varies a batch, and its targets where they are about places."""

    def __call__(
        self, frames_BHWC: Frames, targets: NDArray[Any] | None, rng: np.random.Generator
    ) -> tuple[Frames, NDArray[Any] | None]:
        """Of the same shapes and types."""


@dataclass(frozen=True)
class ShiftAndFlip:
    """Moves a frame by up to ``pad`` pixels into black, and mirrors every second one. Labels stay what they are."""

    pad: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.pad <= MOST_PAD:
            raise ValueError(f"pad is {self.pad}, it must lie in 0..{MOST_PAD}")

    def __call__(
        self, frames_BHWC: Frames, targets: NDArray[Any] | None, rng: np.random.Generator
    ) -> tuple[Frames, NDArray[Any] | None]:
        """See `Augment`."""
        return self.moved(frames_BHWC, self.moves(len(frames_BHWC), rng)), targets

    def moves(self, num_frames: int, rng: np.random.Generator) -> NDArray[np.int8]:
        """Per frame the first row and column of the padded frame, and whether it is mirrored: ``(N, 3)``."""
        shifts = rng.integers(0, 2 * self.pad + 1, (num_frames, 2), dtype=np.int8)
        return np.concatenate([shifts, rng.integers(0, 2, (num_frames, 1), dtype=np.int8)], axis=1)

    def moved(self, frames_BHWC: Frames, moves_B3: NDArray[np.int8]) -> Frames:
        """Each frame as its move says."""
        _, height, width, _ = frames_BHWC.shape
        padded = np.pad(frames_BHWC, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        top_B, left_B, mirrored_B = moves_B3.astype(np.int64).T
        rows_BH = top_B[:, None] + np.arange(height)
        columns_BW = np.where(mirrored_B[:, None] == 1, np.arange(width)[::-1], np.arange(width)) + left_B[:, None]
        moved: Frames = padded[np.arange(len(padded))[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]]
        return moved


@dataclass(frozen=True, kw_only=True)
class TeacherBank:
    """What the teacher says of V fixed views of each frame, so that it is run once and not in every epoch."""

    pad: int
    moves_VN3: NDArray[np.int8]
    outputs_VNK: NDArray[np.float16]
    pooled_VNC: Mapping[str, NDArray[np.float16]] = field(default_factory=dict)
    """By module, means over height and width."""

    @property
    def num_views(self) -> int:
        return len(self.moves_VN3)


@dataclass(frozen=True, kw_only=True)
class SplitNetworks:
    """The networks of a training. The bottleneck and the tail are trained in place; the others never change."""

    bottleneck: Bottleneck
    tail: nn.Module
    """Takes the decoder's features: `tail_of` the teacher, or of another network."""
    head: nn.Module | None = None
    """What the device runs before the encoder; without it, the encoder takes the frames."""
    teacher: nn.Module | None = None
    """Takes normalised frames. Run in eval mode."""
    cut: str | None = None
    """The teacher's module whose output the decoder imitates, for losses that name it."""


@dataclass(frozen=True, kw_only=True)
class SplitData:
    """The frames of a training.

    Raises:
        ValueError: frames, targets, input and bank do not fit together.
    """

    frames: Frames
    """uint8 ``(N, H, W, C)``."""
    input: InputSpec
    targets: NDArray[Any] | None = None
    """One per frame, whatever the distortion takes; labels, int64 ``(N,)``, for a classifier."""
    augment: Augment | None = field(default_factory=ShiftAndFlip)
    bank: TeacherBank | None = None
    """Its views replace the augmentation and its outputs the teacher's."""

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.shape[1:] != self.input.shape or len(self.frames) < 2:
            raise ValueError(
                f"frames are {self.frames.dtype} {self.frames.shape}, expected uint8 (2 or more, *{self.input.shape})"
            )
        if self.targets is not None and len(self.targets) != len(self.frames):
            raise ValueError(f"there are {len(self.frames)} frames and {len(self.targets)} targets; one each is needed")
        if self.bank is not None and self.bank.outputs_VNK.shape[1] != len(self.frames):
            raise ValueError(
                f"the teacher's bank is of {self.bank.outputs_VNK.shape[1]} frames, not {len(self.frames)}"
            )


def fill_bank(
    folder: Path,
    teacher: nn.Module,
    frames: Frames,
    input: InputSpec,
    *,
    num_views: int = 4,
    pooled: Sequence[str] = (),
    pad: int = 4,
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> TeacherBank:
    """Read a bank from its folder, and first make what is not there yet: a file per view, so it may be stopped.

    The teacher computes in bfloat16 where the machine has instructions for it.

    Args:
        teacher: Gives logits ``(B, K)``; run in eval mode, left in the mode that it was in.
        pooled: Modules whose mean outputs are kept too.
    Raises:
        ValueError: the folder's files are of another teacher, other frames or other settings.
    """
    name = _bank_name(teacher, frames, input, pooled, pad, seed)
    folder.mkdir(parents=True, exist_ok=True)
    augment = ShiftAndFlip(pad)
    views = []
    began, made = time.monotonic(), 0
    for view in range(num_views):
        file = folder / f"view-{view}.safetensors"
        moves = augment.moves(len(frames), np.random.default_rng((seed, view)))
        if not file.exists():
            tensors = _view(teacher, augment, frames, moves, input, pooled, batch_size)
            write_whole(file, save(tensors, metadata={"of": name}))
            made += 1
            if progress is not None:
                left = (time.monotonic() - began) / made * (num_views - view - 1)
                progress(f"teacher's view {view + 1} of {num_views}: {left / 60:.1f} min left")
        views.append((moves, _read_view(file, name)))
    return TeacherBank(
        pad=pad,
        moves_VN3=np.stack([moves for moves, _ in views]),
        outputs_VNK=np.stack([view["outputs"] for _, view in views]),
        pooled_VNC={module: np.stack([view[f"pooled.{module}"] for _, view in views]) for module in pooled},
    )


def _view(
    teacher: nn.Module,
    augment: ShiftAndFlip,
    frames: Frames,
    moves: NDArray[np.int8],
    input: InputSpec,
    pooled: Sequence[str],
    batch_size: int,
) -> dict[str, NDArray[np.float16]]:
    device = next(teacher.parameters()).device
    rows: dict[str, list[NDArray[np.float16]]] = {}
    with torch.inference_mode(), in_eval_mode(teacher), tapped(teacher, pooled) as seen:
        for start in range(0, len(frames), batch_size):
            part = slice(start, start + batch_size)
            batch = torch.from_numpy(augment.moved(frames[part], moves[part])).to(device)
            with autocast(device, bfloat16=uses_bfloat16("auto", device)):
                outputs = teacher(normalise(batch, input).contiguous(memory_format=torch.channels_last))
            found = {"outputs": outputs} | {f"pooled.{module}": pool(seen[module]) for module in pooled}
            for key, value in found.items():
                rows.setdefault(key, []).append(value.half().cpu().numpy())
    return {key: np.concatenate(parts) for key, parts in rows.items()}


def _bank_name(teacher: nn.Module, frames: Frames, input: InputSpec, pooled: Sequence[str], pad: int, seed: int) -> str:
    digest = hashlib.sha256(repr((frames.shape, input, tuple(pooled), pad, seed)).encode())
    digest.update(np.ascontiguousarray(frames).data)
    for key, value in teacher.state_dict().items():
        digest.update(key.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _read_view(file: Path, name: str) -> dict[str, NDArray[Any]]:
    try:
        with safe_open(file, framework="numpy") as view:
            of = (view.metadata() or {}).get("of")
            tensors = {key: view.get_tensor(key) for key in view.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}; remove it, and it is made again") from error
    if of != name:
        raise ValueError(f"{file} is of another teacher, other frames or other settings; name another folder")
    return tensors


def write_whole(file: Path, data: bytes) -> None:
    """All of a file or nothing of it, also if the machine stops. Its folder is made if it is not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    with part.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    part.replace(file)
