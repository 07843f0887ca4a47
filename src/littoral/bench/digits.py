"""The demo's two networks and its bundle: a small student that saw clean digits, and a teacher that saw more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from littoral.bench.streams.digits import SIDE, robust_frames, source_frames, split_digits, to_frames
from littoral.bundle import Bundle, InputSpec
from littoral.models.frames import normalise
from littoral.models.small_cnn import SmallCNN, small_cnn
from littoral.train.build import build_bundle
from littoral.train.fit import fit_classifier
from littoral.train.options import BuildOptions, TorchSource

FACTORY = "littoral.models.zoo:small_cnn"
STUDENT: dict[str, Any] = {"width": 24, "num_classes": 10, "channels": 1, "depth": 2}
TEACHER: dict[str, Any] = {"width": 32, "num_classes": 10, "channels": 1, "depth": 2}
INPUT = InputSpec(height=SIDE, width=SIDE, channels=1, mean=(0.3,), std=(1.0,))
MEASURE_BATCH = 16
STUDENT_EPOCHS, TEACHER_EPOCHS = 6, 5

Say = Callable[[str], None]


def train_networks(seed: int, say: Say, step: Say) -> tuple[SmallCNN, SmallCNN]:
    """Student and teacher, trained on the source half of the digits."""
    torch.manual_seed(seed)
    student, teacher = small_cnn(**STUDENT), small_cnn(**TEACHER)
    frames, labels = source_frames(seed)
    say(f"training the student: {STUDENT_EPOCHS} epochs of {len(frames)} clean frames")
    fit_classifier(
        *(student, frames, labels), input=INPUT, epochs=STUDENT_EPOCHS, seed=seed, progress=_of("the student", step)
    )
    say(f"the student is right on {_held_out_accuracy(student, seed):.1f} % of clean digits that it never saw")
    say(f"training the teacher: {TEACHER_EPOCHS} epochs of frames in every light, blur and turn")
    step("the teacher: making its frames")
    robust, robust_labels = robust_frames(seed)
    clean, clean_labels = source_frames(seed, copies=2)
    frames, labels = np.concatenate([robust, clean]), np.concatenate([robust_labels, clean_labels])
    fit_classifier(
        *(teacher, frames, labels), input=INPUT, epochs=TEACHER_EPOCHS, seed=seed, progress=_of("the teacher", step)
    )
    say(f"the teacher is right on {_held_out_accuracy(teacher, seed):.1f} % of clean digits that it never saw")
    return student, teacher


def _of(who: str, step: Say) -> Say:
    return lambda line: step(f"{who}: {line}")


def _held_out_accuracy(model: SmallCNN, seed: int) -> float:
    """Percent right on the half of the digits that no network trains on, as they are."""
    _, (images, labels) = split_digits(seed)
    with torch.no_grad():
        answers = model(normalise(torch.from_numpy(to_frames(images)), INPUT)).argmax(1).numpy()
    return 100 * float((answers == labels).mean())


def build_digits(out: Path, seed: int, say: Say, step: Say = lambda _line: None) -> Bundle:
    """Train and build the demo's bundle.

    Args:
        say: Told what stays to be read, a line at a time.
        step: Told what is being done at the moment.
    """
    student, teacher = train_networks(seed, say, step)
    say("building the bundle: tracing, cutting, measuring, checking")
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
        progress=_of("the bundle", step),
    )
