"""What is counted of a segmentation network with an exit, on a network that is two lines long."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from littoral.bench.dense_data import Segmented
from littoral.bench.exits.dense_points import whole_of
from littoral.bench.exits.dense_seen import DenseExits, see_dense, task_of_network
from littoral.bench.exits.segmentation import SegmentationUnit, measured, smaller_frames, tiles_at_best
from littoral.bench.split.dense_networks import DenseNetwork
from littoral.bundle.manifest import InputSpec
from littoral.core.exits import ExitCosts
from littoral.core.tasks import Detection, Segmentation

HEIGHT, WIDTH = 24, 32
TASK = Segmentation(num_classes=3, input_height=HEIGHT, input_width=WIDTH, ignored_label=3)
COSTS = ExitCosts(segment_macs=(50, 50), head_macs=(0, 0))


class Brightest(nn.Module):
    """Each pixel's class is its brightest channel; the features are the frame at a quarter."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.eye_(self.conv.weight[:, :, 0, 0])

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        scores = 8 * self.conv(x)
        return scores if self.whole else (nn.functional.avg_pool2d(x, 4), scores)


class BlindBelow(nn.Module):
    """An exit that is right above and says class 0, unsure, in the lower half."""

    def forward(self, features: Tensor) -> Tensor:
        scores = 8 * features.clone()
        half = scores.shape[2] // 2
        scores[:, :, half:] = torch.tensor([0.1, 0.0, 0.0])[None, :, None, None]
        return scores


def network() -> DenseNetwork:
    return DenseNetwork(
        name="brightest",
        model=Brightest(True).eval(),
        kwargs={},
        input=InputSpec(height=HEIGHT, width=WIDTH, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3),
        task=TASK,
        letterboxed=False,
    )


def exits() -> DenseExits:
    heads = (BlindBelow(),)
    return DenseExits(network=network(), cuts=("quarter",), run=Brightest(False).eval(), heads=heads, costs=COSTS)  # type: ignore[arg-type]


def frames(num: int = 6) -> Segmented:
    """Stripes of eight columns; the odd frames have no truth in their lower half."""
    rng = np.random.default_rng(0)
    truths = [
        np.repeat(rng.integers(0, 3, (1, 4)), 8, axis=1).repeat(HEIGHT, axis=0).astype(np.uint8) for _ in range(num)
    ]
    pictures = [(np.eye(3)[truth] * 200).astype(np.uint8) for truth in truths]
    for truth in truths[1::2]:
        truth[HEIGHT // 2 :] = 3
    return Segmented(names=tuple(f"video_{i}" for i in range(num)), frames=pictures, truths=truths)


def test_frames_and_their_tiles_count_the_same_pixels() -> None:
    by_frame, by_tile = see_dense(exits(), frames(), tiles=(2, 2))
    assert len(by_tile) == 4 * len(by_frame)
    np.testing.assert_array_equal(by_frame.confusions_NEKK.sum(axis=0), by_tile.confusions_NEKK.sum(axis=0))
    np.testing.assert_allclose(by_frame.disagreement_NE, by_tile.disagreement_NE.reshape(-1, 4, 2).mean(axis=1))
    assert by_frame.errors_NE[:, 1].max() == 0
    assert by_frame.errors_NE[0, 0] > 0.2


def test_where_an_exit_is_blind_in_a_part_of_the_frame_tiles_save_what_whole_frames_cannot() -> None:
    by_frame, by_tile = see_dense(exits(), frames(), tiles=(2, 2))
    best = tiles_at_best(COSTS, by_tile)
    assert best is not None
    assert best["macs_ratio"] == pytest.approx(1 / 0.75, rel=1e-3)
    document = measured(COSTS, by_frame, by_frame, splits=3)
    assert document["whole"]["miou"] == 100
    assert document["seg_macs_ratio"] < best["macs_ratio"]
    assert document["exits_alone"][0]["miou"] < 90


def test_the_rival_on_smaller_frames_costs_its_share_and_loses_thin_things() -> None:
    data = frames(2)
    for picture, truth in zip(data.frames, data.truths, strict=True):
        truth[:, 4] = (truth[:, 4] + 1) % 3
        picture[:] = np.eye(3)[truth % 3] * 200
    rival = smaller_frames(network(), data, 0.5)
    assert (rival["height"], rival["width"]) == (16, 16)
    assert rival["macs_ratio"] == pytest.approx(HEIGHT * WIDTH / 256)
    by_frame, _ = see_dense(exits(), data, tiles=(1, 1))
    assert rival["miou"] < whole_of(by_frame, "mean", COSTS).miou


def test_a_network_of_another_task_is_refused_and_every_option_changes_the_key() -> None:
    other = DenseNetwork(
        name="boxes",
        model=nn.Identity(),
        kwargs={},
        input=network().input,
        task=Detection(num_classes=2, input_height=32, input_width=32),
        letterboxed=False,
    )
    with pytest.raises(ValueError, match="expected one for segmentation"):
        task_of_network(other)
    units = [SegmentationUnit(), SegmentationUnit(epochs=3), SegmentationUnit(cuts=("b2",)), SegmentationUnit(limit=5)]
    assert len({unit.key for unit in units}) == len(units)
