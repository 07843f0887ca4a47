"""``littoral build``: a model and data become a bundle."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

Subparsers = argparse._SubParsersAction


def add(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("build", help="a model + data -> a bundle")
    parser.add_argument("out", type=Path, help="the bundle's directory; a .tar for devices is made beside it")
    parser.add_argument("--name", help="the bundle's name (default: that of the directory)")
    for role in ("student", "teacher"):
        parser.add_argument(f"--{role}", required=True, metavar="MODULE:FACTORY", help=f"what makes the {role}")
        parser.add_argument(f"--{role}-kwargs", default="{}", metavar="JSON", help="the factory's keyword arguments")
        parser.add_argument(f"--{role}-weights", type=Path, required=True, help="its state dict, a .safetensors file")
    parser.add_argument(
        "--frames",
        type=Path,
        required=True,
        help="source frames: .npz with 'frames' uint8 (N, H, W, C), 'labels' if known",
    )
    parser.add_argument("--classes", required=True, help="class names, by commas, or a file with one to a line")
    parser.add_argument("--mean", default="0", help="per channel on the scale 0..1, by commas")
    parser.add_argument("--std", default="1", help="per channel on the scale 0..1, by commas")
    parser.add_argument("--segments", type=int, default=1, help="how many segments of equal work")
    parser.add_argument(
        "--cut", action="append", default=[], metavar="TENSOR", help="cut here instead; may be repeated"
    )
    parser.add_argument(
        "--rehearse",
        type=int,
        default=150,
        metavar="STEPS",
        help="distil the teacher on altered source frames; 0: do not",
    )
    parser.add_argument("--key", type=Path, help="sign with this release key")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of probe and replay frames")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, and sign if a key is given."""
    from littoral.bundle import InputSpec, SigningKey
    from littoral.train.build import build_bundle
    from littoral.train.options import BuildOptions

    frames, labels = _frames(args.frames)
    _, height, width, channels = frames.shape
    spec = InputSpec(
        height=height,
        width=width,
        channels=channels,
        mean=_floats(args.mean, channels),
        std=_floats(args.std, channels),
    )
    bundle = build_bundle(
        student=_source(args.student, args.student_kwargs, args.student_weights),
        teacher=_source(args.teacher, args.teacher_kwargs, args.teacher_weights),
        out=args.out,
        name=args.name or args.out.name,
        class_names=_classes(args.classes),
        input=spec,
        source_frames=frames,
        source_labels=labels,
        options=BuildOptions(
            num_segments=args.segments, cut_points=tuple(args.cut), rehearsal_steps=args.rehearse, seed=args.seed
        ),
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if args.key:
        bundle.sign(SigningKey.load_or_make(args.key))
    told = {"bundle": str(bundle.path), "digest": bundle.digest.hex(), "source_metrics": bundle.manifest.source_metrics}
    print(json.dumps(told) if args.json else f"{bundle.path}: {bundle.digest.hex()}")
    return 0


def _frames(path: Path) -> tuple[Any, Any]:
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            frames, labels = data["frames"], data.get("labels")
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise ValueError(f"{path} should be an .npz with an array 'frames' ({error})") from error
    if frames.dtype != np.uint8 or frames.ndim != 4:
        raise ValueError(f"'frames' in {path} is {frames.dtype} {frames.shape}, expected uint8 (N, H, W, C)")
    return frames, labels


def _floats(text: str, channels: int) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if len(values) not in (1, channels):
        raise ValueError(f"{text!r} has {len(values)} values, expected 1 or {channels}, by commas")
    return values * channels if len(values) == 1 else values


def _classes(text: str) -> list[str]:
    path = Path(text)
    return path.read_text().splitlines() if path.is_file() else text.split(",")


def _source(factory: str, kwargs: str, weights: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from littoral.bundle import TorchModel
    from littoral.models.factory import load_model
    from littoral.train.options import TorchSource

    try:
        parsed = json.loads(kwargs)
    except ValueError as error:
        raise ValueError(f"the keyword arguments {kwargs!r} of {factory} are not JSON ({error})") from error
    spec = TorchModel(factory=factory, kwargs=parsed, file=str(weights))
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{weights} should be a .safetensors file with the state dict of {factory} ({error})"
        ) from error
    return TorchSource(load_model(spec, tensors), factory, parsed)
