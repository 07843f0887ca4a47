"""The demo's two networks and its bundle: a small student that saw clean digits, and a teacher that saw more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from littoral.bench.streams import SIDE, robust_frames, source_frames
from littoral.bundle import Bundle, InputSpec
from littoral.models.small_cnn import SmallCNN, small_cnn
from littoral.train.build import build_bundle
from littoral.train.fit import fit_classifier
from littoral.train.options import BuildOptions, TorchSource

FACTORY = "littoral.models.zoo:small_cnn"
STUDENT: dict[str, Any] = {"width": 16, "num_classes": 10, "channels": 1, "depth": 2}
TEACHER: dict[str, Any] = {"width": 24, "num_classes": 10, "channels": 1, "depth": 2}
INPUT = InputSpec(height=SIDE, width=SIDE, channels=1, mean=(0.3,), std=(1.0,))
MEASURE_BATCH = 16
STUDENT_EPOCHS, TEACHER_EPOCHS = 6, 5

Say = Callable[[str], None]


def train_networks(seed: int, say: Say) -> tuple[SmallCNN, SmallCNN]:
    """Student and teacher, trained on the source half of the digits."""
    torch.manual_seed(seed)
    student, teacher = small_cnn(**STUDENT), small_cnn(**TEACHER)
    frames, labels = source_frames(seed)
    say(f"student: {len(frames)} clean frames, {STUDENT_EPOCHS} epochs")
    fit_classifier(student, frames, labels, input=INPUT, epochs=STUDENT_EPOCHS, seed=seed, progress=say)
    robust, robust_labels = robust_frames(seed)
    clean, clean_labels = source_frames(seed, copies=2)
    frames, labels = np.concatenate([robust, clean]), np.concatenate([robust_labels, clean_labels])
    say(f"teacher: {len(frames)} varied frames, {TEACHER_EPOCHS} epochs")
    fit_classifier(teacher, frames, labels, input=INPUT, epochs=TEACHER_EPOCHS, seed=seed, progress=say)
    return student, teacher


def build_digits(out: Path, seed: int, say: Say) -> Bundle:
    """Train and build the demo's bundle."""
    student, teacher = train_networks(seed, say)
    frames, labels = source_frames(seed)
    return build_bundle(
        student=TorchSource(student, FACTORY, STUDENT),
        teacher=TorchSource(teacher, FACTORY, TEACHER),
        out=out,
        name="digits",
        class_names=[str(digit) for digit in range(10)],
        input=INPUT,
        source_frames=frames,
        source_labels=labels,
        options=BuildOptions(drift_batch=MEASURE_BATCH, seed=seed),
        progress=say,
    )
