"""Train an exit of a segmentation network: the network is frozen, run once, and what it gives is kept as float16.

Each frame is seen in some views (as it is; mirrored, scaled and cut), so that a step costs the exit alone. The exit
learns from the network's own scores (self-distillation) and, where there are any, from labels.

Axes: N frames times views, C channels, H height, W width of the features, K classes, S the labels' stride.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, RUF100

from littoral.bundle.manifest import InputSpec
from littoral.core.arrays import Frame
from littoral.models.dense_exits import DenseExit, full_scores
from littoral.models.frames import normalise
from littoral.train.checkpoints import Checkpoint

Say = Callable[[str], None]
LABEL_STRIDE = 2
"""Labels are kept at every second row and column."""
_SMALLEST, _LARGEST = 0.75, 1.5
"""Scales of a varied view: below 1 the frame is repeated around its edges by mirroring."""


@dataclass(frozen=True, kw_only=True)
class DenseExitRecipe:
    """How an exit is trained.

    Attributes:
        teacher_weight: Of the divergence from the network's own answer.
        label_weight: Of the cross entropy, where there are labels.
        softening: Scores of both are divided by it for the divergence.
        rarity: Classes weigh ``1 / ln(rarity + share)``, as the networks' own training had it (1.10).
    """

    epochs: int = 24
    batch_size: int = 8
    lr: float = 4e-3
    weight_decay: float = 5e-4
    teacher_weight: float = 1.0
    label_weight: float = 1.0
    softening: float = 1.0
    rarity: float = 1.10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or self.rarity <= 1:
            raise ValueError(
                f"at least 1 epoch, a batch of at least 2 and a rarity above 1 are needed, got {self.epochs}, "
                f"{self.batch_size} and {self.rarity}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseExitData:
    """What a frozen network gave, view after view, all frames of one view together.

    Attributes:
        features: float16 ``(N, C, H, W)`` by the cut they stand on.
        teacher_NKHW: float16, the network's scores averaged down to the first features' size.
        labels_NHW: uint8 ``(N, height / 2, width / 2)``, or None.
    """

    features: dict[str, NDArray[np.float16]]
    teacher_NKHW: NDArray[np.float16]
    labels_NHW: NDArray[np.uint8] | None

    def __len__(self) -> int:
        return len(self.teacher_NKHW)


def see_frames(
    run: nn.Module,
    cuts: tuple[str, ...],
    frames: Frame,
    labels: NDArray[np.uint8] | None,
    spec: InputSpec,
    *,
    views: int = 2,
    ignored_label: int = 255,
    seed: int = 0,
    say: Say | None = None,
) -> DenseExitData:
    """Run the frozen network on every view of every frame.

    Args:
        run: Gives the features at each of ``cuts``, the first not the smallest, and then the scores
            ``(B, K, height, width)``.
        frames: uint8 ``(N, height, width, 3)``.
        labels: uint8 ``(N, height, width)``.
        views: 1 for the frames as they are; each further one is mirrored by chance, scaled and cut.
    Raises:
        ValueError: no frame, or labels of another shape.
    """
    if len(frames) == 0 or views < 1 or (labels is not None and labels.shape != frames.shape[:3]):
        raise ValueError(
            f"expected frames, label maps of their shape and at least 1 view, got {frames.shape}, "
            f"{None if labels is None else labels.shape} and {views}"
        )
    rng = np.random.default_rng(seed)
    features: dict[str, NDArray[np.float16]] = {}
    teacher: NDArray[np.float16] | None = None
    strided = None if labels is None else labels[:, ::LABEL_STRIDE, ::LABEL_STRIDE]
    maps = None if strided is None else np.zeros((views * len(frames), *strided.shape[1:]), np.uint8)
    for view in range(views):
        for i, frame in enumerate(frames):
            label = None if labels is None else labels[i]
            if view:
                frame, label = varied(frame, label, rng, ignored_label=ignored_label)
            with torch.inference_mode():
                *found, scores = run(normalise(torch.from_numpy(np.array(frame[None])), spec))
                answer = F.adaptive_avg_pool2d(scores, found[0].shape[2:])
            if teacher is None:
                features = {cut: _room(views * len(frames), made) for cut, made in zip(cuts, found, strict=True)}
                teacher = _room(views * len(frames), answer)
            row = view * len(frames) + i
            for cut, made in zip(cuts, found, strict=True):
                features[cut][row] = _half(made)
            teacher[row] = _half(answer)
            if maps is not None and label is not None:
                maps[row] = label[::LABEL_STRIDE, ::LABEL_STRIDE]
            if say is not None and (i + 1) % 50 == 0:
                say(f"view {view + 1}/{views}: frame {i + 1}/{len(frames)}")
    assert teacher is not None  # there is a frame
    return DenseExitData(features=features, teacher_NKHW=teacher, labels_NHW=maps)


def varied(
    frame: Frame, label: NDArray[np.uint8] | None, rng: np.random.Generator, *, ignored_label: int = 255
) -> tuple[Frame, NDArray[np.uint8] | None]:
    """A frame mirrored by chance, scaled, and cut or mirrored around its edges to its old size; its labels likewise.

    Where the frame was continued there is no label.
    """
    height, width = frame.shape[:2]
    scale = float(np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST))))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    mirrored = rng.random() < 0.5
    top, left = rng.random(), rng.random()

    def placed(picture: Image.Image, how: Image.Resampling, outside: int | None) -> NDArray[np.uint8]:
        array: NDArray[np.uint8] = np.asarray(picture.resize(size, how))
        pads = [
            (int(at * max(0, old - new)), old - new)
            for at, old, new in zip((top, left), (height, width), array.shape[:2], strict=True)
        ]
        around = [(before, total - before) if total > 0 else (0, 0) for before, total in pads]
        around += [(0, 0)] * (array.ndim - 2)
        array = (
            np.pad(array, around, mode="symmetric")
            if outside is None
            else np.pad(array, around, constant_values=outside)
        )
        rows = int(top * (array.shape[0] - height))
        columns = int(left * (array.shape[1] - width))
        array = array[rows : rows + height, columns : columns + width]
        return np.ascontiguousarray(array[:, ::-1] if mirrored else array)

    seen = placed(Image.fromarray(frame), Image.Resampling.BILINEAR, None)
    if label is None:
        return seen, None
    return seen, placed(Image.fromarray(label), Image.Resampling.NEAREST, ignored_label)


def train_dense_exit(
    head: DenseExit,
    cut: str,
    data: DenseExitData,
    recipe: DenseExitRecipe,
    *,
    ignored_label: int = 255,
    checkpoint: Path | None = None,
    progress: Say | None = None,
) -> None:
    """Train an exit in place on what the frozen network gave; it is left in eval mode.

    The same seed, data, machine and number of threads give the same weights, also over a stop: after every epoch all
    is kept in ``checkpoint``, and read from there first.

    Raises:
        ValueError: there are no features of this cut or fewer frames than a batch has, or the checkpoint is of
            another training.
    """
    if cut not in data.features or len(data) < recipe.batch_size:
        raise ValueError(
            f"expected features at {cut!r} of at least {recipe.batch_size} frames, got {len(data)} frames at "
            f"{', '.join(data.features)}"
        )
    steps = len(data) // recipe.batch_size
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.lr, total_steps=recipe.epochs * steps + 1, pct_start=0.15
    )
    weights_K = _class_weights(data, recipe, ignored_label)

    def restore(state: dict[str, Any]) -> int:
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["others"][0])
        schedule.load_state_dict(state["others"][1])
        return int(state["epochs"])

    kept: Checkpoint | None = None
    begun = 0
    if checkpoint is not None:
        seen = {"features": torch.from_numpy(data.features[cut]), "teacher": torch.from_numpy(data.teacher_NKHW)}
        kept = Checkpoint(checkpoint, _parts(head, cut, data, recipe, ignored_label), {"head": head}, seen)
        begun = kept.resume(restore)
    _in_memory(head, torch.channels_last)  # halves the time of a step on a processor
    for epoch in range(begun, recipe.epochs):
        head.train()
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(data))
        losses = []
        for picked in np.array_split(order[: steps * recipe.batch_size], steps):
            rows = np.sort(picked)
            features = torch.from_numpy(data.features[cut][rows].astype(np.float32))
            teacher = torch.from_numpy(data.teacher_NKHW[rows].astype(np.float32))
            labels = None if data.labels_NHW is None else torch.from_numpy(data.labels_NHW[rows].astype(np.int64))
            features = features.contiguous(memory_format=torch.channels_last)
            loss = exit_loss(head(features), teacher, labels, weights_K, recipe, ignored_label=ignored_label)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(head.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            if labels is None or not recipe.label_weight or (labels != ignored_label).any():
                losses.append(loss.item())  # else it is no number: the mean of no pixel
        if kept is not None:
            others = [optimizer.state_dict(), schedule.state_dict()]
            kept.save({"epochs": epoch + 1, "head": head.state_dict(), "others": others})
        if progress is not None:
            told = f"loss {np.mean(losses):.4f}" if losses else "no batch with a label, so no loss to tell"
            progress(f"epoch {epoch + 1}/{recipe.epochs}: {told}")
    _in_memory(head, torch.contiguous_format)
    head.eval()


def exit_loss(
    scores_BKHW: Tensor,
    teacher_BKHW: Tensor,
    labels_BHW: Tensor | None,
    weights_K: Tensor,
    recipe: DenseExitRecipe,
    *,
    ignored_label: int = 255,
) -> Tensor:
    """Divergence from the network's answer at the features' size, and cross entropy at the labels' size.

    A pixel weighs what its class weighs: the teacher's, or the label's.
    """
    if teacher_BKHW.shape != scores_BKHW.shape:
        teacher_BKHW = F.adaptive_avg_pool2d(teacher_BKHW, (scores_BKHW.shape[2], scores_BKHW.shape[3]))
    soft = teacher_BKHW / recipe.softening
    logp, teacher_logp = F.log_softmax(scores_BKHW / recipe.softening, dim=1), F.log_softmax(soft, dim=1)
    weight_BHW = weights_K[teacher_BKHW.argmax(dim=1)]
    apart_BHW = (teacher_logp.exp() * (teacher_logp - logp)).sum(dim=1)
    loss = recipe.teacher_weight * recipe.softening**2 * (weight_BHW * apart_BHW).sum() / weight_BHW.sum()
    if labels_BHW is not None and recipe.label_weight:
        up = full_scores(scores_BKHW, labels_BHW.shape[1], labels_BHW.shape[2])
        loss = loss + recipe.label_weight * F.cross_entropy(
            up, labels_BHW, weight=weights_K, ignore_index=ignored_label
        )
    return loss


def _class_weights(data: DenseExitData, recipe: DenseExitRecipe, ignored_label: int) -> Tensor:
    num_classes = data.teacher_NKHW.shape[1]
    answers = data.teacher_NKHW.argmax(axis=1) if data.labels_NHW is None else data.labels_NHW
    counts = np.bincount(answers[answers != ignored_label].ravel(), minlength=num_classes)[:num_classes]
    weights = 1 / np.log(recipe.rarity + counts / max(counts.sum(), 1))
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))


def _in_memory(module: nn.Module, layout: torch.memory_format) -> None:
    module.to(memory_format=layout)  # type: ignore[call-overload]


def _room(num: int, x: Tensor) -> NDArray[np.float16]:
    return np.zeros((num, *x.shape[1:]), np.float16)


def _half(x: Tensor) -> NDArray[np.float16]:
    limit = float(np.finfo(np.float16).max)
    array: NDArray[np.float16] = x[0].clamp(-limit, limit).to(torch.float16).numpy()
    return array


def _parts(
    head: nn.Module, cut: str, data: DenseExitData, recipe: DenseExitRecipe, ignored_label: int
) -> dict[str, object]:
    """All that a checkpoint must agree with, but for what the frozen network computed."""
    labels = data.labels_NHW
    return {
        "recipe": asdict(recipe),
        "head": {name: list(value.shape) for name, value in head.state_dict().items()},
        "cut": cut,
        "shapes": [data.features[cut].shape, data.teacher_NKHW.shape],
        "labels": None if labels is None else [zlib.crc32(np.ascontiguousarray(labels).data), ignored_label],
    }
