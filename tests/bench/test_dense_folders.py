"""COCO and VOC as a user has them are read, and what is missing or of another form is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littoral.bench.dense_folders import list_coco, list_voc, pack_frames, read_image

SIZE = (12, 16)


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(path)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for number in (9, 4):
        picture(tmp_path / "val2017" / f"{number:012d}.jpg", 10 * number)
    document = {
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        "images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in (9, 4)],
        "annotations": [
            {"image_id": 4, "category_id": 90, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"image_id": 4, "category_id": 1, "bbox": [0, 0, 16, 12], "iscrowd": 1},
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for name, label in (("b", 3), ("a", 20)):
        picture(base / "JPEGImages" / f"{name}.jpg", 100)
        mask = Image.fromarray(np.full(SIZE, label, np.uint8), mode=None).convert("P")
        mask.putdata([label] * (SIZE[0] * SIZE[1] - 1) + [255])
        (base / "SegmentationClass").mkdir(exist_ok=True)
        mask.save(base / "SegmentationClass" / f"{name}.png")
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("b\na\n")
    return tmp_path


def test_cocos_numbers_become_places_and_its_boxes_corners(coco: Path) -> None:
    found = list_coco(coco)
    assert found.class_names == ("person", "toothbrush")
    assert [path.stem for path in found.paths] == ["000000000004", "000000000009"]
    data = found.read([0, 1])
    assert data.truths[0].boxes_N4.tolist() == [[1, 2, 4, 6], [0, 0, 16, 12]]
    assert data.truths[0].labels_N.tolist() == [1, 0]
    assert data.truths[0].crowd_N is not None
    assert data.truths[0].crowd_N.tolist() == [False, True]
    assert data.truths[1].boxes_N4.shape == (0, 4)
    assert data.frames[1].shape == (*SIZE, 3)


def test_coco_without_an_image_or_of_another_form_is_refused(coco: Path) -> None:
    (coco / "val2017" / "000000000009.jpg").unlink()
    with pytest.raises(ValueError, match="1 of 2 files are missing"):
        list_coco(coco)
    with pytest.raises(ValueError, match=r"instances_train2017\.json cannot be read"):
        list_coco(coco, "train2017")
    (coco / "annotations" / "instances_val2017.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="is not COCO's instances"):
        list_coco(coco)


def test_vocs_masks_are_class_numbers_in_the_order_of_the_list(voc: Path) -> None:
    found = list_voc(voc)
    data = found.read([0, 1])
    assert data.names == ("b", "a")
    assert [int(truth[0, 0]) for truth in data.truths] == [3, 20]
    assert int(data.truths[0][-1, -1]) == 255
    small = found.read([1], height=6, width=8)
    assert small.frames[0].shape == (6, 8, 3)
    assert set(np.unique(small.truths[0])) <= {20, 255}  # never a mean of two classes


def test_voc_with_a_mask_in_colours_is_refused(voc: Path) -> None:
    picture(voc / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "a.png", 3)
    with pytest.raises(ValueError, match="mode RGB"):
        list_voc(voc).read([1])
    with pytest.raises(ValueError, match="the splits are train"):
        list_voc(voc, "test")


def test_packing_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for n, path in enumerate(paths):
        picture(path, n)
    out, seen = tmp_path / "frames.npy", []

    def stopping(frame: np.ndarray) -> np.ndarray:
        seen.append(int(frame[0, 0, 0]))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return frame

    with pytest.raises(KeyboardInterrupt):
        pack_frames(paths, out, stopping)
    frames = pack_frames(paths, out, lambda frame: frame)
    assert frames[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert not frames.flags.writeable
    again = pack_frames(paths, out, stopping)  # whole: nothing is decoded
    assert len(seen) == 3
    np.testing.assert_array_equal(again, frames)
    with pytest.raises(ValueError, match="holds 3 frames, 2 are"):
        pack_frames(paths[:2], out, stopping)


def test_what_is_no_image_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.jpg is not an image"):
        read_image(tmp_path / "x.jpg")
