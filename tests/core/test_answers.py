"""Answers as bytes: exact, golden, and no hostile bytes are taken for one."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.answers import MAX_LABEL_MAP_BYTES, decode_answer, encode_answer
from littoral.core.arrays import FloatArray
from littoral.core.detections import Detections
from littoral.core.tasks import Classification, Detection, Segmentation, Task
from littoral.errors import ModelOutputError, ProtocolError

SCORES = Classification(num_classes=4)
MAPS = Segmentation(num_classes=3, input_height=6, input_width=5)
BOXES = Detection(num_classes=2, input_height=32, input_width=32, max_boxes=5)
TASKS: list[Task[Any, Any]] = [SCORES, MAPS, BOXES]
IDS = [task.name for task in TASKS]
HEADS = {"classification": b"A\x01", "segmentation": b"A\x02", "detection": b"A\x03"}


def output(task: Task[Any, Any], seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    made: FloatArray = rng.normal(size=task.output_shape).astype(np.float32)
    if isinstance(task, Detection):
        made[:, 4:] = rng.random(made[:, 4:].shape)
    return made


def columns(boxes: list[list[float]], scores: list[float], labels: list[int], *, count: int | None = None) -> bytes:
    number = len(scores) if count is None else count
    parts = (np.array(boxes, "<f4"), np.array(scores, "<f4"), np.array(labels, "<u2"))
    return HEADS["detection"] + struct.pack("<H", number) + b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_an_answer_comes_back_as_the_task_gives_it(task: Task[Any, Any], seed: int) -> None:
    out = output(task, seed)
    came = decode_answer(task, encode_answer(task, out))
    (expected,) = task.answers(out[None])
    if isinstance(task, Classification):
        np.testing.assert_array_equal(came, out)
    elif isinstance(expected, Detections):
        assert isinstance(came, Detections)
        assert len(came) > 0
        for name in ("boxes_N4", "scores_N", "labels_N"):
            np.testing.assert_array_equal(getattr(came, name), getattr(expected, name))
    else:
        np.testing.assert_array_equal(came, expected)


def test_a_frame_without_objects_is_an_answer() -> None:
    out = np.zeros(BOXES.output_shape, np.float32)
    assert encode_answer(BOXES, out) == b"A\x03\x00\x00"
    assert len(decode_answer(BOXES, b"A\x03\x00\x00")) == 0


def test_golden_bytes_never_change() -> None:
    scores = np.array([1, -2, 0.5, 0], np.float32)
    assert encode_answer(SCORES, scores).hex() == "4101" + "0000803f" + "000000c0" + "0000003f" + "00000000"
    one_box = columns([[1, 2, 3, 4]], [0.5], [1])
    assert one_box.hex() == "4103" + "0100" + "0000803f000000400000404000008040" + "0000003f" + "0100"
    found = decode_answer(BOXES, one_box)
    assert isinstance(found, Detections)
    assert (found.boxes_N4.tolist(), found.scores_N.tolist(), found.labels_N.tolist()) == ([[1, 2, 3, 4]], [0.5], [1])
    stored = "4102" + "7801" + "01" + "1e00" + "e1ff" + "01" * 30 + zlib.adler32(b"\x01" * 30).to_bytes(4, "big").hex()
    np.testing.assert_array_equal(decode_answer(MAPS, bytes.fromhex(stored)), np.ones((6, 5)))


def test_a_label_map_is_small() -> None:
    task = Segmentation(num_classes=11, input_height=360, input_width=480)
    out = np.zeros(task.output_shape, np.float32)
    out[3, :, 100:] = 1
    assert len(encode_answer(task, out)) < 1_000


@pytest.mark.parametrize("task", TASKS, ids=IDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_no_answer(task: Task[Any, Any], bad: float) -> None:
    out = output(task)
    out.flat[0] = bad
    with pytest.raises(ModelOutputError):
        encode_answer(task, out)


# Hostile bytes.


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_every_truncation_and_every_tail_is_refused(task: Task[Any, Any]) -> None:
    good = encode_answer(task, output(task))
    for length in range(len(good)):
        with pytest.raises(ProtocolError):
            decode_answer(task, good[:length])
    with pytest.raises(ProtocolError):
        decode_answer(task, good + b"\0")


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_the_answer_of_another_task_is_refused(task: Task[Any, Any]) -> None:
    for other in TASKS:
        if other is not task:
            with pytest.raises(ProtocolError, match="begins with"):
                decode_answer(task, encode_answer(other, output(other)))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TASKS), st.binary(max_size=120), st.booleans())
def test_any_bytes_are_a_sound_answer_or_refused(task: Task[Any, Any], data: bytes, is_headed: bool) -> None:
    try:
        came = decode_answer(task, HEADS[task.name] + data if is_headed else data)
    except ProtocolError:
        return
    if isinstance(came, Detections):
        assert len(came) <= BOXES.max_boxes
        assert all(label < BOXES.num_classes for label in came.labels_N)
    else:
        assert came.shape == (task.output_shape if task is SCORES else (6, 5))
        assert np.isfinite(came).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=30, max_size=30))
def test_a_label_that_is_no_class_is_refused(pixels: list[int]) -> None:
    data = HEADS["segmentation"] + zlib.compress(bytes(pixels))
    if max(pixels) < MAPS.num_classes:
        assert decode_answer(MAPS, data).max() == max(pixels)  # type: ignore[union-attr]
    else:
        with pytest.raises(ProtocolError, match="with the class"):
            decode_answer(MAPS, data)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = HEADS["segmentation"] + zlib.compress(bytes(10_000_000))
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="just 30 bytes"):
            decode_answer(MAPS, bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(columns([[1, 2, 3, 4]], [0.5], [2]), id="class-that-is-not"),
        pytest.param(columns([[1, 2, 3, 33]], [0.5], [1]), id="outside-the-input"),
        pytest.param(columns([[-1, 2, 3, 4]], [0.5], [1]), id="left-of-the-input"),
        pytest.param(columns([[3, 2, 1, 4]], [0.5], [1]), id="inside-out"),
        pytest.param(columns([[1, 2, 3, float("nan")]], [0.5], [1]), id="box-of-NaN"),
        pytest.param(columns([[1, 2, 3, 4]], [float("nan")], [1]), id="score-of-NaN"),
        pytest.param(columns([[1, 2, 3, 4]], [1.5], [1]), id="surer-than-sure"),
        pytest.param(columns([[1, 2, 3, 4]] * 2, [0.5, 0.6], [1, 1]), id="not-falling"),
        pytest.param(columns([[1, 2, 3, 4]] * 6, [0.5] * 6, [1] * 6), id="more-than-asked-for"),
        pytest.param(columns([[1, 2, 3, 4]], [0.5], [1], count=65_535), id="count-that-lies"),
    ],
)
def test_detections_that_cannot_be_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(BOXES, data)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ProtocolError, match="not finite"):
        decode_answer(SCORES, HEADS["classification"] + np.array([0, np.nan, 0, 0], "<f4").tobytes())


def test_an_input_too_large_for_a_label_map_is_said_so() -> None:
    side = int(MAX_LABEL_MAP_BYTES**0.5) + 1
    with pytest.raises(ValueError, match="let the device answer"):
        decode_answer(Segmentation(num_classes=2, input_height=side, input_width=side), HEADS["segmentation"])
