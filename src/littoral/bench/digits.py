"""The demo's networks and its bundle: a small student that saw clean digits, and a teacher that saw more.

Around them what a router chooses between: the student's exits, and a split whose half in the cloud is the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from littoral.bench.streams.digits import (
    SIDE,
    Labels,
    held_out_frames,
    robust_frames,
    source_frames,
    split_digits,
    to_frames,
)
from littoral.bundle import Bundle, InputSpec
from littoral.core.arrays import Frame
from littoral.models.architectures import product
from littoral.models.bottleneck import split_tail_kwargs, to_split_tail
from littoral.models.frames import normalise
from littoral.models.parts import tail_of
from littoral.models.small_cnn import SmallCNN, small_cnn
from littoral.train.bottleneck import train_split
from littoral.train.build import build_bundle
from littoral.train.exit_heads import TrainedExits
from littoral.train.exit_places import place_exits
from littoral.train.exits import ExitRecipe, train_exits
from littoral.train.fit import fit_classifier
from littoral.train.options import BuildOptions, ExitSource, RouterSource, SplitSource, TorchSource
from littoral.train.split_data import SplitData, SplitNetworks
from littoral.train.split_recipe import product_recipe

FACTORY = "littoral.models.zoo:small_cnn"
STUDENT: dict[str, Any] = {"width": 24, "num_classes": 10, "channels": 1, "depth": 2}
TEACHER: dict[str, Any] = {"width": 32, "num_classes": 10, "channels": 1, "depth": 2}
INPUT = InputSpec(height=SIDE, width=SIDE, channels=1, mean=(0.3,), std=(1.0,))
MEASURE_BATCH = 16
STUDENT_EPOCHS, TEACHER_EPOCHS = 6, 5
DEVICE_MACS_PER_MS = 6e5
"""A small board: the student takes 7 ms there."""
NUM_EXITS, EXIT_EPOCHS = 2, 2
SPLIT_EPOCHS = 3
_CUT = "blocks.1"
"""Where the cloud goes on with the teacher."""
_MAKE_TAIL = "littoral.models.bottleneck:make_split_tail"

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
    frames, labels = teacher_frames(seed)
    fit_classifier(
        *(teacher, frames, labels), input=INPUT, epochs=TEACHER_EPOCHS, seed=seed, progress=_of("the teacher", step)
    )
    say(f"the teacher is right on {_held_out_accuracy(teacher, seed):.1f} % of clean digits that it never saw")
    return student, teacher


def train_digit_exits(student: SmallCNN, seed: int, step: Say) -> TrainedExits:
    """Exits of the student, trained on what it was trained on; it stays as it is."""
    frames, labels = source_frames(seed)
    recipe = ExitRecipe(epochs=EXIT_EPOCHS, num_features=32, pad=1, mirror=False, seed=seed)
    places = place_exits(student, INPUT, NUM_EXITS)
    return train_exits(student, INPUT, frames, labels, recipe, _of("the exits", step), places=places)


def train_digit_split(teacher: TorchSource, seed: int, step: Say = lambda _line: None) -> SplitSource:
    """Frames become some dozens of bytes on the device, and an answer by the second half of the teacher; at one rate.

    Its encoder takes frames and not the student's features, so it does not depend on how far the student has adapted.

    Args:
        teacher: A `small_cnn` that was trained on `teacher_frames`.
    """
    torch.manual_seed(seed)
    bottleneck = product(
        in_channels=INPUT.channels,
        width=24,
        num_channels=8,
        decoder_width=32,
        decoder_blocks=1,
        out_channels=2 * teacher.kwargs["width"],
        starting_gains=(4.0,),
    )
    frames, labels = teacher_frames(seed)
    parts = SplitNetworks(bottleneck=bottleneck, tail=tail_of(teacher.module, _CUT), teacher=teacher.module, cut=_CUT)
    recipe = product_recipe(
        epochs=SPLIT_EPOCHS, rate_weights=(1e-4,), features={_CUT: 1.0}, lr=5e-3, batch_size=64, seed=seed
    )
    data = SplitData(frames=frames, input=INPUT, targets=labels, augment=None)
    train_split(recipe, parts, data, progress=_of("the split", step))
    kwargs = split_tail_kwargs(bottleneck, {"factory": teacher.factory, "kwargs": teacher.kwargs, "cut": _CUT})
    return SplitSource(bottleneck, TorchSource(to_split_tail(bottleneck, parts.tail), _MAKE_TAIL, kwargs))


def teacher_frames(seed: int) -> tuple[Frame, Labels]:
    """What the teacher is trained on: frames in every light, blur and turn, and clean ones."""
    robust, robust_labels = robust_frames(seed)
    clean, clean_labels = source_frames(seed, copies=2)
    return np.concatenate([robust, clean]), np.concatenate([robust_labels, clean_labels])


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
    say(f"training {NUM_EXITS} exits of the student, and a split whose half in the cloud is the teacher's")
    cloud = TorchSource(teacher, FACTORY, TEACHER)
    exits, split = train_digit_exits(student, seed, step), train_digit_split(cloud, seed, step)
    say("building the bundle: tracing, cutting, measuring, checking")
    frames, labels = source_frames(seed)
    held_out, held_out_labels = held_out_frames(seed)
    return build_bundle(
        student=TorchSource(student, FACTORY, STUDENT),
        teacher=cloud,
        out=out,
        name="digits",
        class_names=[str(digit) for digit in range(10)],
        input=INPUT,
        source_frames=frames,
        source_labels=labels,
        splits=[split],
        exits=ExitSource(trained=exits),
        router=RouterSource(frames=held_out, labels=held_out_labels, device_macs_per_ms=DEVICE_MACS_PER_MS),
        options=BuildOptions(drift_batch=MEASURE_BATCH, seed=seed),
        progress=_of("the bundle", step),
    )
