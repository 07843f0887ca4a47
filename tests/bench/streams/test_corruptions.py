"""Every corruption at every severity with both constants: what holds for all of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from pictures import pictures

from littoral.bench.streams.corruptions import COMMON, EXTRA, SEVERITIES, ConstantsName, corrupt, corrupt_at
from littoral.core.arrays import Frame

ALL = COMMON + EXTRA
BOTH = pytest.mark.parametrize("constants", ["cifar", "imagenet"])
EACH = pytest.mark.parametrize("name", ALL)
RISING = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "defocus_blur", "gaussian_blur"),
    *("zoom_blur", "fog", "brightness", "contrast", "jpeg_compression"),
)
"""Where the published constants rise with severity; in the others they trade one number for another."""


@cache
def made(name: str, severity: int, constants: ConstantsName) -> Frame:
    return corrupt(pictures(12), name, severity=severity, seed=3, constants=constants)


def distance(name: str, severity: int, constants: ConstantsName) -> float:
    return float(np.sqrt(((made(name, severity, constants).astype(float) - pictures(12)) ** 2).mean()))


def test_there_are_fifteen_common_and_four_extra() -> None:
    assert (len(COMMON), len(EXTRA), len(set(ALL))) == (15, 4, 19)
    assert COMMON[0] == "gaussian_noise"
    assert COMMON[-1] == "jpeg_compression"


@BOTH
@EACH
def test_every_severity_keeps_the_form_and_changes_every_frame(name: str, constants: ConstantsName) -> None:
    before = pictures(12)
    for severity in SEVERITIES:
        frames = made(name, severity, constants)
        assert (frames.shape, frames.dtype) == (before.shape, np.uint8)
        changed = (frames != before).any(axis=(1, 2, 3))
        assert changed.mean() > (0.5 if name == "spatter" else 0.99), severity  # some lenses stay without a drop


@EACH
def test_the_callers_frames_stay_as_they_are(name: str) -> None:
    frames = pictures(3)
    corrupt(frames, name, severity=5, seed=0)
    np.testing.assert_array_equal(frames, pictures(3))


@BOTH
@EACH
def test_a_frame_does_not_depend_on_its_batch(name: str, constants: ConstantsName) -> None:
    for severity in (2, 5):  # spatter is water, then mud
        options = {"severity": severity, "seed": 3}
        frames, whole = pictures(12), made(name, severity, constants)
        first = corrupt(frames[:5], name, **options, constants=constants)
        rest = corrupt(frames[5:], name, **options, constants=constants, first_index=5)
        np.testing.assert_array_equal(np.concatenate([first, rest]), whole)
        some = corrupt_at(frames[[9, 2]], [9, 2], name, **options, constants=constants)
        np.testing.assert_array_equal(some, whole[[9, 2]])


def test_a_frame_does_not_depend_on_the_chunk_that_it_falls_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("littoral.bench.streams.corruptions._CHUNK_VALUES", 3 * 32 * 32 * 3)
    for name in ("gaussian_noise", "glass_blur", "fog", "spatter"):
        np.testing.assert_array_equal(corrupt(pictures(12), name, severity=4, seed=3), made(name, 4, "cifar"))


RANDOM = sorted(
    {*ALL}
    - {"defocus_blur", "gaussian_blur", "zoom_blur", "brightness", "contrast", "saturate", "pixelate"}
    - {"jpeg_compression"}
)


@pytest.mark.parametrize("name", RANDOM)
def test_another_seed_or_another_place_is_another_draw(name: str) -> None:
    same = np.repeat(pictures(1), 6, axis=0)
    frames = corrupt(same, name, severity=5, seed=0)
    assert (frames[0] != frames[1:]).any(axis=(1, 2, 3)).mean() > 0.6  # two angles may be one in whole pixels
    assert (corrupt(same, name, severity=5, seed=1) != frames).any(axis=(1, 2, 3)).mean() > 0.6


@BOTH
@pytest.mark.parametrize("name", RISING)
def test_a_higher_severity_is_further_away(name: str, constants: ConstantsName) -> None:
    distances = [distance(name, severity, constants) for severity in SEVERITIES]
    assert distances == sorted(distances)
    assert distances[4] > 1.2 * distances[0]


@BOTH
@pytest.mark.parametrize("name", sorted({*ALL} - {*RISING} - {"elastic_transform"}))
def test_high_severities_are_further_away_than_low_ones_on_the_whole(name: str, constants: ConstantsName) -> None:
    if (name, constants) == ("frost", "imagenet"):
        pytest.skip("its plates are coarser than these frames: one is all ice, the next has none")
    distances = [distance(name, severity, constants) for severity in SEVERITIES]
    assert distances[3] + distances[4] > distances[0] + distances[1]


@pytest.mark.parametrize("name", [*RISING, "snow", "motion_blur", "frost", "glass_blur"])
def test_the_constants_of_imagenet_are_the_stronger(name: str) -> None:
    assert distance(name, 5, "imagenet") > distance(name, 5, "cifar")


@pytest.mark.parametrize("name", ALL)
def test_frames_need_not_be_square_or_of_the_published_size(name: str) -> None:
    frames = pictures(2, side=48)[:, :40]
    assert corrupt(frames, name, severity=3, seed=0, constants="imagenet").shape == frames.shape


def test_no_frames_are_no_frames() -> None:
    assert corrupt(pictures(1)[:0], "fog", severity=1, seed=0).shape == (0, 32, 32, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "rain"}, "no corruption is called 'rain'; there are gaussian_noise"),
        ({"severity": 0}, "severity is 0; it goes from 1 to 5"),
        ({"severity": 6}, "severity is 6"),
        ({"constants": "coco"}, "constants are 'coco'"),
        ({"seed": -1}, "seed is -1"),
        ({"first_index": -1}, "first_index is -1"),
        ({"frames": pictures(2).astype(np.float32)}, r"frames are float32 \(2, 32, 32, 3\); .* uint8"),
        ({"frames": pictures(2)[..., :1]}, r"frames are uint8 \(2, 32, 32, 1\)"),
        ({"frames": pictures(2)[0]}, r"frames are uint8 \(32, 32, 3\)"),
        ({"frames": pictures(2)[:, :8]}, "frames are 8 x 32; corruptions take 16 x 16"),
        ({"frames": [1]}, "frames are list"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_done_is_refused(change: dict[str, object], says: str) -> None:
    arguments = {"frames": pictures(2), "name": "fog", "severity": 1, "seed": 0, **change}
    frames, name = arguments.pop("frames"), arguments.pop("name")
    with pytest.raises(ValueError, match=says):
        corrupt(frames, name, **arguments)  # type: ignore[arg-type]


def test_every_frame_has_one_place() -> None:
    with pytest.raises(ValueError, match="1 places for 2 frames"):
        corrupt_at(pictures(2), [0], "fog", severity=1, seed=0)
