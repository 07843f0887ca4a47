"""Two rows of their own kind: how many bytes a pushed version has, and what coding it costs in accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_safetensors
from torch import nn

from littoral.bench.adapt.cloud_end import CloudEnd, seeded_key
from littoral.bench.adapt.material import STUDENT, Material
from littoral.bench.adapt.orders import pool_of, steps, stream_of
from littoral.bench.adapt.product import Product
from littoral.bench.adapt.row import Row
from littoral.bundle import SignedVersion
from littoral.core.affine import NormLayer, affine_names, apply_delta, decode_delta, encode_delta
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.core.recall import MOST_CHANNELS, encode_fingerprint, fingerprint_layer
from littoral.models.frames import normalise
from littoral.models.norm import learn, prepare
from littoral.models.zoo import resnet18
from littoral.wire.envelope import encode_frame
from littoral.wire.messages import Version, to_frame

_JUDGE_FRAMES = 1_000
_JUDGE_BATCH = 100


def push_size(row: Row, material: Material) -> dict[str, Any]:
    """Bytes of the wire frame of a version, manifest and signature included; every delta of a network has the same."""
    layers = {STUDENT: material.bundle(row.teacher).manifest.norm_layers, "resnet18": layers_of(resnet18())}
    return {f"push_bytes_{name}": _version_bytes(found, row.seed) for name, found in layers.items()}


def layers_of(model: nn.Module) -> tuple[NormLayer, ...]:
    """A network's BatchNorm layers in order."""
    return tuple(
        NormLayer(name=name, kind="batch", num_channels=module.num_features, eps=module.eps)
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    )


def _seen_channels(layers: tuple[NormLayer, ...]) -> int:
    layer = fingerprint_layer(layers)
    assert layer is not None
    return min(layer.num_channels, MOST_CHANNELS)


def _version_bytes(layers: tuple[NormLayer, ...], seed: int) -> int:
    rng = np.random.default_rng(seed)
    sizes = {name: layer.num_channels for layer in layers for name in (layer.gamma, layer.beta)}
    delta = {name: rng.normal(0, 0.1, count).astype(np.float32) for name, count in sizes.items()}
    signed = SignedVersion.make(
        key=seeded_key(seed, "cohort"),
        cohort="default",
        bundle_digest=bytes(32),
        version=1_000,
        payload=encode_delta(delta, layers),
        domain=10,
        fingerprint=encode_fingerprint(np.zeros(2 * _seen_channels(layers), np.float32)),
    )
    version = Version(manifest=signed.manifest, signature=signed.signature, payload=signed.payload)
    return len(encode_frame(to_frame(version)))


def push_loss(row: Row, material: Material, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Points of accuracy that the coding of a push costs, mean over the shifts.

    The product plays the stream. After each shift its newest version is judged on fresh frames of that shift twice, by
    batch statistics: with the affine values as they were decoded from the payload, and as the cloud holds them in fp32.
    """
    setup, pool = material.setup(row), pool_of(row, material)
    layers, at_source = setup.bundle.manifest.norm_layers, setup.bundle.source_affine
    student = prepare(setup.student(), "batch")
    product, shift, losses, done = Product(setup), "", [], 0
    by_shift: dict[str, list[float]] = {}

    def judge(name: str) -> None:
        newest = newest_values(product.clouds[0], affine_names(layers))
        if newest is None:
            return
        payload, exact = newest
        coded = apply_delta(at_source, decode_delta(payload, layers), layers)
        places = np.random.default_rng([row.seed, 99]).permutation(len(pool.labels))[:_JUDGE_FRAMES]
        frames, labels = pool.frames_of(places, name, row.severity), pool.labels[places]
        right = [_right(student, values, frames, labels, setup.bundle.manifest.input) for values in (exact, coded)]
        losses.append(100 * (right[0] - right[1]) / len(labels))
        by_shift[name] = [100 * count / len(labels) for count in right]

    try:
        for step in steps(row, stream_of(row, pool)):
            if shift and step.shift != shift:
                judge(shift)
            shift = step.shift
            product.answer(step.frames)
            done += len(step.labels)
            progress(done, row.num_frames)
        judge(shift)
    finally:
        product.close()
    return {
        "frames": done,
        "push_loss_points": round(float(np.mean(losses)), 4) if losses else None,
        "judged_versions": len(losses),
        "by_shift": {},
        "trace": {},
        "exact_and_coded_accuracy": by_shift,
    }


def newest_values(cloud: CloudEnd, names: list[str]) -> tuple[bytes, dict[str, FloatArray]] | None:
    """The newest shipped version's payload, and the same affine values as the cloud's state has them."""
    newest = cloud.newest()
    if newest is None:
        return None
    payload, state = newest
    tensors = load_safetensors(state)
    return payload, {name: tensors[f"student/{name}"] for name in names}


def _right(student: nn.Module, values: Tensors, frames: Frame, labels: np.ndarray, spec: Any) -> int:
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name in values:
                parameter.copy_(torch.from_numpy(np.array(values[name])))
        learn(student, True)
        right = 0
        for start in range(0, len(frames), _JUDGE_BATCH):
            part = slice(start, start + _JUDGE_BATCH)
            answers = student(normalise(torch.from_numpy(np.ascontiguousarray(frames[part])), spec)).argmax(1).numpy()
            right += int((answers == labels[part]).sum())
        learn(student, False)
    return right
