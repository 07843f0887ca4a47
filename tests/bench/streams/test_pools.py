"""Where frames come from: the same bytes with the cache and without, and what the cache survives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import pictures

from littoral.bench.streams import cifar, pools
from littoral.bench.streams.corruptions import corrupt
from littoral.bench.streams.pools import CorruptedPool, OfficialCifar10C

FRAMES, LABELS = pictures(12), np.arange(12) % 3
PLACES = np.array([7, 2, 2, 11])


def pool(cache: Path | None = None, seed: int = 4) -> CorruptedPool:
    return CorruptedPool(frames=FRAMES, labels=LABELS, seed=seed, cache=cache)


def test_a_place_has_the_same_bytes_in_any_company() -> None:
    whole = corrupt(FRAMES, "gaussian_noise", severity=2, seed=4)
    np.testing.assert_array_equal(pool().frames_of(PLACES, "gaussian_noise", 2), whole[PLACES])


def test_clean_frames_are_as_they_are() -> None:
    np.testing.assert_array_equal(pool().frames_of(PLACES, "clean", 5), FRAMES[PLACES])


def test_the_cache_changes_no_byte_and_serves_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pool().frames_of(PLACES, "fog", 3)
    np.testing.assert_array_equal(pool(tmp_path / "new").frames_of(PLACES, "fog", 3), expected)
    monkeypatch.setattr(pools, "corrupt", unreachable)
    np.testing.assert_array_equal(pool(tmp_path / "new").frames_of(PLACES, "fog", 3), expected)
    assert len(list((tmp_path / "new").iterdir())) == 1


def unreachable(*args: object, **kwargs: object) -> None:
    raise AssertionError("made again")


@pytest.mark.parametrize(
    "other",
    [
        lambda folder: pool(folder, seed=5).frames_of(PLACES, "fog", 3),
        lambda folder: pool(folder).frames_of(PLACES, "fog", 4),
        lambda folder: pool(folder).frames_of(PLACES, "snow", 3),
        lambda folder: CorruptedPool(
            frames=FRAMES, labels=LABELS, seed=4, constants="imagenet", cache=folder
        ).frames_of(PLACES, "fog", 3),
        lambda folder: CorruptedPool(frames=FRAMES[::-1], labels=LABELS, seed=4, cache=folder).frames_of(
            PLACES, "fog", 3
        ),
    ],
    ids=["seed", "severity", "name", "constants", "frames"],
)
def test_whatever_matters_is_in_the_key(tmp_path: Path, other: Callable[[Path], object]) -> None:
    pool(tmp_path).frames_of(PLACES, "fog", 3)
    other(tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY half"], ids=["empty", "cut off"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes) -> None:
    expected = pool(tmp_path).frames_of(PLACES, "fog", 3)
    (kept,) = tmp_path.glob("*.npy")
    kept.unlink()
    kept.write_bytes(damage)
    np.testing.assert_array_equal(pool(tmp_path).frames_of(PLACES, "fog", 3), expected)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(pools.np, "save", full)
    with pytest.raises(OSError, match="no space left"):
        pool(tmp_path).frames_of(PLACES, "fog", 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "labels", "says"),
    [
        (FRAMES / 255, LABELS, "frames are float64"),
        (FRAMES[0], LABELS, r"frames are uint8 \(32, 32, 3\)"),
        (FRAMES, LABELS[:5], r"labels are int64 \(5,\); expected one whole number for each of 12"),
        (FRAMES, LABELS / 2, "labels are float64"),
    ],
)
def test_a_source_of_another_form_is_refused(frames: np.ndarray, labels: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CorruptedPool(frames=frames, labels=labels)


def test_the_official_frames_are_a_source_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "PER_SEVERITY", 12)
    official = pictures(60, seed=9)
    np.save(tmp_path / "fog.npy", official)
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 5).astype(np.uint8))
    made = OfficialCifar10C(folder=tmp_path, frames=FRAMES, labels=LABELS)
    np.testing.assert_array_equal(made.frames_of(PLACES, "fog", 2), official[12 + PLACES])
    np.testing.assert_array_equal(made.frames_of(PLACES, "clean", 2), FRAMES[PLACES])
    other = OfficialCifar10C(folder=tmp_path, frames=FRAMES, labels=LABELS[::-1])
    with pytest.raises(ValueError, match="are not those given"):
        other.frames_of(PLACES, "fog", 2)
