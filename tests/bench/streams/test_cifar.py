"""The loaders of CIFAR-10 and of the official CIFAR-10-C: what is there is read right, what is not is told apart."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pictures import pictures
from PIL import Image

from littoral.bench.streams import cifar
from littoral.bench.streams.cifar import load_cifar10, load_cifar10_c
from littoral.core.arrays import Frame

LABELS = np.array([3, 8, 8, 0, 6, 6])


def mosaic(frames: Frame, per_row: int) -> np.ndarray:
    """The bytes of a lossless WebP with the frames as tiles, row by row."""
    rows = [np.concatenate(list(frames[i : i + per_row]), axis=1) for i in range(0, len(frames), per_row)]
    held = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(held, "WEBP", lossless=True)
    return np.frombuffer(held.getvalue(), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cifar10").mkdir()
    np.savez(tmp_path / "cifar10" / "test.npz", webp=mosaic(pictures(6), 3), labels=LABELS)
    np.savez(tmp_path / "cifar10" / "train.npz", frames=pictures(6), labels=LABELS)
    return tmp_path


def test_tiles_come_out_in_the_order_in_which_they_were_laid(folder: Path) -> None:
    for inside in (folder, folder / "cifar10"):
        frames, labels = load_cifar10(inside, "test")
        np.testing.assert_array_equal(frames, pictures(6))
        assert labels.tolist() == LABELS.tolist()
        assert labels.dtype == np.int64


def test_plain_frames_are_read_too(folder: Path) -> None:
    np.testing.assert_array_equal(load_cifar10(folder, "train")[0], pictures(6))


def test_the_authors_binary_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_PER_FILE", 6)
    (tmp_path / cifar.BINARY).mkdir()
    planes = pictures(6).transpose(0, 3, 1, 2).reshape(6, -1)
    record = np.concatenate([LABELS[:, None].astype(np.uint8), planes], axis=1).tobytes()
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (tmp_path / cifar.BINARY / f"{name}.bin").write_bytes(record)
    frames, labels = load_cifar10(tmp_path, "test")
    np.testing.assert_array_equal(frames, pictures(6))
    assert labels.tolist() == LABELS.tolist()
    assert load_cifar10(tmp_path, "train")[0].shape == (30, 32, 32, 3)
    (tmp_path / cifar.BINARY / "data_batch_3.bin").write_bytes(record[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3.bin has 18437 bytes, not those of 6 frames"):
        load_cifar10(tmp_path, "train")


def test_a_missing_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is no folder.*littoral data list"):
        load_cifar10(tmp_path / "nowhere", "test")
    with pytest.raises(ValueError, match=r"has no cifar10/test.npz"):
        load_cifar10(tmp_path, "test")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"labels": LABELS}, r"its arrays are \['labels'\]; expected"),
        ({"labels": LABELS[:4], "webp": mosaic(pictures(6), 3)}, r"uint8 \(6, 32, 32, 3\) for 4 labels"),
        ({"labels": LABELS, "frames": pictures(6) / 255}, "its frames are float64"),
        ({"labels": LABELS, "webp": mosaic(pictures(6)[:, :31], 3)}, "not a whole number of tiles"),
        ({"labels": LABELS, "webp": np.arange(50, dtype=np.uint8)}, "is not CIFAR-10 as we read it"),
        ({"labels": np.array([None] * 6), "frames": pictures(6)}, "is not CIFAR-10 as we read it"),  # a pickle
    ],
    ids=["no frames", "too few labels", "floats", "odd mosaic", "no image", "pickled"],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "test.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        load_cifar10(tmp_path, "test")


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.npz").write_bytes(b"not found")
    with pytest.raises(ValueError, match=r"test.npz is not CIFAR-10"):
        load_cifar10(tmp_path, "test")


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split is 'val'"):
        load_cifar10(tmp_path, "val")  # type: ignore[arg-type]


@pytest.fixture
def corrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like CIFAR-10-C with 6 frames to a severity."""
    monkeypatch.setattr(cifar, "PER_SEVERITY", 6)
    (tmp_path / "CIFAR-10-C").mkdir()
    np.save(tmp_path / "CIFAR-10-C" / "fog.npy", pictures(30))
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", np.tile(LABELS, 5).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("severity", [1, 4, 5])
def test_a_severity_is_its_sixth_of_the_official_array(corrupted: Path, severity: int) -> None:
    for inside in (corrupted, corrupted / "CIFAR-10-C"):
        frames, labels = load_cifar10_c(inside, "fog", severity=severity)
        np.testing.assert_array_equal(frames, pictures(30)[6 * (severity - 1) : 6 * severity])
        assert labels.tolist() == LABELS.tolist()
        assert labels.dtype == np.int64


def test_official_arrays_of_another_kind_are_refused(corrupted: Path) -> None:
    folder = corrupted / "CIFAR-10-C"
    np.save(folder / "snow.npy", pictures(29))
    np.save(folder / "frost.npy", pictures(30).astype(np.int16))
    (folder / "blur.npy").write_bytes(b"")
    for name, says in {
        "snow": r"snow.npy holds uint8 \(29, 32, 32, 3\); CIFAR-10-C has uint8 \(30, 32, 32, 3\)",
        "frost": "frost.npy holds int16",
        "blur": "blur.npy cannot be read as .npy",
        "rain": "has no CIFAR-10-C/rain.npy",
    }.items():
        with pytest.raises(ValueError, match=says):
            load_cifar10_c(corrupted, name, severity=1)
    with pytest.raises(ValueError, match="severity is 6"):
        load_cifar10_c(corrupted, "fog", severity=6)
