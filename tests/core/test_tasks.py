"""Three tasks, one way to use them: outputs become answers, and answers are measured."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from littoral.core.arrays import FloatArray
from littoral.core.boxes import Letterbox
from littoral.core.detections import Detections
from littoral.core.metrics import BoxTruth, ClassAnswer
from littoral.core.tasks import TASK_NAMES, Classification, Detection, Segmentation, Task, task_of
from littoral.errors import ModelOutputError


def make(name: str) -> Task[Any, Any]:
    return task_of(name, num_classes=3, input_height=16, input_width=24)


def head(*cells: tuple[int, tuple[float, ...]]) -> FloatArray:
    """The output of a detector of 3 classes on 16 x 24 pixels with a stride of 8; silent but for some cells."""
    outputs = np.zeros((1, 6, 8), dtype=np.float32)
    for cell, values in cells:
        outputs[0, cell] = values
    return outputs


# All tasks alike.


def test_every_task_has_its_name_and_an_output_that_follows_from_the_manifest() -> None:
    assert {name: make(name).output_shape for name in TASK_NAMES} == {
        "classification": (3,),
        "segmentation": (3, 16, 24),
        # Strides 8, 16 and 32: 2 x 3, 1 x 2 and 1 cells.
        "detection": (9, 8),
    }
    assert [make(name).name for name in TASK_NAMES] == list(TASK_NAMES)


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no task 'depth'; the tasks are classification, segmentation, detection"):
        make("depth")


@pytest.mark.parametrize("name", TASK_NAMES)
def test_answers_are_one_per_frame_and_the_metric_takes_them(name: str) -> None:
    task = make(name)
    outputs = np.random.default_rng(0).random((4, *task.output_shape), dtype=np.float32)
    answers = task.answers(outputs)
    assert len(answers) == 4
    truths = {
        "classification": lambda: [answer.label for answer in answers],
        "segmentation": lambda: answers,
        "detection": lambda: [BoxTruth(answer.boxes_N4, answer.labels_N) for answer in answers],
    }[name]()
    metric = task.metric()
    metric.update(answers, truths)
    assert metric.value() == pytest.approx(1)
    metric.update(answers[:1], [(truths[0] + 1) % 3] if name == "classification" else truths[1:2])
    assert metric.value() < 1


@pytest.mark.parametrize("name", TASK_NAMES)
def test_a_batch_is_answered_as_its_frames_alone(name: str) -> None:
    task = make(name)
    outputs = np.random.default_rng(1).random((3, *task.output_shape), dtype=np.float32)
    for answer, output in zip(task.answers(outputs), outputs, strict=True):
        (alone,) = task.answers(output[None])
        parts = (lambda one: vars(one).values()) if name == "detection" else (lambda one: [one])
        for ours, theirs in zip(parts(answer), parts(alone), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_a_batch_of_nothing_has_no_answers(name: str) -> None:
    task = make(name)
    assert task.answers(np.zeros((0, *task.output_shape), dtype=np.float32)) == []


@pytest.mark.parametrize("name", TASK_NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_refused_with_the_frame(name: str, value: float) -> None:
    task = make(name)
    outputs = np.zeros((3, *task.output_shape), dtype=np.float32)
    task.answers(outputs)
    outputs[1].flat[-1] = value
    with pytest.raises(ModelOutputError, match="not finite for frame 1"):
        task.answers(outputs)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_outputs_of_another_kind_are_refused_with_what_is_taken(name: str) -> None:
    task = make(name)
    words = rf"{name} with 3 classes takes float32 \(batch, {', '.join(map(str, task.output_shape))}\)"
    right = np.zeros((2, *task.output_shape), dtype=np.float32)
    for wrong in (right[0], right[..., :-1], right.astype(np.float64), np.zeros((), np.float32)):
        with pytest.raises(ValueError, match=words):
            task.check(wrong)


@pytest.mark.parametrize(
    ("name", "num_classes", "size", "words"),
    [
        ("classification", 1, 8, "at least 2 classes, got 1"),
        ("segmentation", 1, 8, "at least 2 classes, got 1"),
        ("segmentation", 256, 8, "num_classes 256"),
        ("detection", 0, 8, "at least 1 classes, got 0"),
        ("classification", 2, 0, "at least 1 x 1 pixels"),
        ("detection", 2, 0, "at least 1 x 1 pixels"),
    ],
)
def test_a_task_that_cannot_be_is_refused(name: str, num_classes: int, size: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        task_of(name, num_classes=num_classes, input_height=size, input_width=size)


# Each by itself.


def test_a_label_comes_with_its_probability() -> None:
    outputs = np.array([[0, math.log(2), 0], [1, 1, 1]], dtype=np.float32)
    first, tie = Classification(num_classes=3).answers(outputs)
    assert first == ClassAnswer(1, pytest.approx(0.5))
    assert tie == ClassAnswer(0, pytest.approx(1 / 3))


def test_scores_far_apart_do_not_overflow() -> None:
    (answer,) = Classification(num_classes=2).answers(np.array([[3e38, -3e38]], dtype=np.float32) / 4)
    assert answer == ClassAnswer(0, 1.0)


def test_a_label_map_has_the_class_of_every_pixel() -> None:
    task = Segmentation(num_classes=3, input_height=2, input_width=2, ignored_label=11)
    outputs = np.zeros((1, 3, 2, 2), dtype=np.float32)
    outputs[0, 2, 0, 1] = outputs[0, 1, 1, 0] = 1
    (answer,) = task.answers(outputs)
    assert answer.dtype == np.uint8
    assert answer.tolist() == [[0, 2], [1, 0]]
    metric = task.metric()
    metric.update([answer], [np.array([[11, 2], [1, 11]], dtype=np.uint8)])
    assert metric.value() == 1


def test_an_ignored_label_that_is_a_class_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="ignored_label 2"):
        Segmentation(num_classes=3, input_height=2, input_width=2, ignored_label=2)


def test_boxes_go_from_the_head_to_the_frame() -> None:
    task = Detection(num_classes=3, input_height=16, input_width=24, strides=(8,), score_min=0.25)
    # Cells 4 and 5 say nearly the same box, cell 0 another class's, cell 1 one that is not sure enough.
    outputs = head(
        (0, (1.5, 1.5, 0, 0, 1, 0, 0.5, 0)),
        (1, (0, 0, 0, 0, 0.5, 0, 0, 0.49)),
        (4, (0.5, 0.5, 0, 0, 1, 0.5, 0.25, 0)),
        (5, (-0.5, 0.5, 0, 0, 0.75, 1, 0, 0)),
    )
    (answer,) = task.answers(outputs)
    assert answer.labels_N.tolist() == [0, 1]
    assert answer.scores_N.tolist() == [0.75, 0.5]
    np.testing.assert_allclose(answer.boxes_N4, [[8, 8, 16, 16], [8, 8, 16, 16]])
    letterbox = Letterbox(frame_height=32, frame_width=48, input_height=16, input_width=24)
    np.testing.assert_allclose(answer.to_frame(letterbox).boxes_N4, [[16, 16, 32, 32]] * 2)


def test_a_detector_keeps_to_its_limits() -> None:
    sure = head(*((cell, (0, 0, 0, 0, 1, 1, 0, 0)) for cell in range(6)))
    for max_boxes, count in ((100, 6), (2, 2)):
        task = Detection(num_classes=3, input_height=16, input_width=24, strides=(8,), max_boxes=max_boxes)
        assert [len(answer) for answer in task.answers(sure)] == [count]
    wide = head(*((cell, (0, 0, 9, 9, 1, 1, 0, 0)) for cell in range(6)))
    for iou_max, count in ((0.65, 1), (1.0, 6)):
        task = Detection(num_classes=3, input_height=16, input_width=24, strides=(8,), iou_max=iou_max)
        assert [len(answer) for answer in task.answers(wide)] == [count]


@pytest.mark.parametrize(
    "wrong",
    [{"score_min": -0.1}, {"score_min": 1.1}, {"iou_max": 1.5}, {"max_boxes": 0}, {"strides": ()}, {"strides": (8, 0)}],
    ids=str,
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must hold|strides"):
        Detection(num_classes=3, input_height=16, input_width=24, **wrong)


# What a bundle and a device need of a task.


@pytest.mark.parametrize(
    "task",
    [
        Classification(num_classes=3),
        Segmentation(num_classes=3, input_height=16, input_width=24, ignored_label=11),
        Detection(num_classes=3, input_height=16, input_width=24, strides=(8, 4), score_min=0.2),
    ],
    ids=TASK_NAMES,
)
def test_what_json_keeps_of_a_task_makes_it_again(task: Task[Any, Any]) -> None:
    options = json.loads(json.dumps(task.options))
    assert task_of(task.name, num_classes=3, input_height=16, input_width=24, options=options) == task
    assert make(task.name).options == {}


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("classification", {"ignored_label": 3}, "has no option 'ignored_label'; it has none"),
        ("segmentation", {"strides": [8]}, "has no option 'strides'; it has ignored_label"),
        ("segmentation", {"ignored_label": 11.0}, "'ignored_label' is 11.0, expected the like of 255"),
        ("detection", {"strides": [8, True]}, "expected the like of"),
        ("detection", {"strides": 8}, "expected the like of"),
        ("detection", {"max_boxes": "all"}, "expected the like of 100"),
        ("detection", {"score_min": 2}, "within"),
        ("detection", {"max_boxes": 65_536}, "1 <= max_boxes <= 65535 must hold"),
    ],
)
def test_options_from_a_file_that_are_none_are_refused(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        task_of(name, num_classes=3, input_height=16, input_width=24, options=options)


def test_entropy_is_in_nats_and_of_large_frames_taken_on_some_pixels() -> None:
    even, sure = np.zeros(3, np.float32), np.float32([90, 0, 0])
    entropies = Classification(num_classes=3).entropies(np.stack([even, sure]))
    np.testing.assert_allclose(entropies, [math.log(3), 0], atol=1e-6)
    task = Segmentation(num_classes=3, input_height=256, input_width=256)
    outputs = np.zeros((1, *task.output_shape), dtype=np.float32)
    outputs[:, 0, :128] = 90
    np.testing.assert_allclose(task.entropies(outputs), [math.log(3) / 2], rtol=1e-5)
    assert make("detection").entropies(np.zeros((1, 9, 8), np.float32)) is None


def test_a_detectors_answer_as_truth_is_what_it_is_sure_of() -> None:
    boxes = np.float32([[0, 0, 8, 8], [8, 8, 8, 16], [0, 0, 4, 4]])
    found = Detections(boxes, np.float32([0.9, 0.8, 0.2]), np.array([1, 1, 2]))
    task = make("detection")
    truth = task.as_truth(found)
    assert truth.boxes_N4.tolist() == [[0, 0, 8, 8]]
    metric = task.metric()
    metric.update([found], [truth])
    assert metric.value() == pytest.approx(1.0)
