"""Where frames come from: a folder of images, names or raw frames on a pipe. Each comes with what to call it.

A source yields ``(name, frame or error)``: one bad file is that file's trouble, and the stream goes on.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from littoral.bundle import InputSpec
from littoral.bundle.images import DAMAGED
from littoral.core.arrays import Frame
from littoral.errors import FrameError, LittoralError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
MAX_IMAGE_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64 * 1024 * 1024
_LENGTH = struct.Struct("<I")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each value of the EXIF tag."""

Item = tuple[str, Frame | FrameError]


def decode_image(data: bytes, spec: InputSpec, name: str, *, resize: bool = False) -> Frame:
    """An image file's bytes as a frame.

    Args:
        data: PNG, JPEG, WebP or BMP.
        spec: The size and channels that the bundle takes.
        name: What to call it in an error.
        resize: Scale other sizes instead of refusing them.
    Returns:
        uint8 ``(H, W, C)``.
    Raises:
        FrameError: not an image, damaged, or of another size or number of channels.
    """
    mode = _MODES.get(spec.channels)
    if mode is None:
        raise FrameError(f"{name}: frames of {spec.channels} channels cannot come from image files; send raw frames")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "BMP")) as opened:
            image: Image.Image = opened
            if image.width * image.height > MAX_PIXELS:
                raise FrameError(f"{name} has {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
            sizes = {image.size} if resize else {(spec.width, spec.height), (spec.height, spec.width)}
            if image.size in sizes:  # else it is refused before its pixels are looked at
                image.load()
                image = _upright(image)
            if image.size != (spec.width, spec.height) and not resize:
                raise FrameError(
                    f"{name} is {image.width} x {image.height}, the bundle takes {spec.width} x {spec.height}; "
                    "resize it, or give --resize"
                )
            if image.mode != mode and not (mode == "RGB" and image.mode in ("P", "RGBA", "CMYK")):
                raise FrameError(f"{name} is of mode {image.mode}, the bundle takes {mode}; convert it first")
            converted = image.convert(mode)
            if converted.size != (spec.width, spec.height):
                converted = converted.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
            frame: Frame = np.asarray(converted, dtype=np.uint8)
    except FrameError:
        raise
    except UnidentifiedImageError as error:  # its text has an address in memory
        raise FrameError(f"{name} is not a readable PNG, JPEG, WebP or BMP; it is left out") from error
    except DAMAGED as error:
        raise FrameError(f"{name} is not a readable PNG, JPEG, WebP or BMP ({error}); it is left out") from error
    return frame.reshape(spec.shape)


def decode_frame(data: bytes, spec: InputSpec, name: str, *, resize: bool = False) -> Frame:
    """A frame from a pipe or a request: exactly H * W * C bytes are raw uint8, any other an image file.

    Raises:
        FrameError: neither; see `decode_image`.
    """
    if len(data) == spec.num_bytes:
        return np.frombuffer(data, dtype=np.uint8).reshape(spec.shape)
    try:
        return decode_image(data, spec, name, resize=resize)
    except FrameError as error:
        if spec.channels in _MODES and not isinstance(error.__cause__, UnidentifiedImageError):
            raise
        size = f"{spec.height} x {spec.width} x {spec.channels}"
        raise FrameError(f"{error}; a raw frame has {spec.num_bytes} bytes ({size}), {len(data)} came") from error


def _upright(image: Image.Image) -> Image.Image:
    """A picture that is loaded, as its camera was held. What is wrong with a tag is no reason to refuse it."""
    try:
        turn = _TURNS.get(int(image.getexif().get(_ORIENTATION, 1)))
    except Exception:  # noqa: BLE001  # a block that anybody may have written, read by a parser that raises anything
        turn = None
    return image if turn is None else image.transpose(turn)


def _from_file(path: Path, spec: InputSpec, resize: bool) -> Frame | FrameError:
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            return FrameError(f"{path} is over {MAX_IMAGE_BYTES} bytes; it is left out")
        return decode_image(path.read_bytes(), spec, str(path), resize=resize)
    except FrameError as error:
        return error
    except OSError as error:
        return FrameError(f"{path} cannot be read ({error.strerror}); it is left out")
    except ValueError as error:  # a name with a zero byte is no file's
        return FrameError(f"{str(path)!r} cannot be read ({error}); it is left out")


def from_folder(folder: Path, spec: InputSpec, *, resize: bool = False) -> Iterator[Item]:
    """Every image below a folder, in the order of their names.

    Raises:
        LittoralError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise LittoralError(f"{folder} is not a folder; give a folder of images, --stdin or --http")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise LittoralError(f"there is no image below {folder} ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return ((str(path), _from_file(path, spec, resize)) for path in paths)


def from_paths(lines: Iterable[str], spec: InputSpec, *, resize: bool = False) -> Iterator[Item]:
    """Image files named one to a line, as they come."""
    for line in lines:
        if name := line.rstrip("\r\n"):
            yield name, _from_file(Path(name), spec, resize)


def from_frames(pipe: BinaryIO, spec: InputSpec, *, resize: bool = False) -> Iterator[Item]:
    """Length-prefixed frames: four bytes, little endian, then so many bytes.

    A frame of exactly H * W * C bytes is raw uint8; any other is an image file.

    Raises:
        LittoralError: the stream ends within a frame, or announces one that is too large; what came before was yielded.
    """
    number = 0
    while head := pipe.read(_LENGTH.size):
        number += 1
        if len(head) < _LENGTH.size:
            raise LittoralError(f"the stream ends within the length of frame {number}; send 4 bytes, then the frame")
        (length,) = _LENGTH.unpack(head)
        if length > MAX_IMAGE_BYTES:
            raise LittoralError(f"frame {number} announces {length} bytes, at most {MAX_IMAGE_BYTES} are read")
        data = pipe.read(length)
        if len(data) < length:
            raise LittoralError(f"the stream ends within frame {number}: {len(data)} of {length} bytes came")
        name = f"frame {number}"
        try:
            yield name, decode_frame(data, spec, name, resize=resize)
        except FrameError as error:
            yield name, error
