"""Frames as bytes and back: what a device codes of them, and what whoever gets the bytes makes of them again.

Without loss unless told otherwise: what the teacher sees is what the device saw. Lossless WebP takes fewer bytes than
PNG on small photographs (docs/log.md has the figures). It serves 3 channels only: as a frame of 3 channels a grey one
would cost more and come back as another.

What comes is of an untrusted peer. ``raw`` is the frame's bytes in row order; ``png`` is one still 8-bit PNG of 1 or 3
channels; ``webp`` one still WebP without alpha and ``jpeg`` one JPEG, both of 3 channels. The size is read from the
header and compared before a decoder sees a byte, so an image can never cost more memory than a frame.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from littoral.bundle.manifest import InputSpec
from littoral.core.arrays import Frame
from littoral.errors import FrameError

LOSSLESS = "lossless"
_LOSSY = re.compile(r"(webp|jpeg)-([1-9][0-9]?|100)")
_PNG_CHANNELS = (1, 3, 4)
_WEBP_QUALITY, _WEBP_METHOD = 50, 2
"""The effort: more of it takes three times as long and saves nothing at 32 x 32."""
MAX_PICTURE_BYTES = 262_144
"""Of a picture that is offloaded: a device sends none that is larger, and no router is built for one."""
CODINGS = ("raw", "png", "webp", "jpeg")
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
)
"""What Pillow raises, by what it finds, for bytes that are no image or no whole one."""
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">I4sIIBBBBB")
_COLOUR_TYPE = {1: 0, 3: 2}  # channels -> PNG colour type
_MODE = {1: "L", 3: "RGB"}
_RIFF = struct.Struct("<4sI4s4sI")  # "RIFF", bytes that follow, "WEBP", the chunk's name, its bytes
_VP8_START = b"\x9d\x01\x2a"
_VP8L_START = 0x2F
_JPEG_SIZES = frozenset({0xC0, 0xC1, 0xC2})
"""Markers of a frame header that Pillow decodes: baseline, extended, progressive."""
_JPEG_SCAN = b"\xff\xda"
_MOST_SCANS = 32
"""Of a JPEG; encoders make one, or about ten of a progressive one. Each may be a few bytes long, and the decoder goes
through the whole picture for each."""
_JPEG_SKIPPED = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
"""Markers that may come before it: tables, restart interval, comment, application data."""


def check_coding(coding: str) -> str:
    """The coding, if it is one that `encode_image` takes.

    Raises:
        ValueError: it is not.
    """
    if coding not in (LOSSLESS, "raw", "png", "webp") and not _LOSSY.fullmatch(coding):
        raise ValueError(
            f"a picture is coded as {LOSSLESS!r}, 'raw', 'png' or 'webp', all without loss, or as 'webp-<q>' or "
            f"'jpeg-<q>' with a quality of 1 to 100, got {coding!r}"
        )
    return coding


@cache
def has_webp() -> bool:
    """Whether this Pillow codes WebP, and gives back what was put in."""
    if not features.check("webp"):
        return False
    tried = np.random.default_rng(0).integers(0, 256, size=(9, 7, 3), dtype=np.uint8)
    try:
        with Image.open(io.BytesIO(_webp(tried))) as image:
            return image.mode == "RGB" and np.array_equal(np.asarray(image), tried)
    except (OSError, ValueError, KeyError):
        return False


def served(coding: str, channels: int) -> str:
    """The coding, or `LOSSLESS` where it does not serve so many channels or this Pillow lacks it."""
    if lossy := _LOSSY.fullmatch(coding):
        return coding if channels == 3 and (lossy[1] == "jpeg" or has_webp()) else LOSSLESS
    return coding if coding in _exact_codings(channels) else LOSSLESS


def _exact_codings(channels: int) -> list[str]:
    png = ["png"] if channels in _PNG_CHANNELS else []
    return ["raw", *png, *(["webp"] if channels == 3 and has_webp() else [])]


class Picture(NamedTuple):
    """A coded frame."""

    coding: str
    """What the wire calls it: ``raw``, ``png``, ``webp`` or ``jpeg``."""
    image: bytes


def encode_image(frame_HWC: Frame, coding: str = LOSSLESS) -> Picture:
    """Code a frame.

    Args:
        frame_HWC: uint8 ``(H, W, C)``.
        coding: ``lossless`` takes the smallest of raw, PNG (C of 1, 3 and 4) and WebP (C of 3); ``raw``, ``png`` and
            ``webp`` that one; ``webp-<q>`` and ``jpeg-<q>`` lose something. A coding that does not serve so many
            channels, or that this Pillow lacks, is replaced by ``lossless``.
    Returns:
        Never more bytes than the raw ones.
    """
    channels = frame_HWC.shape[2]
    coding = served(coding, channels)
    if lossy := _LOSSY.fullmatch(coding):
        found = [("raw", _raw(frame_HWC)), (lossy[1], _lossy(frame_HWC, lossy[1], int(lossy[2])))]
    else:
        wanted = _exact_codings(channels) if coding == LOSSLESS else ["raw", coding]
        found = [(name, _EXACT[name](frame_HWC)) for name in dict.fromkeys(wanted)]
    return Picture(*min(found, key=lambda pair: len(pair[1])))


def _raw(frame_HWC: Frame) -> bytes:
    return np.ascontiguousarray(frame_HWC).tobytes()


def _save(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _png(frame_HWC: Frame) -> bytes:
    return _save(Image.fromarray(frame_HWC[..., 0] if frame_HWC.shape[2] == 1 else frame_HWC), format="PNG")


def _webp(frame_HWC: Frame) -> bytes:
    image = Image.fromarray(frame_HWC)
    return _save(image, format="WEBP", lossless=True, quality=_WEBP_QUALITY, method=_WEBP_METHOD, exact=True)


_EXACT: dict[str, Callable[[Frame], bytes]] = {"raw": _raw, "png": _png, "webp": _webp}


def _lossy(frame_HWC: Frame, kind: str, quality: int) -> bytes:
    image = Image.fromarray(frame_HWC)
    if kind == "webp":
        return _save(image, format="WEBP", quality=quality, method=4)
    return _save(image, format="JPEG", quality=quality, subsampling=0, optimize=True)


def decode_image(coding: str, data: bytes, spec: InputSpec) -> Frame:
    """Decode to uint8 ``spec.shape``.

    Raises:
        FrameError: an unknown coding, another size, depth or number of channels, an animation, or damaged data.
    """
    if coding == "raw":
        if len(data) != spec.num_bytes:
            raise FrameError(f"a raw frame of this bundle has {spec.num_bytes} bytes, got {len(data)}")
        return np.frombuffer(data, dtype=np.uint8).reshape(spec.shape)
    if coding not in _CHECKS:
        raise FrameError(f"an image came with coding {coding!r:.40}, expected one of {CODINGS}")
    _CHECKS[coding](data, spec)
    try:
        with Image.open(io.BytesIO(data), formats=[coding.upper()]) as image:
            still = getattr(image, "n_frames", 1) == 1
            if image.mode != _MODE[spec.channels] or image.size != (spec.width, spec.height) or not still:
                raise FrameError(f"a {coding} came that is animated or has a palette or alpha; send one still image")
            image.load()
            frame = np.asarray(image, dtype=np.uint8).reshape(spec.shape)
    except FrameError:
        raise
    except DAMAGED as error:
        raise FrameError(f"a {coding} came that cannot be decoded ({error})") from error
    return frame


def _check_png(data: bytes, spec: InputSpec) -> None:
    if spec.channels not in _COLOUR_TYPE:
        raise FrameError(f"frames of {spec.channels} channels have no PNG coding; send them as 'raw'")
    if len(data) < len(_PNG_MAGIC) + _IHDR.size or not data.startswith(_PNG_MAGIC):
        raise FrameError("an image came that is not a PNG")
    length, kind, width, height, depth, colour, *_ = _IHDR.unpack_from(data, len(_PNG_MAGIC))
    expected = (13, b"IHDR", spec.width, spec.height, 8, _COLOUR_TYPE[spec.channels])
    if (length, kind, width, height, depth, colour) != expected:
        raise FrameError(
            f"a PNG of {width} x {height}, {depth} bit, colour type {colour} came; this bundle's frames are "
            f"{spec.width} x {spec.height}, 8 bit, {spec.channels} channels"
        )


def _check_webp(data: bytes, spec: InputSpec) -> None:
    """One chunk, ``VP8L`` or ``VP8 ``, that fills the file: no animation, no alpha, no metadata."""
    _refuse_channels("WebP", spec)
    if len(data) < _RIFF.size + 10:
        raise FrameError("an image came that is not a WebP")
    riff, total, webp, chunk, length = _RIFF.unpack_from(data)
    at = _RIFF.size
    if (riff, webp) != (b"RIFF", b"WEBP") or total != len(data) - 8 or length + length % 2 != len(data) - at:
        raise FrameError("an image came that is not a WebP of one chunk; send one still image without metadata")
    if chunk == b"VP8L" and data[at] == _VP8L_START:
        (bits,) = struct.unpack_from("<I", data, at + 1)
        size, alpha = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), bool(bits >> 28)
    elif chunk == b"VP8 " and data[at + 3 : at + 6] == _VP8_START:
        width, height = struct.unpack_from("<HH", data, at + 6)
        size, alpha = (width & 0x3FFF, height & 0x3FFF), bool((width | height) >> 14)  # the upper bits ask for scaling
    else:
        raise FrameError(f"a WebP with a chunk {chunk!r} came; send one still image without alpha")
    if alpha:
        raise FrameError("a WebP with alpha, of another version or with scaling came; send 3 channels")
    _check_size("WebP", *size, spec)


def _check_jpeg(data: bytes, spec: InputSpec) -> None:
    """Walk over tables to the frame header; it must be 8 bit, of 3 components and of the frame's size."""
    _refuse_channels("JPEG", spec)
    if not data.startswith(b"\xff\xd8"):
        raise FrameError("an image came that is not a JPEG")
    if (num_scans := data.count(_JPEG_SCAN)) > _MOST_SCANS:
        raise FrameError(f"a JPEG of {num_scans} scans came, at most {_MOST_SCANS} are read; send a baseline JPEG")
    at = 2
    while at + 4 <= len(data):
        start, marker, length = struct.unpack_from(">BBH", data, at)
        if start != 0xFF or length < 2:
            break
        if marker in _JPEG_SIZES and at + 10 <= len(data):
            depth, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            if (depth, components) != (8, 3):
                raise FrameError(f"a JPEG of {depth} bit and {components} components came; send 8 bit and 3")
            return _check_size("JPEG", width, height, spec)
        if marker not in _JPEG_SKIPPED:
            break
        at += 2 + length
    raise FrameError("a JPEG came without a frame header where one should be")


def _refuse_channels(kind: str, spec: InputSpec) -> None:
    if spec.channels != 3:
        raise FrameError(f"frames of {spec.channels} channels have no {kind} coding; send them as 'raw' or 'png'")


def _check_size(kind: str, width: int, height: int, spec: InputSpec) -> None:
    if (width, height) != (spec.width, spec.height):
        raise FrameError(f"a {kind} of {width} x {height} came; this bundle's are {spec.width} x {spec.height}")


_CHECKS: dict[str, Callable[[bytes, InputSpec], None]] = {
    "png": _check_png,
    "webp": _check_webp,
    "jpeg": _check_jpeg,
}
