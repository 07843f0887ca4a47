"""A dense split is trained by the product's recipe, its payloads are counted and decoded, and held against a codec."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the cloud extra")

from littoral.bench.dense_data import Boxed, Segmented  # noqa: E402
from littoral.bench.split import dense_split_unit, dense_units  # noqa: E402
from littoral.bench.split.dense_full import DenseTraining, _from_features, train_dense  # noqa: E402
from littoral.bench.split.dense_networks import DenseNetwork  # noqa: E402
from littoral.bench.split.dense_rows import device_only_row  # noqa: E402
from littoral.bench.split.dense_shapes import DenseShape, FeatureShape, dense_bottleneck  # noqa: E402
from littoral.bench.split.dense_split import DenseSplit, bytes_over, codec_of_dense, split_rows  # noqa: E402
from littoral.bench.split.make import make_unit  # noqa: E402
from littoral.bench.split.plan import quick_plan  # noqa: E402
from littoral.bundle.manifest import InputSpec  # noqa: E402
from littoral.core.metrics import BoxTruth  # noqa: E402
from littoral.core.tasks import Detection, Segmentation  # noqa: E402
from littoral.models.graph import graph_network  # noqa: E402
from littoral.models.parts import tail_of  # noqa: E402
from littoral.train.transform import TransformOptions  # noqa: E402

SIDE = 32
SHAPE = DenseShape(
    cut="stage",
    out_channels=4,
    encoder_width=4,
    decoder_width=4,
    num_channels=3,
    starting_gains=(1.0, 4.0),
    kept=(2, 3),
)
SPEC = InputSpec(height=SIDE, width=SIDE, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


def stage() -> list[dict[str, object]]:
    how = {"weight": "w", "bias": "b", "stride": [8, 8], "shape": [4, 3, 8, 8]}
    return [{"op": "conv2d", "inputs": ["x"], "output": "stage", **how}]


@pytest.fixture
def segmenter() -> DenseNetwork:
    classify = {"op": "conv2d", "inputs": ["stage"], "output": "small", "weight": "w2", "shape": [2, 4, 1, 1]}
    enlarge = {"op": "upsample_bilinear", "inputs": ["small"], "output": "scores", "factor": 8}
    kwargs = {"nodes": [*stage(), classify, enlarge], "input": "x", "output": "scores"}
    torch.manual_seed(0)
    task = Segmentation(num_classes=2, input_height=SIDE, input_width=SIDE)
    return DenseNetwork(
        name="toy", model=graph_network(**kwargs).eval(), kwargs=kwargs, input=SPEC, task=task, letterboxed=False
    )


@pytest.fixture
def detector() -> DenseNetwork:
    head = {"op": "conv2d", "inputs": ["stage"], "output": "head", "weight": "w2", "shape": [6, 4, 1, 1]}
    nodes = [
        *stage(),
        {**head, "activation": "sigmoid"},
        {"op": "flatten_hw", "inputs": ["head"], "output": "flat"},
        {"op": "transpose_12", "inputs": ["flat"], "output": "cells"},
    ]
    kwargs = {"nodes": nodes, "input": "x", "output": "cells"}
    torch.manual_seed(0)
    task = Detection(num_classes=1, input_height=SIDE, input_width=SIDE, strides=(8,), max_boxes=4)
    return DenseNetwork(
        name="toy", model=graph_network(**kwargs).eval(), kwargs=kwargs, input=SPEC, task=task, letterboxed=False
    )


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3)).astype(np.uint8)


CONFIG = DenseTraining(epochs=2, hard_epochs=1, batch_size=2, bits_weights=(0.02, 0.001), crop=(16, 24))


def test_a_segmentation_split_is_trained_measured_and_goes_on_from_its_checkpoint(
    segmenter: DenseNetwork, frames: np.ndarray, tmp_path: Path
) -> None:
    truths = (frames[..., 0] > 128).astype(np.uint8)
    before = {key: value.clone() for key, value in segmenter.model.state_dict().items()}
    checkpoint = tmp_path / "split.pt"
    split = train_dense(segmenter, frames, truths, CONFIG, shape=SHAPE, checkpoint=checkpoint)
    again = train_dense(segmenter, frames, truths, CONFIG, shape=SHAPE, checkpoint=checkpoint)
    for name, value in split.bottleneck.state_dict().items():
        assert torch.equal(value, again.bottleneck.state_dict()[name]), name
    for name, value in segmenter.model.state_dict().items():
        assert torch.equal(value, before[name]), name  # the teacher stands still
    data = Segmented(names=tuple("abcd"), frames=list(frames), truths=list(truths))
    said: list[str] = []
    codec = codec_of_dense(split, segmenter, frames, said.append)
    assert said[0] == "deadzones of 2 levels by 4 source frames"
    coarse, fine = split_rows(split, segmenter, codec, data)
    assert 0 < coarse["bytes"] < fine["bytes"]
    assert 0 <= coarse["miou"] <= 100
    patches, strided, block, last = 64 * 48 * 4, 16 * 36 * 4, 2 * 16 * 36 * 4, 16 * 4 * 3
    assert (fine["encoder_macs"], fine["segment_macs"]) == (patches + strided + block + last, 0)


def test_a_detector_is_distilled_without_labels(detector: DenseNetwork, frames: np.ndarray) -> None:
    config = DenseTraining(epochs=1, hard_epochs=0, batch_size=2, bits_weights=(0.02, 0.001))
    split = train_dense(detector, frames, None, config, shape=SHAPE)
    truth = BoxTruth(np.array([[0, 0, 8, 8]], np.float32), np.array([0]))
    data = Boxed(names=("a", "b"), frames=list(frames[:2]), truths=[truth] * 2)
    rows = split_rows(split, detector, codec_of_dense(split, detector, frames), data)
    assert [row["level"] for row in rows] == [0, 1]
    assert all(0 <= row["ap50"] <= 100 for row in rows)


def test_from_features_the_device_runs_the_network_up_to_the_cut_and_a_split_is_there_before_any_training(
    segmenter: DenseNetwork, frames: np.ndarray
) -> None:
    options = TransformOptions(num_channels=8, block=2, steps=(4.0, 0.01), gate_width=2, decoder_width=4)
    shape = FeatureShape(cut="stage", transform=options, fitted_to=4)
    truths = (frames[..., 0] > 128).astype(np.uint8)
    data = Segmented(names=tuple("abcd"), frames=list(frames), truths=list(truths))
    whole = device_only_row(segmenter, data)["miou"]
    fitted = train_dense(segmenter, frames, truths, dataclasses.replace(CONFIG, epochs=0, crop=None), shape=shape)
    coarse, fine = split_rows(fitted, segmenter, codec_of_dense(fitted, segmenter, frames), data)
    assert fine["miou"] == pytest.approx(whole, abs=0.5)
    assert coarse["bytes"] < fine["bytes"] / 2
    assert (fine["segment_macs"], fine["encoder_macs"]) == (16 * 3 * 64 * 4, 4 * 8 * 16)  # no gate without a training
    before = fitted.bottleneck.encoder[-1].linear.weight.clone()
    tail = tail_of(segmenter.model, "stage").eval()
    whole_frame = _from_features(segmenter, tail, shape, frames, dataclasses.replace(CONFIG, crop=None), print)
    half = _from_features(segmenter, tail, shape, frames, dataclasses.replace(CONFIG, crop=(16, 32)), print)
    assert half.rate_weights == pytest.approx([2 * weight for weight in whole_frame.rate_weights])
    with pytest.raises(ValueError, match=r"features of \(2, 3\), which are no whole blocks of 2"):
        train_dense(segmenter, frames, truths, CONFIG, shape=shape)
    split = train_dense(segmenter, frames, truths, dataclasses.replace(CONFIG, crop=(16, 32)), shape=shape)
    encoder = split.bottleneck.encoder[-1]
    assert torch.equal(encoder.linear.weight, before)  # the transform stays, what stands beside it learns
    assert encoder.gate[-2].weight.abs().max() > 0


def test_from_pixels_there_is_nothing_before_a_training(segmenter: DenseNetwork, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="epochs is 0: a split from pixels is nothing before it is trained"):
        train_dense(segmenter, frames, None, dataclasses.replace(CONFIG, epochs=0), shape=SHAPE)


def test_bytes_are_held_against_the_references_at_equal_accuracy() -> None:
    reference = [{"bytes": 100, "miou": 40.0}, {"bytes": 400, "miou": 60.0}, {"bytes": 500, "miou": 55.0}]
    ours = [{"bytes": 50, "miou": 50.0}, {"bytes": 90, "miou": 61.0}]
    inside, above = bytes_over(ours, reference)
    assert inside["reference_bytes"] == pytest.approx(200)
    assert inside["over"] == pytest.approx(0.25)
    assert above["over"] is None


def test_the_tables_units_are_made_of_the_network_and_of_the_folders_frames(
    segmenter: DenseNetwork, frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int | None]] = []
    trained: list[DenseTraining] = []

    def load(folder: Path, split: str, *, limit: int | None = None) -> Segmented:
        asked.append((split, limit))
        truths = list((frames[..., 0] > 128).astype(np.uint8))
        return Segmented(names=tuple("abcd"), frames=list(frames), truths=truths)

    def train(*args: object, checkpoint: Path, **options: object) -> DenseSplit:
        assert isinstance(args[3], DenseTraining)
        trained.append(args[3])
        assert checkpoint.parent.is_dir()
        return DenseSplit(bottleneck=dense_bottleneck(SHAPE).eval(), tail=tail_of(segmenter.model, "stage"), head=None)

    monkeypatch.setattr(dense_units, "load_dense_network", lambda folder, name: segmenter)
    for module in (dense_units, dense_split_unit):
        monkeypatch.setattr(module, "load_camvid", load)
    monkeypatch.setattr(dense_split_unit, "train_dense", train)
    points = {}
    for unit in quick_plan():
        if unit.kind.startswith("dense_"):
            made = make_unit(unit, tmp_path, tmp_path / "work", lambda *told: None)
            points[f"{unit.method}/{unit.variant}"] = made["points"]
    assert list(points) == [
        "device_only/cgnet",
        "webp/cgnet",
        "dense_fitted/cgnet-features",
        "dense/cgnet-features",
        "cloud_lossless/cgnet",
    ]
    ((nothing,), webp, _, split, (everything,)) = points.values()
    assert (nothing["bytes"], nothing["accuracy"]) == (0, everything["accuracy"])
    assert [point["quality"] for point in webp] == [1, 90]
    assert [(point["level"], point["accuracy"] == point["miou"]) for point in split] == [(0, True), (1, True)]
    assert not {"method", "network", "frames"} & {key for of_unit in points.values() for row in of_unit for key in row}
    assert set(asked) == {("test", 2), ("train", 4)}
    assert [(config.epochs, config.crop) for config in trained] == [(0, None), (2, (64, 96))]


def test_a_network_without_a_shape_is_refused(segmenter: DenseNetwork, frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no cut is known for 'toy' from features"):
        train_dense(segmenter, frames, None, CONFIG)
