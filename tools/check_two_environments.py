"""A device in an environment with the edge extra alone, against a cloud in this one. Prints one JSON line last.

    .venv/bin/python tools/check_two_environments.py build/edge-venv

Builds a small bundle with a split here, copies the device's part of it to where the device runs, plays a folder of
images twice, and checks that every frame was answered, that every chosen sample was acknowledged, that the cloud
finished the frames that it was asked to finish, and that no torch was near. Reports the device's resident memory.
"""
# ruff: noqa: T201

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from littoral import BuildOptions, InputSpec, SplitSource, TorchSource, build_bundle
from littoral.bench.processes import CloudProcess
from littoral.cloud.admin import new_token
from littoral.models.architectures import product
from littoral.models.bottleneck import split_tail_kwargs, to_split_tail
from littoral.models.parts import tail_of
from littoral.models.zoo import resnet20

FRAMES = 300
OFFLOADED = 0.9
"""At least this share of the frames must be finished by the cloud, on a machine that may be busy."""
OFFLOAD = ("--offload", "1", "--deadline", "1000")
CUT = "layer1"
SEND_ALL = ("--published", "--entropy-max", "1", "--entropy-min", "0", "--diversity-margin", "2")


def build(folder: Path, frames: np.ndarray) -> Path:
    """A ResNet-20 for 32 x 32 frames with random weights, cut once and split there, as a bundle."""
    torch.manual_seed(0)
    factory, kwargs = "littoral.models.zoo:resnet20", {"num_classes": 10}
    source = TorchSource(resnet20(num_classes=10).eval(), factory, kwargs)
    bottleneck = product(in_channels=16, patch=0, strides=(2, 2), out_channels=16, upsamplings=2).eval()
    tail = TorchSource(
        to_split_tail(bottleneck, tail_of(source.module, CUT)),
        "littoral.models.bottleneck:make_split_tail",
        split_tail_kwargs(bottleneck, {"factory": factory, "kwargs": kwargs, "cut": CUT}),
    )
    spec = InputSpec(height=32, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    names = [f"class {index}" for index in range(10)]
    out = folder / "bundle"
    build_bundle(
        student=source,
        teacher=source,
        out=out,
        name="b",
        class_names=names,
        input=spec,
        source_frames=frames,
        splits=[SplitSource(bottleneck, tail, segment=0)],
        options=BuildOptions(cut_points=(CUT,)),
    )
    return out


def run_device(
    python: Path, folder: Path, url: str, token: str, state: str, options: Sequence[str]
) -> tuple[list[dict[str, Any]], int]:
    """What the device printed, and the most memory it had resident, in KiB."""
    command = [
        str(python),
        "-I",
        "-m",
        "littoral.cli.main",
        "edge",
        "device-bundle",
        "frames",
        "--json",
        "--fps",
        "100",
    ]
    command += ["--cloud", url, "--token", token, "--state", state, "--flush", "20", *options]
    resident = 0
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(json.loads(line))
            if (status := Path(f"/proc/{process.pid}/status")).exists():
                told = dict(part.split(":", 1) for part in status.read_text().splitlines() if ":" in part)
                resident = max(resident, int(told.get("VmRSS", "0 kB").split()[0]))
    if process.returncode:
        sys.exit(f"the device ended with {process.returncode}")
    return lines, resident


def main() -> None:
    """Run the check."""
    python = Path(sys.argv[1]).absolute() / "bin" / "python"
    has_torch = subprocess.run([python, "-I", "-c", "import torch"], capture_output=True).returncode == 0
    if has_torch:
        sys.exit("the device's environment has torch in it, so this would prove nothing; make it with '.[edge]' alone")
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 32, 32, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = build(folder, frames[:64])
        cloud = CloudProcess(bundle, folder / "cloud")
        try:
            with tarfile.open(folder / "bundle.tar") as tar:  # the cloud signed the bundle, and packed it anew
                tar.extractall(folder / "device-bundle", filter="data")
            (folder / "frames").mkdir()
            for index, frame in enumerate(frames):
                Image.fromarray(frame).save(folder / "frames" / f"{index:04}.png")
            started = time.monotonic()
            token = new_token(cloud.state)
            lines, resident = run_device(python, folder, cloud.url, token, "device-state", SEND_ALL)
            token = new_token(cloud.state)
            offloaded, _ = run_device(python, folder, cloud.url, token, "offloading-state", OFFLOAD)
        finally:
            cloud.stop()
    status = lines[-1]
    answers = [line for line in lines if line["type"] == "answer"]
    by_cloud = [line for line in offloaded if line["type"] == "answer" and line["source"] == "cloud"]
    told = {
        "answers": len(answers),
        "offloaded_answers": len(by_cloud),
        "offloaded_median_ms": round(float(np.median([line["latency_ms"] for line in by_cloud])), 2),
        "accepted": status["accepted"],
        "acked": status["acked"],
        "versions_installed": status["versions_installed"],
        "bytes_up": status["bytes_up"],
        "bytes_down": status["bytes_down"],
        "resident_mib": round(resident / 1024, 1),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(told))
    if len(answers) != FRAMES or status["acked"] != status["accepted"] or not status["acked"]:
        sys.exit(f"not every frame was answered, or not every chosen sample acknowledged: {status}")
    if len(by_cloud) < OFFLOADED * FRAMES:
        reasons = Counter(str(line.get("reason")) for line in offloaded if line["type"] == "answer")
        sys.exit(f"the cloud finished {len(by_cloud)} of {FRAMES} frames; why not the others: {dict(reasons)}")


if __name__ == "__main__":
    main()
