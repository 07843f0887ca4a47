"""A trained split as it is shipped: a bundle with it, the device's half on ONNX Runtime, the cloud's half in torch.

Its codec is the one that the split's own row is of: a build would fit tables to other frames.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from littoral.bench.alone import alone
from littoral.bench.split.material import FACTORY, INPUT, KWARGS, STUDENT, SplitMaterial
from littoral.bench.split.training import Trained
from littoral.bench.streams.cifar import CLASS_NAMES
from littoral.bundle import Bundle, SplitCodec
from littoral.bundle.bundle import MANIFEST_FILE
from littoral.cloud.tail import Tail
from littoral.core.arrays import FloatArray, Frame
from littoral.edge.encoder import SplitEncoder
from littoral.edge.session import SessionConfig, open_session
from littoral.train.build import build_bundle
from littoral.train.options import BuildOptions, SplitSource, TorchSource
from littoral.train.tables import TableOptions
from littoral.train.write import tensors_to_bytes

SOURCE_FRAMES = 600
MAKE_SPLIT_TAIL = "littoral.models.bottleneck:make_split_tail"


class Fielded:
    """Both halves of a trained split, from a bundle.

    Args:
        folder: Where the bundle is written; what was there is removed.
    """

    def __init__(self, trained: Trained, material: SplitMaterial, folder: Path) -> None:
        segment = trained.training.options.get("segment")
        with alone(folder.parent):
            shutil.rmtree(folder, ignore_errors=True)
            student, teacher = trained.training.options.get("student", STUDENT), trained.training.teacher
            build_bundle(
                student=TorchSource(material.network(student), FACTORY[student], KWARGS),
                teacher=TorchSource(material.network(teacher), FACTORY[teacher], KWARGS),
                out=folder,
                name="bench-split",
                class_names=list(CLASS_NAMES),
                input=INPUT,
                source_frames=material.train[0][:SOURCE_FRAMES],
                splits=[
                    SplitSource(
                        trained.bottleneck.cpu(),
                        TorchSource(trained.tail.cpu(), MAKE_SPLIT_TAIL, trained.tail_kwargs),
                        None if segment is None else 0,
                        TableOptions(deadzones=trained.codec.deadzones, contexts=None),  # to be replaced
                    )
                ],
                options=BuildOptions(
                    num_segments=1 if segment is None else 2,
                    cut_points=() if segment is None else (segment,),
                    metric_frames=SOURCE_FRAMES,
                ),
            )
            _ship(folder, trained.codec)
        self.bundle = Bundle.open(folder, require_cloud=True)
        config = SessionConfig()
        self.encoder = SplitEncoder(self.bundle, 0, config)
        self.tail = Tail(self.bundle, 0, device="cpu")
        self._segments = [
            (open_session(self.bundle.read(s.file), s.tensors, self.bundle.weights, config), s.input, s.output)
            for s in self.bundle.manifest.segments
        ]

    def segment(self, frame_HWC: Frame) -> FloatArray | Frame:
        """What the encoder takes of a frame: the segment's output, or the frame."""
        if self.encoder.segment is None:
            return frame_HWC[None]
        session, given, wanted = self._segments[0]
        value: FloatArray = session.run([wanted], {given: frame_HWC[None]})[0]
        return value

    def whole(self, frame_HWC: Frame) -> FloatArray:
        """The student's scores ``(K,)``: what the device does alone."""
        value: FloatArray | Frame = frame_HWC[None]
        for session, given, wanted in self._segments:
            value = session.run([wanted], {given: value})[0]
        scores: FloatArray = np.asarray(value)[0]
        return scores


def _ship(folder: Path, codec: SplitCodec) -> None:
    """Put a codec in the place of that of a bundle's first split; the bundle is another one then."""
    manifest = Bundle.open(folder, require_cloud=True).manifest
    name, data = manifest.splits[0].codec_file, tensors_to_bytes(codec.to_tensors())
    (folder / name).write_bytes(data)
    files = manifest.files | {name: hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST_FILE).write_bytes(replace(manifest, files=files).to_json())


def timing_points(fielded: Fielded, frames: Frame, *, rounds: int) -> list[dict[str, float | int | None]]:
    """Milliseconds on the device, batch 1, one thread: the segment that runs anyway, the encoder, the coder by level.

    In the same process and turn by turn with the whole student, so that a machine that slows down slows both.
    """
    inputs = [fielded.segment(frame) for frame in frames]
    latents = [fielded.encoder.latent(value) for value in inputs]
    kinds: dict[str, Callable[[int], object]] = {
        "student_ms": lambda i: fielded.whole(frames[i]),
        "segment_ms": lambda i: fielded.segment(frames[i]),
        "encoder_ms": lambda i: fielded.encoder.latent(inputs[i]),
    }
    for level in range(fielded.encoder.num_levels):
        kinds[f"coder_ms_{level}"] = lambda i, level=level: fielded.encoder.encode_latent(latents[i], level)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for index in range(rounds + 3):
        for name, call in kinds.items():
            started = time.perf_counter_ns()
            call(index % len(frames))
            if index >= 3:
                times[name].append((time.perf_counter_ns() - started) / 1e6)
    found = {name: round(float(np.median(values)), 4) for name, values in times.items()}
    shared: dict[str, float | int | None] = {
        "student_ms": found["student_ms"],
        "segment_ms": found["segment_ms"] if fielded.encoder.segment is not None else 0.0,
        "encoder_ms": found["encoder_ms"],
    }
    return [
        {
            "level": level,
            **shared,
            "coder_ms": found[f"coder_ms_{level}"],
            "encode_ms": round(found["encoder_ms"] + found[f"coder_ms_{level}"], 4),
        }
        for level in range(fielded.encoder.num_levels)
    ]
