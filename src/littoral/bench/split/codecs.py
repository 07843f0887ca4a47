"""What others would send: a picture by JPEG, WebP or AVIF, or a network's features as bytes through a general packer.

The bytes of a picture are those of its file, with its header: on frames of 32 x 32 pixels much of a file is header,
which a receiver could know. So each size is also given with the header taken off: less the size of the file of a
blank frame (mid-grey, same size, same codec, same quality). That takes off a few bytes of blank picture as well, in the
codec's favour.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from littoral.core.arrays import FloatArray, Frame

QUALITIES = (0, 1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 98, 100)
QUICK_QUALITIES = (10, 50, 90)
GREY = 128


@dataclass(frozen=True, kw_only=True)
class PictureCodec:
    """A codec as it packs small pictures best, by the options of Pillow."""

    name: str
    format: str
    options: Mapping[str, Any]
    lossy: bool = True
    feature: str | None = None
    """What Pillow must have been built with."""

    def encode(self, frame: Frame, quality: int) -> bytes:
        """The file of an RGB frame uint8 ``(H, W, 3)``."""
        out = io.BytesIO()
        chosen = {"quality": quality} if self.lossy else {}
        Image.fromarray(frame).save(out, format=self.format, **chosen, **self.options)
        return out.getvalue()


def decode_picture(data: bytes) -> Frame:
    """The frame of a file of any of the codecs."""
    frame: Frame = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return frame


CODECS = (
    PictureCodec(name="jpeg", format="JPEG", options={"optimize": True}),
    PictureCodec(name="jpeg_444", format="JPEG", options={"optimize": True, "subsampling": 0}),
    PictureCodec(name="webp", format="WEBP", options={"method": 6}, feature="webp"),
    PictureCodec(name="avif", format="AVIF", options={"speed": 4, "max_threads": 1}, feature="avif"),
    PictureCodec(
        name="avif_444", format="AVIF", options={"speed": 4, "max_threads": 1, "subsampling": "4:4:4"}, feature="avif"
    ),
    PictureCodec(name="png", format="PNG", options={"optimize": True}, lossy=False),
    PictureCodec(
        name="webp_lossless", format="WEBP", options={"lossless": True, "method": 6}, lossy=False, feature="webp"
    ),
)


def codec_of(name: str) -> PictureCodec:
    """A codec by its name.

    Raises:
        ValueError: there is none of this name.
    """
    for codec in CODECS:
        if codec.name == name:
            return codec
    raise ValueError(f"no codec is called {name!r}; there are {', '.join(codec.name for codec in CODECS)}")


def why_not(codec: PictureCodec) -> str | None:
    """Why this Pillow cannot do it; None when it can."""
    if codec.feature is None or features.check(codec.feature):
        return None
    return f"this Pillow was built without {codec.feature}"


@cache
def _blank_bytes(name: str, quality: int, height: int, width: int) -> int:
    return len(codec_of(name).encode(np.full((height, width, 3), GREY, np.uint8), quality))


def blank_bytes(codec: PictureCodec, quality: int, frame: Frame) -> int:
    """The size of the file of a mid-grey frame as large as this one."""
    return _blank_bytes(codec.name, quality, *frame.shape[:2])


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of the frames' payloads."""

    mean: float
    p50: float
    p95: float

    @classmethod
    def of(cls, sizes: Sequence[int] | NDArray[Any]) -> Sizes:
        """Of at least one."""
        values = np.asarray(sizes, np.float64)
        p50, p95 = np.percentile(values, [50, 95])
        return cls(mean=float(values.mean()), p50=float(p50), p95=float(p95))

    def columns(self, name: str = "bytes") -> dict[str, float]:
        """For a row of the table."""
        return {name: round(self.mean, 2), f"{name}_p50": round(self.p50, 2), f"{name}_p95": round(self.p95, 2)}


def recode(codec: PictureCodec, frames: Frame, quality: int) -> tuple[Frame, list[int]]:
    """Frames uint8 ``(B, H, W, 3)`` as a receiver sees them, and the size of each one's file."""
    files = [codec.encode(frame, quality) for frame in frames]
    return np.stack([decode_picture(data) for data in files]), [len(data) for data in files]


# -- features ----------------------------------------------------------------------------------------------------------

Packer = Callable[[bytes], bytes]
PACKERS: Mapping[str, Packer] = {
    "zlib": lambda data: zlib.compress(data, 9, wbits=-15),
    "lzma": lambda data: lzma.compress(
        data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    ),
}
"""Of the standard library, without their headers: zstandard is no dependency of ours, and on payloads of kilobytes it
lies near zlib."""
RANGE_BYTES = 8
"""Two float32 go along with each payload: the lowest value and the step."""


def quantise(features_BCHW: FloatArray) -> tuple[NDArray[np.uint8], FloatArray]:
    """Features in 8 bits each, over each frame's own range, and what a receiver makes of them.

    Args:
        features_BCHW: float32 ``(B, C, H, W)``.
    """
    flat = features_BCHW.reshape(len(features_BCHW), -1)
    low = flat.min(axis=1, keepdims=True)
    step = np.maximum((flat.max(axis=1, keepdims=True) - low) / 255, np.finfo(np.float32).tiny).astype(np.float32)
    levels = np.rint((flat - low) / step).clip(0, 255).astype(np.uint8)
    back = (low + levels * step).astype(np.float32)
    return levels.reshape(features_BCHW.shape), back.reshape(features_BCHW.shape)


def packed_bytes(levels_BCHW: NDArray[np.uint8], packer: str) -> list[int]:
    """The size of each frame's payload: packed values and the range."""
    pack = PACKERS[packer]
    return [len(pack(np.ascontiguousarray(levels).tobytes())) + RANGE_BYTES for levels in levels_BCHW]
