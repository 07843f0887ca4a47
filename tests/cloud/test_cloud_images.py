"""Nothing becomes a frame but a frame."""

from __future__ import annotations

import contextlib
import io
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
from littoral.bundle.images import decode_image
from littoral.cloud.intake import check_sample
from littoral.errors import FrameError

GREY = InputSpec(height=4, width=5, channels=1, mean=(0.5,), std=(0.5,))
COLOUR = InputSpec(height=4, width=5, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)


def header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def saved(pixels: np.ndarray, kind: str, mode: str = "RGB", **options: object) -> bytes:
    """An image file of pixels ``(H, W, 1)``, made into another mode."""
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0]).convert(mode).save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


def webp(pixels: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    return saved(pixels, "WEBP", mode, **{"lossless": True, **options})


def riff(chunk: bytes, body: bytes) -> bytes:
    body = chunk + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def vp8l(width: int, height: int, flags: int = 0) -> bytes:
    return riff(b"VP8L", b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14 | flags << 28) + bytes(17))


def jpeg_header(width: int, height: int, *, depth: int = 8, components: int = 3, marker: int = 0xC0) -> bytes:
    body = struct.pack(">BHHB", depth, height, width, components) + bytes(3 * components)
    return b"\xff\xd8\xff" + bytes([marker]) + struct.pack(">H", 2 + len(body)) + body


def with_half_a_profile(data: bytes) -> bytes:
    """A PNG with a chunk behind its pixels that ends within the profile's name."""
    body = b"iCCPname\0"
    return data[:-12] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[-12:]


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
        pytest.param("gif", b"", id="unknown-coding"),
        pytest.param("webp", webp(image(1)), id="webp-for-grey"),
        pytest.param("jpeg", saved(image(1), "JPEG"), id="jpeg-for-grey"),
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
        pytest.param("png", with_half_a_profile(png(image(1))), id="half-a-colour-profile"),
    ],
)
def test_anything_else_is_a_frame_error(coding: str, data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_image(coding, data, GREY)


@pytest.mark.parametrize("options", [{}, {"quality": 100, "method": 6}], ids=["quick", "thorough"])
def test_a_lossless_webp_gives_the_frame_bit_by_bit(options: dict[str, object]) -> None:
    rng = np.random.default_rng(0)
    for width, height in [(5, 4), (32, 32), (33, 7), (1, 1)]:
        frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        spec = InputSpec(height=height, width=width, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "WEBP", lossless=True, exact=True, **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(decode_image("webp", out.getvalue(), spec), frame)


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("webp", webp(image(1), lossless=False, quality=95)),
        ("jpeg", saved(image(1), "JPEG", quality=95)),
        ("jpeg", saved(image(1), "JPEG", quality=95, progressive=True, optimize=True, comment=b"c")),
    ],
    ids=["webp", "jpeg", "progressive"],
)
def test_a_lossy_coding_gives_a_frame_near_it(coding: str, data: bytes) -> None:
    frame = np.repeat(image(1), 3, axis=2).astype(int)
    found = decode_image(coding, data, COLOUR)
    assert found.shape == COLOUR.shape
    assert np.abs(found - frame).mean() < 16


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        pytest.param("webp", b"", id="webp-empty"),
        pytest.param("webp", png(image(1), "RGB"), id="png-as-webp"),
        pytest.param("png", webp(image(1)), id="webp-as-png"),
        pytest.param("webp", webp(image(1).reshape(5, 4, 1)), id="webp-turned"),
        pytest.param("webp", webp(image(1).reshape(5, 4, 1), lossless=False), id="webp-turned-lossy"),
        pytest.param("webp", webp(image(1))[:-4], id="webp-truncated"),
        pytest.param("webp", webp(image(1)) + bytes(4), id="webp-and-more"),
        pytest.param("webp", webp(image(1), icc_profile=b"p" * 99), id="webp-metadata"),
        pytest.param("webp", webp(image(1), save_all=True, append_images=[Image.new("RGB", (5, 4))]), id="animation"),
        pytest.param("webp", vp8l(5, 4, flags=1), id="webp-alpha"),
        pytest.param("webp", vp8l(5, 4, flags=2), id="webp-version"),
        pytest.param("webp", vp8l(5, 4), id="webp-rubbish"),
        pytest.param("webp", vp8l(16384, 16384), id="webp-bomb"),
        pytest.param("webp", riff(b"VP8X", bytes(30)), id="webp-extended"),
        pytest.param("webp", riff(b"VP8 ", bytes(30)), id="webp-no-start"),
        pytest.param("jpeg", b"", id="jpeg-empty"),
        pytest.param("jpeg", saved(image(1), "JPEG", "L"), id="jpeg-grey"),
        pytest.param("jpeg", saved(image(1), "JPEG", "CMYK"), id="jpeg-cmyk"),
        pytest.param("jpeg", saved(image(1).reshape(5, 4, 1), "JPEG"), id="jpeg-turned"),
        pytest.param("jpeg", saved(image(1), "JPEG")[:-9], id="jpeg-truncated"),
        pytest.param("jpeg", saved(image(1), "JPEG")[:30], id="jpeg-without-a-header"),
        pytest.param("jpeg", jpeg_header(65535, 65535), id="jpeg-bomb"),
        pytest.param("jpeg", jpeg_header(5, 4, depth=12), id="jpeg-12-bit"),
        pytest.param("jpeg", jpeg_header(5, 4, marker=0xC3), id="jpeg-lossless"),
        pytest.param("jpeg", jpeg_header(5, 4), id="jpeg-rubbish"),
    ],
)
def test_anything_else_for_a_colour_frame_is_a_frame_error(coding: str, data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_image(coding, data, COLOUR)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), coding=st.sampled_from(["webp", "jpeg"]), lossless=st.booleans())
def test_damaged_bytes_give_a_frame_or_a_frame_error(data: st.DataObject, coding: str, lossless: bool) -> None:
    good = bytearray(webp(image(1), lossless=lossless) if coding == "webp" else saved(image(1), "JPEG"))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FrameError):
        assert decode_image(coding, bytes(good), COLOUR).shape == COLOUR.shape


@pytest.mark.parametrize(
    ("coding", "bomb"), [("webp", vp8l(16384, 16384)), ("jpeg", jpeg_header(65535, 65535) + bytes(1_000))]
)
def test_a_bomb_of_another_coding_costs_no_memory_either(coding: str, bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match=r"16384 x 16384|65535 x 65535"):
            decode_image(coding, bomb, COLOUR)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("more", "is_read"), [(0, True), (10, True), (3_000, False)])
def test_a_jpeg_whose_scans_say_the_same_again_and_again_is_not_decoded(more: int, is_read: bool) -> None:
    """Each is a few bytes, and the decoder goes through the picture for each."""
    data = saved(np.zeros((4, 5, 1), np.uint8), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    with contextlib.nullcontext() if is_read else pytest.raises(FrameError, match="scans came, at most 32 are read"):
        decode_image("jpeg", data[:-2] + more * last + data[-2:], COLOUR)


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
