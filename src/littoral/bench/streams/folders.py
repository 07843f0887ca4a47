"""ImageNet-C, ImageNet-R and other folders of images, one folder for each class, read a batch at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from littoral.core.arrays import Frame

_SUFFIXES = (".jpeg", ".jpg", ".png")
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder:
    """Where the images of a data set lie; nothing is decoded before `read`."""

    paths: tuple[Path, ...]
    """In the order of class folder, then of name."""
    labels: NDArray[np.int64]
    """Index into ``wnids`` for each path."""
    wnids: tuple[str, ...]

    def read(self, places: Sequence[int], *, side: int = 224, shorter_side: int = 256) -> Frame:
        """Frames uint8 ``(B, side, side, 3)``: shorter side scaled (bilinear), middle cut out.

        An image that is ``side`` by ``side`` already, as in ImageNet-C, is taken as it is.

        Raises:
            ValueError: a file is no image.
        """
        frames = np.empty((len(places), side, side, 3), np.uint8)
        for frame, place in zip(frames, places, strict=True):
            frame[:] = _read(self.paths[place], side, shorter_side)
        return frames


def list_imagenet_r(folder: Path, *, wnids: Sequence[str] | None = None) -> ImageFolder:
    """ImageNet-R, or any folder of ``<wnid>/*.jpg``.

    Args:
        folder: Has the class folders, or has them below ``imagenet-r``.
        wnids: The classes in the order of the network's outputs, for ImageNet all 1,000; default: those that are there,
            sorted. Folders of other classes are an error, missing ones are not: ImageNet-R has 200.
    Raises:
        ValueError: the folder is missing or is not of this form.
    """
    below = folder / "imagenet-r"
    return _list(below if below.is_dir() else folder, wnids)


def list_imagenet_c(folder: Path, name: str, *, severity: int, wnids: Sequence[str] | None = None) -> ImageFolder:
    """One corruption of ImageNet-C at one severity, ``<name>/<severity>/<wnid>/*.JPEG``.

    Args:
        folder: Has ``<name>``, or has it below ``ImageNet-C``, or below the group that its archive was called by.
        severity: 1..5.
        wnids: As in `list_imagenet_r`.
    Raises:
        ValueError: the folder is missing or is not of this form.
    """
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity is {severity!r}; ImageNet-C goes from 1 to 5")
    groups = ("", "noise", "blur", "weather", "digital", "extra")
    tried = [base / group / name for base in (folder / "ImageNet-C", folder) for group in groups]
    for path in tried:
        if path.is_dir():
            return _list(path / str(severity), wnids)
    raise ValueError(f"{folder} has no folder {name!r}, nor ImageNet-C/{name}; 'littoral data list' says how to get it")


def _list(folder: Path, wnids: Sequence[str] | None) -> ImageFolder:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one with a folder for each class (n01440764/...)")
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _WNID.fullmatch(entry.name))
    if not found:
        raise ValueError(f"{folder} has no class folders such as n01440764; give the folder that has them")
    known = tuple(wnids) if wnids is not None else tuple(found)
    index = {wnid: place for place, wnid in enumerate(known)}
    strangers = [wnid for wnid in found if wnid not in index]
    if strangers:
        raise ValueError(
            f"{folder} has {len(strangers)} classes that are not among the {len(known)} given, first {strangers[0]}; "
            "give all that the network knows"
        )
    paths, labels = [], []
    for wnid in found:
        images = sorted(path for path in (folder / wnid).iterdir() if path.suffix.lower() in _SUFFIXES)
        paths += images
        labels += [index[wnid]] * len(images)
    if not paths:
        raise ValueError(f"{folder} has class folders but no image ({', '.join(_SUFFIXES)}) in them; unpack it again")
    return ImageFolder(paths=tuple(paths), labels=np.array(labels, np.int64), wnids=known)


def _read(path: Path, side: int, shorter_side: int) -> Frame:
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not an image that Pillow reads: {error}; unpack it again") from error
    if image.size != (side, side):
        scale = max(shorter_side, side) / min(image.size)
        size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        image = image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
    return np.asarray(image)
