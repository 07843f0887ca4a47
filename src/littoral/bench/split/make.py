"""What a worker process does with a unit: train or load, and measure."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from littoral.bench.split.local_only import macs_of
from littoral.bench.split.material import SplitMaterial, accuracy_of, outputs_of
from littoral.bench.split.plan import CODEC_FRAMES, PRODUCT
from littoral.bench.split.unit import SplitUnit, Training

_materials: dict[tuple[Path, Path], SplitMaterial] = {}
Tell = Callable[..., None]
Result = dict[str, Any]


def make_unit(unit: SplitUnit, data: Path, work: Path, tell: Tell) -> Result:
    """A unit's result: ``points``, flat rows, and what all of them share beside them."""
    torch.set_num_threads(1)
    material = _materials.setdefault((data, work), SplitMaterial(data, work))
    return _MAKERS[unit.kind](unit, material, tell)


def _training(unit: SplitUnit) -> Training:
    if unit.training is None:
        raise ValueError(f"{unit.name} is of a training, and has none")
    return unit.training


def _split(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.points import split_points
    from littoral.bench.split.training import TO_NEAREST, codec_digest, train_or_load

    trained = train_or_load(_training(unit), material, tell)
    frames, labels = material.first("test", unit.frames)
    points = split_points(trained, frames, labels, subset=unit.options["subset"])
    if unit.method == PRODUCT:  # what is trained for one rate has no deadzones and is held against it without
        nearest = train_or_load(_training(unit), material, tell, tables=TO_NEAREST)
        for point, other in zip(points, split_points(nearest, frames, labels, subset=len(frames)), strict=True):
            point |= {"nearest_bytes": other["bytes"], "nearest_accuracy": other["accuracy"]}
    return {
        "points": points,
        "encoder_macs": trained.encoder_macs,
        "segment_macs": trained.segment_macs,
        "latent": list(trained.codec.latent_shape),
        "codec_digest": codec_digest(trained.codec),
        "trained_commit": trained.commit,
        "steps": trained.steps,
    }


def _local(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.training import train_local

    network, made_by, steps = train_local(_training(unit), material, tell)
    frames, labels = material.first("test", unit.frames)
    logits = outputs_of(network, frames)
    accuracy, few = accuracy_of(logits, labels), accuracy_of(logits[:CODEC_FRAMES], labels[:CODEC_FRAMES])
    return {
        "points": [{"accuracy": accuracy, "subset_accuracy": few, "bytes": 0.0}],
        "network_macs": macs_of(**_training(unit).options["network"]),
        "trained_commit": made_by,
        "steps": steps,
    }


def _codec(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.untrained_points import codec_points

    qualities = tuple(unit.options["qualities"])
    points = codec_points(
        material, unit.method, qualities=qualities, frames=unit.frames, teacher=unit.teacher, tell=tell
    )
    return {"points": points}


def _features(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.untrained_points import feature_points

    return {
        "points": feature_points(
            material, unit.options["packer"], cut=unit.variant, frames=unit.frames, teacher=unit.teacher
        )
    }


def _fixed(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.untrained_points import fixed_points

    return {"points": fixed_points(material, unit.variant, frames=unit.frames, subset=unit.options["subset"])}


def _leakage(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.leakage import leakage_points
    from littoral.bench.split.training import codec_digest, train_or_load

    trained = train_or_load(_training(unit), material, tell)
    options = unit.options
    points = leakage_points(
        trained,
        material,
        train_frames=options["train_frames"],
        test_frames=unit.frames,
        epochs=options["epochs"],
        tell=tell,
    )
    return {"points": points, "codec_digest": codec_digest(trained.codec), "trained_commit": trained.commit}


def _robust(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.robust import robust_points
    from littoral.bench.split.training import codec_digest, train_or_load

    trained = train_or_load(_training(unit), material, tell)
    points = robust_points(
        trained,
        material,
        corruptions=unit.options["corruptions"],
        severity=unit.options["severity"],
        frames=unit.frames,
        tell=tell,
    )
    return {"points": points, "codec_digest": codec_digest(trained.codec), "trained_commit": trained.commit}


def _timing(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.field import Fielded, timing_points
    from littoral.bench.split.training import codec_digest, train_or_load

    trained = train_or_load(_training(unit), material, tell)
    fielded = Fielded(trained, material, material.work / "bundles" / unit.key)
    begun, spent = time.perf_counter(), time.process_time()
    points = timing_points(fielded, material.test[0][: unit.frames], rounds=unit.options["rounds"])
    return {
        "points": points,
        "measured_seconds": round(time.perf_counter() - begun, 2),
        "measured_cpu_seconds": round(time.process_time() - spent, 2),
        "codec_digest": codec_digest(fielded.encoder.codec),
        "trained_commit": trained.commit,
    }


def _link(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.field import Fielded
    from littoral.bench.split.link import LinkSpec
    from littoral.bench.split.link_row import WebpBehind, link_points
    from littoral.bench.split.link_whole import whole_point
    from littoral.bench.split.points import split_points
    from littoral.bench.split.training import codec_digest, train_or_load

    trained = train_or_load(_training(unit), material, tell)
    frames, labels = material.first("test", unit.frames)
    accuracies = [point["accuracy"] for point in split_points(trained, frames, labels, subset=unit.frames)]
    fielded = Fielded(trained, material, material.work / "bundles" / unit.key)
    spec = LinkSpec(round_trip_ms=unit.options["round_trip_ms"])
    webp = WebpBehind(material.network(unit.teacher).eval(), frames, labels)
    levels, rounds = unit.options["levels"], unit.options["rounds"]

    def after(before: int, done: int) -> None:
        tell(before * rounds + done, 2 * len(levels) * rounds, "rounds over the link")

    points = []
    for index, level in enumerate(levels):
        ways, whole = partial(after, 2 * index), partial(after, 2 * index + 1)
        accuracy = accuracies[level]
        points += link_points(fielded, level=level, accuracy=accuracy, webp=webp, rounds=rounds, spec=spec, tell=ways)
        point = whole_point(fielded.bundle.path, frames, level=level, rounds=rounds, spec=spec, tell=whole)
        points.append({**point, "accuracy": accuracy})
    digest = codec_digest(fielded.encoder.codec)
    return {"points": points, "codec_digest": digest, "trained_commit": trained.commit}


def _codec_speed(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.codec_speed import measure_codec

    return {"points": [measure_codec(quick=unit.options["quick"])]}


def _codec_exact(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.codec_exact import measure_exactness

    return {"points": [measure_exactness(**unit.options, say=tell)]}


def _dense_fixed(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.dense_units import dense_fixed

    return dense_fixed(unit, material.data, tell)


def _dense_codec(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.dense_units import dense_codec

    return dense_codec(unit, material.data, tell)


def _dense_split(unit: SplitUnit, material: SplitMaterial, tell: Tell) -> Result:
    from littoral.bench.split.dense_split_unit import dense_split

    return dense_split(unit, material, tell)


_MAKERS: dict[str, Callable[[SplitUnit, SplitMaterial, Tell], Result]] = {
    "split": _split,
    "compared": _split,
    "local_only": _local,
    "codec": _codec,
    "features": _features,
    "fixed": _fixed,
    "leakage": _leakage,
    "robust": _robust,
    "timing": _timing,
    "link": _link,
    "codec_speed": _codec_speed,
    "codec_exact": _codec_exact,
    "dense_fixed": _dense_fixed,
    "dense_codec": _dense_codec,
    "dense_split": _dense_split,
}
_MODULES: dict[str, tuple[str, ...]] = {
    "split": ("points", "training"),
    "compared": ("points", "training"),
    "local_only": ("local_only", "training"),
    "codec": ("untrained_points",),
    "features": ("untrained_points",),
    "fixed": ("untrained_points",),
    "leakage": ("leakage",),
    "robust": ("robust",),
    "timing": ("field",),
    "link": ("link_row", "link_whole", "points"),
    "codec_speed": ("codec_speed",),
    "codec_exact": ("codec_exact",),
    "dense_fixed": ("dense_units",),
    "dense_codec": ("dense_units",),
    "dense_split": ("dense_split_unit",),
}


def modules_of(unit: SplitUnit) -> list[str]:
    """The modules that a unit's numbers come from."""
    return [*(f"littoral.bench.split.{name}" for name in _MODULES[unit.kind]), "littoral.models.zoo"]


def modules_without(unit: SplitUnit) -> list[str]:
    """What they reach and no number comes from: how errors are named and documents stamped."""
    return ["littoral.errors", "littoral.bench.document"]
