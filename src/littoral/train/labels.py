"""A classifier's labels, looked at before a training takes them."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from littoral.bundle.manifest import InputSpec
from littoral.core.tasks import Classification
from littoral.models.frames import normalise
from littoral.train.sample import check_truths


def num_classes_of(model: nn.Module, spec: InputSpec) -> int:
    """How many classes a network tells apart, by what it gives for two empty frames. It is not touched.

    Raises:
        ValueError: it does not take frames of this input, or is no classifier.
    """
    probe = copy.deepcopy(model).cpu().float().eval()
    try:
        with torch.no_grad():
            scores = probe(normalise(torch.zeros((2, *spec.shape), dtype=torch.uint8), spec))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"{type(model).__name__} does not take frames of {spec.shape}: {error}") from error
    if not isinstance(scores, torch.Tensor) or scores.ndim != 2:
        came = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ValueError(
            f"{type(model).__name__} gives {came} for 2 frames, expected scores (2, classes); wrap it in a module that "
            "gives just these"
        )
    return scores.shape[1]


def checked_labels(labels: np.ndarray, num_classes: int, num_frames: int) -> NDArray[np.int64]:
    """Labels of any kind of integer as int64 ``(N,)``.

    Raises:
        ValueError: as `littoral.train.sample.check_truths`.
    """
    check_truths(Classification(num_classes=num_classes), labels, num_frames)
    return np.asarray(labels).astype(np.int64)
