"""The bundle's source world: there in a new bundle, not missed in an old one, refused where it does not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from littoral.bundle import Bundle
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.errors import BundleError


def changed(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    """The bundle with another source world, listed with its right hash."""
    path = folder / "bundle.json"
    raw = json.loads(path.read_text())
    name, data = raw["statistics"]["source_world_file"], save(tensors)
    (folder / name).write_bytes(data)
    raw["files"][name] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(raw))
    return folder


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_the_source_world_has_a_row_for_each_class_and_its_own_frames_are_near(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    world = bundle.source_world
    assert world is not None
    assert world.mean_KC.shape == (bundle.manifest.num_classes, min(world.layer.num_channels, 64))
    with Device(bundle, config=DeviceConfig(statistics_batch_frames=32, statistics_stride_frames=1)) as device:
        for frame in np.concatenate([bundle.probe[0]] * 2):
            device.infer(frame)
        device.settle()
        assert device.status().near_source


def test_a_bundle_of_before_there_was_one_is_served_by_the_devices_own_statistics(copied: Path) -> None:
    path = copied / "bundle.json"
    raw = json.loads(path.read_text())
    del raw["files"][raw["statistics"].pop("source_world_file")]
    path.write_text(json.dumps(raw))
    bundle = Bundle.open(copied)
    assert bundle.source_world is None
    with Device(bundle, config=DeviceConfig(statistics_batch_frames=32, statistics_stride_frames=1)) as device:
        for frame in np.concatenate([bundle.probe[0]] * 2):
            device.infer(frame)
        device.settle()
        status = device.status()
    assert (status.near_source, status.looked_frames) == (False, 0)
    assert status.measured_frames > 0


def test_one_of_other_classes_is_refused(copied: Path) -> None:
    world = Bundle.open(copied).source_world
    assert world is not None
    fewer = dataclasses.replace(world, mean_KC=world.mean_KC[:-1])
    with pytest.raises(BundleError, match=r"source_world.safetensors: .* build the bundle again"):
        Bundle.open(changed(copied, fewer.tensors()))


def test_one_of_a_type_that_numpy_does_not_have_is_refused(copied: Path) -> None:
    path = copied / "bundle.json"
    raw = json.loads(path.read_text())
    header = json.dumps({"mean": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(2)
    name = raw["statistics"]["source_world_file"]
    (copied / name).write_bytes(data)
    raw["files"][name] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError, match="build the bundle again"):
        Bundle.open(copied)


def test_a_file_that_is_not_listed_is_refused(copied: Path) -> None:
    path = copied / "bundle.json"
    raw = json.loads(path.read_text())
    raw["statistics"]["source_world_file"] = "elsewhere.safetensors"
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=r"source_world_file is 'elsewhere.safetensors', expected a listed file"):
        Bundle.open(copied)
