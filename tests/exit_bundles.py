"""A bundle with three exits, made of the tiny one without training or tracing: stems only average.

Exit 0 stands on segment 0 (64 features), exit 1 on segment 1 (32), and the deep exit on the pooled features (8). Heads
are discriminants of the source's frames, fitted here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from littoral.bundle import Bundle, ExitPromise, ExitSpec, Segment
from littoral.bundle.exits import heads_to_tensors
from littoral.core.arrays import FloatArray, Frame
from littoral.core.heads import LinearHead, SourceMoments, lda_matrix, with_one
from littoral.edge.session import Model

CUTS = ("relu", "relu_1", "mean")
POOLED = (4, 4)
"""How many places are averaged along each side at exits 0 and 1."""


def source_like(num_frames: int, *, seed: int, noise: float = 0.3, dim: float = 1.0) -> tuple[Frame, np.ndarray]:
    """Frames of the tiny bundle's classes and their labels: its source's patterns under other noise."""
    patterns = np.random.default_rng(0).integers(0, 256, size=(10, 16, 16, 1))
    rng = np.random.default_rng(1000 + seed)
    labels = rng.integers(0, 10, num_frames)
    mixed = (1 - noise) * patterns[labels] + noise * rng.integers(0, 256, size=(num_frames, 16, 16, 1))
    return (dim * mixed).astype(np.uint8), labels


PROMISE = ExitPromise(level=0.05, delta=0.1, procedure="by hand", num_frames=100, empirical_risk=0.01)


def write_exit_bundle(
    tiny: Path, out: Path, *, thresholds: tuple[float | None, ...] = (None, None, None), promised: bool = False
) -> Bundle:
    """Write it to ``out``."""
    from littoral.train.cuts import split, total_macs
    from littoral.train.export import external_names
    from littoral.train.write import tensors_to_bytes, write_files

    bundle = Bundle.open(tiny, require_cloud=True)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    parts = split(onnx.load_from_string(files.pop(bundle.manifest.segments[0].file)), CUTS)
    segments = []
    for index, part in enumerate(parts):
        files[f"segment-{index}.onnx"] = part.SerializeToString(deterministic=True)
        ends = part.graph.input[0].name, part.graph.output[0].name
        segments.append(
            Segment(file=f"segment-{index}.onnx", input=ends[0], output=ends[1], tensors=external_names(part))
        )
    plain = dataclasses.replace(bundle.manifest, segments=tuple(segments))
    draft = out.with_suffix(".draft")
    draft.mkdir()
    write_files(draft, files, plain)
    model = Model(Bundle.open(draft))
    frames, labels = source_like(400, seed=0)
    stems = [_stem(channels, side) for channels, side in zip((4, 8), POOLED, strict=True)]
    files |= {f"exit-{i}.onnx": stem.SerializeToString(deterministic=True) for i, stem in enumerate(stems)}
    heads, moments = [], []
    for i in range(3):
        outputs = np.concatenate([model.run_until(i, frame[None]) for frame in frames]).astype(np.float32)
        if i < 2:
            (outputs,) = ort.InferenceSession(stems[i].SerializeToString()).run(["pooled"], {"features": outputs})
        fitted = _discriminant(outputs, labels)
        heads.append(fitted[0] if i < 2 else _last_layer(bundle))
        moments.append(fitted[1])
    specs = tuple(
        ExitSpec(
            segment=i,
            stem_file=None if i == 2 else f"exit-{i}.onnx",
            temperature=1.0 if i == 2 else 20.0,
            threshold=thresholds[i],
            macs=10 * head.num_features,
            num_features=head.num_features,
            is_deep=i == 2,
        )
        for i, head in enumerate(heads)
    )
    files["heads.safetensors"] = tensors_to_bytes(heads_to_tensors(heads, moments, np.full(10, 0.1)))
    manifest = dataclasses.replace(
        plain,
        exits=specs,
        heads_file="heads.safetensors",
        exit_promise=PROMISE if promised else None,
        segment_macs=tuple(total_macs(part) for part in parts),
    )
    out.mkdir()
    write_files(out, files, manifest)
    return Bundle.open(out, require_cloud=True)


def _stem(channels: int, side: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("AveragePool", ["features"], ["small"], kernel_shape=[side, side], strides=[side, side]),
        helper.make_node("Flatten", ["small"], ["pooled"], axis=1),
    ]
    kind, opset = onnx.TensorProto.FLOAT, helper.make_opsetid("", 18)
    start = helper.make_tensor_value_info("features", kind, ["batch", channels, None, None])
    end = helper.make_tensor_value_info("pooled", kind, ["batch", None])
    return helper.make_model(helper.make_graph(nodes, "stem", [start], [end]), opset_imports=[opset], ir_version=10)


def _discriminant(features_ND: FloatArray, labels_N: np.ndarray) -> tuple[LinearHead, SourceMoments]:
    answers_NK = np.eye(10)[labels_N]
    means = ((answers_NK.T @ features_ND) / answers_NK.sum(axis=0)[:, None]).astype(np.float32)
    spread = features_ND - means[labels_N]
    moments = SourceMoments(means_KD=means, covariance_DD=(spread.T @ spread / len(spread)).astype(np.float32))
    x = with_one(features_ND)
    matrix = lda_matrix(
        x.T @ x, x.T @ answers_NK, moments,
        mean_frames=1, covariance_frames=1, shrinkage=0.02, log_prior_K=np.log(np.full(10, 0.1)),
    )  # fmt: skip
    return LinearHead.of_matrix(matrix), moments


def _last_layer(bundle: Bundle) -> LinearHead:
    weights = bundle.load_tensors(bundle.manifest.student.file)
    return LinearHead(weights_KD=weights["head.weight"], bias_K=weights["head.bias"])
