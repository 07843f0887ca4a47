"""Frames and what is on them, from the ``.npz`` that ``littoral build`` is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

_ARRAYS = ("frames", "labels", "boxes", "counts")
"""What is read of it; see `littoral.core.truths`."""


def read_arrays(path: Path) -> dict[str, Any]:
    """The frames of a file, and what is known of them.

    Raises:
        ValueError: it has no frames, or cannot be read.
    """
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            tensors = {name: data[name] for name in _ARRAYS if name in data}
            has = ", ".join(map(repr, data.files)) or "none"
    except BadZipFile as error:
        raise ValueError(f"{path} should be an .npz with an array 'frames', and is no zip file") from error
    except TypeError as error:
        raise ValueError(f"{path} is one array without a name; save it with numpy.savez(FILE, frames=...)") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} should be an .npz with an array 'frames' ({error})") from error
    if "frames" not in tensors:
        raise ValueError(f"{path} should be an .npz with an array 'frames', it has {has}")
    frames = tensors["frames"]
    if frames.dtype != np.uint8 or frames.ndim != 4:
        raise ValueError(f"'frames' in {path} is {frames.dtype} {frames.shape}, expected uint8 (N, H, W, C)")
    return tensors
