"""A frozen segmentation network with its exits, and what is counted of every frame that it sees.

Axes: N frames, E exits (the last is the whole network), K classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from littoral.bench.dense_data import Segmented
from littoral.bench.exits.dense_points import DenseSeen
from littoral.bench.split.dense_networks import DenseNetwork
from littoral.core.dense_exits import dense_confidence, pixel_disagreement, pixel_error
from littoral.core.exits import ExitCosts
from littoral.core.metrics import LabelMap, MeanIoU
from littoral.core.tasks import Segmentation
from littoral.models.dense_exits import DenseExit, full_scores
from littoral.models.frames import normalise

WAYS: dict[str, dict[str, Any]] = {
    "mean": {},
    "margin": {"score": "margin"},
    "lower tenth": {"over": "quantile", "quantile": 0.1},
    "sure share": {"over": "sure_share", "sure": 0.9},
}
"""How sure a frame is."""
MAIN_WAY = "mean"
TILES = (3, 4)
"""Rows and columns: tiles of 120 x 120 pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseExits:
    """A frozen network and its exits.

    Attributes:
        run: Gives the features at each cut, then the scores.
        heads: One for each cut.
    """

    network: DenseNetwork
    cuts: tuple[str, ...]
    run: nn.Module
    heads: tuple[DenseExit, ...]
    costs: ExitCosts


def see_dense(exits: DenseExits, data: Segmented, *, tiles: tuple[int, int] = TILES) -> tuple[DenseSeen, DenseSeen]:
    """Run every frame to the end and count what every exit would have answered: by frame, and by tile of a frame.

    Args:
        tiles: Rows and columns of tiles, which divide the frame and the exits' scores.
    """
    task = task_of_network(exits.network)
    by_frame, by_tile = _Counts(task), _Counts(task)
    for frame, truth in zip(data.frames, data.truths, strict=True):
        with torch.inference_mode():
            *found, scores = exits.run(normalise(torch.from_numpy(np.array(frame[None])), exits.network.input))
            own = [head(features) for head, features in zip(exits.heads, found, strict=True)]
            every = [full_scores(each, *scores.shape[2:]) for each in own] + [scores]
        answers = [task.answers(each.numpy())[0] for each in every]
        small = [each[0].numpy() for each in own]
        by_frame.add(answers, truth, small)
        for row in range(tiles[0]):
            for column in range(tiles[1]):
                place = (row, column)
                by_tile.add(
                    [_tile(answer, tiles, place) for answer in answers],
                    _tile(truth, tiles, place),
                    [_tile(each, tiles, place) for each in small],
                )
    return by_frame.seen(), by_tile.seen()


def _tile(array: NDArray[Any], tiles: tuple[int, int], place: tuple[int, int]) -> NDArray[Any]:
    """One tile of an array whose last two axes are height and width."""
    height, width = array.shape[-2] // tiles[0], array.shape[-1] // tiles[1]
    top, left = place[0] * height, place[1] * width
    return array[..., top : top + height, left : left + width]


class _Counts:
    """Collects `DenseSeen`, frame by frame."""

    def __init__(self, task: Segmentation) -> None:
        self.task = task
        self.confusions: list[NDArray[np.int64]] = []
        self.errors: list[list[float]] = []
        self.apart: list[list[float]] = []
        self.sure: dict[str, list[list[float]]] = {name: [] for name in WAYS}

    def add(self, answers: Sequence[LabelMap], truth: LabelMap, scores: Sequence[NDArray[np.float32]]) -> None:
        """Count the answers of all exits, the whole network's last; ``scores`` are those of the exits alone."""
        metrics = []
        for answer in answers:
            metric = MeanIoU(self.task.num_classes, ignored_label=self.task.ignored_label)
            metric.update([answer], [truth])
            metrics.append(metric.confusion_KK)
        self.confusions.append(np.stack(metrics))
        self.errors.append([pixel_error(each, truth, ignored_label=self.task.ignored_label) for each in answers])
        self.apart.append([pixel_disagreement(each, answers[-1]) for each in answers])
        for name, how in WAYS.items():
            self.sure[name].append([float(dense_confidence(each[None], **how)[0]) for each in scores] + [1.0])

    def seen(self) -> DenseSeen:
        """All of it."""
        return DenseSeen(
            confusions_NEKK=np.stack(self.confusions),
            errors_NE=np.array(self.errors),
            disagreement_NE=np.array(self.apart),
            sure={name: np.array(found) for name, found in self.sure.items()},
        )


def task_of_network(network: DenseNetwork) -> Segmentation:
    """Its task.

    Raises:
        ValueError: it does something else.
    """
    if not isinstance(network.task, Segmentation):
        raise ValueError(f"{network.name} is a network for {network.task.name}, expected one for segmentation")
    return network.task
