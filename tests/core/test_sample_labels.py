"""The teacher's answers to samples as bytes: small, near to what was said, and nothing that is not one gets through."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littoral.core.heads import softmax64
from littoral.core.sample_labels import (
    KEY_BYTES,
    MAX_LABELS,
    MAX_LABELS_BYTES,
    MAX_NAMED,
    decode_labels,
    encode_label,
    encode_labels,
    sample_key,
)
from littoral.errors import ProtocolError

KEY = sample_key(b"an image")


def record(named: list[tuple[int, int]], *, key: bytes = KEY, count: int | None = None) -> bytes:
    head = key + bytes([len(named) if count is None else count])
    return b"T\x01" + head + b"".join(struct.pack("<HH", *each) for each in named)


def test_golden_bytes_never_change() -> None:
    sure, torn = np.zeros(10), np.zeros(10)
    sure[3], sure[4] = 0.998, 0.002
    torn[[7, 2, 0]] = 0.5, 0.3, 0.2
    data = encode_labels([(sample_key(b"a"), encode_label(sure)), (sample_key(b"b"), encode_label(torn))])
    assert data.hex() == "5401ca978112ca1bbdca0103007bff3e23e8160039594a030700ff7f0200cc4c00003333"
    first, second = decode_labels(data, 10)
    assert (first.label, second.label) == (3, 7)
    np.testing.assert_allclose(softmax64(second.scores_K), torn, atol=2e-4)


@settings(max_examples=200)
@given(st.integers(2, 300), st.integers(0, 2**32 - 1), st.floats(0, 12))
def test_a_label_says_what_the_teacher_said(num_classes: int, seed: int, sure: float) -> None:
    said = softmax64(sure * np.random.default_rng(seed).standard_normal(num_classes))
    coded = encode_label(said)
    assert len(coded) <= 1 + 4 * MAX_NAMED
    (label,) = decode_labels(encode_labels([(KEY, coded)]), num_classes)
    heard = softmax64(label.scores_K)
    assert label.label == said.argmax() == heard.argmax() or said.max() - np.sort(said)[-2] < 2e-5
    assert np.isfinite(label.scores_K).all()
    named = coded[0]
    near = np.sort(said)[::-1][:named]
    np.testing.assert_allclose(np.sort(heard)[::-1][:named], near, atol=1e-4)
    assert heard.sum() == pytest.approx(1)


def test_a_sure_label_takes_13_bytes_with_its_key_and_the_largest_message_fits() -> None:
    sure = np.zeros(1000)
    sure[999] = 1.0
    assert len(encode_labels([(KEY, encode_label(sure))])) == 2 + 13
    flat = encode_label(np.full(1000, 1e-3))
    full = encode_labels([(KEY, flat)] * MAX_LABELS)
    assert len(full) == MAX_LABELS_BYTES == 2626
    assert len(decode_labels(full, 1000)) == MAX_LABELS
    with pytest.raises(ValueError, match="at most 64"):
        encode_labels([(KEY, flat)] * (MAX_LABELS + 1))


def test_no_labels_are_no_labels() -> None:
    assert decode_labels(encode_labels([]), 10) == []


GOOD = [(3, 60_000), (1, 5_000)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "begin with", id="empty"),
        pytest.param(b"A\x01", "begin with", id="an-answer"),
        pytest.param(b"T\x02", "begin with 5402", id="another-format"),
        pytest.param(record(GOOD)[:-1], "cut off", id="cut"),
        pytest.param(record(GOOD) + b"\0", "cut off", id="one-byte-more"),
        pytest.param(record([], count=0), "names 0 classes", id="no-class"),
        pytest.param(record([(k, 7000) for k in range(9)]), "names 9 classes", id="too-many-classes"),
        pytest.param(record(GOOD, count=200), "names 200 classes", id="a-count-that-lies"),
        pytest.param(record([(10, 65_535)]), "below 10", id="no-such-class"),
        pytest.param(record([(3, 40_000), (3, 25_535)]), "different ones", id="a-class-twice"),
        pytest.param(record([(3, 65_535), (1, 1)]), "probabilities", id="more-than-1"),
        pytest.param(record([(1, 5_000), (3, 60_000)]), "probabilities", id="rising"),
        pytest.param(record([(3, 0)]), "probabilities", id="nothing-at-all"),
        pytest.param(record([(3, 100)]), "probabilities", id="the-others-are-likelier"),
        pytest.param(record(GOOD) + record(GOOD)[2:] * MAX_LABELS, "more than 64", id="too-many-labels"),
        pytest.param(bytes(MAX_LABELS_BYTES + 1), "at most", id="oversized"),
    ],
)
def test_what_is_no_label_is_refused_with_all_that_came_with_it(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        decode_labels(data, 10)
    if data.startswith(b"T\x01"):
        with pytest.raises(ProtocolError):
            decode_labels(record(GOOD) + data[2:], 10)


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_any_bytes_are_labels_or_a_protocol_error(body: bytes) -> None:
    try:
        labels = decode_labels(b"T\x01" + body, 10)
    except ProtocolError:
        return
    for label in labels:
        assert len(label.key) == KEY_BYTES
        assert np.isfinite(label.scores_K).all()


@pytest.mark.parametrize(
    "wrong",
    [np.array([0.5, np.nan]), np.array([1.5, -0.5]), np.array([0.2, 0.2]), np.ones((2, 2)) / 4, np.array([1.0])],
    ids=["nan", "negative", "not-1", "a-table", "one-class"],
)
def test_what_is_no_answer_is_not_made_a_label_of(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        encode_label(wrong)
