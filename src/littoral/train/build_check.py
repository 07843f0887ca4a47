"""What can be seen to be wrong with a build before anything is trained for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from littoral.bundle import InputSpec
from littoral.core.arrays import Frame
from littoral.core.tasks import Classification, Task
from littoral.core.truths import Truths
from littoral.models.parts import head_of, tail_of
from littoral.train.build import check_options, check_sources, in_float32
from littoral.train.cuts import choose_cut_points, find_cut_points, named_cut_points
from littoral.train.exit_build import check_enough_for_exits, check_exit_options
from littoral.train.exit_places import place_exits
from littoral.train.export import export_model
from littoral.train.options import BuildOptions, TorchSource
from littoral.train.sample import check_frames, check_truths
from littoral.train.split_make import check_parts, fitting_bottleneck


def check_build(
    *,
    student: TorchSource,
    teacher: TorchSource | None,
    input: InputSpec,
    task: Task[Any, Any],
    frames: Frame,
    truths: Truths | np.ndarray | None,
    options: BuildOptions,
    splits: Sequence[str] = (),
    exits: int | Sequence[str] | None = None,
) -> None:
    """Refuse in seconds what `littoral.train.build.build_bundle` would refuse, and places where nothing can be trained.

    Args:
        splits: Modules of the teacher at which splits are to be trained.
        exits: Where exits of the student are to be trained, as for `littoral.train.exit_places.place_exits`; None for
            none.
    Raises:
        ValueError: frames, truths, networks and options do not fit together, or there is no such place.
        BundleError: a factory does not make its network again.
    """
    check_options(task, teacher, options, has_exits=exits is not None)
    if exits is not None:
        check_exit_options(options)
        check_enough_for_exits(len(frames))
    check_frames(input, frames)
    if truths is not None:
        check_truths(task, truths, len(frames))
    student, teacher = in_float32(student), None if teacher is None else in_float32(teacher)
    sources = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    with torch.random.fork_rng(devices=[]):  # factories begin with weights of chance
        check_sources(task, sources, input, frames[:8])
        for cut in splits:
            if teacher is None:
                raise ValueError(f"a split at {cut!r} is one of the teacher, and there is none; give one")
            fitting_bottleneck(teacher, input, cut)
            model = teacher.module.eval()
            check_parts(model, head_of(model, cut), tail_of(model, cut), input, frames, cut)
    places = () if exits is None else place_exits(student.module, input, exits).modules
    _check_cuts(student, input, task, options, places)


def _check_cuts(
    student: TorchSource, input: InputSpec, task: Task[Any, Any], options: BuildOptions, places: Sequence[str]
) -> None:
    modules = dict(student.module.named_modules())
    taps = [cut for cut in dict.fromkeys((*options.cut_points, *places)) if cut in modules]
    learns = isinstance(task, Classification)
    exported = export_model(student.module, input, output_shape=task.output_shape, taps=taps, learns=learns)
    points = find_cut_points(exported.graph)
    if options.cut_points:
        named_cut_points(points, options.cut_points)
    else:
        choose_cut_points(points, options.num_segments)
