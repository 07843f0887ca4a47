"""Folders of ImageNet-C and ImageNet-R: paths and labels first, pixels when asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littoral.bench.streams.folders import list_imagenet_c, list_imagenet_r

WNIDS = ("n01440764", "n01443537", "n02094433")


def image(path: Path, size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def renditions(tmp_path: Path) -> Path:
    image(tmp_path / "imagenet-r" / WNIDS[2] / "art_1.png", (300, 500), (0, 0, 255))
    image(tmp_path / "imagenet-r" / WNIDS[0] / "toy_2.jpg", (640, 320), (255, 0, 0))
    image(tmp_path / "imagenet-r" / WNIDS[0] / "toy_1.JPEG", (50, 40), (0, 255, 0))
    (tmp_path / "imagenet-r" / "README.txt").write_text("Not a class.")
    (tmp_path / "imagenet-r" / WNIDS[0] / "note.txt").write_text("Not an image.")
    return tmp_path


def test_labels_are_places_among_the_classes_given(renditions: Path) -> None:
    for folder in (renditions, renditions / "imagenet-r"):
        listed = list_imagenet_r(folder, wnids=WNIDS)
        assert [path.name for path in listed.paths] == ["toy_1.JPEG", "toy_2.jpg", "art_1.png"]
        assert listed.labels.tolist() == [0, 0, 2]
    assert list_imagenet_r(renditions).labels.tolist() == [0, 0, 1]


def test_images_of_every_size_become_frames_of_one(renditions: Path) -> None:
    frames = list_imagenet_r(renditions).read([2, 0], side=64, shorter_side=80)
    assert (frames.shape, frames.dtype) == ((2, 64, 64, 3), np.uint8)
    assert frames[0, 0, 0].tolist() == [0, 0, 255]
    assert frames[1].mean(axis=(0, 1)).round(-1).tolist() == [0, 250, 0] or frames[1, ..., 1].mean() > 240


def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / WNIDS[0]).mkdir()
    Image.fromarray(noise).save(tmp_path / WNIDS[0] / "a.png")
    np.testing.assert_array_equal(list_imagenet_r(tmp_path).read([0], side=64)[0], noise)


def test_the_middle_is_cut_out(tmp_path: Path) -> None:
    striped = np.zeros((64, 128, 3), np.uint8)
    striped[:, 48:80] = 255
    (tmp_path / WNIDS[0]).mkdir()
    Image.fromarray(striped).save(tmp_path / WNIDS[0] / "a.png")
    frame = list_imagenet_r(tmp_path).read([0], side=32, shorter_side=64)[0]
    assert (frame == 255).all()


@pytest.mark.parametrize("below", ["", "ImageNet-C", "blur"])
def test_a_corruption_is_found_where_its_archive_unpacks(tmp_path: Path, below: str) -> None:
    image(tmp_path / below / "defocus_blur" / "5" / WNIDS[1] / "x.JPEG", (224, 224), (9, 9, 9))
    assert list_imagenet_c(tmp_path, "defocus_blur", severity=5, wnids=WNIDS).labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"defocus_blur.4 is no folder"):
        list_imagenet_c(tmp_path, "defocus_blur", severity=4)


def test_what_is_not_such_a_folder_is_told_apart(tmp_path: Path, renditions: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is no folder"):
        list_imagenet_r(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no folder 'fog'.*littoral data list"):
        list_imagenet_c(tmp_path, "fog", severity=1)
    with pytest.raises(ValueError, match="severity is 0"):
        list_imagenet_c(tmp_path, "fog", severity=0)
    with pytest.raises(ValueError, match="1 classes that are not among the 2 given, first n02094433"):
        list_imagenet_r(renditions, wnids=WNIDS[:2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no class folders such as"):
        list_imagenet_r(tmp_path / "empty")
    (tmp_path / "empty" / WNIDS[0]).mkdir()
    with pytest.raises(ValueError, match="class folders but no image"):
        list_imagenet_r(tmp_path / "empty")


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / WNIDS[0]).mkdir()
    (tmp_path / WNIDS[0] / "a.jpg").write_bytes(b"half an image")
    with pytest.raises(ValueError, match=r"a.jpg is not an image that Pillow reads"):
        list_imagenet_r(tmp_path).read([0])
