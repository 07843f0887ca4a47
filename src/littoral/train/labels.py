"""A classifier's labels, looked at before a training takes them."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray
from torch import nn

from littoral.bundle.manifest import InputSpec
from littoral.core.tasks import Classification
from littoral.train.export import check_output
from littoral.train.sample import check_truths


def num_classes_of(model: nn.Module, spec: InputSpec) -> int:
    """How many classes a network tells apart, by what it gives for two empty frames. It is not touched.

    Raises:
        ValueError: it does not take frames of this input, or is no classifier.
    """
    return check_output(copy.deepcopy(model).cpu().float().eval(), spec, None)[0]


def checked_labels(labels: np.ndarray, num_classes: int, num_frames: int) -> NDArray[np.int64]:
    """Labels of any kind of integer as int64 ``(N,)``.

    Raises:
        ValueError: as `littoral.train.sample.check_truths`.
    """
    check_truths(Classification(num_classes=num_classes), labels, num_frames)
    return np.asarray(labels).astype(np.int64)
