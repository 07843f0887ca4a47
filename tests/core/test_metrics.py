"""Metrics against cases worked out by hand, their definitions told plainly and, where it is, COCO's own code."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from littoral.core.boxes import convert_boxes, iou_matrix
from littoral.core.detections import Detections
from littoral.core.metrics import (
    IOU_THRESHOLDS_T,
    Accuracy,
    AveragePrecision,
    BoxTruth,
    ClassAnswer,
    MeanIoU,
    Metric,
)

Row = tuple[tuple[int, int, int, int], float, int]
Object = tuple[tuple[int, int, int, int], int, bool]
Frame = tuple[list[Row], list[Object]]

A, B, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)


def detections(rows: Sequence[Row]) -> Detections:
    return Detections(
        np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], dtype=np.float32),
        np.array([row[2] for row in rows], dtype=np.int64),
    )


def objects(rows: Sequence[Object]) -> BoxTruth:
    return BoxTruth(
        np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=bool),
    )


def precision_of(frames: Sequence[Frame], num_classes: int = 2) -> AveragePrecision:
    metric = AveragePrecision(num_classes)
    metric.update([detections(rows) for rows, _ in frames], [objects(rows) for _, rows in frames])
    return metric


@st.composite
def scenes(draw: st.DrawFn, max_frames: int = 4) -> list[Frame]:
    """Frames with objects, crowds, and detections near them: on whole pixels, with ties of scores and of overlaps."""
    frames: list[Frame] = []
    number = st.integers(0, 4)
    for _ in range(draw(st.integers(1, max_frames))):
        rows: list[Row] = []
        truths: list[Object] = []
        for _ in range(draw(st.integers(0, 5))):
            x, y, width, height = draw(st.tuples(number, number, st.integers(1, 8), st.integers(1, 8)))
            truths.append(((x, y, x + width, y + height), draw(st.integers(0, 2)), draw(st.integers(0, 4)) == 0))
        for _ in range(draw(st.integers(0, 7))):
            x, y, width, height = draw(st.tuples(number, number, st.integers(1, 8), st.integers(1, 8)))
            box, label = (x, y, x + width, y + height), draw(st.integers(0, 2))
            if truths and draw(st.booleans()):
                box, label, _ = draw(st.sampled_from(truths))
            rows.append((box, draw(st.integers(1, 5)) / 8, label))
        frames.append((rows, truths))
    return frames


def plain_precision(frames: Sequence[Frame], label: int, threshold: float) -> float | None:
    """The average precision by its definition: one detection, one object at a time; None for a class without truth."""
    judged: list[tuple[float, str]] = []
    num_objects = 0
    for rows, truths in frames:
        of_label = [row for row in truths if row[1] == label]
        num_objects += sum(not is_crowd for _, _, is_crowd in of_label)
        taken: set[int] = set()
        for box, score, _ in sorted((row for row in rows if row[2] == label), key=lambda row: -row[1])[:100]:
            best, best_overlap, verdict = None, threshold, "wrong"
            for place, (other, _, is_crowd) in enumerate(of_label):
                overlap = iou_matrix(
                    np.array([box], np.float32), np.array([other], np.float32), crowd_M=np.array([is_crowd])
                )[0, 0]
                if is_crowd or place in taken or overlap < best_overlap:
                    verdict = "ignored" if is_crowd and verdict == "wrong" and overlap >= threshold else verdict
                    continue
                best, best_overlap, verdict = place, overlap, "right"
            if best is not None:
                taken.add(best)
            judged.append((score, verdict))
    if not num_objects:
        return None
    curve, right, wrong = [], 0, 0
    for _, verdict in sorted(judged, key=lambda one: -one[0]):
        right, wrong = right + (verdict == "right"), wrong + (verdict == "wrong")
        curve.append((right / num_objects, right / max(right + wrong, 1)))
    at = [max((p for recall, p in curve if recall >= wanted), default=0.0) for wanted in np.linspace(0, 1, 101)]
    return sum(at) / 101


# Accuracy and calibration.


def test_accuracy_and_calibration_worked_out_by_hand() -> None:
    metric = Accuracy()
    metric.update([ClassAnswer(1, 0.95), ClassAnswer(2, 0.95), ClassAnswer(0, 0.5)], [1, 0, 0])
    assert metric.count == 3
    assert metric.value() == pytest.approx(2 / 3)
    # Bin of 0.95: one of two is right, |0.5 - 0.95| twice; bin of 0.5: |1 - 0.5| once.
    assert metric.calibration_error() == pytest.approx((2 * 0.45 + 0.5) / 3)


def test_a_bin_of_confidence_holds_its_upper_edge_and_the_first_one_0() -> None:
    metric = Accuracy()
    # 0 and 1 / 15 share a bin, with 1 right and confidences of 1 / 15 in all; apart they would err by (1 + 1 / 15) / 2.
    metric.update([ClassAnswer(0, 0.0), ClassAnswer(0, 1 / 15)], [0, 1])
    assert metric.calibration_error() == pytest.approx((1 - 1 / 15) / 2)
    edge = Accuracy()
    edge.update([ClassAnswer(0, 1 / 15), ClassAnswer(0, 1 / 15 + 0.01)], [0, 1])
    assert edge.calibration_error() == pytest.approx((14 / 15 + 1 / 15 + 0.01) / 2)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_a_confidence_that_is_no_probability_is_refused_and_nothing_counted(confidence: float) -> None:
    metric = Accuracy()
    with pytest.raises(ValueError, match="probability"):
        metric.update([ClassAnswer(0, 0.5), ClassAnswer(0, confidence)], [0, 0])
    assert metric.count == 0


# Mean IoU.


def maps(*rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.uint8) for row in rows]


def test_mean_iou_worked_out_by_hand() -> None:
    metric = MeanIoU(3)
    metric.update(maps([[0, 0, 1, 1]]), maps([[0, 1, 1, 255]]))
    # Class 0: 1 of 2. Class 1: 1 of 2, the ignored pixel aside. Class 2: nowhere.
    assert metric.per_class() == {0: 0.5, 1: 0.5}
    assert metric.value() == 0.5
    assert metric.pixel_accuracy() == pytest.approx(2 / 3)


def test_a_class_answered_but_in_no_truth_counts_as_0() -> None:
    metric = MeanIoU(3)
    metric.update(maps([[0, 0, 2, 0]]), maps([[0, 0, 0, 0]]))
    assert metric.per_class() == {0: 0.75, 2: 0.0}
    assert metric.value() == 0.375


def test_pixels_of_all_frames_count_together_not_frame_by_frame() -> None:
    metric = MeanIoU(2)
    metric.update(maps([[0, 0, 0, 0]], [[0, 1]]), maps([[0, 0, 0, 0]], [[1, 1]]))
    assert metric.per_class() == {0: 4 / 5, 1: 1 / 2}


@given(
    npst.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3)),
    npst.arrays(np.uint8, (3, 4, 5), elements=st.sampled_from([0, 1, 2, 3, 11])),
)
@settings(max_examples=50, deadline=None)
def test_iou_is_that_of_sets_of_pixels(answers: np.ndarray, truths: np.ndarray) -> None:
    metric = MeanIoU(4, ignored_label=11)
    metric.update(list(answers), list(truths))
    known = truths != 11
    expected = {}
    for label in range(4):
        one, two = (answers == label) & known, (truths == label) & known
        if (one | two).any():
            expected[label] = (one & two).sum() / (one | two).sum()
    assert metric.per_class() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "truth", "words"),
    [
        ([[0, 3]], [[0, 1]], "below 3, got 0 to 3 in the answer"),
        ([[0, 1]], [[0, 3]], "below 3, got 0 to 3 in the truth"),
        ([[0, 1, 2]], [[0, 1]], "bring them to one size"),
    ],
    ids=["answer", "truth", "size"],
)
def test_label_maps_that_do_not_fit_are_refused_and_nothing_counted(
    answer: list[list[int]], truth: list[list[int]], words: str
) -> None:
    metric = MeanIoU(3)
    with pytest.raises(ValueError, match=words):
        metric.update(maps([[0, 1]], answer), maps([[0, 1]], truth))
    assert not metric.confusion_KK.any()


@pytest.mark.parametrize(("num_classes", "ignored"), [(0, 255), (256, 255), (11, 10), (11, 256)])
def test_an_ignored_label_lies_outside_the_classes(num_classes: int, ignored: int) -> None:
    with pytest.raises(ValueError, match="num_classes <= ignored_label <= 255"):
        MeanIoU(num_classes, ignored_label=ignored)


# Average precision.


def test_a_curve_worked_out_by_hand() -> None:
    frame: Frame = ([(A, 0.9, 0), (FAR, 0.8, 0), (B, 0.7, 0)], [(A, 0, False), (B, 0, False)])
    # Precision 1 up to recall 0.5 (51 of the 101 recalls), then 2 of 3 up to recall 1 (50 of them).
    assert precision_of([frame]).value() == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_that_overlaps_by_three_quarters_is_found_at_six_thresholds() -> None:
    # 300 of 400 is exactly 0.75: right at 0.50 to 0.75, wrong above.
    frame: Frame = ([((0, 0, 30, 10), 0.9, 1)], [((0, 0, 40, 10), 1, False)])
    metric = precision_of([frame])
    assert metric.per_class()[1].tolist() == pytest.approx([1] * 6 + [0] * 4)
    assert metric.value() == pytest.approx(0.6)
    assert (metric.at_iou_50(), metric.at_iou_75()) == pytest.approx((1, 1))


def test_ap75_is_not_ap50() -> None:
    metric = precision_of([([((0, 0, 25, 10), 0.9, 1)], [((0, 0, 40, 10), 1, False)])])
    assert (metric.at_iou_50(), metric.at_iou_75()) == pytest.approx((1, 0))


def test_an_object_is_found_once() -> None:
    twice: Frame = ([(A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0)], [(A, 0, False), (B, 0, False)])
    assert precision_of([twice]).value() == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_of_two_objects_overlapped_alike_the_later_is_taken() -> None:
    # The surer detection lies between the two objects, 80 of 120 shared with each; the other one lies on the left.
    left, right = A, (4, 0, 14, 10)
    rows: list[Row] = [((2, 0, 12, 10), 0.9, 0), (left, 0.8, 0)]
    assert precision_of([(rows, [(left, 0, False), (right, 0, False)])]).at_iou_50() == pytest.approx(1)
    assert precision_of([(rows, [(right, 0, False), (left, 0, False)])]).at_iou_50() == pytest.approx(51 / 101)


def test_within_a_crowd_nothing_is_right_or_wrong() -> None:
    many = [(A, 0.9, 0), (A, 0.8, 0), ((2, 2, 8, 8), 0.7, 0)]
    frame: Frame = ([*many, (B, 0.6, 0)], [((0, 0, 15, 15), 0, True), (B, 0, False)])
    assert precision_of([frame]).value() == pytest.approx(1)
    control: Frame = (frame[0], [((0, 0, 15, 15), 0, False), (B, 0, False)])
    assert precision_of([control]).value() < 0.5


def test_an_object_comes_before_the_crowd_around_it() -> None:
    frame: Frame = ([((0, 0, 10, 6), 0.9, 0)], [((0, 0, 40, 40), 0, True), (A, 0, False)])
    # Right where 0.6 is enough, of no account above.
    assert precision_of([frame]).per_class()[0][:2].tolist() == pytest.approx([1, 1])


def test_classes_without_a_truth_are_left_out_of_the_mean() -> None:
    metric = precision_of([([(A, 0.9, 0), (FAR, 0.9, 1)], [(A, 0, False), (FAR, 1, True)])], num_classes=5)
    assert list(metric.per_class()) == [0]
    assert metric.value() == pytest.approx(1)


def test_a_class_with_a_truth_and_no_detection_counts_as_0() -> None:
    assert precision_of([([(A, 0.9, 0)], [(A, 0, False), (B, 1, False)])]).value() == pytest.approx(0.5)


def test_a_detection_on_a_frame_without_objects_is_wrong() -> None:
    right: Frame = ([(A, 0.8, 0)], [(A, 0, False)])
    assert precision_of([right, ([(B, 0.9, 0)], [])]).value() == pytest.approx(0.5)


def test_the_hundred_surest_of_a_frame_and_class_count() -> None:
    wrong: list[Row] = [(FAR, 0.9, 0)] * 99
    seen: Frame = ([*wrong, (A, 0.1, 0)], [(A, 0, False)])
    unseen: Frame = ([*wrong, (FAR, 0.9, 0), (A, 0.1, 0)], [(A, 0, False)])
    assert precision_of([seen]).value() == pytest.approx(0.01)
    assert precision_of([unseen]).value() == 0


@given(scenes())
@settings(max_examples=40, deadline=None)
def test_average_precision_is_the_one_of_the_definition(frames: list[Frame]) -> None:
    found = precision_of(frames, num_classes=3).per_class()
    for label in range(3):
        for t in (0, 5, 9):
            plain = plain_precision(frames, label, float(IOU_THRESHOLDS_T[t]))
            if plain is None:
                assert label not in found
            else:
                assert found[label][t] == pytest.approx(plain, abs=1e-12)


@given(scenes(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_boxes_without_ties_does_not_matter(frames: list[Frame], random: Random) -> None:
    apart: list[Frame] = []
    shuffled: list[Frame] = []
    for i, (rows, truths) in enumerate(frames):
        distinct = [(box, score + 0.001 * n + 0.0001 * i, label) for n, (box, score, label) in enumerate(rows)]
        apart.append((distinct, truths))
        mixed = list(distinct)
        random.shuffle(mixed)
        shuffled.append((mixed, truths))
    one, two = (precision_of(each, num_classes=3).per_class() for each in (apart, shuffled))
    assert one.keys() == two.keys()
    for label in one:
        np.testing.assert_array_equal(one[label], two[label])


def coco_values(frames: Sequence[Frame], num_classes: int) -> np.ndarray:
    """AP, AP50 and AP75 by pycocotools."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed, which Littoral does not need")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    annotations, results = [], []
    for image_id, (rows, truths) in enumerate(frames, start=1):
        for box, label, is_crowd in truths:
            sized = convert_boxes(np.array(box), given="corners", wanted="sized").tolist()
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "bbox": sized}
                | {"area": sized[2] * sized[3], "iscrowd": int(is_crowd)}
            )
        for box, score, label in rows:
            sized = convert_boxes(np.array(box), given="corners", wanted="sized").tolist()
            results.append({"image_id": image_id, "category_id": label, "bbox": sized, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = coco.COCO()
        theirs.dataset = {
            "info": {},
            "images": [{"id": n + 1} for n in range(len(frames))],
            "categories": [{"id": n} for n in range(num_classes)],
            "annotations": annotations,
        }
        theirs.createIndex()
        run = evaluation.COCOeval(theirs, theirs.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return np.array(run.stats[:3])


def test_average_precision_is_that_of_cocos_own_code() -> None:
    rng = np.random.default_rng(4)
    for _ in range(6):
        frames: list[Frame] = []
        for _ in range(8):
            corners = rng.integers(0, 40, size=(12, 2))
            sizes = rng.integers(4, 20, size=(12, 2))
            cases = [(int(x), int(y), int(x + w), int(y + h)) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
            truths: list[Object] = [(box, int(rng.integers(3)), bool(rng.random() < 0.2)) for box in cases[:6]]
            rows: list[Row] = [(box, float(rng.integers(1, 16)) / 16, int(rng.integers(3))) for box in cases[6:]]
            for box, label, _ in truths:
                x0, y0, x1, y1 = (int(v) for v in np.array(box) + rng.integers(-1, 2, size=4))
                rows.append(((x0, y0, x1, y1), float(rng.integers(1, 16)) / 16, label))
            frames.append((rows, truths))
        ours = precision_of(frames, num_classes=4)
        expected = coco_values(frames, num_classes=4)
        assert (ours.value(), ours.at_iou_50(), ours.at_iou_75()) == pytest.approx(tuple(expected), abs=1e-9)
        assert 0.05 < ours.value() < 0.95


@pytest.mark.parametrize(
    ("boxes", "labels", "crowd", "words"),
    [
        ([A], [0, 1], None, "as many labels"),
        ([A], [0], [True, False], "as many bools"),
        ([A], [0], [0], "as many bools"),
        ([(5, 0, 0, 5)], [0], None, "x_min <= x_max"),
    ],
    ids=["labels", "crowd", "crowd-of-numbers", "inside-out"],
)
def test_a_truth_that_does_not_go_together_is_refused(
    boxes: list[tuple[int, ...]], labels: list[int], crowd: list[int] | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        BoxTruth(np.array(boxes, np.float32), np.array(labels), None if crowd is None else np.array(crowd))


@pytest.mark.parametrize("frame", [([(A, 0.9, 2)], []), ([], [(A, 2, False)])], ids=["in-a-detection", "in-a-truth"])
def test_a_label_that_is_no_class_is_refused_and_nothing_counted(frame: Frame) -> None:
    metric = precision_of([([(A, 0.9, 0)], [(A, 0, False)])])
    answers, truths = [detections([(FAR, 1.0, 0)]), detections(frame[0])], [objects([]), objects(frame[1])]
    with pytest.raises(ValueError, match="below 2, got 2"):
        metric.update(answers, truths)
    assert metric.value() == pytest.approx(1)


# What all of them have in common.

METRICS = {"accuracy": Accuracy, "mean-iou": lambda: MeanIoU(3), "average-precision": lambda: AveragePrecision(3)}


def stream(name: str) -> tuple[list[object], list[object]]:
    """Twelve frames of answers and truths."""
    rng = np.random.default_rng(1)
    if name == "accuracy":
        labels = rng.integers(3, size=(12, 2)).tolist()
        return [ClassAnswer(one, float(c)) for (one, _), c in zip(labels, rng.random(12), strict=True)], [
            two for _, two in labels
        ]
    if name == "mean-iou":
        return list(rng.integers(3, size=(12, 4, 4)).astype(np.uint8)), list(
            rng.integers(3, size=(12, 4, 4)).astype(np.uint8)
        )
    places = rng.integers(0, 5, size=(12, 3)).tolist()
    rows = [[((x, 0, x + 9, 9), float(s), x % 3) for x, s in zip(xs, rng.random(3), strict=True)] for xs in places]
    truths = [[((x + x % 2, 0, x + 9, 9), x % 3, x == 4) for x in xs] for xs in places]
    return [detections(row) for row in rows], [objects(row) for row in truths]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("cuts", [(0, 12), (0, 1, 12), (0, 5, 5, 7, 12)], ids=["whole", "two", "four-one-empty"])
def test_merged_parts_are_the_whole(name: str, cuts: tuple[int, ...]) -> None:
    answers, truths = stream(name)
    whole: Metric[object, object] = METRICS[name]()
    whole.update(answers, truths)
    merged: Metric[object, object] = METRICS[name]()
    for start, stop in pairwise(cuts):
        part: Metric[object, object] = METRICS[name]()
        part.update(answers[start:stop], truths[start:stop])
        merged.merge(part)
        before = part.value() if start < stop else None
        merged.update([], [])
        assert before is None or part.value() == before
    assert merged.value() == pytest.approx(whole.value(), abs=1e-12)
    assert 0 < whole.value() < 1


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_that_was_merged_is_left_as_it_was(name: str) -> None:
    answers, truths = stream(name)
    part, merged = METRICS[name](), METRICS[name]()
    part.update(answers[:6], truths[:6])
    before = part.value()
    merged.merge(part)
    merged.update(answers[6:], truths[6:])
    assert part.value() == before


@pytest.mark.parametrize("name", METRICS)
def test_before_the_first_truth_there_is_no_value(name: str) -> None:
    metric = METRICS[name]()
    metric.update([], [])
    with pytest.raises(ValueError, match="has seen no truth"):
        metric.value()


@pytest.mark.parametrize("name", METRICS)
def test_an_answer_without_a_truth_is_refused(name: str) -> None:
    answers, truths = stream(name)
    with pytest.raises(ValueError, match="12 answers came with 11 truths"):
        METRICS[name]().update(answers, truths[1:])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MeanIoU(3), MeanIoU(4)),
        (MeanIoU(3), MeanIoU(3, ignored_label=3)),
        (AveragePrecision(3), AveragePrecision(4)),
    ],
    ids=["classes", "ignored-label", "detectors"],
)
def test_metrics_of_other_settings_are_not_merged(ours: Metric, theirs: Metric) -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        ours.merge(theirs)
