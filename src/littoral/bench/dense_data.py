"""Small sets for the two dense tasks, from a folder that a user has: CamVid, 128 images of COCO, 1,000 of ImageNet.

Files are read, nothing is fetched or unpacked. `littoral.bench.dense_folders` reads the whole sets.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from littoral.core.arrays import Frame
from littoral.core.boxes import Letterbox, convert_boxes
from littoral.core.metrics import BoxTruth, LabelMap

T = TypeVar("T")
CAMVID, COCO, IMAGENET = "camvid/camvid.tar", "coco/coco_val128.tar", "imagenet/imagenet1k_sample.tar"
"""Below the data folder."""
CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
)
CAMVID_VOID = 11
"""The label of pixels without a truth."""
COCO_NUM_CLASSES = 80
YOLOX_FILL = 114
"""What YOLOX pads an input with."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmented:
    """Frames and what each pixel of them is."""

    names: tuple[str, ...]
    frames: list[Frame]
    """uint8 ``(H, W, 3)`` each, RGB."""
    truths: list[LabelMap]
    """uint8 ``(H, W)`` each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxed:
    """Frames and the objects on them."""

    names: tuple[str, ...]
    frames: list[Frame]
    """uint8 ``(H, W, 3)`` each, RGB, of different sizes."""
    truths: list[BoxTruth]
    """In pixels of the frame."""


def load_camvid(folder: Path, split: Literal["train", "val", "test"], *, limit: int | None = None) -> Segmented:
    """CamVid with 11 classes as its SegNet split has it: 367, 101 or 233 frames of 480 x 360, in order of time.

    Args:
        folder: Has ``camvid/camvid.tar`` with ``<split>/NAME.webp`` and ``<split>annot/NAME.png``.
        limit: So many at most, spread evenly over the split; all by default.
    Raises:
        ValueError: the file is missing or holds something else.
    """
    with _open(folder, CAMVID) as tar:
        members = {member.name: member for member in tar.getmembers() if member.isfile()}
        names = sorted(PurePosixPath(name).stem for name in members if name.startswith(f"{split}/"))
        if not names:
            expected = f"{split}/NAME.webp and {split}annot/NAME.png"
            raise ValueError(f"{tar.name!r} has no folder {split!r}; expected {expected}")
        names = spread(names, limit)
        try:
            frames = [_image(tar, members[f"{split}/{name}.webp"]) for name in names]
            truths = [_image(tar, members[f"{split}annot/{name}.png"], mode="L") for name in names]
        except KeyError as error:
            raise ValueError(f"{tar.name!r} has no file {error}; a frame and its mask belong together") from error
    return Segmented(names=tuple(names), frames=frames, truths=truths)


def load_coco_val128(folder: Path, *, limit: int | None = None) -> Boxed:
    """The first 128 images of COCO val2017, long side 480, with their boxes.

    Args:
        folder: Has ``coco/coco_val128.tar`` with ``images/val2017/ID.jpg`` and ``labels/val2017/ID.txt``: lines of
            class, centre and size, as shares of the image.
        limit: So many at most, spread evenly; all by default.
    Raises:
        ValueError: the file is missing or holds something else.
    """
    with _open(folder, COCO) as tar:
        members = {member.name: member for member in tar.getmembers() if member.isfile()}
        names = spread(sorted(name for name in members if name.endswith(".jpg")), limit)
        if not names:
            raise ValueError(f"{tar.name!r} has no images/val2017/ID.jpg")
        frames = [_image(tar, members[name]) for name in names]
        truths = []
        for name, frame in zip(names, frames, strict=True):
            label = members.get(name.replace("images/", "labels/").replace(".jpg", ".txt"))
            text = "" if label is None else _bytes(tar, label).decode("ascii")
            truths.append(_truth(text, frame.shape[0], frame.shape[1]))
    return Boxed(names=tuple(PurePosixPath(name).stem for name in names), frames=frames, truths=truths)


def iter_imagenet_sample(folder: Path, *, limit: int | None = None) -> Iterator[tuple[str, Frame]]:
    """Names and frames of the ImageNet sample, without labels, one at a time.

    Args:
        folder: Has ``imagenet/imagenet1k_sample.tar`` with ``*.jpg``.
        limit: So many at most, spread evenly over the classes; all by default.
    Raises:
        ValueError: the file is missing or holds something else.
    """
    with _open(folder, IMAGENET) as tar:
        members = sorted((m for m in tar.getmembers() if m.isfile() and m.name.endswith(".jpg")), key=lambda m: m.name)
        for member in spread(members, limit):
            yield member.name, _image(tar, member)


def letterboxed(frame: Frame, letterbox: Letterbox, *, fill: int = YOLOX_FILL) -> Frame:
    """A frame scaled into the network's input and padded; uint8 ``(input_height, input_width, 3)``.

    Scaled by Pillow's bilinear filter, which averages where it makes smaller; YOLOX's own reads single pixels.

    Raises:
        ValueError: the frame is not of the letterbox's size.
    """
    if frame.shape[:2] != (letterbox.frame_height, letterbox.frame_width):
        expected = f"{letterbox.frame_height} x {letterbox.frame_width}"
        raise ValueError(f"a frame of {frame.shape[0]} x {frame.shape[1]} came for a letterbox of {expected}")
    (height, width), (top, left) = letterbox.scaled, letterbox.offset
    scaled = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
    padded = np.full((letterbox.input_height, letterbox.input_width, 3), fill, dtype=np.uint8)
    padded[top : top + height, left : left + width] = np.asarray(scaled)
    return padded


def spread(items: list[T], limit: int | None) -> list[T]:
    """At most ``limit`` of the items, evenly over their order.

    Raises:
        ValueError: ``limit`` is not positive.
    """
    if limit is None or limit >= len(items):
        return items
    if limit < 1:
        raise ValueError(f"at least 1 is needed, got a limit of {limit}")
    return [items[place * len(items) // limit] for place in range(limit)]


def _open(folder: Path, file: str) -> tarfile.TarFile:
    path = folder / file
    try:
        return tarfile.open(path, "r:")
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{path} cannot be read ({error}); give the folder that has it") from error


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # the callers keep to files
    return file.read()


def _image(tar: tarfile.TarFile, member: tarfile.TarInfo, mode: str = "RGB") -> Frame:
    try:
        image = Image.open(io.BytesIO(_bytes(tar, member)))
        return np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{member.name} in {tar.name!r} is not an image that Pillow reads: {error}") from error


def _truth(text: str, height: int, width: int) -> BoxTruth:
    rows = np.array([line.split() for line in text.splitlines() if line.strip()], dtype=np.float64).reshape(-1, 5)
    boxes = convert_boxes(rows[:, 1:] * [width, height, width, height], given="centred", wanted="corners")
    return BoxTruth(boxes, rows[:, 0].astype(np.int64))
