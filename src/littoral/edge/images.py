"""Frames as bytes for the uplink, without loss: what the teacher sees is what the device saw."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from littoral.core.arrays import Frame


def encode_image(frame_HWC: Frame) -> tuple[str, bytes]:
    """The smaller of PNG and the raw bytes.

    Args:
        frame_HWC: uint8 ``(H, W, C)``; PNG serves C of 1, 3 and 4.
    Returns:
        The coding, ``png`` or ``raw``, and the bytes.
    """
    raw = np.ascontiguousarray(frame_HWC).tobytes()
    if frame_HWC.shape[2] not in (1, 3, 4):
        return "raw", raw
    file = io.BytesIO()
    Image.fromarray(frame_HWC[..., 0] if frame_HWC.shape[2] == 1 else frame_HWC).save(file, format="PNG")
    png = file.getvalue()
    return ("png", png) if len(png) < len(raw) else ("raw", raw)
