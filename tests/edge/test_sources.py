"""Frames from files and pipes: one bad file is that file's trouble, and the stream goes on."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from littoral.bundle import InputSpec
from littoral.bundle.images import encode_image
from littoral.core.arrays import Frame
from littoral.edge.sources import MAX_IMAGE_BYTES, Item, decode_image, from_folder, from_frames, from_paths
from littoral.errors import FrameError, LittoralError

GREY = InputSpec(height=6, width=8, channels=1, mean=(0.5,), std=(0.5,))
COLOUR = InputSpec(height=6, width=8, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
RAW = InputSpec(height=6, width=8, channels=5, mean=(0.5,) * 5, std=(0.5,) * 5)


def frame(spec: InputSpec, seed: int = 0) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, size=spec.shape, dtype=np.uint8)


def image(array: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    out = io.BytesIO()
    made = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    (made.convert(mode) if mode else made).save(out, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def prefixed(*frames: bytes) -> io.BytesIO:
    return io.BytesIO(b"".join(struct.pack("<I", len(data)) + data for data in frames))


def good(items: Iterator[Item]) -> list[bool]:
    return [not isinstance(found, FrameError) for _, found in items]


# One image.


@pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_an_image_without_loss_gives_its_pixels(spec: InputSpec, kind: str) -> None:
    np.testing.assert_array_equal(decode_image(image(frame(spec), kind), spec, "x"), frame(spec))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_lossy_format_gives_a_frame_of_the_right_shape(kind: str) -> None:
    came = decode_image(image(frame(COLOUR), kind), COLOUR, "x")
    assert (came.shape, came.dtype) == (COLOUR.shape, np.uint8)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_other_kinds_of_colour_are_converted(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_image(image(frame(COLOUR), kind, mode), COLOUR, "x").shape == COLOUR.shape


@pytest.mark.parametrize("spec", [GREY, COLOUR, RAW], ids=["grey", "colour", "five-channels"])
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "noise"])
def test_what_goes_up_is_the_frame_without_loss_and_never_longer_than_raw(spec: InputSpec, flat: bool) -> None:
    given_frame = np.full((32, 32, spec.channels), 7, np.uint8) if flat else frame(spec)
    coding, data = encode_image(given_frame)
    height, width, channels = given_frame.shape
    sized = InputSpec(height=height, width=width, channels=channels, mean=spec.mean, std=spec.std)
    assert len(data) <= given_frame.size
    if coding != "raw":
        np.testing.assert_array_equal(decode_image(data, sized, "x"), given_frame)
    else:
        assert data == given_frame.tobytes()
    assert coding in ({1: {"png"}, 3: {"png", "webp"}, 5: {"raw"}}[channels] if flat else {"raw"})


@pytest.mark.parametrize(
    ("data", "spec", "told"),
    [
        (image(frame(COLOUR)[:, :7]), COLOUR, "cat.png is 7 x 6, the bundle takes 8 x 6; resize it, or give --resize"),
        (image(frame(GREY)), COLOUR, "cat.png is of mode L, the bundle takes RGB; convert it first"),
        (image(frame(COLOUR)), GREY, "cat.png is of mode RGB, the bundle takes L; convert it first"),
        (image(frame(COLOUR)), RAW, "frames of 5 channels cannot come from image files; send raw frames"),
        (b"", COLOUR, "cat.png is not a readable PNG"),
        (b"GIF89a" + bytes(40), COLOUR, "cat.png is not a readable PNG"),
        (image(frame(COLOUR))[:-30], COLOUR, "cat.png is not a readable PNG"),
    ],
    ids=["size", "too-few-channels", "too-many-channels", "raw-only", "empty", "other-format", "truncated"],
)
def test_each_way_to_be_wrong_is_one_error_that_names_the_file(data: bytes, spec: InputSpec, told: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_image(data, spec, "cat.png")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_stands_as_its_camera_was_held(kind: str) -> None:
    """Orientation 6: a quarter turn to the right shows it upright. Without the tag the same bytes are another size."""
    upright = np.zeros(COLOUR.shape, np.uint8)
    upright[: COLOUR.height // 2] = 255
    lying = Image.fromarray(np.rot90(upright))
    tag, out, plain = Image.Exif(), io.BytesIO(), io.BytesIO()
    tag[0x0112] = 6
    options = {"quality": 100, "lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    lying.save(out, kind, exif=tag, **options)
    lying.save(plain, kind, **options)
    np.testing.assert_allclose(decode_image(out.getvalue(), COLOUR, "x"), upright, atol=8)
    with pytest.raises(FrameError, match="is 6 x 8, the bundle takes 8 x 6"):
        decode_image(plain.getvalue(), COLOUR, "x")


@pytest.mark.parametrize("block", [b"", b"Exif\0\0no tiff", bytes(range(200))], ids=["empty", "no-tiff", "numbers"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_broken_tag_is_no_reason_to_refuse_a_picture(kind: str, block: bytes) -> None:
    out = io.BytesIO()
    Image.fromarray(frame(COLOUR)).save(out, kind, exif=block)
    assert decode_image(out.getvalue(), COLOUR, "x").shape == COLOUR.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_undone_as_pillow_does_it(orientation: int) -> None:
    tag, out = Image.Exif(), io.BytesIO()
    tag[0x0112] = orientation
    square = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(square).save(out, "PNG", exif=tag)
    spec = InputSpec(height=6, width=6, channels=3, mean=COLOUR.mean, std=COLOUR.std)
    with Image.open(io.BytesIO(out.getvalue())) as image:
        np.testing.assert_array_equal(
            decode_image(out.getvalue(), spec, "x"), np.asarray(ImageOps.exif_transpose(image))
        )


def test_what_is_no_image_is_told_the_same_way_every_time() -> None:
    told = set()
    for _ in range(2):
        with pytest.raises(FrameError) as caught:
            decode_image(b"GIF89a" + bytes(40), COLOUR, "cat.png")
        told.add(str(caught.value))
    assert told == {"cat.png is not a readable PNG, JPEG, WebP or BMP; it is left out"}


def test_another_size_is_scaled_when_that_is_asked_for() -> None:
    flat = np.full((12, 24, 3), 9, np.uint8)
    np.testing.assert_array_equal(decode_image(image(flat), COLOUR, "x", resize=True), np.full(COLOUR.shape, 9))


def test_a_bomb_is_refused_before_its_pixels_are_made() -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    for size in (30_000, 9_000, 9_600):
        made = bomb.replace(header, struct.pack(">II", size, size) + header[8:])
        made = made.replace(made[29:33], struct.pack(">I", zlib.crc32(made[12:29])), 1)
        with pytest.raises(FrameError, match=r"pixels|bomb"):
            decode_image(made, GREY, "bomb", resize=True)


def test_a_png_with_half_a_colour_profile_behind_its_pixels_does_not_end_the_stream() -> None:
    png = image(frame(COLOUR))
    damaged = png[:-12] + chunk(b"iCCP", b"name\0") + png[-12:]
    assert good(from_frames(prefixed(damaged, png), COLOUR)) == [False, True]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_a_frame_or_a_frame_error_and_nothing_else(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(image(frame(COLOUR), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    with contextlib.suppress(FrameError):
        assert decode_image(bytes(damaged[: cut or None]), COLOUR, "x", resize=True).shape == COLOUR.shape


# Folders, names, pipes.


def test_a_folder_is_read_in_the_order_of_names_and_a_bad_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.PNG").write_bytes(image(frame(GREY, 1)))
    (tmp_path / "a.png").write_bytes(image(frame(GREY, 2)))
    (tmp_path / "c.jpg").write_bytes(b"no image")
    (tmp_path / "d.png").mkdir()
    (tmp_path / "notes.txt").write_text("not looked at")
    items = list(from_folder(tmp_path, GREY))
    assert [Path(name).relative_to(tmp_path).as_posix() for name, _ in items] == ["a.png", "b/1.PNG", "c.jpg", "d.png"]
    assert good(iter(items)) == [True, True, False, False]
    np.testing.assert_array_equal(items[0][1], frame(GREY, 2))


@pytest.mark.parametrize(
    ("make", "told"), [(False, "is not a folder; give a folder"), (True, "there is no image below")]
)
def test_a_missing_or_empty_folder_is_an_error(tmp_path: Path, make: bool, told: str) -> None:
    folder = tmp_path / "frames"
    if make:
        folder.mkdir()
    with pytest.raises(LittoralError, match=told):
        list(from_folder(folder, GREY))


def test_names_are_read_one_to_a_line_and_a_bad_one_does_not_end_the_stream(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(image(frame(GREY)))
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    lines = [
        f"{tmp_path}/a b.png\n",
        "\n",
        f"{tmp_path}/none.png\r\n",
        "zero\0byte\n",
        f"{large}\n",
        f"{tmp_path}/a b.png",
    ]
    items = list(from_paths(lines, GREY))
    assert good(iter(items)) == [True, False, False, False, True]
    assert "cannot be read (No such file or directory); it is left out" in str(items[1][1])
    assert "is over" in str(items[3][1])


def test_a_pipe_carries_raw_frames_and_images_and_a_bad_one_does_not_end_it() -> None:
    raw, png = frame(COLOUR).tobytes(), image(frame(COLOUR, 1))
    items = list(from_frames(prefixed(raw, png, b"", b"junk", raw), COLOUR))
    assert [name for name, _ in items] == [f"frame {n}" for n in range(1, 6)]
    assert good(iter(items)) == [True, True, False, False, True]
    np.testing.assert_array_equal(items[0][1], frame(COLOUR))
    np.testing.assert_array_equal(items[1][1], frame(COLOUR, 1))


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        (b"\x01\x00", "ends within the length of frame 2"),
        (struct.pack("<I", 144) + b"short", "ends within frame 2: 5 of 144 bytes came"),
        (struct.pack("<I", MAX_IMAGE_BYTES + 1), f"announces {MAX_IMAGE_BYTES + 1} bytes, at most"),
    ],
    ids=["length", "frame", "too-large"],
)
def test_a_broken_pipe_is_an_error_after_what_came_whole(tail: bytes, told: str) -> None:
    items = from_frames(io.BytesIO(prefixed(frame(COLOUR).tobytes()).getvalue() + tail), COLOUR)
    np.testing.assert_array_equal(next(items)[1], frame(COLOUR))
    with pytest.raises(LittoralError, match=told):
        next(items)


def test_an_empty_pipe_is_no_frames() -> None:
    assert list(from_frames(io.BytesIO(), COLOUR)) == []
