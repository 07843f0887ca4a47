"""The whole data sets of the dense tasks from a user's own copy: COCO with its JSON, VOC's segmentation folders.

Nothing is decoded before it is read. ImageNet's class folders are read by `littoral.bench.streams.folders`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from littoral.bench.dense_data import Boxed, Segmented
from littoral.core.arrays import Frame
from littoral.core.boxes import convert_boxes
from littoral.core.metrics import BoxTruth, LabelMap

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOC_VOID = 255
Prepare = Callable[[Frame], Frame]


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoFolder:
    """Where COCO's images lie, and what is on them."""

    paths: tuple[Path, ...]
    """In rising order of the image's number."""
    truths: tuple[BoxTruth, ...]
    """In pixels of the image; labels are places in ``class_names``, crowds are marked."""
    class_names: tuple[str, ...]

    def read(self, places: Sequence[int]) -> Boxed:
        """Some images, decoded.

        Raises:
            ValueError: a file is no image.
        """
        chosen = [self.paths[place] for place in places]
        return Boxed(
            names=tuple(path.stem for path in chosen),
            frames=[read_image(path) for path in chosen],
            truths=[self.truths[place] for place in places],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class VocFolder:
    """Where VOC's images and masks lie."""

    paths: tuple[Path, ...]
    masks: tuple[Path, ...]

    def read(self, places: Sequence[int], *, height: int | None = None, width: int | None = None) -> Segmented:
        """Some images with their masks, decoded, and scaled if a size is given: masks to the nearest pixel.

        Raises:
            ValueError: a file is no image, or a mask does not fit its image.
        """
        frames, truths = [], []
        for place in places:
            frame, mask = read_image(self.paths[place]), _read_mask(self.masks[place])
            if frame.shape[:2] != mask.shape:
                raise ValueError(f"{self.masks[place]} is {mask.shape}, its image {frame.shape[:2]}; unpack both again")
            if height is not None and width is not None:
                frame = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
                mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
            frames.append(frame)
            truths.append(mask)
        return Segmented(names=tuple(self.paths[place].stem for place in places), frames=frames, truths=truths)


def list_coco(folder: Path, split: str = "val2017") -> CocoFolder:
    """COCO's detection task as its authors lay it out.

    Args:
        folder: Has ``annotations/instances_<split>.json``, and the images in ``<split>`` or ``images/<split>``.
    Raises:
        ValueError: a file or an image is missing, or the JSON is not of that form.
    """
    path = folder / "annotations" / f"instances_{split}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        categories = sorted(document["categories"], key=lambda each: int(each["id"]))
        images = sorted(document["images"], key=lambda each: int(each["id"]))
        objects: dict[int, list[dict[str, Any]]] = {int(image["id"]): [] for image in images}
        for each in document["annotations"]:
            objects[int(each["image_id"])].append(each)
        labels = {int(each["id"]): place for place, each in enumerate(categories)}
        truths = tuple(_truth(objects[int(image["id"])], labels) for image in images)
        names = [str(image["file_name"]) for image in images]
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}); give the folder of 'annotations' and '{split}'") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not COCO's instances: {error!r}; fetch it again") from error
    base = next((each for each in (folder / split, folder / "images" / split) if each.is_dir()), None)
    if base is None:
        raise ValueError(f"{folder} has neither {split} nor images/{split}; unpack the images there")
    paths = tuple(base / name for name in names)
    _all_there(paths)
    return CocoFolder(paths=paths, truths=truths, class_names=tuple(str(each["name"]) for each in categories))


def list_voc(folder: Path, split: str = "val", *, year: int = 2012) -> VocFolder:
    """VOC's segmentation task as its authors lay it out.

    Args:
        folder: Has ``VOCdevkit/VOC<year>``, or ``VOC<year>``, or is that.
        split: ``train``, ``val`` or ``trainval``.
    Raises:
        ValueError: a file is missing.
    """
    bases = (folder / "VOCdevkit" / f"VOC{year}", folder / f"VOC{year}", folder)
    base = next((each for each in bases if (each / "ImageSets" / "Segmentation").is_dir()), None)
    if base is None:
        raise ValueError(f"{folder} has no VOC{year} with ImageSets/Segmentation; give the folder that has VOCdevkit")
    names_file = base / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        names = names_file.read_text(encoding="ascii").split()
    except OSError as error:
        raise ValueError(f"{names_file} cannot be read ({error}); the splits are train, val and trainval") from error
    paths = tuple(base / "JPEGImages" / f"{name}.jpg" for name in names)
    masks = tuple(base / "SegmentationClass" / f"{name}.png" for name in names)
    _all_there((*paths, *masks))
    return VocFolder(paths=paths, masks=masks)


def pack_frames(
    paths: Sequence[Path], out: Path, prepare: Prepare, *, say: Callable[[str], None] | None = None
) -> NDArray[np.uint8]:
    """Frames of one size in one file that the trainer reads a batch of at a time, without the memory of all.

    May be stopped: what is done is not done again. `littoral.train.split_data.SplitData` takes what is returned.

    Args:
        out: ``.npy``; about 150 KB a frame at 224 x 224. Beside it a file ``.done`` while it is not whole.
        prepare: A decoded frame to uint8 ``(H, W, 3)`` of the one size.
    Returns:
        uint8 ``(N, H, W, 3)``, a read-only view of the file.
    Raises:
        ValueError: there are no frames, one has another size, or the file there is of other frames.
    """
    if not paths:
        raise ValueError("there are no frames to pack")
    done_file = out.with_suffix(".done")
    if out.exists():
        held = np.lib.format.open_memmap(out, mode="r+")
        done = int(done_file.read_text()) if done_file.exists() else len(held)
        if len(held) != len(paths) or held.dtype != np.uint8:
            raise ValueError(f"{out} holds {len(held)} frames, {len(paths)} are to be packed; name another file")
    else:
        first = prepare(read_image(paths[0]))
        out.parent.mkdir(parents=True, exist_ok=True)
        done_file.write_text("0")
        held, done = np.lib.format.open_memmap(out, mode="w+", dtype=np.uint8, shape=(len(paths), *first.shape)), 0
    for place in range(done, len(paths)):
        frame = prepare(read_image(paths[place]))
        if frame.shape != held.shape[1:]:
            raise ValueError(f"{paths[place]} came out as {frame.shape}, the first one as {held.shape[1:]}")
        held[place] = frame
        if (place + 1) % 1000 == 0 or place + 1 == len(paths):
            held.flush()
            done_file.write_text(str(place + 1))
            if say is not None:
                say(f"{place + 1} of {len(paths)} frames are packed")
    done_file.unlink(missing_ok=True)
    view: NDArray[np.uint8] = np.load(out, mmap_mode="r", allow_pickle=False)
    return view


def read_image(path: Path) -> Frame:
    """One image, uint8 ``(H, W, 3)``, RGB.

    Raises:
        ValueError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not an image that Pillow reads: {error}; unpack it again") from error


def _read_mask(path: Path) -> LabelMap:
    """VOC's masks are palette images whose numbers, not colours, are the classes."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(f"{path} has the mode {image.mode}; a mask is a palette or grey image of classes")
            return np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not an image that Pillow reads: {error}; unpack it again") from error


def _truth(objects: Sequence[dict[str, Any]], labels: dict[int, int]) -> BoxTruth:
    sized = np.array([each["bbox"] for each in objects], dtype=np.float32).reshape(-1, 4)
    return BoxTruth(
        convert_boxes(sized, given="sized", wanted="corners"),
        np.array([labels[int(each["category_id"])] for each in objects], dtype=np.int64),
        np.array([bool(each.get("iscrowd", 0)) for each in objects], dtype=bool),
    )


def _all_there(paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(paths)} files are missing, first {missing[0]}; unpack them again")
