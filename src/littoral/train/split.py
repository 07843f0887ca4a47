"""A trained split becomes part of a bundle: encoder, tables, tail, and what they measure on the source's frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from torch import nn

from littoral.bundle import InputSpec, SplitCodec, SplitSpec, TorchModel
from littoral.bundle.manifest import CLOUD_FOLDER
from littoral.core.arrays import FloatArray, Frame
from littoral.core.codec import decode
from littoral.core.tasks import Task
from littoral.core.truths import Truths
from littoral.errors import BundleError, PayloadError
from littoral.models.factory import load_model, state_arrays
from littoral.train.cuts import total_macs
from littoral.train.deadzones import fit_codec
from littoral.train.distortions import distortion_of
from littoral.train.encoder import check_latents, export_encoder, run_encoder
from littoral.train.options import SplitSource
from littoral.train.run import MAX_RELATIVE_ERROR, frames_at_a_time, open_session, relative_error, rounded, run_chain
from littoral.train.sample import check_frames, metric_values
from littoral.train.split_answers import tail_outputs
from littoral.train.watched import watched
from littoral.train.write import tensors_to_bytes

CHECKED_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class BuiltSplit:
    """What a split adds to a bundle."""

    spec: SplitSpec
    files: dict[str, bytes]
    metrics: dict[str, float]
    """``split<s>.encoder_macs``, and for each level ``split<s>.level<l>.payload_bytes`` (the mean of the lengths) and,
    where there are labels, the task's metric (``.accuracy``, ``.miou``, ``.ap``; 0..1), both through the very bytes."""


def build_split(
    index: int,
    source: SplitSource,
    *,
    segments: Sequence[ort.InferenceSession],
    input: InputSpec,
    task: Task[Any, Any],
    frames: Frame,
    truths: Truths | np.ndarray | None,
    progress: Callable[[str], None],
) -> BuiltSplit:
    """Export, check, tabulate and measure one split.

    Args:
        index: The split's number in the bundle.
        segments: The bundle's segments as a device runs them.
        frames: Source frames, uint8 ``(N, H, W, C)``; tables and metrics are made of all of them, and deadzones chosen
            by them where the source has no others.
        truths: What the task's metric takes, one for each frame, or None.
    Raises:
        ValueError: the segment, the encoder or the tail do not fit the bundle.
        BundleError: ONNX Runtime gives other symbols than torch, or the tail made by its factory other outputs.
    """
    if source.segment is not None and not 0 <= source.segment < len(segments) - 1:
        raise ValueError(
            f"the split's segment is {source.segment}, expected None or one of 0 to {len(segments) - 2}: the last of "
            f"the {len(segments)} segments gives the answer"
        )
    progress(f"split {index}: exporting the encoder")
    start = [] if source.segment is None else segments[: source.segment + 1]
    values = _Values(start, frames)
    at_a_time = frames_at_a_time(frames.shape)
    some = values.first(min(CHECKED_FRAMES, at_a_time))
    encoder = export_encoder(
        source.bottleneck.device_encoder(),
        some,
        spec=input if source.segment is None else None,
    )
    gains = np.asarray(source.bottleneck.gains.detach().cpu().float().numpy())
    session = open_session(encoder.graph, {})
    for batch in (some[:1], some):
        check_latents(run_encoder(session, batch), encoder.torch_latent(batch), gains, source.bottleneck.kept)
    latents = np.concatenate([run_encoder(session, value) for value in values])
    model = TorchModel(
        factory=source.tail.factory, kwargs=source.tail.kwargs, file=f"{CLOUD_FOLDER}split-{index}.safetensors"
    )
    state = state_arrays(source.tail.module)
    tail = _rebuilt(model, state, source, latents[: len(some)], gains, task)
    progress(f"split {index}: tables of {len(gains)} levels from {len(frames)} frames")
    held = None
    if source.held is not None:
        check_frames(input, source.held)
        held = np.concatenate([run_encoder(session, value) for value in _Values(start, source.held)])
    codec = fit_codec(
        source.bottleneck,
        tail,
        latents,
        distortion_of(task),
        source.tables,
        held_NCHW=held,
        progress=lambda line: progress(f"split {index}: {line}"),
    )
    metrics = {f"split{index}.encoder_macs": float(total_macs(encoder.graph))}
    for level in range(codec.num_levels):
        what = f"split {index}: level {level}"
        far = f"{what} ({level + 1} of {codec.num_levels})"
        starts = watched(range(0, len(latents), at_a_time), far, progress)
        size, value = _measure(codec, level, latents, tail, task, truths, starts, at_a_time)
        metrics[f"split{index}.level{level}.payload_bytes"] = size
        told = ""
        if value is not None:
            metrics[f"split{index}.level{level}.{task.metric_name}"] = value
            told = f", {task.metric_name} {value:.4g}"
        progress(f"{what}: {size:.5g} bytes{told}")
    spec = SplitSpec(
        encoder_file=f"encoder-{index}.onnx",
        codec_file=f"codec-{index}.safetensors",
        segment=source.segment,
        model=model,
    )
    files = {
        spec.encoder_file: encoder.graph.SerializeToString(deterministic=True),
        spec.codec_file: tensors_to_bytes(codec.to_tensors()),
        model.file: tensors_to_bytes(state),
    }
    return BuiltSplit(spec=spec, files=files, metrics=metrics)


class _Values:
    """What the encoder takes of each frame, in batches, made anew each time: a segment's outputs may be many."""

    def __init__(self, segments: Sequence[ort.InferenceSession], frames: Frame) -> None:
        self._segments, self._frames = segments, frames

    def __iter__(self) -> Iterator[np.ndarray]:
        count = frames_at_a_time(self._frames.shape)
        for start in range(0, len(self._frames), count):
            yield run_chain(self._segments, self._frames[start : start + count])

    def first(self, count: int) -> np.ndarray:
        return run_chain(self._segments, self._frames[:count])


def _rebuilt(
    model: TorchModel,
    state: Mapping[str, np.ndarray],
    source: SplitSource,
    latents_NCHW: FloatArray,
    gains_LC: FloatArray,
    task: Task[Any, Any],
) -> nn.Module:
    """The tail as the cloud will make it, after it gave what the given one gives."""
    if not np.array_equal(state.get("gains", gains_LC), gains_LC):
        raise ValueError("the split's tail has other gains than its bottleneck; make it with to_split_tail anew")
    made = load_model(model, state)
    finest = len(gains_LC) - 1
    symbols = np.rint(latents_NCHW * gains_LC[finest, :, None, None])
    symbols[:, source.bottleneck.kept[finest] :] = 0
    given = tail_outputs(source.tail.module, symbols, finest)
    if given.shape[1:] != task.output_shape:
        raise ValueError(
            f"the split's tail gives {given.shape[1:]} for a frame, {task.name} with {task.num_classes} classes takes "
            f"{task.output_shape}; give the tail of a network for the same task"
        )
    if (error := relative_error(tail_outputs(made, symbols, finest), given)) > MAX_RELATIVE_ERROR:
        raise BundleError(
            f"the split's tail made by {model.factory!r} with {model.kwargs} and loaded with the module's state gives "
            f"outputs that differ by {error:.1e} of their scale from the module's own; the two are not the same network"
        )
    return made


def _measure(
    codec: SplitCodec,
    level: int,
    latents_NCHW: FloatArray,
    tail: nn.Module,
    task: Task[Any, Any],
    truths: Truths | np.ndarray | None,
    starts: Iterable[int],
    at_a_time: int,
) -> tuple[float, float | None]:
    """The mean payload in bytes and the task's metric of what the payloads decode to; None without truths.

    ``starts`` are the batches' first frames. As on a device, a payload over its level's ceiling is one of a coarser
    level; a frame over all ceilings is left out.
    """
    sizes, metric = [], task.metric()
    for start in starts:
        by_level: dict[int, list[tuple[int, FloatArray]]] = {}
        for position, latent in enumerate(latents_NCHW[start : start + at_a_time], start):
            try:
                payload = codec.encode(latent, level)
            except PayloadError:
                continue
            sizes.append(len(payload))
            came = decode(payload, codec.tables)
            by_level.setdefault(came.level, []).append((position, codec.padded(came.symbols)))
        if truths is None:
            continue
        for came_level, items in by_level.items():
            outputs = tail_outputs(tail, np.stack([symbols for _, symbols in items]), came_level)
            metric.update(task.answers(outputs), [truths[position] for position, _ in items])
    if not sizes:
        raise BundleError(f"no source frame's payload of level {level} is within its ceiling; raise ceiling_factor")
    value = None if truths is None else metric_values(task, metric).get(task.metric_name)
    return rounded(float(np.mean(sizes))), value
