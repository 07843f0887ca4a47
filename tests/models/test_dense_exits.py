"""An exit of a segmentation network as a layer."""

from __future__ import annotations

import pytest
import torch

from littoral.models.dense_exits import DenseExit, full_scores


def small(in_channels: int = 5, num_classes: int = 3) -> DenseExit:
    torch.manual_seed(0)
    return DenseExit(in_channels, num_classes, width=4, context=8, dilations=(1, 2)).eval()


@pytest.mark.parametrize("size", [(8, 12), (10, 12), (90, 120)], ids=str)
def test_scores_have_the_features_size_also_where_a_quarter_of_it_is_no_whole_number(size: tuple[int, int]) -> None:
    with torch.no_grad():
        scores = small()(torch.randn(2, 5, *size))
    assert scores.shape == (2, 3, *size)
    assert full_scores(scores, 33, 47).shape == (2, 3, 33, 47)


def test_an_exit_sees_the_whole_frame_and_still_the_single_pixel() -> None:
    exit = small().train(False)
    torch.nn.init.normal_(exit.of_features.weight)
    x = torch.randn(1, 5, 16, 16)
    far, near = x.clone(), x.clone()
    far[0, :, 15, 15] += 10
    near[0, :, 4, 4] += 1
    with torch.no_grad():
        before = exit(x)
        assert not torch.equal(exit(far)[0, :, 0, 0], before[0, :, 0, 0])
        moved = (exit(near) - before).abs().sum(dim=1)[0]
    assert moved.argmax() == 4 * 16 + 4


def test_its_work_is_that_of_its_convolutions_and_grows_with_the_features() -> None:
    exit = small()
    linear = sum(m.weight.numel() for m in exit.modules() if isinstance(m, torch.nn.Linear))
    # At full, half and quarter size; every convolution but the depthwise one is dense.
    full, half, quarter = 5 * 3, 5 * 4 + 4 * 9 + 4 * 4 + 4 * 3, 4 * 8 + 2 * (8 * 4 + 4 * 4 * 9 + 4 * 8) + 8 * 3
    assert exit.macs(16, 16) == full * 256 + half * 64 + quarter * 16 + linear


@pytest.mark.parametrize("bad", [{"context": 7}, {"width": 0}, {"num_classes": 1}], ids=str)
def test_sizes_that_make_no_exit_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="an exit needs"):
        DenseExit(**{"in_channels": 4, "num_classes": 3, **bad})  # type: ignore[arg-type]
