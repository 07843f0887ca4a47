"""What leaves the device is what the camera gave, in as few bytes as a lossless coding takes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from littoral.bundle import images
from littoral.bundle.images import encode_image
from littoral.core.arrays import Frame
from littoral.edge.device_config import DeviceConfig


def smooth(channels: int, side: int = 32) -> Frame:
    y, x = np.mgrid[:side, :side]
    return np.stack([(3 * x + 2 * y + 40 * c) % 256 for c in range(channels)], axis=2).astype(np.uint8)


def noise(channels: int) -> Frame:
    return np.random.default_rng(0).integers(0, 256, (32, 32, channels), dtype=np.uint8)


def decoded(coding: str, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    if coding == "raw":
        return np.frombuffer(data, np.uint8).reshape(shape)
    with Image.open(io.BytesIO(data), formats=[coding.upper()]) as image:
        return np.asarray(image).reshape(shape)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("make", [smooth, noise], ids=["smooth", "noise"])
@pytest.mark.parametrize("coding", ["lossless", "raw", "png", "webp"])
def test_what_is_coded_without_loss_comes_back_bit_by_bit_and_is_never_larger_than_raw(
    channels: int, make: object, coding: str
) -> None:
    frame: Frame = make(channels)  # type: ignore[operator]
    name, data = encode_image(frame, coding)
    np.testing.assert_array_equal(decoded(name, data, frame.shape), frame)
    assert len(data) <= frame.nbytes


def test_the_smallest_wins() -> None:
    frame = smooth(3)
    sizes = {coding: len(encode_image(frame, coding)[1]) for coding in ("raw", "png", "webp")}
    name, data = encode_image(frame)
    assert len(data) == sizes[name] == min(sizes.values())
    assert name != "raw"
    assert encode_image(noise(3))[0] == "raw"
    assert encode_image(smooth(1))[0] == "png"


def test_without_webp_in_pillow_it_is_png(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.features, "check", lambda feature: False)
    images.has_webp.cache_clear()
    try:
        assert [encode_image(smooth(3), coding)[0] for coding in ("lossless", "webp", "webp-80")] == ["png"] * 3
    finally:
        images.has_webp.cache_clear()


def test_a_view_of_a_larger_array_is_coded_like_its_copy() -> None:
    frame = smooth(3, side=64)[::2, 10:42]
    assert encode_image(frame) == encode_image(frame.copy())


@pytest.mark.parametrize(("coding", "name"), [("webp-80", "webp"), ("jpeg-90", "jpeg")])
def test_a_lossy_coding_is_smaller_and_near_and_only_for_colour(coding: str, name: str) -> None:
    y, x = np.mgrid[:64, :64]
    photo = (128 + 60 * np.sin(x / 9) + 40 * np.cos(y / 7))[..., None] + np.array([0, 10, 20])
    frame = np.clip(photo + np.random.default_rng(0).normal(0, 4, photo.shape), 0, 255).astype(np.uint8)
    found, data = encode_image(frame, coding)
    assert found == name
    assert len(data) < len(encode_image(frame)[1]) / 2
    assert np.abs(decoded(found, data, frame.shape).astype(int) - frame).mean() < 6
    assert encode_image(smooth(1), coding)[0] == "png"


@pytest.mark.parametrize("wrong", ["", "gif", "jpeg", "webp-0", "webp-101", "jpeg-090", "PNG", "webp-80 "])
def test_a_coding_that_there_is_not_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="a picture is coded as 'lossless'"):
        DeviceConfig(uplink_coding=wrong)
