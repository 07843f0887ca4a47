"""A detector's output becomes boxes, and of boxes on one object the surest stays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.arrays import FloatArray
from littoral.core.boxes import Letterbox, iou_matrix
from littoral.core.detections import Detections, best_class, decode_grid, num_cells, suppress
from littoral.errors import ModelOutputError

SQUARE = (0, 0, 10, 10)


def found(*rows: tuple[tuple[float, ...], float, int]) -> Detections:
    """Detections from rows of box, score and label."""
    return Detections(
        np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], dtype=np.float32),
        np.array([row[2] for row in rows], dtype=np.int64),
    )


@st.composite
def crowded(draw: st.DrawFn) -> Detections:
    """Boxes that overlap a lot, with few different scores, so that there are ties."""
    rows = []
    for _ in range(draw(st.integers(0, 25))):
        x, y = draw(st.integers(0, 6)), draw(st.integers(0, 6))
        width, height = draw(st.integers(0, 6)), draw(st.integers(0, 6))
        rows.append(((x, y, x + width, y + height), draw(st.integers(1, 4)) / 4, draw(st.integers(0, 2))))
    return found(*rows)


def suppressed_plainly(candidates: Detections, iou_max: float, max_boxes: int) -> list[int]:
    """The same by the definition, one pair at a time."""
    kept: list[int] = []
    for i in sorted(range(len(candidates)), key=lambda n: (-candidates.scores_N[n], n)):
        rivals = [k for k in kept if candidates.labels_N[k] == candidates.labels_N[i]]
        overlaps = iou_matrix(candidates.boxes_N4[[i]], candidates.boxes_N4[rivals])[0]
        if len(kept) < max_boxes and not (overlaps > iou_max).any():
            kept.append(i)
    return kept


def head(input_height: int, input_width: int, strides: tuple[int, ...], num_classes: int = 2) -> FloatArray:
    """A head's output that says nothing, for one frame."""
    cells = num_cells(input_height=input_height, input_width=input_width, strides=strides)
    return np.zeros((1, cells, 5 + num_classes), dtype=np.float32)


# Suppression.


def test_the_surest_of_a_class_stays_and_other_classes_do_too() -> None:
    shifted, far = (1, 0, 11, 10), (30, 30, 40, 40)
    kept = suppress(
        found((shifted, 0.6, 0), (SQUARE, 0.9, 0), (SQUARE, 0.8, 1), (far, 0.1, 0)), iou_max=0.5, max_boxes=9
    )
    assert kept.labels_N.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(kept.boxes_N4, np.array([SQUARE, SQUARE, far], dtype=np.float32))
    np.testing.assert_array_equal(kept.scores_N, np.array([0.9, 0.8, 0.1], dtype=np.float32))


@pytest.mark.parametrize(("iou_max", "count"), [(0.49, 1), (0.5, 2)], ids=["more", "exactly"])
def test_an_overlap_of_exactly_the_threshold_stays(iou_max: float, count: int) -> None:
    assert len(suppress(found((SQUARE, 0.9, 0), ((0, 0, 10, 5), 0.8, 0)), iou_max=iou_max, max_boxes=9)) == count


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = found((SQUARE, 0.9, 0), ((4, 0, 14, 10), 0.8, 0), ((8, 0, 18, 10), 0.7, 0))
    assert suppress(chain, iou_max=0.4, max_boxes=9).scores_N.tolist() == pytest.approx([0.9, 0.7])


def test_of_equal_scores_the_earlier_one_stays() -> None:
    twins = found(((0, 0, 10, 9), 0.5, 0), (SQUARE, 0.5, 0), ((50, 0, 60, 9), 0.5, 1))
    kept = suppress(twins, iou_max=0.5, max_boxes=9)
    assert kept.boxes_N4.tolist() == [[0, 0, 10, 9], [50, 0, 60, 9]]


@given(crowded(), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(1, 8))
@settings(max_examples=120, deadline=None)
def test_suppression_is_the_one_of_the_definition(candidates: Detections, iou_max: float, max_boxes: int) -> None:
    kept = suppress(candidates, iou_max=iou_max, max_boxes=max_boxes)
    expected = candidates[np.array(suppressed_plainly(candidates, iou_max, max_boxes), dtype=np.int64)]
    for ours, plain in zip(
        (kept.boxes_N4, kept.scores_N, kept.labels_N),
        (expected.boxes_N4, expected.scores_N, expected.labels_N),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, plain)
    again = suppress(kept, iou_max=iou_max, max_boxes=max_boxes)
    np.testing.assert_array_equal(again.boxes_N4, kept.boxes_N4)


@pytest.mark.parametrize(("iou_max", "max_boxes"), [(-0.1, 1), (1.1, 1), (math.nan, 1), (0.5, 0)])
def test_suppression_refuses_what_makes_no_sense(iou_max: float, max_boxes: int) -> None:
    with pytest.raises(ValueError, match="must hold"):
        suppress(found((SQUARE, 0.9, 0)), iou_max=iou_max, max_boxes=max_boxes)


# Decoding.


def test_a_box_worked_out_by_hand() -> None:
    outputs = head(32, 64, (8, 16))
    # The grid of stride 8 has 4 rows of 8; row 1, column 2 of the grid of stride 16 follows it.
    cell = 4 * 8 + 1 * 4 + 2
    outputs[0, cell] = (0.5, -0.25, math.log(2), 0, 0.5, 0.2, 0.8)
    boxes_BA4, scores_BAK = decode_grid(outputs, input_height=32, input_width=64, strides=(8, 16))
    # Centre (2.5 * 16, 0.75 * 16) = (40, 12), size (32, 16).
    np.testing.assert_allclose(boxes_BA4[0, cell], (24, 4, 56, 20), rtol=1e-6)
    np.testing.assert_allclose(scores_BAK[0, cell], (0.1, 0.4), rtol=1e-6)
    assert boxes_BA4.dtype == scores_BAK.dtype == np.float32


@pytest.mark.parametrize("log_size", [5, 200, 1e4], ids=["wide", "beyond-float32", "beyond-float64"])
def test_boxes_end_at_the_edges_of_the_input(log_size: float) -> None:
    outputs = head(16, 24, (8,))
    outputs[0, :, 2:4] = log_size
    boxes_BA4, _ = decode_grid(outputs, input_height=16, input_width=24, strides=(8,))
    np.testing.assert_array_equal(boxes_BA4[0], np.tile([0, 0, 24, 16], (6, 1)))


@given(st.integers(1, 70), st.integers(1, 70), st.lists(st.sampled_from([4, 8, 16, 32]), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_silent_cells_sit_on_their_grids(height: int, width: int, strides: list[int]) -> None:
    outputs = head(height, width, tuple(strides))
    outputs[..., 2:4] = -30  # No size to speak of: corners are centres.
    boxes_BA4, _ = decode_grid(outputs, input_height=height, input_width=width, strides=strides)
    expected = [
        (min(column * stride, width), min(row * stride, height))
        for stride in strides
        for row in range(math.ceil(height / stride))
        for column in range(math.ceil(width / stride))
    ]
    np.testing.assert_allclose(boxes_BA4[0, :, :2], expected, atol=1e-4)


def test_the_published_input_has_the_published_number_of_cells() -> None:
    assert num_cells(input_height=416, input_width=416, strides=(8, 16, 32)) == 3549
    assert num_cells(input_height=640, input_width=640, strides=(8, 16, 32)) == 8400


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 3, 4, 6])
def test_an_output_that_is_not_finite_is_refused(value: float, place: int) -> None:
    outputs = head(16, 16, (8,))
    outputs[0, 1, place] = value
    with pytest.raises(ModelOutputError, match="not finite"):
        decode_grid(outputs, input_height=16, input_width=16, strides=(8,))


@pytest.mark.parametrize("value", [-0.01, 1.01])
@pytest.mark.parametrize("place", [4, 6])
def test_scores_before_the_sigmoid_are_refused(value: float, place: int) -> None:
    outputs = head(16, 16, (8,))
    outputs[0, 1, place] = value
    with pytest.raises(ValueError, match="with its sigmoid"):
        decode_grid(outputs, input_height=16, input_width=16, strides=(8,))


@pytest.mark.parametrize("shape", [(1, 5, 7), (1, 4, 5), (4, 7)], ids=["cells", "no-class", "no-batch"])
def test_a_head_of_another_shape_is_refused_with_the_right_one(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"16 x 16 pixels with strides \(8,\) gives \(batch, 4, 5 \+ classes\)"):
        decode_grid(np.zeros(shape, dtype=np.float32), input_height=16, input_width=16, strides=(8,))


@pytest.mark.parametrize(("height", "strides"), [(0, (8,)), (8, ()), (8, (8, 0))])
def test_a_grid_without_cells_is_refused(height: int, strides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="strides of at least 1"):
        num_cells(input_height=height, input_width=8, strides=strides)


def test_a_cell_gives_its_best_class_if_it_is_sure_enough() -> None:
    scores = np.array([[0.2, 0.5], [0.3, 0.3], [0.1, 0.29]], dtype=np.float32)
    sure = best_class(np.array([SQUARE] * 3, dtype=np.float32), scores, score_min=float(np.float32(0.3)))
    assert sure.labels_N.tolist() == [1, 0]
    assert sure.scores_N.tolist() == pytest.approx([0.5, 0.3])


# The record.


def test_detections_go_home_to_the_frame() -> None:
    letterbox = Letterbox(frame_height=50, frame_width=100, input_height=20, input_width=20)
    home = found(((2, 3, 10, 20), 0.9, 4)).to_frame(letterbox)
    assert home.boxes_N4.tolist() == [[10, 15, 50, 50]]
    assert home.labels_N.tolist() == [4]


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([0.5, 0.5], [0], "as many finite scores"),
        ([math.nan], [0], "as many finite scores"),
        ([0.5], [-1], "integers from 0"),
        ([0.5], [0.0], "integers from 0"),
        ([0.5], [0, 1], "as many labels"),
    ],
    ids=["two-scores", "nan", "negative", "float-label", "two-labels"],
)
def test_detections_that_do_not_go_together_are_refused(scores: list[float], labels: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Detections(np.array([SQUARE], dtype=np.float32), np.array(scores), np.array(labels))


def test_nothing_found_is_an_answer() -> None:
    nothing = suppress(found(), iou_max=0.5, max_boxes=3)
    assert len(nothing) == 0
    assert nothing.boxes_N4.shape == (0, 4)
