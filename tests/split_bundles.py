"""A bundle with two splits, made of the tiny one without training or tracing: what encodes and decodes is the identity.

Split 0 sends the normalised frames, split 1 the output of segment 0. The finest level steps so finely that the cloud
answers as the student does; level 0 steps coarsely, and at split 1 sends half of the channels only.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from littoral.bundle import Bundle, InputSpec, Segment, SplitCodec, SplitSpec, TorchModel
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable

CUT = "stem"
GAINS = (1.0, 8.0, 64.0)
LIFT = 2.0
"""Added to normalised frames, which begin at -2."""


def write_split_bundle(tiny: Path, out: Path) -> Bundle:
    """Write it to ``out``."""
    from littoral.train.cuts import choose_cut_points, find_cut_points, split
    from littoral.train.export import external_names
    from littoral.train.write import write_files

    bundle = Bundle.open(tiny, require_cloud=True)
    manifest = bundle.manifest
    files = {name: bundle.read(name) for name in manifest.files}
    whole = onnx.load_from_string(files.pop(manifest.segments[0].file))
    parts = split(whole, [choose_cut_points(find_cut_points(whole), 4)[0].tensor])  # after the stem
    segments = []
    for index, part in enumerate(parts):
        files[f"segment-{index}.onnx"] = part.SerializeToString(deterministic=True)
        ends = part.graph.input[0].name, part.graph.output[0].name
        segments.append(
            Segment(file=f"segment-{index}.onnx", input=ends[0], output=ends[1], tensors=external_names(part))
        )
    splits = []
    for index, segment in enumerate((None, 0)):
        spec, more = identity_split(index, segment, bundle)
        splits.append(spec)
        files |= more
    out.mkdir()
    write_files(out, files, dataclasses.replace(manifest, segments=tuple(segments), splits=tuple(splits)))
    return Bundle.open(out, require_cloud=True)


def identity_split(index: int, segment: int | None, bundle: Bundle) -> tuple[SplitSpec, dict[str, bytes]]:
    """A split point of a bundle that sends its frames, or what its stem gives, and the files that it adds."""
    import torch

    from littoral.models.bottleneck import make_split_tail
    from littoral.models.factory import state_arrays
    from littoral.train.write import tensors_to_bytes

    student, size = bundle.manifest.student, bundle.manifest.input
    channels = size.channels if segment is None else student.kwargs["width"]
    kept = [channels if segment is None else channels // 2, channels, channels]
    gains = np.repeat(np.float32(GAINS)[:, None], channels, axis=1)
    codec = SplitCodec(tables=_tables(kept, size.height, size.width), gains=gains)
    kwargs: dict[str, Any] = {
        "decoder": {"kind": "residual", "in_channels": channels, "out_channels": channels, "width": channels}
        | {"blocks": 0, "upsamplings": 0, "rectified": False},
        "num_channels": channels,
        "kept": kept,
        "tail": {"factory": student.factory, "kwargs": student.kwargs} | ({} if segment is None else {"cut": CUT}),
    }
    tail = make_split_tail(**kwargs)
    tail.gains.copy_(torch.from_numpy(gains))
    first, norm, _, last = tail.decoder
    torch.nn.init.dirac_(first.weight)
    torch.nn.init.dirac_(last.weight)
    norm.running_var.fill_(1 - norm.eps)
    torch.nn.init.constant_(last.bias, -LIFT if segment is None else 0.0)
    weights = bundle.load_tensors(student.file)
    tail.tail.load_state_dict({name: torch.from_numpy(weights[name]) for name in tail.tail.state_dict()})
    spec = SplitSpec(
        encoder_file=f"encoder-{index}.onnx",
        codec_file=f"codec-{index}.safetensors",
        segment=segment,
        model=TorchModel(
            factory="littoral.models.bottleneck:make_split_tail",
            kwargs=kwargs,
            file=f"cloud/split-{index}.safetensors",
        ),
    )
    shape = (channels, size.height, size.width)
    encoder = _of_frames(size) if segment is None else _of_features(shape)
    return spec, {
        spec.encoder_file: encoder.SerializeToString(deterministic=True),
        spec.codec_file: tensors_to_bytes(codec.to_tensors()),
        spec.model.file: tensors_to_bytes(state_arrays(tail)),
    }


def _tables(kept: list[int], height: int, width: int) -> CodecTables:
    levels = []
    for gain, channels in zip(GAINS, kept, strict=True):
        values = np.arange(int(6 * gain))
        prior = ChannelPrior(pmf=np.exp(-values / gain), first_value=0)
        levels.append(FrequencyTable.from_priors([prior] * channels, max_bytes=4000))
    return CodecTables(height=height, width=width, levels=tuple(levels))


def _of_frames(size: InputSpec) -> onnx.ModelProto:
    """Normalised, and lifted above 0 for the decoder's ReLU."""
    scale = 1 / (255 * np.float32(size.std)).reshape(1, -1, 1, 1)
    shift = LIFT - (np.float32(size.mean) / np.float32(size.std)).reshape(1, -1, 1, 1)
    nodes = [
        helper.make_node("Transpose", ["frames"], ["planes"], perm=(0, 3, 1, 2)),
        helper.make_node("Cast", ["planes"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["latent"]),
    ]
    frames = helper.make_tensor_value_info("frames", onnx.TensorProto.UINT8, ["batch", *size.shape])
    constants = {"scale": scale.astype(np.float32), "shift": shift.astype(np.float32)}
    return _graph(nodes, frames, (size.channels, size.height, size.width), constants)


def _of_features(shape: tuple[int, int, int]) -> onnx.ModelProto:
    nodes = [helper.make_node("Mul", ["features", "one"], ["latent"])]
    features = helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", *shape])
    return _graph(nodes, features, shape, {"one": np.float32([1])})


def _graph(
    nodes: list[onnx.NodeProto],
    start: onnx.ValueInfoProto,
    shape: tuple[int, int, int],
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    end = helper.make_tensor_value_info("latent", onnx.TensorProto.FLOAT, ["batch", *shape])
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "encoder", [start], [end], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
