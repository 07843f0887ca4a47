"""A device of a dense task: label maps and boxes, the same watch over versions, and nothing chosen for the cloud."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the bundles are built here")

from dense_bundles import CLASS_NAMES, DETECTION, SEGMENTATION, frames

from littoral.bundle import Bundle
from littoral.cli.main import main
from littoral.core.detections import Detections
from littoral.core.tasks import Task
from littoral.edge.candidate import probe
from littoral.edge.dense import DenseAnswer, judge
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.http import answer_as_dict
from littoral.edge.session import Model
from littoral.errors import ModelOutputError

TASKS = pytest.mark.parametrize("task", [SEGMENTATION, DETECTION], ids=["segmentation", "detection"])


def columns(answer: Any) -> list[Any]:
    """An answer as lists."""
    parts = (answer.boxes_N4, answer.scores_N, answer.labels_N) if isinstance(answer, Detections) else (answer,)
    return [part.tolist() for part in parts]


@TASKS
def test_a_device_answers_as_the_task_reads_its_networks_output(dense_bundles: Path, task: Task[Any, Any]) -> None:
    bundle = Bundle.open(dense_bundles / task.name)
    expected = task.answers(Model(bundle).run(frames()))
    with Device(bundle, config=DeviceConfig(adapt_statistics=False)) as device:
        answers = [device.infer(frame) for frame in frames()]
        status = device.status()
    assert all(isinstance(answer, DenseAnswer) for answer in answers)
    assert [columns(a.answer)[-1] for a in answers] == [columns(e)[-1] for e in expected]
    assert [(a.frame_id, a.version, a.cloud, a.source, a.degraded) for a in answers[:2]] == [
        (1, 0, "none", "device", False),
        (2, 0, "none", "device", False),
    ]
    assert (status.frames, status.selected, status.accepted) == (12, 0, 0)


@TASKS
def test_statistics_follow_the_frames_without_labels(dense_bundles: Path, task: Task[Any, Any]) -> None:
    config = DeviceConfig(statistics_batch_frames=4, statistics_stride_frames=1)
    with Device(Bundle.open(dense_bundles / task.name), config=config) as device:
        for frame in frames() // 3:
            device.infer(frame)
            device.settle()
        status = device.status()
    assert status.measured_frames >= 12
    assert status.swaps >= 3


@TASKS
def test_a_version_is_probed_by_the_tasks_metric(dense_bundles: Path, task: Task[Any, Any]) -> None:
    bundle = Bundle.open(dense_bundles / task.name)
    source = dict(bundle.source_affine)
    with Device(bundle) as device:
        maintenance = device._maintenance
        same, none, broken = (
            probe(bundle, maintenance._build({name: change(value) for name, value in source.items()}))
            for change in (lambda v: v, lambda v: -2 * v - 1, lambda v: np.full_like(v, np.nan))
        )
    assert same == pytest.approx(1.0, abs=0.01)
    assert none < bundle.manifest.probe.min_agreement
    assert math.isnan(broken)


@pytest.mark.parametrize("wrong", [np.nan, 1.5], ids=["not-finite", "no-probability"])
def test_an_output_that_no_answer_can_be_made_of_is_an_error(dense_bundles: Path, wrong: float) -> None:
    output = np.full(DETECTION.output_shape, wrong, np.float32)
    with pytest.raises(ModelOutputError):
        judge(DETECTION, output)
    with Device(Bundle.open(dense_bundles / "detection")) as device:
        device._maintenance.model.run = lambda frames: output[None]  # type: ignore[method-assign]
        with pytest.raises(ModelOutputError, match="affine version 0 gave an output that cannot be answered with"):
            device.infer(frames()[0])


def test_how_unsure_a_device_is_is_told_of_pixels_and_not_of_boxes() -> None:
    assert judge(SEGMENTATION, np.zeros((3, 32, 32), np.float32)).entropy_nats == pytest.approx(math.log(3))
    assert judge(DETECTION, np.zeros(DETECTION.output_shape, np.float32)).entropy_nats == 0.0


def test_answers_are_told_as_json_and_as_words(
    dense_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "frames"
    images.mkdir()
    Image.fromarray(frames()[0]).save(images / "0.png")
    told: dict[str, Any] = {}
    for name in ("segmentation", "detection"):
        assert main(["edge", str(dense_bundles / name), str(images), "--no-adapt", "--json"]) == 0
        told[name] = json.loads(capsys.readouterr().out.splitlines()[0])
        assert main(["edge", str(dense_bundles / name), str(images), "--no-adapt"]) == 0
        told[f"{name} words"] = capsys.readouterr().out.splitlines()[0]
    assert sum(told["segmentation"]["pixels"].values()) == 32 * 32
    assert next(iter(told["segmentation"]["pixels"])) in told["segmentation words"]
    found = told["detection"]
    assert len(found["boxes"]) == len(found["scores"]) == len(found["labels"]) == len(found["names"]) > 0
    assert np.shape(found["boxes"])[1] == 4
    assert f"{len(found['boxes'])} boxes: {found['names'][0]} (" in told["detection words"]


def test_label_maps_are_written_as_pictures(
    dense_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, maps = tmp_path / "frames", tmp_path / "maps"
    images.mkdir()
    Image.fromarray(frames()[0]).save(images / "0.png")
    words = [str(images), "--no-adapt", "--maps", str(maps)]
    assert main(["edge", str(dense_bundles / "segmentation"), *words]) == 0
    (expected,) = SEGMENTATION.answers(Model(Bundle.open(dense_bundles / "segmentation")).run(frames()[:1]))
    np.testing.assert_array_equal(np.asarray(Image.open(maps / "1.png")), expected)
    assert main(["edge", str(dense_bundles / "detection"), *words]) == 2
    assert "--maps is for segmentation" in capsys.readouterr().err


def test_no_boxes_are_told_as_none() -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    told = answer_as_dict(DenseAnswer(1, nothing, 0, "none", 1.0), CLASS_NAMES)
    assert (told["boxes"], told["names"]) == ([], [])
