"""What the device adds to a bare ONNX Runtime session, what a swap costs, and whether memory stays flat.

Bare and device run in turns within one process, so a machine that slows down slows both. Weights are random: they
change neither the time nor the memory.
"""

from __future__ import annotations

import gc
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from littoral.bench.document import make_document, write_document
from littoral.bundle import Bundle, InputSpec
from littoral.core.arrays import Frame
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.session import open_session
from littoral.models.zoo import resnet18, resnet20
from littoral.train.build import build_bundle
from littoral.train.options import BuildOptions, TorchSource

MAX_ADDED_US = 60.0
MAX_ADDED_SHARE = 0.05
_TURNS = 12


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network at a frame size."""

    name: str
    side: int
    classes: int
    make: Callable[..., nn.Module]
    rounds: int
    """Pairs of timed calls."""


CASES = (
    Case(name="resnet20", side=32, classes=10, make=resnet20, rounds=3000),
    Case(name="resnet18", side=224, classes=1000, make=resnet18, rounds=150),
)


def bench_runtime(*, quick: bool, out: Path | None, quiet: bool) -> dict[str, Any]:
    """Measure every case, print the table and the document."""
    torch.set_num_threads(1)
    say = (lambda line: None) if quiet else (lambda line: print(line, flush=True))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            rows += _case(case, Path(folder) / case.name, quick, say)
    document = make_document(
        table="runtime", config={"quick": quick, "threads": 1, "batch": 1}, seeds=[0], rows=rows, summary=_summary(rows)
    )
    if out is not None:
        write_document(document, out)
    print(json.dumps(document))
    return document


def _case(case: Case, folder: Path, quick: bool, say: Callable[[str], None]) -> list[dict[str, Any]]:
    rounds = max(case.rounds // (5 if quick else 1), 30)
    swaps = 100 if quick else 1000
    frames = np.random.default_rng(0).integers(0, 256, (32, case.side, case.side, 3), dtype=np.uint8)
    say(f"{case.name} at {case.side} x {case.side}: building")
    bundle = _bundle(case, folder, frames)
    bare = _bare(bundle)
    # Like is held against like: without measuring, as the bare session measures nothing; then as shipped.
    with Device(bundle, config=DeviceConfig(adapt_statistics=False)) as device:
        say(f"{case.name}: {rounds} rounds, bare session and device in turns")
        row = {"case": case.name, "side": case.side, "what": "infer", **_pairs(bare, device, frames, rounds)}
        say(_said(row))
    rows = [row]
    with Device(bundle) as device:
        stretch_s = 0.2 if quick else 1.0
        say(f"{case.name}: no swaps, one a second, one after another: {_TURNS} times {stretch_s:.1f} s of each")
        rows.append(
            {"case": case.name, "side": case.side, "what": "swap", **_while_swapping(device, frames, stretch_s)}
        )
        said = rows[-1]
        say(f"  medians {said['quiet_us']:.0f}, {said['swapping_us']:.0f} and {said['always_us']:.0f} us")
        say(f"{case.name}: memory over {swaps} swaps")
        rows.append({"case": case.name, "side": case.side, "what": "memory", **_memory(device, frames, swaps, say)})
        say(f"  {rows[-1]['first_mib']:.1f} MiB after the first tenth, {rows[-1]['last_mib']:.1f} MiB at the end")
    return rows


def _bundle(case: Case, folder: Path, frames: Frame) -> Bundle:
    torch.manual_seed(0)
    model = case.make(num_classes=case.classes)
    model.eval()
    factory = f"littoral.models.zoo:{case.name}"
    source = TorchSource(model, factory, {"num_classes": case.classes})
    return build_bundle(
        student=source,
        teacher=source,
        out=folder,
        name=case.name,
        class_names=[str(index) for index in range(case.classes)],
        input=InputSpec(height=case.side, width=case.side, channels=3, mean=(0.45,) * 3, std=(0.25,) * 3),
        source_frames=frames,
        options=BuildOptions(probe_frames=8, replay_frames=8, drift_batch=8, drift_batches=2, metric_frames=16),
    )


def _bare(bundle: Bundle) -> Callable[[Frame], object]:
    """What anyone would write: one session on the fused model, one call."""
    (segment,) = bundle.manifest.segments
    session = open_session(bundle.read(segment.file), segment.tensors, bundle.weights)
    outputs, name = [segment.output], segment.input

    def run(frame: Frame) -> object:
        return session.run(outputs, {name: frame[None]})

    return run


def _timed(call: Callable[[Frame], object], frame: Frame) -> float:
    started = time.perf_counter_ns()
    call(frame)
    return (time.perf_counter_ns() - started) / 1e3


def _pairs(bare: Callable[[Frame], object], device: Device, frames: Frame, rounds: int) -> dict[str, float]:
    """Medians in microseconds of calls made in turns, each first as often as second."""
    for frame in frames[:10]:
        bare(frame)
        device.infer(frame)
    gc.collect()
    bare_us, device_us = [], []
    for index in range(rounds):
        frame = frames[index % len(frames)]
        if index % 2:
            bare_us.append(_timed(bare, frame))
            device_us.append(_timed(device.infer, frame))
        else:
            device_us.append(_timed(device.infer, frame))
            bare_us.append(_timed(bare, frame))
    added = np.array(device_us) - np.array(bare_us)
    middle, other = float(np.median(bare_us)), float(np.median(device_us))
    return {
        "rounds": rounds,
        "bare_us": round(middle, 2),
        "device_us": round(other, 2),
        "added_us": round(float(np.median(added)), 2),
        "added_share": round(float(np.median(added)) / middle, 5),
        "bare_p95_us": round(float(np.percentile(bare_us, 95)), 2),
        "device_p95_us": round(float(np.percentile(device_us, 95)), 2),
    }


def _while_swapping(device: Device, frames: Frame, stretch_s: float) -> dict[str, float]:
    """Medians of answers in stretches without swaps, with one a second, and with one after another, in turns."""
    times: dict[str, list[float]] = {"quiet": [], "swapping": [], "always": []}
    pause_s = {"quiet": math.inf, "swapping": 1.0, "always": 0.0}
    swaps = device.status().swaps
    for name in ("quiet", "swapping", "always") * _TURNS:
        end, due = time.monotonic() + stretch_s, time.monotonic() if name != "quiet" else math.inf
        pending = device.status().swaps
        while (now := time.monotonic()) < end:
            if now >= due and device.status().swaps >= pending:
                pending, due = device.status().swaps + 1, now + pause_s[name]
                device.rebuild()
            times[name].append(_timed(device.infer, frames[len(times[name]) % len(frames)]))
        device.settle()
    medians = {name: float(np.median(values)) for name, values in times.items()}
    return {
        **{f"{name}_us": round(value, 2) for name, value in medians.items()},
        "raised_share": round(medians["swapping"] / medians["quiet"] - 1, 5),
        "raised_share_always": round(medians["always"] / medians["quiet"] - 1, 5),
        **{f"{name}_p95_us": round(float(np.percentile(values, 95)), 2) for name, values in times.items()},
        "swaps": device.status().swaps - swaps,
    }


def _memory(device: Device, frames: Frame, swaps: int, say: Callable[[str], None]) -> dict[str, float]:
    """Resident memory of this process after a tenth of the swaps, and after all of them."""
    process = psutil.Process()
    first = 0.0
    descriptors = process.num_fds()
    for index in range(swaps):
        device.rebuild()
        device.settle(60)
        device.infer(frames[index % len(frames)])
        if index + 1 == swaps // 10:
            gc.collect()
            first = process.memory_info().rss / 2**20
        if (index + 1) % max(swaps // 5, 1) == 0:
            say(f"  {index + 1} swaps")
    gc.collect()
    last = process.memory_info().rss / 2**20
    return {
        "swaps": swaps,
        "first_mib": round(first, 1),
        "last_mib": round(last, 1),
        "grown_mib": round(last - first, 1),
        "descriptors_grown": process.num_fds() - descriptors,
    }


def _said(row: dict[str, Any]) -> str:
    return (
        f"  bare {row['bare_us']:.0f} us, device {row['device_us']:.0f} us: {row['added_us']:.1f} us or "
        f"{row['added_share']:.1%} more"
    )


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    of = {(row["case"], row["what"]): row for row in rows}
    return {
        "added_us_resnet20": of["resnet20", "infer"]["added_us"],
        "added_share_resnet18": of["resnet18", "infer"]["added_share"],
        "swap_raised_share_resnet20": of["resnet20", "swap"]["raised_share"],
        "swap_raised_share_resnet18": of["resnet18", "swap"]["raised_share"],
        "swap_raised_share_always_resnet20": of["resnet20", "swap"]["raised_share_always"],
        "swap_raised_share_always_resnet18": of["resnet18", "swap"]["raised_share_always"],
        "memory_grown_mib_resnet20": of["resnet20", "memory"]["grown_mib"],
        "memory_grown_mib_resnet18": of["resnet18", "memory"]["grown_mib"],
        "descriptors_grown": max(row["descriptors_grown"] for row in rows if row["what"] == "memory"),
        "within_bounds": of["resnet20", "infer"]["added_us"] <= MAX_ADDED_US
        and of["resnet18", "infer"]["added_share"] <= MAX_ADDED_SHARE
        and max(of[name, "swap"]["raised_share"] for name in ("resnet20", "resnet18")) <= MAX_ADDED_SHARE,
    }
