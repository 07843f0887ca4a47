"""Frames as bytes for the uplink; without loss unless told otherwise: what the teacher sees is what the device saw.

Lossless WebP takes fewer bytes than PNG on small photographs (docs/log.md has the figures). It serves 3 channels only:
as a frame of 3 channels a grey one would cost more and come back as another.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, features

from littoral.core.arrays import Frame

LOSSLESS = "lossless"
_LOSSY = re.compile(r"(webp|jpeg)-([1-9][0-9]?|100)")
_PNG_CHANNELS = (1, 3, 4)
_WEBP_QUALITY, _WEBP_METHOD = 50, 2
"""The effort: more of it takes three times as long and saves nothing at 32 x 32."""


def check_coding(coding: str) -> str:
    """The coding, if it is one that `encode_image` takes.

    Raises:
        ValueError: it is not.
    """
    if coding not in (LOSSLESS, "raw", "png", "webp") and not _LOSSY.fullmatch(coding):
        raise ValueError(
            f"uplink_coding is {LOSSLESS!r}, 'raw', 'png' or 'webp', all without loss, or 'webp-<q>' or 'jpeg-<q>' "
            f"with a quality of 1 to 100, got {coding!r}"
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


def encode_image(frame_HWC: Frame, coding: str = LOSSLESS) -> tuple[str, bytes]:
    """Code a frame.

    Args:
        frame_HWC: uint8 ``(H, W, C)``.
        coding: ``lossless`` takes the smallest of raw, PNG (C of 1, 3 and 4) and WebP (C of 3); ``raw``, ``png`` and
            ``webp`` that one; ``webp-<q>`` and ``jpeg-<q>`` lose something. A coding that does not serve so many
            channels, or that this Pillow lacks, is replaced by ``lossless``.
    Returns:
        What the wire calls it, ``raw``, ``png``, ``webp`` or ``jpeg``, and the bytes; never more than the raw ones.
    """
    channels, lossy = frame_HWC.shape[2], _LOSSY.fullmatch(coding)
    codings = [
        "raw",
        *(["png"] if channels in _PNG_CHANNELS else []),
        *(["webp"] if channels == 3 and has_webp() else []),
    ]
    if lossy is not None and channels == 3 and (lossy[1] == "jpeg" or has_webp()):
        found = [("raw", _raw(frame_HWC)), (lossy[1], _lossy(frame_HWC, lossy[1], int(lossy[2])))]
    else:
        wanted = ["raw", coding] if coding in codings else codings
        found = [(name, _EXACT[name](frame_HWC)) for name in dict.fromkeys(wanted)]
    return min(found, key=lambda pair: len(pair[1]))


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
