"""Boxes: formats there and back, overlaps worked out by hand, and the way from a frame to the input and home."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from littoral.core.arrays import FloatArray
from littoral.core.boxes import Letterbox, check_boxes, convert_boxes, iou_matrix

FORMATS = ("corners", "centred", "sized")


def boxes(*rows: tuple[float, float, float, float]) -> FloatArray:
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def some_boxes(max_count: int = 6, top: int = 12) -> st.SearchStrategy[FloatArray]:
    """Boxes on whole pixels, some without area."""

    def corners(numbers: np.ndarray) -> FloatArray:
        return np.concatenate([numbers.min(axis=1), numbers.max(axis=1)], axis=1).astype(np.float32)

    shapes = st.integers(0, max_count).map(lambda count: (count, 2, 2))
    return shapes.flatmap(lambda shape: npst.arrays(np.int64, shape, elements=st.integers(0, top))).map(corners)


# Formats.


@pytest.mark.parametrize(
    ("given_as", "box"),
    [("corners", (2, 3, 8, 7)), ("centred", (5, 5, 6, 4)), ("sized", (2, 3, 6, 4))],
    ids=FORMATS,
)
def test_one_box_in_three_formats(given_as: str, box: tuple[int, ...]) -> None:
    for wanted, expected in zip(FORMATS, [(2, 3, 8, 7), (5, 5, 6, 4), (2, 3, 6, 4)], strict=True):
        converted = convert_boxes(np.array([box]), given=given_as, wanted=wanted)  # type: ignore[arg-type]
        assert converted.dtype == np.float32
        assert converted.tolist() == [list(expected)]


@given(some_boxes(), st.permutations(FORMATS))
@settings(max_examples=40, deadline=None)
def test_a_round_of_formats_ends_where_it_began(corners: FloatArray, order: list[str]) -> None:
    round_trip, last = corners, "corners"
    for name in [*order, "corners"]:
        round_trip = convert_boxes(round_trip, given=last, wanted=name)  # type: ignore[arg-type]
        last = name
    np.testing.assert_array_equal(round_trip, corners)


def test_a_converted_box_is_a_copy() -> None:
    mine = boxes((0, 0, 1, 1))
    convert_boxes(mine, given="corners", wanted="corners")[:] = 9
    assert mine.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros(4), r"an array \(N, 4\), got \(4,\)"),
        (np.zeros((2, 5)), r"got \(2, 5\)"),
        (np.array([[0, 0, 1, 1], [0, np.nan, 1, 1]]), "box 1 has a value that is not finite"),
        (np.array([[0, 0, 1, np.inf]]), "box 0 has a value that is not finite"),
        (np.array([[0, 0, 1, 1], [4, 0, 2, 2]]), "box 1 .* x_min <= x_max.*convert_boxes"),
    ],
    ids=["one-axis", "five-numbers", "nan", "infinity", "inside-out"],
)
def test_what_is_no_box_is_refused(bad: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_boxes(bad)


def test_a_box_without_area_is_one() -> None:
    assert check_boxes(np.array([[3, 3, 3, 5]])).tolist() == [[3, 3, 3, 5]]


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ValueError, match=r"corners, centred and sized, got \['xywh'\]"):
        convert_boxes(boxes((0, 0, 1, 1)), given="xywh", wanted="corners")  # type: ignore[arg-type]


# Overlaps.


def test_overlaps_worked_out_by_hand() -> None:
    ours = boxes((0, 0, 4, 4), (0, 0, 2, 2), (10, 10, 11, 11))
    others = boxes((0, 0, 4, 4), (2, 0, 6, 4), (4, 0, 8, 4))
    # 8 of 24 shared; sharing an edge is sharing nothing.
    expected = [[1, 8 / 24, 0], [4 / 16, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(iou_matrix(ours, others), expected)


def test_an_overlap_has_no_error_of_float32() -> None:
    # 4097 squared has more bits than a float32.
    overlaps = iou_matrix(boxes((0, 0, 4097, 4097)), boxes((0, 0, 4097, 4096)))
    assert overlaps.tolist() == [[4097 * 4096 / 4097**2]]


def test_against_a_crowd_the_box_alone_counts() -> None:
    ours, others = boxes((0, 0, 2, 2), (9, 0, 11, 2)), boxes((0, 0, 10, 10), (0, 0, 10, 10))
    overlaps = iou_matrix(ours, others, crowd_M=np.array([True, False]))
    np.testing.assert_array_equal(overlaps, [[1, 4 / 100], [0.5, 2 / 102]])


def test_boxes_without_area_overlap_nothing_not_even_themselves() -> None:
    flat = boxes((1, 1, 1, 1), (1, 1, 1, 5))
    assert not iou_matrix(flat, flat).any()
    assert not iou_matrix(flat, flat, crowd_M=np.array([True, True])).any()


@given(some_boxes(), some_boxes())
@settings(max_examples=60, deadline=None)
def test_overlaps_are_those_of_counted_pixels(ours: FloatArray, others: FloatArray) -> None:
    def pixels(box: FloatArray) -> set[tuple[int, int]]:
        x0, y0, x1, y1 = (int(v) for v in box)
        return {(x, y) for x in range(x0, x1) for y in range(y0, y1)}

    overlaps = iou_matrix(ours, others)
    assert overlaps.shape == (len(ours), len(others))
    for i, j in np.ndindex(overlaps.shape):
        one, two = pixels(ours[i]), pixels(others[j])
        assert overlaps[i, j] == (len(one & two) / len(one | two) if one | two else 0)
    np.testing.assert_array_equal(overlaps, iou_matrix(others, ours).T)


# The letterbox.


@pytest.mark.parametrize(
    ("frame", "into", "is_centred", "scaled", "offset"),
    [
        ((480, 640), (416, 416), False, (312, 416), (0, 0)),
        ((480, 640), (416, 416), True, (312, 416), (52, 0)),
        ((640, 427), (416, 416), True, (416, 277), (0, 69)),
        ((100, 100), (50, 50), True, (50, 50), (0, 0)),
        ((10, 20), (40, 40), False, (20, 40), (0, 0)),
        ((1, 4000), (32, 32), False, (1, 32), (0, 0)),
    ],
    ids=["wide", "wide-centred", "tall-centred", "square", "small-frame", "a-line"],
)
def test_geometry_worked_out_by_hand(
    frame: tuple[int, int], into: tuple[int, int], is_centred: bool, scaled: tuple[int, int], offset: tuple[int, int]
) -> None:
    box = Letterbox(
        frame_height=frame[0], frame_width=frame[1], input_height=into[0], input_width=into[1], is_centred=is_centred
    )
    assert (box.scaled, box.offset) == (scaled, offset)


@given(
    st.tuples(*[st.integers(1, 3000)] * 2),
    st.tuples(*[st.integers(1, 700)] * 2),
    st.booleans(),
    npst.arrays(np.float32, (3, 2, 2), elements=st.floats(0, 1, width=32)),
)
@settings(max_examples=100, deadline=None)
def test_a_box_goes_into_the_input_and_home(
    frame: tuple[int, int], into: tuple[int, int], is_centred: bool, shares: np.ndarray
) -> None:
    letterbox = Letterbox(
        frame_height=frame[0], frame_width=frame[1], input_height=into[0], input_width=into[1], is_centred=is_centred
    )
    size = np.array([frame[1], frame[0]] * 2, dtype=np.float32)
    there = np.concatenate([shares.min(axis=1), shares.max(axis=1)], axis=1) * size
    within = letterbox.to_input(there)
    assert (within >= 0).all()
    assert (within <= np.array([into[1], into[0]] * 2) + 1e-3).all()
    # One ulp of a coordinate in the input is this much on the frame.
    factor = max(frame[0] / letterbox.scaled[0], frame[1] / letterbox.scaled[1])
    np.testing.assert_allclose(letterbox.to_frame(within), there, atol=1e-4 * factor + 1e-3)
    # One side fills the input whatever the rounding, as int(h * min(H / h, W / w)) does not.
    assert letterbox.scaled[0] == into[0] or letterbox.scaled[1] == into[1]
    assert 1 <= letterbox.scaled[0] <= into[0]
    assert 1 <= letterbox.scaled[1] <= into[1]


def test_the_whole_input_comes_back_as_the_whole_frame() -> None:
    letterbox = Letterbox(frame_height=427, frame_width=640, input_height=416, input_width=416)
    assert letterbox.to_frame(boxes((0, 0, 416, 416))).tolist() == [[0, 0, 640, 427]]


def test_a_box_in_the_padding_comes_back_without_area() -> None:
    letterbox = Letterbox(frame_height=100, frame_width=200, input_height=64, input_width=64)
    back = letterbox.to_frame(boxes((10, 40, 20, 60)))[0]
    assert back[1] == back[3] == 100


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 x 1"):
        Letterbox(frame_height=0, frame_width=5, input_height=4, input_width=4)
