"""The small sets of the dense tasks are read from their archives, and a frame is fitted into an input."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littoral.bench.dense_data import (
    iter_imagenet_sample,
    letterboxed,
    load_camvid,
    load_coco_val128,
    spread,
)
from littoral.core.boxes import Letterbox


def image(value: int, size: tuple[int, int] = (8, 6), *, mode: str = "RGB", form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(out, form)
    return out.getvalue()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_camvids_frames_come_in_order_with_their_masks(tmp_path: Path) -> None:
    files = {f"test/{name}.webp": image(value) for name, value in (("b", 20), ("a", 10))}
    files |= {f"testannot/{name}.png": image(value, mode="L") for name, value in (("b", 11), ("a", 3))}
    archive(tmp_path / "camvid" / "camvid.tar", files)
    data = load_camvid(tmp_path, "test")
    assert data.names == ("a", "b")
    assert [int(frame[0, 0, 0]) for frame in data.frames] == [10, 20]
    assert [int(truth[0, 0]) for truth in data.truths] == [3, 11]
    assert data.truths[0].shape == (6, 8)
    assert load_camvid(tmp_path, "test", limit=1).names == ("a",)
    with pytest.raises(ValueError, match="has no folder 'val'"):
        load_camvid(tmp_path, "val")


def test_a_frame_without_its_mask_and_a_missing_archive_are_refused(tmp_path: Path) -> None:
    archive(tmp_path / "camvid" / "camvid.tar", {"val/a.webp": image(1)})
    with pytest.raises(ValueError, match=r"has no file 'valannot/a\.png'"):
        load_camvid(tmp_path, "val")
    with pytest.raises(ValueError, match="give the folder that has it"):
        load_coco_val128(tmp_path)


def test_cocos_shares_become_corners_and_an_image_may_have_no_object(tmp_path: Path) -> None:
    files = {f"images/val2017/{n}.jpg": image(n, form="JPEG") for n in (1, 2)}
    files["labels/val2017/1.txt"] = b"7 0.5 0.5 0.25 1\n0 0.25 0.25 0.5 0.5\n"
    archive(tmp_path / "coco" / "coco_val128.tar", files)
    data = load_coco_val128(tmp_path)
    assert data.truths[0].boxes_N4.tolist() == [[3, 0, 5, 6], [0, 0, 4, 3]]
    assert data.truths[0].labels_N.tolist() == [7, 0]
    assert len(data.truths[1].boxes_N4) == 0


def test_the_imagenet_sample_is_spread_over_its_classes(tmp_path: Path) -> None:
    files = {f"{n:03d}_x.jpg": image(n, form="JPEG") for n in range(6)}
    archive(tmp_path / "imagenet" / "imagenet1k_sample.tar", files)
    assert [name for name, _ in iter_imagenet_sample(tmp_path, limit=3)] == ["000_x.jpg", "002_x.jpg", "004_x.jpg"]
    assert len(list(iter_imagenet_sample(tmp_path))) == 6


def test_a_frame_keeps_its_ratio_and_is_padded_as_yolox_pads() -> None:
    frame = np.full((10, 20, 3), 7, np.uint8)
    fitted = letterboxed(frame, Letterbox(frame_height=10, frame_width=20, input_height=8, input_width=8))
    assert (fitted[:4] == 7).all()
    assert (fitted[4:] == 114).all()
    with pytest.raises(ValueError, match="frame of 10 x 20 came for a letterbox of 9 x 20"):
        letterboxed(frame, Letterbox(frame_height=9, frame_width=20, input_height=8, input_width=8))


def test_spread_takes_all_or_evenly_and_never_none() -> None:
    assert spread([1, 2, 3, 4], 2) == [1, 3]
    assert spread([1, 2], 5) == spread([1, 2], None) == [1, 2]
    with pytest.raises(ValueError, match="at least 1"):
        spread([1, 2], 0)
