"""Two small bundles of the dense tasks, with a split that sends the frames: a segmenter and a detector for 32 x 32 x 3.

Both have a BatchNorm, hardly any weights, and no training. The split is made by hand (`split_bundles`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_once import keep_the_exporters_operators
from split_bundles import identity_split
from torch import nn

from littoral.bundle import Bundle, InputSpec
from littoral.core.metrics import BoxTruth
from littoral.core.tasks import Detection, Segmentation, Task

SIDE = 32
SPEC = InputSpec(height=SIDE, width=SIDE, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
SEGMENTATION = Segmentation(num_classes=3, input_height=SIDE, input_width=SIDE, ignored_label=9)
DETECTION = Detection(num_classes=2, input_height=SIDE, input_width=SIDE, strides=(8,), max_boxes=8)
CLASS_NAMES = ("sky", "road", "tree")


class TinySegmenter(nn.Module):
    """Scores at half the size, enlarged."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.head(torch.relu(self.norm(self.stem(x))))
        return nn.functional.interpolate(scores, scale_factor=2.0, mode="bilinear", align_corners=False)


class TinyDetector(nn.Module):
    """16 cells of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 8, stride=8)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 7, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cells = self.head(torch.relu(self.norm(self.stem(x)))).flatten(2).transpose(1, 2)
        return torch.cat([cells[..., :4], torch.sigmoid(cells[..., 4:])], dim=2)


def segmenter() -> nn.Module:
    """A factory, as a bundle names it."""
    return TinySegmenter()


def detector() -> nn.Module:
    """Likewise."""
    return TinyDetector()


def made(task: Task[Any, Any]) -> nn.Module:
    """The task's network with the weights that it has in these tests."""
    from littoral.train.fit import settle_statistics

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = TinyDetector() if isinstance(task, Detection) else TinySegmenter()
    with torch.no_grad():
        model.head.weight.mul_(2)
        if isinstance(task, Detection):
            model.head.weight[:4] *= 0.05
            model.head.bias[:4] = torch.tensor([0.5, 0.5, 0.0, 0.0])
            model.head.bias[4:] += 0.5
    settle_statistics(model, frames(), input=SPEC)
    return model.eval()


def frames(count: int = 12) -> np.ndarray:
    """Blocks of 8 x 8 pixels."""
    blocks = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    return blocks.repeat(8, axis=1).repeat(8, axis=2)


def truths(task: Task[Any, Any]) -> list[Any]:
    """Something to be held against."""
    if isinstance(task, Detection):
        return [BoxTruth(np.float32([[0, 0, 8 + n, 16]]), np.array([n % 2])) for n in range(12)]
    return [(frame[..., 0] > 100).astype(np.uint8) for frame in frames()]


def dense_source(of: Task[Any, Any]) -> Any:
    """The task's network as a build takes it."""
    from littoral.train import TorchSource

    return TorchSource(made(of), f"{__name__}:{'detector' if isinstance(of, Detection) else 'segmenter'}")


def build_dense(of: Task[Any, Any], out: Path, **changes: Any) -> Bundle:
    """Without a split."""
    from littoral.train import BuildOptions, build_bundle

    torch.set_num_threads(1)
    keep_the_exporters_operators()
    arguments: dict[str, Any] = {
        "student": dense_source(of),
        "out": out,
        "name": of.name,
        "class_names": CLASS_NAMES[: of.num_classes],
        "input": SPEC,
        "task": of,
        "source_frames": frames(),
        "source_labels": truths(of),
        "options": BuildOptions(probe_frames=4, drift_batches=2, drift_batch=4),
    }
    return build_bundle(**{**arguments, **changes})


def with_split(bundle: Bundle, out: Path) -> Bundle:
    """The bundle once more, with a split that sends the normalised frames in three levels."""
    from littoral.train.write import write_files

    spec, more = identity_split(0, None, bundle)
    files = {name: bundle.read(name) for name in bundle.manifest.files} | more
    out.mkdir()
    write_files(out, files, dataclasses.replace(bundle.manifest, splits=(spec,)))
    return Bundle.open(out, require_cloud=True)
