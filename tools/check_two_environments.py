"""A device in an environment with the edge extra alone, against a cloud in this one. Prints one JSON line last.

    .venv/bin/python tools/check_two_environments.py build/edge-venv

Builds a small bundle here, copies the device's part of it to where the device runs, plays a folder of images, and
checks that every frame was answered, that every chosen sample was acknowledged, and that no torch was near. Reports the
device's resident memory.
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
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from littoral import InputSpec, TorchSource, build_bundle
from littoral.bench.processes import CloudProcess
from littoral.cloud.admin import new_token
from littoral.models.zoo import resnet20

FRAMES = 300
SEND_ALL = ("--published", "--entropy-max", "1", "--entropy-min", "0", "--diversity-margin", "2")


def build(folder: Path, frames: np.ndarray) -> Path:
    """A ResNet-20 for 32 x 32 frames with random weights, as a bundle."""
    torch.manual_seed(0)
    source = TorchSource(resnet20(num_classes=10).eval(), "littoral.models.zoo:resnet20", {"num_classes": 10})
    spec = InputSpec(height=32, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    names = [f"class {index}" for index in range(10)]
    out = folder / "bundle"
    build_bundle(student=source, teacher=source, out=out, name="b", class_names=names, input=spec, source_frames=frames)
    return out


def run_device(python: Path, folder: Path, url: str, token: str) -> tuple[list[dict[str, object]], int]:
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
    command += ["--cloud", url, "--token", token, "--state", "device-state", "--flush", "20", *SEND_ALL]
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
            lines, resident = run_device(python, folder, cloud.url, new_token(cloud.state))
        finally:
            cloud.stop()
    status = lines[-1]
    answers = [line for line in lines if line["type"] == "answer"]
    told = {
        "answers": len(answers),
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


if __name__ == "__main__":
    main()
