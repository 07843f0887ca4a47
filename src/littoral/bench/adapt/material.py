"""What rows are made of: CIFAR-10, the student and the teachers, and one bundle per teacher in the work folder."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from littoral.bench.adapt.row import TEACHERS, Row
from littoral.bench.alone import alone
from littoral.bench.fingerprint import fingerprint
from littoral.bench.method import Road, Setup
from littoral.bundle import Bundle, InputSpec, TorchModel
from littoral.core.arrays import Frame
from littoral.errors import BundleError, LittoralError
from littoral.models.factory import load_model
from littoral.train.build import build_bundle
from littoral.train.options import BuildOptions, TorchSource

STUDENT = "resnet20"
WEIGHTS = {
    "resnet20": "weights/cifar10_resnet20.safetensors",
    "resnet56": "weights/cifar10_resnet56.safetensors",
    "resnet56_augmix": "weights/cifar10_resnet56_augmix.safetensors",
}
"""Below the data folder."""
FRAMES = {"test": "cifar10/test.npz", "train": "cifar10/train.npz"}
FACTORY = {name: f"littoral.models.zoo:{name.removesuffix('_augmix')}" for name in WEIGHTS}
KWARGS: dict[str, Any] = {"num_classes": 10}
INPUT = InputSpec(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SOURCE_FRAMES = 4_000
REHEARSAL_STEPS = 150


def missing_data(folder: Path | None) -> list[str]:
    """The files that the table needs and the folder lacks."""
    wanted = [*FRAMES.values(), *WEIGHTS.values()]
    return wanted if folder is None else [name for name in wanted if not (folder / name).is_file()]


def check_data(folder: Path | None) -> Path:
    """The folder, if it has all that the table needs.

    Raises:
        LittoralError: it does not; says what is missing and how to get it.
    """
    missing = missing_data(folder)
    if folder is None or missing:
        where = "no data folder was given" if folder is None else f"{folder} lacks {', '.join(missing)}"
        raise LittoralError(
            f"{where}; 'littoral bench adapt' needs CIFAR-10 (cifar10/train.npz and cifar10/test.npz) and the networks "
            "(weights/cifar10_resnet20, cifar10_resnet56 and cifar10_resnet56_augmix, .safetensors); give the folder "
            "that has them with --data, or set LITTORAL_DATA. benchmarks/README.md says where they come from"
        )
    return folder


class Material:
    """Loads each thing once per process.

    Args:
        data: The data folder.
        work: Where bundles are cached.
    """

    def __init__(self, data: Path, work: Path) -> None:
        self.data, self.work = data, work
        self._bundles: dict[str, Bundle] = {}
        self._models: dict[str, nn.Module] = {}

    @cached_property
    def test(self) -> tuple[Frame, NDArray[Any]]:
        """CIFAR-10's test frames uint8 ``(10000, 32, 32, 3)`` and labels."""
        from littoral.bench.streams.cifar import load_cifar10

        return load_cifar10(self.data, "test")

    @cached_property
    def source_frames(self) -> Frame:
        """The first 4,000 train frames; their labels are not read."""
        from littoral.bench.streams.cifar import load_cifar10

        frames, _ = load_cifar10(self.data, "train")
        return frames[:SOURCE_FRAMES].copy()

    def model(self, name: str) -> nn.Module:
        """A fresh network in eval mode."""
        if name not in self._models:
            path = self.data / WEIGHTS[name]
            try:
                tensors = load_file(path)
            except (OSError, SafetensorError) as error:
                raise LittoralError(f"{path} cannot be read ({error}); fetch the data again") from error
            self._models[name] = load_model(TorchModel(factory=FACTORY[name], kwargs=KWARGS, file=str(path)), tensors)
        return copy.deepcopy(self._models[name])

    def bundle(self, teacher: str | None) -> Bundle:
        """The student's bundle with this teacher, built once and kept in the work folder."""
        name = teacher or TEACHERS[0]
        if name not in self._bundles:
            with alone(self.work / "bundles"):
                self._bundles[name] = self._open(name)
        return self._bundles[name]

    def _open(self, teacher: str) -> Bundle:
        folder = self.work / "bundles" / f"{teacher}-{self._bundle_key(teacher)}"
        try:
            return Bundle.open(folder, require_cloud=True)
        except BundleError:
            shutil.rmtree(folder, ignore_errors=True)
        making = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(making, ignore_errors=True)
        making.parent.mkdir(parents=True, exist_ok=True)
        build_bundle(
            student=TorchSource(self.model(STUDENT), FACTORY[STUDENT], KWARGS),
            teacher=TorchSource(self.model(teacher), FACTORY[teacher], KWARGS),
            out=making,
            name=f"cifar10-{STUDENT}",
            class_names=[str(index) for index in range(10)],
            input=INPUT,
            source_frames=self.source_frames,
            options=BuildOptions(rehearsal_steps=REHEARSAL_STEPS),
        )
        os.replace(making, folder)
        making.with_name(making.name + ".tar").unlink(missing_ok=True)
        return Bundle.open(folder, require_cloud=True)

    def _bundle_key(self, teacher: str) -> str:
        """Of the code that builds and the weights that are built from."""
        digest = hashlib.sha256(fingerprint(["littoral.train.build", "littoral.models.zoo"]).encode())
        for name in (STUDENT, teacher):
            digest.update((self.data / WEIGHTS[name]).read_bytes())
        digest.update(
            json.dumps(
                [FACTORY[STUDENT], FACTORY[teacher], KWARGS, SOURCE_FRAMES, REHEARSAL_STEPS, repr(INPUT)]
            ).encode()
        )
        return digest.hexdigest()[:12]

    def setup(self, row: Row) -> Setup:
        """What a row's method starts from."""
        return Setup(
            bundle=self.bundle(row.teacher),
            student=self._fresh(STUDENT),
            teacher=self._fresh(row.teacher or TEACHERS[0]),
            source_frames=self.source_frames,
            seed=row.seed,
            batch_size=row.batch,
            num_devices=row.devices,
            road=Road(delay_batches=row.delay_batches, loss=row.loss),
            torch_device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            precision="auto",  # as our own cloud
        )

    def _fresh(self, name: str) -> Callable[[], nn.Module]:
        return lambda: self.model(name)
