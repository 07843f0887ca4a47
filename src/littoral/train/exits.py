"""Exits are trained on a frozen network: stems by distilling its own last answers, linear heads on what these give.

Axes: B batch, N frames, D features, K classes.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.bundle.manifest import InputSpec
from littoral.core.arrays import Frame
from littoral.core.tasks import Classification
from littoral.models.exits import NUM_FEATURES, PooledStem, Stem, cell_means, make_stem
from littoral.train.checkpoints import Checkpoint
from littoral.train.exit_heads import TrainedExits, fit_heads
from littoral.train.exit_places import ExitPlaces
from littoral.train.exit_trunk import Trunk
from littoral.train.sample import check_truths
from littoral.train.split_data import ShiftAndFlip
from littoral.train.watched import watched

Progress = Callable[[str], None]
_SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True, kw_only=True)
class ExitRecipe:
    """How exits are trained.

    Args:
        num_cheap, smallest: Of `littoral.models.exits.ConvStem`.
        grid: Of both stems.
        epochs: Over the frames that are trained on; pooled stems need none.
        lr: The peak of a one-cycle schedule; AdamW.
        label_weight: What a label weighs in the loss beside the network's own answers, 0..1; without labels nothing.
        softness: Both sides' logits are divided by it before they are compared.
        pad: Frames are moved by up to so many pixels, and every second one is mirrored if ``mirror``.
        held_out: Share of the frames on which heads are chosen and temperatures fitted; nothing else learns from them.
        projection_frames: At most so many make a pooled stem's projection.
    """

    stem: Literal["conv", "pooled"] = "conv"
    num_features: int = NUM_FEATURES
    num_cheap: int = 3
    smallest: int = 8
    grid: int = 4
    epochs: int = 4
    batch_size: int = 64
    lr: float = 4e-3
    weight_decay: float = 1e-3
    label_weight: float = 0.3
    softness: float = 2.0
    pad: int = 4
    mirror: bool = True
    held_out: float = 0.1
    projection_frames: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stem not in ("conv", "pooled"):
            raise ValueError(f"stem is {self.stem!r}, expected 'conv' or 'pooled'")
        if self.epochs < 1 or self.batch_size < 2 or self.num_features < 1 or not self.lr > 0:
            raise ValueError("epochs and num_features are at least 1, batch_size at least 2, lr above 0")
        if not (0 <= self.label_weight <= 1 and 0 < self.held_out < 1 and self.softness > 0):
            raise ValueError("label_weight lies in 0..1, held_out between 0 and 1, softness is above 0")
        ShiftAndFlip(self.pad)  # which knows how far it can move a frame


def train_exits(
    model: nn.Module,
    spec: InputSpec,
    frames: Frame,
    labels: np.ndarray | None,
    recipe: ExitRecipe,
    progress: Progress | None = None,
    *,
    places: ExitPlaces,
    checkpoint: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainedExits:
    """Train stems and heads at the given places. The network does not change, its statistics neither.

    The same arguments, machine and number of threads give the same exits, whether stopped and started again or not;
    torch's own generator is left as it was.

    Args:
        model: A classifier; it is run in eval mode on a copy.
        frames: uint8 ``(N, H, W, C)`` of the source. Those on which thresholds are to be certified must not be among
            them.
        labels: Integers ``(N,)``, or None: only the network's own answers teach.
        places: From `littoral.train.exit_places.place_exits`.
        checkpoint: A file written after every epoch of conv stems, and read first if it is there; its folder is made.
        clock: Seconds, for the time left.
    Raises:
        ValueError: frames, labels and the input do not fit, there are too few frames, or the checkpoint is of another
            training.
    """
    say = progress or (lambda _line: None)
    if frames.dtype != np.uint8 or frames.shape[1:] != spec.shape or len(frames) < 4:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, expected 4 or more of uint8 {spec.shape}")
    order = np.random.default_rng(recipe.seed).permutation(len(frames))
    num_held = min(max(1, round(recipe.held_out * len(frames))), len(frames) - 2)
    held, fitted = np.sort(order[:num_held]), np.sort(order[num_held:])
    trunk = Trunk(model, spec, places)
    if labels is not None:
        check_truths(Classification(num_classes=trunk.num_classes), labels, len(frames))
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        stems = _stems(trunk, recipe, frames[:2])
        layers: list[nn.Linear] | None = None
        if recipe.stem == "conv":
            training = _Training(trunk, stems, spec, frames, labels, fitted, recipe, say, clock)
            layers = training.run(checkpoint)
        else:
            _project(trunk, stems, frames[fitted[: recipe.projection_frames]], recipe.batch_size, say)
        say("fitting the heads")
        exits, shares_K = fit_heads(trunk, stems, layers, frames, labels, fitted=fitted, held=held)
    for each in exits:
        say(f"{each.place}: agrees on {100 * each.agreement:.1f} % of {num_held} held-out frames, head {each.fit}")
    if places.last_linear is None:
        say("no deep exit: the network does not end in one linear layer on pooled features")
    return TrainedExits(exits=exits, class_shares_K=shares_K)


def _stems(trunk: Trunk, recipe: ExitRecipe, some: Frame) -> list[Stem]:
    maps, _, _ = trunk(some)
    stems = []
    for features in maps:
        _, channels, height, width = features.shape
        size = {"in_channels": channels, "height": height, "width": width}
        told = {"kind": recipe.stem, **size, "num_features": recipe.num_features, "grid": recipe.grid}
        if recipe.stem == "conv":
            told |= {"num_cheap": recipe.num_cheap, "smallest": recipe.smallest}
        stems.append(make_stem(told).to(trunk.device).eval())
    return stems


def _project(trunk: Trunk, stems: Sequence[Stem], frames: Frame, batch_size: int, say: Progress) -> None:
    """Principal components of what the source shows at each exit."""
    means: list[list[Tensor]] = [[] for _ in stems]
    for start in watched(range(0, len(frames), batch_size), f"the network on {len(frames)} frames", say):
        maps, _, _ = trunk(frames[start : start + batch_size])
        for stem, features, kept in zip(stems, maps, means, strict=True):
            assert isinstance(stem, PooledStem)
            kept.append(cell_means(features, stem.cells))
    for place, stem, kept in zip(trunk.places.modules, stems, means, strict=True):
        assert isinstance(stem, PooledStem)
        say(f"{place}: {stem.num_features} components of {len(stem.mean)} means a frame")
        stem.fit(torch.cat(kept))


class _Training:
    """Stems and a linear layer on each, all at once: they share the network's forward pass and nothing else."""

    def __init__(
        self,
        trunk: Trunk,
        stems: Sequence[Stem],
        input: InputSpec,
        frames: Frame,
        labels: np.ndarray | None,
        fitted: np.ndarray,
        recipe: ExitRecipe,
        say: Progress,
        clock: Callable[[], float],
    ) -> None:
        self.trunk, self.stems, self.recipe, self.say, self.clock = trunk, list(stems), recipe, say, clock
        self.input, self.frames, self.labels, self.fitted = input, frames, labels, fitted
        self.layers = [nn.Linear(stem.num_features, trunk.num_classes).to(trunk.device) for stem in stems]
        self.learned = nn.ModuleList([*self.stems, *self.layers])
        self.steps = max(1, len(fitted) // recipe.batch_size)
        self.optimizer = torch.optim.AdamW(self.learned.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=recipe.lr, total_steps=recipe.epochs * self.steps + 1
        )

    def run(self, checkpoint: Path | None) -> list[nn.Linear]:
        """Train; the linear layers that were learned on the way. Everything is left in eval mode."""
        kept = None if checkpoint is None else Checkpoint(checkpoint, self._parts())
        first = 0 if kept is None else kept.resume(self._restore, self.trunk.device)
        began, said = self.clock(), self.clock()
        for epoch in range(first, self.recipe.epochs):
            self.learned.train()
            rng = np.random.default_rng([self.recipe.seed, epoch])
            order = rng.permutation(self.fitted)[: self.steps * self.recipe.batch_size]
            losses = np.zeros(len(self.stems))
            for step, picked in enumerate(np.array_split(order, self.steps), 1):
                losses += self._step(picked, rng)
                if step == self.steps or self.clock() - said > _SECONDS_BETWEEN_LINES:
                    said = self.clock()
                    done = (epoch - first) * self.steps + step
                    left = (self.recipe.epochs - first) * self.steps - done
                    minutes = (said - began) / done * left / 60
                    each = " ".join(f"{loss:.3f}" for loss in losses / step)
                    where = f"epoch {epoch + 1}/{self.recipe.epochs}, step {step}/{self.steps}"
                    self.say(f"{where}: losses {each}; {minutes:.1f} min left")
            if kept is not None:
                kept.save(self._state(epoch + 1))
        self.learned.eval()
        return self.layers

    def _step(self, picked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        recipe = self.recipe
        moves = ShiftAndFlip(pad=recipe.pad)
        batch_moves = moves.moves(len(picked), rng)
        batch_moves[:, 2] *= recipe.mirror
        maps, _, logits = self.trunk(moves.moved(self.frames[picked], batch_moves))
        soft = F.softmax(logits / recipe.softness, dim=1)
        total, seen = torch.zeros((), device=self.trunk.device), []
        for stem, layer, features in zip(self.stems, self.layers, maps, strict=True):
            out = layer(stem(features))
            loss = recipe.softness**2 * F.cross_entropy(out / recipe.softness, soft)
            if self.labels is not None and recipe.label_weight:
                targets = torch.from_numpy(self.labels[picked].astype(np.int64)).to(out.device)
                loss = (1 - recipe.label_weight) * loss + recipe.label_weight * F.cross_entropy(out, targets)
            total = total + loss
            seen.append(float(loss.detach()))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        return np.array(seen)

    def _parts(self) -> dict[str, object]:
        """All that a checkpoint must agree with."""
        return {
            "recipe": asdict(self.recipe),
            "places": asdict(self.trunk.places),
            "input": asdict(self.input),
            "frames": [list(self.frames.shape), zlib.crc32(np.ascontiguousarray(self.frames).data)],
            "labels": None if self.labels is None else zlib.crc32(np.ascontiguousarray(self.labels).data),
            "network": self.trunk.checksum(),
        }

    def _state(self, epochs_done: int) -> dict[str, object]:
        return {
            "epochs_done": epochs_done,
            "learned": self.learned.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> int:
        self.learned.load_state_dict(state["learned"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        return int(state["epochs_done"])
