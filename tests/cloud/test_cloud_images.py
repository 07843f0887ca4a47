"""Nothing becomes a frame but a frame."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from cloud_peer import image, png, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from littoral.bundle import InputSpec
from littoral.cloud.images import check_sample, decode_image
from littoral.errors import FrameError

GREY = InputSpec(height=4, width=5, channels=1, mean=(0.5,), std=(0.5,))
COLOUR = InputSpec(height=4, width=5, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)


def header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize("coding", ["raw", "png"])
def test_both_codings_give_the_frame(coding: str) -> None:
    frame = image(1)
    data = frame.tobytes() if coding == "raw" else png(frame)
    np.testing.assert_array_equal(decode_image(coding, data, GREY), frame)


def test_colour_frames_keep_their_channels() -> None:
    grey = image(1)
    np.testing.assert_array_equal(decode_image("png", png(grey, "RGB"), COLOUR), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        pytest.param("jpeg", b"", id="unknown-coding"),
        pytest.param("raw", bytes(19), id="raw-short"),
        pytest.param("raw", bytes(21), id="raw-long"),
        pytest.param("png", b"", id="png-empty"),
        pytest.param("png", b"GIF89a" + bytes(40), id="not-a-png"),
        pytest.param("png", png(image(1), "RGB"), id="colour-for-grey"),
        pytest.param("png", png(image(1), "P"), id="palette"),
        pytest.param("png", png(image(1), "1"), id="one-bit"),
        pytest.param("png", png(image(1).reshape(5, 4, 1)), id="turned"),
        pytest.param("png", png(image(1))[:50], id="truncated"),
        pytest.param("png", png(image(1), save_all=True, append_images=[Image.new("L", (5, 4), 7)]), id="two-images"),
        pytest.param("png", header(2**31 - 1, 2**31 - 1), id="bomb"),
    ],
)
def test_anything_else_is_a_frame_error(coding: str, data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_image(coding, data, GREY)


def test_a_bomb_costs_no_memory() -> None:
    bomb = header(40_000, 40_000) + bytes(1_000)
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match="40000 x 40000"):
            decode_image("png", bomb, GREY)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_png_bytes_give_a_frame_or_a_frame_error(data: st.DataObject) -> None:
    good = bytearray(png(image(1)))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FrameError):
        assert decode_image("png", bytes(good), GREY).shape == GREY.shape


@pytest.mark.parametrize(
    "changes",
    [{"predicted": 10}, {"version": 2**63}, {"frame_id": 2**64 - 1}, {"entropy_nats": -0.1}, {"coding": "png"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_sample_that_breaks_a_rule_is_a_frame_error(changes: dict[str, object]) -> None:
    check_sample(sample(1), GREY, 10)
    with pytest.raises(FrameError):
        check_sample(sample(1, **changes), GREY, 10)
