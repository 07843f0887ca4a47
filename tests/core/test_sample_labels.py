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
        pytest.param(b"T\x02", "begin with 5402 came, expected 5401", id="another-format"),
        pytest.param(record(GOOD)[:-1], "cut off came, expected 1 to 8", id="cut"),
        pytest.param(record([(10, 65_535)]), "classes .10., expected different ones below 10", id="no-such-class"),
        pytest.param(record([(3, 65_535), (1, 1)]), "probabilities are .65535, 1. of 65535", id="more-than-1"),
        pytest.param(bytes(MAX_LABELS_BYTES + 1), "2627 bytes came, at most 2626", id="oversized"),
    ],
)
def test_an_error_says_what_came_and_what_was_expected(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        decode_labels(data, 10)


def test_of_fewer_classes_than_may_be_named_no_more_are_named() -> None:
    said = np.array([0.4, 0.35, 0.25])
    (label,) = decode_labels(encode_labels([(KEY, encode_label(said))]), 3)
    np.testing.assert_allclose(softmax64(label.scores_K), said, atol=1e-3)
    with pytest.raises(ProtocolError, match="expected 1 to 3 whole ones"):
        decode_labels(record([(k, 16_000) for k in range(4)]), 3)


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
