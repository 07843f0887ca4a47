"""Rows of the dense tasks: what was sent is counted, what came of it is scored, and a stopped run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks need the cloud extra")

from littoral.bench.dense_data import Boxed, Segmented  # noqa: E402
from littoral.bench.split.codecs import codec_of  # noqa: E402
from littoral.bench.split.dense_networks import DenseNetwork, load_dense_network  # noqa: E402
from littoral.bench.split.dense_rows import (  # noqa: E402
    DenseStore,
    accuracy_of,
    cloud_only_row,
    device_only_row,
    keep_dense_rows,
    picture_rows,
    prepared,
)
from littoral.bundle.manifest import InputSpec  # noqa: E402
from littoral.core.metrics import BoxTruth  # noqa: E402
from littoral.core.tasks import Detection, Segmentation  # noqa: E402

HEIGHT, WIDTH = 16, 24


class Threshold(torch.nn.Module):
    """Says of every pixel whether it is bright: what it is right about without loss, and wrong after much of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grey = x.mean(1, keepdim=True) - 0.5
        return torch.cat([-grey, grey], dim=1)


class OneBox(torch.nn.Module):
    """Finds one object, always in the middle of the input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(len(x), 1, 6)
        found[..., :2], found[..., 2:4] = 0.5, float(np.log(0.5))
        found[..., 4:] = 1.0
        return found


def network(model: torch.nn.Module, task: Segmentation | Detection, *, letterboxed: bool = False) -> DenseNetwork:
    height, width = task.input_height, task.input_width
    spec = InputSpec(height=height, width=width, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    return DenseNetwork(name="toy", model=model, kwargs={}, input=spec, task=task, letterboxed=letterboxed)


@pytest.fixture(scope="module")
def segmented() -> tuple[DenseNetwork, Segmented]:
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, 2, (HEIGHT, WIDTH)).astype(np.uint8) for _ in range(2)]
    frames = [np.repeat(np.where(truth == 1, 140, 110).astype(np.uint8)[..., None], 3, axis=2) for truth in truths]
    task = Segmentation(num_classes=2, input_height=HEIGHT, input_width=WIDTH, ignored_label=2)
    return network(Threshold(), task), Segmented(names=("a", "b"), frames=frames, truths=truths)


def test_device_only_sends_nothing_and_cloud_only_loses_nothing(segmented: tuple[DenseNetwork, Segmented]) -> None:
    alone, cloud = device_only_row(*segmented), cloud_only_row(*segmented)
    assert (alone["bytes"], alone["miou"]) == (0, 100)
    assert cloud["miou"] == 100
    assert cloud["method"] == "cloud_only"
    assert cloud["bytes"] > 60  # a bit for each of 384 pixels, and a header


def test_a_coarser_picture_is_smaller_and_worse(segmented: tuple[DenseNetwork, Segmented]) -> None:
    coarse, fine = picture_rows(*segmented, codec_of("jpeg"), (1, 95))
    assert coarse["bytes"] < fine["bytes"]
    assert coarse["miou"] < fine["miou"] <= 100
    frame = segmented[1].frames[0]
    assert fine["bytes_p50"] == pytest.approx(
        np.median([len(codec_of("jpeg").encode(each, 95)) for each in segmented[1].frames])
    )
    assert 0 < fine["bytes_without_header"] < fine["bytes"]
    assert len(codec_of("jpeg").encode(frame, 95)) <= fine["bytes_p95"] + 50


@pytest.mark.parametrize("letterboxed", [True, False], ids=["letterboxed", "stretched"])
def test_boxes_are_judged_where_they_belong_on_the_frame(letterboxed: bool) -> None:
    # A frame twice as wide as the input: letterboxed, the middle of the input is the frame's middle only across.
    task = Detection(num_classes=1, input_height=32, input_width=32, strides=(32,))
    net = network(OneBox(), task, letterboxed=letterboxed)
    box = [16, 16, 48, 32] if letterboxed else [16, 8, 48, 24]
    right = BoxTruth(np.array([box], np.float32), np.array([0]))
    moved = BoxTruth(np.array([box], np.float32) + np.float32([16, 0, 16, 0]), np.array([0]))
    frame = np.zeros((32, 64, 3), np.uint8)
    for truth, wanted in ((right, 100.0), (moved, 0.0)):
        data = Boxed(names=("a",), frames=[frame], truths=[truth])
        assert accuracy_of(device_only_row(net, data)) == pytest.approx(wanted, abs=1e-6)
    assert prepared(net, frame).shape == (32, 32, 3)


def test_a_stopped_run_goes_on_and_a_cut_off_line_is_made_again(
    segmented: tuple[DenseNetwork, Segmented], tmp_path: Path
) -> None:
    store = DenseStore(tmp_path / "rows.jsonl")
    said: list[str] = []
    rows = keep_dense_rows(store, *segmented, codecs=("webp",), qualities=(5, 50), say=said.append)
    assert [row["method"] for row in rows] == ["device_only", "webp", "webp", "cloud_only"]
    text = store.path.read_text()
    store.path.write_text(text[: text.rindex('"miou"')])  # the last row was being written
    said.clear()
    again = keep_dense_rows(store, *segmented, codecs=("webp",), qualities=(5, 50), say=said.append)
    assert said == []  # of the pictures none was made again
    assert [row["method"] for row in again] == [row["method"] for row in rows]
    assert again[-1]["bytes"] == rows[-1]["bytes"]


def test_a_network_without_its_files_or_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no network 'unet'"):
        load_dense_network(tmp_path, "unet")
    with pytest.raises(ValueError, match="cannot be read"):
        load_dense_network(tmp_path, "cgnet")
