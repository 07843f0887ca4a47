"""A bundle for segmentation or detection: shapes, metrics and probe are the task's, and there is no teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="building needs the cloud extra")

from dense_bundles import CLASS_NAMES, DETECTION, SEGMENTATION, build_dense, frames, made, truths  # noqa: E402

from littoral.bundle import Bundle, Manifest  # noqa: E402
from littoral.core.tasks import Classification, Detection, Task  # noqa: E402
from littoral.errors import BundleError  # noqa: E402
from littoral.models.frames import normalise  # noqa: E402
from littoral.train import BuildOptions  # noqa: E402
from littoral.train.dense_losses import DetectionDistortion, SegmentationDistortion  # noqa: E402
from littoral.train.distortions import distortion_of  # noqa: E402
from littoral.train.sample import take_sample  # noqa: E402
from littoral.train.split_losses import ClassifierDistortion  # noqa: E402

TASKS = pytest.mark.parametrize("task", [SEGMENTATION, DETECTION], ids=["segmentation", "detection"])


def answers(task: Task[Any, Any], bundle: Bundle, frames_BHWC: np.ndarray) -> list[Any]:
    with torch.no_grad():
        outputs = made(task)(normalise(torch.from_numpy(frames_BHWC), bundle.manifest.input))
    return task.answers(outputs.numpy())


@TASKS
def test_the_bundle_says_what_the_task_is_and_how_good_the_source_is(dense_bundles: Path, task: Task[Any, Any]) -> None:
    bundle = Bundle.open(dense_bundles / task.name, require_cloud=True)
    manifest = bundle.manifest
    assert manifest.make_task() == task
    assert (manifest.teacher, manifest.replay_file, manifest.adapts) == (None, None, False)
    assert set(manifest.files) & {"cloud/teacher.safetensors", "cloud/replay.safetensors"} == set()
    assert manifest.statistics is not None
    metric = task.metric()
    metric.update(answers(task, bundle, frames()), truths(task))
    assert manifest.source_metrics[task.metric_name] == pytest.approx(metric.value(), abs=1e-3)
    assert ("mean_entropy_nats" in manifest.source_metrics) == (task is SEGMENTATION)


@TASKS
def test_the_probe_holds_what_the_source_answers(dense_bundles: Path, task: Task[Any, Any]) -> None:
    bundle = Bundle.open(dense_bundles / task.name)
    probed, metric = bundle.probe[0], task.metric()
    assert len(probed) == bundle.manifest.probe.num_frames == 4
    metric.update(answers(task, bundle, probed), bundle.probe_truths)
    assert metric.value() == pytest.approx(1.0, abs=0.01)
    metric = task.metric()
    metric.update(answers(task, bundle, probed[::-1].copy()), bundle.probe_truths)
    assert metric.value() < 0.6  # other frames' answers are not these


class Blind:
    """A session of a detector that sees nothing."""

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="frames")]

    def run(self, outputs: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.zeros((len(feeds["frames"]), *DETECTION.output_shape), np.float32)]


@pytest.mark.parametrize(
    ("task", "changes", "told"),
    [
        (SEGMENTATION, {"class_names": CLASS_NAMES[:2]}, "all three must say the same"),
        (
            SEGMENTATION,
            {"task": "segmentation", "class_names": CLASS_NAMES[:2]},
            r"gives \(3, 32, 32\) for a fr",
        ),
        (SEGMENTATION, {"task": "depth"}, "no task 'depth'; the tasks are classification"),
        (SEGMENTATION, {"source_labels": [np.zeros((4, 4), np.uint8)] * 12}, r"expected integers \(12, 32, 32\)"),
        (SEGMENTATION, {"options": BuildOptions(rehearsal_steps=3)}, "student for segmentation is not adapted"),
        (DETECTION, {"task": "classification"}, "needs a teacher: its student is adapted"),
        (DETECTION, {"task": "detection"}, r"takes \(21, 7\)"),
        (DETECTION, {"source_labels": [1] * 12}, "expected 12 of BoxTruth"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(
    tmp_path: Path, task: Task[Any, Any], changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        build_dense(task, tmp_path / "b", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_detector_that_finds_nothing_has_no_probe() -> None:
    with pytest.raises(ValueError, match=r"finds nothing with a score of 0\.3 or more on 4 source frames"):
        take_sample([Blind()], DETECTION, frames(), None, BuildOptions(probe_frames=4))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": "depth", "task_options": {}}, "a task that cannot be: there is no task 'depth'"),
        ({"task_options": {"stride": 8}}, "segmentation has no option 'stride'"),
        ({"task": "classification", "task_options": {}}, "has a teacher and a replay sample"),
    ],
)
def test_a_manifest_of_a_task_that_cannot_be_is_refused(
    dense_bundles: Path, changes: dict[str, Any], told: str
) -> None:
    manifest = Bundle.open(dense_bundles / "segmentation").manifest
    with pytest.raises(BundleError, match=told):
        Manifest.from_json(dataclasses.replace(manifest, **changes).to_json())


def test_each_task_has_its_loss() -> None:
    assert isinstance(distortion_of(Classification(num_classes=2)), ClassifierDistortion)
    assert isinstance(distortion_of(Detection(num_classes=2, input_height=8, input_width=8)), DetectionDistortion)
    assert distortion_of(SEGMENTATION) == SegmentationDistortion(ignored_label=9)
