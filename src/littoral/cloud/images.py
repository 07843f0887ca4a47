"""Turn what an untrusted device calls an image into a frame of exactly the bundle's shape.

``raw`` is the frame's bytes in row order; ``png`` is one still 8-bit PNG of 1 or 3 channels. The size is read from the
header and compared before a decoder sees a byte, so an image can never cost more memory than a frame.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from littoral.bundle import InputSpec
from littoral.core.arrays import Frame
from littoral.errors import FrameError
from littoral.wire.messages import Sample

CODINGS = ("png", "raw")
MAX_INTEGER = 2**63 - 1
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">I4sIIBBBBB")
_COLOUR_TYPE = {1: 0, 3: 2}  # channels -> PNG colour type
_MODE = {1: "L", 3: "RGB"}


def decode_image(coding: str, data: bytes, spec: InputSpec) -> Frame:
    """Decode to uint8 ``spec.shape``.

    Raises:
        FrameError: an unknown coding, another size, depth or number of channels, an animation, or damaged data.
    """
    if coding == "raw":
        if len(data) != spec.num_bytes:
            raise FrameError(f"a raw frame of this bundle has {spec.num_bytes} bytes, got {len(data)}")
        return np.frombuffer(data, dtype=np.uint8).reshape(spec.shape)
    if coding != "png":
        raise FrameError(f"an image came with coding {coding!r:.40}, expected one of {CODINGS}")
    _check_header(data, spec)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode != _MODE[spec.channels] or getattr(image, "n_frames", 1) != 1:
                raise FrameError("a PNG came that is animated or has a palette; send one still image")
            image.load()
            frame = np.asarray(image, dtype=np.uint8).reshape(spec.shape)
    except FrameError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise FrameError(f"a PNG came that cannot be decoded ({error})") from error
    return frame


def _check_header(data: bytes, spec: InputSpec) -> None:
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


def check_sample(sample: Sample, spec: InputSpec, num_classes: int) -> Frame:
    """Every rule that a sample's content must keep; gives the decoded frame.

    Raises:
        FrameError: the image is not a frame of this bundle, or a number is out of range.
    """
    if sample.predicted >= num_classes:
        raise FrameError(f"a sample says class {sample.predicted}, this bundle has {num_classes} classes")
    if sample.version > MAX_INTEGER or sample.frame_id > MAX_INTEGER:
        raise FrameError("a sample's version or frame_id is out of range")
    if sample.entropy_nats < 0:
        raise FrameError(f"a sample's entropy is {sample.entropy_nats:g} nats, it cannot be negative")
    return decode_image(sample.coding, sample.image, spec)
