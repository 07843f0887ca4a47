"""``littoral build``: a model and data become a bundle."""

from __future__ import annotations

import argparse
import errno
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from littoral.cli.frames import read_arrays
from littoral.cli.numbers import all_plain

Subparsers = argparse._SubParsersAction


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("build", help="a model + data -> a bundle")
    parser.add_argument("out", type=Path, help="the bundle's directory; a .tar for devices is made beside it")
    parser.add_argument("--name", help="the bundle's name (default: that of the directory)")
    tasks = ("classification", "segmentation", "detection")
    parser.add_argument(
        "--task", choices=tasks, default=tasks[0], help="what the networks are for (default: %(default)s)"
    )
    parser.add_argument(
        "--task-options",
        default="{}",
        metavar="JSON",
        help="what is not as usual of the task, such as a detector's strides",
    )
    for role in ("student", "teacher"):
        needed = role == "student"
        only = "" if needed else "; only a classifier needs one"
        parser.add_argument(
            f"--{role}",
            required=needed,
            metavar="MODULE:FACTORY",
            help=f"a function that makes the {role}, a torch module{only}",
        )
        parser.add_argument(f"--{role}-kwargs", default="{}", metavar="JSON", help="the factory's keyword arguments")
        parser.add_argument(f"--{role}-weights", type=Path, required=needed, help="its state dict, a .safetensors file")
    parser.add_argument(
        "--frames",
        type=Path,
        required=True,
        help="source frames: .npz with 'frames' uint8 (N, H, W, C); 'labels' if known: (N,), (N, H, W), or for a "
        "detector (M,) with 'boxes' (M, 4) and 'counts' (N,)",
    )
    parser.add_argument("--classes", required=True, help="class names, by commas, or a file with one to a line")
    parser.add_argument("--mean", default="0", help="mean of each channel on the scale 0..1, by commas, or one for all")
    parser.add_argument("--std", default="1", help="standard deviation of each channel, likewise")
    parser.add_argument("--segments", type=int, default=1, help="cut the network into so many segments of equal work")
    parser.add_argument(
        "--cut",
        action="append",
        default=[],
        metavar="TENSOR",
        help="cut at this ONNX tensor or torch module instead; repeatable",
    )
    parser.add_argument(
        "--exits", type=int, metavar="N", help="train so many early exits, with equal work between them"
    )
    parser.add_argument(
        "--exit",
        action="append",
        default=[],
        metavar="MODULE",
        help="train an exit after this module instead; repeatable",
    )
    parser.add_argument(
        "--exit-stem",
        choices=("conv", "pooled"),
        default="conv",
        help="what an exit is made of: small convolutions that are trained, or pooled means",
    )
    parser.add_argument("--exit-epochs", type=int, default=4, help="epochs of training, for conv")
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="MODULE",
        help="train a split from the frame: the cloud goes on after this module of the teacher; repeatable",
    )
    parser.add_argument("--split-epochs", type=int, default=20, help="epochs of training a split, 2 or more")
    parser.add_argument(
        "--split-deadzones",
        metavar="D,D,D,D",
        help="by how much more than a half a split's values must be beyond a whole number to count as the next one "
        "from 0; for each of the four levels, the coarsest first, or one for all; 0: plain rounding (default: chosen "
        "by bytes and answers)",
    )
    parser.add_argument(
        "--fit-split",
        metavar="MODULE",
        help="for any task, fit a split to the student's own features, in a minute or two and without a training: the "
        "device runs the student up to this module, where the bundle is cut, and the cloud finishes it; its deadzones "
        "are always chosen",
    )
    parser.add_argument(
        "--router",
        type=Path,
        metavar="FILE",
        help="with exits: tables for a router, counted on these frames (.npz as --frames); nothing may have been "
        "trained on them",
    )
    parser.add_argument(
        "--pictures",
        metavar="CODINGS",
        help="with --router: how a picture of the frame may be coded for the teacher, by commas: lossless, png, "
        "webp-<q>, jpeg-<q>; or none (default: webp-95,lossless)",
    )
    parser.add_argument(
        "--rehearse",
        type=int,
        metavar="STEPS",
        help="steps of teaching the student's normalisation layers on altered source frames, from which the cloud "
        "starts; 0: none (default: 150 for a classifier)",
    )
    parser.add_argument("--key", type=Path, help="sign with this release key; made if missing")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of probe and replay frames")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, and sign if a key is given."""
    from littoral.bundle import InputSpec, SigningKey
    from littoral.bundle.bundle import SIGNATURE_FILE
    from littoral.core.tasks import Classification, task_of
    from littoral.train.build import build_bundle
    from littoral.train.build_check import check_build
    from littoral.train.options import BuildOptions
    from littoral.train.write import check_target

    if (args.teacher is None) != (args.teacher_weights is None):
        print("littoral build: --teacher and --teacher-weights go together; give both or none", file=sys.stderr)
        return 2
    _check_words(args)
    check_target(args.out)
    if (args.out / SIGNATURE_FILE).exists():
        _say(f"{args.out} is signed: the new bundle is another one, to be signed and given to its devices anew")
    tensors = read_arrays(args.frames)
    frames, classes = tensors["frames"], _classes(args.classes)
    _, height, width, channels = frames.shape
    task = task_of(
        args.task,
        num_classes=len(classes),
        input_height=height,
        input_width=width,
        options=_json(args.task_options, f"the task options {args.task_options!r}"),
    )
    steps = args.rehearse
    if steps is None:
        steps = 150 if task.name == Classification.name else 0
    options = BuildOptions(
        num_segments=args.segments,
        cut_points=tuple(args.cut) if args.fit_split is None else (args.fit_split,),
        rehearsal_steps=steps,
        seed=args.seed,
    )
    deadzones, exits = _deadzones(args.split_deadzones), _exit_wish(args)
    spec = InputSpec(
        height=height,
        width=width,
        channels=channels,
        mean=_floats("--mean", args.mean, channels),
        std=_floats("--std", args.std, channels),
    )
    student = _source(args.student, args.student_kwargs, args.student_weights)
    teacher = _source(args.teacher, args.teacher_kwargs, args.teacher_weights) if args.teacher else None
    truths = _truths(args.frames, task, tensors)
    router = _router(args, spec, len(classes))
    if args.split or args.fit_split is not None or exits is not None:
        check_build(
            student=student,
            teacher=teacher,
            input=spec,
            task=task,
            frames=frames,
            truths=truths,
            options=options,
            splits=args.split,
            exits=None if exits is None else exits["where"],
        )
    bundle = build_bundle(
        student=student,
        teacher=teacher,
        out=args.out,
        name=args.name or args.out.name,
        class_names=classes,
        input=spec,
        task=task,
        source_frames=frames,
        source_labels=truths,
        splits=_splits(args, student, teacher, spec, task, frames, truths, deadzones),
        exits=None if exits is None else _exits(student, spec, frames, truths, exits),
        router=router,
        options=options,
        progress=_say,
    )
    if args.key:
        bundle.sign(SigningKey.load_or_make(args.key))
    told = {"bundle": str(bundle.path), "digest": bundle.digest.hex(), "source_metrics": bundle.manifest.source_metrics}
    measured = all_plain(bundle.manifest.source_metrics, 3)
    print(json.dumps(told) if args.json else f"{bundle.path}: {bundle.digest.hex()}\non its source frames: {measured}")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _saying(what: str) -> Callable[[str], None]:
    """Says lines of what is at work, which does not know what it is called here."""
    return lambda line: _say(f"{what}: {line}")


def _check_words(args: argparse.Namespace) -> None:
    """Refuse words that do not go together, before anything is read."""
    has_exits = args.exits is not None or bool(args.exit)
    if args.exits is not None and args.exit:
        raise ValueError("--exits places exits by itself, --exit names places; give one of the two")
    if has_exits and args.task != "classification":
        raise ValueError(f"only a classifier has exits, the task is {args.task}; build without --exits and --exit")
    if args.fit_split is not None and (args.cut or args.segments != 1 or has_exits):
        raise ValueError(
            "--fit-split cuts the network at its module alone, without --cut, --segments, --exits and --exit; give "
            "a split of littoral.train.split_make.fit_split to littoral.build_bundle for more"
        )
    if args.split and (args.task != "classification" or args.teacher is None):
        raise ValueError(
            "--split trains a split of a classifier's teacher, and there is none; name the teacher. For other tasks "
            "take --fit-split, or give trained splits to littoral.build_bundle"
        )
    if args.split and args.split_epochs < 2:
        raise ValueError(
            f"--split-epochs is {args.split_epochs}, expected 2 or more: the last one trains the cloud's part "
            "alone, so with 1 the encoder would learn nothing"
        )
    if args.fit_split is not None and args.task == "classification" and args.teacher is None:
        raise ValueError("a bundle for classification needs a teacher: its student is adapted; give --teacher")


def _exit_wish(args: argparse.Namespace) -> dict[str, Any] | None:
    """Where exits are to be trained and by which recipe, as `make_exits` takes it; None where none are asked for."""
    if args.exits is None and not args.exit:
        return None
    from littoral.train.exits import ExitRecipe

    recipe = ExitRecipe(stem=args.exit_stem, epochs=args.exit_epochs, seed=args.seed)
    return {"where": args.exits if args.exits is not None else args.exit, "recipe": recipe}


def _exits(student: Any, spec: Any, frames: Any, truths: Any, wish: dict[str, Any]) -> Any:
    """Trained exits."""
    from littoral.train.exit_build import make_exits

    return make_exits(student.module, spec, frames, truths, **wish, progress=_saying("exits"))


def _deadzones(given: str | None) -> tuple[float, ...] | None:
    try:
        return None if given is None else tuple(float(part) for part in given.split(","))
    except ValueError as error:
        raise ValueError(f"--split-deadzones is {given!r}, expected numbers by commas") from error


def _splits(
    args: argparse.Namespace,
    student: Any,
    teacher: Any,
    spec: Any,
    task: Any,
    frames: Any,
    truths: Any,
    deadzones: tuple[float, ...] | None,
) -> list[Any]:
    """A trained split for each module that is named, and before them the one that is fitted."""
    from littoral.train.split_make import fit_split, make_split

    made: list[Any] = []
    if args.fit_split is not None:
        _say(f"split 0: fitting, the device runs up to {args.fit_split}")
        say = _saying("split 0")
        made.append(fit_split(student, spec, frames, task, cut=args.fit_split, seed=args.seed, progress=say))
    for cut in args.split:
        _say(f"split {len(made)}: training, the cloud goes on after {cut}")
        made.append(
            make_split(
                *(teacher, spec, frames, truths),
                cut=cut,
                epochs=args.split_epochs,
                deadzones=deadzones,
                seed=args.seed,
                progress=_saying(f"split {len(made)}"),
            )
        )
    return made


def _router(args: argparse.Namespace, spec: Any, num_classes: int) -> Any:
    """Held-out frames for a router, or None. Looked at before anything is trained for it."""
    if args.router is None:
        return None
    from dataclasses import replace

    from littoral.train.options import RouterSource
    from littoral.train.route_build import check_router

    tensors = read_arrays(args.router)
    source = RouterSource(frames=tensors["frames"], labels=tensors.get("labels"))
    if args.pictures is not None:
        pictures = () if args.pictures == "none" else tuple(args.pictures.split(","))
        source = replace(source, pictures=pictures)
    has_exits = args.exits is not None or bool(args.exit)
    check_router(source, spec, num_classes, has_exits=has_exits, has_splits=bool(args.split or args.fit_split))
    return source


def _truths(path: Path, task: Any, tensors: dict[str, Any]) -> Any:
    from littoral.core.tasks import Classification
    from littoral.core.truths import truths_from_tensors

    if "labels" not in tensors or task.name == Classification.name:
        return tensors.get("labels")
    try:
        return truths_from_tensors(task, tensors, num_frames=len(tensors["frames"]))
    except ValueError as error:
        raise ValueError(f"{path} has not what {task.name} needs: {error}") from error


def _json(text: str, whose: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{whose} are not JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{whose} are {type(parsed).__name__}, expected a JSON object")
    return parsed


def _floats(option: str, text: str, channels: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} is {text!r}, expected numbers by commas") from error
    if len(values) not in (1, channels):
        raise ValueError(f"{option} {text!r} has {len(values)} values, expected 1 or {channels}, by commas")
    return values * channels if len(values) == 1 else values


def _classes(text: str) -> list[str]:
    path = Path(text)
    try:
        lines = path.read_text().splitlines() if path.is_file() else text.split(",")
    except UnicodeDecodeError as error:
        raise ValueError(f"--classes names {path}, which is no text: {error}") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise ValueError(f"--classes names {path}, which cannot be read: {error}") from error
        lines = text.split(",")  # many classes are no file's name
    names = [line.strip() for line in lines if line.strip()]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"--classes has {twice[0]!r} twice; each class has a name of its own")
    return names


def _source(factory: str, kwargs: str, weights: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from littoral.bundle import TorchModel
    from littoral.models.factory import load_model
    from littoral.train.options import TorchSource

    parsed = _json(kwargs, f"the keyword arguments {kwargs!r} of {factory}")
    spec = TorchModel(factory=factory, kwargs=parsed, file=str(weights))
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{weights} should be a .safetensors file with the state dict of {factory} ({error})"
        ) from error
    return TorchSource(load_model(spec, tensors), factory, parsed)
