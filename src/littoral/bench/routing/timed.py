"""How long each step takes, measured on this machine: the device's segments, exits and encoders on ONNX Runtime, the
cloud's networks in torch, one frame at a time, one thread, all in turns. The device's times are then scaled to the
device that is asked for; the cloud's are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL
import torch

from littoral.bench.alone import alone
from littoral.bench.document import machine, versions
from littoral.bench.exits.chain import Step, step_of
from littoral.bench.exits.latency import whole_network
from littoral.bench.fingerprint import fingerprint
from littoral.bench.routing.measured import CODE_WITHOUT, CODECS, LoopMaterial
from littoral.bench.split.codecs import decode_picture
from littoral.bench.split.material import INPUT, STUDENT, outputs_of
from littoral.bench.split.training import Trained
from littoral.core.arrays import Frame
from littoral.models.frames import normalise
from littoral.train.encoder import FEATURES, LATENT, export_encoder
from littoral.train.export import FRAMES

ROUNDS, QUICK_ROUNDS = 200, 20


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Medians in milliseconds on the machine that measured.

    Attributes:
        whole_ms: The device's network in one session, without exits.
        segment_ms: From each exit to the next, one session each; what comes after the last exit is one value.
        exit_ms: Of each early exit's stem and head, and of the decision on it.
        encode_ms: By way.
        cloud_ms: By way: what the cloud computes for a request.
        machine: Which that was.
    """

    whole_ms: float
    segment_ms: tuple[float, ...]
    exit_ms: tuple[float, ...]
    encode_ms: dict[str, float]
    cloud_ms: dict[str, float]
    machine: dict[str, Any]

    def row(self) -> dict[str, Any]:
        """For a document."""
        return asdict(self)


def timed(material: LoopMaterial, work: Path) -> Timed:
    """Measured once and kept in the work folder, for this machine, these networks and this code; remove
    ``loop/timed-*.json`` there to measure anew."""
    name = "quick" if material.config.quick else "full"
    file = work / "loop" / f"timed-{name}-{'-'.join(material.config.inputs)}-{_digest(material)}.json"
    with alone(file.parent / "timed"):
        if not file.is_file():
            file.write_text(json.dumps(_measure(material).row()))
    held = json.loads(file.read_text())
    return Timed(**{**held, **{key: tuple(held[key]) for key in ("segment_ms", "exit_ms")}})


def _digest(material: LoopMaterial) -> str:
    """Of all that the times hang on."""
    networks = [material.device_digest, *(material.split_digest(given) for given in material.config.inputs)]
    code = fingerprint([__name__], without=CODE_WITHOUT)
    told = [material.config.options(), machine(), versions(), PIL.__version__, networks, code]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]


def way_name(given: str, level: int) -> str:
    """Of a split."""
    return f"split {given} {level}"


def picture_name(codec: str, quality: int) -> str:
    """Of a picture."""
    return f"{codec} {quality}" if CODECS[codec].lossy else codec


def _measure(material: LoopMaterial) -> Timed:
    torch.set_num_threads(1)
    rounds = QUICK_ROUNDS if material.config.quick else ROUNDS
    frames = material.frames("clean")[: min(64, material.config.frames)]
    kinds: dict[str, Callable[[int], object]] = {}
    whole = whole_network(material.split.network(STUDENT), INPUT)
    kinds["whole"] = lambda i: whole(frames[i : i + 1])
    _device_kinds(material, frames, kinds)
    for given in material.config.inputs:
        _split_kinds(given, material.trained(given), frames, kinds)
    _picture_kinds(material, frames, kinds)
    spent: dict[str, list[float]] = {name: [] for name in kinds}
    for index in range(rounds + 3):
        material.say(index, rounds, "timing")
        for name, call in kinds.items():
            begun = time.perf_counter_ns()
            call(index % len(frames))
            if index >= 3:
                spent[name].append((time.perf_counter_ns() - begun) / 1e6)
    found = {name: round(median(values), 4) for name, values in spent.items()}
    exits = len(material.chain.exits) - 1
    segments = [found[f"segment {i}"] for i in range(len(material.chain.segments))]

    def of(kind: str) -> dict[str, float]:
        return {name.removeprefix(kind): took for name, took in found.items() if name.startswith(kind)}

    return Timed(
        whole_ms=found["whole"],
        segment_ms=(*segments[:exits], round(sum(segments[exits:]), 4)),
        exit_ms=tuple(found[f"exit {i}"] for i in range(exits)),
        encode_ms=of("encode "),
        cloud_ms=of("cloud "),
        machine=machine(),
    )


def _device_kinds(material: LoopMaterial, frames: Frame, kinds: dict[str, Callable[[int], object]]) -> None:
    """Segments and exits."""
    chain = material.chain
    values: list[Any] = [[frames[i : i + 1] for i in range(len(frames))]]
    for number, segment in enumerate(chain.segments):
        values.append([segment(value) for value in values[-1]])
        kinds[f"segment {number}"] = lambda i, segment=segment, given=values[number]: segment(given[i])  # type: ignore[misc]
    for number, exit in enumerate(chain.exits[:-1]):
        given = values[exit.segment + 1]
        kinds[f"exit {number}"] = lambda i, exit=exit, given=given: exit.head.logits(_stem(exit.stem, given[i]))  # type: ignore[misc]


def _stem(stem: Step | None, value: Any) -> Any:
    return value if stem is None else stem(value)


def _split_kinds(given: str, trained: Trained, frames: Frame, kinds: dict[str, Callable[[int], object]]) -> None:
    values: list[Any] = [frames[i : i + 1] for i in range(len(frames))]
    if trained.head is not None:
        values = [outputs_of(trained.head, value) for value in values]
    example = np.concatenate([values[0], values[0]])
    spec = INPUT if given == "pixels" else None
    graph = export_encoder(trained.bottleneck.device_encoder(), example, spec=spec).graph
    run = step_of(graph.SerializeToString(), (), {}, FEATURES if spec is None else FRAMES, LATENT)
    latents = [run(value)[0] for value in values]
    for level in range(trained.codec.num_levels):
        name = way_name(given, level)
        symbols = [trained.codec.padded(trained.codec.symbols(latent, level)) for latent in latents]

        def encode(i: int, level: int = level) -> object:
            return trained.codec.encode(run(values[i])[0], level)

        def answer(i: int, level: int = level, symbols: list[Any] = symbols) -> object:
            return trained.logits(symbols[i][None], level)

        kinds[f"encode {name}"], kinds[f"cloud {name}"] = encode, answer


def _picture_kinds(material: LoopMaterial, frames: Frame, kinds: dict[str, Callable[[int], object]]) -> None:
    network = material.split.network(material.teacher).cpu()
    for codec, quality in material.pictures():
        name = picture_name(codec, quality)
        files = [CODECS[codec].encode(frame, quality) for frame in frames]

        def encode(i: int, codec: str = codec, quality: int = quality) -> object:
            return CODECS[codec].encode(frames[i], quality)

        @torch.inference_mode()
        def answer(i: int, files: list[bytes] = files) -> object:
            seen = torch.from_numpy(decode_picture(files[i])[None].copy())
            return network(normalise(seen, INPUT)).argmax()

        kinds[f"encode {name}"], kinds[f"cloud {name}"] = encode, answer
