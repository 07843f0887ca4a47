"""Train a classifier on frames in memory: for the demo and for tests, not for records."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from littoral.bundle.manifest import InputSpec
from littoral.core.arrays import Frame
from littoral.models.frames import normalise

Augment = Callable[[Frame, np.random.Generator], Frame]


def fit_classifier(
    model: nn.Module,
    frames: Frame,
    labels: np.ndarray,
    *,
    input: InputSpec,
    epochs: int,
    lr: float = 3e-3,
    batch_size: int = 64,
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    augment: Augment | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Train in place with AdamW and a one-cycle schedule; the model is left in eval mode.

    The same seed, data, machine and number of threads give the same weights; torch's own generator is left as it was.

    Args:
        frames: uint8 ``(N, H, W, C)``.
        labels: int64 ``(N,)``.
        lr: The peak of the schedule.
        label_smoothing: Share of the target spread over all classes, 0..1.
        augment: Takes a batch of frames and a generator, gives frames of the same shape and dtype.
    Raises:
        ValueError: frames and labels do not fit, there are fewer than 2 frames, or epochs or batch_size is too small.
    """
    if len(frames) != len(labels) or len(frames) < 2 or frames.shape[1:] != input.shape:
        raise ValueError(
            f"frames {frames.shape} and labels {labels.shape} do not fit each other or the input {input.shape}; "
            "at least 2 frames are needed"
        )
    if epochs < 1 or batch_size < 2:
        raise ValueError(f"epochs is {epochs} and batch_size {batch_size}; at least 1 and 2 are needed")
    rng = np.random.default_rng(seed)
    batches = max(1, len(frames) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * batches + 1)
    device = next(model.parameters()).device
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            model.train()
            losses = []
            for picked in np.array_split(rng.permutation(len(frames))[: batches * batch_size], batches):
                batch = frames[picked]
                if augment is not None:
                    batch = augment(batch, rng)
                x = normalise(torch.from_numpy(np.ascontiguousarray(batch)).to(device), input)
                loss = F.cross_entropy(model(x), targets[picked], label_smoothing=label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            if progress is not None:
                progress(f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.3f}")
    model.eval()


def settle_statistics(model: nn.Module, frames: Frame, *, input: InputSpec, batch_size: int = 64) -> None:
    """Set the running statistics of BatchNorm layers to the average over these frames; nothing else changes.

    For a network that was not trained, or whose statistics are stale. The model is left in eval mode.

    Args:
        frames: uint8 ``(N, H, W, C)``, N at least 2.
    """
    device = next(model.parameters()).device
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]
    before = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    with torch.no_grad():
        for batch in np.array_split(frames, max(1, len(frames) // batch_size)):
            model(normalise(torch.from_numpy(np.ascontiguousarray(batch)).to(device), input))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()
