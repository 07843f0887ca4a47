"""What the split table is made of: CIFAR-10, its ResNets, and what the teacher says of the training frames."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from littoral.bench.alone import alone
from littoral.bench.streams.cifar import CLASS_NAMES, load_cifar10
from littoral.bundle import InputSpec, TorchModel
from littoral.core.arrays import FloatArray, Frame
from littoral.errors import LittoralError
from littoral.models.bottleneck import count_macs
from littoral.models.factory import load_model
from littoral.models.frames import normalise
from littoral.train.split_data import TeacherBank, fill_bank

STUDENT, TEACHER = "resnet20", "resnet56"
INPUT = InputSpec(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
KWARGS: dict[str, Any] = {"num_classes": len(CLASS_NAMES)}
FACTORY = {name: f"littoral.models.zoo:{name}" for name in (STUDENT, TEACHER)}
WEIGHTS = {name: f"weights/cifar10_{name}.safetensors" for name in FACTORY}
NEEDED = ("cifar10/train.npz", "cifar10/test.npz", *WEIGHTS.values())
POOLED = {TEACHER: "layer3.8", STUDENT: "layer3.2"}
"""The last block of each: the bank keeps the means of what it gives over the places."""
_BATCH = 250
Labels = NDArray[np.int64]


def check_data(folder: Path | None) -> Path:
    """The folder, if it has all that the table needs.

    Raises:
        LittoralError: it does not; says what is missing and how to get it.
    """
    missing = [name for name in NEEDED if folder is None or not (folder / name).is_file()]
    if folder is None or missing:
        where = "no data folder was given" if folder is None else f"{folder} lacks {', '.join(missing)}"
        raise LittoralError(
            f"{where}; 'littoral bench split' needs CIFAR-10 (cifar10/train.npz and cifar10/test.npz) and the networks "
            "weights/cifar10_resnet20.safetensors and cifar10_resnet56.safetensors; give the folder that has them with "
            "--data, or set LITTORAL_DATA. benchmarks/README.md says where they come from"
        )
    return folder


def torch_device() -> torch.device:
    """CUDA where torch has it."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class SplitMaterial:
    """Loads each thing once per process.

    Args:
        data: The data folder.
        work: Where banks, trainings and bundles are kept.
    """

    def __init__(self, data: Path, work: Path) -> None:
        self.data, self.work = data, work

    @cached_property
    def test(self) -> tuple[Frame, Labels]:
        """Frames uint8 ``(10000, 32, 32, 3)`` and labels."""
        return load_cifar10(self.data, "test")

    @cached_property
    def train(self) -> tuple[Frame, Labels]:
        """Likewise, 50,000."""
        return load_cifar10(self.data, "train")

    def first(self, split: Literal["train", "test"], count: int) -> tuple[Frame, Labels]:
        """The first so many frames and labels."""
        frames, labels = self.train if split == "train" else self.test
        return frames[:count], labels[:count]

    def network(self, name: str) -> nn.Module:
        """A fresh network in eval mode, on the CPU."""
        path = self.data / WEIGHTS[name]
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise LittoralError(f"{path} cannot be read ({error}); fetch the data again") from error
        return load_model(TorchModel(factory=FACTORY[name], kwargs=KWARGS, file=str(path)), tensors)

    def bank(
        self, teacher: str, *, frames: int, views: int, progress: Callable[[str], None] | None = None
    ) -> TeacherBank:
        """What a teacher says of the first so many training frames, made once and kept."""
        folder = self.work / "banks" / f"{teacher}-{frames}"
        with alone(folder):
            return fill_bank(
                folder,
                self.network(teacher).to(torch_device()),
                self.train[0][:frames],
                INPUT,
                num_views=views,
                pooled=(POOLED[teacher],),
                progress=progress,
            )


@torch.inference_mode()
def outputs_of(model: nn.Module, frames: Frame) -> FloatArray:
    """What a network gives for frames uint8 ``(N, 32, 32, 3)``, in batches, float32 ``(N, ...)``."""
    parameter = next(model.parameters(), torch.zeros(0))
    parts = []
    for start in range(0, len(frames), _BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(frames[start : start + _BATCH])).to(parameter.device)
        parts.append(model(normalise(batch, INPUT)).float().cpu().numpy())
    return np.concatenate(parts)


def macs_of_module(module: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-accumulates for one input of this shape, wherever the module is."""
    return count_macs(copy.deepcopy(module).cpu(), shape)


def accuracy_of(logits_NK: FloatArray, labels: Labels) -> float:
    """Percent."""
    return round(100 * float((logits_NK.argmax(1) == labels).mean()), 3)
